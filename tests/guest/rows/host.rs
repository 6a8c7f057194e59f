//! What the host has put there, and what is left for it to look at.

use crate::place::{Place, Verdict, done, failed, holds, look, same, set_mode, set_owner};
use externfs_tests::fixture::checksum;
use externfs_tests::machine::exhibit::{self, Fact, Leaving};
use externfs_tests::machine::noise;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::Path;

fn facts(place: &Place) -> Verdict<exhibit::Manifest> {
    let path = place.share.join(exhibit::MANIFEST);
    let bytes = done(path.display(), fs::read(&path))?;
    done("the manifest", serde_json::from_slice(&bytes))
}

pub(super) fn listing_is_complete(place: &Place) -> Verdict {
    let manifest = facts(place)?;
    let wanted: BTreeSet<Vec<u8>> = manifest.facts.iter().map(|fact| fact.path.clone()).collect();
    let root = place.share.join(exhibit::FROM_HOST);
    let mut seen = BTreeSet::new();
    let mut open = vec![root.clone()];
    while let Some(dir) = open.pop() {
        for entry in done(dir.display(), fs::read_dir(&dir))? {
            let entry = done(dir.display(), entry)?;
            let path = entry.path();
            let kind = done(path.display(), entry.file_type())?;
            let found = done(path.display(), path.symlink_metadata())?;
            same(format_args!("kind of {} in the listing", path.display()), kind, found.file_type())?;
            if kind.is_dir() {
                open.push(path.clone());
            }
            let below = path.strip_prefix(&root).unwrap_or(&path).to_owned();
            let twice = !seen.insert(below.into_os_string().into_vec());
            holds(format_args!("{} is listed twice", path.display()), !twice)?;
        }
    }
    let difference = |a: &BTreeSet<Vec<u8>>, b: &BTreeSet<Vec<u8>>| {
        a.difference(b).take(5).map(|path| OsStr::from_bytes(path).to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    same("missing", difference(&wanted, &seen), vec![])?;
    same("not the host's", difference(&seen, &wanted), vec![])
}

pub(super) fn attributes_are_the_hosts(place: &Place) -> Verdict {
    for wanted in facts(place)?.facts {
        let path = place.share.join(exhibit::FROM_HOST).join(OsStr::from_bytes(&wanted.path));
        let seen = done(path.display(), Fact::of(&path, wanted.path.clone()))?;
        same(path.display(), seen, wanted)?;
    }
    Ok(())
}

pub(super) fn big_file_reads_right(place: &Place) -> Verdict {
    let manifest = facts(place)?;
    let path = place.share.join(exhibit::FROM_HOST).join(exhibit::BIG);
    same("size", done("stat", path.metadata())?.len(), manifest.big_size)?;
    same("checksum", checksum(&path), manifest.big_checksum)?;
    // Again, past the cache and backwards.
    let file = done("open", File::open(&path))?;
    done("fadvise", rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed))?;
    let mut ends = Vec::new();
    for offset in [manifest.big_size - 8, manifest.big_size / 2, 0] {
        let mut word = [0; 8];
        done("pread", file.read_exact_at(&mut word, offset))?;
        ends.push(u64::from_le_bytes(word));
    }
    same("words at the end, the middle, the start", ends, manifest.big_words.to_vec())
}

pub(super) fn statfs_is_the_hosts(place: &Place) -> Verdict {
    let manifest = facts(place)?;
    let seen = done("statvfs", rustix::fs::statvfs(&place.share))?;
    same("bytes in all", seen.f_blocks * seen.f_frsize, manifest.total_bytes)?;
    same("inodes in all", seen.f_files, manifest.total_inodes)?;
    same("longest name", seen.f_namemax, 255)?;
    holds("more free than there is", seen.f_bfree <= seen.f_blocks && seen.f_bavail <= seen.f_bfree)?;
    holds("nothing is free", seen.f_bavail > 0)
}

/// 64 MiB in writes of odd sizes, then told to the host.
pub(super) fn leaves_a_big_file(place: &Place) -> Verdict {
    let dir = place.share.join(exhibit::FOR_HOST);
    let path = dir.join(exhibit::BIG);
    let mut file = done("create", File::create(&path))?;
    let data = noise::bytes(64, 1 << 20);
    let mut left = 64 << 20;
    for size in [1, 4095, 4097, 65_536, 100_003, 1 << 20].into_iter().cycle() {
        let size = size.min(left);
        let Some(piece) = data.get(..size) else { return failed("sizes beyond the data") };
        done("write", file.write_all(piece))?;
        left -= size;
        if left == 0 {
            break;
        }
    }
    drop(file);
    same("size", done("stat", path.metadata())?.len(), 64 << 20)?;
    tell(&dir, exhibit::BIG_CHECKSUM, &checksum(&path))
}

fn tell<T: serde::Serialize>(dir: &Path, name: &str, value: &T) -> Verdict {
    let bytes = done(name, serde_json::to_vec(value))?;
    done(name, fs::write(dir.join(name), bytes))
}

/// One of each kind with owner, mode, times and xattr, as [`Leaving::ALL`] says.
pub(super) fn leaves_objects(place: &Place) -> Verdict {
    let dir = place.share.join(exhibit::FOR_HOST);
    for leaving in Leaving::ALL {
        let path = dir.join(leaving.name);
        let mode = Mode::from_raw_mode(0o644);
        match leaving.kind {
            FileType::Directory => done(leaving.name, rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)))?,
            FileType::Symlink => done(leaving.name, rustix::fs::symlink(exhibit::TARGET, &path))?,
            kind => {
                let device = rustix::fs::makedev(leaving.device.0, leaving.device.1);
                done(leaving.name, rustix::fs::mknodat(CWD, &path, kind, mode, device))?;
            }
        }
        set_owner(&path, leaving.uid, leaving.gid)?;
        if leaving.kind != FileType::Symlink {
            set_mode(&path, leaving.mode)?;
        }
        if matches!(leaving.kind, FileType::RegularFile | FileType::Directory) {
            let set = rustix::fs::setxattr(&path, exhibit::XATTR, leaving.name.as_bytes(), XattrFlags::empty());
            done(format_args!("{} of {}", exhibit::XATTR, leaving.name), set)?;
        }
        let stamp = rustix::fs::Timespec { tv_sec: exhibit::STAMP.0, tv_nsec: exhibit::STAMP.1 };
        let times = rustix::fs::Timestamps { last_access: stamp, last_modification: stamp };
        done(leaving.name, rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW))?;
        same(format_args!("type of {}", leaving.name), FileType::from_raw_mode(look(&path)?.st_mode), leaving.kind)?;
    }
    let first = dir.join(Leaving::ALL[0].name);
    done("link", fs::hard_link(first, dir.join(exhibit::SECOND_NAME)))
}
