//! [`Progress`]: how far a long job is, on a terminal and nowhere else.

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A bar with rate and remaining time; nothing where nobody looks.
pub struct Progress {
    bar: ProgressBar,
    ended: Arc<AtomicBool>,
    /// The position, where something else counts it.
    counted: Option<Arc<AtomicU64>>,
    items: u64,
    bytes: u64,
    in_items: bool,
}

impl Progress {
    fn new(length: Option<u64>, in_items: bool, counted: Option<Arc<AtomicU64>>) -> Progress {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr_with_hz(8) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(length, target);
        let (position, rate) =
            if in_items { ("{human_pos}/{human_len}", "{per_sec}") } else { ("{bytes}/{total_bytes}", "{bytes_per_sec}") };
        let template = match length {
            Some(_) => format!("{{wide_bar}} {position}  {rate}  {{msg}}  ETA {{eta}}"),
            None => format!("{{spinner}} {}  {rate}  {{msg}}", position.split('/').next().unwrap_or_default()),
        };
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        if is_terminal {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Progress { bar, ended: Arc::default(), counted, items: 0, bytes: 0, in_items }
    }

    /// Of the bytes of an archive, which `counted` counts; `length` is None
    /// for a pipe.
    #[must_use]
    pub fn of_bytes(length: Option<u64>, counted: Arc<AtomicU64>) -> Progress {
        Progress::new(length, false, Some(counted))
    }

    /// Of items whose number nobody knows.
    #[must_use]
    pub fn of_items(length: Option<u64>) -> Progress {
        Progress::new(length, true, None)
    }

    /// Of the items in a host directory, which are counted meanwhile.
    #[must_use]
    pub fn of_directory(directory: PathBuf) -> Progress {
        let progress = Progress::new(Some(1), true, None);
        if std::io::stderr().is_terminal() {
            let (bar, ended) = (progress.bar.clone(), progress.ended.clone());
            std::thread::spawn(move || count(vec![directory], &bar, &ended));
        }
        progress
    }

    /// A piece of `bytes` bytes is done; 0 for a whole item.
    pub fn told(&mut self, bytes: u64) {
        self.bytes += bytes;
        if bytes > 0 && self.in_items {
            return;
        }
        self.items += u64::from(bytes == 0);
        match &self.counted {
            Some(counted) => self.bar.set_position(counted.load(Ordering::Relaxed)),
            None => self.bar.set_position(self.items),
        }
        // Said often enough by the bar's own clock; the text is what costs.
        if self.items.is_multiple_of(256) {
            self.bar.set_message(format!("{} files, {}", HumanCount(self.items), HumanBytes(self.bytes)));
        }
    }

    /// So many items are done, of `expected` if that is known.
    pub fn reach(&mut self, items: u64, expected: Option<u64>) {
        self.items = items;
        if let Some(expected) = expected.filter(|expected| self.bar.length() != Some(*expected)) {
            self.bar.set_length(expected);
        }
        self.bar.set_position(items);
    }

    /// How many items are done.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Takes the bar away.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.bar.finish_and_clear();
    }
}

/// Counts what is in `directories`; links are not followed.
fn count(mut directories: Vec<PathBuf>, bar: &ProgressBar, ended: &AtomicBool) {
    let mut found = 1;
    while let Some(directory) = directories.pop() {
        if ended.load(Ordering::Relaxed) {
            return;
        }
        for entry in std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
            found += 1;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(entry.path());
            }
        }
        bar.set_length(found);
    }
}
