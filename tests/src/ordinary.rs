//! An ordinary user of the host, who mounts and serves.
//!
//! /dev/fuse may be root's alone on a machine, /etc/fuse.conf may keep users
//! from letting others in, and fusermount3 serves only users with a name. None
//! of these is changed: a test program that needs them otherwise runs in a
//! mount namespace of its own, where other files are in their places
//! ([`in_own_mounts`]). With it every mount that it made goes.

use crate::fixture::{binary, temp_dir};
use crate::harness::skip;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// Nobody on any host, and nobody whom a suite acts as.
pub const USER: u32 = 1505;

/// Set where the mounts are our own, to the user's id.
const MARK: &str = "EXTERNFS_TEST_OWN_MOUNTS";

/// What is put in place before the program is run again: `$1` is a directory.
const PREPARE: &str = "\
dir=$1; shift
mount -t tmpfs -o mode=755 tmpfs \"$dir/over\"
if [ -e /dev/fuse ]; then
    mknod \"$dir/over/fuse\" c 10 229; chmod 666 \"$dir/over/fuse\"; mount --bind \"$dir/over/fuse\" /dev/fuse
fi
if [ -e /etc/fuse.conf ]; then
    echo user_allow_other >\"$dir/over/fuse.conf\"; mount --bind \"$dir/over/fuse.conf\" /etc/fuse.conf
fi
cp /etc/passwd \"$dir/over/passwd\"; echo \"externfs-test:x:$EXTERNFS_TEST_OWN_MOUNTS:65534::/:/bin/sh\" >>\"$dir/over/passwd\"
mount --bind \"$dir/over/passwd\" /etc/passwd
exec setpriv --pdeathsig KILL \"$@\"";

/// Runs `body`, the whole of a test program, where [`USER`] may mount and let
/// everybody in, and may run the `externfs` program. Where that cannot be had,
/// runs it all the same: the cases that need it say so ([`need`]).
///
/// # Panics
/// When this program cannot be run again.
pub fn in_own_mounts(body: impl FnOnce() -> ExitCode) -> ExitCode {
    let is_listing = std::env::args().any(|argument| argument == "--list");
    if std::env::var_os(MARK).is_some() || is_listing || !can_have_mounts() {
        return body();
    }
    let dir = temp_dir();
    // Where it was built may be out of that user's reach.
    let program = dir.path().join("externfs");
    std::fs::copy(binary(), &program).expect("copying the program");
    std::fs::create_dir(dir.path().join("over")).expect("a directory");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", PREPARE, "sh"]).arg(dir.path());
    command.arg(std::env::current_exe().expect("own path")).args(std::env::args_os().skip(1));
    let status = command.env(MARK, USER.to_string()).env("EXTERNFS_BIN", &program).status().expect("unshare");
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn can_have_mounts() -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["--mount", "--propagation", "private", "true"]).stdin(Stdio::null()).stderr(Stdio::null());
    rustix::process::geteuid().is_root() && probe.status().is_ok_and(|status| status.success())
}

/// Skips the running case unless [`USER`] may mount here.
pub fn need() {
    if std::env::var_os(MARK).is_none() {
        skip("needs root and mount namespaces: run the tests with sudo");
    }
}

/// Makes `command` [`USER`]'s, without any privilege.
pub fn act(command: &mut Command) {
    // Set by root, the ids go along with an empty list of groups.
    command.uid(USER).gid(USER);
}

/// Gives `path` to [`USER`].
///
/// # Panics
/// When it cannot be given away.
pub fn give(path: &Path) {
    std::os::unix::fs::lchown(path, Some(USER), Some(USER)).expect("chown");
}
