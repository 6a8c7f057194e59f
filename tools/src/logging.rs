//! Logs: one line an event, to standard error, a file, or the system's log.
//!
//! A process can change where its lines go, once it has gone into the
//! background. Whatever the place, a line never stops a file system: one that
//! cannot be written is lost.

use crate::failure::{Failure, Result};
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{PoisonError, RwLock};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Where lines go.
enum Output {
    Stderr,
    File(File),
    /// syslog's socket, connected before a sandbox closes the way there; None
    /// if nobody listens.
    System(Option<UnixDatagram>),
}

static OUTPUT: RwLock<Output> = RwLock::new(Output::Stderr);

/// The crate fuser reports each answer that came too late, which is what
/// interrupting a request looks like; virtio-queue whatever is wrong with a
/// guest's queue, as often as the guest likes. We say it ourselves.
const QUIET: &str = "fuser=off,virtio_queue=off";

/// Starts logging to standard error. `verbose` counts `-v`: warnings and
/// errors without, then notices, then decisions, then each request. `RUST_LOG`
/// has the last word. A second call changes nothing.
pub fn start(verbose: u8) {
    let level = ["warn", "info", "debug", "trace"].get(usize::from(verbose)).unwrap_or(&"trace");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},{QUIET}")));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    // Fails only when logging was started before.
    let _ = builder.event_format(OneLine).with_writer(Sink).try_init();
}

/// Another place for lines, opened while that is still allowed.
pub struct Elsewhere(Output);

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Elsewhere")
    }
}

impl Elsewhere {
    /// `file`, or else the system's log, which is /dev/log; if nobody listens
    /// there, nowhere.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(file: Option<&Path>) -> Result<Elsewhere> {
        Ok(Elsewhere(match file {
            Some(path) => {
                let file = File::options().append(true).create(true).open(path);
                Output::File(file.map_err(|e| Failure::io(format!("cannot open the log file {}", path.display()), &e))?)
            }
            None => Output::System(connected(Path::new("/dev/log")).ok()),
        }))
    }

    /// From now on lines go there.
    pub fn switch(self) {
        *OUTPUT.write().unwrap_or_else(PoisonError::into_inner) = self.0;
    }
}

/// A socket to whoever reads the log at `path`. When that one is stuck, its queue
/// is full after some lines: then further ones are lost.
fn connected(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// `externfs: warning: what happened key=value`.
struct OneLine;

impl<S, N> FormatEvent<S, N> for OneLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        writer.write_str(match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            Level::INFO => "",
            Level::DEBUG => "debug: ",
            Level::TRACE => "trace: ",
        })?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Makes a [`Line`] for each event.
struct Sink;

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { priority: 6, text: Vec::new() }
    }

    fn make_writer_for(&'a self, metadata: &tracing::Metadata<'_>) -> Line {
        // The severities of syslog(3).
        let priority = match *metadata.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        Line { priority, text: Vec::new() }
    }
}

/// One line on its way; dropping it sends it.
struct Line {
    priority: u8,
    text: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        const DAEMON: u8 = 3 << 3;
        let text = self.text.trim_ascii_end();
        let prefix = match &*OUTPUT.read().unwrap_or_else(PoisonError::into_inner) {
            Output::Stderr => "externfs: ".to_owned(),
            Output::File(_) => {
                let mut time = String::new();
                let _ = SystemTime.format_time(&mut Writer::new(&mut time));
                format!("{time} externfs[{}]: ", std::process::id())
            }
            Output::System(_) => format!("<{}>externfs[{}]: ", DAEMON | self.priority, std::process::id()),
        };
        let line = [prefix.as_bytes(), text, b"\n"].concat();
        let _ = match &*OUTPUT.read().unwrap_or_else(PoisonError::into_inner) {
            Output::Stderr => io::stderr().write_all(&line),
            Output::File(file) => (&*file).write_all(&line),
            Output::System(Some(socket)) => socket.send(line.trim_ascii_end()).map(drop),
            Output::System(None) => Ok(()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_read_the_log_stops_nobody() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let reader = UnixDatagram::bind(&path).expect("binds");
        let socket = connected(&path).expect("connects");
        let (done, waiting) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // More than any queue takes; then a line is lost.
            let lost = (0..100_000).find_map(|_| socket.send(b"line").err());
            let _ = done.send(lost.map(|error| error.kind()));
        });
        let lost = waiting.recv_timeout(std::time::Duration::from_secs(10)).expect("it goes on");
        assert_eq!(lost, Some(io::ErrorKind::WouldBlock));
        let mut line = [0; 8];
        assert_eq!(reader.recv(&mut line).expect("the first ones have arrived"), 4);
    }
}
