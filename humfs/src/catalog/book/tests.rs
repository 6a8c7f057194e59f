//! What a scan does that cannot be written down.

use super::*;
use crate::make::{Plan, lay};
use crate::store::Format;

#[test]
fn what_a_late_scan_cannot_write_is_no_success() {
    let dir = tempfile::tempdir().unwrap();
    lay(dir.path(), &Plan { format: Format::Xattr, total: 1 << 30, inodes: None, adopt: None }).unwrap();
    std::fs::create_dir(dir.path().join("data/below")).unwrap();
    std::fs::write(dir.path().join("data/below/file"), "").unwrap();
    let fs = HumFs::new(Tree::open(dir.path(), Access::Write).unwrap(), Options::default()).unwrap();
    let mut writer = Writer::new(fs.tree(), &fs.parts(), &Arc::new(Feed::new()), "root".into()).unwrap();
    let quiet = |_: u64, _: u64| {};
    writer.build_once(&quiet).unwrap();
    // As on a full disk; as if all of it had been on the move.
    let other = rusqlite::Connection::open(&writer.path).unwrap();
    other.execute_batch("CREATE TRIGGER full BEFORE INSERT ON dentry BEGIN SELECT RAISE(FAIL, 'full'); END").unwrap();
    let refusal = writer.catch_up(&Listed::default(), &quiet).unwrap_err().to_string();
    assert!(refusal.contains("full"), "{refusal}");
    other.execute_batch("DROP TRIGGER full").unwrap();
    // A directory that is gone by now is nobody's failure.
    std::fs::remove_dir_all(dir.path().join("data/below")).unwrap();
    assert!(writer.catch_up(&Listed::default(), &quiet).unwrap());
    // Nor are they when the book is to end.
    other.execute_batch("CREATE TRIGGER full BEFORE INSERT ON dentry BEGIN SELECT RAISE(FAIL, 'full'); END").unwrap();
    std::fs::write(dir.path().join("data/file"), "").unwrap();
    writer.feed.end(false);
    assert!(!writer.catch_up(&Listed::default(), &quiet).unwrap());
}
