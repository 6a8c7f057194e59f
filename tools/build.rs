//! Builds the library that User Mode Linux is started with (`src/boot/xstate.rs`):
//! a shared object of its own, which is then part of the program.

use std::path::Path;
use std::process::Command;

const SOURCE: &str = "src/boot/xstate/preload.rs";

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
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
    rustc.args(["-Copt-level=2", "-Cpanic=abort", "-Cstrip=symbols", "-Clink-arg=-nostartfiles"]);
    if let Ok(linker) = std::env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    let built = rustc.arg("-o").arg(&library).arg(SOURCE).status().expect("rustc runs");
    assert!(built.success(), "{SOURCE} does not build");
}
