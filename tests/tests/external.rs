//! Suites that others wrote, on a root mount of hostfs over ext4.

use externfs_tests::external::{self, FIO};
use externfs_tests::fixture::{self, Mount};
use externfs_tests::ground::Ground;
use externfs_tests::harness::{self, Case};
use std::path::Path;

fn main() -> std::process::ExitCode {
    let pjdfstest = |options: &'static str| move || on_mount(options, external::pjdfstest);
    let mut cases = vec![
        Case::new("pjdfstest_has_no_failure", pjdfstest("cache=auto")).limit(300),
        Case::new("pjdfstest_read_only_has_no_failure", || on_mount("cache=auto", external::pjdfstest_read_only)),
        Case::new("pjdfstest_without_caching_has_no_failure", pjdfstest("cache=none")).limit(300),
    ];
    let fsx = |seed: u32, options: &'static str| move || on_mount(options, |mount| external::fsx(mount, seed));
    for seed in 1..=3 {
        cases.push(Case::new(format!("fsx_seed_{seed}"), fsx(seed, "cache=auto")));
    }
    cases.push(Case::new("fsx_without_caching", fsx(4, "cache=none")));
    cases.push(Case::new("fsx_without_passthrough", fsx(5, "passthrough=off")));
    for (name, engine) in FIO {
        cases.push(Case::new(format!("fio_verify_{name}"), move || on_mount("cache=auto", |mount| external::fio(mount, engine))));
    }
    cases.push(Case::new("stress_ng_verifies", || on_mount("cache=auto", external::stress_ng)).limit(600));
    harness::main(cases)
}

fn on_mount(options: &str, suite: impl FnOnce(&Path)) {
    fixture::need_root();
    let ground = Ground::new();
    let mount = Mount::new(&ground.path(), &format!("allow_other,{options}"));
    suite(mount.path());
    mount.finish();
}
