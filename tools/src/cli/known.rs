//! [`Known`]: words of which there is a list, for help, man pages and completions.

use clap::builder::{PossibleValue, TypedValueParser};
use std::ffi::OsStr;

/// Parses by a function of ours, which tells in one line what there is.
#[derive(Clone, Copy)]
pub(super) struct Known<T> {
    /// What there is.
    pub(super) words: fn() -> Vec<&'static str>,
    /// Takes those, and may take others.
    pub(super) parse: fn(&str) -> Result<T, String>,
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Known<T> {
    type Value = T;

    fn parse_ref(&self, command: &clap::Command, argument: Option<&clap::Arg>, value: &OsStr) -> Result<T, clap::Error> {
        self.parse.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.words)().into_iter().map(PossibleValue::new)))
    }
}

/// The plugins. That there is no such one is told where it is looked for.
pub(super) const PLUGINS: Known<String> =
    Known { words: || crate::plugins::registry().iter().map(|plugin| plugin.name()).collect(), parse: |text| Ok(text.to_owned()) };
