//! Processes of the host, as /proc shows them: who is whose child, and what
//! is left when all should be gone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What a file `stat` of proc(5) says of a process or a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stat {
    /// One letter: Z is a zombie.
    state: char,
    parent: u32,
    /// Ticks of the processor in user space.
    user: u64,
    /// The same in the kernel.
    system: u64,
}

impl Stat {
    /// From its file; None where there is none any more.
    fn read(path: impl AsRef<Path>) -> Option<Stat> {
        // A name of the kernel's need not be UTF-8.
        Stat::parse(&String::from_utf8_lossy(&fs::read(path).ok()?))
    }

    /// From "id (name) state parent ...": the name may hold anything, blanks
    /// and parentheses too, and nothing behind it does.
    fn parse(text: &str) -> Option<Stat> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        Some(Stat {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            user: fields.get(11)?.parse().ok()?,
            system: fields.get(12)?.parse().ok()?,
        })
    }

    fn of(id: u32) -> Option<Stat> {
        Stat::read(format!("/proc/{id}/stat"))
    }
}

/// Process ids with the parent of each.
fn parents() -> BTreeMap<u32, u32> {
    let listing = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = listing.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(|id: u32| Some((id, Stat::of(id)?.parent))).collect()
}

/// Every process below `root`, itself left out.
#[must_use]
pub fn descendants(root: u32) -> Vec<u32> {
    let parents = parents();
    let mut found = vec![root];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        found.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(id, _)| *id));
        at += 1;
    }
    found.remove(0);
    found
}

/// A line for each thread of the processes below `root`: its name, its state,
/// where it waits in the kernel, the system call that it is in, and the ticks
/// of the processor that it has had, in user space and in the kernel.
#[must_use]
pub fn describe(root: u32) -> String {
    let mut text = String::new();
    for id in descendants(root) {
        let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
        for thread in threads.map(|entry| entry.path()) {
            let read = |name: &str| fs::read_to_string(thread.join(name)).unwrap_or_default();
            // Gone since it was listed.
            let Some(stat) = Stat::read(thread.join("stat")) else { continue };
            let (name, place, call) = (read("comm"), read("wchan"), read("syscall"));
            let call = call.split_whitespace().next().unwrap_or("?");
            let line = format!("{} {} at {place}, call {call}, {}+{} ticks", name.trim(), stat.state, stat.user, stat.system);
            text.push_str(&format!("\n  process {id}: {line}"));
        }
    }
    text
}

/// Those whose command line, working directory or open files name `mark`.
#[must_use]
pub fn that_mention(mark: &str) -> Vec<(u32, String)> {
    let mention = |path: PathBuf| fs::read_link(path).is_ok_and(|target| target.to_string_lossy().contains(mark));
    let found = parents().into_keys().filter_map(|id| {
        let line = String::from_utf8_lossy(&fs::read(format!("/proc/{id}/cmdline")).ok()?).replace('\0', " ");
        let fds = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
        let mentions = line.contains(mark) || mention(format!("/proc/{id}/cwd").into()) || fds.map(|fd| fd.path()).any(mention);
        (mentions && id != std::process::id()).then_some((id, line))
    });
    found.collect()
}

/// How many descriptors `id` has open.
#[must_use]
pub fn descriptors(id: u32) -> Vec<PathBuf> {
    let listing = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
    listing.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

/// Whether the process `id` is there and no zombie.
#[must_use]
pub fn runs(id: u32) -> bool {
    Stat::of(id).is_some_and(|stat| stat.state != 'Z')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_name_is_no_field() {
        let rest = "7 1 1 0 -1 4194304 100 0 0 0 31 32 0 0 20 0 1 0 5 6 7";
        for name in ["sleep", "a b", "a) Z 9 (b", ")", "", "x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14"] {
            let stat = Stat { state: 'R', parent: 7, user: 31, system: 32 };
            assert_eq!(Stat::parse(&format!("12 ({name}) R {rest}\n")), Some(stat), "{name}");
        }
        assert_eq!(["", "12 (sleep)", "12 (sleep) S 7"].map(Stat::parse), [None; 3]);
    }

    #[test]
    fn a_process_runs_whatever_it_is_called() {
        let dir = crate::fixture::temp_dir();
        let program = dir.path().join("a) Z 9 (b");
        fs::copy("/bin/sleep", &program).unwrap();
        let mut child = Command::new(&program).arg("600").spawn().unwrap();
        let id = child.id();
        assert!(runs(id) && descendants(std::process::id()).contains(&id), "{:?}", Stat::of(id));
        child.kill().unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while runs(id) {
            assert!(std::time::Instant::now() < end, "a zombie runs: {:?}", Stat::of(id));
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!runs(id));
    }

    #[test]
    fn a_process_that_waits_is_described() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let expected = format!("\n  process {}: sleep S at ", child.id());
        while !describe(std::process::id()).contains(&expected) {
            assert!(std::time::Instant::now() < end, "{expected:?} is not in {}", describe(std::process::id()));
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
