//! [`Deed`]: one change to a tree, told so that it can be cut short anywhere:
//! what must be there before, what a kernel has looked up and opened by then,
//! and the one request that counts.

mod attributes;
mod contents;
mod names;

use crate::guest::{BOTH, Guest, name};
use externfs::*;

/// How an operation ends.
pub type Answer = std::result::Result<(), Errno>;

/// The request, with all that it takes already in hand.
pub type Act = Box<dyn FnOnce(&Guest) -> Answer>;

/// One change to a tree. Apart from `between`, nobody may ever see anything but
/// the state before it and the state after it.
#[derive(Clone, Copy)]
pub struct Deed {
    /// What the suite calls it.
    pub name: &'static str,
    /// Makes what must be there, in a session of its own.
    pub setup: fn(&Guest) -> Answer,
    /// What the host's administrator removes then, behind our back.
    pub vanished: Option<&'static str>,
    /// Looks up and opens what the request takes.
    pub aim: fn(&Guest) -> std::result::Result<Act, Errno>,
    /// Where POSIX has the request do two things in order, or lets it end early, the
    /// first alone. It is seen as if only this had been asked for.
    pub between: Option<fn(&Guest) -> Answer>,
}

impl Deed {
    const fn new(name: &'static str, setup: fn(&Guest) -> Answer, aim: fn(&Guest) -> std::result::Result<Act, Errno>) -> Deed {
        Deed { name, setup, vanished: None, aim, between: None }
    }

    const fn between(self, first: fn(&Guest) -> Answer) -> Deed {
        Deed { between: Some(first), ..self }
    }

    const fn without(self, vanished: &'static str) -> Deed {
        Deed { vanished: Some(vanished), ..self }
    }

    /// Every one of them.
    pub fn all() -> impl Iterator<Item = Deed> {
        names::DEEDS.iter().chain(contents::DEEDS).chain(attributes::DEEDS).copied()
    }

    /// The one with this name.
    #[must_use]
    pub fn named(wanted: &str) -> Option<Deed> {
        Deed::all().find(|deed| deed.name == wanted)
    }
}

/// What is in every tree and must be the same after every deed: a file with
/// all that a file can have, by two names, and a directory with a device.
///
/// # Errors
/// What the plugin refuses.
pub fn bystanders(guest: &Guest) -> Answer {
    let root = NodeId::ROOT;
    guest.set(root, SetAttr { mode: Some(Mode::new(0o1755)), uid: Some(GuestUid(3)), gid: Some(GuestGid(4)), ..SetAttr::default() })?;
    let kept = file(guest, root, "kept", 0o644, b"kept as it was")?;
    own(guest, kept, 0o4711, 1000, 1001)?;
    xattr(guest, kept, b"user.mark", b"its own")?;
    link(guest, kept, root, "kept too")?;
    let attic = directory(guest, root, "attic", 0o750)?;
    own(guest, attic, 0o2770, 7, 8)?;
    guest.make(attic, "thing", &NewNode::CharDevice(DeviceNumber { major: 1, minor: 3 }), 0o666)?;
    Ok(())
}

fn nothing(_: &Guest) -> Answer {
    Ok(())
}

/// An act that takes nothing from before.
fn act(request: impl FnOnce(&Guest) -> Answer + 'static) -> std::result::Result<Act, Errno> {
    Ok(Box::new(request))
}

fn done<T>(answer: Result<T>) -> Answer {
    answer.map(drop).map_err(|error| error.errno())
}

/// A request that fails as it should is done when it has.
fn refused(answer: Answer, wanted: Errno) -> Answer {
    match answer {
        Err(errno) if errno == wanted => Ok(()),
        Err(other) => Err(other),
        // No plugin ever says this.
        Ok(()) => Err(Errno::ENOSYS),
    }
}

/// A caller who is not root.
fn somebody() -> Caller {
    Caller { uid: GuestUid(1000), gid: GuestGid(1002), umask: 0o022, ..Caller::root() }
}

/// A closed file.
fn file(guest: &Guest, parent: NodeId, text: &str, mode: u32, data: &[u8]) -> std::result::Result<NodeId, Errno> {
    let made = guest.file(parent, text, data)?.id;
    own(guest, made, mode, 500, 501)?;
    Ok(made)
}

fn directory(guest: &Guest, parent: NodeId, text: &str, mode: u32) -> std::result::Result<NodeId, Errno> {
    let made = guest.make(parent, text, &NewNode::Directory, mode)?.id;
    own(guest, made, mode, 600, 601)?;
    Ok(made)
}

/// First the owner, which costs setuid, then the mode.
fn own(guest: &Guest, id: NodeId, mode: u32, uid: u32, gid: u32) -> Answer {
    guest.set(id, SetAttr { uid: Some(GuestUid(uid)), gid: Some(GuestGid(gid)), ..SetAttr::default() })?;
    guest.set(id, SetAttr { mode: Some(Mode::new(mode)), ..SetAttr::default() })?;
    Ok(())
}

fn xattr(guest: &Guest, id: NodeId, key: &[u8], value: &[u8]) -> Answer {
    done(guest.export.set_xattr(&guest.caller, id, key, value, XattrFlags::empty()))
}

fn link(guest: &Guest, id: NodeId, parent: NodeId, text: &str) -> Answer {
    guest.keep(guest.export.link(&guest.caller, id, parent, name(text))).map(drop)
}

fn rename(guest: &Guest, from: (NodeId, &str), to: (NodeId, &str), flags: RenameFlags) -> Answer {
    done(guest.export.rename(&guest.caller, (from.0, name(from.1)), (to.0, name(to.1)), flags))
}

/// A file's number by a path of at most two components.
fn find(guest: &Guest, path: &str) -> std::result::Result<NodeId, Errno> {
    path.split('/').try_fold(NodeId::ROOT, |at, component| guest.lookup(at, component).map(|entry| entry.id))
}

fn create(guest: &Guest, parent: NodeId, text: &str, flags: CreateFlags) -> Answer {
    let (entry, handle) = guest.export.create(&somebody(), parent, name(text), flags).map_err(|error| error.errno())?;
    guest.close(handle.id);
    guest.keep(Ok(entry)).map(drop)
}

fn creation(mode: u32, exclusive: bool) -> CreateFlags {
    CreateFlags { mode: Mode::new(mode), exclusive, open: BOTH }
}
