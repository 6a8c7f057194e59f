//! The classic conversion: a directory `TREE/data` as it lies there, with the
//! owners and modes that its files have on the host, becomes a humfs tree in
//! the `shadow_fs` format, and back.
//!
//! Forth, in passes of which each is complete and durable before the next
//! begins; `humfs/converting` says which one is under way:
//!
//! | pass | what is done | a cut is mended by |
//! |---|---|---|
//! | `1` | owner, mode, type and attributes of everything are recorded; nothing in `data/` is changed | the next attempt, which records anew |
//! | `2` | `data/` becomes USER:GROUP's: owners, modes, and regular files in place of devices; then the superblock is written | the next attempt, which goes on: what is done already stays as it is |
//! | `3` | attributes that were found on the host become the guest's; then the tree itself and what was made in it become USER:GROUP's | the same |
//!
//! Back, `humfs/restoring` says how far it is: `1` while what the records say
//! is given to the files, `2` while the records are taken away.
//!
//! Nothing is done by a path: every name is used as one component, relative to
//! the directory that it is in, and links are not followed. Nodes that take
//! the place of others wait in `humfs/nodes` under the number of the inode
//! that they stand for, so that its other names get the same one, also after a
//! cut.

mod change;
mod dates;
mod hands;
mod record;
mod restore;
mod walk;

pub use restore::restore;

use crate::fs::HumFs;
use crate::host::{self, Fault};
use crate::options::Options;
use crate::store::Format;
use crate::superblock::Superblock;
use crate::tree::{Tree, take_lock};
use externfs::{Caller, ExternFs, Name, UsageError, XattrFlags};
use rustix::fs::{AtFlags, Gid, OFlags, Stat, Uid};
use rustix::io::Errno as Host;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The mark of a conversion under way.
pub(crate) const CONVERTING: &CStr = c"converting";

/// The mark of the way back.
pub(crate) const RESTORING: &CStr = c"restoring";

/// In `humfs/`: attributes that were found, until the guest has them. Each
/// file is the path, a NUL, and the record's block.
const FOUND: &CStr = c"found";

/// In `humfs/`: nodes that take the place of others.
const NODES: &CStr = c"nodes";

/// In `humfs/`: how many bytes `data/` took before it was changed.
const USED: &CStr = c"used";

/// In `humfs/`: owner and mode of TREE itself, as a record's line.
const BEFORE: &CStr = c"before";

/// Told of the number of objects done so far in a pass, and which pass it is.
pub type Told<'t> = &'t mut dyn FnMut(Pass, u64);

/// What is being done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pass {
    /// Records are written.
    Recording,
    /// Files change hands.
    Changing,
    /// Files get back what they had.
    Restoring,
}

/// What a tree is converted to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Who is to own everything on the host.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Bytes that the tree may hold.
    pub total: u64,
}

/// A directory that is converted, open and locked.
struct Site<'p> {
    path: &'p Path,
    root: OwnedFd,
    control: OwnedFd,
    uid: Uid,
    gid: Gid,
    lock: OwnedFd,
}

/// Converts the directory `path`, which holds `data/`.
///
/// # Errors
/// One clear line: what is wrong and what to do. A tree that is one already is
/// refused.
pub fn convert(path: &Path, request: &Request, told: Told<'_>) -> Result<(), UsageError> {
    let site = Site::open(path, request)?;
    let cannot = site.cannot();
    let mark = host::read_file(site.control.as_fd(), CONVERTING, 16).unwrap_or_default();
    if mark.is_empty() {
        site.check_untouched()?;
    }
    if !matches!(mark.first(), Some(b'2' | b'3')) {
        site.record(request, told)?;
    }
    if mark.first() != Some(&b'3') {
        change::change(&site, told)?;
        site.write_superblock(request.total).map_err(&cannot)?;
        site.mark(CONVERTING, b"3\n").map_err(&cannot)?;
    }
    site.apply_found()?;
    for name in [FOUND, NODES, USED, c"dates"] {
        host::remove_deep(site.control.as_fd(), name).map_err(&cannot)?;
    }
    site.hand_over().map_err(&cannot)?;
    host::remove_file(site.control.as_fd(), CONVERTING).map_err(cannot)
}

impl Site<'_> {
    fn open<'p>(path: &'p Path, request: &Request) -> Result<Site<'p>, UsageError> {
        let shown = path.display();
        let cannot = |error: Host| UsageError(format!("'{shown}': {error}"));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(cannot)?;
        let data = host::child_dir(root.as_fd(), c"data").map_err(|error| match error {
            Host::NOENT | Host::NOTDIR | Host::LOOP => {
                UsageError(format!("'{shown}' has no directory 'data': move what is to be converted into one"))
            }
            other => cannot(other),
        })?;
        drop(data);
        if host::child(root.as_fd(), c"humfs/restoring").is_ok() {
            return Err(UsageError(format!("'{shown}' is on its way back: 'humfsify -r' completes that")));
        }
        let converting = host::child(root.as_fd(), c"humfs/converting").is_ok();
        let superblock = host::read_file(root.as_fd(), c"superblock", 16).map(|text| !text.is_empty()).unwrap_or(false);
        if superblock && !converting {
            return Err(UsageError(format!(
                "'{shown}' is a humfs tree already: 'externfs resize' changes its size, 'humfsify -r' undoes it"
            )));
        }
        let control = host::ensure_dir(root.as_fd(), c"humfs").map_err(cannot)?;
        let lock = take_lock(control.as_fd(), path)?;
        Ok(Site { path, root, control, uid: Uid::from_raw(request.uid), gid: Gid::from_raw(request.gid), lock })
    }

    fn cannot(&self) -> impl Fn(Host) -> UsageError + use<> {
        let shown = self.path.display().to_string();
        move |error| UsageError(format!("'{shown}': {}", words(error)))
    }

    /// Nothing of another conversion is there: the records that the old
    /// humfsify made before it was cut short are the only ones of owners that
    /// it has taken away already.
    fn check_untouched(&self) -> Result<(), UsageError> {
        for part in record::MADE {
            if host::child(self.root.as_fd(), part).is_ok() {
                let (shown, part) = (self.path.display(), part.to_string_lossy());
                return Err(UsageError(format!(
                    "'{shown}' holds {part} but no superblock: another conversion was cut short; give the files their owners back, or remove {part} if they have them"
                )));
            }
        }
        Ok(())
    }

    fn mark(&self, name: &CStr, text: &[u8]) -> Fault<()> {
        host::replace_file(self.control.as_fd(), name, text)?;
        rustix::fs::fsync(host::open_listing(self.control.as_fd())?)
    }

    /// The first pass.
    fn record(&self, request: &Request, told: Told<'_>) -> Result<(), UsageError> {
        let cannot = self.cannot();
        self.mark(CONVERTING, b"1\n").map_err(&cannot)?;
        let used = record::record(self, told)?;
        if used > request.total {
            // Nothing was changed.
            let undone = self.forget();
            let shown = self.path.display();
            undone.map_err(&cannot)?;
            return Err(UsageError(format!("'{shown}/data' takes {used} bytes already: the size must be larger")));
        }
        host::replace_file(self.control.as_fd(), USED, used.to_string().as_bytes()).map_err(&cannot)?;
        rustix::fs::syncfs(&self.root).map_err(&cannot)?;
        self.mark(CONVERTING, b"2\n").map_err(cannot)
    }

    /// Takes the records away again.
    fn forget(&self) -> Fault<()> {
        for part in record::MADE {
            host::remove_deep(self.root.as_fd(), part)?;
        }
        host::remove_deep(self.root.as_fd(), c"humfs")
    }

    fn write_superblock(&self, total: u64) -> Fault<()> {
        let used = host::read_file(self.control.as_fd(), USED, 32)?;
        let used = std::str::from_utf8(&used).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1);
        let superblock = Superblock { version: 2, format: Format::ShadowFs, used, total };
        // What it speaks of must not come after it.
        rustix::fs::syncfs(&self.root)?;
        host::replace_file(self.root.as_fd(), c"superblock", superblock.to_text().as_bytes())
    }

    /// Gives TREE and what lies in `humfs/` to the new owner too: the server
    /// is going to write there.
    fn hand_over(&self) -> Fault<()> {
        if host::child(self.control.as_fd(), BEFORE).is_err() {
            let before = rustix::fs::fstat(&self.root)?;
            host::replace_file(self.control.as_fd(), BEFORE, record::of(&before).to_line(false).as_bytes())?;
        }
        let root = self.root.as_fd();
        // What a superblock that did not come to be left.
        host::remove_file(root, c"superblock.new")?;
        let mut parts = vec![rustix::io::fcntl_dupfd_cloexec(&self.control, 0)?];
        // The third pass makes them as whoever runs it.
        for part in [c"file_attributes", c"dir_attributes"] {
            match host::child_dir(root, part) {
                Err(Host::NOENT) => {}
                answer => parts.push(answer?),
            }
        }
        self.give_all(parts)?;
        self.give(root, c"superblock")?;
        rustix::fs::fchown(&self.root, Some(self.uid), Some(self.gid))?;
        rustix::fs::fchmod(&self.root, host::DIR_MODE)
    }

    /// The third pass: gives the guest the attributes that were found.
    fn apply_found(&self) -> Result<(), UsageError> {
        let cannot = self.cannot();
        let lock = rustix::io::fcntl_dupfd_cloexec(&self.lock, 0).map_err(&cannot)?;
        let found = match host::child_dir(self.control.as_fd(), FOUND) {
            // An attempt that was cut short has come as far as that.
            Err(Host::NOENT) => return Ok(()),
            answer => answer.map_err(&cannot)?,
        };
        if host::names(found.as_fd()).map_err(cannot)?.is_empty() {
            return Ok(());
        }
        let tree = Tree::open_marked(self.path, Some(lock))?;
        apply(tree, &found).map_err(|error| UsageError(format!("'{}': {error}", self.path.display())))
    }
}

/// Sets what the files in `found` say.
fn apply(tree: Tree, found: &OwnedFd) -> externfs::Result<()> {
    let failed = host::fault("reading humfs/found");
    let fs = HumFs::new(tree, Options::default())?;
    for (file, _) in host::names(found.as_fd()).map_err(&failed)? {
        let bytes = host::read_file(found.as_fd(), &file, 64 << 20).map_err(&failed)?;
        let split = bytes.iter().position(|&byte| byte == 0).ok_or_else(|| host::damaged("humfs/found is malformed"))?;
        let (path, block) = bytes.split_at(split);
        let block = block.get(1..).unwrap_or_default();
        let (record, _) = crate::record::Record::from_block(block).map_err(|why| host::damaged(format!("humfs/found: {why}")))?;
        let mut node = fs.root()?;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            node = fs.lookup(&node, Name::new(name)?)?.0;
        }
        for (name, value) in record.xattrs.iter() {
            fs.set_xattr(&Caller::root(), &node, name, value, XattrFlags::empty())?;
        }
        rustix::fs::unlinkat(found, &file, AtFlags::empty()).map_err(&failed)?;
    }
    fs.close()
}

/// What a user is told of an errno.
fn words(error: Host) -> String {
    match error {
        Host::PERM | Host::ACCESS => format!("{error}: to give files to another user takes root"),
        Host::STALE => "it was exchanged for something else meanwhile: see to it that nobody uses the tree, and try again".to_owned(),
        other => other.to_string(),
    }
}

/// The type bits of a host object.
fn kind_of(stat: &Stat) -> Fault<externfs::FileKind> {
    externfs::FileKind::from_mode(stat.st_mode).ok_or(Host::INVAL)
}
