//! [`Image`]: one journalled ext4 for every target of a run.

use crate::fault::{Naming, Result, fault};
use externfs_tests::fixture::unmount;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Apparent size of the image file; it is sparse.
const BYTES: u64 = 12 << 30;

/// A loop-mounted ext4, or, where there are no loop devices, a plain directory.
/// Both go away with their guard.
pub(crate) struct Image {
    room: TempDir,
    mounted: Option<PathBuf>,
    words: String,
}

impl Image {
    /// Makes the image file below `dir` and mounts it.
    pub(crate) fn new(dir: &Path) -> Result<Image> {
        let room = tempfile::Builder::new().prefix("externfs-bench-").tempdir_in(dir).naming(dir.display())?;
        match mount(room.path()) {
            Ok(point) => {
                Ok(Image { room, mounted: Some(point), words: format!("journalled ext4 on a loop device, its image in {}", dir.display()) })
            }
            Err(why) => {
                let words = format!("NO LOOP DEVICE ({why}): directories below {}", dir.display());
                eprintln!("{words}; figures compare only with runs on the same file system");
                Ok(Image { room, mounted: None, words })
            }
        }
    }

    /// Where the targets' trees lie.
    pub(crate) fn trees(&self) -> &Path {
        self.mounted.as_deref().unwrap_or_else(|| self.room.path())
    }

    /// Where mount points and archives lie, outside of the image.
    pub(crate) fn room(&self) -> &Path {
        self.room.path()
    }

    /// What it is, for the report.
    pub(crate) fn words(&self) -> &str {
        &self.words
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Some(point) = &self.mounted {
            // The loop device was made by mount(8), so it goes with the last unmount.
            unmount(point);
        }
    }
}

fn mount(room: &Path) -> Result<PathBuf> {
    let (image, point) = (room.join("image"), room.join("ext4"));
    File::create(&image).and_then(|file| file.set_len(BYTES)).naming(image.display())?;
    fs::create_dir(&point).naming(point.display())?;
    // Everything is initialised now, and not by a kernel thread while we measure.
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(&image))?;
    run(Command::new("mount").args(["-o", "loop,noatime"]).arg(&image).arg(&point))?;
    Ok(point)
}

fn run(command: &mut Command) -> Result<()> {
    let done = command.output().naming(format_args!("{command:?}"))?;
    if done.status.success() { Ok(()) } else { fault(String::from_utf8_lossy(&done.stderr).trim().to_owned()) }
}
