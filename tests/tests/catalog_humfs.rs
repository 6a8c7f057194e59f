//! The live catalog of humfs trees says what a walk of the mount says: through
//! the mount of an ordinary user, in every format, while several threads change
//! the tree, after a kill, and whatever was done to the database meanwhile.
//!
//! `EXTERNFS_TEST_CASES` multiplies the operations; `EXTERNFS_TEST_SEED` repeats
//! a run's.

#[path = "catalog_humfs/compare.rs"]
mod compare;
#[path = "catalog_humfs/load.rs"]
mod load;
#[path = "catalog_humfs/pressure.rs"]
mod pressure;
#[path = "catalog_humfs/survival.rs"]
mod survival;

use externfs_tests::harness::{self, Case};
use externfs_tests::humtree::{HumTree, TOTAL};
use externfs_tests::{cases, ordinary, random};
use humfs::store::Format;
use std::collections::BTreeMap;

const THREADS: u64 = 3;

/// Of each thread, between two comparisons.
const OPERATIONS: usize = 300;

fn main() -> std::process::ExitCode {
    ordinary::in_own_mounts(|| {
        let mut list = Vec::new();
        for format in Format::ALL {
            let name = |what: &str| format!("{what}_{}", format.name());
            list.push(Case::new(name("sql_says_what_the_mount_says"), move || sql_says_what_the_mount_says(format)).limit(7200));
        }
        for format in Format::ALL {
            let name = |what: &str| format!("{what}_{}", format.name());
            list.push(
                Case::new(name("a_kill_costs_a_scan_and_no_more"), move || survival::a_kill_costs_a_scan_and_no_more(format)).limit(7200),
            );
            list.push(Case::new(name("an_unmount_costs_no_scan"), move || survival::an_unmount_costs_no_scan(format)));
        }
        list.push(Case::new("what_is_done_meanwhile_is_noticed", || survival::what_is_done_meanwhile_is_noticed(Format::Xattr)));
        for format in Format::ALL {
            let name = format!("what_moves_during_the_scan_is_not_missed_{}", format.name());
            list.push(Case::new(name, move || pressure::what_moves_during_the_scan_is_not_missed(format)).limit(600));
        }
        list.push(
            Case::new("a_reader_who_does_not_end_is_no_harm", || pressure::a_reader_who_does_not_end_is_no_harm(Format::Xattr)).limit(900),
        );
        list.push(Case::new("a_full_host_does_not_stop_the_tree", || pressure::a_full_host_does_not_stop_the_tree(Format::Xattr)));
        harness::main(list)
    })
}

/// Random changes, compared after each batch; the tree is mounted anew now and
/// then, so that the server knows nothing of most objects.
fn sql_says_what_the_mount_says(format: Format) {
    let (tree, seed) = (HumTree::new(format, TOTAL), random::seed());
    let mut done = BTreeMap::new();
    let (mut mount, mut compared) = (tree.mount(""), 0);
    let batches = cases(9);
    for batch in 0..batches {
        let counts = load::run(mount.path(), seed.wrapping_add(u64::from(batch)), THREADS, OPERATIONS);
        counts.into_iter().for_each(|(deed, count)| *done.entry(deed).or_insert(0) += count);
        let what = format!("EXTERNFS_TEST_SEED={seed}, batch {batch}");
        compared += compare::check(&tree, mount.path(), &what);
        if batch % 3 == 2 {
            mount.finish();
            mount = tree.mount("");
            compare::check(&tree, mount.path(), &format!("{what}, mounted anew"));
        }
    }
    let succeeded: usize = done.values().sum();
    println!("    {succeeded} changes, {compared} names compared with each of 12 queries");
    assert_eq!(load::missing(&done), [""; 0], "what has never succeeded; EXTERNFS_TEST_SEED={seed}");
    mount.finish();
}
