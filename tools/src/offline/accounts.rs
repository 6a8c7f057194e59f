//! [`Accounts`]: who is who in a tree, by its own /etc/passwd and /etc/group.
//! The host's accounts mean nothing there.

use super::{Offline, TreePath};
use crate::failure::{Failure, Result};
use externfs::{FileKind, GuestGid, GuestUid};
use std::collections::HashMap;

/// More than any honest file of accounts has.
const MOST_BYTES: usize = 64 << 20;

/// Names with their numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Accounts {
    users: Table,
    groups: Table,
    /// A user's own group, by the user's name.
    login_groups: HashMap<String, u32>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Table {
    by_name: HashMap<String, u32>,
    by_id: HashMap<u32, String>,
}

impl Table {
    fn add(&mut self, name: &str, id: u32) {
        // The first line of a kind counts, as it does for getpwent(3).
        self.by_name.entry(name.to_owned()).or_insert(id);
        self.by_id.entry(id).or_insert_with(|| name.to_owned());
    }

    fn find(&self, text: &str, what: &str, file: &str) -> Result<u32> {
        if let Some(id) = self.by_name.get(text) {
            return Ok(*id);
        }
        // As chown(1) has it, a number is one unless somebody is called that.
        match text.parse() {
            // (uid_t)-1 is "leave it" to the kernel.
            Ok(id) if id != u32::MAX => Ok(id),
            _ if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err(Failure::new(format!("{text} is no {what}'s number: they go up to {}", u32::MAX - 1)))
            }
            _ => Err(Failure::new(format!("no {what} '{text}' in the tree's {file}: use a number, or add it there first"))),
        }
    }
}

impl Accounts {
    /// Those of `tree`. A tree without the files has none; lines that make no
    /// sense are passed over.
    #[must_use]
    pub fn of(tree: &Offline) -> Accounts {
        let text = |path| String::from_utf8_lossy(&read(tree, path)).into_owned();
        Accounts::parse(&text(b"etc/passwd"), &text(b"etc/group"))
    }

    fn parse(passwd: &str, group: &str) -> Accounts {
        let mut accounts = Accounts::default();
        for line in passwd.lines() {
            let mut fields = line.split(':');
            let (Some(name), Some(id)) = (fields.next(), fields.nth(1).and_then(|id| id.parse().ok())) else { continue };
            accounts.users.add(name, id);
            if let Some(Ok(gid)) = fields.next().map(str::parse) {
                accounts.login_groups.entry(name.to_owned()).or_insert(gid);
            }
        }
        for line in group.lines() {
            let mut fields = line.split(':');
            if let (Some(name), Some(id)) = (fields.next(), fields.nth(1).and_then(|id| id.parse().ok())) {
                accounts.groups.add(name, id);
            }
        }
        accounts
    }

    /// The user's name.
    #[must_use]
    pub fn user(&self, uid: GuestUid) -> Option<&str> {
        self.users.by_id.get(&uid.0).map(String::as_str)
    }

    /// The group's name.
    #[must_use]
    pub fn group(&self, gid: GuestGid) -> Option<&str> {
        self.groups.by_id.get(&gid.0).map(String::as_str)
    }

    /// What `USER`, `USER:GROUP`, `USER:` (with the user's own group) or
    /// `:GROUP` means. None leaves one alone.
    ///
    /// # Errors
    /// A name that the tree does not know; an empty text.
    pub fn owner(&self, text: &str) -> Result<(Option<GuestUid>, Option<GuestGid>)> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if user.is_empty() && group.is_none_or(str::is_empty) {
            return Err(Failure::usage(format!("'{text}' names nobody: USER, USER:GROUP, USER: or :GROUP, by name or number")));
        }
        let uid = if user.is_empty() { None } else { Some(self.users.find(user, "user", "/etc/passwd")?) };
        let gid = match group {
            None => None,
            Some("") => {
                let own = self.login_groups.get(user).copied();
                Some(own.ok_or_else(|| Failure::new(format!("the tree's /etc/passwd has no group for '{user}': say USER:GROUP")))?)
            }
            Some(group) => Some(self.groups.find(group, "group", "/etc/group")?),
        };
        Ok((uid.map(GuestUid), gid.map(GuestGid)))
    }
}

/// What a file of accounts says; nothing where there is none.
pub(crate) fn read(tree: &Offline, path: &[u8]) -> Vec<u8> {
    let read = || {
        let node = tree.resolve(&TreePath::parse(path).ok()?).ok()?;
        // A FIFO of the guest's must not be opened, nor its device.
        let regular = node.attr().kind == FileKind::Regular && node.attr().size <= MOST_BYTES as u64;
        regular.then(|| node.open_to_read().and_then(|file| file.read_all(node.attr().size as usize + 1)).ok())?
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n\nnonsense\nuser:x:1000:1001::/:\nuser:x:7:7::/:\n12:x:99:99::/:\n+\nmail:x:-1:8\n";
        Accounts::parse(passwd, "root:x:0:\nusers:x:100:a,b\nshadow:x:42\n")
    }

    #[test]
    fn owners_are_those_of_the_tree() {
        let known = accounts();
        let owner = |text: &str| known.owner(text).map(|(uid, gid)| (uid.map(|uid| uid.0), gid.map(|gid| gid.0)));
        assert_eq!(owner("user"), Ok((Some(1000), None)));
        assert_eq!(owner("user:"), Ok((Some(1000), Some(1001))));
        assert_eq!(owner("root:shadow"), Ok((Some(0), Some(42))));
        assert_eq!(owner(":users"), Ok((None, Some(100))));
        assert_eq!(owner("4294967294:5"), Ok((Some(u32::MAX - 1), Some(5))));
        assert_eq!(owner("12"), Ok((Some(99), None)), "somebody is called 12");
        for bad in ["", ":", "nobody", "user:nobody", "-1", "4294967295", "5:", "1.2", "mail"] {
            assert!(owner(bad).is_err(), "{bad}");
        }
        assert_eq!((known.user(GuestUid(1000)), known.group(GuestGid(100))), (Some("user"), Some("users")));
    }
}
