//! The conformance suite on humfs, in each of its metadata formats; where root
//! runs it, by an ordinary user's server too.

use externfs_tests::conformance::{CHECKS, Capabilities, Subject, run_check};
use externfs_tests::fixture;
use externfs_tests::harness::{self, Case};
use externfs_tests::realm::Realm;
use humfs::store::Format;

fn main() -> std::process::ExitCode {
    let makers: [fn() -> Subject; 4] = [shadow_fs, shadow_link, sqlite, xattr];
    let checks = |(format, make): (Format, fn() -> Subject)| {
        CHECKS.iter().map(move |&(name, _)| Case::new(format!("{}_{name}", format.name()), move || run_check(name, make)))
    };
    let as_user = Case::new("an_ordinary_user_can_do_it_all", || fixture::run_as_user(&["--skip", "an_ordinary_user"])).limit(600);
    harness::main(Format::ALL.into_iter().zip(makers).flat_map(checks).chain([as_user]))
}

fn shadow_fs() -> Subject {
    subject(Format::ShadowFs)
}

fn shadow_link() -> Subject {
    subject(Format::ShadowLink)
}

fn sqlite() -> Subject {
    subject(Format::Sqlite)
}

fn xattr() -> Subject {
    subject(Format::Xattr)
}

fn subject(format: Format) -> Subject {
    let (realm, dir) = (Realm::HumFs(format), fixture::temp_dir());
    let tree = dir.path().join("tree");
    // More than any check allocates.
    realm.make_of(&tree, 1 << 30);
    let open = |options: &[&str]| realm.open(&tree, options).unwrap_or_else(|why| panic!("{why}"));
    let can = Capabilities { owners: true, devices: true, xattrs: true, rename_flags: true, holes: true };
    Subject { connect: open(&[]), read_only: open(&["ro"]), can, keep: Box::new(dir) }
}
