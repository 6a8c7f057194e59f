//! The catalog of a humfs tree: what keeping it costs, and what it answers,
//! next to find(1) on the same mount in the same run.

mod archive;

use crate::fault::{Naming, Result, fault};
use crate::record::{load, median};
use externfs_catalog::barrier::{self, Standing};
use externfs_tests::fixture::Mount;
use externfs_tests::humtree::{HumTree, TOTAL};
use externfs_tests::machine::processes::descendants;
use humfs::store::Format;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Mode, OFlags};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Longest that a scan may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// How often a query is timed.
const REPEATS: usize = 21;

/// What the user chose.
pub(crate) struct Choice {
    /// Rounds of changes.
    pub(crate) rounds: u32,
    /// Files that are changed in each, and files of the tree that is queried.
    pub(crate) files: (usize, usize),
}

/// Measures and prints.
pub(crate) fn run(choice: &Choice) -> Result<()> {
    println!("load {}", load());
    upkeep(choice.rounds, choice.files.0)?;
    under_attack()?;
    answers(choice.files.1)?;
    println!("load {}", load());
    Ok(())
}

type Deed = (&'static str, fn(&Path, usize) -> std::io::Result<()>);

/// In this order, each on what the one before has left.
const DEEDS: [Deed; 4] = [
    ("create", |dir, number| {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::open(dir.join(format!("f{number}")), flags, Mode::from_raw_mode(0o644)).map(drop).map_err(Into::into)
    }),
    ("chmod", |dir, number| fs::set_permissions(dir.join(format!("f{number}")), std::os::unix::fs::PermissionsExt::from_mode(0o4711))),
    ("rename", |dir, number| fs::rename(dir.join(format!("f{number}")), dir.join(format!("g{number}")))),
    ("unlink", |dir, number| fs::remove_file(dir.join(format!("g{number}")))),
];

/// Changes with a catalog against changes without one, each round both.
fn upkeep(rounds: u32, files: usize) -> Result<()> {
    let trees = [HumTree::new(Format::Xattr, TOTAL), HumTree::new(Format::Xattr, TOTAL)];
    let mounts = [trees[0].mount("catalog=off"), trees[1].mount("catalog=on")];
    wait(&trees[1])?;
    let mut times: [[Vec<f64>; 2]; DEEDS.len()] = Default::default();
    for round in 0..=rounds {
        for mount in &mounts {
            fs::create_dir(mount.path().join(format!("r{round}"))).naming("mkdir")?;
        }
        for (deed, (_, act)) in DEEDS.iter().enumerate() {
            for turn in 0..2 {
                let which = (turn + deed + round as usize) % 2;
                let dir = mounts[which].path().join(format!("r{round}"));
                let begun = Instant::now();
                for number in 0..files {
                    act(&dir, number).naming(dir.display())?;
                }
                // The first one warms everything up.
                if round > 0 {
                    times[deed][which].push(begun.elapsed().as_secs_f64() * 1e6 / files as f64);
                }
            }
        }
    }
    println!("\n## What it costs: xattr format, {files} files, {rounds} rounds, microseconds a change\n");
    println!("| change | catalog=off | catalog=on | on/off |\n|---|---|---|---|");
    for ((name, _), [off, on]) in DEEDS.iter().zip(&times) {
        let ratios: Vec<f64> = on.iter().zip(off).map(|(on, off)| on / off).collect();
        let middle = |values: &[f64]| median(values).unwrap_or_default();
        println!("| {name} | {:.1} | {:.1} | {:.3} |", middle(off), middle(on), middle(&ratios));
    }
    for mount in mounts {
        mount.finish();
    }
    Ok(())
}

/// Does not end by itself.
const RUNAWAY: &str = "with recursive c(x) as (select 1 union all select x + 1 from c) select max(x) from c";

/// Milliseconds that it may run.
const RUNAWAY_MS: u64 = 8000;

/// What changes cost while queries over the catalog of the same tree take all that
/// they may, two at a time.
fn under_attack() -> Result<()> {
    const FILES: usize = 300;
    let tree = HumTree::new(Format::Xattr, TOTAL);
    let mount = tree.mount("");
    wait(&tree)?;
    let query = Mount::sqlfs(&tree.path(), &format!("time={RUNAWAY_MS},running=2"));
    let mut times: [[Vec<f64>; 2]; DEEDS.len()] = Default::default();
    std::thread::scope(|scope| {
        let begun = Instant::now();
        let mut runaways = Vec::new();
        for round in 0.. {
            let attacked = usize::from(!runaways.is_empty());
            if attacked == 1 && begun.elapsed() > Duration::from_millis(RUNAWAY_MS) {
                break;
            }
            let dir = mount.path().join(format!("a{round}"));
            fs::create_dir(&dir).naming("mkdir")?;
            for (deed, (_, act)) in DEEDS.iter().enumerate() {
                for number in 0..FILES {
                    let begun = Instant::now();
                    act(&dir, number).naming(dir.display())?;
                    times[deed][attacked].push(begun.elapsed().as_secs_f64() * 1e6);
                }
            }
            // As long without them as with them.
            if attacked == 0 && begun.elapsed() > Duration::from_millis(RUNAWAY_MS / 2) {
                for column in ["a", "b"] {
                    let path = query.path().join(format!("{RUNAWAY} -- {column}"));
                    runaways.push(scope.spawn(move || fs::read(path).map_err(|error| error.raw_os_error())));
                }
                std::thread::sleep(Duration::from_millis(300));
            }
        }
        for runaway in runaways {
            let ended = runaway.join().unwrap_or(Ok(Vec::new()));
            if ended != Err(Some(rustix::io::Errno::TIME.raw_os_error())) {
                return fault(format!("a query that does not end has ended: {ended:?}"));
            }
        }
        Ok(())
    })?;
    println!(
        "\n## Changes beside two queries that do not end, microseconds\n\n| change | median alone | beside | times | 99 of 100 alone | beside |\n|---|---|---|---|---|---|"
    );
    for ((name, _), [alone, beside]) in DEEDS.iter().zip(&mut times) {
        let at = |values: &mut Vec<f64>, part: usize| {
            values.sort_by(f64::total_cmp);
            values.get(values.len() * part / 100).copied().unwrap_or_default()
        };
        let (middle, high) = ([at(alone, 50), at(beside, 50)], [at(alone, 99), at(beside, 99)]);
        println!("| {name} | {:.1} | {:.1} | {:.2} | {:.1} | {:.1} |", middle[0], middle[1], middle[1] / middle[0], high[0], high[1]);
    }
    query.finish();
    mount.finish();
    Ok(())
}

/// Waits until the catalog is current; how long that took.
fn wait(tree: &HumTree) -> Result<Duration> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        match barrier::flush(&tree.at("humfs/catalog"), PATIENCE).naming("asking the server")? {
            Some(Standing::Current) => return Ok(begun.elapsed()),
            Some(Standing::Failed(why)) => return fault(why),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    fault("the catalog is not made")
}

/// What the server and who watches over it have had in memory at most, in MiB.
fn peak(mount: &Mount) -> u64 {
    let family = std::iter::once(mount.server.id()).chain(descendants(mount.server.id()));
    let peak = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse::<u64>().ok()
    };
    family.filter_map(peak).max().unwrap_or_default() >> 10
}

fn answers(files: usize) -> Result<()> {
    println!("\n## What it answers: {files} files\n");
    let begun = Instant::now();
    let tree = archive::tree(files)?;
    println!("tree made in {:.1} s", begun.elapsed().as_secs_f64());
    let mount = tree.mount("");
    let scanned = wait(&tree)?;
    println!(
        "first scan {:.2} s, {:.0} files/s; server at most {} MiB",
        scanned.as_secs_f64(),
        files as f64 / scanned.as_secs_f64(),
        peak(&mount)
    );
    mount.finish();
    let mount = tree.mount("");
    println!("mounted anew: current after {:.3} s, server {} MiB", wait(&tree)?.as_secs_f64(), peak(&mount));
    mount.finish();
    fs::remove_file(tree.at("humfs/catalog/current")).naming("the marker")?;
    let mount = tree.mount("");
    println!("made anew after a death: {:.2} s", wait(&tree)?.as_secs_f64());
    let size = fs::metadata(tree.at("humfs/catalog/catalog.db")).naming("the catalog")?.len();
    println!("catalog {} MiB, {} bytes a file", size >> 20, size / files.max(1) as u64);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(tree.at("humfs/catalog/catalog.db"), flags).naming("the catalog")?;
    compare(&conn, mount.path())?;
    drop(conn);
    mount.finish();
    Ok(())
}

/// Each question to both.
fn compare(conn: &Connection, mount: &Path) -> Result<()> {
    // Warm for both.
    command(mount, "find . >/dev/null")?;
    println!("\n| question | SQL ms | find ms | times |\n|---|---|---|---|");
    let questions = [
        ("setuid", "SELECT substr(name, 2) FROM root_fs WHERE setuid = 1", "find . -perm -4000 | sed 's/^..//'"),
        (
            "usage by uid",
            "SELECT id || ' ' || bytes FROM root_usage WHERE kind = 'user'",
            "find . -printf '%U %b\\n' | awk '{ sum[$1] += $2 * 512 } END { for (uid in sum) print uid, sum[uid] }'",
        ),
        (
            "full scan",
            "SELECT count(*) FROM root_inodes WHERE mtime > 1000000000 AND size < 100 AND type = 'f'",
            "find . -type f -newermt @1000000000 -size -100c | wc -l",
        ),
    ];
    for (name, sql, line) in questions {
        let (said, sql_time) = query(conn, sql)?;
        let begun = Instant::now();
        let told = command(mount, line)?;
        let find_time = begun.elapsed().as_secs_f64() * 1e3;
        if said != told {
            return fault(format!("{name}: SQL says {} lines, find {}, and they differ", said.len(), told.len()));
        }
        println!("| {name} | {sql_time:.3} | {find_time:.1} | {:.0} |", find_time / sql_time);
    }
    Ok(())
}

/// Sorted lines, and milliseconds.
fn query(conn: &Connection, sql: &str) -> Result<(Vec<String>, f64)> {
    let mut statement = conn.prepare(sql).naming(sql)?;
    let mut times = Vec::new();
    let mut lines = Vec::new();
    for _ in 0..REPEATS {
        let begun = Instant::now();
        let text = |row: &rusqlite::Row<'_>| {
            let value = row.get_ref(0)?;
            Ok(value.as_str().map(str::to_owned).or_else(|_| value.as_i64().map(|number| number.to_string()))?)
        };
        let rows = statement.query_map([], text).naming(sql)?.collect::<rusqlite::Result<Vec<String>>>();
        lines = rows.naming(sql)?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    lines.sort_unstable();
    Ok((lines, median(&times).unwrap_or_default()))
}

fn command(dir: &Path, line: &str) -> Result<Vec<String>> {
    let done = Command::new("sh").args(["-ec", line]).current_dir(dir).output().naming(line)?;
    if !done.status.success() {
        return fault(format!("{line}: {}", String::from_utf8_lossy(&done.stderr)));
    }
    let mut lines: Vec<String> = String::from_utf8_lossy(&done.stdout).lines().map(str::to_owned).collect();
    lines.sort_unstable();
    Ok(lines)
}
