//! Tables for people, JSON for later comparisons.

use crate::measure::{Results, median};
use std::path::Path;

/// Writes the raw values.
pub(crate) fn save(results: &Results, path: &Path) -> Result<(), String> {
    let text = serde_json::to_string_pretty(results).map_err(|e| e.to_string())?;
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn load(path: &Path) -> Result<Results, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

fn wall(results: &Results, step: &str, target: &str) -> Option<f64> {
    median(&results.cells.get(step)?.get(target)?.wall_us)
}

fn server(results: &Results, step: &str, target: &str) -> Option<f64> {
    median(&results.cells.get(step)?.get(target)?.server_us)
}

fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 0.1 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

/// One cell: speed as a fraction of the first target's, and the server's CPU
/// time an operation in microseconds.
fn cell(results: &Results, step: &str, target: &str, base: Option<f64>) -> String {
    let (Some(base), Some(wall)) = (base, wall(results, step, target)) else { return "-".to_owned() };
    let ratio = short(base / wall);
    server(results, step, target).map_or(ratio.clone(), |cpu| format!("{ratio}/{}", short(cpu)))
}

/// The best of ours against the best of the peers; the first target and the
/// control are no peers.
fn against_peers(results: &Results, step: &str) -> Option<f64> {
    let fastest = |names: &mut dyn Iterator<Item = &String>| names.filter_map(|t| wall(results, step, t)).min_by(f64::total_cmp);
    let is_ours = |name: &&String| results.ours.contains(name);
    let ours = fastest(&mut results.targets.iter().filter(is_ours))?;
    let peers = fastest(&mut results.targets.iter().skip(1).filter(|name| !is_ours(name) && *name != "control"))?;
    Some(peers / ours)
}

/// Prints the table. Rows where we fall behind the best peer are marked.
pub(crate) fn print(results: &Results) {
    for (key, value) in &results.notes {
        println!("{key}: {value}");
    }
    let first = results.targets.first().cloned().unwrap_or_default();
    println!("speed as a fraction of {first} / server CPU in us an operation; medians; ! = below 0.8 of the best peer\n");
    print!("| {:20} | {:>10} |", "step", format!("{first} us"));
    for target in results.targets.iter().skip(1) {
        print!(" {target:>15} |");
    }
    println!(" {:>12} |", "us/best peer");
    println!("|{}", "---|".repeat(results.targets.len() + 2));
    for step in &results.steps {
        let base = wall(results, step, &first);
        print!("| {step:20} | {:>10} |", base.map_or("-".to_owned(), short));
        for target in results.targets.iter().skip(1) {
            print!(" {:>15} |", cell(results, step, target, base));
        }
        let verdict = against_peers(results, step).map_or(String::new(), |r| format!("{}{}", short(r), if r < 0.8 { " !" } else { "" }));
        println!(" {verdict:>12} |");
    }
}

/// Prints what changed between two files.
pub(crate) fn compare(old: &Path, new: &Path) -> Result<(), String> {
    let (old, new) = (load(old)?, load(new)?);
    println!("| step | target | old us | new us | new/old | old CPU | new CPU |\n|---|---|---|---|---|---|---|");
    let mut slower = 0;
    for step in new.steps.iter().filter(|step| old.steps.contains(step)) {
        for target in new.targets.iter().filter(|target| old.targets.contains(target)) {
            let (Some(before), Some(after)) = (wall(&old, step, target), wall(&new, step, target)) else { continue };
            let ratio = after / before;
            let mark = if ratio > 1.2 { " !" } else { "" };
            slower += usize::from(ratio > 1.2 && new.ours.contains(target));
            let cpu = |results| server(results, step, target).map_or("-".to_owned(), short);
            let (before, after) = (short(before), short(after));
            println!("| {step} | {target} | {before} | {after} | {}{mark} | {} | {} |", short(ratio), cpu(&old), cpu(&new));
        }
    }
    println!("\n{slower} steps of ours are more than a fifth slower");
    Ok(())
}
