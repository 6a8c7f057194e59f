//! Placeholder.
use crate::measure::Plan;
use std::path::Path;
pub(crate) fn run(_: &Path, _: &Plan, _: Option<&Path>) -> Result<(), String> {
    Err("not yet".into())
}
