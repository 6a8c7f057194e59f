//! From the host's errno to the guest's, with a reason for the log where the
//! errno says that something is wrong with the server rather than the request.

use externfs::{Errno, Error};
use rustix::io::Errno as Host;

/// The result of a bare system call.
pub(crate) type Fault<T> = std::result::Result<T, Host>;

/// Words `what` for the log if the errno is one that no honest request causes.
pub(crate) fn fault(what: &'static str) -> impl Fn(Host) -> Error {
    move |host| match host {
        // To a kernel ENOSYS means "never ask again"; what is true is that
        // this file system of the host cannot do it.
        Host::NOSYS => Error::new(Errno::EOPNOTSUPP),
        Host::IO | Host::MFILE | Host::NFILE | Host::NOMEM | Host::BADF | Host::FAULT => {
            Error::because(errno(host), format!("{what}: {host}"))
        }
        _ => Error::new(errno(host)),
    }
}

/// The same number for the guest.
pub(crate) fn errno(host: Host) -> Errno {
    Errno::from_raw(host.raw_os_error())
}

/// The object that a node stood for is no longer where it was.
pub(crate) fn stale(host: Host) -> Error {
    match host {
        // ENOTDIR, ELOOP: something else has taken the name meanwhile.
        Host::NOENT | Host::NOTDIR | Host::LOOP | Host::STALE => Error::new(Errno::ESTALE),
        other => fault("reaching a known file")(other),
    }
}
