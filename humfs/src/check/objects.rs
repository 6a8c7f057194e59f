//! [`Survey`]: the walk through all objects, and what is said of each.

use super::finding::{Finding, Mend, Outcome, Problem, kind};
use super::links::{Links, digest};
use super::sanity;
use super::{CheckOptions, Progress};
use crate::account;
use crate::birth;
use crate::fs::adopted;
use crate::host;
use crate::open::Sum;
use crate::options::Adopt;
use crate::record::Record;
use crate::store::xattr::ATTRIBUTE;
use crate::store::{At, Format, Loaded};
use crate::walk::{Folder, Ground, Names, Seen, Visit};
use externfs::{Attr, Errno, Error, FileKind, Name, Result};
use rustix::fs::AtFlags;
use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A finding, with what a repair needs to know.
pub(super) struct Found {
    pub(super) finding: Finding,
    /// None for a part of the tree.
    pub(super) spot: Option<Spot>,
}

/// The object of a finding.
pub(super) struct Spot {
    pub(super) folder: Arc<Folder>,
    /// None for the root.
    pub(super) name: Option<CString>,
    /// Its number on the host; 0 where there is none.
    pub(super) ino: u64,
    /// The record that the policy gives, if it is to be adopted.
    pub(super) adopted: Option<Box<Record>>,
}

impl From<Finding> for Found {
    fn from(finding: Finding) -> Found {
        Found { finding, spot: None }
    }
}

/// See the [module](self).
pub(super) struct Survey<'a> {
    pub(super) options: CheckOptions,
    /// What becomes of files without a record.
    pub(super) adopt: Adopt,
    pub(super) format: Format,
    /// The user of the host whose tree it is.
    pub(super) owner: u32,
    pub(super) progress: &'a Progress,
    pub(super) sum: Sum,
    pub(super) links: Mutex<Links>,
    pub(super) found: Mutex<Vec<Found>>,
    /// Something could not be looked at, so the sum means nothing.
    pub(super) is_partial: AtomicBool,
}

impl Visit for Survey<'_> {
    fn see(&self, seen: &Seen<'_>) -> Result<()> {
        self.progress.step();
        self.host_side(seen);
        self.record(seen);
        Ok(())
    }

    fn list(&self, ground: &Ground<'_>, folder: &Folder, names: &Names) -> Result<()> {
        let volume = |inode: &hostfs::Inode| inode.host_key().volume;
        if folder.inode.whereabouts().is_some_and(|(above, _)| volume(&above) != volume(&folder.inode)) {
            self.tell(Finding::of_object(&folder.path, Problem::OtherFileSystem, None));
        }
        let mut recorded = Names::default();
        if let Err(error) = ground.store.recorded_names(&folder.inode, &mut |name| recorded.push(name)) {
            self.tell(Finding::of_object(&folder.path, Problem::FormatFlaw(reason(&error).into()), None));
        }
        if recorded.is_empty() {
            return Ok(());
        }
        let there: HashSet<&CStr> = names.iter().collect();
        for name in recorded.iter().filter(|name| !there.contains(name)) {
            self.orphan_metadata(ground, folder, name);
        }
        Ok(())
    }

    fn fail(&self, folder: &Folder, name: Option<&CStr>, error: Error) -> Result<()> {
        self.is_partial.store(true, Ordering::Relaxed);
        let path = name.map_or_else(|| folder.path.clone(), |name| folder.path_of(name));
        let problem = Problem::UnreadableDirectory(format!("it cannot be looked at, nor anything in it: {}", reason(&error)).into());
        self.tell(Finding::of_object(&path, problem, None));
        Ok(())
    }
}

impl Survey<'_> {
    pub(super) fn found(&self) -> MutexGuard<'_, Vec<Found>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, finding: Finding) {
        self.found().push(finding.into());
    }

    /// A finding at an object. What another user owns is never repaired: it
    /// may be a second name of something that is none of ours.
    fn tell_at(&self, seen: &Seen<'_>, problem: Problem, mend: Option<Mend>, adopted: Option<Record>) {
        let mend = mend.filter(|_| seen.host.uid.0 == self.owner);
        let finding = Finding::of_object(&seen.path(), problem, mend);
        let spot = (self.options.repair && mend.is_some()).then(|| Spot {
            folder: seen.folder.clone(),
            name: seen.at.as_ref().map(|at| at.name.to_owned()),
            ino: seen.host.ino,
            adopted: adopted.map(Box::new),
        });
        self.found().push(Found { finding, spot });
    }

    /// What the host says of it.
    fn host_side(&self, seen: &Seen<'_>) {
        let (host, owner) = (seen.host, self.owner);
        if host.uid.0 != owner {
            self.tell_at(seen, Problem::ForeignOwner { uid: host.uid.0, owner }, None, None);
        }
        let Some((problem, wanted)) = host_mode(host) else { return };
        let mend = Mend::Chmod(wanted);
        if !self.options.repair || host.uid.0 != owner {
            self.tell_at(seen, problem, Some(mend), None);
            return;
        }
        // Now, since a directory may have to be read next.
        let mut finding = Finding::of_object(&seen.path(), problem, Some(mend));
        finding.outcome = match chmod(seen, wanted) {
            Ok(()) => Outcome::Repaired(format!("the host's mode is {wanted:04o}").into()),
            Err(error) => Outcome::Failed(error.to_string().into()),
        };
        self.tell(finding);
    }

    /// What its record says.
    fn record(&self, seen: &Seen<'_>) {
        let host = seen.host;
        let has_names = host.nlink > 1 && host.kind != FileKind::Directory;
        if host.kind == FileKind::Regular && has_names && self.format == Format::Xattr {
            // One record, whatever the names. What is no regular file has none,
            // and is replaced name by name.
            if !self.links().add(seen, None).is_first {
                return;
            }
            return self.sum.add(account::cost(&seen.counted(), self.judge(seen).map_or(0, |record| record.xattrs.bytes())));
        }
        let record = self.judge(seen);
        if has_names {
            let identity = seen.identity();
            let added = self.links().add(seen, record.as_ref().map(|record| digest(record, identity)));
            if let Some(other) = added.split_from {
                self.tell_at(seen, Problem::SplitHardLink { other }, None, None);
            }
            if !added.is_first {
                return;
            }
        }
        self.sum.add(account::cost(&seen.counted(), record.map_or(0, |record| record.xattrs.bytes())));
        if self.format != Format::Xattr && seen.has_attribute(ATTRIBUTE) {
            self.tell_at(seen, Problem::StrayRecord, Some(Mend::Strip), None);
        }
    }

    /// The record, if there is one that can be read.
    fn judge(&self, seen: &Seen<'_>) -> Option<Record> {
        match seen.load() {
            Ok(Loaded::Record(record)) => {
                if !sanity::fits(self.format, record.kind, seen.host.kind) {
                    let why = format!("the record is that of a {}, the object is a {}", kind(record.kind), kind(seen.host.kind));
                    self.tell_at(seen, Problem::WrongType(why.into()), Some(Mend::Lose), None);
                } else if let Some(why) = sanity::nonsense(&record, self.format) {
                    self.tell_at(seen, Problem::InvalidRecord(why.into()), None, None);
                } else if sanity::is_closed(&record) && seen.is_unwritten() {
                    self.tell_at(seen, Problem::UnwrittenRecord, Some(Mend::Adopt), Some(record.clone()));
                } else if let Some(why) = seen.stranger() {
                    self.tell_at(seen, Problem::InodeReuse(why.into()), None, None);
                }
                Some(record)
            }
            Ok(Loaded::Absent) => {
                self.orphan_data(seen);
                None
            }
            Err(error) => {
                let why = reason(&error);
                let problem = match why.ends_with(sanity::other_type().as_str()) {
                    true => Problem::WrongType(why.into()),
                    false => Problem::UnreadableRecord(why.into()),
                };
                self.tell_at(seen, problem, Some(Mend::Lose), None);
                None
            }
        }
    }

    fn orphan_data(&self, seen: &Seen<'_>) {
        let keeps_by_name = matches!(self.format, Format::ShadowFs | Format::ShadowLink);
        if seen.at.is_none() && !keeps_by_name {
            // The root of a new tree is root's without a record, until it
            // changes; these formats make none before.
            return;
        }
        let (policy, record) = match seen.at {
            None => (Adopt::Root, Some(birth::root())),
            Some(_) => (self.adopt, adopted(self.adopt, seen.host).ok()),
        };
        let mend = if record.is_some() { Mend::Adopt } else { Mend::Lose };
        self.tell_at(seen, Problem::OrphanData { policy }, Some(mend), record);
    }

    fn orphan_metadata(&self, ground: &Ground<'_>, folder: &Folder, name: &CStr) {
        let path = folder.path_of(name);
        if Name::new(name.to_bytes()).is_err() {
            return self.tell(Finding::of_object(&path, Problem::InvalidName, None));
        }
        // Beside a writer it may have been made since.
        let Ok(dir) = ground.base.dir_fd(&folder.inode) else { return };
        if host::stat_at((*dir).as_fd(), name).is_ok() {
            return;
        }
        let finding = Finding::of_object(&path, Problem::OrphanMetadata, Some(Mend::Discard));
        let folder = Arc::new(Folder { inode: folder.inode.clone(), path: folder.path.clone() });
        let spot = self.options.repair.then(|| Spot { folder, name: Some(name.to_owned()), ino: 0, adopted: None });
        self.found().push(Found { finding, spot });
    }
}

/// What the host's permission bits should be, if they are something else.
fn host_mode(host: &Attr) -> Option<(Problem, u16)> {
    /// setuid, setgid, and writing for group and others.
    const CEILING: u16 = 0o6022;
    let floor = match host.kind {
        FileKind::Symlink => return None,
        FileKind::Directory => 0o700,
        FileKind::Regular => 0o600,
        _ => 0,
    };
    let mode = host.mode.bits() as u16;
    let wanted = mode & !CEILING | floor;
    if mode & CEILING != 0 {
        Some((Problem::HostModeTooWide { mode }, wanted))
    } else {
        (mode != wanted).then_some((Problem::HostModeTooNarrow { mode }, wanted))
    }
}

fn chmod(seen: &Seen<'_>, mode: u16) -> Result<()> {
    let held = seen.at.as_ref().map(|at| hold(at, seen.host)).transpose()?;
    let fd = held.as_ref().map_or_else(|| seen.root_fd(), AsFd::as_fd);
    let mode = rustix::fs::Mode::from_raw_mode(mode.into());
    rustix::fs::chmodat(rustix::fs::CWD, host::proc_path(fd), mode, AtFlags::empty()).map_err(host::fault("chmod"))
}

/// A descriptor (`O_PATH`) of `at`, surely of the object that was seen there.
pub(super) fn hold(at: &At<'_>, seen: &Attr) -> Result<OwnedFd> {
    let held = host::child(at.dir, at.name).map_err(host::fault("opening a name"))?;
    let now = rustix::fs::fstat(&held).map_err(host::fault("looking at a file"))?;
    let same = now.st_ino == seen.ino && now.st_uid == seen.uid.0 && FileKind::from_mode(now.st_mode) == Some(seen.kind);
    if same { Ok(held) } else { Err(Errno::ESTALE.into()) }
}

/// Why, for people.
pub(crate) fn reason(error: &Error) -> String {
    error.reason().map_or_else(|| error.errno().phrase().to_owned(), str::to_owned)
}
