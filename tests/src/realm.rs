//! [`Realm`]: a plugin and the kind of tree that it serves, by a name that can
//! be told to another process.

use crate::picture::Picture;
use externfs::{Connect, MountOption, Plugin, Source};
use humfs::catalog::Upkeep;
use humfs::check::{CheckOptions, Problem, Progress};
use humfs::store::Format;
use humfs::superblock::Superblock;
use rustix::fs::SeekFrom;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// See the [module](self).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Realm {
    /// A plain directory.
    HostFs,
    /// A humfs tree with its records in this format.
    HumFs(Format),
}

/// Bytes that a tree may hold: more than any load needs, and less than any host
/// has free, so that statfs(2) tells of the tree.
const TOTAL: u64 = 48 << 20;

impl Realm {
    /// For a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Realm::HostFs => "hostfs",
            Realm::HumFs(format) => format.name(),
        }
    }

    /// The one that is called so.
    #[must_use]
    pub fn named(wanted: &str) -> Option<Realm> {
        if wanted == Realm::HostFs.name() { Some(Realm::HostFs) } else { Format::parse(wanted).map(Realm::HumFs) }
    }

    /// Makes an empty tree at `path`, where there is nothing.
    ///
    /// # Panics
    /// When the host refuses it.
    pub fn make(self, path: &Path) {
        self.make_of(path, TOTAL);
    }

    /// The same, which may hold `total` bytes where the plugin limits them.
    ///
    /// # Panics
    /// When the host refuses it.
    pub fn make_of(self, path: &Path, total: u64) {
        let private = |path: &Path| {
            std::fs::create_dir(path).expect("a directory");
            std::fs::set_permissions(path, Permissions::from_mode(0o700)).expect("chmod");
        };
        private(path);
        if let Realm::HumFs(format) = self {
            private(&path.join("data"));
            let superblock = Superblock { version: 2, format, used: 1, total };
            std::fs::write(path.join("superblock"), superblock.to_text()).expect("a superblock");
        }
    }

    /// Does what the host's administrator may do behind our back: removes what
    /// is called `name`, and all below it. Room is counted anew after that.
    ///
    /// # Panics
    /// When it cannot be removed.
    pub fn remove_behind(self, tree: &Path, name: &str) {
        let data = if self == Realm::HostFs { tree.to_path_buf() } else { tree.join("data") };
        let victim = data.join(name);
        let removed = if victim.is_dir() { std::fs::remove_dir_all(&victim) } else { std::fs::remove_file(&victim) };
        removed.expect("removing it");
        self.forget_counters(tree);
    }

    /// Opens it, with what else the plugin should know.
    ///
    /// # Errors
    /// What the plugin says.
    pub fn open(self, path: &Path, options: &[&str]) -> Result<Arc<dyn Connect>, String> {
        let options: Vec<_> = options.iter().map(|key| MountOption { key: (*key).into(), value: None }).collect();
        let opened: Result<Arc<dyn Connect>, _> = match self {
            Realm::HostFs => hostfs::HostFsPlugin.open(&Source { path: path.to_path_buf(), options }),
            // The catalog's thread would be at another step each time; it has a suite of its own.
            Realm::HumFs(_) => humfs::Options::parse(&options)
                .and_then(|options| Ok(humfs::open(path, &humfs::Options { catalog: Upkeep::Off, ..options })? as _)),
        };
        opened.map_err(|error| error.0)
    }

    /// Whether a power cut may take the record of an object that was not
    /// synced, which is root's then: where the records' contents are the
    /// contents of files, and not the host's metadata (FORMAT.md).
    #[must_use]
    pub fn may_lose_records(self) -> bool {
        matches!(self, Realm::HumFs(Format::ShadowFs | Format::Sqlite))
    }

    /// What the next mount sees. A check must agree that all is in order then,
    /// and the mount after it, which has to count for itself, must see the same.
    ///
    /// # Errors
    /// What cannot be seen, what is not in order, and how the two differ.
    pub fn look(self, tree: &Path) -> Result<Picture, String> {
        // A record without an object is invisible: it costs a few bytes.
        self.look_but(tree, &["orphan-metadata"])
    }

    /// The same after a power cut, which may cost records.
    ///
    /// # Errors
    /// As for [`Realm::look`].
    pub fn look_after_power_cut(self, tree: &Path) -> Result<Picture, String> {
        const LOST: [&str; 3] = ["orphan-metadata", "orphan-data", "unwritten-record"];
        self.look_but(tree, if self.may_lose_records() { &LOST } else { &LOST[..1] })
    }

    fn look_but(self, tree: &Path, tolerated: &[&str]) -> Result<Picture, String> {
        let mut first = self.mounted(tree)?;
        let left = self.left_over(tree);
        if !left.is_empty() {
            return Err(format!("after recovery there is still {left:?}"));
        }
        if let Realm::HumFs(_) = self {
            let check = || humfs::check::check(tree, &CheckOptions::default(), &Progress::default()).map_err(|error| error.0);
            let report = patiently(check)?;
            for finding in &report.findings {
                match &finding.problem {
                    Problem::WrongCounters { said, counted }
                        if said.inodes == counted.inodes && (said.bytes..=said.bytes + lists(tree)).contains(&counted.bytes) =>
                    {
                        first.used.0 += counted.bytes - said.bytes;
                    }
                    _ if tolerated.contains(&finding.problem.name()) => {}
                    _ => return Err(format!("a check finds at '{}': {}", finding.path.escape_ascii(), finding.problem)),
                }
            }
        }
        self.forget_counters(tree);
        match first.difference(&self.mounted(tree)?) {
            None => Ok(first),
            Some(why) => Err(format!("against a second mount: {why}")),
        }
    }

    fn mounted(self, tree: &Path) -> Result<Picture, String> {
        let connect = patiently(|| self.open(tree, &[]))?;
        let mut seen = Picture::take(connect.as_ref())?;
        connect.close().map_err(|error| format!("closing: {error}"))?;
        if self == Realm::HostFs {
            // statfs(2) tells of the whole host there.
            seen.used = (0, 0);
        }
        Ok(seen)
    }

    /// What lies about in a tree that was left in good order and should not.
    fn left_over(self, path: &Path) -> Vec<String> {
        let mut left = Vec::new();
        if let Realm::HumFs(_) = self {
            // Files are the tree's own; what is in flight has a directory.
            for dir in std::fs::read_dir(path.join("humfs")).expect("humfs/").flatten() {
                for entry in std::fs::read_dir(dir.path()).into_iter().flatten().flatten() {
                    left.push(format!("{}/{}", dir.file_name().to_string_lossy(), entry.file_name().to_string_lossy()));
                }
            }
        }
        left
    }

    /// Takes the counters away, so that the next mount counts for itself.
    fn forget_counters(self, path: &Path) {
        if let Realm::HumFs(_) = self {
            std::fs::remove_file(path.join("humfs/state")).expect("humfs/state");
        }
    }
}

/// Again while the tree is in use: another thread may be between fork(2) and
/// execve(2), where its child holds the descriptor of a lock that was ours.
fn patiently<T>(attempt: impl Fn() -> Result<T, String>) -> Result<T, String> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match attempt() {
            Err(why) if why.contains("in use") && Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
            answer => return answer,
        }
    }
}

/// Bytes of blocks in which the host lists the pieces of files. It adds them when
/// it writes a file out, so those of a file that was just written when its server
/// was killed are counted by nobody but a check (FORMAT.md, "The account").
fn lists(tree: &Path) -> u64 {
    let mut bytes = 0;
    for path in crate::humtree::paths_below(&tree.join("data")) {
        let Ok(file) = std::fs::File::open(&path) else { continue };
        let Some(about) = file.metadata().ok().filter(std::fs::Metadata::is_file) else { continue };
        let (mut data, mut at) = (0, 0);
        while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
            let Ok(end) = rustix::fs::seek(&file, SeekFrom::Hole(start)) else { break };
            data += end.next_multiple_of(4096) - start / 4096 * 4096;
            at = end;
        }
        bytes += (about.blocks() * 512).saturating_sub(data);
    }
    bytes
}
