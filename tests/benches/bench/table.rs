//! Tables for people: one a pass, and what changed between two runs.

use crate::fault::{Result, fault};
use crate::record::{Column, Line, Report, Role};
use std::path::Path;

/// Below this part of the best peer a row is marked.
const ENOUGH: f64 = 0.8;
/// A change of more than this is marked.
const SLOWER: f64 = 1.2;

/// Three digits or so.
fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 0.1 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

/// Prints every pass.
pub(crate) fn print(report: &Report) {
    println!("{}; kernel {}; {} CPUs; load {}", report.date, report.kernel, report.cpus, report.load.join(", "));
    println!("{}; {} rounds; {:?}", report.storage, report.rounds, report.sizes);
    for column in &report.columns {
        println!("  {:14} {}", column.name, column.how);
    }
    for pass in &report.passes {
        print_pass(report, &pass.name, &pass.scheduling, &pass.lines);
    }
}

fn print_pass(report: &Report, name: &str, scheduling: &str, lines: &[Line]) {
    let Some(first) = report.columns.first() else { return };
    let others = report.columns.get(1..).unwrap_or_default();
    println!("\n## {name}: {scheduling}");
    println!(
        "Columns: speed as a part of {} / server CPU in us (and requests, `r`, if counted). Verdict: ours / best peer (and of the best of ours); `!` is below {ENOUGH}.\n",
        first.name
    );
    print!("| row | unit | {} us |", first.name);
    others.iter().for_each(|column| print!(" {} |", column.name));
    println!(" spread | verdict |\n|---|---|---|{}---|---|", "---|".repeat(others.len()));
    let mut behind = Vec::new();
    for line in lines {
        print!("| {} | {} | {} |", line.name, line.unit, baseline(line, first));
        others.iter().for_each(|column| print!(" {} |", cell(line, first, column)));
        let ours = ours(&report.columns).and_then(|ours| line.ratio(&first.name, &ours.name));
        let best = ours_against_peers(&report.columns, line).map_or(String::new(), |best| format!(" ({})", short(best)));
        let verdict = verdict(&report.columns, line);
        let mark = if verdict.is_some_and(|v| v < ENOUGH) { " !" } else { "" };
        println!(" {} | {}{best}{mark} |", ours.map_or("-".into(), |(_, spread)| short(spread)), verdict.map_or("-".into(), short));
        if verdict.is_some_and(|v| v < ENOUGH) {
            behind.push(line.name.as_str());
        }
    }
    match behind.as_slice() {
        _ if ours(&report.columns).is_none() => {}
        [] => println!("\nNo row is below {ENOUGH} of the best peer."),
        names => println!("\nBelow {ENOUGH} of the best peer: {}.", names.join(", ")),
    }
    for (line, name, why) in
        lines.iter().flat_map(|line| line.cells.iter().filter_map(move |(name, cell)| cell.fault.as_ref().map(|why| (line, name, why))))
    {
        println!("{} on {name}: {why}", line.name);
    }
}

/// Microseconds an operation, and what they cost.
fn baseline(line: &Line, first: &Column) -> String {
    line.us(&first.name).map_or("-".into(), |us| format!("{}{}", short(us), cost(line, first)))
}

fn cell(line: &Line, first: &Column, column: &Column) -> String {
    line.ratio(&first.name, &column.name).map_or("-".into(), |(ratio, _)| format!("{}{}", short(ratio), cost(line, column)))
}

/// What the server paid.
fn cost(line: &Line, column: &Column) -> String {
    let cpu = line.server_us(&column.name).map_or(String::new(), |cpu| format!("/{}", short(cpu)));
    let requests = line.requests(&column.name).map_or(String::new(), |requests| format!(" {requests:.2}r"));
    cpu + &requests
}

fn ours(columns: &[Column]) -> Option<&Column> {
    columns.iter().find(|column| column.role == Role::Ours)
}

/// Our speed as a part of the best peer's.
fn verdict(columns: &[Column], line: &Line) -> Option<f64> {
    against_peers(columns, line, ours(columns)?)
}

fn against_peers(columns: &[Column], line: &Line, ours: &Column) -> Option<f64> {
    let against = columns.iter().filter(|column| column.role == Role::Peer).filter_map(|peer| line.ratio(&peer.name, &ours.name));
    against.map(|(ratio, _)| ratio).min_by(f64::total_cmp)
}

/// The same for the best of our columns, if there are several.
fn ours_against_peers(columns: &[Column], line: &Line) -> Option<f64> {
    let ours: Vec<_> = columns.iter().filter(|column| column.role == Role::Ours).collect();
    let best = ours.iter().filter_map(|column| against_peers(columns, line, column)).max_by(f64::total_cmp);
    best.filter(|_| ours.len() > 1)
}

/// Prints what changed between two files, row by row.
pub(crate) fn compare(old: &Path, new: &Path) -> Result<()> {
    let (old, new) = (Report::load(old)?, Report::load(new)?);
    if old.sizes != new.sizes {
        println!("Beware: the sizes differ, {:?} and {:?}.", old.sizes, new.sizes);
    }
    let common: Vec<_> = new.columns.iter().filter(|c| old.columns.iter().any(|o| o.name == c.name)).collect();
    let Some((first, others)) = common.split_first() else { return fault("the two runs have no target in common") };
    println!("{} load {} -> {} load {}", old.date, old.load.join(","), new.date, new.load.join(","));
    println!("Ratio to {} and server CPU in us, old -> new; `!` is more than {SLOWER} times slower or costlier.\n", first.name);
    for pass in &new.passes {
        let Some(before) = old.passes.iter().find(|o| o.name == pass.name) else { continue };
        println!("## {}\n\n| row | target | ratio | new/old | server us | new/old |\n|---|---|---|---|---|---|", pass.name);
        let mut worse = 0;
        for line in &pass.lines {
            let Some(old_line) = before.lines.iter().find(|o| o.name == line.name) else { continue };
            for column in others.iter().filter(|column| column.role == Role::Ours) {
                worse += usize::from(compare_cell((old_line, line), &first.name, &column.name));
            }
        }
        println!("\n{worse} marked.\n");
    }
    Ok(())
}

/// Prints one line; answers whether it is marked.
fn compare_cell((old, new): (&Line, &Line), first: &str, name: &str) -> bool {
    let (Some((before, _)), Some((after, _))) = (old.ratio(first, name), new.ratio(first, name)) else { return false };
    let slower = before / after > SLOWER;
    let cpu = old.server_us(name).zip(new.server_us(name));
    let costlier = cpu.is_some_and(|(before, after)| after > before * SLOWER && after - before > 0.5);
    let mark = |marked| if marked { " !" } else { "" };
    let cpu = cpu.map_or("- | -".into(), |(old, new)| format!("{} -> {} | {}{}", short(old), short(new), short(new / old), mark(costlier)));
    println!("| {} | {name} | {} -> {} | {}{} | {cpu} |", new.name, short(before), short(after), short(after / before), mark(slower));
    slower || costlier
}
