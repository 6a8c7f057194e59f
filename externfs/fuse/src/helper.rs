//! fusermount3: how a user who is not root mounts and unmounts, fusermount3(1).
//!
//! It opens /dev/fuse, mounts, and sends the descriptor over the socket that
//! `_FUSE_COMMFD` names. We make that its standard input.

use crate::error::MountError;
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair};
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const NAME: &str = "fusermount3";

/// Where distributions put it, for programs that are started without a PATH.
const USUAL: [&str; 3] = ["/usr/bin", "/bin", "/usr/local/bin"];

fn find() -> Result<PathBuf, MountError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(USUAL.iter().map(PathBuf::from))
        .map(|directory| directory.join(NAME))
        .find(|file| file.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0))
        .ok_or(MountError::NoHelper)
}

/// A comma or backslash in an option's value would end it.
fn escape(value: &OsStr) -> OsString {
    let mut out = Vec::with_capacity(value.len());
    for &byte in value.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    OsString::from_vec(out)
}

fn explain(output: &Output, helper: &Path) -> MountError {
    let words = String::from_utf8_lossy(&output.stderr);
    let words: Vec<_> = words
        .lines()
        .map(|line| line.rsplit_once("fusermount3: ").map_or(line, |(_, words)| words).trim())
        .filter(|line| !line.is_empty())
        .collect();
    let words = words.join("; ");
    let is_setuid = helper.metadata().is_ok_and(|about| about.uid() == 0 && about.mode() & 0o4000 != 0);
    if words.contains("user_allow_other") {
        MountError::AllowOtherForbidden
    } else if words.contains("/dev/fuse") && words.contains("ermission denied") {
        MountError::DeviceForbidden
    } else if words.contains("not permitted") && !is_setuid {
        MountError::HelperNotSetuid(helper.to_owned())
    } else if words.is_empty() {
        MountError::HelperRefused(output.status.to_string())
    } else {
        MountError::HelperRefused(words)
    }
}

fn run(command: &mut Command, helper: &Path) -> Result<(), MountError> {
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let output = output.map_err(|error| MountError::HelperRefused(format!("it does not start: {error}")))?;
    if output.status.success() { Ok(()) } else { Err(explain(&output, helper)) }
}

/// Mounts and returns the descriptor to serve.
pub(crate) fn mount(source: &OsStr, point: &Path, words: &[String]) -> Result<OwnedFd, MountError> {
    let helper = find()?;
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.map_err(|error| MountError::HelperRefused(format!("no socket for it: {error}")))?;
    let mut options = OsString::from(words.join(","));
    options.push(",fsname=");
    options.push(escape(source));
    run(Command::new(&helper).arg("-o").arg(options).arg("--").arg(point).env("_FUSE_COMMFD", "0").stdin(theirs), &helper)?;
    receive(&ours).map_err(|error| MountError::HelperRefused(format!("it sent no descriptor: {error}")))
}

fn receive(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(descriptor) = descriptors.next()
        {
            return Ok(descriptor);
        }
    }
    Err(io::Error::from(io::ErrorKind::UnexpectedEof))
}

/// Unmounts what this user mounted; with `lazy` even if it is in use.
pub(crate) fn unmount(point: &Path, lazy: bool) -> Result<(), MountError> {
    let helper = find()?;
    let mut command = Command::new(&helper);
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    match run(command.arg("--").arg(point).stdin(Stdio::null()), &helper) {
        Err(MountError::HelperRefused(words)) if words.contains("busy") => Err(MountError::Busy(point.to_owned())),
        Err(MountError::HelperRefused(words)) if words.contains("not permitted") || words.contains("ermission denied") => {
            Err(MountError::NotYourMount(point.to_owned()))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn a_comma_in_the_source_does_not_end_it() {
        assert_eq!(escape(OsStr::new(r"/a,b\c d")), OsStr::new(r"/a\,b\\c d"));
    }

    #[test]
    fn its_words_become_ours() {
        let of = |words: &str, helper: &str| {
            let output = Output { status: ExitStatus::from_raw(256), stdout: Vec::new(), stderr: words.into() };
            explain(&output, Path::new(helper)).to_string()
        };
        let line = "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf\n";
        assert!(of(line, "/x").contains("leave the option out"));
        assert!(of("fusermount3: failed to open /dev/fuse: Permission denied\n", "/x").contains("setfacl"));
        assert!(of("fusermount3: mount failed: Operation not permitted\n", "/etc/passwd").contains("chmod u+s"));
        assert!(
            of("fusermount3: too many FUSE filesystems mounted; mount_max=N can be set in /etc/fuse.conf\n", "/x").contains("mount_max")
        );
        assert!(of("", "/x").contains("exit status: 1"));
    }
}
