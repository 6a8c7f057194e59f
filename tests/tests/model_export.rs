//! The reference model against hostfs through its export: with either
//! resolver, each case ending with the leak check, and the host's own view
//! agreeing with the guest's.

use externfs::{MountOption, Plugin, Source};
use externfs_tests::driver::{self, Driver};
use externfs_tests::export_driver::{ExportDriver, check_idle};
use externfs_tests::op::Op;
use externfs_tests::{fixture, harness, host_driver, random};

fn main() -> std::process::ExitCode {
    harness::main(externfs_tests::cases![the_export_follows_the_model, the_export_follows_the_model_without_openat2])
}

fn the_export_follows_the_model() {
    check("openat2", 250);
}

fn the_export_follows_the_model_without_openat2() {
    check("manual", 120);
}

fn check(resolver: &str, cases: u32) {
    fixture::need_root();
    random::check_lists(cases, 60, |ops| run(resolver, ops));
}

fn run(resolver: &str, ops: &[Op]) -> Result<(), String> {
    let dir = fixture::temp_dir();
    let resolver = MountOption { key: "resolver".into(), value: Some(resolver.into()) };
    let source = Source { path: dir.path().to_path_buf(), options: vec![resolver] };
    let connect = hostfs::HostFsPlugin.open(&source).map_err(|e| e.to_string())?;
    let export = connect.connect().map_err(|e| e.to_string())?;
    let mut kernel = ExportDriver::new(export.clone());
    driver::run(ops, &mut kernel)?;
    let (mut guest, mut host) = (kernel.view()?, host_driver::tree_view(dir.path())?);
    for view in guest.values_mut().chain(host.values_mut()) {
        // Looking moves access times; the root's number is the bridge's.
        view.times[0] = externfs::Timestamp::default();
        view.identity = 0;
    }
    if guest != host {
        let path = host.keys().chain(guest.keys()).find(|path| guest.get(*path) != host.get(*path));
        return Err(format!("guest and host see different things at {path:?}"));
    }
    drop(kernel);
    check_idle(export.as_ref())
}
