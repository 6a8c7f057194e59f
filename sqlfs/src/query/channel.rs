//! Frames over a socket: a length, then bytes, and a descriptor with the first.

use rustix::io::{IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Sends `bytes`, with `file` along.
pub(crate) fn send(mut stream: &UnixStream, bytes: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::FileTooLarge)?.to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = file.map(|file| [file]);
    if let Some(files) = &files {
        control.push(SendAncillaryMessage::ScmRights(files));
    }
    let sent = retry(|| sendmsg(stream, &[IoSlice::new(&length)], &mut control, SendFlags::NOSIGNAL))?;
    // A socket that takes some but not four bytes: a stranger's.
    if sent != length.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    stream.write_all(bytes)
}

/// Receives a frame of at most `most` bytes; None when the other side is gone.
/// With `deadline`, TimedOut when it is not there by then.
pub(crate) fn receive(mut stream: &UnixStream, most: usize, deadline: Option<Instant>) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    let mut length = [0; 4];
    wait_no_longer(stream, deadline)?;
    let mut file = None;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = retry(|| recvmsg(stream, &mut [IoSliceMut::new(&mut length)], &mut control, RecvFlags::CMSG_CLOEXEC)).map_err(timed_out)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            file = files.last();
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    let missing = length.get_mut(got.bytes..).unwrap_or_default();
    stream.read_exact(missing).map_err(timed_out)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        // Each piece could take its time.
        wait_no_longer(stream, deadline)?;
        match stream.read(rest) {
            Ok(0) => return Ok(None),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(timed_out(error)),
        }
    }
    Ok(Some((bytes, file)))
}

/// Without a deadline nothing is set: a worker may not, and never had one.
fn wait_no_longer(stream: &UnixStream, deadline: Option<Instant>) -> io::Result<()> {
    match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
        None => Ok(()),
        Some(Duration::ZERO) => Err(io::ErrorKind::TimedOut.into()),
        left => stream.set_read_timeout(left),
    }
}

fn timed_out(error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

/// Again when a signal came.
pub(crate) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            done => return done,
        }
    }
}
