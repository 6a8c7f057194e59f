//! Noise at every place where a guest can speak: the wire, names, vhost-user
//! sockets; and in everything that is kept on the disk. Bounded by count; `EXTERNFS_TEST_CASES` makes a night of it.

use externfs::{Name, Plugin, Source};
use externfs_tests::deed;
use externfs_tests::fixture::{self, Server};
use externfs_tests::guest::Guest;
use externfs_tests::picture::Picture;
use externfs_tests::realm::Realm;
use externfs_tests::wire_client::{WireClient, WireOutcome};
use externfs_tests::{harness, random};
use externfs_wire::Opcode;
use humfs::check::{CheckOptions, Progress};
use humfs::store::Format;
use proptest::prelude::Rng;
use proptest::test_runner::TestRng;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn main() -> std::process::ExitCode {
    harness::main(externfs_tests::cases![
        names_are_components_or_refused,
        the_wire_answers_noise,
        the_wire_answers_mutations,
        a_server_survives_noise_on_its_socket,
        trees_with_damaged_metadata_are_read_or_refused,
    ])
}

struct Dice(TestRng, u64);

impl Dice {
    fn new() -> Dice {
        let seed = random::seed();
        Dice(random::rng(seed), seed)
    }

    fn below(&mut self, end: u32) -> u32 {
        self.0.next_u32() % end.max(1)
    }

    fn bytes(&mut self, most: u32) -> Vec<u8> {
        let mut bytes = vec![0; self.below(most) as usize];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
}

fn names_are_components_or_refused() {
    let mut dice = Dice::new();
    let seed = dice.1;
    let alphabet = [b'.', b'/', 0, b'a', b'\n', 0xff];
    for _ in 0..externfs_tests::cases(200_000) {
        let len = dice.below(6);
        let bytes: Vec<u8> = (0..len).map(|_| alphabet[dice.below(6) as usize]).collect();
        let sound = !bytes.is_empty() && bytes != b"." && bytes != b".." && !bytes.contains(&b'/') && !bytes.contains(&0);
        let taken = Name::new(&bytes);
        assert_eq!(taken.is_ok(), sound, "EXTERNFS_TEST_SEED={seed}: {}", bytes.escape_ascii());
        assert!(taken.is_err() || taken.is_ok_and(|name| name.as_bytes() == bytes && !name.to_string().contains('\n')));
    }
}

fn client() -> (WireClient, tempfile::TempDir) {
    let dir = fixture::temp_dir();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(dir.path().join("f"), "contents").unwrap();
    let source = Source { path: dir.path().to_path_buf(), options: Vec::new() };
    let connect = hostfs::HostFsPlugin.open(&source).unwrap();
    (WireClient::new(connect.connect().unwrap()), dir)
}

fn the_wire_answers_noise() {
    let mut dice = Dice::new();
    let (mut client, _dir) = client();
    println!("    EXTERNFS_TEST_SEED={}", dice.1);
    for _ in 0..externfs_tests::cases(20_000) {
        let bytes = dice.bytes(200);
        client.raw(&bytes);
        let (opcode, node, args) = (dice.below(60), u64::from(dice.below(4)), dice.bytes(300));
        if is_fair(opcode) {
            client.request(opcode, node, &args);
        }
    }
    still_works(&mut client);
}

/// DESTROY and INIT end the conversation, by design.
fn is_fair(opcode: u32) -> bool {
    opcode != Opcode::Destroy as u32 && opcode != Opcode::Init as u32
}

/// Ordinary requests with a few bytes changed.
fn the_wire_answers_mutations() {
    let mut dice = Dice::new();
    let (mut client, dir) = client();
    println!("    EXTERNFS_TEST_SEED={}", dice.1);
    let templates: Vec<(Opcode, Vec<u8>)> = vec![
        (Opcode::Lookup, b"f\0".to_vec()),
        (Opcode::GetAttr, vec![0; 16]),
        (Opcode::SetAttr, vec![0; 88]),
        (Opcode::MkDir, [&[0xff, 1, 0, 0, 0, 0, 0, 0][..], b"made\0"].concat()),
        (Opcode::Create, [&[2, 0, 0, 0, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], b"made\0"].concat()),
        (Opcode::Rename2, [&1u64.to_le_bytes()[..], &[0; 8], b"f\0g\0"].concat()),
        (Opcode::Open, vec![0; 8]),
        (Opcode::OpenDir, vec![0; 8]),
        (Opcode::ReadDirPlus, [&[0; 16][..], &4096u32.to_le_bytes(), &[0; 20]].concat()),
        (Opcode::Read, [&[0; 16][..], &4096u32.to_le_bytes(), &[0; 20]].concat()),
        (Opcode::Write, [&[0; 16][..], &8u32.to_le_bytes(), &[0; 20], b"new data"].concat()),
        (Opcode::SetXattr, [&4u32.to_le_bytes()[..], &[0; 12], b"user.x\0data"].concat()),
        (Opcode::GetXattr, [&64u32.to_le_bytes()[..], &[0; 4], b"user.x\0"].concat()),
        (Opcode::FAllocate, vec![0; 32]),
        (Opcode::LSeek, vec![0; 24]),
        (Opcode::CopyFileRange, vec![0; 56]),
        (Opcode::SetLkW, vec![0; 48]),
        (Opcode::BatchForget, [&2u32.to_le_bytes()[..], &[0; 36]].concat()),
        (Opcode::StatX, vec![0; 24]),
        (Opcode::Ioctl, vec![0; 32]),
    ];
    for _ in 0..externfs_tests::cases(30_000) {
        let (opcode, mut args) = templates[dice.below(templates.len() as u32) as usize].clone();
        for _ in 0..dice.below(4) {
            let at = dice.below(args.len() as u32) as usize;
            // Small numbers and extremes find more than even noise does.
            args[at] = [0, 1, 2, 0x7f, 0x80, 0xff, b'/', b'.'][dice.below(8) as usize];
        }
        if dice.below(8) == 0 {
            args.truncate(dice.below(args.len() as u32 + 1) as usize);
        }
        client.request(opcode as u32, u64::from(dice.below(3)), &args);
        // A file of exabytes would only fill the disk's metadata.
        let _ = std::fs::File::options().write(true).open(dir.path().join("f")).and_then(|f| f.set_len(8));
    }
    still_works(&mut client);
}

fn still_works(client: &mut WireClient) {
    let answer = client.request(Opcode::GetAttr as u32, 1, &[0; 16]);
    assert!(matches!(&answer, WireOutcome::Answer(a) if a.errno == 0), "after the noise: {answer:?}");
}

/// vhost-user speaks in messages: request, flags, size, payload.
fn a_server_survives_noise_on_its_socket() {
    let mut dice = Dice::new();
    println!("    EXTERNFS_TEST_SEED={}", dice.1);
    let dir = fixture::temp_dir();
    let mut server = Server::new(dir.path(), "", 1, false);
    for round in 0..externfs_tests::cases(300) {
        let mut socket = UnixStream::connect(server.socket(0)).unwrap_or_else(|e| panic!("round {round}: {e}"));
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        for _ in 0..1 + dice.below(6) {
            let payload = dice.bytes(100);
            let size = if dice.below(5) == 0 { dice.below(u32::MAX) } else { payload.len() as u32 };
            let mut message = Vec::new();
            for word in [dice.below(45), 1 | dice.below(2) << 3, size] {
                message.extend(word.to_le_bytes());
            }
            message.extend(payload);
            if socket.write_all(&message).is_err() {
                break;
            }
        }
        if dice.below(2) == 0 {
            let _ = socket.read(&mut [0; 64]);
        }
        drop(socket);
        assert!(!server.process.has_ended(), "round {round}: the server has ended: {}", server.process.log());
    }
    // It still negotiates: GET_FEATURES (1) is answered with 8 bytes.
    let mut socket = UnixStream::connect(server.socket(0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.write_all(&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let mut answer = [0; 20];
    socket.read_exact(&mut answer).unwrap_or_else(|e| panic!("no answer after the noise: {e}; {}", server.process.log()));
    assert_eq!(answer[..4], [1, 0, 0, 0]);
    let files = server.process.descriptors().into_iter().filter(|path| path.starts_with(dir.path())).count();
    assert!(files <= 4, "{files} descriptors into the tree are left open");
}

/// Where a tree keeps what is not a guest's data: files, and attributes of
/// the guest's files.
fn metadata_of(tree: &Path) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut heap = vec![tree.to_path_buf()];
    while let Some(dir) = heap.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                heap.push(path.clone());
            } else if kind.is_file() && !path.starts_with(tree.join("data")) && entry.metadata().unwrap().len() > 0 {
                pieces.push(Piece::File(path.clone()));
            }
            let mut names = [0; 4096];
            let length = rustix::fs::llistxattr(&path, &mut names[..]).unwrap_or(0);
            let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
            pieces.extend(names.map(|name| Piece::Attribute(path.clone(), String::from_utf8_lossy(name).into_owned())));
        }
    }
    pieces.sort();
    pieces
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Piece {
    File(PathBuf),
    Attribute(PathBuf, String),
}

impl Piece {
    fn damage(&self, dice: &mut Dice) {
        let mut bytes = match self {
            Piece::File(path) => std::fs::read(path).unwrap_or_default(),
            Piece::Attribute(path, name) => {
                let mut value = vec![0; 65_536];
                let length = rustix::fs::lgetxattr(path, name.as_str(), &mut value[..]).unwrap_or(0);
                value.truncate(length);
                value
            }
        };
        for _ in 0..1 + dice.below(3) {
            // Heads of files matter most, and all of what is small.
            let reach = if dice.below(2) == 0 { 256 } else { u32::MAX };
            let at = dice.below((bytes.len() as u32).min(reach)) as usize;
            match (dice.below(8), bytes.get_mut(at)) {
                (0, _) => bytes.truncate(at),
                (1, _) => bytes.splice(at..at, dice.bytes(20)).for_each(drop),
                (_, Some(byte)) => *byte = [0, 1, 0x7f, 0x80, 0xff, b'/', b' ', b'\n', b'9', *byte ^ 1][dice.below(10) as usize],
                _ => {}
            }
        }
        match self {
            // In place: a database's other files know it by its number.
            Piece::File(path) => {
                let file = std::fs::File::options().write(true).open(path).unwrap();
                file.set_len(bytes.len() as u64).and_then(|()| file.write_all_at(&bytes, 0)).unwrap();
            }
            Piece::Attribute(path, name) => {
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::lsetxattr(path, name.as_str(), &bytes, flags).unwrap();
            }
        }
    }
}

/// Nothing panics or waits for ever, whatever is in there; that what cannot be
/// believed is not believed is tested with each store.
fn trees_with_damaged_metadata_are_read_or_refused() {
    let mut dice = Dice::new();
    println!("    EXTERNFS_TEST_SEED={}", dice.1);
    let dir = fixture::memory_dir();
    for format in Format::ALL {
        let realm = Realm::HumFs(format);
        let whole = dir.path().join(format.name());
        realm.make(&whole);
        let connect = realm.open(&whole, &[]).unwrap();
        let guest = Guest::new(connect.as_ref());
        deed::bystanders(&guest).unwrap();
        guest.finish();
        // Left as by a server that was killed: with all that it had in flight.
        drop(connect);
        let (mut served, mut refused) = (0, 0);
        for _ in 0..externfs_tests::cases(60) {
            let tree = dir.path().join("damaged");
            fixture::succeed(std::process::Command::new("cp").arg("-a").arg(&whole).arg(&tree));
            let pieces = metadata_of(&tree);
            for _ in 0..1 + dice.below(2) {
                pieces[dice.below(pieces.len() as u32) as usize].damage(&mut dice);
            }
            let check = |repair| humfs::check::check(&tree, &CheckOptions { repair, ..CheckOptions::default() }, &Progress::default());
            let _ = check(false);
            let seen = realm.open(&tree, &[]).and_then(|connect| {
                let seen = Picture::take(connect.as_ref());
                let _ = connect.close();
                seen
            });
            *if seen.is_ok() { &mut served } else { &mut refused } += 1;
            let _ = check(true);
            std::fs::remove_dir_all(&tree).unwrap();
        }
        println!("    {}: {served} trees were read, {refused} not or not whole", format.name());
        assert!(served > 0 && refused > 0, "the damage is too small or too great");
    }
}
