//! [`Relapse`]: whoever mends a cut is cut short himself. A deed is killed, the
//! mount that recovers from that is killed too, at each of its steps in turn,
//! and the mount after that must see the old state or the new one.
//!
//! Of both only those steps are tried before which something has just been
//! changed or is about to be: the others find what their neighbours find.

use crate::mortal::{self, End, Fate, Side};
use crate::realm::Realm;
use crate::trial::{Part, Trial, Verdict, Which};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first argument of a process that only mounts.
pub const MOUNT: &str = "mount-and-leave";

/// The mounter's side: `REALM TREE`.
///
/// # Errors
/// Why it does not mount.
pub fn mount(words: &[String]) -> Result<(), String> {
    mortal::submit();
    let [realm, tree] = words else { return Err("REALM TREE".into()) };
    let realm = Realm::named(realm).ok_or("no such realm")?;
    mortal::mark();
    let connect = realm.open(Path::new(tree), &[])?;
    connect.close().map_err(|error| format!("closing: {error}"))?;
    mortal::mark();
    Ok(())
}

/// A deed to be tried so.
pub struct Relapse<'a>(pub Trial<'a>);

impl Relapse<'_> {
    /// Dies twice: at each step of the deed, and of its recovery at those that
    /// `which` has.
    pub fn run(&self, which: Which) -> Verdict {
        let mut verdict = Verdict::default();
        if let Err(why) = self.try_all(which, &mut verdict) {
            verdict.violations.push(format!("{}: {why}", self.0.deed.name));
        }
        verdict
    }

    fn try_all(&self, which: Which, verdict: &mut Verdict) -> Result<(), String> {
        let states = self.0.states()?;
        let tree = self.0.fresh("recorded");
        let calls = mortal::calls(&mut self.0.performer(&tree, Part::Whole))?;
        self.0.remove(&tree);
        for first in mortal::changing(&calls[..states.steps.own.min(calls.len())], &[Side::Before]) {
            let tree = self.killed(first)?;
            let mounting = mortal::calls(&mut self.mounter(&tree))?;
            self.0.remove(&tree);
            for second in which.choose(mortal::changing(&mounting, &[Side::Before])) {
                let tree = self.killed(first)?;
                verdict.points += 1;
                let seen = match mortal::live(&mut self.mounter(&tree), Fate::Step(second)) {
                    End::Killed(_) | End::Done(_) => self.0.realm.look(&tree).and_then(|seen| states.admit(&seen)),
                    End::Failed(why) => Err(why),
                };
                if let Err(why) = seen {
                    let (one, two) = (&calls[first - 1], &mounting[second - 1]);
                    verdict.violations.push(format!("{}: {first}, {one}, and then {second}, {two}: {why}", self.0.deed.name));
                }
                self.0.remove(&tree);
            }
        }
        Ok(())
    }

    /// A tree whose deed was killed at this step.
    fn killed(&self, step: usize) -> Result<PathBuf, String> {
        let tree = self.0.fresh("relapse");
        match mortal::live(&mut self.0.performer(&tree, Part::Whole), Fate::Step(step)) {
            End::Killed(_) => Ok(tree),
            end => Err(format!("step {step}: {end:?}")),
        }
    }

    fn mounter(&self, tree: &Path) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.args([MOUNT, self.0.realm.name()]).arg(tree);
        command
    }
}
