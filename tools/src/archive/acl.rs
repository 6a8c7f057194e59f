//! ACLs as archives spell them, `user::rwx,user:1000:r-x,...` (GNU tar, star),
//! turned into the attributes that hold them on Linux.

/// The attribute's version, of `linux/posix_acl_xattr.h`.
const VERSION: u32 = 2;

/// The id of an entry that has none.
const NOBODY: u32 = u32::MAX;

/// The value of `system.posix_acl_access` or `_default` that `text` means;
/// None if it is malformed or names somebody by a name: whom that would be,
/// an archive does not say.
pub(super) fn to_xattr(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut entries: Vec<(u16, u32, u16)> = Vec::new();
    for entry in text.split([',', '\n']).map(str::trim).filter(|entry| !entry.is_empty() && !entry.starts_with('#')) {
        // A comment that tells effective rights may follow.
        let entry = entry.split_whitespace().next()?.trim_start_matches("default:");
        entries.push(parse(entry)?);
    }
    // The kernel wants them in the order of the tags, then of the ids.
    entries.sort_unstable();
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    Some(bytes)
}

fn parse(entry: &str) -> Option<(u16, u32, u16)> {
    let fields: Vec<&str> = entry.split(':').collect();
    let (kind, name, rights) = match fields.as_slice() {
        // mask and other need no empty field.
        [kind @ ("mask" | "other" | "m" | "o"), rights] => (*kind, "", *rights),
        [kind, name, rights] => (*kind, *name, *rights),
        // star adds the number.
        [kind, _, rights, number] => (*kind, *number, *rights),
        _ => return None,
    };
    let id = if name.is_empty() { NOBODY } else { name.parse().ok()? };
    let tag = match (kind, id) {
        ("user" | "u", NOBODY) => 0x01,
        ("user" | "u", _) => 0x02,
        ("group" | "g", NOBODY) => 0x04,
        ("group" | "g", _) => 0x08,
        ("mask" | "m", NOBODY) => 0x10,
        ("other" | "o", NOBODY) => 0x20,
        _ => return None,
    };
    let mut permissions = 0;
    for letter in rights.bytes() {
        permissions |= match letter {
            b'r' => 4,
            b'w' => 2,
            b'x' => 1,
            b'-' => 0,
            _ => return None,
        };
    }
    Some((tag, id, permissions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acl_is_what_the_kernel_takes() {
        let entry = |tag: u16, permissions: u16, id: u32| [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat();
        let all = [
            VERSION.to_le_bytes().to_vec(),
            entry(1, 7, NOBODY),
            entry(2, 5, 5),
            entry(2, 5, 1000),
            entry(4, 4, NOBODY),
            entry(8, 0, 4),
            entry(16, 5, NOBODY),
            entry(32, 0, NOBODY),
        ];
        for text in [
            "user::rwx,user:1000:r-x,user:5:r-x,group::r--,group:4:---,mask::r-x,other::---",
            "user::rwx\nuser:5:r-x\t#effective:r-x\nuser:1000:r-x\ngroup::r--\ngroup:4:---\nmask:r-x\nother:---\n",
            "user::rwx,user:me:r-x:1000,user:you:r-x:5,group::r--,group:adm:---:4,mask::r-x,other::---",
        ] {
            assert_eq!(to_xattr(text.as_bytes()), Some(all.concat()), "{text}");
        }
        for bad in ["user:me:rwx", "user::rwz", "nobody::rwx", "user", "mask:5:rwx", "a:b:c:d:e"] {
            assert_eq!(to_xattr(bad.as_bytes()), None, "{bad}");
        }
    }
}
