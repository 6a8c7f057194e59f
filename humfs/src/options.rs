//! [`Options`]: what `-o` can say of a humfs tree.

use crate::catalog::Upkeep;
use externfs::{MountOption, UsageError};
use externfs_catalog::Wanted;

/// Each option as written, and one line of help.
pub(crate) const OPTIONS: &[(&str, &str)] = &[
    ("ro", "nothing can be changed; allowed beside a writer"),
    (
        "adopt=root|owner-map|refuse",
        "files that the host made: root's, their host owner's, or an error (EIO); default: the tree's own setting, or root",
    ),
    ("catalog=on|off", "whether the tree's metadata can be queried with SQL (default: on)"),
    ("content=GLOB[:GLOB...]", "files whose text can be searched, too: '*.eml', '/home/*/Mail/*' (default: none)"),
    ("content-max=BYTES", "larger files are not read for that (default: 1048576)"),
    ("label=NAME", "what the views of queries are called by: NAME_fs and so on (default: root)"),
];

/// Files that are larger are not read for their text, unless somebody says so.
const TEXT_USUAL: u64 = 1 << 20;

/// Nor are those, whoever says so: each is read as a whole.
const TEXT_MOST: u64 = 64 << 20;

const GLOBS_MAX: usize = 20;

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

impl Adopt {
    /// The policy called `word`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Adopt> {
        [Adopt::Root, Adopt::OwnerMap, Adopt::Refuse].into_iter().find(|policy| policy.word() == word)
    }

    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Adopt::Root => "root",
            Adopt::OwnerMap => "owner-map",
            Adopt::Refuse => "refuse",
        }
    }
}

/// All of them, checked. By default no catalog is kept; a mount keeps one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Nothing is changed, and no lock is taken.
    pub read_only: bool,
    /// What becomes of files without a record; None for what the tree's settings say.
    pub adopt: Option<Adopt>,
    /// Whether SQL can be told about the tree.
    pub catalog: Upkeep,
    /// What the catalog's views are called by.
    pub label: Label,
    /// Files whose text the catalog has too.
    pub content: Option<Wanted>,
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
        let mut size_max = None;
        for option in list {
            match (option.key.as_str(), option.value.as_deref()) {
                ("ro", None) => options.read_only = true,
                ("rw", None) => options.read_only = false,
                ("adopt", Some(word)) => options.adopt = Some(Adopt::parse(word).ok_or_else(|| refuse("adopt", Some(word)))?),
                ("catalog", Some("on")) => options.catalog = Upkeep::On,
                ("catalog", Some("off")) => options.catalog = Upkeep::Off,
                ("content", Some(globs)) => {
                    let globs: Vec<String> = globs.split(':').filter(|glob| !glob.is_empty()).map(str::to_owned).collect();
                    if globs.is_empty() || globs.len() > GLOBS_MAX {
                        return Err(UsageError(format!("content wants 1 to {GLOBS_MAX} patterns, with ':' between")));
                    }
                    options.content = Some(Wanted { globs, size_max: TEXT_USUAL });
                }
                ("content-max", Some(bytes)) => {
                    let refuse =
                        || UsageError(format!("content-max is a number of bytes, up to {TEXT_MOST}, not '{}'", bytes.escape_debug()));
                    size_max = Some(bytes.parse().ok().filter(|bytes| (1..=TEXT_MOST).contains(bytes)).ok_or_else(refuse)?);
                }
                ("label", Some(label)) => options.label = Label::parse(label)?,
                (key, value) => return Err(refuse(key, value)),
            }
        }
        match (&mut options.content, size_max) {
            (Some(_), _) if options.catalog == Upkeep::Off => {
                return Err(UsageError("content wants a catalog: leave out catalog=off".into()));
            }
            (Some(content), Some(size_max)) => content.size_max = size_max,
            (None, Some(_)) => return Err(UsageError("content-max says nothing without content".into())),
            _ => {}
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
        assert_eq!(parse("adopt", Some("refuse")).unwrap().adopt, Some(Adopt::Refuse));
        assert!(parse("adopt", Some("maybe")).unwrap_err().0.contains("adopt=root|owner-map|refuse"));
        assert!(parse("squash", Some("1:1")).unwrap_err().0.contains("no option 'squash=1:1': there are ro, adopt="));
    }
}
