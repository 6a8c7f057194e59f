//! [`ControlFs`]: a plugin with no tree behind it, through which the init in
//! the guest gets its orders and the command its standard streams.
//!
//! Each stream is a file of its own. A read of `input` waits until something
//! has happened on the host; a write to `stdout` returns when the host has
//! taken it, so a slow reader on the host slows the command down and nothing
//! is ever lost or translated. That is why consoles of the guest play no part.
//!
//! Two guests' devices are served from one bridge, one for `input` and one for
//! the rest: a read that waits would hold up whatever shares its queue.

use super::frames::{Frame, PAYLOAD_MAX};
use externfs::{
    Attr, Caller, CreateFlags, DataSink, DataSource, DeviceNumber, DirEntry, Errno, Error, ExternFs, FileCache, FileKind, GuestGid,
    GuestUid, Mode, Name, NodeKey, OpenFlags, Opened, Result, SetAttr, Timestamp, WriteFlags,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

/// Tag of the device that only `input` is read through.
pub const INPUT_TAG: &str = "externfs.input";
/// Tag of the device for everything else.
pub const OUTPUT_TAG: &str = "externfs.output";
/// Tag of the guest's root.
pub const ROOT_TAG: &str = "externfs.root";

/// The host's ends of everything.
#[derive(Debug)]
pub struct HostEnds {
    /// What the guest is to do, encoded.
    pub orders: Vec<u8>,
    /// The command's standard input.
    pub stdin: File,
    /// Its standard output.
    pub stdout: File,
    /// Its standard error.
    pub stderr: File,
    /// The terminal, when one of the three is one.
    pub terminal: Option<File>,
    /// Encoded frames that do not come from `stdin`: window sizes, signals.
    pub commands: File,
    /// Where the guest's reports go.
    pub reports: File,
}

/// The plugin.
#[derive(Debug)]
pub struct ControlFs {
    ends: HostEnds,
    input: Mutex<Input>,
}

/// What is on its way to the guest.
#[derive(Debug)]
struct Input {
    encoded: Vec<u8>,
    sent: usize,
    stdin_open: bool,
    commands_open: bool,
}

/// A file of the share, or the share itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Place {
    Root,
    Orders,
    Input,
    Stdout,
    Stderr,
    Terminal,
    Report,
}

const FILES: [(&str, Place); 6] = [
    ("orders", Place::Orders),
    ("input", Place::Input),
    ("stdout", Place::Stdout),
    ("stderr", Place::Stderr),
    ("terminal", Place::Terminal),
    ("report", Place::Report),
];

impl ControlFs {
    /// Over the host's ends.
    #[must_use]
    pub fn new(ends: HostEnds) -> ControlFs {
        let input = Input { encoded: Vec::new(), sent: 0, stdin_open: true, commands_open: true };
        ControlFs { ends, input: Mutex::new(input) }
    }

    fn attr_of(&self, place: Place) -> Attr {
        let directory = place == Place::Root;
        Attr {
            ino: place as u64 + 1,
            size: if place == Place::Orders { self.ends.orders.len() as u64 } else { 0 },
            blocks: 0,
            block_size: 4096,
            kind: if directory { FileKind::Directory } else { FileKind::Regular },
            mode: Mode::new(if directory { 0o700 } else { 0o600 }),
            nlink: if directory { 2 } else { 1 },
            uid: GuestUid(0),
            gid: GuestGid(0),
            device: DeviceNumber::default(),
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            btime: None,
        }
    }

    /// Waits for something to send and gives up to `size` bytes of it to `sink`.
    fn send_input(&self, size: usize, sink: &mut dyn DataSink) -> Result<usize> {
        // Held while waiting: there is one reader, and a second one that waits
        // behind it is what two readers of one terminal would be.
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        if input.sent == input.encoded.len() {
            input.encoded.clear();
            input.sent = 0;
            self.gather(&mut input)?;
        }
        let ready = input.encoded.get(input.sent..).unwrap_or_default();
        let length = ready.len().min(size);
        sink.put(ready.get(..length).unwrap_or_default())?;
        input.sent += length;
        Ok(length)
    }

    /// Waits until stdin or a command has something, and encodes it. Leaves
    /// nothing only when both have ended.
    fn gather(&self, input: &mut Input) -> Result<()> {
        while input.encoded.is_empty() && (input.stdin_open || input.commands_open) {
            let mut watched = Vec::with_capacity(2);
            let mut watch = |file: &'static str, open: bool, fd| {
                if open {
                    watched.push((file, PollFd::new(fd, PollFlags::POLLIN)));
                }
            };
            watch("stdin", input.stdin_open, self.ends.stdin.as_fd());
            watch("commands", input.commands_open, self.ends.commands.as_fd());
            let names: Vec<_> = watched.iter().map(|(name, _)| *name).collect();
            let mut fds: Vec<_> = watched.into_iter().map(|(_, fd)| fd).collect();
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
            let happened = |name| names.iter().zip(&fds).any(|(n, fd)| *n == name && fd.any() == Some(true));
            let (command, data) = (happened("commands"), happened("stdin"));
            if command {
                let mut bytes = [0; 256];
                let length = retried(|| (&self.ends.commands).read(&mut bytes))?;
                input.commands_open = length > 0;
                input.encoded.extend_from_slice(bytes.get(..length).unwrap_or_default());
            }
            if data {
                let mut bytes = vec![0; PAYLOAD_MAX];
                // A terminal that hangs up reads as an error: an end as well.
                let length = retried(|| (&self.ends.stdin).read(&mut bytes)).unwrap_or(0);
                input.stdin_open = length > 0;
                bytes.truncate(length);
                let frame = if length == 0 { Frame::End } else { Frame::Data(bytes) };
                frame.encode(&mut input.encoded);
            }
        }
        Ok(())
    }
}

fn retried(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

impl ExternFs for ControlFs {
    type Node = Place;
    type File = Place;
    type Dir = ();

    fn root(&self) -> Result<Place> {
        Ok(Place::Root)
    }

    fn key(&self, node: &Place) -> NodeKey {
        NodeKey { volume: 0, number: *node as u64 + 1, generation: 0 }
    }

    fn attr(&self, node: &Place, _file: Option<&Place>) -> Result<Attr> {
        Ok(self.attr_of(*node))
    }

    fn lookup(&self, parent: &Place, name: Name<'_>) -> Result<(Place, Attr)> {
        let found = FILES.iter().find(|(file, _)| *parent == Place::Root && file.as_bytes() == name.as_bytes());
        let (_, place) = found.ok_or(Errno::ENOENT)?;
        Ok((*place, self.attr_of(*place)))
    }

    fn open_dir(&self, _node: &Place) -> Result<()> {
        Ok(())
    }

    fn read_dir(&self, _dir: &(), cookie: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let names = [(".", Place::Root), ("..", Place::Root)].into_iter().chain(FILES);
        for (number, (name, place)) in names.enumerate().skip(cookie as usize) {
            let kind = Some(if place == Place::Root { FileKind::Directory } else { FileKind::Regular });
            if !emit(&DirEntry { name: name.as_bytes(), ino: place as u64 + 1, kind, next: number as u64 + 1 }) {
                break;
            }
        }
        Ok(())
    }

    fn open(&self, _caller: &Caller, node: &Place, flags: OpenFlags) -> Result<Opened<Place>> {
        let writable = !matches!(node, Place::Orders | Place::Input);
        if flags.write && !writable {
            return Err(Errno::EACCES.into());
        }
        Ok(Opened { file: *node, cache: FileCache::Bypass, size: 0 })
    }

    fn read(&self, file: &Place, offset: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize> {
        match file {
            Place::Orders => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.ends.orders.len());
                let rest = self.ends.orders.get(start..).unwrap_or_default();
                let bytes = rest.get(..rest.len().min(size)).unwrap_or_default();
                sink.put(bytes)?;
                Ok(bytes.len())
            }
            Place::Input => self.send_input(size, sink),
            _ => Ok(0),
        }
    }

    /// Offsets mean nothing: a stream goes on where it was.
    fn write(&self, file: &Place, _offset: u64, source: &mut dyn DataSource, _flags: WriteFlags) -> Result<usize> {
        let mut target: &File = match file {
            Place::Stdout => &self.ends.stdout,
            Place::Stderr => &self.ends.stderr,
            Place::Terminal => self.ends.terminal.as_ref().ok_or(Errno::ENXIO)?,
            Place::Report => &self.ends.reports,
            _ => return Err(Errno::EBADF.into()),
        };
        let mut buffer = vec![0; source.remaining().min(PAYLOAD_MAX)];
        let mut written = 0;
        loop {
            let length = source.take(&mut buffer)?;
            if length == 0 {
                return Ok(written);
            }
            target.write_all(buffer.get(..length).unwrap_or_default()).map_err(Error::from)?;
            written += length;
        }
    }

    /// Nothing to set; but a kernel that opens with truncation must not fail.
    fn set_attr(&self, _caller: &Caller, node: &Place, _file: Option<&Place>, _change: &SetAttr) -> Result<Attr> {
        Ok(self.attr_of(*node))
    }

    fn create(&self, _caller: &Caller, _parent: &Place, _name: Name<'_>, _flags: CreateFlags) -> Result<externfs::Created<Place, Place>> {
        Err(Errno::EACCES.into())
    }
}
