//! Behaviour that is hostfs's own. What every plugin shares is tested by the
//! conformance suite.

mod kinds;
mod limits;
mod options;
mod places;
mod races;
mod still;
mod unopened;
