//! A mixed load to be killed in the middle of: three threads, each with random
//! operations in a directory of its own, which report each before the next.
//! What they had reported must be there afterwards, as the reference model has
//! it, and of the operation that each was at, nothing or all.

use crate::beside::{self, THREADS, dir_of};
use crate::driver::{Driver, TreeView};
use crate::export_driver::ExportDriver;
use crate::guest::Guest;
use crate::model::Model;
use crate::op::Op;
use crate::random;
use crate::realm::Realm;
use crate::stamp::Clock;
use crate::victim::{self, Victim};
use externfs::{Export, NodeId};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// The first argument of a process that is the load.
pub const LOAD: &str = "load";

/// For each thread: more than it ever comes to.
const OPERATIONS: usize = 250;

/// A load on one tree.
#[derive(Clone, Copy)]
pub struct Load<'a> {
    /// How it is served.
    pub realm: Realm,
    /// Where it is made.
    pub tree: &'a Path,
    /// Which operations.
    pub seed: u64,
}

fn operations(seed: u64, thread: usize) -> Vec<Op> {
    random::list(seed.wrapping_add(thread as u64), OPERATIONS)
}

/// The load's side: `REALM TREE SEED`. Goes on until it is killed.
///
/// # Errors
/// What went wrong before it could begin.
pub fn run(words: &[String]) -> Result<(), String> {
    let [realm, tree, seed] = words else { return Err("REALM TREE SEED".into()) };
    let realm = Realm::named(realm).ok_or("no such realm")?;
    let seed = seed.parse().map_err(|_| "no such seed")?;
    let connect = realm.open(Path::new(tree), &[])?;
    let guest = Guest::new(connect.as_ref());
    let dirs = beside::furnish(&guest)?;
    let lists: Vec<Vec<Op>> = (0..THREADS).map(|thread| operations(seed, thread)).collect();
    victim::ready();
    std::thread::scope(|scope| {
        for (thread, (dir, ops)) in dirs.into_iter().zip(&lists).enumerate() {
            let mut kernel = ExportDriver::below(guest.export.clone(), dir);
            scope.spawn(move || {
                for (index, op) in ops.iter().enumerate() {
                    let _ = kernel.apply(op);
                    victim::report(thread, index);
                }
                // The tree is not closed: whoever waits for this kills it.
                std::thread::park();
            });
        }
    });
    Ok(())
}

impl Load<'_> {
    /// Starts it and kills it after `delay`. Returns how many operations each
    /// thread has reported.
    ///
    /// # Errors
    /// Why it did not come to its operations.
    pub fn kill_after(&self, delay: Duration) -> Result<Vec<usize>, String> {
        let mut command = Command::new("/proc/self/exe");
        command.args([LOAD, self.realm.name()]).arg(self.tree).arg(self.seed.to_string());
        let victim = Victim::start(&mut command)?;
        std::thread::sleep(delay);
        victim.kill(THREADS)
    }

    /// Opens the tree again and compares it with the model after as many
    /// operations as were reported, or one more.
    ///
    /// # Errors
    /// Where they part.
    pub fn check(&self, done: &[usize]) -> Result<(), String> {
        let connect = self.realm.open(self.tree, &[])?;
        let export = connect.connect().map_err(|error| error.to_string())?;
        for (thread, &count) in done.iter().enumerate() {
            let wrong = |why: String| format!("thread {thread}, which has reported {count} operations: {why}");
            let view = view(&export, &dir_of(thread)).map_err(wrong)?;
            check_thread(&operations(self.seed, thread), count, &view).map_err(wrong)?;
        }
        drop(export);
        connect.close().map_err(|error| format!("closing: {error}"))?;
        drop(connect);
        beside::check(self.realm, self.realm.look(self.tree)?, &self.tree.with_extension("untouched"))
    }
}

fn view(export: &Arc<dyn Export>, dir: &str) -> Result<TreeView, String> {
    let caller = externfs::Caller::root();
    let entry = export.lookup(&caller, NodeId::ROOT, crate::guest::name(dir)).map_err(|error| format!("looking it up: {error}"))?;
    let view = ExportDriver::below(export.clone(), entry.id).view();
    export.forget(entry.id, 1);
    view
}

fn check_thread(ops: &[Op], count: usize, view: &TreeView) -> Result<(), String> {
    let root = view.get(Path::new("")).ok_or("its directory is not in view")?;
    let rules = crate::driver::Rules { range_drops_setid: true };
    let mut model = Model::new(root, Clock::new(), rules);
    for op in &ops[..count] {
        let _ = model.apply(op);
    }
    let Err(not_old) = model.check_timeless(view) else { return Ok(()) };
    let Some(op) = ops.get(count) else { return Err(not_old) };
    let after = |op: &Op| {
        let mut model = model.clone();
        let _ = model.apply(op);
        model.check_timeless(view).map(drop)
    };
    let Err(not_new) = after(op) else { return Ok(()) };
    if model.parts(op).iter().any(|part| after(part).is_ok()) {
        return Ok(());
    }
    let before: Vec<String> = ops[..count].iter().rev().take(5).map(|op| format!("      {op:?}")).collect();
    Err(format!("\n    not old: {not_old}\n    not after {op:?}: {not_new}\n    the last before, backwards:\n{}", before.join("\n")))
}
