//! The externfs command.
