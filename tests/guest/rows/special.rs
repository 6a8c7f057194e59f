//! What is a name on the host and lives in the guest: devices, pipes, sockets.

use crate::place::{Place, Verdict, done, look, open, same};
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

pub(super) fn fifo(place: &Place) -> Verdict {
    let path = place.at("fifo");
    done("mkfifo", rustix::fs::mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)))?;
    same("kind", FileType::from_raw_mode(look(&path)?.st_mode), FileType::Fifo)?;
    let text = std::thread::scope(|scope| {
        let writer = scope.spawn(|| File::options().write(true).open(&path)?.write_all(b"through the pipe"));
        let mut text = String::new();
        done("read", File::open(&path).and_then(|mut file| file.read_to_string(&mut text)))?;
        done("write", writer.join().unwrap_or_else(|_| Err(std::io::Error::other("panicked"))))?;
        Ok(text)
    })?;
    same("what came through", text.as_str(), "through the pipe")
}

pub(super) fn socket(place: &Place) -> Verdict {
    let path = place.at("s");
    let listener = done("bind", UnixListener::bind(&path))?;
    same("kind", FileType::from_raw_mode(look(&path)?.st_mode), FileType::Socket)?;
    let mut client = done("connect", UnixStream::connect(&path))?;
    let (mut server, _) = done("accept", listener.accept())?;
    done("send", client.write_all(b"hello"))?;
    drop(client);
    let mut text = String::new();
    done("receive", server.read_to_string(&mut text))?;
    same("received", text.as_str(), "hello")
}

pub(super) fn devices(place: &Place) -> Verdict {
    let nodes = [
        ("null", FileType::CharacterDevice, (1, 3)),
        ("zero", FileType::CharacterDevice, (1, 5)),
        ("whiteout", FileType::CharacterDevice, (0, 0)),
        ("block", FileType::BlockDevice, (259, 70_000)),
    ];
    for (name, kind, (major, minor)) in nodes {
        let path = place.at(name);
        done(format_args!("mknod {name}"), mknodat(CWD, &path, kind, Mode::from_raw_mode(0o666), makedev(major, minor)))?;
        let found = look(&path)?;
        same(format_args!("kind of {name}"), FileType::from_raw_mode(found.st_mode), kind)?;
        same(format_args!("number of {name}"), found.st_rdev, makedev(major, minor))?;
    }
    // The guest's own driver answers.
    let mut zeros = [1; 64];
    let zero = File::from(done("open zero", open(&place.at("zero"), OFlags::RDONLY))?);
    done("read zero", (&zero).read_exact(&mut zeros))?;
    same("zeros", zeros, [0; 64])?;
    done("write null", fs::write(place.at("null"), "gone"))
}
