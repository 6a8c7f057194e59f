//! Processes of the host, as /proc shows them: who is whose child, and what
//! is left when all should be gone.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Process ids with the parent of each.
fn parents() -> BTreeMap<u32, u32> {
    let listing = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = listing.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(|id: u32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // "id (name) state parent ...": the name may hold anything.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((id, parent))
    })
    .collect()
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
            let (stat, call) = (read("stat"), read("syscall"));
            let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
            let field = |number: usize| fields.get(number).copied().unwrap_or("?");
            let (name, place, call) = (read("comm"), read("wchan"), call.split_whitespace().next().unwrap_or("?"));
            let line = format!("{} {} at {place}, call {call}, {}+{} ticks", name.trim(), field(0), field(11), field(12));
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
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

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
