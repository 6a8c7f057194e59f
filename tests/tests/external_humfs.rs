//! Suites that others wrote, run by root on humfs trees over ext4 that an
//! ordinary user owns, serves and mounts: in every format.

use externfs_tests::external::{self, FIO};
use externfs_tests::harness::{self, Case};
use externfs_tests::humtree::{HumTree, TOTAL};
use externfs_tests::ordinary;
use humfs::store::Format;
use std::path::Path;

fn main() -> std::process::ExitCode {
    ordinary::in_own_mounts(|| harness::main(cases()))
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in Format::ALL {
        let name = format!("pjdfstest_has_no_failure_{}", format.name());
        cases.push(Case::new(name, move || on_tree(format, "", external::pjdfstest)).limit(600));
    }
    cases.push(Case::new("pjdfstest_read_only_has_no_failure", || on_tree(Format::Xattr, "", external::pjdfstest_read_only)));
    for (seed, format) in (1..).zip(Format::ALL) {
        let name = format!("fsx_seed_{seed}_{}", format.name());
        cases.push(Case::new(name, move || on_tree(format, "", |mount| external::fsx(mount, seed))));
    }
    cases.push(Case::new("fsx_over_fuser", || on_tree(Format::Xattr, "transport=fuser", |mount| external::fsx(mount, 5))));
    // Which way leads to the data is the same in every format; each has one or two.
    for ((name, engine), format) in FIO.into_iter().zip(Format::ALL.into_iter().cycle()) {
        let name = format!("fio_verify_{name}_{}", format.name());
        cases.push(Case::new(name, move || on_tree(format, "", |mount| external::fio(mount, engine))));
    }
    // What the formats have in common is stressed as a whole; the rest in shares.
    cases.push(Case::new("stress_ng_verifies_xattr", || on_tree(Format::Xattr, "", external::stress_ng)).limit(600));
    for (share, format) in Format::ALL.into_iter().filter(|format| *format != Format::Xattr).enumerate() {
        let name = format!("stress_ng_verifies_{}", format.name());
        cases.push(Case::new(name, move || on_tree(format, "", |mount| external::stress_ng_share(mount, share, 3))).limit(600));
    }
    cases
}

fn on_tree(format: Format, options: &str, suite: impl FnOnce(&Path)) {
    let tree = HumTree::new(format, TOTAL);
    let mount = tree.mount(options);
    suite(mount.path());
    mount.finish();
}
