//! Builds the library that User Mode Linux is started with (`src/boot/xstate.rs`):
//! a shared object of its own, which is then part of the program.

use std::path::Path;
use std::process::Command;

const SOURCE: &str = "src/boot/xstate/preload.rs";

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

/// Of the flags that everything is built with, those about the linker: others,
/// as for coverage, are for programs with `std`.
fn linking(flags: &str) -> Vec<String> {
    let joined = flags.replace("-C\u{1f}", "-C");
    let flags = joined.split('\u{1f}');
    flags.filter(|flag| flag.starts_with("-Clinker") || flag.starts_with("-Clink-arg")).map(str::to_owned).collect()
}

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    let library = Path::new(&variable("OUT_DIR")).join("xstate.so");
    if variable("CARGO_CFG_TARGET_ARCH") != "x86_64" {
        std::fs::write(&library, []).expect("OUT_DIR can be written");
        return;
    }
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--crate-name=xstate", "--crate-type=cdylib", "--edition=2024", "--target"]).arg(variable("TARGET"));
    // A program that is linked statically carries it too, and starts kernels that are not.
    rustc.args(["-Copt-level=2", "-Cpanic=abort", "-Cstrip=symbols", "-Ctarget-feature=-crt-static", "-Clink-arg=-nostartfiles"]);
    if let Ok(linker) = std::env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    rustc.args(linking(&std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default()));
    let built = rustc.arg("-o").arg(&library).arg(SOURCE).status().expect("rustc runs");
    assert!(built.success(), "{SOURCE} does not build");
}
