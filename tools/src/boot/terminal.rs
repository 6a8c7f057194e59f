//! The host's terminal while a guest has it: raw, so that every key goes to
//! the guest, and as it was afterwards, however that comes.

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;

/// Which of standard input, output and error are terminals.
#[must_use]
pub(crate) fn streams() -> [bool; 3] {
    [std::io::stdin().is_terminal(), std::io::stdout().is_terminal(), std::io::stderr().is_terminal()]
}

/// The terminal itself, if any of the streams is one.
pub(crate) fn open() -> Option<File> {
    let [input, output, error] = streams();
    let cloned = if output {
        std::io::stdout().as_fd().try_clone_to_owned()
    } else if error {
        std::io::stderr().as_fd().try_clone_to_owned()
    } else if input {
        std::io::stdin().as_fd().try_clone_to_owned()
    } else {
        return None;
    };
    cloned.ok().map(File::from)
}

/// Rows and columns; 24 by 80 where a terminal does not know.
pub(crate) fn window(terminal: &File) -> (u16, u16) {
    match tcgetwinsize(terminal) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => (24, 80),
    }
}

/// A terminal and how it was.
#[derive(Debug)]
pub(crate) struct Saved {
    terminal: File,
    before: Termios,
}

impl Saved {
    /// Remembers standard input's settings, if that is a terminal.
    pub(crate) fn of_input() -> Option<Saved> {
        let terminal = File::from(std::io::stdin().as_fd().try_clone_to_owned().ok()?);
        let before = tcgetattr(&terminal).ok()?;
        Some(Saved { terminal, before })
    }

    /// Lets every byte through.
    pub(crate) fn make_raw(&self) {
        let mut raw = self.before.clone();
        raw.make_raw();
        let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &raw);
    }

    /// As it was. Harmless if nothing had changed.
    pub(crate) fn restore(&self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}
