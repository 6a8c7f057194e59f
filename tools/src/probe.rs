//! `externfs sandbox-probe`: enters a server's sandbox and tries what an
//! intruder would. For tests, and for who wants to see it.

use crate::cli::SandboxProbe;
use crate::failure::{Result, phrase};
use crate::sandbox::{self, Grounds, Needs};
use std::io::Result as Io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Prints a line for each attempt: what it was, and `allowed` or why not.
///
/// # Errors
/// The sandbox itself cannot be had.
pub fn run(asked: &SandboxProbe) -> Result<()> {
    let grounds = Grounds::open(&asked.source, None);
    let needs = Needs { tree: Some(&grounds), read_only: asked.read_only, ..Needs::default() };
    sandbox::enter(asked.sandbox, &needs)?;
    let inside = asked.source.join(".externfs-probe");
    let attempts: [(&str, Io<()>); 5] = [
        ("read", std::fs::read(&asked.path).map(drop)),
        ("create", std::fs::write(&inside, b"").and_then(|()| std::fs::remove_file(&inside))),
        ("connect", UnixStream::connect("/dev/log").map(drop)),
        ("listen", TcpListener::bind("127.0.0.1:0").map(drop)),
        ("thread", std::thread::Builder::new().spawn(|| {}).map(drop)),
    ];
    for (name, outcome) in attempts {
        match outcome {
            Ok(()) => println!("{name}: allowed"),
            Err(error) => println!("{name}: {}", phrase(&error)),
        }
    }
    // The last word is the other program's, if it is let.
    let error = Command::new("/bin/echo").arg("execute: allowed").exec();
    println!("execute: {}", phrase(&error));
    Ok(())
}
