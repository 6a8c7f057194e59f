//! `check` against damage that is made by hand on the host's files: each is
//! found, by its name and at its place; looking changes nothing; a repair
//! leaves a clean tree in which nobody has more than he had.
#![allow(clippy::unwrap_used)] // A test that cannot set its stage ends.

mod damages;
mod explained;
mod hostile;
mod sample;
mod scale;
mod table;
