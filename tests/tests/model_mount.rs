//! The reference model against hostfs through a real FUSE mount: the kernel,
//! the frontend, the bridge and the plugin together, once for each way of
//! caching.

use externfs_tests::driver::Rules;
use externfs_tests::fixture::{self, Mount};
use externfs_tests::host_driver::{HostDriver, tree_view};
use externfs_tests::op::Op;
use externfs_tests::{driver, harness, random};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

fn main() -> std::process::ExitCode {
    harness::main(externfs_tests::cases![
        a_mount_follows_the_model,
        a_mount_with_passthrough_follows_the_model,
        a_mount_through_fuser_follows_the_model,
        a_mount_that_caches_nothing_follows_the_model,
        a_mount_that_caches_everything_follows_the_model,
    ])
}

fn a_mount_follows_the_model() {
    check("cache=auto,passthrough=off", 60);
}

fn a_mount_with_passthrough_follows_the_model() {
    check("cache=auto,passthrough=on", 60);
}

fn a_mount_through_fuser_follows_the_model() {
    check("transport=fuser,passthrough=off", 40);
}

fn a_mount_that_caches_nothing_follows_the_model() {
    check("cache=none,passthrough=off", 40);
}

fn a_mount_that_caches_everything_follows_the_model() {
    check("cache=always,passthrough=off", 40);
}

fn check(options: &str, cases: u32) {
    fixture::need_root();
    rustix::process::umask(rustix::fs::Mode::empty());
    let source = fixture::temp_dir();
    let mount = Mount::new(source.path(), options);
    let rules = Rules { range_drops_setid: true };
    let plain = !options.contains("passthrough=off");
    let number = AtomicU64::new(0);
    random::check_lists(cases, 60, |ops| {
        let name = format!("case{}", number.fetch_add(1, Ordering::Relaxed));
        let ops = if plain { without_setid(ops) } else { ops.to_vec() };
        run(&ops, rules, &mount.path().join(&name), &source.path().join(&name))
    });
    mount.finish();
}

/// With passthrough it depends on what else is open whether a write of root's
/// takes setuid and setgid bits away: the same operations without them.
fn without_setid(ops: &[Op]) -> Vec<Op> {
    let mut ops = ops.to_vec();
    for op in &mut ops {
        if let Op::Create { mode, .. } | Op::Mkdir { mode, .. } | Op::Mknod { mode, .. } | Op::Chmod { mode, .. } = op {
            *mode &= 0o1777;
        }
    }
    ops
}

fn run(ops: &[Op], rules: Rules, inside: &Path, host: &Path) -> Result<(), String> {
    std::fs::create_dir(inside).map_err(|e| e.to_string())?;
    driver::run(ops, &mut HostDriver::with_rules(inside, rules))?;
    let (mut seen, mut there) = (tree_view(inside)?, tree_view(host)?);
    for view in seen.values_mut().chain(there.values_mut()) {
        view.times[0] = externfs::Timestamp::default();
        view.identity = 0;
    }
    if seen == there {
        return Ok(());
    }
    let path = there.keys().chain(seen.keys()).find(|path| seen.get(*path) != there.get(*path));
    Err(format!("the mount and the host differ at {path:?}"))
}
