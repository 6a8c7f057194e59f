//! The FUSE protocol over a queue: a guest's kernel reads a file.

use super::driver::*;
use super::eventually;
use super::frontend::Frontend;
use crate::{Options, Poll, Server, Stop};
use externfs::example::LinesFs;
use externfs::{Bridge, BridgeOptions, Connect, Export, Result};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use vm_memory::{Bytes, GuestAddress};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const OPEN: u32 = 14;
const READ: u32 = 15;
const INIT: u32 = 26;

/// Shows the exports that a server asks for.
struct Watched {
    bridge: Arc<Bridge<LinesFs>>,
    made: Mutex<Vec<Arc<dyn Export>>>,
}

impl Connect for Watched {
    fn connect(&self) -> Result<Arc<dyn Export>> {
        let export = self.bridge.connect()?;
        self.made.lock().unwrap().push(Arc::clone(&export));
        Ok(export)
    }
}

fn request(opcode: u32, node: u64, arguments: &[u8]) -> Vec<u8> {
    let mut bytes = (40 + arguments.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(opcode.to_ne_bytes());
    bytes.extend(77_u64.to_ne_bytes());
    bytes.extend(node.to_ne_bytes());
    bytes.extend([0; 16]);
    bytes.extend(arguments);
    bytes
}

/// Sends a request and returns its error number and payload.
fn ask(driver: &mut Driver, opcode: u32, node: u64, arguments: &[u8]) -> (i32, Vec<u8>) {
    let bytes = request(opcode, node, arguments);
    let (from, to) = (driver.buffer(0), driver.buffer(0x1000));
    driver.memory.guest().write_slice(&bytes, GuestAddress(from)).unwrap();
    driver.describe(0, (from, 40, NEXT, 1));
    driver.describe(1, (from + 40, bytes.len() as u32 - 40, NEXT, 2));
    driver.describe(2, (to, 16, NEXT | WRITE, 3));
    driver.describe(3, (to + 16, 4096, WRITE, 0));
    driver.offer(0, true);
    let (head, len) = driver.wait_used().unwrap();
    assert_eq!(head, 0);
    let mut answer = vec![0; len as usize];
    driver.memory.guest().read_slice(&mut answer, GuestAddress(to)).unwrap();
    if answer.is_empty() {
        return (0, answer);
    }
    assert_eq!(answer[..4], len.to_ne_bytes());
    assert_eq!(answer[8..16], 77_u64.to_ne_bytes());
    (i32::from_ne_bytes(answer[4..8].try_into().unwrap()), answer.split_off(16))
}

fn init(driver: &mut Driver) {
    let mut arguments = [7_u32, 38, 1 << 20, 1 << 30].iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
    arguments.resize(64, 0);
    let (error, answer) = ask(driver, INIT, 0, &arguments);
    assert_eq!((error, &answer[..4]), (0, &7_u32.to_ne_bytes()[..]));
}

/// Looks the second line up and reads it; its node is left looked up.
fn read_second_line(driver: &mut Driver) -> Vec<u8> {
    let (error, entry) = ask(driver, LOOKUP, 1, b"2\0");
    assert_eq!(error, 0);
    let node = u64::from_ne_bytes(entry[..8].try_into().unwrap());
    let (error, opened) = ask(driver, OPEN, node, &[0; 8]);
    assert_eq!(error, 0);
    let mut arguments = opened[..8].to_vec();
    arguments.extend(0_u64.to_ne_bytes());
    arguments.extend(4096_u32.to_ne_bytes());
    arguments.resize(40, 0);
    let (error, text) = ask(driver, READ, node, &arguments);
    assert_eq!(error, 0);
    text
}

/// Lets the server's thread end, on failure too.
struct RaiseWhenDropped(Stop);

impl Drop for RaiseWhenDropped {
    fn drop(&mut self) {
        self.0.raise();
    }
}

#[test]
fn a_socket_that_listens_already() {
    let bridge = || Bridge::new(LinesFs::new(b"first\nsecond\n"), BridgeOptions::default()).unwrap();
    let serve = |socket: OwnedFd| Server::from_listener(socket, Options::new("lines"), bridge());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = serve(listener.into()).unwrap();
    let stop = Stop::new().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| server.run(&stop));
        let _ended = RaiseWhenDropped(stop.clone());
        let (_frontend, mut driver) = Frontend::uml(&path);
        init(&mut driver);
        assert_eq!(read_second_line(&mut driver), b"second\n");
    });
    drop(server);
    assert!(path.exists(), "who made the socket removes it");
    let others: [OwnedFd; 4] = [
        UnixStream::pair().unwrap().0.into(),
        UnixDatagram::bind(directory.path().join("datagrams")).unwrap().into(),
        TcpListener::bind("127.0.0.1:0").unwrap().into(),
        std::fs::File::open("/dev/null").unwrap().into(),
    ];
    for other in others {
        assert!(serve(other).unwrap_err().0.contains("no listening unix stream socket"));
    }
}

#[test]
fn a_guest_reads_a_file_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("sock");
    let bridge = Bridge::new(LinesFs::new(b"first\nsecond\n"), BridgeOptions::default()).unwrap();
    let watched = Arc::new(Watched { bridge, made: Mutex::default() });
    let options = Options { poll: Poll::Adaptive, ..Options::new("lines") };
    let server = Server::bind(&path, options, Arc::<Watched>::clone(&watched)).unwrap();
    let stop = Stop::new().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| server.run(&stop));
        let _ended = RaiseWhenDropped(stop.clone());
        let (frontend, mut driver) = Frontend::uml(&path);
        assert_ne!(ask(&mut driver, LOOKUP, 1, b"2\0").0, 0, "before INIT");
        init(&mut driver);
        assert_eq!(read_second_line(&mut driver), b"second\n");
        assert_eq!(ask(&mut driver, LOOKUP, 1, b"3\0").0, -libc::ENOENT);
        assert_eq!(ask(&mut driver, 4095, 1, b"").0, -libc::ENOSYS);
        assert_eq!(ask(&mut driver, FORGET, 99, &5_u64.to_ne_bytes()), (0, Vec::new()));
        let export = Arc::clone(&watched.made.lock().unwrap()[0]);
        assert_eq!((export.statistics().nodes, export.statistics().handles), (2, 1));
        // A guest that reboots says INIT again, and has nothing of before.
        init(&mut driver);
        assert_eq!((export.statistics().nodes, export.statistics().handles), (1, 0));
        assert_eq!(read_second_line(&mut driver), b"second\n");
        drop(frontend);
        eventually("its export is empty", || export.statistics().handles == 0 && export.statistics().nodes == 1);
        let (_frontend, mut driver) = Frontend::uml(&path);
        init(&mut driver);
        assert_eq!(read_second_line(&mut driver), b"second\n");
        assert_eq!(watched.made.lock().unwrap().len(), 2);
    });
}
