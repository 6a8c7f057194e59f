//! The vhost-user message layer: a 12-byte header, a payload, descriptors.
//!
//! Everything here comes from a process that we do not trust. A message is
//! read piecewise without blocking, so that a frontend that stops in the
//! middle of one holds nobody up; its size and its number of descriptors are
//! capped before anything is kept.
//!
//! A payload may be *longer* than the request needs. User Mode Linux declares
//! the memory table with two entries, always sends both, and counts one
//! (arch/um/drivers/vhost_user.h), so trailing bytes have to be tolerated.
//!
//! Source: docs/interop/vhost-user.rst of QEMU.

use crate::foreign::{Foreign, Undertaker};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags};
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Largest payload that is accepted, in bytes. The largest that a frontend has
/// reason to send is a configuration space of 256 bytes behind 12.
pub(crate) const PAYLOAD_LIMIT: usize = 4096;
/// Most descriptors with one message; a memory table has at most this many.
pub(crate) const FD_LIMIT: usize = 32;

const HEADER_LEN: usize = 12;
const VERSION_MASK: u32 = 0x3;
const VERSION: u32 = 0x1;
const FLAG_REPLY: u32 = 1 << 2;
const FLAG_NEED_REPLY: u32 = 1 << 3;

/// What a frontend may ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Request {
    GetFeatures = 1,
    SetFeatures = 2,
    SetOwner = 3,
    ResetOwner = 4,
    SetMemTable = 5,
    SetVringNum = 8,
    SetVringAddr = 9,
    SetVringBase = 10,
    GetVringBase = 11,
    SetVringKick = 12,
    SetVringCall = 13,
    SetVringErr = 14,
    GetProtocolFeatures = 15,
    SetProtocolFeatures = 16,
    GetQueueNum = 17,
    SetVringEnable = 18,
    SetBackendReqFd = 21,
    GetConfig = 24,
    SetConfig = 25,
    ResetDevice = 34,
    GetMaxMemSlots = 36,
    AddMemReg = 37,
    RemMemReg = 38,
}

impl Request {
    fn from_code(code: u32) -> Option<Request> {
        use Request::*;
        const ALL: [Request; 23] = [
            GetFeatures,
            SetFeatures,
            SetOwner,
            ResetOwner,
            SetMemTable,
            SetVringNum,
            SetVringAddr,
            SetVringBase,
            GetVringBase,
            SetVringKick,
            SetVringCall,
            SetVringErr,
            GetProtocolFeatures,
            SetProtocolFeatures,
            GetQueueNum,
            SetVringEnable,
            SetBackendReqFd,
            GetConfig,
            SetConfig,
            ResetDevice,
            GetMaxMemSlots,
            AddMemReg,
            RemMemReg,
        ];
        ALL.into_iter().find(|request| *request as u32 == code)
    }
}

/// One message as it arrived.
#[derive(Debug)]
pub(crate) struct Message {
    /// Its number, known or not.
    pub(crate) code: u32,
    /// The sender waits for an answer even where there is nothing to say.
    pub(crate) need_reply: bool,
    /// What follows the header.
    pub(crate) payload: Vec<u8>,
    /// What came along; closed with the message unless taken.
    pub(crate) fds: VecDeque<Foreign>,
}

impl Message {
    /// The request, None for a number that we do not know.
    pub(crate) fn request(&self) -> Option<Request> {
        Request::from_code(self.code)
    }

    /// Whether the answer is more than an acknowledgement: then there is no
    /// way to say no but to end the connection.
    pub(crate) fn expects_payload(&self) -> bool {
        use Request::*;
        let asks = [GetFeatures, GetVringBase, GetProtocolFeatures, GetQueueNum, GetConfig, GetMaxMemSlots];
        self.request().is_some_and(|request| asks.contains(&request))
    }

    /// A little-endian 32-bit field at `offset` bytes of the payload.
    pub(crate) fn u32_at(&self, offset: usize) -> Result<u32, String> {
        self.field(offset).map(u32::from_le_bytes)
    }

    /// A little-endian 64-bit field at `offset` bytes of the payload.
    pub(crate) fn u64_at(&self, offset: usize) -> Result<u64, String> {
        self.field(offset).map(u64::from_le_bytes)
    }

    fn field<const N: usize>(&self, offset: usize) -> Result<[u8; N], String> {
        self.payload
            .get(offset..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .ok_or_else(|| format!("its payload of {} bytes is too short", self.payload.len()))
    }

    /// The next descriptor that came along, if it keeps nobody waiting.
    pub(crate) fn take_fd(&mut self) -> Result<OwnedFd, String> {
        self.fds.pop_front().ok_or("it lacks its file descriptor")?.accept()
    }
}

/// Why no message can be had.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// The other end closed the socket.
    Closed,
    /// It broke the protocol, or the socket failed: the reason for the log.
    Broken(String),
}

/// Collects a message from a socket, piece by piece.
#[derive(Default)]
pub(crate) struct MessageReader {
    bytes: Vec<u8>,
    fds: VecDeque<Foreign>,
    undertaker: Arc<Undertaker>,
}

struct Header {
    code: u32,
    flags: u32,
    size: usize,
}

impl MessageReader {
    /// `undertaker` closes what is not taken.
    pub(crate) fn new(undertaker: &Arc<Undertaker>) -> MessageReader {
        MessageReader { undertaker: Arc::clone(undertaker), ..MessageReader::default() }
    }

    /// Reads what is there: a message when one is complete, None when more
    /// has to arrive first. Never blocks, and never reads into the next
    /// message, so that descriptors stay with theirs.
    pub(crate) fn read(&mut self, socket: impl AsFd) -> Result<Option<Message>, ReadError> {
        loop {
            let header = self.header()?;
            let wanted = HEADER_LEN + header.as_ref().map_or(0, |header| header.size);
            match (header, wanted - self.bytes.len()) {
                (Some(header), 0) => return Ok(Some(self.finish(&header))),
                (_, missing) => {
                    if !self.receive(&socket, missing)? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn header(&self) -> Result<Option<Header>, ReadError> {
        let word = |at: usize| self.bytes.get(at..at + 4)?.first_chunk().copied().map(u32::from_le_bytes);
        let (Some(code), Some(flags), Some(size)) = (word(0), word(4), word(8)) else {
            return Ok(None);
        };
        if flags & VERSION_MASK != VERSION {
            return Err(ReadError::Broken(format!("message {code} has version {}, not 1", flags & VERSION_MASK)));
        }
        let size = size as usize;
        if size > PAYLOAD_LIMIT {
            return Err(ReadError::Broken(format!("message {code} claims {size} bytes, more than {PAYLOAD_LIMIT}")));
        }
        Ok(Some(Header { code, flags, size }))
    }

    /// Appends up to `missing` bytes; false when none is there yet.
    fn receive(&mut self, socket: &impl AsFd, missing: usize) -> Result<bool, ReadError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FD_LIMIT))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut piece = [0; PAYLOAD_LIMIT];
        let piece = &mut piece[..missing.min(PAYLOAD_LIMIT)];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(piece)], &mut control, flags) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(Errno::CONNRESET | Errno::PIPE) => return Err(ReadError::Closed),
            Err(error) => return Err(ReadError::Broken(format!("the socket failed: {error}"))),
        };
        for control in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = control {
                self.fds.extend(fds.map(|fd| Foreign::new(fd, &self.undertaker)));
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > FD_LIMIT {
            return Err(ReadError::Broken(format!("a message carries more than {FD_LIMIT} file descriptors")));
        }
        if received.bytes == 0 {
            return match self.bytes.is_empty() {
                true => Err(ReadError::Closed),
                false => Err(ReadError::Broken("the socket was closed in the middle of a message".into())),
            };
        }
        self.bytes.extend_from_slice(piece.get(..received.bytes).unwrap_or_default());
        Ok(true)
    }

    fn finish(&mut self, header: &Header) -> Message {
        let payload = self.bytes.split_off(HEADER_LEN);
        self.bytes.clear();
        Message { code: header.code, need_reply: header.flags & FLAG_NEED_REPLY != 0, payload, fds: std::mem::take(&mut self.fds) }
    }
}

/// Answers message `code`. The socket's buffer holds thousands of answers: a
/// frontend that lets it fill up reads none, and is given up.
pub(crate) fn send_reply(socket: impl AsFd, code: u32, payload: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    bytes.extend_from_slice(&code.to_le_bytes());
    bytes.extend_from_slice(&(VERSION | FLAG_REPLY).to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
    let sent = rustix::net::send(socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage};
    use std::io::{IoSlice, Write};
    use std::os::unix::net::UnixStream;

    fn header(code: u32, flags: u32, size: u32) -> Vec<u8> {
        [code, flags, size].iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn send_with_fds(socket: &UnixStream, bytes: &[u8], count: usize) {
        let fds: Vec<_> = (0..count).map(|_| socket.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    }

    #[test]
    fn a_message_may_arrive_byte_by_byte() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut reader = MessageReader::default();
        let mut bytes = header(8, VERSION | FLAG_NEED_REPLY, 8);
        bytes.extend([1, 0, 0, 0, 0, 1, 0, 0]);
        let (last, first) = bytes.split_last().unwrap();
        for byte in first {
            theirs.write_all(&[*byte]).unwrap();
            assert!(reader.read(&ours).unwrap().is_none());
        }
        theirs.write_all(&[*last]).unwrap();
        let message = reader.read(&ours).unwrap().unwrap();
        assert_eq!(message.request(), Some(Request::SetVringNum));
        assert!(message.need_reply);
        assert_eq!((message.u32_at(0), message.u32_at(4)), (Ok(1), Ok(256)));
        assert!(message.u64_at(4).is_err());
        assert!(message.u32_at(usize::MAX).is_err());
    }

    #[test]
    fn descriptors_stay_with_their_message() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        send_with_fds(&theirs, &header(3, VERSION, 0), 0);
        send_with_fds(&theirs, &header(21, VERSION, 0), 2);
        send_with_fds(&theirs, &header(1, VERSION, 0), 0);
        let mut reader = MessageReader::default();
        let counts = [0; 3].map(|_: i32| reader.read(&ours).unwrap().unwrap().fds.len());
        assert_eq!(counts, [0, 2, 0]);
        assert!(reader.read(&ours).unwrap().is_none());
    }

    #[test]
    fn nonsense_is_refused_before_anything_is_kept() {
        for bytes in [header(5, VERSION, 4097), header(5, VERSION, u32::MAX), header(5, 0, 8), header(5, 3, 8)] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(&bytes).unwrap();
            assert!(matches!(MessageReader::default().read(&ours), Err(ReadError::Broken(_))));
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        send_with_fds(&theirs, &header(5, VERSION, 0), FD_LIMIT + 1);
        assert!(matches!(MessageReader::default().read(&ours), Err(ReadError::Broken(_))));
    }

    #[test]
    fn the_end_is_told_from_the_middle() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(MessageReader::default().read(&ours).unwrap_err(), ReadError::Closed);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&header(5, VERSION, 40)).unwrap();
        drop(theirs);
        assert!(matches!(MessageReader::default().read(&ours), Err(ReadError::Broken(_))));
    }
}
