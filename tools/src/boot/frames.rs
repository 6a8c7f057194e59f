//! Frames: what the host's side of the terminal sends to the guest's.
//!
//! One stream carries typed bytes and what is not bytes: the end of the input,
//! a new window size, a signal. A frame is a kind (one byte), a length (four,
//! little endian) and as many bytes.

use std::io::{self, Read};

/// The longest payload; input is read in pieces of at most this.
pub const PAYLOAD_MAX: usize = 64 * 1024;

/// One thing that happened on the host's side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// Bytes for the command's standard input.
    Data(Vec<u8>),
    /// There will be no more.
    End,
    /// The window now has so many rows and columns.
    Window(u16, u16),
    /// A signal for the command.
    Signal(u8),
    /// The host knows how the command ended: read no more. A guest that is
    /// switched off waits for all it has asked for, and so would wait for a key.
    Farewell,
}

impl Frame {
    /// Appends the frame to `bytes`.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        let (kind, payload) = match self {
            Frame::Data(data) => (0, data.clone()),
            Frame::End => (1, Vec::new()),
            Frame::Window(rows, columns) => (2, [rows.to_le_bytes(), columns.to_le_bytes()].concat()),
            Frame::Signal(number) => (3, vec![*number]),
            Frame::Farewell => (4, Vec::new()),
        };
        bytes.push(kind);
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&payload);
    }

    /// Reads one frame; None at a clean end.
    ///
    /// # Errors
    /// The stream's, or InvalidData.
    pub fn read(stream: &mut impl Read) -> io::Result<Option<Frame>> {
        let mut header = [0; 5];
        if stream.read(&mut header[..1])? == 0 {
            return Ok(None);
        }
        stream.read_exact(&mut header[1..])?;
        let [kind, length @ ..] = header;
        let length = u32::from_le_bytes(length) as usize;
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        if length > PAYLOAD_MAX {
            return Err(invalid());
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        Ok(Some(match (kind, payload.as_slice()) {
            (0, _) => Frame::Data(payload),
            (1, []) => Frame::End,
            (2, [a, b, c, d]) => Frame::Window(u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d])),
            (3, [number]) => Frame::Signal(*number),
            (4, []) => Frame::Farewell,
            _ => return Err(invalid()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_journey() {
        let frames =
            [Frame::Data(vec![0, 255, 10]), Frame::Data(vec![]), Frame::Window(50, 132), Frame::Signal(2), Frame::End, Frame::Farewell];
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        let mut stream = bytes.as_slice();
        for frame in frames {
            assert_eq!(Frame::read(&mut stream).expect("whole"), Some(frame));
        }
        assert_eq!(Frame::read(&mut stream).expect("end"), None);
    }

    #[test]
    fn broken_frames_are_errors() {
        for bad in [&b"\x00"[..], b"\x00\x05\0\0\0ab", b"\x09\0\0\0\0", b"\x03\0\0\0\0", b"\x00\xff\xff\xff\xff"] {
            assert!(Frame::read(&mut &bad[..]).is_err(), "{bad:?}");
        }
    }
}
