//! The superblock: four lines of text at the head of a tree.
//!
//! It is what the original wrote and read, and nothing else is in it, so that
//! the original still can. Whatever humfs needs besides is in `humfs/`.

use crate::store::Format;

/// What the superblock says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// 2; 1 for trees older than the two metadata trees.
    pub version: u32,
    /// Where the records are.
    pub format: Format,
    /// Bytes in use when the tree was last left in order.
    pub used: u64,
    /// Bytes that may be used. An administrator may edit it.
    pub total: u64,
}

impl Superblock {
    /// As it is written.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Superblock { version, format, used, total } = self;
        // The original refuses 0.
        format!("version {version}\nmetadata {}\nused {}\ntotal {total}\n", format.name(), (*used).max(1))
    }

    /// Reads one: lines in any order, the last of a kind counts, a missing LF
    /// at the end is fine.
    ///
    /// # Errors
    /// What is wrong, with the number of the line.
    pub fn parse(text: &[u8]) -> Result<Superblock, String> {
        if text.is_empty() {
            return Err("it is empty: the conversion of this tree was cut short".into());
        }
        let text = std::str::from_utf8(text).map_err(|_| "it is not text".to_owned())?;
        let (mut version, mut format, mut used, mut total) = (None, Format::ShadowFs, None, None);
        for (index, line) in text.lines().enumerate() {
            let wrong = |what: &str| format!("line {}: {what}: '{}'", index + 1, line.escape_debug());
            let (key, value) = line.split_once(' ').ok_or_else(|| wrong("no key with a value"))?;
            let number = || value.trim().parse::<u64>().map_err(|_| wrong("not a decimal number"));
            match key {
                "version" => version = Some(number()?),
                "metadata" => format = Format::parse(value.trim()).ok_or_else(|| wrong("unknown metadata format"))?,
                "used" => used = Some(number()?),
                "total" => total = Some(number()?),
                _ => return Err(wrong("unknown key")),
            }
        }
        let version = match version {
            Some(version @ (1 | 2)) => version as u32,
            Some(other) => return Err(format!("version {other} is unknown: this program knows 1 and 2")),
            None => return Err("there is no line 'version 2'".into()),
        };
        let total = total.filter(|&total| total > 0).ok_or("there is no line 'total N' with N above 0")?;
        let used = used.ok_or("there is no line 'used N'")?;
        Ok(Superblock { version, format, used, total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Superblock = Superblock { version: 2, format: Format::ShadowFs, used: 4096, total: 1 << 30 };

    #[test]
    fn what_is_written_is_what_the_original_wrote() {
        assert_eq!(SAMPLE.to_text(), "version 2\nmetadata shadow_fs\nused 4096\ntotal 1073741824\n");
        assert_eq!(Superblock { used: 0, ..SAMPLE }.to_text(), "version 2\nmetadata shadow_fs\nused 1\ntotal 1073741824\n");
    }

    #[test]
    fn it_is_read_as_liberally_as_the_original_read_it() {
        for good in [
            "version 2\nmetadata shadow_fs\nused 4096\ntotal 1073741824\n",
            "total 1073741824\nused 1\nused 4096\nversion 2",
            "version 2\nused 4096\ntotal 1073741824\n",
        ] {
            assert_eq!(Superblock::parse(good.as_bytes()), Ok(SAMPLE), "{good}");
        }
    }

    #[test]
    fn nonsense_is_refused_by_its_line() {
        for (bad, says) in [
            ("", "empty"),
            ("version 2\n\nused 1\ntotal 2\n", "line 2"),
            ("version 2\nmetadata floppy\nused 1\ntotal 2\n", "line 2: unknown metadata format"),
            ("version 3\nused 1\ntotal 2\n", "version 3 is unknown"),
            ("version 2\nused 1\n", "total"),
            ("version 2\nused 1\ntotal 0\n", "total"),
            ("version 2\nused one\ntotal 2\n", "line 2: not a decimal number"),
            ("version 2\nused 1\ntotal 2\nowner me\n", "line 4: unknown key"),
            ("used 1\ntotal 2\n", "version 2"),
        ] {
            let error = Superblock::parse(bad.as_bytes()).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
