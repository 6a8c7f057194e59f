//! The test vectors of FORMAT.md, read from there: what the document says is
//! what the program reads and writes.

use externfs::FileKind;
use humfs::record::{Record, Target};

const FORMAT: &str = include_str!("../FORMAT.md");

/// The lines of the block that begins with "```vectors NAME".
fn vectors(name: &str) -> Vec<&'static str> {
    let begin = format!("```vectors {name}\n");
    let (_, rest) = FORMAT.split_once(&begin).expect("the block is there");
    let (block, _) = rest.split_once("\n```").expect("the block ends");
    block.lines().collect()
}

fn letter(kind: FileKind) -> char {
    match kind {
        FileKind::Regular => 'f',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::BlockDevice => 'b',
        FileKind::CharDevice => 'c',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
    }
}

/// As FORMAT.md writes a record for people.
fn shown(record: &Record, target: Target) -> String {
    let mut text = format!("{} 0{:03o} {}:{}", letter(record.kind), record.mode.bits(), record.uid.0, record.gid.0);
    if record.kind.is_device() {
        text += &format!(" device {}:{}", record.device.major, record.device.minor);
    }
    if let Some(path) = &record.target {
        text += &format!(" -> {}", String::from_utf8_lossy(path));
    }
    if target == Target::Contents {
        text += " target in the file";
    }
    for (name, value) in record.xattrs.iter() {
        let value = match value {
            text if text.iter().all(u8::is_ascii_graphic) => String::from_utf8_lossy(text).into_owned(),
            bytes => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        text += &format!(" {}={value}", String::from_utf8_lossy(name));
    }
    text
}

/// Without regard to the order of attributes.
fn words(text: &str) -> Vec<&str> {
    let mut words: Vec<_> = text.split(' ').collect();
    words.sort_unstable();
    words
}

#[test]
fn the_lines_of_the_document() {
    let vectors = vectors("line");
    assert!(vectors.len() > 4);
    for vector in vectors {
        let (line, means) = vector.split_once(" = ").expect("LINE = MEANING");
        let held = match &means[..1] {
            "d" => FileKind::Directory,
            "l" => FileKind::Symlink,
            _ => FileKind::Regular,
        };
        let record = Record::from_line(line.as_bytes(), held).expect(vector);
        assert_eq!(shown(&record, Target::Block), means);
        assert_eq!(record.to_line(false), format!("{line}\n"));
    }
}

#[test]
fn the_blocks_of_the_document() {
    let vectors = vectors("block");
    assert!(vectors.len() > 4);
    for vector in vectors {
        let (hex, means) = vector.split_once("  ").expect("HEX  MEANING");
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect(vector)).collect();
        let (record, target) = Record::from_block(&bytes).expect(vector);
        assert_eq!(words(&shown(&record, target)), words(means));
        assert_eq!(record.to_block(target), bytes, "{means}");
    }
}
