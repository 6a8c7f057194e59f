//! What a guest's root puts into a humfs tree it finds again: through the mount
//! of an ordinary user, as root, in every format, with a remount between, so
//! that everything comes from the disk. And on the host nothing can be told
//! from the files of a user who is nobody special.

#[path = "fidelity_humfs/attributes.rs"]
mod attributes;
#[path = "fidelity_humfs/names.rs"]
mod names;
#[path = "fidelity_humfs/permissions.rs"]
mod permissions;

use externfs_catalog::barrier::{self, Standing};
use externfs_tests::fixture::{self, Mount};
use externfs_tests::harness::{self, Case};
use externfs_tests::humtree::{HumTree, TOTAL, paths_below};
use externfs_tests::ordinary;
use humfs::store::Format;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Each with a fresh tree.
type Check = fn(&mut Scene);

const CASES: &[(&str, Check)] = &[
    ("owners_and_modes_are_kept", attributes::owners_and_modes_are_kept),
    ("every_kind_of_object_is_kept", attributes::every_kind_of_object_is_kept),
    ("extended_attributes_are_kept", attributes::extended_attributes_are_kept),
    ("capabilities_stick_and_die_on_write", attributes::capabilities_stick_and_die_on_write),
    ("times_are_kept_to_the_nanosecond", attributes::times_are_kept_to_the_nanosecond),
    ("changes_move_the_ctime", attributes::changes_move_the_ctime),
    ("hard_links_are_one_file", names::hard_links_are_one_file),
    ("readers_go_on_whatever_becomes_of_the_name", names::readers_go_on_whatever_becomes_of_the_name),
    ("readers_go_on_among_many_removed", names::readers_go_on_among_many_removed),
    ("the_other_name_leads_to_what_is_not_held", names::the_other_name_leads_to_what_is_not_held),
    ("what_is_open_is_found_while_it_moves", names::what_is_open_is_found_while_it_moves),
    ("listings_go_on_whatever_becomes_of_the_name", names::listings_go_on_whatever_becomes_of_the_name),
    ("a_removed_directory_can_be_synced", names::a_removed_directory_can_be_synced),
    ("one_name_of_several_can_go", names::one_name_of_several_can_go),
    ("a_name_is_found_that_nobody_looked_up", names::a_name_is_found_that_nobody_looked_up),
    ("names_of_one_file_may_race", names::names_of_one_file_may_race),
    ("renames_keep_both_sides_together", names::renames_keep_both_sides_together),
    ("what_has_no_name_yet_gets_one", names::what_has_no_name_yet_gets_one),
    ("what_has_lost_its_name_goes_on", names::what_has_lost_its_name_goes_on),
    ("odd_names_are_kept", names::odd_names_are_kept),
    ("directories_called_metadata_are_kept", names::directories_called_metadata_are_kept),
    ("the_longest_path_is_kept", names::the_longest_path_is_kept),
    ("a_name_made_again_inherits_nothing", names::a_name_made_again_inherits_nothing),
    ("acls_are_obeyed_and_inherited", permissions::acls_are_obeyed_and_inherited),
    ("owners_decide_who_may", permissions::owners_decide_who_may),
    ("setid_bits_go_when_somebody_writes", permissions::setid_bits_go_when_somebody_writes),
    ("a_second_writer_is_refused_and_a_reader_is_not", permissions::a_second_writer_is_refused_and_a_reader_is_not),
];

fn main() -> std::process::ExitCode {
    ordinary::in_own_mounts(|| {
        let formats = Format::ALL.into_iter();
        let cases = formats.flat_map(|format| {
            CASES.iter().map(move |(name, run)| {
                Case::new(format!("{name}_{}", format.name()), move || {
                    let mut scene = Scene { tree: HumTree::new(format, TOTAL), mount: None };
                    scene.remount();
                    run(&mut scene);
                    scene.finish();
                })
            })
        });
        harness::main(cases)
    })
}

/// A tree and its mount.
struct Scene {
    tree: HumTree,
    mount: Option<Mount>,
}

impl Scene {
    fn root(&self) -> &Path {
        self.mount.as_ref().expect("mounted").path()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Until the catalog is complete, so that the next mount makes no scan.
    fn await_catalog(&self) {
        let dir = self.tree.path().join(externfs_catalog::DIRECTORY);
        let is_current = || matches!(barrier::flush(&dir, Duration::from_secs(10)), Ok(Some(Standing::Current)));
        fixture::wait_for("the catalog", is_current);
    }

    /// From now on everything is read from the disk again.
    fn remount(&mut self) {
        self.remount_by(|tree| tree.mount(""));
    }

    /// With a server that holds few objects.
    fn remount_with_few_descriptors(&mut self) {
        self.remount_with_few_descriptors_and("allow_other");
    }

    fn remount_with_few_descriptors_and(&mut self, options: &str) {
        let limit = |command: &mut Command| fixture::limit_descriptors(command, 256);
        self.remount_by(|tree| Mount::humfs_with(&tree.path(), options, limit));
    }

    fn remount_by(&mut self, mount: impl FnOnce(&HumTree) -> Mount) {
        if let Some(mount) = self.mount.take() {
            mount.finish();
        }
        self.mount = Some(mount(&self.tree));
    }

    /// Runs `check` now and after a remount.
    fn twice(&mut self, check: impl Fn(&Scene)) {
        check(self);
        self.remount();
        check(self);
    }

    /// A shell script in the mount, by root; what it says.
    fn shell(&self, script: &str) -> String {
        fixture::succeed(Command::new("sh").args(["-euc", script]).current_dir(self.root()))
    }

    fn finish(mut self) {
        if let Some(mount) = self.mount.take() {
            mount.finish();
        }
        for path in paths_below(&self.tree.path()) {
            let stat = path.symlink_metadata().expect("lstat");
            let shown = path.display();
            assert_eq!((stat.uid(), stat.gid()), (ordinary::USER, ordinary::USER), "{shown} is not its user's");
            if !stat.is_symlink() {
                assert_eq!(stat.mode() & 0o7022, 0, "{shown} is {:o} on the host", stat.mode() & 0o7777);
                let floor = if stat.is_dir() { 0o700 } else { 0o600 };
                assert_eq!(stat.mode() & floor, floor, "{shown} is {:o} on the host", stat.mode() & 0o7777);
                assert!(stat.is_dir() || stat.is_file(), "{shown} is a special file on the host");
            }
        }
    }
}

/// What lstat(2) says of who and what, in one line.
fn what(path: &Path) -> String {
    let stat = path.symlink_metadata().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    format!("{:o} {}:{} {}", stat.mode(), stat.uid(), stat.gid(), stat.rdev())
}
