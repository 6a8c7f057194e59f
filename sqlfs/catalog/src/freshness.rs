//! [`Freshness`]: what is to be thought of a catalog just before a query.

use crate::barrier::{self, Standing};
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// Where a tree keeps its catalog.
pub const DIRECTORY: &str = "humfs/catalog";

/// The database, in there.
pub const DATABASE: &str = "catalog.db";

/// There while nobody writes the tree and the database agrees with it.
const MARKER: &str = "current";

/// How a catalog and its tree agree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// They do: whoever serves the tree has just said so.
    Current,
    /// They do, but for what so many files say, which are still to be read.
    Reading(u64),
    /// They do: nobody serves the tree, and whoever did has left it in order.
    AtRest,
    /// They may not, for this reason. What is there is complete all the same.
    Behind(String),
    /// They may not: nobody serves the tree, and whoever changed it last has not
    /// told the catalog. What is there is complete.
    Abandoned,
    /// It is being made: names so far, and about how many there are (0: unknown).
    Building(u64, u64),
    /// There is none that is complete, and nobody makes it.
    Missing,
}

impl Freshness {
    /// Brings the catalog in `dir` up to date, if somebody serves its tree, who may
    /// take as long as `patience`.
    #[must_use]
    pub fn seek(dir: &Path, patience: Duration) -> Freshness {
        let is_complete = || crate::facts(&dir.join(DATABASE)).is_ok_and(|facts| facts.is_some_and(|facts| facts.is_complete));
        let or_missing = |found| if is_complete() { found } else { Freshness::Missing };
        match barrier::flush(dir, patience) {
            Ok(Some(Standing::Current)) => Freshness::Current,
            Ok(Some(Standing::Reading(files))) => Freshness::Reading(files),
            Ok(Some(Standing::Building(seen, expected))) => Freshness::Building(seen, expected),
            Ok(Some(Standing::Failed(why))) => or_missing(Freshness::Behind(why)),
            Err(error) => or_missing(Freshness::Behind(format!("whoever serves the tree does not answer: {error}"))),
            Ok(None) if dir.join(MARKER).symlink_metadata().is_ok_and(|there| there.is_file()) => Freshness::AtRest,
            Ok(None) => or_missing(Freshness::Abandoned),
        }
    }

    /// The one of two catalogs' that says less of what is in both.
    #[must_use]
    pub fn or_worse(self, other: Freshness) -> Freshness {
        if other.doubt() > self.doubt() { other } else { self }
    }

    fn doubt(&self) -> u8 {
        match self {
            Freshness::AtRest => 0,
            Freshness::Current => 1,
            Freshness::Reading(_) => 2,
            Freshness::Abandoned => 3,
            Freshness::Behind(_) => 4,
            Freshness::Building(..) => 5,
            Freshness::Missing => 6,
        }
    }

    /// For a process on the other side of a socket.
    #[must_use]
    pub fn to_line(&self) -> String {
        match self {
            Freshness::Current => "current".into(),
            Freshness::Reading(files) => format!("reading {files}"),
            Freshness::AtRest => "rest".into(),
            Freshness::Behind(why) => format!("behind {why}"),
            Freshness::Abandoned => "abandoned".into(),
            Freshness::Building(seen, expected) => format!("building {seen} {expected}"),
            Freshness::Missing => "missing".into(),
        }
    }

    /// What [`Freshness::to_line`] made.
    #[must_use]
    pub fn parse(line: &str) -> Option<Freshness> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        Some(match word {
            "current" => Freshness::Current,
            "reading" => Freshness::Reading(rest.parse().ok()?),
            "rest" => Freshness::AtRest,
            "behind" => Freshness::Behind(rest.into()),
            "abandoned" => Freshness::Abandoned,
            "building" => {
                let (seen, expected) = rest.split_once(' ')?;
                Freshness::Building(seen.parse().ok()?, expected.parse().ok()?)
            }
            "missing" => Freshness::Missing,
            _ => return None,
        })
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Freshness::Current => f.write_str("up to date"),
            Freshness::Reading(files) => write!(f, "up to date, but what {files} files say is still to be read"),
            Freshness::AtRest => f.write_str("up to date: nobody serves the tree"),
            Freshness::Behind(why) => write!(f, "may be behind: {why}"),
            Freshness::Abandoned => f.write_str("may be behind: whoever changed the tree last has not told the catalog: mount it once"),
            Freshness::Building(seen, 0) => write!(f, "the catalog is being made: {seen} names so far"),
            Freshness::Building(seen, expected) => write!(f, "the catalog is being made: {seen} of about {expected} names"),
            Freshness::Missing => f.write_str("the catalog is not complete: mount the tree, and wait until it is"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalog;

    const PATIENCE: Duration = Duration::from_millis(200);

    #[test]
    fn a_tree_at_rest_is_told_from_one_left_in_disorder() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Freshness::seek(dir.path(), PATIENCE), Freshness::Missing);
        let mut catalog = Catalog::create(&dir.path().join(DATABASE), "root", 1).unwrap();
        assert_eq!(Freshness::seek(dir.path(), PATIENCE), Freshness::Missing);
        catalog.complete().unwrap();
        assert_eq!(Freshness::seek(dir.path(), PATIENCE), Freshness::Abandoned);
        std::fs::write(dir.path().join(MARKER), "").unwrap();
        assert_eq!(Freshness::seek(dir.path(), PATIENCE), Freshness::AtRest);
    }

    #[test]
    fn a_server_is_asked_and_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        Catalog::create(&dir.path().join(DATABASE), "root", 1).unwrap().complete().unwrap();
        let listener = barrier::listen(dir.path()).unwrap();
        for standing in [Standing::Current, Standing::Reading(3), Standing::Building(17, 40), Standing::Failed("the disk is full".into())] {
            let (told, expected) = (
                standing.clone(),
                match standing {
                    Standing::Current => Freshness::Current,
                    Standing::Reading(files) => Freshness::Reading(files),
                    Standing::Building(seen, expected) => Freshness::Building(seen, expected),
                    Standing::Failed(why) => Freshness::Behind(why),
                },
            );
            std::thread::scope(|scope| {
                scope.spawn(|| barrier::answer(&listener.accept().unwrap().0, || told));
                assert_eq!(Freshness::seek(dir.path(), PATIENCE * 10), expected);
            });
        }
        let begun = std::time::Instant::now();
        assert!(matches!(Freshness::seek(dir.path(), PATIENCE), Freshness::Behind(why) if why.contains("does not answer")));
        assert!(begun.elapsed() < PATIENCE * 10);
    }

    #[test]
    fn of_two_the_worse_counts() {
        let worse = |one: Freshness, other: Freshness| one.or_worse(other);
        assert_eq!(worse(Freshness::AtRest, Freshness::Current), Freshness::Current);
        assert_eq!(worse(Freshness::Missing, Freshness::Building(1, 2)), Freshness::Missing);
        assert_eq!(worse(Freshness::Reading(3), Freshness::Reading(5)), Freshness::Reading(3));
        assert_eq!(worse(Freshness::Current, Freshness::Behind("why".into())), Freshness::Behind("why".into()));
    }

    #[test]
    fn lines_come_back() {
        for freshness in [
            Freshness::Current,
            Freshness::Reading(7),
            Freshness::AtRest,
            Freshness::Abandoned,
            Freshness::Behind("a  reason\nof two lines".into()),
            Freshness::Building(0, u64::MAX),
            Freshness::Missing,
        ] {
            assert_eq!(Freshness::parse(&freshness.to_line()), Some(freshness));
        }
        for bad in ["", "building", "building 1", "building x 1", "frob"] {
            assert_eq!(Freshness::parse(bad), None, "{bad}");
        }
    }
}
