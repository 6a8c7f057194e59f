//! Programs on the share.

use crate::place::{Place, Verdict, done, open, refused, same, set_mode};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// This program, copied to the share.
fn program(place: &Place) -> Verdict<PathBuf> {
    let path = place.at("program");
    done("copy this program", fs::copy("/proc/self/exe", &path))?;
    set_mode(&path, 0o755)?;
    Ok(path)
}

pub(super) fn from_share(place: &Place) -> Verdict {
    let path = program(place)?;
    let run = || Command::new(&path).args(["echo", "run from the share"]).stderr(Stdio::inherit()).output();
    let output = done("run", run())?;
    same("exit status", output.status.code(), Some(0))?;
    same("output", String::from_utf8_lossy(&output.stdout).into_owned(), "run from the share\n".to_owned())?;
    let script = place.file("script", format!("#!{} echo\n", path.display()))?;
    set_mode(&script, 0o755)?;
    let output = done("run a script", Command::new(&script).output())?;
    same("output of the script", String::from_utf8_lossy(&output.stdout).into_owned(), format!("{}\n", script.display()))?;
    set_mode(&path, 0o644)?;
    let errno = run().err().and_then(|error| error.raw_os_error()).map(Errno::from_raw_os_error);
    same("run without permission", errno, Some(Errno::ACCESS))
}

pub(super) fn text_busy(place: &Place) -> Verdict {
    let path = program(place)?;
    let mut child = done("run", Command::new(&path).arg("sleep").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn())?;
    let started = crate::helper::wait_ready(&mut child);
    let busy = refused("write to a program that runs", open(&path, OFlags::WRONLY), Errno::TXTBSY);
    let _ = child.kill();
    let _ = child.wait();
    started.and(busy)
}
