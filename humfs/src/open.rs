//! Beginning to serve a tree: finding the counters, settling what was in
//! flight, counting anew where nothing is known.

use crate::account::{self, Account, EntryKind, Limits, State, Usage, state};
use crate::fs::HumFs;
use crate::host::{self, Fault, damaged, fault};
use crate::intent::Journal;
use crate::options::Adopt;
use crate::path;
use crate::store::{At, Loaded, Recovered};
use crate::tree::{Tree, used_now};
use crate::walk::{Ground, Seen, Visit, walk};
use externfs::{ExternFs, FileKind, Result};
use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The account as a predecessor left it, and the journal of changes.
pub(crate) fn account_and_journal(tree: &Tree, read_only: bool) -> Result<(Account, Option<Journal>)> {
    let limits = Limits { bytes: tree.superblock().total, inodes: tree.inode_limit().map_err(fault("reading humfs/settings"))? };
    let found = tree.control().map(state::read).transpose().map_err(fault("reading humfs/state"))?.flatten();
    let (state, left) = found.unwrap_or_else(|| (State::fresh(state::boot_id()), Vec::new()));
    if read_only {
        // What has no name is not to be seen here.
        let mut state = state;
        (state.used, state.orphans) = (state.named(), Usage::default());
        state.used.bytes = used_now(tree, state.used.bytes, &left);
        let mut account = Account::unattached(state, limits);
        if account.used() == Usage::default() {
            account = Account::unattached(State::with_used(tree.superblock().used), limits);
        }
        return Ok((account, None));
    }
    let control = tree.control().ok_or_else(|| damaged("there is no humfs/"))?;
    let file = state::open(control).map_err(fault("opening humfs/state"))?;
    let journal = Journal::new(tree.control_dir(c"changes").map_err(fault("opening humfs/changes"))?);
    Ok((Account::new(file, state, limits), Some(journal)))
}

/// What a look at the state file tells.
enum Counters {
    /// They are right, after these entries.
    Settled(Vec<state::Left>),
    /// Nothing is known.
    Unknown(&'static str),
}

impl HumFs {
    /// Finishes what a predecessor left half done and takes the counters over.
    /// Says so in one line, if there was anything.
    pub(crate) fn put_in_order(&self, recovered: Recovered) -> Result<()> {
        let control = self.tree.control().ok_or_else(|| damaged("there is no humfs/"))?;
        let before = state::read(control).map_err(fault("reading humfs/state"))?;
        // Of a superblock that was being written; the old one is whole.
        host::remove_file(self.tree.root(), c"superblock.new").map_err(fault("removing superblock.new"))?;
        let whiteouts = self.recover_whiteouts()?;
        let counters = match before {
            None => Counters::Unknown("it is mounted for the first time"),
            Some(_) if whiteouts > 0 => Counters::Unknown("a change of several steps was cut short"),
            Some((state, _)) if !state.clean && !state.is_of_this_boot() => Counters::Unknown("the host went down while it was mounted"),
            // Also after an unmount in good order: what had no name and was
            // still open then has gone since.
            Some((_, left)) => Counters::Settled(left),
        };
        let (settled, recounted) = match counters {
            Counters::Settled(left) => match self.settle_left(&left)? {
                Some(used) => {
                    self.account.recounted(used).map_err(fault("writing humfs/state"))?;
                    (left.len(), None)
                }
                None => (left.len(), Some("a change was cut short that cannot be traced")),
            },
            Counters::Unknown(why) => (0, Some(why)),
        };
        if let Some(why) = recounted {
            let used = self.recount()?;
            self.account.recounted(used).map_err(fault("writing humfs/state"))?;
            tracing::info!("{}: counted {} objects, {} bytes: {why}", self.tree.path().display(), used.inodes, used.bytes);
        }
        let (completed, undone) = (recovered.completed + whiteouts, recovered.undone);
        if completed + undone + settled > 0 {
            tracing::info!(
                "{}: was not unmounted: {completed} changes completed, {undone} taken back, {settled} counts settled",
                self.tree.path().display()
            );
        }
        self.account.started().map_err(fault("writing humfs/state"))
    }

    /// What is used after the changes in `left`; None if one cannot be traced.
    fn settle_left(&self, left: &[state::Left]) -> Result<Option<Usage>> {
        let (mut used, mut orphans) = self.account.counted();
        // Two changes of one object have begun with the same cost.
        let mut changed = HashSet::new();
        for entry in left {
            let Some(kind) = entry.kind else { return Ok(None) };
            if kind == EntryKind::Change && entry.path.is_empty() {
                // An object without a name has gone with the process; the root has none either.
                if entry.ino == self.root_key.number && changed.insert(entry.ino) {
                    used.bytes = (used.bytes + self.root()?.state().cost).saturating_sub(entry.before);
                }
                continue;
            }
            let here = self.with_path(&entry.path, |at| {
                let Ok(host) = host::stat_at(at.dir, at.name) else { return Ok(None) };
                // What cannot be read counts without its attributes, as in a recount.
                let xattrs = self.load(at, &host).map_or(0, |record| record.xattrs.bytes());
                let counted = self.beyond.without_at(&host, at.dir, at.name);
                Ok(Some((host.ino, account::cost(&counted, xattrs))))
            })?;
            let here = here.flatten();
            match (kind, here) {
                (EntryKind::Create, Some((ino, cost))) if ino != entry.ino => used.add(Usage::one(cost)),
                (EntryKind::Create, _) => {}
                (EntryKind::Change, Some((ino, _))) if ino == entry.ino && !changed.insert(ino) => {}
                (EntryKind::Change, Some((ino, cost))) if ino == entry.ino => {
                    used.bytes = (used.bytes + cost).saturating_sub(entry.before);
                }
                // It was renamed or removed at the same time.
                (EntryKind::Change, _) => return Ok(None),
                (EntryKind::Remove, Some((ino, _))) if ino == entry.ino => {}
                (EntryKind::Remove, _) => used.sub(Usage::one(entry.before)),
                (EntryKind::Name, Some((ino, _))) if ino == entry.ino => orphans.sub(Usage::one(entry.before)),
                (EntryKind::Name, _) => {}
            }
        }
        used.sub(orphans);
        Ok(Some(used))
    }

    /// Counts every object.
    ///
    /// # Errors
    /// What the host says of a directory.
    pub fn recount(&self) -> Result<Usage> {
        let ground = self.ground()?;
        let count = Recount::default();
        walk(&ground, &count)?;
        Ok(count.sum.total())
    }

    /// The tree as it can be walked.
    pub(crate) fn ground(&self) -> Result<Ground<'_>> {
        Ok(Ground::new(&self.base, &*self.store, self.root()?.inner.clone()))
    }

    /// Calls `act` with the place that `path` below data/ leads to; None if a
    /// directory on the way is not there. Only where nothing else goes on.
    pub(crate) fn with_path<T>(&self, path: &[u8], act: impl FnOnce(&At<'_>) -> Result<T>) -> Result<Option<T>> {
        let Some((above, name)) = path::split(path) else { return Ok(None) };
        let mut dir = self.root()?.inner.clone();
        for component in above {
            match self.base.enroll(&dir, &component) {
                Ok((inner, host)) if host.kind == FileKind::Directory => dir = inner,
                _ => return Ok(None),
            }
        }
        let fd = self.base.dir_fd(&dir)?;
        act(&At { parent: &dir, dir: fd.as_fd(), name: &name }).map(Some)
    }
}

/// What several threads count together.
#[derive(Default)]
pub(crate) struct Sum {
    bytes: AtomicU64,
    inodes: AtomicU64,
}

impl Sum {
    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.inodes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn total(&self) -> Usage {
        Usage { bytes: self.bytes.load(Ordering::Relaxed), inodes: self.inodes.load(Ordering::Relaxed) }
    }
}

#[derive(Default)]
struct Recount {
    sum: Sum,
    /// Objects with several names that have been counted.
    linked: Mutex<HashSet<(u64, u64)>>,
}

impl Visit for Recount {
    fn see(&self, seen: &Seen<'_>) -> Result<()> {
        let has_names = seen.host.nlink > 1 && seen.host.kind != FileKind::Directory;
        if has_names && !self.linked.lock().unwrap_or_else(PoisonError::into_inner).insert(seen.key()) {
            return Ok(());
        }
        // What cannot be read counts without its attributes.
        let xattrs = match seen.load() {
            Ok(Loaded::Record(record)) => record.xattrs.bytes(),
            Ok(Loaded::Absent) | Err(_) => 0,
        };
        self.sum.add(account::cost(&seen.counted(), xattrs));
        Ok(())
    }
}

impl Tree {
    /// How many objects the tree may hold: `inodes N` of `humfs/settings`.
    pub(crate) fn inode_limit(&self) -> Fault<u64> {
        Ok(self.setting("inodes")?.and_then(|value| value.parse().ok()).unwrap_or(u64::MAX))
    }

    /// What becomes of objects without a record: what is `asked` for, or what
    /// `adopt POLICY` of `humfs/settings` says. A policy that cannot be read is
    /// not replaced by a laxer one.
    pub(crate) fn adopt(&self, asked: Option<Adopt>) -> Adopt {
        asked.unwrap_or_else(|| match self.setting("adopt") {
            Ok(None) => Adopt::default(),
            Ok(Some(word)) => Adopt::parse(&word).unwrap_or(Adopt::Refuse),
            Err(_) => Adopt::Refuse,
        })
    }

    /// The value of `key` in `humfs/settings`, a file of lines KEY VALUE.
    pub(crate) fn setting(&self, key: &str) -> Fault<Option<String>> {
        let Some(control) = self.control() else { return Ok(None) };
        let text = match host::read_file(control, c"settings", 4096) {
            Ok(text) => text,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(other) => return Err(other),
        };
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().filter_map(|line| line.split_once(' ')).rfind(|(known, _)| *known == key);
        Ok(line.map(|(_, value)| value.trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::make::{Plan, lay};
    use crate::options::Options;
    use crate::store::{Format, Hold, Object, Place};
    use crate::tree::Access;

    /// As a server leaves it that is killed between the record and the counters.
    #[test]
    fn a_change_of_the_root_that_was_cut_short_is_counted() {
        for format in Format::ALL {
            let dir = tempfile::tempdir().unwrap();
            lay(dir.path(), &Plan { format, total: 1 << 30, inodes: None, adopt: None }).unwrap();
            let open = || HumFs::new(Tree::open(dir.path(), Access::Write).unwrap(), Options::default()).unwrap();
            for (value, cost) in [(&[7; 700][..], 1024), (b"", 512)] {
                let fs = open();
                let root = fs.root().unwrap();
                let entry = fs.changing(&root, &root.state(), None);
                let mut record = root.state().record.clone();
                record.xattrs.set(b"user.mark", value);
                // Two at once have begun with the same cost.
                let announced = [0, 1].map(|_| fs.account.announce(&[entry], Usage::default()).unwrap());
                let host = fs.host_attr(&root, None).unwrap();
                let object = Object { hold: Hold::Path(fs.base.root_fd()), place: Place::Root, host: &host, known: None };
                fs.store.save(&object, &record).unwrap();
                announced.into_iter().for_each(std::mem::forget);
                drop(fs);
                let fs = open();
                assert_eq!(fs.account.used(), fs.recount().unwrap(), "{format:?}");
                assert_eq!(fs.account.used(), Usage::one(account::DIRECTORY_COST + account::INODE_COST + cost));
            }
        }
    }
}
