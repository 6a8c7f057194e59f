//! The names of a tree's users and groups, from its own files.

use rusqlite::{Connection, Result};

/// Bytes of a file that are looked at, and lines.
const FILE_MAX: usize = 4 << 20;
const LINES_MAX: usize = 100_000;

/// A tree's `/etc/passwd` and `/etc/group`, as far as they are there.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// passwd(5).
    pub passwd: Vec<u8>,
    /// group(5).
    pub group: Vec<u8>,
}

impl Accounts {
    pub(crate) fn put(&self, conn: &Connection) -> Result<()> {
        conn.execute_batch("DELETE FROM user_name; DELETE FROM group_name;")?;
        for (file, sql) in
            [(&self.passwd, "INSERT OR IGNORE INTO user_name VALUES(?, ?)"), (&self.group, "INSERT OR IGNORE INTO group_name VALUES(?, ?)")]
        {
            let mut insert = conn.prepare_cached(sql)?;
            for (id, name) in entries(file) {
                insert.execute((id, name))?;
            }
        }
        Ok(())
    }
}

/// `name:x:id:...`, in both files. The first name of a number counts, as for
/// getpwuid(3).
fn entries(file: &[u8]) -> impl Iterator<Item = (u32, &str)> {
    let lines = file[..file.len().min(FILE_MAX)].split(|&byte| byte == b'\n').take(LINES_MAX);
    lines.filter_map(|line| {
        let mut fields = std::str::from_utf8(line).ok()?.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with(['#', '+', '-']))?;
        let id = fields.nth(1)?.parse().ok()?;
        Some((id, name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_nonsense_is_not() {
        let file = b"root:x:0:0:root:/root:/bin/sh\n# comment:x:1:\n+:::\ntoor:x:0:0::\nbroken\nbad:x:many:\n\xff:x:7:\nlast:*:4294967294:";
        assert_eq!(entries(file).collect::<Vec<_>>(), [(0, "root"), (0, "toor"), (4_294_967_294, "last")]);
    }
}
