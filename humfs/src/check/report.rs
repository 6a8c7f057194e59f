//! [`Report`]: all that a check found, for people and for programs.

use super::finding::{Finding, Outcome, shown};
use crate::account::Usage;
use crate::store::Format;
use serde::Serialize;
use serde::ser::{SerializeSeq, SerializeStruct, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// See the head of this file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The tree, as it was given.
    pub tree: PathBuf,
    /// Where its records are.
    pub format: Format,
    /// A writer was at work meanwhile.
    pub beside_writer: bool,
    /// Objects and what they cost.
    pub counted: Usage,
    /// In the order of their paths.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many were repaired.
    #[must_use]
    pub fn repaired(&self) -> usize {
        self.findings.iter().filter(|finding| finding.is_repaired()).count()
    }

    /// How many are still there.
    #[must_use]
    pub fn left(&self) -> usize {
        self.findings.len() - self.repaired()
    }

    /// As fsck(8): 0 clean, 1 all repaired, 4 something is left.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (self.left(), self.repaired()) {
            (0, 0) => 0,
            (0, _) => 1,
            _ => 4,
        }
    }

    /// How many there are of each kind.
    fn kinds(&self) -> BTreeMap<&'static str, usize> {
        let mut kinds = BTreeMap::new();
        for finding in &self.findings {
            *kinds.entry(finding.problem.name()).or_default() += 1;
        }
        kinds
    }

    /// One line.
    #[must_use]
    pub fn summary(&self) -> String {
        let tree = self.tree.display();
        let there = format!("{} objects, {} bytes", self.counted.inodes, self.counted.bytes);
        let live = if self.beside_writer { "; a writer was at work: changes under way look like problems" } else { "" };
        let can = self.findings.iter().filter(|f| f.outcome == Outcome::Left && f.mend.is_some()).count();
        match (self.left(), self.repaired()) {
            (0, 0) => format!("{tree}: clean: {there}{live}"),
            (0, repaired) => format!("{tree}: {} repaired: {there}", problems(repaired)),
            (left, 0) if can > 0 => format!("{tree}: {}, of which --repair can mend {can}: {there}{live}", problems(left)),
            (left, 0) => format!("{tree}: {}: {there}{live}", problems(left)),
            (left, repaired) => format!("{tree}: {} repaired, {left} left: {there}", problems(repaired)),
        }
    }
}

fn problems(count: usize) -> String {
    format!("{count} problem{}", if count == 1 { "" } else { "s" })
}

impl fmt::Display for Report {
    /// A line for each finding, and the summary.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        writeln!(f, "{}", self.summary())
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut report = serializer.serialize_struct("Report", 10)?;
        report.serialize_field("tree", &shown(self.tree.as_os_str().as_encoded_bytes()))?;
        report.serialize_field("format", self.format.name())?;
        report.serialize_field("beside_writer", &self.beside_writer)?;
        report.serialize_field("objects", &self.counted.inodes)?;
        report.serialize_field("bytes", &self.counted.bytes)?;
        report.serialize_field("exit", &self.exit_code())?;
        report.serialize_field("repaired", &self.repaired())?;
        report.serialize_field("left", &self.left())?;
        report.serialize_field("counts", &self.kinds())?;
        report.serialize_field("findings", &Findings(&self.findings))?;
        report.end()
    }
}

/// One after the other: there may be millions.
struct Findings<'a>(&'a [Finding]);

impl Serialize for Findings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut all = serializer.serialize_seq(Some(self.0.len()))?;
        for finding in self.0 {
            all.serialize_element(&ForPrograms::from(finding))?;
        }
        all.end()
    }
}

/// A finding as it is in the document.
#[derive(Serialize)]
struct ForPrograms {
    kind: &'static str,
    /// As it is; escaped where it is no UTF-8.
    path: String,
    /// The bytes, in hexadecimal, where it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    problem: String,
    /// What a repair would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    repair: Option<String>,
    /// `left`, `repaired` or `failed`.
    state: &'static str,
    /// What was done, or why it could not be.
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<String>,
}

impl From<&Finding> for ForPrograms {
    fn from(finding: &Finding) -> ForPrograms {
        let (state, done) = match &finding.outcome {
            Outcome::Left => ("left", None),
            Outcome::Repaired(how) => ("repaired", Some(how.to_string())),
            Outcome::Failed(why) => ("failed", Some(why.to_string())),
        };
        let text = std::str::from_utf8(&finding.path).ok();
        ForPrograms {
            kind: finding.problem.name(),
            path: text.map_or_else(|| shown(&finding.path), str::to_owned),
            path_hex: text.is_none().then(|| finding.path.iter().map(|byte| format!("{byte:02x}")).collect()),
            problem: finding.problem.to_string(),
            repair: finding.mend.map(|mend| mend.to_string()),
            state,
            done,
        }
    }
}
