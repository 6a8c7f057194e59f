//! The rows: a name that says what holds, and the check.

mod acl;
mod attrs;
mod data;
mod exec;
mod host;
mod links;
mod locks;
mod mapped;
mod names;
mod owners;
mod ranges;
mod special;
mod xattrs;

use crate::place::{Place, Problem, Verdict, done};
use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// One check.
struct Row {
    name: &'static str,
    /// Not for a server that runs as an ordinary user: it cannot give files
    /// away or make devices.
    needs_root: bool,
    check: fn(&Place) -> Verdict,
}

const fn row(name: &'static str, check: fn(&Place) -> Verdict) -> Row {
    Row { name, needs_root: false, check }
}

const fn root_row(name: &'static str, check: fn(&Place) -> Verdict) -> Row {
    Row { name, needs_root: true, check }
}

/// In the order of running.
const ROWS: &[Row] = &[
    row("host/listing-is-complete", host::listing_is_complete),
    row("host/attributes-are-the-hosts", host::attributes_are_the_hosts),
    row("host/big-file-reads-right", host::big_file_reads_right),
    row("host/statfs-is-the-hosts", host::statfs_is_the_hosts),
    row("for-host/big-file", host::leaves_a_big_file),
    root_row("for-host/objects", host::leaves_objects),
    row("names/create-and-remove", names::create_and_remove),
    row("names/errors-are-true", names::errors_are_true),
    row("names/rename", names::rename),
    row("names/rename-flags", names::rename_flags),
    root_row("names/whiteout", names::whiteout),
    row("names/odd-bytes", names::odd_bytes),
    row("names/length-limits", names::length_limits),
    row("names/deep-paths", names::deep_paths),
    row("names/many", names::many),
    row("names/remove-while-listing", names::remove_while_listing),
    row("names/inode-numbers-agree", names::inode_numbers_agree),
    row("names/four-at-once", names::four_at_once),
    row("links/hard", links::hard),
    row("links/symbolic", links::symbolic),
    row("links/tmpfile", links::tmpfile),
    row("links/unlinked-but-open", links::unlinked_but_open),
    row("links/renamed-over-but-open", links::renamed_over_but_open),
    row("links/removed-directory", links::removed_directory),
    row("attrs/mode-bits", attrs::mode_bits),
    row("attrs/times-to-the-nanosecond", attrs::times_to_the_nanosecond),
    row("attrs/now-and-omit", attrs::now_and_omit),
    row("attrs/times-move", attrs::times_move),
    row("attrs/umask", attrs::umask),
    row("attrs/size", attrs::size),
    row("attrs/inode-flags", attrs::inode_flags),
    root_row("owners/chown", owners::chown),
    root_row("owners/others-are-denied", owners::others_are_denied),
    root_row("owners/groups-are-allowed", owners::groups_are_allowed),
    root_row("owners/creator-owns", owners::creator_owns),
    root_row("owners/setgid-directory", owners::setgid_directory),
    root_row("owners/sticky-directory", owners::sticky_directory),
    root_row("owners/setuid-goes-on-write", owners::setuid_goes_on_write),
    root_row("owners/setuid-goes-on-chown", owners::setuid_goes_on_chown),
    root_row("owners/access-lists-decide", acl::access_lists_decide),
    root_row("owners/default-lists-are-inherited", acl::default_lists_are_inherited),
    row("xattrs/set-list-remove", xattrs::set_list_remove),
    row("xattrs/limits", xattrs::limits),
    root_row("xattrs/capabilities", xattrs::capabilities),
    root_row("xattrs/trusted", xattrs::trusted),
    row("data/offsets-and-holes", data::offsets_and_holes),
    row("data/truncate", data::truncate),
    row("data/append", data::append),
    row("data/append-from-two-processes", data::append_from_two_processes),
    row("data/direct", data::direct),
    row("data/sync", data::sync),
    row("data/vectors", data::vectors),
    row("data/open-flags", data::open_flags),
    row("data/random-writes-read-back", data::random_writes_read_back),
    row("ranges/seek-data-and-hole", ranges::seek_data_and_hole),
    row("ranges/fallocate", ranges::allocate),
    row("ranges/copy", ranges::copy),
    row("mapped/shared-writes", mapped::shared_writes),
    row("mapped/private-writes", mapped::private_writes),
    row("locks/flock", locks::flock),
    row("locks/record", locks::record),
    row("locks/waiting-is-interruptible", locks::waiting_is_interruptible),
    row("special/fifo", special::fifo),
    row("special/socket", special::socket),
    root_row("special/devices", special::devices),
    row("exec/from-share", exec::from_share),
    row("exec/text-busy", exec::text_busy),
];

/// Prints the names.
pub(crate) fn list() -> ExitCode {
    for row in ROWS {
        println!("{}{}", row.name, if row.needs_root { " (root's server)" } else { "" });
    }
    ExitCode::SUCCESS
}

/// Runs the rows whose names contain one of `filters`, or all.
pub(crate) fn run(share: &Path, filters: &[&str]) -> ExitCode {
    let unprivileged = filters.contains(&"--unprivileged");
    let wanted: Vec<&str> = filters.iter().copied().filter(|filter| !filter.starts_with("--")).collect();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for row in ROWS {
        let asked_for = wanted.is_empty() || wanted.iter().any(|filter| row.name.contains(filter));
        if !asked_for || row.needs_root && unprivileged {
            continue;
        }
        // Whoever looks at a guest that hangs finds here where it does.
        if let Ok(mut console) = fs::File::options().write(true).open("/dev/console") {
            let _ = writeln!(console, "row {}", row.name);
        }
        let started = Instant::now();
        let verdict = judge(row, share);
        let seconds = started.elapsed().as_secs_f32();
        match verdict {
            Ok(()) => {
                passed += 1;
                println!("ok {} ({seconds:.2} s)", row.name);
            }
            Err(Problem::Skipped(why)) => {
                skipped += 1;
                println!("SKIPPED {}: {why}", row.name);
            }
            Err(Problem::Failed(why)) => {
                failed += 1;
                println!("FAILED {}: {why}", row.name);
            }
        }
    }
    println!("rows: {passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A fresh directory, the check, and the directory gone again.
fn judge(row: &Row, share: &Path) -> Verdict {
    let dir = share.join(format!("row-{}", row.name.replace('/', "-")));
    done("making the row's directory", fs::create_dir(&dir))?;
    let place = Place { dir: dir.clone(), share: share.to_owned() };
    let verdict = catch_unwind(AssertUnwindSafe(|| (row.check)(&place)));
    let verdict = verdict.unwrap_or_else(|_| Err(Problem::Failed("panicked; see above".into())));
    let gone = done("removing the row's directory", fs::remove_dir_all(&dir));
    verdict.and(gone)
}
