//! The wire against this host's own kernel: the example plugin, mounted
//! through /dev/fuse by the loop that a native transport would run.

// The helpers of a test, not tests themselves.
#![allow(clippy::unwrap_used)]

use externfs::example::LinesFs;
use externfs::{Bridge, BridgeOptions, Connect, Export, NodeId};
use externfs_wire::buffer::{SliceSource, VecReply, request_len};
use externfs_wire::notify::{self, Forgetting};
use externfs_wire::{Config, Opcode, Outcome, Session, TransportKind};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

const MAX_WRITE: u32 = 1 << 20;

fn reply(device: Arc<OwnedFd>) -> VecReply<impl FnMut(&[u8]) -> std::io::Result<()> + Send> {
    VecReply::new(MAX_WRITE as usize, move |message: &[u8]| Ok(rustix::io::write(&device, message).map(drop)?))
}

fn serve(session: &Session, device: &Arc<OwnedFd>) {
    let mut buffer = vec![0; request_len(MAX_WRITE)];
    let mut answer = reply(device.clone());
    loop {
        let len = match rustix::io::read(device, &mut buffer) {
            Ok(len) => len,
            Err(Errno::NODEV) => return,
            // The request was withdrawn before it was read.
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => continue,
            Err(error) => panic!("/dev/fuse: {error}"),
        };
        answer.reuse();
        match session.handle(&mut SliceSource::new(&buffer[..len]), &mut answer) {
            Outcome::Replied | Outcome::Silent => {}
            Outcome::Later(later) => {
                let device = device.clone();
                std::thread::spawn(move || later(&mut reply(device)));
            }
            Outcome::Broken(reason) => panic!("{reason}"),
        }
    }
}

/// A mount that goes away with it.
struct Mount {
    directory: tempfile::TempDir,
    device: Arc<OwnedFd>,
    session: Arc<Session>,
    threads: Vec<JoinHandle<()>>,
}

impl Mount {
    /// None, aloud, where this machine does not let us.
    fn new(export: Arc<dyn Export>) -> Option<Mount> {
        let device = match rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            Ok(device) => Arc::new(device),
            Err(error) => {
                eprintln!("SKIPPED: /dev/fuse cannot be opened: {error}");
                return None;
            }
        };
        let directory = tempfile::tempdir().unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions", device.as_raw_fd());
        let options = CString::new(options).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        if let Err(error) = rustix::mount::mount("wire", directory.path(), "fuse.externfs", flags, Some(options.as_c_str())) {
            eprintln!("SKIPPED: this user may not mount: {error}");
            return None;
        }
        let session = Arc::new(Session::new(export, Config::new(TransportKind::DevFuse)));
        let thread = || {
            let (session, device) = (session.clone(), device.clone());
            std::thread::spawn(move || serve(&session, &device))
        };
        let threads = vec![thread(), thread()];
        Some(Mount { directory, device, session, threads })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        rustix::mount::unmount(self.directory.path(), UnmountFlags::DETACH).unwrap();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a worker panicked");
        }
    }
}

fn exercise(root: &Path, lines: &[Vec<u8>]) {
    let mut names: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_by_key(|name| name.parse::<usize>().unwrap());
    assert_eq!(names, (1..=lines.len()).map(|n| n.to_string()).collect::<Vec<_>>());
    for (name, line) in names.iter().zip(lines) {
        let metadata = fs::metadata(root.join(name)).unwrap();
        assert_eq!((metadata.len(), metadata.mode(), metadata.ino()), (line.len() as u64, 0o100_444, name.parse::<u64>().unwrap() + 1));
        assert_eq!(&fs::read(root.join(name)).unwrap(), line);
    }
    let long = fs::File::open(root.join("2")).unwrap();
    let mut middle = [0; 5000];
    long.read_exact_at(&mut middle, 1_500_001).unwrap();
    assert_eq!(middle, lines[1][1_500_001..1_505_001]);

    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    assert_eq!(errno(fs::metadata(root.join("0")).map(drop)), Some(libc::ENOENT));
    assert_eq!(errno(fs::metadata(root.join("n".repeat(256))).map(drop)), Some(libc::ENAMETOOLONG));
    assert_eq!(errno(fs::write(root.join("new"), "x")), Some(libc::EROFS));
    assert_eq!(errno(fs::create_dir(root.join("new"))), Some(libc::EROFS));
    assert_eq!(errno(fs::remove_file(root.join("1"))), Some(libc::EROFS));
    assert_eq!(errno(fs::read_link(root.join("1")).map(drop)), Some(libc::EINVAL));
    assert_eq!(rustix::fs::statvfs(root).unwrap().f_namemax, 255);
}

/// The kernel refuses a message that it cannot parse with EINVAL, and says
/// ENOENT of what it does not remember.
fn notify_of_everything(mount: &Mount, minor: u32) {
    let send = |message: Vec<u8>| rustix::io::write(&mount.device, &message).map(|len| assert_eq!(len, message.len()));
    let root = NodeId::ROOT;
    // Line 1 is known from here on, with this number.
    let line = NodeId(fs::metadata(mount.path().join("1")).unwrap().ino());
    for message in [notify::inval_inode(root, None), notify::inval_inode(line, Some((0, 0))), notify::inval_inode(line, Some((0, 3)))] {
        assert_eq!(send(message), Ok(()));
    }
    assert_eq!(send(notify::inval_inode(NodeId(999), None)), Err(Errno::NOENT));
    for forgetting in [Forgetting::Expire, Forgetting::Drop] {
        fs::metadata(mount.path().join("1")).unwrap();
        assert_eq!(send(notify::inval_entry(root, b"1", forgetting)), Ok(()));
    }
    fs::metadata(mount.path().join("1")).unwrap();
    assert_eq!(send(notify::inval_entry(root, b"unknown", Forgetting::Drop)), Err(Errno::NOENT));
    assert_eq!(send(notify::store(line, 0, b"FIRST\n")), Ok(()));
    assert_eq!(fs::read(mount.path().join("1")).unwrap(), b"FIRST\n", "what was stored is in the page cache");
    assert_eq!(send(notify::inval_inode(line, Some((0, 0)))), Ok(()));
    assert_eq!(fs::read(mount.path().join("1")).unwrap(), b"first\n");
    assert_eq!(send(notify::delete(root, line, b"1")), Ok(()));
    if minor >= 40 {
        assert_eq!(send(notify::resend()), Ok(()));
    }
    if minor >= 44 {
        assert_eq!(send(notify::inc_epoch()), Ok(()));
    }
    if minor >= 45 {
        assert_eq!(send(notify::prune(&[line, NodeId(999)])), Ok(()));
    }
}

#[test]
fn this_hosts_kernel_understands_every_answer() {
    let lines = [b"first\n".to_vec(), [&vec![b'x'; 3 << 20][..], b"\n"].concat(), b"last".to_vec()];
    let bridge = Bridge::new(LinesFs::new(&lines.concat()), BridgeOptions { read_only: true }).unwrap();
    let export = bridge.connect().unwrap();
    let Some(mount) = Mount::new(export.clone()) else { return };
    exercise(mount.path(), &lines);

    let agreed = mount.session.negotiated().unwrap();
    notify_of_everything(&mount, agreed.minor);
    let counts = mount.session.counts();
    assert!(agreed.minor >= 31 && counts.of(Opcode::Init) == 1);
    // 3 MiB in requests of at most 32 pages (readahead) and not by the page.
    assert!((1..80).contains(&counts.of(Opcode::Read)), "{counts:?}");
    assert_eq!((counts.unknown(), mount.session.waiting()), (0, 0));

    let session = mount.session.clone();
    drop(mount);
    drop(session);
    let held = export.statistics();
    assert_eq!((held.nodes, held.handles, held.bridge_nodes), (1, 0, 1));
}
