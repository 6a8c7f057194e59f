//! The commands that look into a tree's records.

use super::known::Known;
use clap::{Args, ValueHint};
use humfs::Adopt;
use std::ffi::OsString;
use std::path::PathBuf;

/// Arguments of `check`.
#[derive(Args, Clone, Debug)]
#[command(after_help = CHECK_HELP)]
pub struct Check {
    /// The tree
    #[arg(value_name = "TREE", value_hint = ValueHint::DirPath)]
    pub tree: PathBuf,
    /// Repair what can be repaired safely, and tell each repair
    #[arg(long)]
    pub repair: bool,
    /// One JSON document instead of text
    #[arg(long)]
    pub json: bool,
    /// Look also while the tree is mounted: changes under way may look like problems
    #[arg(long, conflicts_with = "repair")]
    pub live: bool,
    /// Whose files without a record are: root, owner-map or refuse, as with -o adopt= [default: the tree's setting]
    #[arg(long, value_name = "POLICY", value_parser = POLICIES, hide_possible_values = true)]
    pub adopt: Option<Adopt>,
}

const CHECK_HELP: &str = "\
Without --repair nothing is changed. The exit status is 0 for a clean tree, 1 if all problems were repaired, 4 if some are left, 8 if the tree could not \
be checked. A repair takes no data away and gives nobody more than he had: what nobody owns goes to /lost+found in the guest, as 0:0 with mode 0600.

Examples:
  externfs check /srv/guest
  externfs check /srv/guest --repair
  externfs check /srv/guest --json | jq -r '.findings[] | .kind + \" \" + .path'";

/// Arguments of `explain`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  externfs explain /srv/guest /etc/shadow\n  externfs explain /srv/guest / /bin/su")]
pub struct Explain {
    /// The tree, which may be mounted
    #[arg(value_name = "TREE", value_hint = ValueHint::DirPath)]
    pub tree: PathBuf,
    /// Paths in it
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<OsString>,
    /// Whose files without a record are: root, owner-map or refuse, as with -o adopt= [default: the tree's setting]
    #[arg(long, value_name = "POLICY", value_parser = POLICIES, hide_possible_values = true)]
    pub adopt: Option<Adopt>,
}

pub(super) const POLICIES: Known<Adopt> = Known { words: || vec!["root", "owner-map", "refuse"], parse: parse_adopt };

/// Reads a policy.
///
/// # Errors
/// It is none.
fn parse_adopt(text: &str) -> Result<Adopt, String> {
    Adopt::parse(text).ok_or_else(|| "root, owner-map or refuse".into())
}
