//! What is measured: directories, most of them mounts that end with the run.

use externfs_tests::fixture::{self, Process};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// One column of the table.
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// The process whose CPU time counts.
    pub(crate) server: Option<u32>,
    pub(crate) ours: bool,
    /// Ended and removed when the target is dropped, in this order.
    _mount: Option<Unmount>,
    _process: Option<Process>,
    _dirs: Vec<TempDir>,
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        fixture::unmount(&self.0);
    }
}

impl Target {
    /// `NAME=DIR`: a directory that somebody else takes care of.
    pub(crate) fn named(text: &str) -> Result<Target, String> {
        let (name, path) = text.split_once('=').ok_or(format!("{text}: NAME=DIR is wanted"))?;
        if !Path::new(path).is_dir() {
            return Err(format!("{path} is not a directory"));
        }
        let ours = name.contains("externfs");
        Ok(Target { name: name.into(), path: path.into(), server: None, ours, _mount: None, _process: None, _dirs: Vec::new() })
    }

    fn plain(name: &str, base: &Path) -> Result<Target, String> {
        let dir = directory(base)?;
        Ok(Target { name: name.into(), path: dir.path().into(), server: None, ours: false, _mount: None, _process: None, _dirs: vec![dir] })
    }

    fn mounted(name: &str, base: &Path, command: impl FnOnce(&Path, &Path) -> Command) -> Result<Target, String> {
        let (source, point) = (directory(base)?, directory(&std::env::temp_dir())?);
        let mut process = Process::start(&mut command(source.path(), point.path()));
        let path = point.path().to_path_buf();
        process.wait_until("does not mount", || fixture::is_mounted(&path));
        Ok(Target {
            name: name.into(),
            server: Some(process.id()),
            ours: name.contains("externfs"),
            _mount: Some(Unmount(path.clone())),
            path,
            _process: Some(process),
            _dirs: vec![point, source],
        })
    }
}

fn directory(base: &Path) -> Result<TempDir, String> {
    tempfile::Builder::new().prefix("externfs-bench-").tempdir_in(base).map_err(|e| format!("{}: {e}", base.display()))
}

fn ours(name: &str, base: &Path, options: &str) -> Result<Target, String> {
    Target::mounted(name, base, |source, point| {
        let mut command = Command::new(fixture::binary());
        command.args(["mount", "hostfs"]).arg(source).arg(point).args(["-f", "-o", options]);
        command
    })
}

/// Everything that runs on the host. A peer that is not installed is left out,
/// aloud.
pub(crate) fn host(base: &Path) -> Result<Vec<Target>, String> {
    let mut targets = vec![
        Target::plain("native", base)?,
        // The same again: what differs between these two is noise.
        Target::plain("control", base)?,
        ours("externfs", base, "allow_other,cache=auto")?,
        ours("externfs always", base, "allow_other,cache=always")?,
    ];
    if installed("bindfs") {
        targets.push(Target::mounted("bindfs", base, |source, point| {
            let mut command = Command::new("bindfs");
            command.arg("-f").arg(source).arg(point);
            command
        })?);
    }
    if installed("fuse-overlayfs") {
        let extra = directory(base)?;
        let (lower, work) = (extra.path().join("lower"), extra.path().join("work"));
        std::fs::create_dir(&lower).and_then(|()| std::fs::create_dir(&work)).map_err(|e| e.to_string())?;
        let mut target = Target::mounted("fuse-overlayfs", base, |source, point| {
            let mut command = Command::new("fuse-overlayfs");
            let dirs = format!("lowerdir={},upperdir={},workdir={}", lower.display(), source.display(), work.display());
            command.args(["-f", "-o", &dirs]).arg(point);
            command
        })?;
        target._dirs.push(extra);
        targets.push(target);
    }
    Ok(targets)
}

fn installed(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program} >/dev/null")]).status().is_ok_and(|s| s.success());
    if !found {
        eprintln!("left out: {program} is not installed (apt-get install {program})");
    }
    found
}
