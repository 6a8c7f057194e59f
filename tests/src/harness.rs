//! A test runner for suites that mount, boot and kill: one case after the
//! other, each with a time limit, a way to skip aloud, and a look afterwards
//! whether it left descriptors, mounts or child processes behind.
//!
//! Its output and arguments are close enough to those of the standard one.

use std::collections::BTreeSet;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The payload of a skip.
struct Skip(String);

/// Ends the running case as skipped, aloud.
pub fn skip(reason: impl Into<String>) -> ! {
    panic::panic_any(Skip(reason.into()))
}

/// One test.
pub struct Case {
    name: String,
    limit: Duration,
    run: Box<dyn FnOnce() + Send>,
}

impl Case {
    /// With a limit of two minutes.
    pub fn new(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> Case {
        Case { name: name.into(), limit: Duration::from_secs(120), run: Box::new(run) }
    }

    /// With another limit, in seconds.
    #[must_use]
    pub fn limit(self, seconds: u64) -> Case {
        Case { limit: Duration::from_secs(seconds), ..self }
    }
}

/// Names functions as cases: `cases![one, two]`.
#[macro_export]
macro_rules! cases {
    ($($test:ident),* $(,)?) => { vec![$($crate::harness::Case::new(stringify!($test), $test)),*] };
}

enum End {
    Passed,
    Failed(String),
    Skipped(String),
}

#[derive(Default)]
struct Arguments {
    filters: Vec<String>,
    skips: Vec<String>,
    exact: bool,
    list: bool,
}

fn arguments() -> Arguments {
    let mut known = Arguments::default();
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--exact" => known.exact = true,
            "--list" => known.list = true,
            "--skip" => known.skips.extend(rest.next()),
            // These take a value; one case at a time with output shown is all we do.
            "--test-threads" | "--color" | "--format" | "-Z" => drop(rest.next()),
            other if other.starts_with('-') => {}
            filter => known.filters.push(filter.to_owned()),
        }
    }
    known
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        let fits = |pattern: &String| if self.exact { name == pattern } else { name.contains(pattern.as_str()) };
        (self.filters.is_empty() || self.filters.iter().any(fits)) && !self.skips.iter().any(fits)
    }
}

/// Runs the cases that the command line asks for.
pub fn main(cases: impl IntoIterator<Item = Case>) -> ExitCode {
    let wanted = arguments();
    let cases: Vec<Case> = cases.into_iter().filter(|case| wanted.wants(&case.name)).collect();
    if wanted.list {
        for case in &cases {
            println!("{}: test", case.name);
        }
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", cases.len());
    quiet_skips();
    let started = Instant::now();
    let (mut passed, mut failed, mut skipped) = (0, Vec::new(), 0);
    for case in cases {
        let name = case.name.clone();
        println!("test {name} ...");
        let begun = Instant::now();
        let end = run(case);
        let seconds = begun.elapsed().as_secs_f32();
        match end {
            End::Passed => {
                passed += 1;
                println!("test {name} ... ok ({seconds:.2} s)");
            }
            End::Failed(why) => {
                println!("test {name} ... FAILED ({seconds:.2} s): {why}");
                failed.push(name);
            }
            End::Skipped(why) => {
                skipped += 1;
                println!("test {name} ... SKIPPED: {why}");
            }
        }
    }
    if !failed.is_empty() {
        println!("\nfailures:\n    {}", failed.join("\n    "));
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; {skipped} ignored; 0 measured; 0 filtered out; finished in {:.2}s\n",
        failed.len(),
        started.elapsed().as_secs_f32()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A skip is no panic to the reader.
fn quiet_skips() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Skip>() {
            usual(info);
        }
    }));
}

fn run(case: Case) -> End {
    let before = Traces::now();
    let (send, receive) = mpsc::channel();
    let body = case.run;
    let thread = std::thread::Builder::new().name(case.name.clone()).spawn(move || {
        let result = panic::catch_unwind(AssertUnwindSafe(body));
        let _ = send.send(());
        result
    });
    let thread = match thread {
        Ok(thread) => thread,
        Err(error) => return End::Failed(format!("no thread: {error}")),
    };
    if receive.recv_timeout(case.limit) == Err(mpsc::RecvTimeoutError::Timeout) {
        // Whatever hangs cannot be stopped from here, and would spoil the rest.
        println!("test {} ... FAILED: still running after {} s; giving up", case.name, case.limit.as_secs());
        println!("\ntest result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s\n");
        std::process::exit(101);
    }
    match thread.join().unwrap_or_else(Err) {
        Ok(()) => before.check(),
        Err(payload) => match payload.downcast::<Skip>() {
            Ok(skip) => End::Skipped(skip.0),
            Err(payload) => End::Failed(panic_text(payload.as_ref())),
        },
    }
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("panicked").to_owned()
}

/// What a case could leave behind.
struct Traces {
    descriptors: BTreeSet<String>,
    mounts: BTreeSet<String>,
}

impl Traces {
    fn now() -> Traces {
        // Others on this machine mount things too: only what lies in a directory of a fixture is ours.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let prefix = crate::fixture::prefix();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let mounts = points.filter(|point| point.contains(&prefix)).map(str::to_owned).collect();
        let listing = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
        let descriptors = listing
            .filter_map(|entry| {
                let target = std::fs::read_link(entry.path()).ok()?;
                Some(format!("{} -> {}", entry.file_name().to_string_lossy(), target.display()))
            })
            // The descriptor of this very listing.
            .filter(|text| !text.contains("/fd"))
            .collect();
        Traces { descriptors, mounts }
    }

    /// Given a moment: threads of the case may be on their way out.
    fn check(&self) -> End {
        let patience = Instant::now() + Duration::from_secs(5);
        loop {
            let now = Traces::now();
            let descriptors: Vec<_> = now.descriptors.difference(&self.descriptors).cloned().collect();
            let mounts: Vec<_> = now.mounts.difference(&self.mounts).cloned().collect();
            if descriptors.is_empty() && mounts.is_empty() {
                return End::Passed;
            }
            if Instant::now() > patience {
                return End::Failed(format!("left behind: descriptors {descriptors:?}, mounts {mounts:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
