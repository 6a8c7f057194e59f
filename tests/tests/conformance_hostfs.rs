//! The conformance suite on hostfs.

use externfs::{MountOption, Plugin, Source};
use externfs_tests::conformance::{Capabilities, Subject};
use externfs_tests::fixture;

externfs_tests::conformance!(subject);

fn subject() -> Subject {
    let dir = fixture::temp_dir();
    let open = |options: &[&str]| {
        let options = options.iter().map(|key| MountOption { key: (*key).into(), value: None }).collect();
        let source = Source { path: dir.path().to_path_buf(), options };
        hostfs::HostFsPlugin.open(&source).expect("the plugin opens")
    };
    let root = rustix::process::geteuid().is_root();
    let can = Capabilities { owners: root, devices: root, xattrs: true, rename_flags: true, holes: true };
    Subject { connect: open(&[]), read_only: open(&["ro"]), can, keep: Box::new(dir) }
}
