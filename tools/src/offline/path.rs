//! [`TreePath`]: a path inside a tree, checked once.

use externfs::Name;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Components below the tree's root, joined by single slashes; empty for the
/// root itself. None of them can climb.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TreePath(Vec<u8>);

impl TreePath {
    /// Takes `text` from the tree's root on, with or without a slash in front.
    ///
    /// # Errors
    /// What is wrong with it, after the words "the path".
    pub fn parse(text: &[u8]) -> Result<TreePath, &'static str> {
        let mut path = TreePath::default();
        for part in text.split(|&byte| byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err("has a component '..': write it from the tree's root"),
                _ => path.push(Name::new(part).map_err(|_| "has a component that is too long or has a NUL in it")?),
            }
        }
        Ok(path)
    }

    /// For the command line. No text at all is what a variable leaves that nobody
    /// has set: as for the commands of the host, it names nothing, least of all the
    /// whole tree.
    ///
    /// # Errors
    /// A wrong question.
    pub fn from_argument(text: &OsStr) -> crate::Result<TreePath> {
        if text.is_empty() {
            return Err(crate::Failure::usage("a path is empty: the tree's root is /"));
        }
        TreePath::parse(text.as_bytes())
            .map_err(|what| crate::Failure::usage(format!("{}: the path {what}", crate::shown::text(text.as_bytes()))))
    }

    /// One component further down.
    pub fn push(&mut self, name: Name<'_>) {
        if !self.0.is_empty() {
            self.0.push(b'/');
        }
        self.0.extend(name.as_bytes());
    }

    /// This path with `name` below it.
    #[must_use]
    pub fn child(&self, name: Name<'_>) -> TreePath {
        let mut path = self.clone();
        path.push(name);
        path
    }

    /// `below` seen from here.
    #[must_use]
    pub fn join(&self, below: &TreePath) -> TreePath {
        match (self.is_root(), below.is_root()) {
            (true, _) => below.clone(),
            (_, true) => self.clone(),
            _ => TreePath([&self.0[..], b"/", &below.0].concat()),
        }
    }

    /// Whether it is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// `a/b/c`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its components, downwards.
    pub fn names(&self) -> impl Iterator<Item = Name<'_>> {
        // Each was a name when it was put in.
        self.0.split(|&byte| byte == b'/').filter_map(|part| Name::new(part).ok())
    }

    /// The directory and the last component; None for the root.
    #[must_use]
    pub fn split_last(&self) -> Option<(TreePath, Name<'_>)> {
        let name = self.names().last()?;
        let rest = self.0.len() - name.as_bytes().len();
        let parent = self.0.get(..rest.saturating_sub(1)).unwrap_or_default();
        Some((TreePath(parent.to_vec()), name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_its_components() {
        for (text, path) in [("", ""), ("/", ""), ("./", ""), ("a", "a"), ("/a//b/./c/", "a/b/c"), ("...", "...")] {
            assert_eq!(TreePath::parse(text.as_bytes()).map(|p| p.as_bytes().to_vec()), Ok(path.into()), "{text}");
        }
        for bad in ["..", "a/../b", "/..", "a\0b", &"x".repeat(2000)] {
            assert!(TreePath::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn on_the_command_line_no_text_is_no_path() {
        assert_eq!(TreePath::from_argument(OsStr::new("")).expect_err("refused").code, 2);
        for root in ["/", ".", "./", "//"] {
            assert!(TreePath::from_argument(OsStr::new(root)).expect("good").is_root(), "{root}");
        }
    }

    #[test]
    fn a_path_comes_apart_and_together() {
        let path = TreePath::parse(b"a/b/c").expect("good");
        let (parent, name) = path.split_last().expect("no root");
        assert_eq!((parent.as_bytes(), name.as_bytes()), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(parent.child(name), path);
        let top = TreePath::parse(b"x").expect("good");
        assert_eq!(top.join(&path).as_bytes(), b"x/a/b/c");
        assert_eq!(top.split_last().map(|(parent, _)| parent), Some(TreePath::default()));
        assert_eq!(TreePath::default().join(&top), top);
        assert_eq!(top.join(&TreePath::default()), top);
        assert!(TreePath::default().split_last().is_none());
    }
}
