//! `explain`: each attribute has its source, on every format.

use crate::sample::{Sample, formats};
use humfs::Adopt;
use humfs::explain::{Explanation, explain};
use humfs::store::Format;

fn of(sample: &Sample, path: &str) -> Explanation {
    explain(&sample.tree, path.as_bytes(), None).unwrap()
}

/// Value and source of an attribute.
fn fact(explanation: &Explanation, name: &str) -> (String, String) {
    let fact = explanation.facts.iter().find(|fact| fact.name == name).unwrap_or_else(|| panic!("no {name} in\n{explanation}"));
    (fact.value.clone(), fact.source.clone())
}

#[test]
fn attributes_have_their_sources() {
    for format in formats() {
        let sample = Sample::new(format);
        let su = of(&sample, "/bin/su");
        let (record, mode, gid) = match format {
            Format::ShadowFs | Format::ShadowLink => ("file_metadata/bin/su: '2541 0 50'", "field 1", "field 3"),
            Format::Sqlite => ("humfs/metadata.db, the rows with ino=", "inode.mode", "inode.gid"),
            Format::Xattr => ("the attribute user.humfs: 28 bytes, block version 1, checksum right", "bytes 2 and 3", "bytes 8 to 11"),
        };
        assert_eq!(fact(&su, "mode"), ("4755".into(), format!("the record, {mode}")));
        assert_eq!(fact(&su, "gid"), ("50".into(), format!("the record, {gid}")));
        assert_eq!(fact(&su, "size"), ("7 bytes".into(), "data/bin/su".into()));
        assert!(fact(&su, "record").1.starts_with(record), "{su}");
        assert!(fact(&su, "host").0.starts_with("0600 "), "{su}");
        assert!(su.notes.is_empty(), "{su}");
        assert_eq!(fact(&of(&sample, "dev//console/"), "device").0, "5:1");
        assert_eq!(fact(&of(&sample, "/etc/passwd"), "attribute").0, "user.a (1 bytes)");
        assert_eq!(fact(&of(&sample, "/link"), "target").0, "10 bytes");
        let root = of(&sample, "/");
        assert_eq!((fact(&root, "type").0, fact(&root, "mode").0), ("directory".into(), "0755".into()));
        if matches!(format, Format::ShadowFs | Format::ShadowLink) {
            assert_eq!(fact(&of(&sample, "metadata/metadata"), "record").1, "dir_metadata/metadata/metadata/metadata: '448 0 0'");
            assert_eq!(fact(&root, "record").1, "dir_metadata/metadata.1: '493 0 0'");
        }
    }
}

#[test]
fn what_is_wrong_is_said() {
    for format in formats() {
        let sample = Sample::new(format);
        std::fs::write(sample.data("new"), "").unwrap();
        let adopted = of(&sample, "/new");
        assert!(adopted.notes[0].contains("adopt=root") && fact(&adopted, "uid").1.contains("no record"), "{adopted}");
        let refused = explain(&sample.tree, b"/new", Some(Adopt::Refuse)).unwrap();
        assert!(refused.notes[0].contains("EIO") && !refused.facts.iter().any(|fact| fact.name == "uid"), "{refused}");
        for (path, says) in [("/none", "/none: there is no such file"), ("/etc/passwd/x", "'passwd' on the way is no directory")] {
            let error = explain(&sample.tree, path.as_bytes(), None).unwrap_err();
            assert!(error.0.contains(says), "{}", error.0);
        }
        assert!(explain(&sample.tree, b"/etc/../etc", None).is_err());
    }
    let sample = Sample::new(Format::Xattr);
    rustix::fs::setxattr(sample.data("bin/su"), "user.humfs", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    let damaged = of(&sample, "/bin/su");
    assert!(damaged.notes[0].contains("EIO") && fact(&damaged, "record").1.contains("1 bytes: "), "{damaged}");
}

#[test]
fn it_looks_like_this() {
    let sample = Sample::new(Format::Xattr);
    let text = of(&sample, "/dev/console").to_string();
    assert!(text.starts_with("      type: character device") && text.lines().all(|line| line.chars().nth(10) == Some(':')), "{text}");
}
