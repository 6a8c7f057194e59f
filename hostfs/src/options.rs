//! [`Options`]: what `-o` can say.

use crate::idmap::{HostGid, HostUid, IdMap, Range, Ranges};
use crate::jail::Resolver;
use externfs::{MountOption, UsageError};
use std::time::Duration;

/// Each option as written, and one line of help.
pub(crate) const OPTIONS: &[(&str, &str)] = &[
    ("ro", "nothing can be changed"),
    ("append", "files only grow: writes land at the end, nothing is truncated, removed or replaced (EPERM)"),
    ("sync", "each change is durable before it is answered"),
    ("subdir=PATH", "export this directory below SRC; no link is followed on the way"),
    ("squash=UID:GID", "whatever is made belongs to UID:GID of the host; ownership cannot be changed"),
    ("map-uid=GUEST:HOST:COUNT", "COUNT user ids from GUEST on are those from HOST on; repeatable; others are refused"),
    ("map-gid=GUEST:HOST:COUNT", "as map-uid, for groups"),
    ("nodev", "device nodes cannot be made, and those there have the number 0:0, which no driver serves"),
    ("nosuid", "setuid and setgid bits and file capabilities are neither shown nor settable"),
    ("one-file-system", "what is mounted below SRC is not entered (EXDEV)"),
    (
        "cache=none|auto|always",
        "what guests may remember: nothing; for a second (the default); for a day, if nobody else changes SRC, other guests included",
    ),
    ("exclusive", "nobody else changes SRC, not by another mount or server either: the same as cache=always"),
    ("direct-io", "guests keep no file data; needs FUSE_DIRECT_IO_ALLOW_MMAP for shared mappings"),
    ("noxattr", "no extended attributes, and so no ACLs"),
    ("locks=local|host", "flock and fcntl locks are seen in each guest alone (the default), or by the host too"),
    ("watch", "look out for changes by the host and tell those who cache"),
    ("resolver=auto|openat2|manual", "who refuses links: the kernel where it can (the default), openat2(2), or hostfs itself"),
];

/// What guests may remember.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Cache {
    /// Nothing.
    None,
    /// For a second.
    #[default]
    Auto,
    /// For a day: nobody else changes anything.
    Always,
}

impl Cache {
    /// For attributes and names.
    pub(crate) fn ttl(self) -> Duration {
        match self {
            Cache::None => Duration::ZERO,
            Cache::Auto => Duration::from_secs(1),
            Cache::Always => Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// All of it, checked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Options {
    pub(crate) read_only: bool,
    pub(crate) append: bool,
    pub(crate) sync: bool,
    pub(crate) subdir: Option<String>,
    pub(crate) ids: IdMap,
    pub(crate) nodev: bool,
    pub(crate) nosuid: bool,
    pub(crate) one_file_system: bool,
    pub(crate) cache: Cache,
    pub(crate) direct_io: bool,
    pub(crate) noxattr: bool,
    pub(crate) host_locks: bool,
    pub(crate) watch: bool,
    /// The tree belongs to a layer above us, which alone changes it.
    pub(crate) is_layers: bool,
    /// None for whichever works.
    pub(crate) resolver: Option<Resolver>,
}

impl Options {
    /// Checks each and all of them together.
    ///
    /// # Errors
    /// A line that names the option and what it may be.
    pub(crate) fn parse(list: &[MountOption]) -> Result<Options, UsageError> {
        let mut options = Options::default();
        for option in list {
            match &option.value {
                None => options.switch(&option.key)?,
                Some(value) => options.set(&option.key, value)?,
            }
        }
        if options.ids.squash.is_some() && !options.ids.is_identity() {
            return Err(UsageError("squash= and map-uid=/map-gid= exclude each other: leave one out".into()));
        }
        Ok(options)
    }

    /// Nobody but us changes the tree, so nothing needs a second look.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.cache == Cache::Always && !self.watch
    }

    fn switch(&mut self, key: &str) -> Result<(), UsageError> {
        match key {
            "ro" => self.read_only = true,
            // Later ones win, as with mount(8): it puts "rw" into every line.
            "rw" => self.read_only = false,
            "append" => self.append = true,
            "sync" => self.sync = true,
            "nodev" => self.nodev = true,
            "nosuid" => self.nosuid = true,
            "one-file-system" => self.one_file_system = true,
            "exclusive" => self.cache = Cache::Always,
            "direct-io" => self.direct_io = true,
            "noxattr" => self.noxattr = true,
            "watch" => self.watch = true,
            _ => return Err(Options::refuse(key, None)),
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), UsageError> {
        match (key, value) {
            ("subdir", path) => self.subdir = Some(subdir(path)?),
            ("squash", pair) => self.ids.squash = Some(squash(pair)?),
            ("map-uid", range) => add_range(key, &mut self.ids.uids, range)?,
            ("map-gid", range) => add_range(key, &mut self.ids.gids, range)?,
            ("cache", "none") => self.cache = Cache::None,
            ("cache", "auto") => self.cache = Cache::Auto,
            ("cache", "always") => self.cache = Cache::Always,
            ("locks", "local") => self.host_locks = false,
            ("locks", "host") => self.host_locks = true,
            ("resolver", "auto") => self.resolver = None,
            ("resolver", "openat2") => self.resolver = Some(Resolver::Openat2),
            ("resolver", "manual") => self.resolver = Some(Resolver::Manual),
            _ => return Err(Options::refuse(key, Some(value))),
        }
        Ok(())
    }

    fn refuse(key: &str, value: Option<&str>) -> UsageError {
        let known = OPTIONS.iter().find(|(usage, _)| usage.split('=').next() == Some(key));
        let given = value.map_or_else(|| key.to_owned(), |value| format!("{key}={value}"));
        let given = given.escape_debug();
        UsageError(match known {
            Some((usage, _)) => format!("option '{given}' of hostfs is to be written {usage}"),
            None => {
                let all: Vec<_> = OPTIONS.iter().map(|(usage, _)| *usage).collect();
                format!("hostfs has no option '{given}': there are {}", all.join(", "))
            }
        })
    }
}

fn subdir(path: &str) -> Result<String, UsageError> {
    if path.is_empty() || path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..") {
        let shown = path.escape_debug();
        return Err(UsageError(format!("subdir={shown} is not a path below SRC: give one like a/b, without '..'")));
    }
    Ok(path.to_owned())
}

fn squash(pair: &str) -> Result<(HostUid, HostGid), UsageError> {
    let parsed = pair.split_once(':').and_then(|(uid, gid)| Some((id(uid)?, id(gid)?)));
    let (uid, gid) = parsed.ok_or_else(|| Options::refuse("squash", Some(pair)))?;
    Ok((HostUid(uid), HostGid(gid)))
}

fn id(text: &str) -> Option<u32> {
    // -1 means "no change" to the kernel and so cannot own anything.
    text.parse().ok().filter(|&id| id != u32::MAX)
}

fn add_range(key: &str, ranges: &mut Ranges, text: &str) -> Result<(), UsageError> {
    let numbers: Option<Vec<u32>> = text.split(':').map(|part| part.parse().ok()).collect();
    let range = match numbers.as_deref() {
        Some(&[guest, host, count]) => Range::new(guest, host, count),
        _ => None,
    };
    let range = range.ok_or_else(|| Options::refuse(key, Some(text)))?;
    if ranges.0.iter().any(|other| other.overlaps(&range)) {
        return Err(UsageError(format!("{key}={text} overlaps an earlier {key}: each id can have one meaning only")));
    }
    ranges.0.push(range);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[&str]) -> Result<Options, UsageError> {
        let options: Vec<_> = text
            .iter()
            .map(|text| match text.split_once('=') {
                Some((key, value)) => MountOption { key: key.into(), value: Some(value.into()) },
                None => MountOption { key: (*text).into(), value: None },
            })
            .collect();
        Options::parse(&options)
    }

    #[test]
    fn every_option_in_the_help_is_understood() {
        for (usage, _) in OPTIONS {
            let examples: Vec<String> = match usage.split_once('=') {
                None => vec![(*usage).to_owned()],
                Some((key, "PATH")) => vec![format!("{key}=a/b")],
                Some((key, "UID:GID")) => vec![format!("{key}=1000:1000")],
                Some((key, "GUEST:HOST:COUNT")) => vec![format!("{key}=0:1000:1")],
                Some((key, values)) => values.split('|').map(|value| format!("{key}={value}")).collect(),
            };
            for example in examples {
                assert!(parse(&[&example]).is_ok(), "{example}");
            }
        }
    }

    #[test]
    fn a_mistake_is_named_with_its_remedy() {
        for (given, says) in [
            (&["readonly"][..], "no option 'readonly': there are ro, append"),
            (&["cache=sometimes"], "'cache=sometimes' of hostfs is to be written cache=none|auto|always"),
            (&["cache"], "cache=none|auto|always"),
            (&["ro=yes"], "'ro=yes' of hostfs is to be written ro"),
            (&["squash=root:root"], "squash=UID:GID"),
            (&["squash=4294967295:0"], "squash=UID:GID"),
            (&["map-uid=0:1000"], "map-uid=GUEST:HOST:COUNT"),
            (&["map-uid=0:1000:0"], "map-uid=GUEST:HOST:COUNT"),
            (&["map-gid=1:2:4294967295"], "map-gid=GUEST:HOST:COUNT"),
            (&["map-uid=0:1000:10", "map-uid=9:5000:1"], "map-uid=9:5000:1 overlaps"),
            (&["squash=1:1", "map-uid=0:1:1"], "exclude each other"),
            (&["subdir=/etc"], "subdir=/etc is not a path below SRC"),
            (&["subdir=a/../../b"], "without '..'"),
            (&["subdir="], "not a path below SRC"),
            (&["bad\nline"], "'bad\\nline'"),
        ] {
            let error = parse(given).expect_err(&format!("{given:?}")).0;
            assert!(error.contains(says), "{error}");
            assert!(!error.contains('\n'), "one line: {error}");
        }
    }

    #[test]
    fn later_ones_win() {
        assert_eq!(parse(&["cache=none", "exclusive"]).unwrap().cache, Cache::Always);
        assert!(!parse(&["ro", "rw"]).unwrap().read_only);
    }
}
