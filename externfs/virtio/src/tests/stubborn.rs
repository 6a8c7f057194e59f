//! A frontend that sends descriptors of a file system that it serves itself,
//! in the words of a script: it takes a process that can be killed.

use super::hostile::assert_still_serves;
use super::*;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Killed when dropped, upon which the kernel lets go whoever waits for it.
struct Stubborn(Child);

impl Drop for Stubborn {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn files_that_never_answer() {
    let directory = tempfile::tempdir().unwrap();
    let host = Host::new();
    let mut command = Command::new("python3");
    command.args(["-c", include_str!("stubborn.py")]).arg(&host.path).arg(directory.path()).stdout(Stdio::piped());
    // Ends before the host, whose threads it may hold.
    let mut stubborn = match command.spawn() {
        Ok(child) => Stubborn(child),
        Err(error) => return eprintln!("SKIPPED: no python3 to play a frontend: {error}"),
    };
    let mut said = String::new();
    BufReader::new(stubborn.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
    if said.starts_with("SKIPPED") {
        return eprint!("{said}");
    }
    // Refused, but for the last message: nobody asked for its descriptor.
    assert_eq!(said, "1 1 1 1 0\n");
    // The file answers as little as before.
    let start = Instant::now();
    assert_still_serves(&host);
    assert!(start.elapsed() < Duration::from_secs(5), "the server was held");
}
