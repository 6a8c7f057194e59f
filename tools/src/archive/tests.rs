use super::header::Header;
use super::*;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::Command;

fn member(path: &[u8], what: What) -> Member {
    let mtime = Timestamp { seconds: 1_700_000_000, nanoseconds: 0 };
    Member { path: path.to_vec(), what, mode: 0o644, uid: 0, gid: 0, mtime, atime: None, size: 0, xattrs: Vec::new() }
}

/// One of everything that needs care.
fn samples() -> Vec<(Member, Vec<u8>)> {
    let at = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
    let device = |kind, major, minor| What::Device(kind, DeviceNumber { major, minor });
    let contents = vec![b'x'; 1000];
    let binary = vec![b'\n', 0, b'=', 255, b' ', b'\n'];
    vec![
        (Member { mode: 0o1777, mtime: at(0, 1), ..member(b"./", What::Directory) }, vec![]),
        (Member { size: 1000, mode: 0o6755, uid: 4_294_967_294, gid: 2_097_152, ..member(b"./file", What::Regular) }, contents),
        (
            Member {
                xattrs: vec![(b"security.capability".into(), binary), (b"user.a=b%".into(), vec![])],
                ..member(b"./caps", What::Regular)
            },
            vec![],
        ),
        (member(&[b"./", &[b'n'; 255][..]].concat(), What::Regular), vec![]),
        (member(&[b"./", &[0xff; 99][..]].concat(), What::Regular), vec![]),
        (member(b"./\xff\xfe", What::Symlink(vec![0xfe; 4000])), vec![]),
        (member(b"./hard", What::HardLink(b"./file".to_vec())), vec![]),
        (Member { mtime: at(-2, 500_000_000), ..member(b"./null", device(FileKind::CharDevice, 1, 3)) }, vec![]),
        (Member { mtime: at(1 << 40, 999_999_999), ..member(b"./big", device(FileKind::BlockDevice, u32::MAX, 4_000_000)) }, vec![]),
        (member(b"./fifo", What::Fifo), vec![]),
        (Member { atime: Some(at(5, 6)), ..member(b"./socket", What::Socket) }, vec![]),
        (Member { size: 512, ..member(b"./block", What::Regular) }, vec![7; 512]),
    ]
}

fn write(members: &[(Member, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (member, contents) in members {
        writer.begin(member).expect("begins");
        writer.data(contents).expect("takes data");
        writer.end().expect("ends");
    }
    writer.finish().expect("finishes")
}

/// Every member with its contents, holes filled.
fn read(bytes: impl Read + Send) -> io::Result<Vec<(Member, Vec<u8>)>> {
    let mut reader = Reader::new(decompressed(bytes)?);
    let (mut all, mut buffer) = (Vec::new(), [0; 100]);
    while let Some(member) = reader.next_member()? {
        let mut contents = Vec::new();
        while let Some((offset, count)) = reader.data(&mut buffer)? {
            contents.resize(offset as usize, 0);
            contents.extend(&buffer[..count]);
        }
        if member.what == What::Regular && member.size < 1 << 24 {
            contents.resize(member.size as usize, 0);
        }
        all.push((member, contents));
    }
    Ok(all)
}

#[test]
fn what_is_written_is_read_and_is_always_the_same() {
    let archive = write(&samples());
    assert_eq!(archive.len() % 10_240, 0);
    let back = read(&archive[..]).expect("reads");
    for (index, (found, expected)) in back.iter().zip(samples()).enumerate() {
        assert_eq!(*found, expected, "{index}");
    }
    assert_eq!(back.len(), samples().len());
    assert_eq!(write(&back), archive);
}

#[test]
fn contents_must_be_as_announced() {
    let mut writer = Writer::new(Vec::new());
    writer.begin(&Member { size: 3, ..member(b"./a", What::Regular) }).expect("begins");
    assert!(writer.end().is_err());
    assert!(writer.data(b"1234").is_err());
}

#[test]
fn a_cut_archive_is_never_taken_for_a_whole_one() {
    let archive = write(&samples());
    // The end is two blocks of zeros; one of them is enough for most tars.
    let last = archive.iter().rposition(|&byte| byte != 0).expect("not empty").next_multiple_of(BLOCK);
    for length in (0..=last).step_by(37).chain([last]) {
        assert!(read(&archive[..length]).is_err(), "{length}");
    }
}

#[test]
fn damage_is_an_error_and_no_panic() {
    let archive = write(&samples());
    let mut state = 1u64;
    for _ in 0..3000 {
        let mut broken = archive.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % broken.len();
            broken[at] = (state >> 20) as u8;
            // As whoever forges an archive would, make the sum right.
            let start = at / BLOCK * BLOCK;
            let mut header = Header::empty();
            header.0.copy_from_slice(&broken[start..start + BLOCK]);
            header.seal();
            broken[start..start + BLOCK].copy_from_slice(&header.0);
        }
        let _ = read(&broken[..]);
    }
}

#[test]
fn what_is_no_archive_is_named() {
    for (bytes, says) in [(&b""[..], "empty"), (b"hello, this is text", "no tar archive"), (&[b'x'; 2000], "no tar archive")] {
        let error = read(bytes).expect_err("is refused");
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// Runs GNU tar in `dir`; None where there is none.
fn gnu_tar(dir: &Path, arguments: &[&str]) -> Option<Vec<u8>> {
    let output = Command::new("tar").current_dir(dir).env("LC_ALL", "C").args(arguments).output().ok()?;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

#[test]
fn gnu_tar_understands_what_we_write() {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::write(dir.path().join("a.tar"), write(&samples())).expect("write");
    let Some(listed) = gnu_tar(dir.path(), &["--numeric-owner", "-tvf", "a.tar"]) else {
        return eprintln!("SKIPPED: needs tar");
    };
    // Columns are as wide as the widest.
    let lines =
        listed.split(|&byte| byte == b'\n').map(|line| String::from_utf8_lossy(line).split_whitespace().collect::<Vec<_>>().join(" "));
    let listed = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
    for part in ["drwxrwxrwt 0/0", "-rwsr-sr-x 4294967294/2097152", "crw-r--r-- 0/0 1,3", "link to ./file", "prw-r--r--"] {
        assert!(listed.contains(part), "{part} is not in what tar lists");
    }
    assert_eq!(listed.lines().count(), samples().len());
}

#[test]
fn we_understand_what_gnu_tar_writes() {
    let dir = tempfile::tempdir().expect("tempdir");
    let source = dir.path().join("s");
    let long = "n".repeat(250);
    std::fs::create_dir_all(source.join(&long)).expect("mkdir");
    std::fs::write(source.join(&long).join(&long), "deep").expect("write");
    std::os::unix::fs::symlink("t".repeat(300), source.join("link")).expect("symlink");
    std::fs::hard_link(source.join(&long).join(&long), source.join("hard")).expect("link");
    // Holes at the start, in the middle and at the end.
    let sparse = std::fs::File::create(source.join("sparse")).expect("create");
    for index in 0..60u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[index as u8 + 1; 4096], (index * 5 + 2) * 65_536).expect("write");
    }
    sparse.set_len(32 << 20).expect("truncate");
    let expected = std::fs::read(source.join("sparse")).expect("read");
    let formats = [
        &["--format=gnu"][..],
        &["--format=posix"],
        &["--format=gnu", "-S"],
        &["--format=posix", "-S", "--sparse-version=0.0"],
        &["--format=posix", "-S", "--sparse-version=0.1"],
        &["--format=posix", "-S", "--sparse-version=1.0"],
        &["--format=gnu", "-z"],
        &["--format=posix", "-J"],
        &["--format=gnu", "--zstd"],
    ];
    for format in formats {
        let all = [format, &["--sort=name", "--numeric-owner", "-cf", "-", "-C", "s", "."]].concat();
        let Some(archive) = gnu_tar(dir.path(), &all) else { return eprintln!("SKIPPED: needs tar") };
        let mut reader = Reader::new(decompressed(&archive[..]).expect("opens"));
        let mut found = BTreeMap::new();
        let (mut buffer, mut contents) = (vec![0; 1 << 20], vec![0; 32 << 20]);
        while let Some(member) = reader.next_member().unwrap_or_else(|error| panic!("{format:?}: {error}")) {
            if member.path == b"./sparse" {
                assert_eq!(member.size, 32 << 20, "{format:?}");
                while let Some((offset, count)) = reader.data(&mut buffer).expect("data") {
                    contents[offset as usize..offset as usize + count].copy_from_slice(&buffer[..count]);
                }
            }
            found.insert(String::from_utf8_lossy(&member.path).into_owned(), member);
        }
        assert!(contents == expected, "{format:?}: the sparse file is not the same");
        // GNU tar sorts hard first.
        assert_eq!(found[&format!("./{long}/{long}")].what, What::HardLink(b"./hard".to_vec()), "{format:?}");
        assert_eq!((found["./hard"].size, &found["./hard"].what), (4, &What::Regular), "{format:?}");
        assert_eq!(found["./link"].what, What::Symlink(vec![b't'; 300]), "{format:?}");
        assert_eq!(found.len(), 6, "{format:?}");
    }
}
