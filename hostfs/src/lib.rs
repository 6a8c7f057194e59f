//! The hostfs plugin: one host directory, jailed.
