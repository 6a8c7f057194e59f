//! The suite that every plugin of a writable tree binds to: what holds for all
//! of them is tested here and nowhere else.
//!
//! A plugin says what it can do and how to make an empty tree, and names the
//! suite once: `externfs_tests::conformance!(make_subject);`. Each check is
//! then a test of its own, and ends with the leak check.

mod contents;
mod identity;
mod listing;
mod metadata;
mod names;
mod robustness;

use crate::guest::Guest;
use externfs::Connect;
use std::sync::Arc;

/// What a plugin under test is able to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Capabilities {
    /// Guests can own files: chown and creating as somebody.
    pub owners: bool,
    /// Device nodes can be made.
    pub devices: bool,
    /// Extended attributes in `user.`.
    pub xattrs: bool,
    /// renameat2 flags.
    pub rename_flags: bool,
    /// fallocate, and holes that can be sought.
    pub holes: bool,
}

/// An empty, writable tree.
pub struct Subject {
    /// Makes kernels' views of it.
    pub connect: Arc<dyn Connect>,
    /// The same tree with the bridge's read-only switch on.
    pub read_only: Arc<dyn Connect>,
    /// What to expect.
    pub can: Capabilities,
    /// Kept until the test ends: a temporary directory, mostly.
    pub keep: Box<dyn std::any::Any>,
}

/// A check: gets an empty tree and a kernel that knows only the root.
pub type Check = fn(&Subject, &Guest);

/// Every check with its name.
pub const CHECKS: &[(&str, Check)] = &[
    ("a_new_file_is_empty_and_the_callers", names::a_new_file_is_empty_and_the_callers),
    ("exclusive_creation_happens_once", names::exclusive_creation_happens_once),
    ("names_are_bytes", names::names_are_bytes),
    ("a_name_can_be_as_long_as_promised", names::a_name_can_be_as_long_as_promised),
    ("only_the_right_kind_is_removed", names::only_the_right_kind_is_removed),
    ("rename_replaces_or_refuses", names::rename_replaces_or_refuses),
    ("a_directory_cannot_move_into_itself", names::a_directory_cannot_move_into_itself),
    ("links_are_kept_as_written", names::links_are_kept_as_written),
    ("special_files_are_only_names", names::special_files_are_only_names),
    ("hard_links_are_one_node", identity::hard_links_are_one_node),
    ("a_number_stays_while_it_is_remembered", identity::a_number_stays_while_it_is_remembered),
    ("a_removed_file_works_while_open", identity::a_removed_file_works_while_open),
    ("a_successor_is_another_node", identity::a_successor_is_another_node),
    ("two_kernels_see_each_others_changes", identity::two_kernels_see_each_others_changes),
    ("a_listing_resumes_anywhere", listing::a_listing_resumes_anywhere),
    ("a_listing_survives_changes", listing::a_listing_survives_changes),
    ("a_listing_with_attributes_counts_lookups", listing::a_listing_with_attributes_counts_lookups),
    ("the_dots_lead_where_they_should", listing::the_dots_lead_where_they_should),
    ("data_comes_back", contents::data_comes_back),
    ("a_gap_reads_as_zeroes", contents::a_gap_reads_as_zeroes),
    ("appends_from_many_threads_all_arrive", contents::appends_from_many_threads_all_arrive),
    ("open_can_truncate", contents::open_can_truncate),
    ("a_file_may_be_huge", contents::a_file_may_be_huge),
    ("holes_can_be_made_and_found", contents::holes_can_be_made_and_found),
    ("ranges_can_be_copied", contents::ranges_can_be_copied),
    ("syncing_succeeds", contents::syncing_succeeds),
    ("each_attribute_can_be_set_alone", metadata::each_attribute_can_be_set_alone),
    ("times_keep_their_nanoseconds", metadata::times_keep_their_nanoseconds),
    ("the_umask_counts", metadata::the_umask_counts),
    ("a_setgid_directory_gives_its_group_on", metadata::a_setgid_directory_gives_its_group_on),
    ("extended_attributes_obey_their_flags", metadata::extended_attributes_obey_their_flags),
    ("the_file_system_tells_its_size", metadata::the_file_system_tells_its_size),
    ("a_read_only_view_changes_nothing", robustness::a_read_only_view_changes_nothing),
    ("unknown_numbers_are_refused", robustness::unknown_numbers_are_refused),
    ("a_kind_that_does_not_fit_is_refused", robustness::a_kind_that_does_not_fit_is_refused),
    ("forgetting_too_much_does_no_harm", robustness::forgetting_too_much_does_no_harm),
    ("a_reset_forgets_everything", robustness::a_reset_forgets_everything),
    ("many_threads_leave_nothing_behind", robustness::many_threads_leave_nothing_behind),
];

/// Runs the check called `name` on what `make` makes.
///
/// # Panics
/// When the plugin fails it, or leaks.
pub fn run_check(name: &str, make: fn() -> Subject) {
    let Some((_, check)) = CHECKS.iter().find(|(known, _)| *known == name) else {
        panic!("the suite has no check called {name}");
    };
    let subject = make();
    let guest = Guest::new(subject.connect.as_ref());
    check(&subject, &guest);
    guest.finish();
}

/// Binds the whole suite to a plugin: `conformance!(fn() -> Subject)`.
#[macro_export]
macro_rules! conformance {
    ($make:path) => {
        fn main() -> std::process::ExitCode {
            let checks = $crate::conformance::CHECKS.iter();
            $crate::harness::main(
                checks.map(|&(name, _)| $crate::harness::Case::new(name, move || $crate::conformance::run_check(name, $make))),
            )
        }
    };
}
