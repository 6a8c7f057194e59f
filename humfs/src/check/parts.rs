//! What lies in TREE beside the data: who may come near it, what is left over
//! in it, whether its counters are right.

use super::finding::{Finding, Mend, Problem};
use crate::account::{Usage, state};
use crate::host;
use crate::options::Adopt;
use crate::store::Format;
use crate::tree::{Tree, UNFINISHED};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno as Host;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

/// Parts of the tree that nobody but its owner may change.
const IN_TREE: [&CStr; 6] = [c"superblock", c"humfs", c"file_metadata", c"dir_metadata", c"file_attributes", c"dir_attributes"];
const IN_CONTROL: [&CStr; 10] =
    [c"lock", c"state", c"settings", c"superblock.lock", c"intents", c"changes", c"stage", c"metadata.db", c"metadata.db-wal", c"catalog"];

/// What is written under these names first and renamed when it is whole
/// (`host::replace_file`; the database is made so). Others that look like them are a user's.
const NEW_IN_TREE: [&CStr; 1] = [c"superblock.new"];
const NEW_IN_CONTROL: [&CStr; 8] =
    [c"settings.new", c"state.new", c"switching.new", c"metadata.db.new", c"converting.new", c"restoring.new", c"used.new", c"before.new"];

/// Writing, for group and others.
const WRITABLE: u32 = 0o022;

/// The user of the host whose tree it is.
pub(super) fn owner(tree: &Tree) -> u32 {
    rustix::fs::statat(tree.data(), c"", AtFlags::EMPTY_PATH).map_or(u32::MAX, |stat| stat.st_uid)
}

/// Who else may come near. `repair` closes what can be closed, and says so.
pub(super) fn privacy(tree: &Tree, repair: bool) -> Vec<Finding> {
    let owner = owner(tree);
    // Who may write an attribute can forge a record of this format, and
    // everybody may write to a file of his own that has a name in here.
    let closed = if tree.superblock().format == Format::Xattr { 0o077 } else { WRITABLE };
    let mut found = Vec::new();
    let mut judge = |shown: String, dir: BorrowedFd<'_>, name: &CStr, forbidden: u32| {
        let flags = if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
        let Ok(stat) = rustix::fs::statat(dir, name, flags) else { return };
        if stat.st_uid != owner && stat.st_uid != 0 {
            found.push(Finding::of_part(&shown, Problem::ForeignOwner { uid: stat.st_uid, owner }, None));
        }
        let mode = stat.st_mode & 0o7777;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            found.push(Finding::of_part(&shown, Problem::FormatFlaw("it is a symbolic link: no part of a tree is one".into()), None));
        } else if mode & forbidden != 0 {
            let wanted = mode & !forbidden;
            let mend = (stat.st_uid == owner).then_some(Mend::Chmod(wanted as u16));
            let mut finding = Finding::of_part(&shown, Problem::OpenToOthers { mode: mode as u16 }, mend);
            if repair && mend.is_some() {
                finding.settle(close(dir, name, wanted).map(|()| format!("the host's mode is {wanted:04o}")));
            }
            found.push(finding);
        }
    };
    judge(".".into(), tree.root(), c"", closed);
    for name in IN_TREE {
        judge(name.to_string_lossy().into_owned(), tree.root(), name, WRITABLE);
    }
    if let Some(control) = tree.control() {
        for name in IN_CONTROL {
            judge(format!("humfs/{}", name.to_string_lossy()), control, name, WRITABLE);
        }
    }
    found
}

fn close(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> host::Fault<()> {
    let mode = rustix::fs::Mode::from_raw_mode(mode);
    if name.is_empty() {
        return rustix::fs::chmodat(rustix::fs::CWD, host::proc_path(dir), mode, AtFlags::empty());
    }
    let held = host::child(dir, name)?;
    rustix::fs::chmodat(rustix::fs::CWD, host::proc_path(held.as_fd()), mode, AtFlags::empty())
}

/// What is left of changes that were cut short.
pub(super) fn leftovers(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    half_written_in(tree.root(), "", &NEW_IN_TREE, &mut found);
    let Some(control) = tree.control() else { return found };
    half_written_in(control, "humfs/", &NEW_IN_CONTROL, &mut found);
    for (dir, what) in [
        (c"stage", "something was being made when the writer died"),
        (c"intents", "a change of several steps was cut short"),
        (c"changes", "a rename with a whiteout was cut short"),
    ] {
        let Ok(inside) = host::child_dir(control, dir) else { continue };
        for (name, _) in host::names(inside.as_fd()).unwrap_or_default() {
            let part = [b"humfs/", dir.to_bytes(), b"/", name.to_bytes()].concat();
            found.push(Finding::of_part(part, Problem::CutChange(what), Some(Mend::Recover)));
        }
    }
    for (name, what, mend) in [
        (c"convert", "a conversion was cut short: 'externfs convert' goes on with it", Some(Mend::Recover)),
        (c"dropped", "a conversion was given up", Some(Mend::Recover)),
        (c"old", "what a conversion replaced is still there: look at it, then remove it", None),
    ] {
        if host::child(control, name).is_ok() {
            found.push(Finding::of_part(format!("humfs/{}", name.to_string_lossy()), Problem::CutChange(what), mend));
        }
    }
    found
}

/// The mark of a tree that is not complete, and is somebody's to complete:
/// records that it lacks are still to come.
pub(super) fn unfinished(tree: &Tree) -> Option<Finding> {
    let (mark, remedy) =
        UNFINISHED.into_iter().find(|(mark, _)| tree.control().is_some_and(|control| host::child(control, mark).is_ok()))?;
    let problem = Problem::Unfinished(remedy);
    Some(Finding::of_part(format!("humfs/{}", mark.to_string_lossy()), problem, None))
}

/// Whether a conversion is under way, which gives files second names.
pub(super) fn is_converting(tree: &Tree) -> bool {
    tree.control().is_some_and(|control| crate::convert::SECOND_NAMES.iter().any(|name| host::child(control, name).is_ok()))
}

fn half_written_in(dir: BorrowedFd<'_>, above: &str, names: &[&CStr], found: &mut Vec<Finding>) {
    let what = "it was being written when the writer died";
    for name in names.iter().filter(|name| host::child(dir, name).is_ok()) {
        let part = [above.as_bytes(), name.to_bytes()].concat();
        found.push(Finding::of_part(part, Problem::CutChange(what), Some(Mend::Sweep)));
    }
}

/// Where things are that have no place yet.
pub(super) const STAGE: &[u8] = b"humfs/stage/";

/// Removes what was being made.
pub(super) fn unstage(tree: &Tree, part: &[u8]) -> host::Fault<()> {
    let stage = host::child_dir(tree.control().ok_or(Host::NOENT)?, c"stage")?;
    let name = part.strip_prefix(STAGE).and_then(|name| CString::new(name).ok()).ok_or(Host::INVAL)?;
    host::remove_deep(stage.as_fd(), &name)
}

/// Removes a part that means nothing.
pub(super) fn sweep(tree: &Tree, part: &[u8]) -> host::Fault<()> {
    let (dir, name) = match part.strip_prefix(b"humfs/") {
        Some(name) => (tree.control().ok_or(Host::NOENT)?, name),
        None => (tree.root(), part),
    };
    let name = CString::new(name).map_err(|_| Host::INVAL)?;
    host::remove_file(dir, &name)
}

/// What is not right in `humfs/settings`.
pub(super) fn settings(tree: &Tree) -> Vec<Finding> {
    let unreadable = |error: Host| format!("it cannot be read: {error}");
    let inodes = match tree.setting("inodes") {
        Ok(Some(value)) if value.parse::<u64>().is_err() => {
            Some(format!("'inodes {}' is no number: there is no limit while it stands", value.escape_debug()))
        }
        Ok(_) => None,
        Err(error) => Some(unreadable(error)),
    };
    let adopt = match tree.setting("adopt") {
        Ok(Some(value)) if Adopt::parse(&value).is_none() => {
            Some(format!("'adopt {}' is not root, owner-map or refuse: refuse while it stands", value.escape_debug()))
        }
        _ => None,
    };
    let finding = |invalid: String| Finding::of_part("humfs/settings", Problem::InvalidSetting(invalid.into()), None);
    inodes.into_iter().chain(adopt).map(finding).collect()
}

/// The counters as a writer left them.
pub(super) struct Counters {
    /// What is counted and has a name; None where it is still to be settled.
    pub(super) said: Option<Usage>,
    /// Changes that were under way.
    pub(super) in_flight: usize,
    /// The file is there and is none of ours.
    pub(super) is_damaged: bool,
    /// What the superblock says, and the state, where they must agree.
    used: Option<(u64, u64)>,
}

impl Counters {
    /// Those of `tree`; none where nobody has counted yet.
    pub(super) fn read(tree: &Tree) -> Counters {
        let mut counters = Counters { said: None, in_flight: 0, is_damaged: false, used: None };
        let Some(control) = tree.control() else { return counters };
        match state::read(control) {
            Ok(Some((state, left))) => {
                let said = state.named();
                counters.in_flight = left.len();
                counters.said = left.is_empty().then_some(said);
                counters.used = state.clean.then_some((tree.superblock().used, state.used.bytes.max(1)));
            }
            Ok(None) => counters.is_damaged = host::child(control, c"state").is_ok(),
            Err(_) => counters.is_damaged = true,
        }
        counters
    }

    /// What is wrong with them, without counting.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if self.is_damaged {
            let why = "it is no file of counters: the next mount counts anew";
            found.push(Finding::of_part("humfs/state", Problem::FormatFlaw(why.into()), Some(Mend::Count)));
        }
        for _ in 0..self.in_flight {
            let what = "a change was under way, or not counted yet, when the server was killed";
            found.push(Finding::of_part("humfs/state", Problem::CutChange(what), Some(Mend::Recover)));
        }
        if let Some((superblock, state)) = self.used.filter(|(superblock, state)| superblock != state) {
            found.push(Finding::of_part("superblock", Problem::WrongUsed { superblock, state }, Some(Mend::Count)));
        }
        found
    }
}
