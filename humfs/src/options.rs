//! [`Options`]: what `-o` can say of a humfs tree.

use crate::catalog::Upkeep;
use externfs::{MountOption, UsageError};

/// Each option as written, and one line of help.
pub(crate) const OPTIONS: &[(&str, &str)] = &[
    ("ro", "nothing can be changed; allowed beside a writer"),
    ("adopt=root|owner-map|refuse", "files that the host made: root's (the default), their host owner's, or an error (EIO)"),
    ("catalog=on|off", "whether the tree's metadata can be queried with SQL (default: on)"),
    ("label=NAME", "what the views of queries are called by: NAME_fs and so on (default: root)"),
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

/// All of them, checked. By default no catalog is kept; a mount keeps one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Nothing is changed, and no lock is taken.
    pub read_only: bool,
    /// What becomes of files without a record.
    pub adopt: Adopt,
    /// Whether SQL can be told about the tree.
    pub catalog: Upkeep,
    /// What the catalog's views are called by.
    pub label: Label,
}

/// What the views of a catalog are called by; `root` by default.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Label(Option<Box<str>>);

impl Label {
    /// Checks it: it becomes a part of SQL statements.
    ///
    /// # Errors
    /// Not every name will do.
    pub fn parse(label: &str) -> Result<Label, UsageError> {
        if !externfs_catalog::is_label(label) {
            let shown = label.escape_debug();
            return Err(UsageError(format!("label '{shown}': up to 32 letters, digits and '_', a letter first")));
        }
        Ok(Label(Some(label.into())))
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or(externfs_catalog::LABEL)
    }
}

impl Options {
    /// Checks each.
    ///
    /// # Errors
    /// A line that names the option and what it may be.
    pub fn parse(list: &[MountOption]) -> Result<Options, UsageError> {
        let mut options = Options { catalog: Upkeep::On, ..Options::default() };
        for option in list {
            match (option.key.as_str(), option.value.as_deref()) {
                ("ro", None) => options.read_only = true,
                ("rw", None) => options.read_only = false,
                ("adopt", Some("root")) => options.adopt = Adopt::Root,
                ("adopt", Some("owner-map")) => options.adopt = Adopt::OwnerMap,
                ("adopt", Some("refuse")) => options.adopt = Adopt::Refuse,
                ("catalog", Some("on")) => options.catalog = Upkeep::On,
                ("catalog", Some("off")) => options.catalog = Upkeep::Off,
                ("label", Some(label)) => options.label = Label::parse(label)?,
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
