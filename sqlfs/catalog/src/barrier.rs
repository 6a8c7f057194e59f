//! Who queries waits until the catalog has caught up with the tree.
//!
//! The serving process listens at a socket beside the database. Whoever connects
//! and sends a line gets one back when everything that had been done by then is
//! in the database:
//! ```text
//! flush\n      ok\n                  it is
//!              ok 5\n               it is, but for what 5 files say, which are still to be read
//!              building 17 40\n      it is being made: 17 of about 40 names so far
//!              failed REASON\n       it is not kept for now
//! ```

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// The socket's name, beside the database.
pub const SOCKET: &str = "socket";

/// What the other side may take for its line.
const LINE_TIME: Duration = Duration::from_secs(5);

/// Bytes of a line.
const LINE_MAX: u64 = 512;

/// How far the catalog is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It has caught up.
    Current,
    /// It has, but for what so many files say.
    Reading(u64),
    /// It is being made: names so far, and about how many there are (0: unknown).
    Building(u64, u64),
    /// It is not kept, for this reason.
    Failed(String),
}

impl Standing {
    fn to_line(&self) -> String {
        match self {
            Standing::Current => "ok\n".into(),
            Standing::Reading(files) => format!("ok {files}\n"),
            Standing::Building(seen, expected) => format!("building {seen} {expected}\n"),
            Standing::Failed(why) => format!("failed {}\n", why.replace('\n', " ")),
        }
    }

    fn parse(line: &str) -> Option<Standing> {
        let mut words = line.split_whitespace();
        Some(match words.next()? {
            "ok" => match words.next() {
                None => Standing::Current,
                Some(files) => Standing::Reading(files.parse().ok()?),
            },
            "building" => Standing::Building(words.next()?.parse().ok()?, words.next()?.parse().ok()?),
            "failed" => Standing::Failed(words.collect::<Vec<_>>().join(" ")),
            _ => return None,
        })
    }
}

/// A path for bind(2) and connect(2), which take 107 bytes at most: through a
/// descriptor of the directory.
fn short(dir: &Path) -> io::Result<(std::os::fd::OwnedFd, std::path::PathBuf)> {
    use std::os::fd::AsRawFd;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, rustix::fs::Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", fd.as_raw_fd()).into();
    Ok((fd, path))
}

/// Begins to listen in `dir`, where a predecessor that died may have left its
/// socket. The caller has locked the tree.
///
/// # Errors
/// What bind(2) says.
pub fn listen(dir: &Path) -> io::Result<UnixListener> {
    let (_held, path) = short(dir)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Answers one who has connected, with what `flush` says.
pub fn answer(stream: &UnixStream, flush: impl FnOnce() -> Standing) {
    let answer = || -> io::Result<()> {
        stream.set_read_timeout(Some(LINE_TIME))?;
        stream.set_write_timeout(Some(LINE_TIME))?;
        let mut line = String::new();
        BufReader::new(stream.take(LINE_MAX)).read_line(&mut line)?;
        if line.trim_end() == "flush" {
            (&*stream).write_all(flush().to_line().as_bytes())?;
        }
        Ok(())
    };
    // Whoever asked has gone away.
    let _ = answer();
}

/// Asks whoever serves the tree with the catalog in `dir` to catch up. None if
/// nobody does.
///
/// # Errors
/// That somebody does and gives no answer within `patience`.
pub fn flush(dir: &Path, patience: Duration) -> io::Result<Option<Standing>> {
    let deadline = Instant::now() + patience;
    let (_held, path) = short(dir)?;
    let stream = match connect(&path, patience) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error),
    };
    stream.set_write_timeout(Some(patience))?;
    (&stream).write_all(b"flush\n")?;
    let line = line_by(&stream, deadline)?;
    let nonsense = || io::Error::new(io::ErrorKind::InvalidData, "the server's answer is none");
    Standing::parse(&line).map(Some).ok_or_else(nonsense)
}

/// Somebody who listens and never accepts is not waited for without end.
fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(patience))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// The first line, or what there is at the end; all of it by `deadline`, however
/// slowly it trickles.
fn line_by(mut stream: &UnixStream, deadline: Instant) -> io::Result<String> {
    let (mut line, mut piece) = (Vec::new(), [0; LINE_MAX as usize]);
    while !line.contains(&b'\n') && line.len() < LINE_MAX as usize {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => line.extend(piece.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let end = line.iter().position(|&byte| byte == b'\n').unwrap_or(line.len());
    Ok(String::from_utf8_lossy(line.get(..end).unwrap_or_default()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One byte at a time, or none and nobody who accepts.
    #[test]
    fn patience_has_an_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = listen(dir.path()).expect("a socket");
        let patience = Duration::from_millis(300);
        let asked = |expected: Duration| {
            let begun = Instant::now();
            flush(dir.path(), patience).expect_err("no answer");
            assert!(begun.elapsed() < expected, "{:?}", begun.elapsed());
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().expect("a client");
                while stream.write_all(b"o").is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            asked(patience * 4);
        });
        // A short queue, and nobody who looks after it.
        rustix::net::listen(&listener, 0).expect("listen");
        let begun = Instant::now();
        let waiting: Vec<_> = std::iter::from_fn(|| connect(&short(dir.path()).ok()?.1, patience).ok()).take(100).collect();
        assert!(waiting.len() < 100 && begun.elapsed() < patience * 4, "{} wait", waiting.len());
        asked(patience * 4);
    }

    #[test]
    fn answers_come_across() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(flush(dir.path(), LINE_TIME).expect("nobody").is_none());
        // A server that died has left its socket.
        drop(listen(dir.path()).expect("a socket"));
        assert!(flush(dir.path(), LINE_TIME).expect("nobody").is_none());
        let listener = listen(dir.path()).expect("a socket");
        for standing in [Standing::Current, Standing::Reading(5), Standing::Building(17, 40), Standing::Failed("the disk\nis full".into())]
        {
            let told = standing.clone();
            std::thread::scope(|scope| {
                scope.spawn(|| answer(&listener.accept().expect("a client").0, || told));
                let heard = flush(dir.path(), LINE_TIME).expect("an answer");
                let expected = if let Standing::Failed(_) = standing { Standing::Failed("the disk is full".into()) } else { standing };
                assert_eq!(heard, Some(expected));
            });
        }
    }
}
