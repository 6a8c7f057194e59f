//! [`explain`]: where each attribute of one object comes from.

use crate::account;
use crate::beyond::Beyond;
use crate::check::{kind, nonsense, reason, shown};
use crate::fs::{adopted, merged};
use crate::host::stat_at;
use crate::options::Adopt;
use crate::path;
use crate::record::Record;
use crate::store::{At, Format, Loaded, MetaStore};
use crate::tree::{Access, Tree};
use externfs::{Attr, ExternFs, FileKind, Result, UsageError};
use hostfs::{HostFs, Inode};
use std::ffi::CString;
use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

/// One attribute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fact {
    /// What it is called.
    pub name: &'static str,
    /// What the guest sees.
    pub value: String,
    /// Where it is kept.
    pub source: String,
}

/// See the [module](self).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The attributes.
    pub facts: Vec<Fact>,
    /// What else is to be said, a line each.
    pub notes: Vec<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.facts.iter().map(|fact| fact.value.chars().count()).max().unwrap_or(0).min(40);
        for Fact { name, value, source } in &self.facts {
            writeln!(f, "{name:>10}: {value:<width$}  {source}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{:>10}: {note}", "note"))
    }
}

/// Explains what is called `inside` in the tree at `path`: a path from the
/// guest's root, links not followed. Nothing is changed; a writer may be at
/// work.
///
/// # Errors
/// One clear line.
pub fn explain(path: &Path, inside: &[u8], adopt: Option<Adopt>) -> std::result::Result<Explanation, UsageError> {
    let tree = Tree::open_exposed(path, Access::Read)?;
    let (store, adopt) = (tree.store()?, tree.adopt(adopt));
    let inside: Vec<u8> = inside.split(|&byte| byte == b'/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&b'/');
    let failed = |why: String| UsageError(format!("'{}': /{}: {why}", path.display(), shown(&inside)));
    let explained = Subject::find(&tree, &*store, &inside).and_then(|subject| subject.map(|subject| subject.explain(adopt)).transpose());
    match explained {
        Ok(Some(explanation)) => Ok(explanation),
        Ok(None) => Err(failed("there is no such file".into())),
        Err(error) => Err(failed(reason(&error))),
    }
}

/// The object that is explained.
struct Subject<'a> {
    store: &'a dyn MetaStore,
    base: HostFs,
    /// Below data/.
    path: Vec<u8>,
    /// None for the root.
    place: Option<(Arc<Inode>, CString)>,
    host: Attr,
}

impl<'a> Subject<'a> {
    fn find(tree: &Tree, store: &'a dyn MetaStore, inside: &[u8]) -> Result<Option<Subject<'a>>> {
        let data = rustix::io::fcntl_dupfd_cloexec(tree.data(), 0).map_err(crate::host::fault("opening data/"))?;
        let base = HostFs::layer(data, true)?;
        let mut dir = base.root()?;
        if inside.is_empty() {
            let host = base.attr(&dir, None)?;
            return Ok(Some(Subject { store, base, path: Vec::new(), place: None, host }));
        }
        let Some((above, name)) = path::split(inside) else { return Ok(None) };
        for component in above {
            match base.enroll(&dir, &component) {
                Ok((inode, host)) if host.kind == FileKind::Directory => dir = inode,
                Ok(_) => return Err(crate::host::damaged(format!("'{}' on the way is no directory", shown(component.to_bytes())))),
                Err(_) => return Ok(None),
            }
        }
        let fd = base.dir_fd(&dir)?;
        let host = match stat_at((*fd).as_fd(), &name) {
            Ok(host) => host,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(other) => return Err(crate::host::fault("looking up a name")(other)),
        };
        drop(fd);
        Ok(Some(Subject { store, base, path: inside.to_vec(), place: Some((dir, name)), host }))
    }

    fn explain(&self, adopt: Adopt) -> Result<Explanation> {
        let dir = self.place.as_ref().map(|(parent, _)| self.base.dir_fd(parent)).transpose()?;
        let at = self.place.as_ref().zip(dir.as_ref()).map(|((parent, name), dir)| At { parent, dir: (**dir).as_fd(), name });
        let root = self.base.root_fd();
        let loaded = match &at {
            Some(at) => self.store.load(at, &self.host),
            None => self.store.load_root(root, &self.host),
        };
        let mut notes = Vec::new();
        let record = match loaded {
            Ok(Loaded::Record(record)) => {
                notes.extend(nonsense(&record, self.store.format()).map(|why| format!("{why}; see 'externfs check'")));
                Some((record, true))
            }
            Ok(Loaded::Absent) => {
                notes.push(
                    if at.is_some() { absent(adopt) } else { "it has no record; a root without one is root's, with mode 0755" }.into(),
                );
                let record = if at.is_some() { adopted(adopt, &self.host).ok() } else { Some(crate::birth::root()) };
                record.map(|record| (record, false))
            }
            Err(error) => {
                notes.push(format!("{}; the guest gets EIO, 'externfs check --repair' moves it to /lost+found", reason(&error)));
                None
            }
        };
        let mut facts = Vec::new();
        if let Some((record, is_kept)) = &record {
            self.of_record(record, *is_kept, &mut facts);
        }
        self.of_host(record.as_ref().map(|(record, _)| record), &mut facts);
        if record.is_none_or(|(_, is_kept)| is_kept) {
            facts.push(Fact { name: "record", value: String::new(), source: self.store.describe(root, at.as_ref()) });
        }
        Ok(Explanation { facts, notes })
    }

    fn on_host(&self) -> String {
        if self.path.is_empty() { "data".into() } else { format!("data/{}", shown(&self.path)) }
    }

    /// What the record says, or what stands for it.
    fn of_record(&self, record: &Record, is_kept: bool, facts: &mut Vec<Fact>) {
        let places = Places::of(self.store.format());
        let native = record.kind == self.host.kind;
        let source = |place: &str| if is_kept { format!("the record, {place}") } else { "no record: by the policy".into() };
        let mut tell = |name, value: String, source: String| facts.push(Fact { name, value, source });
        let kind_source = if native && !places.has_kind { self.on_host() } else { source(places.kind) };
        tell("type", kind(record.kind).into(), kind_source);
        tell("mode", format!("{:04o}", record.mode.bits()), source(places.mode));
        tell("uid", record.uid.0.to_string(), source(places.uid));
        tell("gid", record.gid.0.to_string(), source(places.gid));
        if record.kind.is_device() {
            tell("device", format!("{}:{}", record.device.major, record.device.minor), source(places.device));
        }
        for (name, value) in record.xattrs.iter() {
            tell("attribute", format!("{} ({} bytes)", shown(name), value.len()), source(places.xattrs));
        }
        if record.kind == FileKind::Symlink {
            let length = record.target.as_ref().map_or(self.host.size, |target| target.len() as u64);
            let inline = record.target.is_some() && self.host.size == 0;
            tell("target", format!("{length} bytes"), if inline { source(places.target) } else { self.on_host() });
        }
    }

    /// What the host says, with those blocks only that count.
    fn counted(&self) -> Attr {
        let Some((parent, name)) = &self.place else { return self.host };
        let beyond = Beyond::of(self.base.root_fd());
        self.base.dir_fd(parent).map_or(self.host, |dir| beyond.without_at(&self.host, dir.as_fd(), name))
    }

    /// What the host says.
    fn of_host(&self, record: Option<&Record>, facts: &mut Vec<Fact>) {
        let (host, place) = (&self.host, self.on_host());
        let mut tell = |name, value: String, source: String| facts.push(Fact { name, value, source });
        tell("inode", host.ino.to_string(), place.clone());
        tell("links", host.nlink.to_string(), place.clone());
        if record.is_some_and(|record| matches!(record.kind, FileKind::Regular | FileKind::Directory)) {
            tell("size", format!("{} bytes", host.size), place.clone());
        }
        let changed = record.map_or(host.ctime, |record| merged(host, record).ctime);
        let times = [("accessed", Some(host.atime)), ("modified", Some(host.mtime)), ("changed", Some(changed)), ("born", host.btime)];
        for (name, time) in times {
            if let Some(time) = time {
                let source = if name == "changed" && changed != host.ctime { "the record" } else { place.as_str() };
                let shown = format!("{}.{:09} UTC", time.date(), time.nanoseconds);
                tell(name, shown, format!("{source}, as {} seconds since 1970", time.seconds));
            }
        }
        let xattrs = record.map_or(0, |record| record.xattrs.bytes());
        let counted = self.counted();
        let blocks =
            if host.kind == FileKind::Directory { "a directory's flat rate".into() } else { format!("{} blocks of 512", counted.blocks) };
        let source = format!("the account: {blocks}, 512 for itself, {xattrs} bytes of attributes");
        tell("cost", format!("{} bytes", account::cost(&counted, xattrs)), source);
        let owner = format!("{:04o} {}:{}", host.mode.bits(), host.uid.0, host.gid.0);
        tell("host", owner, format!("{place}, mode and owner on the host: nothing of it is the guest's"));
    }
}

fn absent(policy: Adopt) -> &'static str {
    match policy {
        Adopt::Root => "it has no record; adopt=root makes it root's, with the host's mode but never setuid",
        Adopt::OwnerMap => "it has no record; adopt=owner-map makes it its host owner's, with the host's mode but never setuid",
        Adopt::Refuse => "it has no record; adopt=refuse: the guest gets EIO",
    }
}

/// Where a format keeps what.
struct Places {
    /// Every record has a type of its own.
    has_kind: bool,
    kind: &'static str,
    mode: &'static str,
    uid: &'static str,
    gid: &'static str,
    device: &'static str,
    target: &'static str,
    xattrs: &'static str,
}

impl Places {
    fn of(format: Format) -> Places {
        match format {
            Format::ShadowFs | Format::ShadowLink => Places {
                has_kind: false,
                kind: "field 4",
                mode: "field 1",
                uid: "field 2",
                gid: "field 3",
                device: "fields 5 and 6",
                target: "none",
                xattrs: "its part in file_attributes or dir_attributes",
            },
            Format::Sqlite => Places {
                has_kind: true,
                kind: "inode.mode",
                mode: "inode.mode",
                uid: "inode.uid",
                gid: "inode.gid",
                device: "inode.rmajor and inode.rminor",
                target: "none",
                xattrs: "a row of xattr",
            },
            Format::Xattr => Places {
                has_kind: true,
                kind: "byte 1",
                mode: "bytes 2 and 3",
                uid: "bytes 4 to 7",
                gid: "bytes 8 to 11",
                device: "bytes 12 to 19",
                target: "from byte 24 on",
                xattrs: "after the target",
            },
        }
    }
}
