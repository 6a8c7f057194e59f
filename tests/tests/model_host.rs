//! The reference model against the host's own file system: the model itself is
//! what is tested here. A difference means that the model is wrong.

use externfs_tests::{driver, host_driver::HostDriver, op};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: externfs_tests::cases(150), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_model_is_what_the_host_does(ops in op::ops(60)) {
        rustix::process::umask(rustix::fs::Mode::empty());
        let dir = tempfile::tempdir().unwrap();
        let result = driver::run(&ops, &mut HostDriver::new(dir.path()));
        prop_assert!(result.is_ok(), "{}", result.unwrap_err());
    }
}
