//! [`MountError`]: what keeps a mount from coming up or going away, each in one
//! line that names the thing and the remedy.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why mounting or unmounting failed.
#[derive(Debug)]
pub enum MountError {
    /// The mount point does not exist.
    NoSuchDirectory(PathBuf),
    /// The mount point is no directory.
    NotADirectory(PathBuf),
    /// A user must own the mount point or be able to write to it.
    NotYours(PathBuf),
    /// Something else is wrong with the mount point.
    Unusable(PathBuf, io::Error),
    /// A FUSE file system is there already and answers.
    InUse {
        /// Where.
        point: PathBuf,
        /// Its type, as `fuse.externfs`.
        kind: String,
        /// What it shows.
        source: String,
    },
    /// There is no /dev/fuse.
    NoDevice,
    /// /dev/fuse may not be opened.
    DeviceForbidden,
    /// /dev/fuse does not open for another reason.
    Device(io::Error),
    /// A user needs fusermount3, which is not there.
    NoHelper,
    /// fusermount3 is there but not set-user-ID root.
    HelperNotSetuid(PathBuf),
    /// A user may not let others in.
    AllowOtherForbidden,
    /// The kernel refused mount(2).
    Refused(PathBuf, io::Error),
    /// fusermount3 refused, in its own words.
    HelperRefused(String),
    /// To be unmounted, but not a mount of ours.
    NotMounted(PathBuf),
    /// To be unmounted, but somebody uses it.
    Busy(PathBuf),
    /// A user wants to unmount what somebody else mounted.
    NotYourMount(PathBuf),
    /// /proc is not mounted, so nothing can be checked.
    NoProc(io::Error),
    /// An option's value is wrong.
    BadOption(String),
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use MountError::*;
        match self {
            NoSuchDirectory(path) => write!(f, "mount point {0} does not exist: make it with 'mkdir -p {0}'", path.display()),
            NotADirectory(path) => write!(f, "mount point {} is not a directory: name one", path.display()),
            NotYours(path) => write!(f, "mount point {} is not yours to write: choose a directory that you own", path.display()),
            Unusable(path, error) => write!(f, "mount point {}: {error}", path.display()),
            InUse { point, kind, source } => {
                write!(
                    f,
                    "mount point {0} is in use ({kind} of {source}): unmount it with 'externfs umount {0}' or choose another",
                    point.display()
                )
            }
            NoDevice => f.write_str("there is no /dev/fuse: load the module with 'modprobe fuse' (in a container: add --device /dev/fuse)"),
            DeviceForbidden => {
                f.write_str("you may not open /dev/fuse: ask root for 'chmod 666 /dev/fuse' or 'setfacl -m u:YOU:rw /dev/fuse'")
            }
            Device(error) => write!(f, "/dev/fuse does not open ({error}): is the kernel built with FUSE?"),
            NoHelper => {
                f.write_str("fusermount3 is not installed, and only root mounts without it: install the package fuse3, or run as root")
            }
            HelperNotSetuid(path) => {
                write!(f, "{0} is not set-user-ID root: reinstall the package fuse3, or 'chmod u+s {0}'", path.display())
            }
            AllowOtherForbidden => {
                f.write_str("allow_other is for root, unless /etc/fuse.conf has a line 'user_allow_other': add it, or leave the option out")
            }
            Refused(path, error) => write!(f, "the kernel does not mount on {}: {error}", path.display()),
            HelperRefused(words) => write!(f, "fusermount3 refuses: {words}"),
            NotMounted(path) => write!(f, "{} is not a mounted externfs: see 'findmnt -t fuse.externfs'", path.display()),
            Busy(path) => {
                write!(f, "{0} is in use: close what is open there (see 'fuser -vm {0}'), or detach it with --lazy", path.display())
            }
            NotYourMount(path) => write!(f, "{} was mounted by somebody else: unmount it as that user or as root", path.display()),
            NoProc(error) => write!(f, "/proc/self/mountinfo cannot be read ({error}): mount /proc"),
            BadOption(line) => f.write_str(line),
        }
    }
}

impl std::error::Error for MountError {}

impl MountError {
    /// For an error of opening /dev/fuse.
    pub(crate) fn of_device(error: io::Error) -> MountError {
        match error.raw_os_error() {
            // ENODEV and ENXIO: the node is there, the module is not.
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => MountError::NoDevice,
            Some(libc::EACCES | libc::EPERM) => MountError::DeviceForbidden,
            _ => MountError::Device(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_one_line_with_a_remedy() {
        let path = || PathBuf::from("/mnt/x");
        let io = || io::Error::from_raw_os_error(libc::EIO);
        let rows = [
            (MountError::NoSuchDirectory(path()), "mkdir -p /mnt/x"),
            (MountError::NotADirectory(path()), "/mnt/x is not a directory"),
            (MountError::NotYours(path()), "that you own"),
            (MountError::Unusable(path(), io()), "/mnt/x"),
            (MountError::InUse { point: path(), kind: "fuse.externfs".into(), source: "/srv".into() }, "externfs umount /mnt/x"),
            (MountError::NoDevice, "modprobe fuse"),
            (MountError::DeviceForbidden, "setfacl"),
            (MountError::Device(io()), "/dev/fuse"),
            (MountError::NoHelper, "package fuse3"),
            (MountError::HelperNotSetuid("/usr/bin/fusermount3".into()), "chmod u+s /usr/bin/fusermount3"),
            (MountError::AllowOtherForbidden, "user_allow_other"),
            (MountError::Refused(path(), io()), "/mnt/x"),
            (MountError::HelperRefused("too many".into()), "too many"),
            (MountError::NotMounted(path()), "findmnt"),
            (MountError::Busy(path()), "--lazy"),
            (MountError::NotYourMount(path()), "as root"),
            (MountError::NoProc(io()), "mount /proc"),
            (MountError::BadOption("threads=x: a number".into()), "a number"),
        ];
        for (error, part) in rows {
            let line = error.to_string();
            assert!(line.contains(part), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn the_device_errors_are_told_apart() {
        let of = |number| MountError::of_device(io::Error::from_raw_os_error(number));
        assert!(matches!(of(libc::ENOENT), MountError::NoDevice));
        assert!(matches!(of(libc::ENODEV), MountError::NoDevice));
        assert!(matches!(of(libc::EACCES), MountError::DeviceForbidden));
        assert!(matches!(of(libc::EMFILE), MountError::Device(_)));
    }
}
