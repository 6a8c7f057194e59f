//! humfs killed at each step of each change and of each recovery, killed at
//! random under load, and its host's power cut, in each metadata format.
//!
//! `EXTERNFS_TEST_CASES=17` makes more than 1,000 random kills and more than 50
//! power cuts, and kills at every system call instead of at those that change
//! something; `EXTERNFS_TEST_DEED` tries only the deeds whose names
//! contain it; `EXTERNFS_TEST_SEED` repeats a load.

use externfs::{Caller, DeviceNumber, FileKind, GuestGid, GuestUid, Mode, NewNode, NodeId, RenameFlags, SetAttr};
use externfs_tests::deed::Deed;
use externfs_tests::fixture::{DiskFormat, LoopFs};
use externfs_tests::guest::{Guest, name};
use externfs_tests::harness::Case;
use externfs_tests::load::{self, Load};
use externfs_tests::mortal::{self, End, Fate};
use externfs_tests::power::{self, PowerCut};
use externfs_tests::realm::Realm;
use externfs_tests::relapse::{self, Relapse};
use externfs_tests::trial::{self, Trial, Verdict, Which};
use externfs_tests::{fixture, harness, random, shutdown};
use humfs::store::Format;
use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::Duration;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [trial::PERFORM, ..] => performed(trial::perform(&words[1..])),
        [relapse::MOUNT, ..] => performed(relapse::mount(&words[1..])),
        [load::LOAD, ..] => performed(load::run(&words[1..])),
        [power::LOAD, ..] => performed(power::run(&words[1..])),
        [TWO_THREADS, dir] => performed(two_threads(Path::new(dir)).map_err(|error| error.to_string())),
        _ => {
            let mut cases = externfs_tests::cases![the_axe_falls_where_it_should, the_axe_falls_in_every_thread];
            cases.push(Case::new("a_stale_record_is_not_inherited", a_stale_record_is_not_inherited));
            cases.push(Case::new("a_power_cut_soon_after_a_mount_is_noticed", a_power_cut_soon_after_a_mount_is_noticed));
            for format in Format::ALL {
                let name = format!("every_step_leaves_old_or_new_{}", format.name());
                cases.push(Case::new(name, move || every_step_leaves_old_or_new(format)).limit(3600));
                let name = format!("what_was_answered_stays_{}", format.name());
                cases.push(Case::new(name, move || what_was_answered_stays(format)).limit(3600));
                let name = format!("a_recovery_that_is_cut_short_is_recovered_{}", format.name());
                cases.push(Case::new(name, move || a_recovery_that_is_cut_short_is_recovered(format)).limit(3600));
                for (crowded, how) in [(false, ""), (true, "_of_a_crowd")] {
                    let name = format!("a_synced_directory_has_its_records{how}_{}", format.name());
                    cases.push(Case::new(name, move || a_synced_directory_has_its_records(format, crowded)));
                }
                let name = format!("random_kills_lose_nothing_{}", format.name());
                cases.push(Case::new(name, move || random_kills_lose_nothing(format)).limit(3600));
                for disk in [DiskFormat::Ext4, DiskFormat::Xfs] {
                    let name = format!("power_cuts_spare_what_was_synced_{}_on_{}", format.name(), disk.name());
                    cases.push(Case::new(name, move || power_cuts_spare_what_was_synced(format, disk)).limit(3600));
                }
            }
            cases.push(Case::new("an_ordinary_users_server_dies_as_well", an_ordinary_users_server_dies_as_well).limit(3600));
            harness::main(cases)
        }
    }
}

/// This program is its own victim.
fn performed(result: Result<(), String>) -> ExitCode {
    let Err(why) = result else { return ExitCode::SUCCESS };
    eprintln!("{why}");
    ExitCode::FAILURE
}

/// On hostfs, where each of these is one system call: before it the old state
/// is seen at every step, after it the new one at every step.
fn the_axe_falls_where_it_should() {
    let dir = fixture::memory_dir();
    for (name, call) in [("unlink", "unlinkat"), ("rename", "renameat2"), ("rmdir", "unlinkat"), ("exchange-dirs", "renameat2")] {
        let deed = Deed::named(name).unwrap();
        let verdict = Trial { realm: Realm::HostFs, deed, dir: dir.path() }.run(Which::All);
        assert_eq!(verdict.violations, Vec::<String>::new(), "{name}");
        let first_new = verdict.is_new.iter().position(|&new| new).unwrap();
        assert!(verdict.is_new[first_new..].iter().all(|&new| new), "{name}: old again: {verdict:?}");
        assert_eq!(verdict.calls[first_new], format!("after {call}"), "{name}: {verdict:?}");
        assert_eq!(verdict.calls[first_new - 1], format!("before {call}"), "{name}: {verdict:?}");
    }
}

const TWO_THREADS: &str = "two-threads";

/// The other thread makes `a`, then this one makes `b`.
fn two_threads(dir: &Path) -> std::io::Result<()> {
    mortal::submit();
    let (start, started) = std::sync::mpsc::channel();
    let path = dir.join("a");
    let other = std::thread::spawn(move || started.recv().map(|()| std::fs::File::create(path)));
    mortal::mark();
    start.send(()).expect("the other thread waits");
    other.join().expect("the other thread").expect("its start")?;
    std::fs::File::create(dir.join("b"))?;
    mortal::mark();
    Ok(())
}

/// One of the calls of [`two_threads`], and which files are there.
type Moment = (String, [bool; 2]);

fn moments(fate: fn(usize) -> Fate) -> Vec<Moment> {
    let mut seen = Vec::new();
    for step in 1.. {
        let dir = fixture::temp_dir();
        let mut command = Command::new("/proc/self/exe");
        let end = mortal::live(command.arg(TWO_THREADS).arg(dir.path()), fate(step));
        let made = ["a", "b"].map(|name| dir.path().join(name).exists());
        match end {
            End::Killed(call) => seen.push((call, made)),
            End::Done(_) => {
                assert_eq!(made, [true, true]);
                break;
            }
            End::Failed(why) => panic!("step {step}: {why}"),
        }
    }
    seen
}

fn the_axe_falls_in_every_thread() {
    // Both sides of the call in both threads. Which step is whose differs
    // from run to run, so one pass over the steps may miss one of them.
    let wanted = [("before", [false, false]), ("after", [true, false]), ("before", [true, false]), ("after", [true, true])];
    let wanted = wanted.map(|(side, made)| (format!("{side} openat"), made));
    let mut seen = Vec::new();
    for _ in 0..50 {
        seen.extend(moments(Fate::Step));
        seen.extend(moments(Fate::Other));
        if wanted.iter().all(|moment| seen.contains(moment)) {
            break;
        }
    }
    assert!(wanted.iter().all(|moment| seen.contains(moment)), "{wanted:?} are not all in {seen:?}");
    for never in [("after openat", [false, false]), ("before openat", [true, true])] {
        assert!(!seen.contains(&(never.0.to_owned(), never.1)), "{never:?} in {seen:?}");
    }
    assert!(!seen.iter().any(|(_, made)| *made == [false, true]), "{seen:?}");
}

/// Tries every one of `deeds` and reports.
fn try_all(format: Format, deeds: impl Iterator<Item = Deed> + Send, attempt: impl Fn(Trial<'_>) -> Verdict + Sync) {
    let dir = fixture::memory_dir();
    let wanted = std::env::var("EXTERNFS_TEST_DEED").unwrap_or_default();
    let deeds = Mutex::new(deeds.filter(|deed| deed.name.contains(&wanted)));
    let verdicts = Mutex::new(Vec::new());
    let next = || deeds.lock().unwrap().next();
    let work = || {
        while let Some(deed) = next() {
            let verdict = attempt(Trial { realm: Realm::HumFs(format), deed, dir: dir.path() });
            verdicts.lock().unwrap().push(verdict);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |count| count.get().min(4)) {
            scope.spawn(work);
        }
    });
    let verdicts = verdicts.into_inner().unwrap();
    let points: usize = verdicts.iter().map(|verdict| verdict.points).sum();
    let violations: Vec<&String> = verdicts.iter().flat_map(|verdict| &verdict.violations).collect();
    println!("    {}: {} deeds, killed at {points} steps, {} violations", format.name(), verdicts.len(), violations.len());
    for violation in &violations {
        println!("    {violation}");
    }
    assert!(violations.is_empty(), "{} violations", violations.len());
    assert!(points > 0, "no deed is called '{wanted}'");
}

/// What a usual run has time for, or everything.
fn which(usual: Which) -> Which {
    if externfs_tests::cases(1) > 1 { Which::All } else { usual }
}

fn every_step_leaves_old_or_new(format: Format) {
    // One change of a database is many calls.
    let usual = if format == Format::Sqlite { Which::Some(8) } else { Which::Changing };
    try_all(format, Deed::all(), |trial| trial.run(which(usual)));
}

/// Of each way in which a store changes several things.
const SEVERAL_STEPS: [&str; 16] = [
    "create",
    "mkdir",
    "symlink-long",
    "unlink",
    "unlink-one-of-two",
    "rmdir",
    "link",
    "rename-over-file",
    "rename-dir-elsewhere",
    "rename-deep",
    "rename-over-leaving-whiteout",
    "exchange-file-and-dir",
    "chmod-linked",
    "setxattr-linked",
    "tmpfile-link",
    "open-truncating-setuid",
];

fn several_steps() -> impl Iterator<Item = Deed> + Send {
    SEVERAL_STEPS.into_iter().map(|name| Deed::named(name).unwrap())
}

fn what_was_answered_stays(format: Format) {
    try_all(format, several_steps(), |trial| trial.leave(which(Which::Some(12))));
}

fn a_recovery_that_is_cut_short_is_recovered(format: Format) {
    try_all(format, several_steps(), |trial| Relapse(trial).run(which(Which::Some(3))));
}

fn a_stale_record_is_not_inherited() {
    let dir = fixture::memory_dir();
    for format in Format::ALL {
        let outcome = |name: &str| {
            let deed = Deed::named(name).unwrap();
            Trial { realm: Realm::HumFs(format), deed, dir: dir.path() }.outcome().unwrap_or_else(|why| panic!("{name}: {why}"))
        };
        for name in ["create", "mkdir", "symlink"] {
            let fresh = outcome(name);
            assert_eq!(outcome(&format!("{name}-over-stale")).difference(&fresh), None, "{format:?}: {name}");
        }
        for name in ["create", "mkdir"] {
            let fresh = outcome(name);
            assert_eq!(outcome(&format!("{name}-over-stale-dir")).difference(&fresh), None, "{format:?}: {name}");
        }
    }
}

fn random_kills_lose_nothing(format: Format) {
    let dir = fixture::temp_dir();
    let seed = random::seed();
    let kills = externfs_tests::cases(15);
    let (mut reported, mut violations) = (0, 0);
    for kill in 0..kills {
        let tree = dir.path().join(format!("tree{kill}"));
        let realm = Realm::HumFs(format);
        realm.make(&tree);
        let load = Load { realm, tree: &tree, seed: seed.wrapping_add(u64::from(kill) * 1000) };
        // From hardly begun to well under way.
        let delay = Duration::from_micros(load.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 49);
        let result = load.kill_after(delay).and_then(|done| {
            reported += done.iter().sum::<usize>();
            load.check(&done)
        });
        if let Err(why) = result {
            println!("    seed {}, killed after {delay:?}: {why}", load.seed);
            violations += 1;
        }
        std::fs::remove_dir_all(&tree).unwrap();
    }
    println!("    {}: {kills} kills, {reported} operations reported, {violations} violations", format.name());
    assert_eq!(violations, 0);
    assert!(reported > kills as usize * 10, "hardly any load");
}

/// Which makes some things another way, and owns all of them.
fn an_ordinary_users_server_dies_as_well() {
    fixture::run_as_user(&["random_kills_lose_nothing"]);
}

fn power_cuts_spare_what_was_synced(format: Format, on: DiskFormat) {
    let seed = random::seed();
    let cuts = externfs_tests::cases(6);
    let (mut reported, mut lost, mut violations) = (0, 0, 0);
    for cut in 0..cuts {
        let disk = LoopFs::with(on, on.smallest());
        let cut = PowerCut { realm: Realm::HumFs(format), disk: &disk, seed: seed.wrapping_add(u64::from(cut)) };
        let delay = Duration::from_millis(20 + cut.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 300);
        match cut.run(delay) {
            Ok(survey) => {
                reported += survey.reported;
                lost += survey.lost;
            }
            Err(why) => {
                println!("    seed {}, cut after {delay:?}: {why}", cut.seed);
                violations += 1;
            }
        }
    }
    println!("    {} on {}: {cuts} cuts, {reported} steps reported, {lost} things lost, {violations} violations", format.name(), on.name());
    assert_eq!(violations, 0);
    assert!(reported > cuts as usize * 10, "hardly any load");
    assert!(lost > 0, "the cuts lose nothing");
}

/// The host commits names within seconds and writes files out after half a minute.
fn a_power_cut_soon_after_a_mount_is_noticed() {
    let realm = Realm::HumFs(Format::Xattr);
    let disk = LoopFs::new(DiskFormat::Ext4.smallest());
    let tree = disk.path().join("tree");
    realm.make(&tree);
    realm.open(&tree, &[]).unwrap().close().unwrap();
    fixture::succeed(Command::new("sync").arg("-f").arg(&tree));
    let connect = realm.open(&tree, &[]).unwrap();
    let guest = Guest::new(connect.as_ref());
    for number in 0..20 {
        guest.make(NodeId::ROOT, &number.to_string(), &NewNode::Directory, 0o755).unwrap();
    }
    // Commits the journal with all names that were made.
    File::open(disk.path()).unwrap().sync_all().unwrap();
    shutdown::cut_power(&disk.path());
    drop((guest, connect));
    disk.replay();
    assert_eq!(std::fs::read_dir(tree.join("data")).unwrap().count(), 20);
    host_was_started_anew(&tree);
    realm.look_after_power_cut(&tree).unwrap();
}

/// What cannot be opened to be synced is as durable as its name. `crowded`: there
/// is more in a directory than is worth syncing one by one.
fn a_synced_directory_has_its_records(format: Format, crowded: bool) {
    let realm = Realm::HumFs(format);
    let disk = LoopFs::new(DiskFormat::Ext4.smallest());
    let tree = disk.path().join("tree");
    realm.make(&tree);
    fixture::succeed(Command::new("sync").arg("-f").arg(&tree));
    let connect = realm.open(&tree, &[]).unwrap();
    let mut guest = Guest::new(connect.as_ref());
    guest.set(NodeId::ROOT, SetAttr { mode: Some(Mode::new(0o755)), ..SetAttr::default() }).unwrap();
    guest.caller = Caller { uid: GuestUid(1000), gid: GuestGid(50), ..Caller::root() };
    let device = DeviceNumber { major: 4, minor: 5 };
    let long = [b't'; 300];
    let things = [
        ("link", NewNode::Symlink(b"target")),
        ("long", NewNode::Symlink(&long)),
        ("device", NewNode::CharDevice(device)),
        ("disk", NewNode::BlockDevice(device)),
        ("fifo", NewNode::Fifo),
        ("socket", NewNode::Socket),
        ("below", NewNode::Directory),
    ];
    let [made, moved, other, many] = ["made", "moved", "other", "many"].map(|dir| guest.mkdir(NodeId::ROOT, dir).unwrap().id);
    let mut expected = Vec::new();
    for (called, new) in &things {
        guest.make(made, called, new, 0o664).unwrap();
        // Onto a free name, and over another thing.
        let names = [called.to_string(), format!("{called}.over")];
        guest.make(moved, &names[1], new, 0o600).unwrap();
        for called in &names {
            guest.make(other, called, new, 0o664).unwrap();
            guest.export.rename(&guest.caller, (other, name(called)), (moved, name(called)), RenameFlags::empty()).unwrap();
        }
        expected.extend([format!("/made/{called}"), format!("/moved/{called}"), format!("/moved/{called}.over")]);
    }
    for number in 0..if crowded { 40 } else { 0 } {
        guest.make(many, &format!("fifo{number}"), &NewNode::Fifo, 0o664).unwrap();
        expected.push(format!("/many/fifo{number}"));
    }
    for id in if crowded { vec![many] } else { vec![NodeId::ROOT, made, moved] } {
        let handle = guest.export.open_dir(id).unwrap();
        guest.export.fsync_dir(handle.id, false).unwrap();
        guest.export.release_dir(handle.id);
    }
    shutdown::cut_power(&disk.path());
    drop((guest, connect));
    disk.replay();
    host_was_started_anew(&tree);
    let seen = realm.look_after_power_cut(&tree).unwrap();
    for path in expected.iter().filter(|path| !crowded || path.starts_with("/many/")) {
        let sight = seen.nodes.get(path).unwrap_or_else(|| panic!("{path} is gone"));
        let mode = if sight.kind == FileKind::Symlink { 0o777 } else { 0o664 };
        assert_eq!((sight.owner, sight.mode), ((1000, 50), mode), "{path}");
    }
}

/// As if whoever wrote the counters had done so before.
fn host_was_started_anew(tree: &Path) {
    let state = File::options().write(true).open(tree.join("humfs/state")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&state, &[0; 16], 16).unwrap();
}
