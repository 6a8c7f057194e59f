//! Mounts for tests, each gone when its guard is dropped.
#![allow(dead_code)] // Each test binary uses its own part.
#![allow(clippy::unwrap_used)] // A test that cannot set its stage ends.

use externfs::{Connect, Export, MountOption, Plugin, Source};
use externfs_fuse::{ExitReason, FuseMount, MountOptions, ServeError, ServeOptions, StopHandle, Unmounter};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// Whether this is root with a FUSE device; says so when not.
pub(crate) fn can_mount() -> bool {
    let can = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !can {
        eprintln!("SKIPPED: needs root and /dev/fuse");
    }
    can
}

/// Whether the kernel offers FUSE over io_uring; says so when not.
pub(crate) fn has_uring() -> bool {
    let has = std::fs::read("/sys/module/fuse/parameters/enable_uring").is_ok_and(|word| word.starts_with(b"Y"));
    if !has {
        eprintln!("SKIPPED over io_uring: needs Linux 6.14 and 'echo Y > /sys/module/fuse/parameters/enable_uring'");
    }
    has
}

/// Whether a mount can be served in this way here.
pub(crate) fn can_serve(way: &str) -> bool {
    !way.contains("uring=on") || has_uring()
}

/// Options for the plugin, as typed: "cache=none,watch".
pub(crate) fn options(words: &str) -> Vec<MountOption> {
    let words = words.split(',').filter(|word| !word.is_empty());
    words
        .map(|word| match word.split_once('=') {
            Some((key, value)) => MountOption { key: key.into(), value: Some(value.into()) },
            None => MountOption { key: word.into(), value: None },
        })
        .collect()
}

/// hostfs over `path`.
pub(crate) fn hostfs(path: &Path, words: &str) -> Arc<dyn Connect> {
    hostfs::HostFsPlugin.open_connect(path, words)
}

trait OpenConnect {
    fn open_connect(&self, path: &Path, words: &str) -> Arc<dyn Connect>;
}

impl<P: Plugin> OpenConnect for P {
    fn open_connect(&self, path: &Path, words: &str) -> Arc<dyn Connect> {
        Plugin::open(self, &Source { path: path.to_owned(), options: options(words) }).unwrap()
    }
}

/// The example plugin over some lines.
pub(crate) fn lines() -> Arc<dyn Connect> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "alpha\nbeta\n").unwrap();
    externfs::example::LinesPlugin.open_connect(file.path(), "")
}

/// A directory on the host's disk, a mount point, and a server thread.
pub(crate) struct Mounted {
    pub(crate) host: PathBuf,
    pub(crate) point: PathBuf,
    pub(crate) export: Weak<dyn Export>,
    pub(crate) stop: StopHandle,
    server: Option<JoinHandle<Result<ExitReason, ServeError>>>,
    unmounter: Unmounter,
    _place: tempfile::TempDir,
}

impl Mounted {
    /// hostfs with everything as it is by default but for these options.
    pub(crate) fn hostfs(plugin: &str, serve: &str) -> Mounted {
        Mounted::with(serve, |host| hostfs(host, plugin))
    }

    pub(crate) fn with(serve: &str, connect: impl FnOnce(&Path) -> Arc<dyn Connect>) -> Mounted {
        let place = tempfile::tempdir().unwrap();
        let (host, point) = (place.path().join("host"), place.path().join("mnt"));
        std::fs::create_dir(&host).unwrap();
        std::fs::create_dir(&point).unwrap();
        let export = connect(&host).connect().unwrap();
        let mut mount_options = MountOptions { allow_other: true, suid: true, dev: true, ..MountOptions::default() };
        let mut serve_options = ServeOptions::default();
        for MountOption { key, value } in options(serve) {
            let value = value.as_deref();
            let known = mount_options.accept(&key, value).unwrap() || serve_options.accept(&key, value).unwrap();
            assert!(known, "{key}");
        }
        let mount = FuseMount::mount(host.as_os_str(), &point, &mount_options).unwrap();
        let unmounter = mount.unmounter();
        let stop = StopHandle::new();
        let (ready, is_ready) = mpsc::channel();
        let weak = Arc::downgrade(&export);
        let handle = stop.clone();
        let server = std::thread::spawn(move || mount.serve(export, &serve_options, &handle, move || ready.send(()).unwrap()));
        is_ready.recv_timeout(Duration::from_secs(10)).expect("the mount gets ready");
        Mounted { host, point, export: weak, stop, server: Some(server), unmounter, _place: place }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.point.join(name)
    }

    pub(crate) fn is_mounted(&self) -> bool {
        self.unmounter.is_mounted()
    }

    /// Nodes and handles that the kernel holds.
    pub(crate) fn holds(&self) -> (usize, usize) {
        self.export.upgrade().map_or((0, 0), |export| {
            let now = export.statistics();
            (now.nodes, now.handles)
        })
    }

    /// Stops it and returns why it ended.
    pub(crate) fn end(mut self) -> ExitReason {
        self.stop.stop();
        let reason = self.server.take().unwrap().join().unwrap().unwrap();
        assert!(!self.is_mounted());
        reason
    }

    /// Waits for the server after somebody unmounted.
    pub(crate) fn join(mut self) -> ExitReason {
        self.server.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
        let _ = self.unmounter.unmount(true);
    }
}

/// Writes one byte at `offset` through a shared mapping. A child does it, so
/// that no test needs unsafe code.
pub(crate) fn map_and_write(file: &std::fs::File, offset: usize, byte: u8) {
    use std::os::fd::AsFd;
    let program = format!(
        "import mmap,os\nm=mmap.mmap(0,os.fstat(0).st_size,mmap.MAP_SHARED,mmap.PROT_READ|mmap.PROT_WRITE)\nm[{offset}]={byte}\nm.flush()\n"
    );
    let stdin = file.as_fd().try_clone_to_owned().unwrap();
    let status = std::process::Command::new("python3").arg("-c").arg(program).stdin(stdin).status().unwrap();
    assert!(status.success());
}
