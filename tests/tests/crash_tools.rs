//! The commands that make and convert trees, killed at each step: whatever is
//! left, the same command again completes it, and nothing is lost.

use externfs_tests::mortal::{self, End, Fate};
use externfs_tests::{fixture, harness, random};
use externfs_tools::offline::{Offline, TreePath};
use externfs_tools::transfer::{Gather, pack};
use humfs::humfsify::{self, Request};
use humfs::store::Format;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [PERFORM, what, tree, source] => perform(what, Path::new(tree), Path::new(source)),
        [ACT, what, tree, source] => told(act(what, Path::new(tree), Path::new(source))),
        _ => {
            let mut cases = vec![
                harness::Case::new("a_conversion_is_completed", a_conversion_is_completed).limit(1200),
                harness::Case::new("the_way_back_is_completed", the_way_back_is_completed).limit(1200),
            ];
            for format in Format::ALL {
                let name = format!("filling_is_started_over_{}", format.name());
                cases.push(harness::Case::new(name, move || filling_is_started_over(format)).limit(1200));
            }
            harness::main(cases)
        }
    }
}

const PERFORM: &str = "perform";

/// This program is its own victim: it does `what` between two marks.
fn perform(what: &str, tree: &Path, source: &Path) -> ExitCode {
    mortal::submit();
    mortal::mark();
    let done = act(what, tree, source);
    mortal::mark();
    told(done)
}

fn told(done: Result<(), String>) -> ExitCode {
    let Err(why) = done else { return ExitCode::SUCCESS };
    eprintln!("{why}");
    ExitCode::FAILURE
}

const ACT: &str = "act";

/// As [`act`], in a process of its own: here a tree's lock would live on in
/// whatever other threads are about to start.
fn act_apart(what: &str, tree: &Path, source: &Path) -> Result<(), String> {
    let output = fixture::output(Command::new("/proc/self/exe").args([ACT, what]).arg(tree).arg(source));
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

/// Whom converted trees belong to.
const OWNER: u32 = 65_534;

fn act(what: &str, tree: &Path, source: &Path) -> Result<(), String> {
    match what {
        "convert" => humfsify::convert(tree, &Request { uid: OWNER, gid: OWNER, total: 1 << 30 }, &mut |_, _| {}).map_err(|error| error.0),
        "restore" => humfsify::restore(tree, &mut |_, _| {}).map_err(|error| error.0),
        format => {
            let arguments = ["externfs", "create", "--size", "1G", "--metadata", format, "--from"].map(Into::into);
            let arguments = [&arguments[..], &[source.into(), tree.into()]].concat();
            externfs_tools::run(&arguments).map(drop).map_err(|failure| failure.line)
        }
    }
}

/// Where syncing costs nothing, if attributes can be set there.
fn place() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix(&fixture::prefix()).tempdir_in("/dev/shm");
    let usable = dir.ok().filter(|dir| {
        let set = |name: &str| rustix::fs::setxattr(dir.path(), name, b"x", rustix::fs::XattrFlags::empty());
        set("user.probe").is_ok() && set("trusted.probe").is_ok()
    });
    usable.unwrap_or_else(fixture::temp_dir)
}

/// A directory to be converted: one of everything that is awkward.
fn awkward(dir: &Path) {
    fixture::need_root();
    let script = "
        umask 022; mkdir -p data/dev data/metadata/metadata 'data/a b'; cd data
        echo x > 'a b/f'; echo s > su; ln su 'a b/su2'; chown 0:42 su; chmod 4755 su; chown 1000:1000 'a b'; chmod 1777 'a b'
        mknod dev/null c 1 3; ln dev/null dev/zero; mknod dev/big b 300 70000; mkfifo 'dev/p;$(x)'; ln -s ../x dev/l; chown -h 7:8 dev/l
        cp su cap; touch -d 2001-02-03T04:05:06.789012345Z su 'a b/f' dev 'a b' .";
    fixture::succeed(Command::new("sh").args(["-euc", script]).current_dir(dir));
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (file, name, value) in [("cap", "user.a", &b"\n"[..]), ("cap", "security.capability", &capability), ("su", "user.of", b"both")] {
        rustix::fs::setxattr(dir.join("data").join(file), name, value, rustix::fs::XattrFlags::empty()).expect("setxattr");
    }
}

/// A copy with everything that belongs to it.
fn copy(from: &Path, to: &Path) {
    fixture::succeed(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// Everything that the guest sees in a tree.
fn guests_view(tree: &Path) -> Result<Vec<u8>, String> {
    let options = humfs::Options { read_only: true, ..humfs::Options::default() };
    let connect = humfs::open(tree, &options).map_err(|error| error.0)?;
    let offline = Offline::new(connect).map_err(|failure| failure.line)?;
    let mut origin = Gather::new(&offline, &TreePath::default(), true).map_err(|failure| failure.line)?;
    pack(&mut origin, Vec::new(), "memory", &mut |_| {}).map_err(|failure| failure.line)
}

/// Everything that the host sees in `data`.
fn hosts_view(tree: &Path) -> Vec<u8> {
    let show = "find data -printf '%p %y %m %U:%G %n %l %T@ %s\\n' | sort; stat -c '%n %t %T' data/dev/*; getfattr -Rhd -m - -e hex data 2>/dev/null || :";
    fixture::succeed(Command::new("sh").args(["-euc", show]).current_dir(tree)).into_bytes()
}

/// Kills `what` at each step, on a fresh tree each time, and gives what is
/// left to `check`.
fn kill_everywhere(
    dir: &Path,
    what: &str,
    source: &Path,
    fresh: &(dyn Fn(&Path) + Sync),
    check: &(dyn Fn(&Path) -> Result<(), String> + Sync),
) {
    let go = |tree: &Path, fate| mortal::live(Command::new("/proc/self/exe").args([PERFORM, what]).arg(tree).arg(source), fate);
    let tree = dir.join("whole");
    fresh(&tree);
    let End::Done(steps) = go(&tree, Fate::Never) else { panic!("{what} does not work") };
    // Of the thread that changes the tree; others only read.
    let steps = steps.own;
    // Where time is short, each step has its turn in another run.
    let stride = if std::env::var_os("EXTERNFS_TEST_CASES").is_some() { 1 } else { (steps / 400).max(1) };
    let first = 1 + random::seed() as usize % stride;
    let points: Vec<usize> = (first..=steps).step_by(stride).collect();
    let (next, violations) = (Mutex::new(points.iter()), Mutex::new(Vec::new()));
    let work = || {
        while let Some(step) = { next.lock().unwrap().next() } {
            let tree = dir.join(step.to_string());
            fresh(&tree);
            let end = go(&tree, Fate::Step(*step));
            if let Err(why) = check(&tree) {
                violations.lock().unwrap().push(format!("{what}, step {step} of {steps}, {end:?}: {why}"));
            }
            std::fs::remove_dir_all(&tree).expect("rm");
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |count| count.get().min(4)) {
            scope.spawn(work);
        }
    });
    let violations = violations.into_inner().unwrap();
    println!("    {what}: killed at {} of {steps} steps, {} violations", points.len(), violations.len());
    violations.iter().take(20).for_each(|violation| println!("    {violation}"));
    assert!(violations.is_empty(), "{} violations", violations.len());
}

fn same(found: &[u8], expected: &[u8], which: &str) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let lines = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect::<Vec<_>>();
    let (found, expected) = (lines(found), lines(expected));
    let wrong = found.iter().find(|line| !expected.contains(line)).cloned().unwrap_or_default();
    Err(format!("{which} is another one: {}", wrong.escape_debug().to_string().chars().take(300).collect::<String>()))
}

fn a_conversion_is_completed() {
    let dir = place();
    let original = dir.path().join("original");
    std::fs::create_dir(&original).unwrap();
    awkward(&original);
    let before = hosts_view(&original);
    let converted = dir.path().join("converted");
    copy(&original, &converted);
    act_apart("convert", &converted, Path::new("")).unwrap();
    let expected = guests_view(&converted).unwrap();
    let check = |tree: &Path| {
        // Nobody takes it for a whole one before it is.
        if let Ok(view) = guests_view(tree) {
            same(&view, &expected, "the tree of the first attempt")?;
        }
        match act_apart("convert", tree, Path::new("")) {
            Err(why) if why.contains("already") => {}
            other => other?,
        }
        same(&guests_view(tree)?, &expected, "the tree")?;
        let foreign = fixture::succeed(Command::new("find").arg(tree).args(["!", "-uid", &OWNER.to_string()]));
        if !foreign.is_empty() {
            return Err(format!("not the new owner's: {foreign}"));
        }
        act_apart("restore", tree, Path::new(""))?;
        same(&hosts_view(tree), &before, "what comes back")
    };
    kill_everywhere(dir.path(), "convert", Path::new(""), &|tree| copy(&original, tree), &check);
}

fn the_way_back_is_completed() {
    let dir = place();
    let original = dir.path().join("original");
    std::fs::create_dir(&original).unwrap();
    awkward(&original);
    let before = hosts_view(&original);
    act_apart("convert", &original, Path::new("")).unwrap();
    let check = |tree: &Path| {
        match act_apart("restore", tree, Path::new("")) {
            Err(why) if why.contains("no superblock") && !tree.join("superblock").exists() => {}
            other => other?,
        }
        same(&hosts_view(tree), &before, "what comes back")?;
        let left: Vec<PathBuf> =
            std::fs::read_dir(tree).unwrap().map(|entry| entry.unwrap().path()).filter(|path| !path.ends_with("data")).collect();
        // A last mkdir of an empty humfs/ says nothing.
        if left.iter().any(|path| !path.ends_with("humfs")) { Err(format!("{left:?} are left")) } else { Ok(()) }
    };
    kill_everywhere(dir.path(), "restore", Path::new(""), &|tree| copy(&original, tree), &check);
}

fn filling_is_started_over(format: Format) {
    let dir = place();
    let original = dir.path().join("original");
    std::fs::create_dir(&original).unwrap();
    awkward(&original);
    let source = original.join("data");
    let whole = dir.path().join("expected");
    act_apart(format.name(), &whole, &source).unwrap();
    let expected = guests_view(&whole).unwrap();
    let check = |tree: &Path| {
        if let Ok(view) = guests_view(tree) {
            same(&view, &expected, "the tree of the first attempt")?;
        }
        match act_apart(format.name(), tree, &source) {
            Err(why) if why.contains("already") => {}
            other => other?,
        }
        same(&guests_view(tree)?, &expected, "the tree")
    };
    let fresh = |tree: &Path| std::fs::create_dir(tree).unwrap();
    kill_everywhere(dir.path(), format.name(), &source, &fresh, &check);
}
