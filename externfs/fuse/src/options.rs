//! What can be chosen about a mount ([`MountOptions`], for the kernel) and
//! about serving it ([`ServeOptions`], for us).

use crate::error::MountError;
use crate::passthrough::PassthroughChoice;
use crate::uring::UringChoice;
use rustix::mount::MountFlags;
use std::str::FromStr;

/// Options of the mount itself. The kernel checks who may do what, from the
/// attributes that we tell (`default_permissions`), but for `owner_is_root`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MountOptions {
    /// Other users may see the mount too; a user needs `user_allow_other` in
    /// /etc/fuse.conf for it.
    pub allow_other: bool,
    /// `ro`.
    pub read_only: bool,
    /// Setuid and file capabilities count (`suid`; root only).
    pub suid: bool,
    /// Device nodes can be opened (`dev`; root only).
    pub dev: bool,
    /// `noexec`.
    pub no_exec: bool,
    /// `noatime`.
    pub no_atime: bool,
    /// `sync`.
    pub synchronous: bool,
    /// `dirsync`.
    pub dir_sync: bool,
    /// `default_permissions`, which is on anyway unless `owner_is_root`.
    pub check: bool,
    /// Not an option of users: on a mount that an ordinary user makes and
    /// keeps to himself, every caller is root
    /// ([`externfs::Plugin::owner_is_root`]).
    pub owner_is_root: bool,
}

/// The mount options and a line of help for each.
pub const MOUNT_OPTIONS: &[(&str, &str)] = &[
    ("allow_other", "let all users of the host in (a user needs user_allow_other in /etc/fuse.conf)"),
    ("ro", "read-only (rw is the default)"),
    ("suid", "honour setuid and file capabilities (root only; nosuid is the default)"),
    ("dev", "honour device nodes (root only; nodev is the default)"),
    ("noexec", "run no programs from it"),
    ("noatime", "do not count reading as access"),
    ("sync", "write everything through at once"),
    ("dirsync", "make changes of directories durable at once"),
    ("default_permissions", "let the kernel check owners and modes (always on, but for a user's own mount of a humfs tree)"),
];

/// The words that take a mount option back, or say what is so anyway.
pub const MOUNT_OPPOSITES: &[&str] = &["rw", "nosuid", "nodev", "exec", "atime", "async"];

impl MountOptions {
    /// Takes one `-o` word; false if it is not one of these.
    ///
    /// # Errors
    /// [`MountError::BadOption`] when it is given a value.
    pub fn accept(&mut self, key: &str, value: Option<&str>) -> Result<bool, MountError> {
        match key {
            "allow_other" => self.allow_other = true,
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "suid" => self.suid = true,
            "nosuid" => self.suid = false,
            "dev" => self.dev = true,
            "nodev" => self.dev = false,
            "noexec" => self.no_exec = true,
            "exec" => self.no_exec = false,
            "noatime" => self.no_atime = true,
            "atime" => self.no_atime = false,
            "sync" => self.synchronous = true,
            "async" => self.synchronous = false,
            "dirsync" => self.dir_sync = true,
            "default_permissions" => self.check = true,
            // What mount(8) and fstab(5) add and means nothing to us, or is on anyway.
            "defaults" | "auto" | "noauto" | "user" | "nouser" | "users" | "nofail" | "_netdev" | "relatime" => {}
            _ => return Ok(false),
        }
        match value {
            None => Ok(true),
            Some(value) => Err(MountError::BadOption(format!("{key}={value}: {key} takes no value, write '{key}'"))),
        }
    }

    /// Whether the kernel checks nothing and every caller is root. Only where
    /// the kernel lets nobody in but the user who mounts.
    pub(crate) fn callers_are_root(&self) -> bool {
        self.owner_is_root && !self.allow_other && !self.check && !rustix::process::geteuid().is_root()
    }

    pub(crate) fn flags(&self) -> MountFlags {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, self.read_only);
        flags.set(MountFlags::NOSUID, !self.suid);
        flags.set(MountFlags::NODEV, !self.dev);
        flags.set(MountFlags::NOEXEC, self.no_exec);
        flags.set(MountFlags::NOATIME, self.no_atime);
        flags.set(MountFlags::SYNCHRONOUS, self.synchronous);
        flags.set(MountFlags::DIRSYNC, self.dir_sync);
        flags
    }

    /// The same for fusermount3, which adds nosuid and nodev itself.
    pub(crate) fn words(&self) -> Vec<&'static str> {
        let all = [
            (self.allow_other, "allow_other"),
            (self.read_only, "ro"),
            (self.no_exec, "noexec"),
            (self.no_atime, "noatime"),
            (self.synchronous, "sync"),
            (self.dir_sync, "dirsync"),
        ];
        all.into_iter().filter(|(on, _)| *on).map(|(_, word)| word).collect()
    }
}

/// Who speaks the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Transport {
    /// Our own code, the one that serves guests.
    #[default]
    Native,
    /// The crate fuser: the second opinion. It has no O_TMPFILE, syncfs, birth
    /// times and supplementary groups, and locks hold within the mount only.
    Fuser,
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(word: &str) -> Result<Transport, String> {
        match word {
            "native" => Ok(Transport::Native),
            "fuser" => Ok(Transport::Fuser),
            _ => Err(format!("transport={word}: it is native or fuser")),
        }
    }
}

/// How requests are served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServeOptions {
    /// Worker threads at most, at least one; None leaves it to the transport.
    /// Our own calls them in only while requests wait (for a disk) or one
    /// cannot keep up; with fuser each costs wake-ups.
    pub threads: Option<usize>,
    /// A /dev/fuse descriptor for each worker (`FUSE_DEV_IOC_CLONE`). Opens
    /// /dev/fuse as serving starts, so it goes with no sandbox that forbids it.
    pub clone_fd: bool,
    /// FUSE passthrough.
    pub passthrough: PassthroughChoice,
    /// FUSE over io_uring.
    pub uring: UringChoice,
    /// Who speaks the protocol.
    pub transport: Transport,
    /// Ask the plugin at each close(2) whether a write failed late, as a
    /// network file system or a quota below may have it. A round trip each.
    pub flush_on_close: bool,
    /// Every caller is root. Set by the mount itself, see
    /// [`MountOptions::owner_is_root`].
    pub callers_are_root: bool,
}

impl Default for ServeOptions {
    fn default() -> ServeOptions {
        ServeOptions {
            threads: None,
            clone_fd: false,
            passthrough: PassthroughChoice::Auto,
            uring: UringChoice::default(),
            transport: Transport::Native,
            flush_on_close: false,
            callers_are_root: false,
        }
    }
}

/// The serving options and a line of help for each.
pub const SERVE_OPTIONS: &[(&str, &str)] = &[
    ("threads=N", "worker threads at most, with uring for each processor, called in as needed (default 8; 2 with transport=fuser)"),
    ("clone_fd", "a /dev/fuse descriptor for each worker"),
    ("passthrough=auto|on|off", "let the kernel read and write host files directly (Linux 6.9, root; default auto)"),
    ("uring=auto|on|off", "FUSE over io_uring: a queue for each processor (Linux 6.14 with fuse.enable_uring; default off)"),
    ("flush_on_close", "let close(2) tell of write errors that come late (SRC on NFS, quotas), and open(2) ask; costs round trips"),
    ("transport=native|fuser", "who speaks the protocol: our own code (the default) or the crate fuser"),
];

/// Most worker threads that can be asked for: each has a 16 MiB buffer.
const THREADS_MAX: usize = 64;

fn parsed<T: FromStr<Err = String>>(key: &str, value: Option<&str>) -> Result<T, MountError> {
    let value = value.ok_or_else(|| MountError::BadOption(format!("{key} needs a value: {key}=...")))?;
    value.parse().map_err(MountError::BadOption)
}

impl ServeOptions {
    /// Takes one `-o` word; false if it is not one of these.
    ///
    /// # Errors
    /// [`MountError::BadOption`] when its value is missing or wrong.
    pub fn accept(&mut self, key: &str, value: Option<&str>) -> Result<bool, MountError> {
        match (key, value) {
            ("threads", value) => {
                let count = value.and_then(|text| text.parse().ok()).filter(|count| (1..=THREADS_MAX).contains(count));
                self.threads = Some(count.ok_or_else(|| {
                    MountError::BadOption(format!("threads={}: it is a number from 1 to {THREADS_MAX}", value.unwrap_or_default()))
                })?);
            }
            ("clone_fd", None) => self.clone_fd = true,
            ("flush_on_close", None) => self.flush_on_close = true,
            ("clone_fd" | "flush_on_close", Some(value)) => {
                return Err(MountError::BadOption(format!("{key}={value}: {key} takes no value")));
            }
            ("passthrough", value) => self.passthrough = parsed(key, value)?,
            ("uring", value) => self.uring = parsed(key, value)?,
            ("transport", value) => self.transport = parsed(key, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_words_are_taken() {
        let mut options = MountOptions::default();
        for word in ["allow_other", "ro", "suid", "nodev", "noexec", "noatime", "defaults"] {
            assert!(options.accept(word, None).unwrap(), "{word}");
        }
        assert!(options.allow_other && options.read_only && options.suid && !options.dev);
        assert!(MOUNT_OPPOSITES.iter().all(|word| MountOptions::default().accept(word, None).unwrap()));
        assert!(!options.accept("cache", Some("none")).unwrap());
        assert!(options.accept("ro", Some("1")).unwrap_err().to_string().contains("takes no value"));
        assert_eq!(options.words(), ["allow_other", "ro", "noexec", "noatime"]);
        assert!(options.flags().contains(MountFlags::NODEV) && !options.flags().contains(MountFlags::NOSUID));
    }

    #[test]
    fn the_default_honours_no_setuid_and_no_devices() {
        let flags = MountOptions::default().flags();
        assert_eq!(flags, MountFlags::NOSUID | MountFlags::NODEV);
    }

    #[test]
    fn serve_words_are_checked() {
        let mut options = ServeOptions::default();
        assert!(options.accept("threads", Some("4")).unwrap());
        assert!(options.accept("clone_fd", None).unwrap());
        assert!(options.accept("passthrough", Some("off")).unwrap());
        assert!(options.accept("flush_on_close", None).unwrap());
        assert!(options.accept("uring", Some("auto")).unwrap());
        assert!(options.accept("transport", Some("fuser")).unwrap());
        let expected = ServeOptions {
            threads: Some(4),
            clone_fd: true,
            passthrough: PassthroughChoice::Off,
            uring: UringChoice::Auto,
            transport: Transport::Fuser,
            flush_on_close: true,
            callers_are_root: false,
        };
        assert_eq!(options, expected);
        for (key, value) in [
            ("threads", Some("0")),
            ("threads", Some("x")),
            ("threads", None),
            ("passthrough", None),
            ("passthrough", Some("1")),
            ("transport", Some("uring")),
            ("uring", Some("1")),
            ("uring", None),
            ("clone_fd", Some("no")),
        ] {
            assert!(options.accept(key, value).is_err(), "{key} {value:?}");
        }
        assert!(!options.accept("ro", None).unwrap());
    }
}
