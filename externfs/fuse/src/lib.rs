//! The FUSE frontend for the host.
