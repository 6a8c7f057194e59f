//! What a target's root holds before it is served: the same bytes for all.

use super::files::names;
use super::tree::run;
use crate::fault::{Naming, Result};
use crate::sizes::Sizes;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// The large directory of empty files.
pub(crate) const BIG: &str = "big";
/// The large file.
pub(crate) const DATA: &str = "data";
/// The tree of small files.
pub(crate) const TREE: &str = "tree";
/// What `grep` looks for; it is in one file of eight.
pub(crate) const NEEDLE: &str = "a needle in the haystack";

/// Lays down what the reading rows read, natively.
pub(crate) fn make(root: &Path, sizes: &Sizes, archive: &Path) -> Result<()> {
    let big = root.join(BIG);
    fs::create_dir(&big).naming(big.display())?;
    for name in names("entry", sizes.entries)? {
        let path = big.join(name.to_string_lossy().as_ref());
        fs::write(&path, b"").naming(path.display())?;
    }
    let data = root.join(DATA);
    let mut file = fs::File::create(&data).naming(data.display())?;
    let piece: Vec<u8> = (0..1_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for _ in 0..sizes.mib {
        file.write_all(&piece).naming(data.display())?;
    }
    run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(root))
}

/// Packs a tree of `count` text files, 16 to a directory, 0.5 to 30 KiB each
/// with a median near 4, into `archive`. `room` is where it may work.
pub(crate) fn pack_tree(archive: &Path, room: &Path, count: u32) -> Result<()> {
    let line = "let answer = compute(question, &context)?; // as good as any other line of text\n";
    let tree = room.join(TREE);
    for n in 0..count {
        let directory = tree.join(format!("part{:02}/module{:03}", n / 256, n / 16));
        fs::create_dir_all(&directory).naming(directory.display())?;
        // Squaring a uniform variate makes small files the usual ones, as in a source tree.
        let uniform = n.wrapping_mul(2_654_435_761) >> 16;
        let size = 512 + (u64::from(uniform) * u64::from(uniform) * 30_000) / (1 << 32);
        let mut text = line.repeat(size as usize / line.len() + 1);
        if n % 8 == 0 {
            text.push_str(NEEDLE);
        }
        let path = directory.join(format!("file{n:05}.rs"));
        fs::write(&path, text).naming(path.display())?;
    }
    run(Command::new("tar").arg("-cf").arg(archive).arg("-C").arg(room).arg(TREE))?;
    fs::remove_dir_all(&tree).naming(tree.display())
}
