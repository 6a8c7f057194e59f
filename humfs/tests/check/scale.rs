//! Many files. Slow in this profile; the figures that count are taken with
//! `--release -- --ignored --nocapture`, for the formats in `CHECK_FORMATS` and
//! as many files as `CHECK_FILES` says.

use crate::sample::{Sample, formats};
use std::time::Instant;

/// Puts `count` files into the tree, 100 to a directory, none with a record.
fn fill(sample: &Sample, count: usize) {
    for number in 0..count / 100 {
        let path = sample.data(&format!("d{}/e{number}", number / 100));
        std::fs::create_dir_all(&path).unwrap();
        for number in 0..100 {
            std::fs::write(path.join(format!("file-{number}")), "").unwrap();
        }
    }
}

/// Of this process, so far.
fn resident_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

#[test]
#[ignore = "minutes; for figures"]
fn two_hundred_thousand_files() {
    let count: usize = std::env::var("CHECK_FILES").ok().and_then(|text| text.parse().ok()).unwrap_or(200_000);
    let wanted = std::env::var("CHECK_FORMATS").unwrap_or_default();
    for format in formats().into_iter().filter(|format| wanted.is_empty() || wanted.split(',').any(|name| name == format.name())) {
        let sample = Sample::empty(format);
        fill(&sample, count);
        let timed = |what: &str, code: u8| {
            let (begun, cpu) = (Instant::now(), cpu_seconds());
            let report = if what == "repair" { sample.repair() } else { sample.look() };
            let (wall, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
            println!(
                "{} {what}: {} objects, {wall:.2} s, {cpu:.2} s of CPU, {} KiB at most",
                format.name(),
                report.counted.inodes,
                resident_kib()
            );
            assert_eq!(report.exit_code(), code, "{}", report.summary());
        };
        // Each file is a finding, then none is.
        timed("look", 4);
        timed("repair", 1);
        timed("look", 0);
        timed("look", 0);
    }
}
