//! Random operation lists: generate, run, and shrink what fails.

use crate::op::{self, Op};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

/// Runs `check` on `cases` lists of up to `most` operations.
///
/// Each run has new lists; `EXTERNFS_TEST_SEED` repeats those of an old one.
///
/// # Panics
/// With the shortest failing list found, the reason, and the seed.
pub fn check_lists(cases: u32, most: usize, check: impl Fn(&[Op]) -> Result<(), String>) {
    let seed = seed();
    let config = Config { cases: crate::cases(cases), failure_persistence: None, max_shrink_iters: 4000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, rng(seed));
    let result = runner.run(&op::ops(most), |ops| check(&ops).map_err(TestCaseError::fail));
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, ops)) => panic!("EXTERNFS_TEST_SEED={seed}: {why}\nshortest list:\n{ops:#?}"),
        Err(TestError::Abort(why)) => panic!("EXTERNFS_TEST_SEED={seed}: gave up: {why}"),
    }
}

/// The list of `count` operations that belongs to `seed`.
///
/// # Panics
/// Never: every list is a good one.
#[must_use]
pub fn list(seed: u64, count: usize) -> Vec<Op> {
    let mut runner = TestRunner::new_with_rng(Config::default(), rng(seed));
    op::exactly(count).new_tree(&mut runner).expect("a list").current()
}

/// The seed of this run.
#[must_use]
pub fn seed() -> u64 {
    let given = std::env::var("EXTERNFS_TEST_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| externfs::Timestamp::now().to_nanoseconds_wrapping() as u64)
}

/// A generator that the seed decides.
#[must_use]
pub fn rng(seed: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}
