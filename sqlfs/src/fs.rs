//! [`SqlFs`]: the tree. Which name means what is in `names.rs`, what a file
//! contains in `contents.rs`, the part below `tables/` in `tables.rs`, changes
//! of rows in `rows.rs`.
//!
//! # Locks
//! ```text
//! SqlFs::refreshing  while the schema is read, which takes a query's time at most
//!   SqlFs::schema    for a moment
//! Talk, Writing      one open file's, while its query or change runs
//! Saved, Draft, Journal::lines, SqlFs::withdrawn   for a moment
//! ```

use crate::contents::{File, Open};
use crate::journal::Journal;
use crate::options::Options;
use crate::place::{Node, Place};
use crate::query::{Answer, Ask, Engine, Refusal, Schema};
use crate::rows::Withdrawn;
use crate::saved::{Draft, Saved};
use externfs::helper::{list, plain_attr};
use externfs::{
    Attr, Caller, Child, CreateFlags, Created, DataSink, DataSource, DirEntry, Errno, ExternFs, FileKind, GuestUid, Limits, Mode, Name,
    NewNode, NodeKey, OpenFlags, Opened, RenameFlags, Result, SetAttr, SetTime, Timestamp, WriteFlags,
};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How long names below `tables/` are taken from the same look at the schema.
const SCHEMA_AGE: Duration = Duration::from_secs(1);

/// A listing that was taken when it was opened.
#[derive(Debug)]
pub struct Listing(pub(crate) Vec<(String, u64, FileKind)>);

/// A database as a tree. `MAPPING.md` says what is in it.
#[derive(Debug)]
pub struct SqlFs {
    pub(crate) engine: Arc<Engine>,
    /// The database's file name.
    pub(crate) name: String,
    pub(crate) options: Options,
    pub(crate) saved: Saved,
    pub(crate) journal: Arc<Journal>,
    pub(crate) withdrawn: Withdrawn,
    schema: Mutex<Option<(Instant, Arc<Schema>)>>,
    refreshing: Mutex<()>,
    /// Two of them make a node's number from its place: a guest that does not
    /// know them cannot make two places look like one.
    hashers: (RandomState, RandomState),
    born: Timestamp,
}

impl SqlFs {
    pub(crate) fn new(engine: Engine, name: String, options: Options) -> SqlFs {
        SqlFs {
            engine: Arc::new(engine),
            name,
            options,
            saved: Saved::default(),
            journal: Arc::default(),
            withdrawn: Withdrawn::default(),
            schema: Mutex::default(),
            refreshing: Mutex::default(),
            hashers: (RandomState::new(), RandomState::new()),
            born: Timestamp::now(),
        }
    }

    /// Puts a file into `queries/`.
    pub(crate) fn save(&self, name: &str, sql: &[u8]) -> Result<()> {
        let draft = self.saved.create(name, Mode::new(0o600), true)?;
        draft.fill(sql)
    }

    pub(crate) fn node(&self, place: Place) -> Node {
        self.node_with(place, None)
    }

    pub(crate) fn node_of(&self, draft: Arc<Draft>) -> Node {
        self.node_with(Place::Draft(draft.id), Some(draft))
    }

    fn node_with(&self, place: Place, draft: Option<Arc<Draft>>) -> Node {
        let key = match place {
            Place::Root => NodeKey { volume: 0, number: 1, generation: 0 },
            _ => NodeKey { volume: 0, number: self.number(&place), generation: self.hashers.1.hash_one(&place) },
        };
        Node { place, key, draft, shown: Arc::default() }
    }

    /// Corresponds to `st_ino`: none of the small numbers that mean something.
    pub(crate) fn number(&self, place: &Place) -> u64 {
        self.hashers.0.hash_one(place) >> 16 | 1 << 48
    }

    /// Whether `caller` may ask at all.
    fn admit(&self, caller: &Caller) -> Result<()> {
        let GuestUid(uid) = caller.uid;
        if uid == 0 || self.options.uids.contains(&uid) { Ok(()) } else { Err(Errno::EACCES.into()) }
    }

    /// Notes a refusal, and makes it an errno.
    pub(crate) fn refuse(&self, uid: Option<u32>, what: &str, refusal: &Refusal) -> externfs::Error {
        self.journal.note(uid, what, refusal);
        refusal.into()
    }

    pub(crate) fn run(&self, uid: Option<u32>, ask: Ask) -> Result<Answer> {
        let what = ask.sql.clone();
        self.engine.run(ask).map_err(|refusal| self.refuse(uid, &what, &refusal))
    }

    /// What the database's tables are, a moment ago at most; or a while ago, where
    /// somebody else is looking right now or too many ask to look: names are not
    /// to wait for queries.
    pub(crate) fn schema(&self) -> Result<Arc<Schema>> {
        let known = self.known_schema();
        let refreshing = match (&known, self.refreshing.try_lock()) {
            (Some((when, schema)), _) if when.elapsed() < SCHEMA_AGE => return Ok(schema.clone()),
            (_, Ok(guard)) => guard,
            (Some((_, schema)), Err(TryLockError::WouldBlock)) => return Ok(schema.clone()),
            (_, Err(_)) => self.refreshing.lock().unwrap_or_else(PoisonError::into_inner),
        };
        match (self.engine.schema(), self.known_schema()) {
            (Ok(schema), _) => {
                let schema = Arc::new(schema);
                *self.schema.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), schema.clone()));
                drop(refreshing);
                Ok(schema)
            }
            (Err(refusal), Some((_, schema))) if refusal.errno == Errno::EAGAIN => Ok(schema),
            (Err(refusal), _) => Err(self.refuse(None, "reading the schema", &refusal)),
        }
    }

    fn known_schema(&self) -> Option<(Instant, Arc<Schema>)> {
        self.schema.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Root's alone, or his who is the only one; with several, everybody may
    /// come in and is asked who he is when he opens something.
    fn owner_and_mode(&self, kind: FileKind, writable: bool) -> (u32, u32) {
        let (all, owner) = match self.options.uids.as_slice() {
            [] => (false, 0),
            [uid] => (false, *uid),
            _ => (true, 0),
        };
        let own = if kind == FileKind::Directory { 0o500 } else { 0o400 } | if writable { 0o200 } else { 0 };
        (owner, if all { own | own >> 3 | own >> 6 } else { own })
    }

    pub(crate) fn attr_of(&self, node: &Node) -> Attr {
        let kind = node.place.kind();
        let changes = self.options.writes;
        let writable = match node.place {
            Place::Queries | Place::Talk(_) | Place::Draft(_) => !self.options.read_only,
            Place::Rows(_) | Place::Row { .. } | Place::Cell { .. } => changes,
            _ => false,
        };
        let (uid, mode) = self.owner_and_mode(kind, writable);
        let mut attr = plain_attr(node.key.number, kind, mode, node.shown.size());
        (attr.uid, attr.atime, attr.mtime, attr.ctime) = (GuestUid(uid), self.born, self.born, self.born);
        if let Some(draft) = &node.draft {
            let facts = draft.facts();
            attr.size = facts.size;
            attr.blocks = facts.size.div_ceil(512);
            (attr.mode, attr.atime, attr.mtime, attr.ctime) = (facts.mode, facts.atime, facts.mtime, facts.ctime);
        }
        attr
    }

    fn with_attr(&self, node: Node) -> (Node, Attr) {
        let attr = self.attr_of(&node);
        (node, attr)
    }

    /// A new file's mode; of several users' files, everybody's.
    fn new_mode(&self, caller: &Caller, mode: Mode) -> Mode {
        let all = if self.options.uids.len() > 1 { 0o666 } else { 0 };
        Mode::new(mode.bits() & !caller.umask & 0o777 | 0o600 | all)
    }
}

/// A component as text; what is none means nothing here.
fn text(name: Name<'_>) -> Result<&str> {
    std::str::from_utf8(name.as_bytes()).map_err(|_| Errno::ENOENT.into())
}

fn time(wanted: Option<SetTime>) -> Option<Timestamp> {
    wanted.map(|wanted| match wanted {
        SetTime::Now => Timestamp::now(),
        SetTime::At(time) => time,
    })
}

impl ExternFs for SqlFs {
    type Node = Node;
    type File = File;
    type Dir = Listing;

    fn limits(&self) -> Limits {
        // The longest that the protocol carries: names are queries.
        Limits { name_max: externfs::NAME_LIMIT, ..Limits::default() }
    }

    fn root(&self) -> Result<Node> {
        Ok(self.node(Place::Root))
    }

    fn key(&self, node: &Node) -> NodeKey {
        node.key
    }

    fn attr(&self, node: &Node, _: Option<&File>) -> Result<Attr> {
        Ok(self.attr_of(node))
    }

    fn lookup(&self, parent: &Node, name: Name<'_>) -> Result<(Node, Attr)> {
        self.child(&parent.place, text(name)?).map(|node| self.with_attr(node))
    }

    fn open_dir(&self, node: &Node) -> Result<Listing> {
        self.names(&node.place).map(Listing)
    }

    fn read_dir(&self, dir: &Listing, cookie: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        list(dir.0.iter().map(|(name, ino, kind)| (name.as_bytes(), *ino, *kind)), cookie, emit);
        Ok(())
    }

    fn open(&self, caller: &Caller, node: &Node, flags: OpenFlags) -> Result<Opened<File>> {
        self.admit(caller)?;
        self.open_place(caller.uid.0, node, flags)
    }

    fn read(&self, file: &File, offset: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize> {
        self.read_file(file, offset, size, sink)
    }

    fn write(&self, file: &File, offset: u64, source: &mut dyn DataSource, flags: WriteFlags) -> Result<usize> {
        match &file.0 {
            Open::Talk(talk) => self.write_talk(talk, source),
            Open::Draft(draft) => draft.write((!flags.append).then_some(offset), source),
            Open::Cell(writing) => writing.write((!flags.append).then_some(offset), source),
            Open::Answer { .. } | Open::Text { .. } => Err(Errno::EBADF.into()),
        }
    }

    fn flush(&self, file: &File) -> Result<()> {
        match &file.0 {
            Open::Cell(writing) => writing.settle(),
            _ => Ok(()),
        }
    }

    fn set_attr(&self, caller: &Caller, node: &Node, file: Option<&File>, change: &SetAttr) -> Result<Attr> {
        self.admit(caller)?;
        let size_only = SetAttr {
            size: change.size,
            kill_suid_sgid: change.kill_suid_sgid,
            mtime: change.mtime,
            ctime: change.ctime,
            ..SetAttr::default()
        };
        match (&node.place, &node.draft) {
            (_, Some(draft)) => {
                let owner = self.attr_of(node);
                if change.uid.is_some_and(|uid| uid != owner.uid) || change.gid.is_some_and(|gid| gid != owner.gid) {
                    return Err(Errno::EPERM.into());
                }
                if let Some(size) = change.size {
                    draft.resize(size)?;
                }
                let mode = change.mode.map(|mode| Mode::new(mode.bits() & 0o777));
                draft.change(mode, time(change.atime), time(change.mtime));
            }
            // What `> query` asks for; there is nothing to cut.
            (Place::Talk(_), _) if change.size.is_some() && *change == size_only => {}
            (Place::Cell { .. }, _) if self.options.writes && change.size.is_some() && *change == size_only => {
                self.resize_cell(caller.uid.0, node, change.size.unwrap_or(0), file.is_none())?;
            }
            _ => return Err(Errno::EROFS.into()),
        }
        Ok(self.attr_of(node))
    }

    fn create(&self, caller: &Caller, parent: &Node, name: Name<'_>, flags: CreateFlags) -> Result<Created<Node, File>> {
        self.admit(caller)?;
        let node = match &parent.place {
            Place::Queries => {
                let mode = self.new_mode(caller, flags.mode);
                let draft = self.saved.create(text(name)?, mode, flags.exclusive)?;
                self.node_of(draft)
            }
            Place::Row { table, key } if self.options.writes => self.restore_cell(table, key, text(name)?)?,
            _ => return Err(Errno::EROFS.into()),
        };
        let opened = self.open_place(caller.uid.0, &node, flags.open)?;
        let (node, attr) = self.with_attr(node);
        Ok(Created { node, attr, opened })
    }

    fn make(&self, caller: &Caller, parent: &Node, name: Name<'_>, new: &NewNode<'_>, mode: Mode) -> Result<(Node, Attr)> {
        self.admit(caller)?;
        let node = match (&parent.place, new) {
            (Place::Queries, NewNode::Regular) => {
                let draft = self.saved.create(text(name)?, self.new_mode(caller, mode), true)?;
                self.node_of(draft)
            }
            (Place::Queries, _) => return Err(Errno::EPERM.into()),
            (Place::Rows(table), NewNode::Directory) if self.options.writes => self.insert_row(caller.uid.0, table, text(name)?)?,
            (Place::Rows(_) | Place::Row { .. }, _) if self.options.writes => return Err(Errno::EPERM.into()),
            _ => return Err(Errno::EROFS.into()),
        };
        Ok(self.with_attr(node))
    }

    fn remove(&self, caller: &Caller, parent: &Node, child: Child<'_, Node>, directory: bool) -> Result<()> {
        self.admit(caller)?;
        let name = text(child.name)?;
        match &parent.place {
            Place::Queries if self.saved.get(name).is_some() => {
                if directory {
                    Err(Errno::ENOTDIR.into())
                } else {
                    self.saved.remove(name)
                }
            }
            // What a saved query is run by goes with the query.
            Place::Queries => Err(Errno::EPERM.into()),
            Place::Rows(table) if self.options.writes => match directory {
                true => self.delete_row(caller.uid.0, table, name),
                false => Err(Errno::EISDIR.into()),
            },
            Place::Row { table, key } if self.options.writes => match directory {
                true => Err(Errno::ENOTDIR.into()),
                false => self.clear_cell(caller.uid.0, table, key, name),
            },
            _ => Err(Errno::EROFS.into()),
        }
    }

    fn rename(&self, caller: &Caller, from: (&Node, Child<'_, Node>), to: (&Node, Child<'_, Node>), flags: RenameFlags) -> Result<()> {
        self.admit(caller)?;
        let (old, new) = (text(from.1.name)?, text(to.1.name)?);
        match (&from.0.place, &to.0.place) {
            (Place::Queries, Place::Queries) if flags.contains(RenameFlags::WHITEOUT) => Err(Errno::EINVAL.into()),
            (Place::Queries, Place::Queries) if flags.contains(RenameFlags::EXCHANGE) => self.saved.exchange(old, new),
            (Place::Queries, Place::Queries) if self.saved.get(old).is_none() => Err(Errno::EPERM.into()),
            (Place::Queries, Place::Queries) => self.saved.rename(old, new, !flags.contains(RenameFlags::NOREPLACE)),
            // Not EXDEV: mv(1) would copy the answer, and remove what it came from.
            (Place::Rows(_) | Place::Row { .. }, _) | (_, Place::Rows(_) | Place::Row { .. }) if self.options.writes => {
                Err(Errno::EPERM.into())
            }
            _ => Err(Errno::EROFS.into()),
        }
    }
}
