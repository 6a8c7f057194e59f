//! A mixed load to be killed in the middle of: three threads, each with random
//! operations in a directory of its own, which report each before the next.
//! What they had reported must be there afterwards, as the reference model has
//! it, and of the operation that each was at, nothing or all.

use crate::deed;
use crate::driver::{Driver, TreeView};
use crate::export_driver::ExportDriver;
use crate::guest::Guest;
use crate::model::Model;
use crate::op::Op;
use crate::picture::Picture;
use crate::random;
use crate::realm::Realm;
use crate::stamp::Clock;
use externfs::{Export, NodeId};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// The first argument of a process that is the load.
pub const LOAD: &str = "load";

const THREADS: usize = 3;

/// For each thread: more than it ever comes to.
const OPERATIONS: usize = 500;

/// What is reported when the tree is there.
const READY: [u8; 8] = [0xff; 8];

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

fn dir_of(thread: usize) -> String {
    format!("thread {thread}")
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
    let dirs = furnish(&guest)?;
    let lists: Vec<Vec<Op>> = (0..THREADS).map(|thread| operations(seed, thread)).collect();
    report(READY);
    std::thread::scope(|scope| {
        for (thread, (dir, ops)) in dirs.into_iter().zip(&lists).enumerate() {
            let mut kernel = ExportDriver::below(guest.export.clone(), dir);
            scope.spawn(move || {
                for (index, op) in ops.iter().enumerate() {
                    let _ = kernel.apply(op);
                    report(((thread as u64) << 32 | index as u64).to_le_bytes());
                }
                // The tree is not closed: whoever waits for this kills it.
                std::thread::park();
            });
        }
    });
    Ok(())
}

/// What is there before.
fn furnish(guest: &Guest) -> Result<Vec<NodeId>, String> {
    let dirs = deed::bystanders(guest)
        .and_then(|()| (0..THREADS).map(|thread| guest.mkdir(NodeId::ROOT, &dir_of(thread)).map(|entry| entry.id)).collect());
    dirs.map_err(|errno| format!("furnishing: {errno}"))
}

/// One write(2), so that none is torn.
fn report(bytes: [u8; 8]) {
    rustix::io::write(rustix::stdio::stdout(), &bytes).expect("reporting");
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
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| format!("{command:?}: {error}"))?;
        let mut reports = child.stdout.take().expect("a pipe");
        let mut first = [0; 8];
        let ready = reports.read_exact(&mut first);
        std::thread::sleep(delay);
        child.kill().map_err(|error| format!("kill: {error}"))?;
        let mut rest = Vec::new();
        reports.read_to_end(&mut rest).map_err(|error| format!("reading the reports: {error}"))?;
        let end = child.wait_with_output().map_err(|error| format!("wait: {error}"))?;
        if ready.is_err() || first != READY || !end.stderr.is_empty() {
            return Err(format!("the load ended with {}: {}", end.status, String::from_utf8_lossy(&end.stderr)));
        }
        let mut done = vec![0; THREADS];
        for report in rest.chunks_exact(8) {
            let report = u64::from_le_bytes(report.try_into().expect("eight bytes"));
            done[(report >> 32) as usize] = (report & 0xffff_ffff) as usize + 1;
        }
        Ok(done)
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
        let seen = bystanders_of(self.realm.look(self.tree)?);
        seen.nodes_differ(&self.untouched()?).map_or(Ok(()), |why| Err(format!("beside the load: {why}")))
    }

    /// What is beside the load, in a tree that has seen none.
    fn untouched(&self) -> Result<Picture, String> {
        let tree: PathBuf = self.tree.with_extension("untouched");
        self.realm.make(&tree);
        let connect = self.realm.open(&tree, &[])?;
        let guest = Guest::new(connect.as_ref());
        furnish(&guest)?;
        guest.finish();
        let seen = Picture::take(connect.as_ref());
        std::fs::remove_dir_all(&tree).map_err(|error| error.to_string())?;
        seen.map(bystanders_of)
    }
}

fn bystanders_of(mut picture: Picture) -> Picture {
    picture.nodes.retain(|path, _| !path.starts_with("/thread"));
    picture
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
