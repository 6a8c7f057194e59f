//! Trees that were made to hold a check up.

use crate::sample::{Sample, formats};
use humfs::check::{CheckOptions, Progress, check};
use humfs::store::Format;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

/// Runs both ways; neither may hang or panic.
fn survives(sample: &Sample) {
    for repair in [false, true, true] {
        let begun = Instant::now();
        let _ = check(&sample.tree, &CheckOptions { repair, ..CheckOptions::default() }, &Progress::default());
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn a_chain_of_thousands_of_directories() {
    for format in formats() {
        let sample = Sample::empty(format);
        let mut at: std::os::fd::OwnedFd = std::fs::File::open(sample.data("")).unwrap().into();
        // The other formats go from the top for some of their looks.
        let levels = match format {
            Format::Xattr => 10_000,
            Format::ShadowFs | Format::ShadowLink => 4_000,
            Format::Sqlite => 1_000,
        };
        for _ in 0..levels {
            rustix::fs::mkdirat(&at, "deep", rustix::fs::Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "deep", rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())
                .unwrap();
        }
        let report = sample.look();
        assert_eq!(report.findings.len(), levels + 1, "each level, and the counters: {}", report.summary());
        assert!(report.findings.iter().all(|finding| finding.path.len() < 5000));
        let repaired = sample.repair();
        assert_eq!(repaired.exit_code(), 1, "{}", repaired.summary());
        assert_eq!(sample.look().exit_code(), 0);
        // What made it cannot remove it by path.
        remove_chain(&sample);
    }
}

/// Takes the chain apart from the top: a recursion would need a descriptor or
/// a frame a level.
fn remove_chain(sample: &Sample) {
    let (top, spare) = (sample.data("deep"), sample.data("spare"));
    while top.exists() {
        if top.join("deep").exists() {
            std::fs::rename(top.join("deep"), &spare).unwrap();
        }
        std::fs::remove_dir_all(&top).unwrap();
        if spare.exists() {
            std::fs::rename(&spare, &top).unwrap();
        }
    }
    for tree in ["file_metadata", "dir_metadata"] {
        let top = sample.tree.join(tree);
        while top.join("deep").exists() {
            if top.join("deep/deep").exists() {
                std::fs::rename(top.join("deep/deep"), top.join("spare")).unwrap();
            }
            std::fs::remove_dir_all(top.join("deep")).unwrap();
            if top.join("spare").exists() {
                std::fs::rename(top.join("spare"), top.join("deep")).unwrap();
            }
        }
    }
}

#[test]
fn links_and_pipes_in_place_of_parts() {
    for format in formats() {
        for part in [
            "superblock",
            "humfs/state",
            "humfs/settings",
            "humfs/stage",
            "humfs/changes",
            "humfs/lock",
            "humfs",
            "file_metadata",
            "dir_metadata",
            "humfs/metadata.db",
        ] {
            for replace in [0, 1, 2] {
                let sample = Sample::new(format);
                let path = sample.tree.join(part);
                if path.is_dir() {
                    std::fs::remove_dir_all(&path).unwrap();
                } else if std::fs::remove_file(&path).is_err() {
                    continue;
                }
                match replace {
                    0 => symlink("/etc", &path).unwrap(),
                    1 => symlink(&path, &path).unwrap(),
                    _ => rustix::fs::mknodat(
                        rustix::fs::CWD,
                        &path,
                        rustix::fs::FileType::Fifo,
                        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
                        0,
                    )
                    .unwrap(),
                }
                survives(&sample);
            }
        }
    }
}

#[test]
fn names_that_forge_lines_are_told_in_one() {
    let sample = Sample::new(Format::Xattr);
    std::fs::write(sample.data("x\nclean: \u{1b}[2J"), "").unwrap();
    let text = sample.look().to_string();
    assert!(text.contains("/x\\nclean: \\u{1b}[2J: orphan-data"), "{text}");
    assert!(!text.contains('\u{1b}'));
}
