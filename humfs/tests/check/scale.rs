//! Many files. Slow in this profile; the figures that count are taken with
//! `--release -- --ignored --nocapture`.

use crate::sample::{Sample, serve};
use externfs::ExternFs;
use externfs::{FileKind, GuestGid, GuestUid, Mode};
use humfs::record::{Record, Target};
use humfs::store::Format;
use std::time::Instant;

/// Puts `count` files with records into the tree, 100 to a directory.
fn fill(sample: &Sample, count: usize) {
    let block = |kind| Record::new(kind, Mode::new(0o755), GuestUid(0), GuestGid(0)).to_block(Target::Block);
    let (file, dir) = (block(FileKind::Regular), block(FileKind::Directory));
    for number in 0..count / 100 {
        let above = sample.data(&format!("d{}", number / 100));
        let path = above.join(format!("e{number}"));
        for dir_path in [&above, &path] {
            if std::fs::create_dir(dir_path).is_ok() {
                rustix::fs::chmod(dir_path, rustix::fs::Mode::RWXU).unwrap();
                rustix::fs::setxattr(dir_path, "user.humfs", &dir, rustix::fs::XattrFlags::empty()).unwrap();
            }
        }
        for number in 0..100 {
            let path = path.join(format!("file-{number}"));
            std::fs::write(&path, "").unwrap();
            rustix::fs::chmod(&path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
            rustix::fs::setxattr(&path, "user.humfs", &file, rustix::fs::XattrFlags::empty()).unwrap();
        }
    }
    serve(&sample.tree).close().unwrap();
}

fn resident_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "minutes; for figures"]
fn two_hundred_thousand_files() {
    let count: usize = std::env::var("CHECK_FILES").ok().and_then(|text| text.parse().ok()).unwrap_or(200_000);
    let sample = Sample::empty(Format::Xattr);
    fill(&sample, count);
    for _ in 0..3 {
        let begun = Instant::now();
        let report = sample.look();
        assert_eq!(report.exit_code(), 0, "{report}");
        println!("{} objects in {:.2} s, {} KiB at most", report.counted.inodes, begun.elapsed().as_secs_f64(), resident_kib());
    }
}
