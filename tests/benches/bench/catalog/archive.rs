//! A tree of very many empty files, poured into `externfs create`.

use crate::fault::{Naming, Result, fault};
use externfs_tests::humtree::HumTree;
use humfs::store::Format;
use std::io::{self, BufWriter, Write};

/// Files in a directory.
const WIDTH: usize = 100;

/// One in so many is setuid.
const SETUID: usize = 5_000;

/// Owners there are.
const USERS: usize = 40;

/// Makes the tree.
pub(crate) fn tree(files: usize) -> Result<HumTree> {
    let mut outcome = Ok(());
    let tree = HumTree::poured(Format::Xattr, |input| outcome = pour(files, input));
    outcome.naming("writing an archive")?;
    if files == 0 { fault("a tree without files says nothing") } else { Ok(tree) }
}

fn pour(files: usize, input: &mut dyn Write) -> io::Result<()> {
    let mut archive = BufWriter::with_capacity(1 << 20, input);
    for number in 0..files {
        let (dir, top) = (number / WIDTH, number / WIDTH / WIDTH);
        if number % (WIDTH * WIDTH) == 0 {
            archive.write_all(&header(&format!("t{top}/"), 0o755, 0, b'5'))?;
        }
        if number % WIDTH == 0 {
            archive.write_all(&header(&format!("t{top}/d{dir}/"), 0o755, 0, b'5'))?;
        }
        let mode = if number % SETUID == 0 { 0o4755 } else { 0o644 };
        archive.write_all(&header(&format!("t{top}/d{dir}/file-number-{number}"), mode, 1000 + number % USERS, b'0'))?;
    }
    archive.write_all(&[0; 1024])?;
    archive.flush()
}

/// As ustar has it; see tar(5).
fn header(name: &str, mode: u32, owner: usize, kind: u8) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, &format!("{owner:07o}"));
    put(116, &format!("{owner:07o}"));
    put(124, "00000000000");
    put(136, "14000000000");
    put(148, "        ");
    put(257, "ustar\x0000");
    header[156] = kind;
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
