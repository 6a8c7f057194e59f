//! The test suites: what they share.
//!
//! * [`op`], [`model`], [`driver`]: random operations, the reference model that
//!   says what they do, and the comparison.
//! * [`host_driver`], [`export_driver`]: running them with system calls and
//!   through an [`externfs::Export`].
//! * [`mod@conformance`]: the suite that each plugin binds to.
//! * [`fixture`]: directories, mounts and servers that clean up after themselves;
//!   [`ground`], [`ordinary`], [`humtree`]: an ext4, a user and a tree for them.
//! * [`external`]: suites that others wrote.
//! * [`escape`]: what a guest tries to get out.
//! * [`machine`]: User Mode Linux and QEMU guests.
//! * [`deed`], [`trial`], [`relapse`]: single changes cut short at each of their
//!   steps, by [`mortal`], and what [`picture`] shows of the tree afterwards.
//! * [`load`], [`power`]: mixed loads that are killed, and whose power is cut.
//! * [`realm`]: which plugin serves which kind of tree.
//! * [`harness`]: a runner with time limits, skips and leak checks.

pub mod beside;
pub mod conformance;
pub mod deed;
pub mod driver;
pub mod escape;
pub mod export_driver;
pub mod external;
pub mod fixture;
pub mod ground;
pub mod guest;
pub mod harness;
pub mod host_driver;
pub mod humtree;
pub mod load;
pub mod machine;
pub mod model;
pub mod mortal;
pub mod op;
pub mod ordinary;
pub mod picture;
pub mod power;
pub mod random;
pub mod realm;
pub mod relapse;
pub mod requests;
pub mod shutdown;
pub mod stamp;
pub mod trial;
pub mod victim;
pub mod wire_client;

/// How many random cases to run: `EXTERNFS_TEST_CASES` times `usual`, so that a
/// night's run takes no other code than a minute's.
#[must_use]
pub fn cases(usual: u32) -> u32 {
    let factor = std::env::var("EXTERNFS_TEST_CASES").ok().and_then(|text| text.parse::<u32>().ok());
    usual.saturating_mul(factor.unwrap_or(1))
}
