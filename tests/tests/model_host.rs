//! The reference model against the host's own file system: the model itself is
//! what is tested here. A difference means that the model is wrong.

use externfs_tests::host_driver::HostDriver;
use externfs_tests::{driver, fixture, harness, random};

fn main() -> std::process::ExitCode {
    harness::main(externfs_tests::cases![the_model_is_what_the_host_does])
}

fn the_model_is_what_the_host_does() {
    fixture::need_root();
    rustix::process::umask(rustix::fs::Mode::empty());
    random::check_lists(150, 60, |ops| {
        let dir = fixture::temp_dir();
        driver::run(ops, &mut HostDriver::new(dir.path()))
    });
}
