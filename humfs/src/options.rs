//! [`Options`]: what `-o` can say of a humfs tree.

use externfs::{MountOption, UsageError};

/// Each option as written, and one line of help.
pub(crate) const OPTIONS: &[(&str, &str)] = &[
    ("ro", "nothing can be changed; allowed beside a writer"),
    ("adopt=root|owner-map|refuse", "files that the host made: root's (the default), their host owner's, or an error (EIO)"),
];

/// What becomes of an object in the data tree that has no record: the host
/// made it behind our back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Adopt {
    /// It is root's, with the host's permission bits, never setuid.
    #[default]
    Root,
    /// It belongs to whom it belongs on the host, by number.
    OwnerMap,
    /// It cannot be used.
    Refuse,
}

/// All of them, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Nothing is changed, and no lock is taken.
    pub read_only: bool,
    /// What becomes of files without a record.
    pub adopt: Adopt,
}

impl Options {
    /// Checks each.
    ///
    /// # Errors
    /// A line that names the option and what it may be.
    pub fn parse(list: &[MountOption]) -> Result<Options, UsageError> {
        let mut options = Options::default();
        for option in list {
            match (option.key.as_str(), option.value.as_deref()) {
                ("ro", None) => options.read_only = true,
                ("rw", None) => options.read_only = false,
                ("adopt", Some("root")) => options.adopt = Adopt::Root,
                ("adopt", Some("owner-map")) => options.adopt = Adopt::OwnerMap,
                ("adopt", Some("refuse")) => options.adopt = Adopt::Refuse,
                (key, value) => return Err(refuse(key, value)),
            }
        }
        Ok(options)
    }
}

fn refuse(key: &str, value: Option<&str>) -> UsageError {
    let given = value.map_or_else(|| key.to_owned(), |value| format!("{key}={value}"));
    let given = given.escape_debug();
    match OPTIONS.iter().find(|(usage, _)| usage.split('=').next() == Some(key)) {
        Some((usage, _)) => UsageError(format!("option '{given}' of humfs is to be written {usage}")),
        None => {
            let all: Vec<_> = OPTIONS.iter().map(|(usage, _)| *usage).collect();
            UsageError(format!("humfs has no option '{given}': there are {}", all.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(key: &str, value: Option<&str>) -> Result<Options, UsageError> {
        Options::parse(&[MountOption { key: key.into(), value: value.map(Into::into) }])
    }

    #[test]
    fn options_are_understood_or_named() {
        assert!(parse("ro", None).unwrap().read_only);
        assert_eq!(parse("adopt", Some("refuse")).unwrap().adopt, Adopt::Refuse);
        assert!(parse("adopt", Some("maybe")).unwrap_err().0.contains("adopt=root|owner-map|refuse"));
        assert!(parse("squash", Some("1:1")).unwrap_err().0.contains("no option 'squash=1:1': there are ro, adopt="));
    }
}
