//! The classic converter of a directory into a humfs tree.

fn main() -> std::process::ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    externfs_tools::report_as("humfsify", externfs_tools::humfsify::run(&arguments))
}
