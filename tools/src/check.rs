//! `externfs check` and `externfs explain`.

use crate::cli::{Check, Explain};
use crate::failure::{Failure, Result};
use crate::{hostuser, process};
use humfs::check::{CheckOptions, Progress, Report, check};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// As fsck(8): 1 and 4 say something of the tree, so this says that nothing
/// could be said.
const NOT_CHECKED: u8 = 8;

/// Checks a tree. Returns the exit code.
///
/// # Errors
/// It cannot be checked.
pub fn run(asked: &Check) -> Result<u8> {
    process::raise_file_limit();
    if asked.repair {
        hostuser::act_as_owner_of(&asked.tree).map_err(|failure| Failure { code: NOT_CHECKED, ..failure })?;
    }
    let options = CheckOptions { repair: asked.repair, live: asked.live, adopt: asked.adopt };
    let progress = Progress::default();
    let report = watched(&progress, || check(&asked.tree, &options, &progress));
    let report = report.map_err(|error| Failure { line: error.0, code: NOT_CHECKED })?;
    tell(&report, asked.json)?;
    Ok(report.exit_code())
}

/// Runs `work` with a bar, where somebody looks.
fn watched<T>(progress: &Progress, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
    let ended = AtomicBool::new(false);
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut length = 0;
            while !ended.load(Ordering::Relaxed) {
                if progress.expected() != length {
                    length = progress.expected();
                    bar.set_length(length);
                }
                if let Some(style) = style(length > progress.seen()) {
                    bar.set_style(style);
                }
                bar.set_position(progress.seen());
                std::thread::sleep(Duration::from_millis(125));
            }
        });
        // Also by a panic: else the bar's thread would go on for ever.
        let _ending = Ending(&ended);
        work()
    });
    bar.finish_and_clear();
    done
}

/// Ends the bar when it goes.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// With an end in sight, or without.
fn style(is_known: bool) -> Option<ProgressStyle> {
    let template = if is_known { "{wide_bar} {human_pos}/{human_len}  {per_sec}  ETA {eta}" } else { "{spinner} {human_pos}  {per_sec}" };
    ProgressStyle::with_template(template).ok()
}

fn tell(report: &Report, json: bool) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let told = if json {
        serde_json::to_writer_pretty(&mut out, report).map_err(std::io::Error::from).and_then(|()| out.write_all(b"\n"))
    } else {
        write!(out, "{report}")
    };
    match told.and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure { code: NOT_CHECKED, ..Failure::io("cannot write to standard output", &error) })
        }
        _ => Ok(()),
    }
}

/// Explains files in a tree. Paths are understood as by the other commands.
///
/// # Errors
/// A path that is not there.
pub fn explain(asked: &Explain) -> Result<()> {
    let paths = crate::edit::paths(&asked.paths)?;
    for (index, (path, written)) in paths.iter().zip(&asked.paths).enumerate() {
        let explained = humfs::explain::explain(&asked.tree, path.as_bytes(), asked.adopt)?;
        let mut text = String::new();
        if paths.len() > 1 {
            text = format!("{}{}:\n", if index > 0 { "\n" } else { "" }, crate::shown::text(written.as_bytes()));
        }
        text.push_str(&explained.to_string());
        crate::edit::print(text.as_bytes())?;
    }
    Ok(())
}
