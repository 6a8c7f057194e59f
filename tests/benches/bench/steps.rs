//! The workloads. They build on each other's files, in this order, within one
//! round; each returns how many operations it did.

use crate::map::sum_pages;
use crate::measure::Plan;
use rustix::fs::{self, AtFlags, CWD, Mode, StatxFlags, Timespec, Timestamps, XattrFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where one round works on one target; removed at its end.
pub(crate) struct Work {
    dir: tempfile::TempDir,
    files: usize,
    bytes: usize,
}

impl Work {
    pub(crate) fn new(target: &Path, plan: &Plan) -> Result<Work, String> {
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(target);
        let dir = dir.map_err(|e| format!("{}: {e}", target.display()))?;
        for sub in ["empty", "full", "links", "many"] {
            std::fs::create_dir(dir.path().join(sub)).map_err(|e| format!("{}: {e}", target.display()))?;
        }
        Ok(Work { dir, files: plan.files, bytes: plan.mebibytes << 20 })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn each(&self, sub: &str, mut act: impl FnMut(&Path) -> io::Result<()>) -> io::Result<usize> {
        // The path is changed in place: the client's own work should not count.
        let dir = self.at(sub);
        for index in 0..self.files {
            act(&dir.join(format!("f{index:06}")))?;
        }
        Ok(self.files)
    }
}

type Act = fn(&Work) -> io::Result<usize>;

/// One row of the table.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    /// Not timed.
    pub(crate) prepare: Option<Act>,
    pub(crate) run: Act,
}

const fn step(name: &'static str, run: Act) -> Step {
    Step { name, prepare: None, run }
}

const fn after(name: &'static str, prepare: Act, run: Act) -> Step {
    Step { name, prepare: Some(prepare), run }
}

/// Names in a directory for `ls -l`.
const MANY: usize = 10_000;
/// Random reads and writes.
const RANDOM: usize = 4000;

/// All of them.
pub(crate) const STEPS: &[Step] = &[
    step("create_empty", |w| w.each("empty", |p| File::create_new(p).map(drop))),
    step("create_4k", |w| w.each("full", |p| File::create_new(p)?.write_all(&[7; 4096]))),
    after("stat_warm", |w| w.each("full", stat), |w| w.each("full", stat)),
    step("stat_sync", |w| w.each("full", stat_sync)),
    step("stat_missing", |w| w.each("links", stat_missing)),
    step("open_read_close", |w| w.each("full", |p| read_all(p).map(drop))),
    step("append", |w| w.each("full", |p| File::options().append(true).open(p)?.write_all(&[8; 100]))),
    step("chmod", |w| w.each("full", |p| Ok(fs::chmod(p, Mode::from_bits_truncate(0o640))?))),
    step("chown", |w| w.each("full", |p| Ok(fs::chownat(CWD, p, None, Some(rustix::process::getgid()), AtFlags::SYMLINK_NOFOLLOW)?))),
    step("utimens", |w| w.each("full", set_times)),
    step("setxattr", |w| w.each("full", |p| Ok(fs::lsetxattr(p, "user.bench", b"value", XattrFlags::empty())?))),
    step("getxattr", |w| w.each("full", |p| fs::lgetxattr(p, "user.bench", &mut [0u8; 64][..]).map(drop).map_err(Into::into))),
    step("rename", |w| w.each("full", |p| std::fs::rename(p, p.with_extension("r")).and_then(|()| std::fs::rename(p.with_extension("r"), p)))),
    step("link", |w| w.each("full", |p| std::fs::hard_link(p, w.at("links").join(p.file_name().unwrap_or_default())))),
    step("unlink", |w| w.each("links", |p| std::fs::remove_file(p))),
    step("mkdir", |w| w.each("links", |p| std::fs::create_dir(p))),
    step("rmdir", |w| w.each("links", |p| std::fs::remove_dir(p))),
    after("readdir_10000", make_many, |w| list(w, false)),
    step("ls_l_10000", |w| list(w, true)),
    after("ls_l_10000_cold", drop_caches, |w| list(w, true)),
    after("stat_cold", drop_caches, |w| w.each("full", stat)),
    step("seq_write_MiB", seq_write),
    step("seq_read_warm_MiB", seq_read),
    step("mmap_read_warm_MiB", map_read),
    after("seq_read_cold_MiB", drop_caches, seq_read),
    step("rand_read_4k", |w| random(w, |f, at| f.read_exact_at(&mut [0; 4096], at))),
    step("rand_write_4k", |w| random(w, |f, at| f.write_all_at(&[9; 4096], at))),
    step("tree_copy_in", |w| command(Command::new("cp").arg("-r").arg(source_tree()?).arg(w.at("tree")))),
    step("tree_find_ls", |w| command(Command::new("find").arg(w.at("tree")).arg("-ls"))),
    step("tree_grep_r", |w| command(Command::new("grep").args(["-r", "-c", "needle"]).arg(w.at("tree")))),
    step("tree_rm_rf", |w| command(Command::new("rm").arg("-rf").arg(w.at("tree")))),
    step("unlink_empty", |w| w.each("empty", |p| std::fs::remove_file(p))),
];

fn stat(path: &Path) -> io::Result<()> {
    path.symlink_metadata().map(drop)
}

fn stat_sync(path: &Path) -> io::Result<()> {
    // What make(1) and git need: an answer from the server, not from a cache.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
    Ok(fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS).map(drop)?)
}

fn stat_missing(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.and(Err(io::Error::other("it exists"))),
    }
}

fn read_all(path: &Path) -> io::Result<usize> {
    let mut buffer = [0; 8192];
    let mut file = File::open(path)?;
    let mut total = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(total),
            count => total += count,
        }
    }
}

fn set_times(path: &Path) -> io::Result<()> {
    let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 5 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn make_many(work: &Work) -> io::Result<usize> {
    for index in 0..MANY {
        File::create_new(work.at("many").join(format!("name-{index:05}")))?;
    }
    Ok(MANY)
}

fn list(work: &Work, stat: bool) -> io::Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(work.at("many"))? {
        let entry = entry?;
        if stat {
            entry.metadata()?;
        }
        count += 1;
    }
    if count == MANY { Ok(count) } else { Err(io::Error::other(format!("listed {count} of {MANY} names"))) }
}

fn drop_caches(_: &Work) -> io::Result<usize> {
    rustix::fs::sync();
    // Only root may; without it the cold steps are warm ones, and say so.
    if std::fs::write("/proc/sys/vm/drop_caches", "3").is_err() {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| eprintln!("caches cannot be dropped without root: the cold steps are warm"));
    }
    Ok(0)
}

fn seq_write(work: &Work) -> io::Result<usize> {
    let block = vec![5u8; 1 << 20];
    let mut file = File::create(work.at("big"))?;
    for _ in 0..work.bytes >> 20 {
        file.write_all(&block)?;
    }
    Ok(work.bytes >> 20)
}

fn seq_read(work: &Work) -> io::Result<usize> {
    let mut block = vec![0u8; 1 << 20];
    let mut file = File::open(work.at("big"))?;
    let mut total = 0;
    loop {
        match file.read(&mut block)? {
            0 => break,
            count => total += count,
        }
    }
    if total == work.bytes { Ok(total >> 20) } else { Err(io::Error::other(format!("read {total} bytes of {}", work.bytes))) }
}

fn map_read(work: &Work) -> io::Result<usize> {
    sum_pages(&File::open(work.at("big"))?, work.bytes).map(|_| work.bytes >> 20)
}

fn random(work: &Work, act: impl Fn(&File, u64) -> io::Result<()>) -> io::Result<usize> {
    let file = File::options().read(true).write(true).open(work.at("big"))?;
    let pages = (work.bytes / 4096) as u64;
    // A fixed sequence: every target is asked the same.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..RANDOM {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        act(&file, state % pages * 4096)?;
    }
    Ok(RANDOM)
}

/// Counts as one operation: what a user waits for.
fn command(command: &mut Command) -> io::Result<usize> {
    let done = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    // grep exits with 1 when it finds nothing; that would be a mistake here.
    if done.success() { Ok(1) } else { Err(io::Error::other(format!("{command:?}: {done}"))) }
}

/// A tree shaped like a source tree: 2000 files in 130 directories, most of
/// them small. Made once, outside every target.
fn source_tree() -> io::Result<PathBuf> {
    static TREE: std::sync::OnceLock<Result<tempfile::TempDir, String>> = std::sync::OnceLock::new();
    let tree = TREE.get_or_init(|| make_tree().map_err(|e| e.to_string()));
    tree.as_ref().map(|dir| dir.path().join("tree")).map_err(|e| io::Error::other(e.clone()))
}

fn make_tree() -> io::Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    for index in 0..2000usize {
        let parent = dir.path().join(format!("tree/part{}/module{}", index % 10, index % 130));
        std::fs::create_dir_all(&parent)?;
        let size = [300, 900, 2500, 2500, 6000, 9000, 20_000, 70_000][index % 8];
        let line = format!("line of file {index}: {}\n", if index % 50 == 0 { "needle" } else { "hay" });
        let text: String = line.chars().cycle().take(size).collect();
        std::fs::write(parent.join(format!("file{index}.txt")), text)?;
    }
    Ok(dir)
}
