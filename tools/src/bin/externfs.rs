//! The command. In a guest that `externfs boot` made, it is also the init.

use std::process::ExitCode;

fn main() -> ExitCode {
    if externfs_tools::boot::guest::is_init() {
        externfs_tools::boot::guest::main();
    }
    let arguments: Vec<_> = std::env::args_os().collect();
    externfs_tools::report(externfs_tools::run(&arguments))
}
