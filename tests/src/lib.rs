//! The test suites.
