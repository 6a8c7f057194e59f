//! [`Trial`]: a deed that is cut short at each of its steps in turn. After
//! each cut the tree is opened again, and must be seen as it was before the
//! deed or as it is after it.

use crate::deed::{self, Deed};
use crate::guest::Guest;
use crate::mortal::{self, End, Fate, Side, Steps};
use crate::picture::Picture;
use crate::realm::Realm;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first argument of a process that performs a deed.
pub const PERFORM: &str = "perform-deed";

/// What such a process does between its marks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The request.
    Whole,
    /// What is left to do after the request: it closes the tree.
    Leaving,
    /// What may be seen of it alone: see [`Deed::between`].
    First,
    /// Nothing.
    None,
}

impl Part {
    const ALL: [(&str, Part); 4] = [("whole", Part::Whole), ("leaving", Part::Leaving), ("first", Part::First), ("none", Part::None)];

    fn name(self) -> &'static str {
        Part::ALL.iter().find(|(_, part)| *part == self).map_or("", |(name, _)| name)
    }
}

/// The performer's side: `REALM TREE DEED PART`. Makes the tree, and marks the
/// request for whoever watches.
///
/// # Errors
/// What went wrong before or within the deed.
pub fn perform(words: &[String]) -> Result<(), String> {
    mortal::submit();
    let [realm, tree, deed, part] = words else { return Err("REALM TREE DEED PART".into()) };
    let realm = Realm::named(realm).ok_or("no such realm")?;
    let deed = Deed::named(deed).ok_or("no such deed")?;
    let part = Part::ALL.iter().find(|(name, _)| name == part).ok_or("no such part")?.1;
    let tree = Path::new(tree);
    let connect = realm.open(tree, &[])?;
    let guest = Guest::new(connect.as_ref());
    deed::bystanders(&guest).and_then(|()| (deed.setup)(&guest)).map_err(|errno| format!("setting up: {errno}"))?;
    guest.finish();
    connect.close().map_err(|error| format!("closing: {error}"))?;
    drop(connect);
    if let Some(vanished) = deed.vanished {
        realm.remove_behind(tree, vanished);
    }
    let connect = realm.open(tree, &[])?;
    let guest = Guest::new(connect.as_ref());
    let act = (deed.aim)(&guest).map_err(|errno| format!("aiming: {errno}"))?;
    let request = || match part {
        Part::Whole | Part::Leaving => act(&guest),
        Part::First => deed.between.map_or(Ok(()), |first| first(&guest)),
        Part::None => Ok(()),
    };
    let failed = |errno| format!("the deed: {errno}");
    let close = || connect.close().map_err(|error| format!("closing: {error}"));
    if part == Part::Leaving {
        request().map_err(failed)?;
        mortal::mark();
        close()?;
        mortal::mark();
        return Ok(());
    }
    mortal::mark();
    request().map_err(failed)?;
    mortal::mark();
    close()
}

/// At which of its steps a deed is cut short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// All of them.
    All,
    /// Of the first thread, those on both sides of a call that changes
    /// something: what may lie between two of them is another call that
    /// changes nothing.
    Changing,
    /// So many of those, evenly spread from a random one on.
    Some(usize),
}

impl Which {
    /// Those of `steps` that are tried.
    pub(crate) fn choose(self, steps: Vec<usize>) -> Vec<usize> {
        let Which::Some(most) = self else { return steps };
        let stride = steps.len().div_ceil(most.max(1)).max(1);
        let start = crate::random::seed() as usize % stride;
        steps.into_iter().skip(start).step_by(stride).collect()
    }
}

/// How a trial ended.
#[derive(Debug, Default)]
pub struct Verdict {
    /// At how many steps the performer was killed.
    pub points: usize,
    /// For each step of the first thread, whether the new state was seen.
    pub is_new: Vec<bool>,
    /// The calls at which it was killed then.
    pub calls: Vec<String>,
    /// What was seen that must not be.
    pub violations: Vec<String>,
}

/// A deed to be tried.
pub struct Trial<'a> {
    /// Where.
    pub realm: Realm,
    /// Which.
    pub deed: Deed,
    /// A directory for the trees.
    pub dir: &'a Path,
}

/// The states in which a tree may be found.
pub(crate) struct States {
    old: Picture,
    between: Option<Picture>,
    new: Picture,
    /// How many the deed has, without those of the mark behind it.
    pub(crate) steps: Steps,
    /// How many the mark has.
    idle: usize,
}

impl Trial<'_> {
    /// What there is after it.
    ///
    /// # Errors
    /// Why it is not done.
    pub fn outcome(&self) -> Result<Picture, String> {
        self.state(Part::Whole).map(|(_, seen)| seen)
    }

    /// Dies at each step that `which` has.
    pub fn run(&self, which: Which) -> Verdict {
        let mut verdict = Verdict::default();
        let known = self.states().and_then(|states| Ok((self.steps(Part::Whole, states.steps.own, which)?, states)));
        let (steps, states) = match known {
            Ok(known) => known,
            Err(why) => {
                verdict.violations.push(format!("{}: uninterrupted: {why}", self.deed.name));
                return verdict;
            }
        };
        for step in steps {
            let (call, seen) = self.cut(Part::Whole, Fate::Step(step), &states, &mut verdict);
            verdict.is_new.push(seen.is_some_and(|seen| seen.difference(&states.new).is_none()));
            verdict.calls.push(call);
        }
        for step in which.choose((1..=states.steps.others).collect()) {
            self.cut(Part::Whole, Fate::Other(step), &states, &mut verdict);
        }
        if let Err(why) = self.check_answered(&states) {
            verdict.violations.push(format!("{}: killed after its answer: {why}", self.deed.name));
        }
        verdict
    }

    /// Dies at each step of leaving the tree after the deed that `which` has.
    /// The outcome must be there whatever happens then.
    pub fn leave(&self, which: Which) -> Verdict {
        let mut verdict = Verdict::default();
        let known = self.states().and_then(|states| {
            let (leaving, _) = self.state(Part::Leaving)?;
            let steps = self.steps(Part::Leaving, leaving.own.saturating_sub(states.idle), which)?;
            Ok((leaving, steps, states))
        });
        let (leaving, steps, states) = match known {
            Ok(known) => known,
            Err(why) => {
                verdict.violations.push(format!("{}: uninterrupted: {why}", self.deed.name));
                return verdict;
            }
        };
        let answered = States { old: states.new.clone(), between: None, ..states };
        for step in steps {
            self.cut(Part::Leaving, Fate::Step(step), &answered, &mut verdict);
        }
        for step in which.choose((1..=leaving.others).collect()) {
            self.cut(Part::Leaving, Fate::Other(step), &answered, &mut verdict);
        }
        verdict
    }

    /// Those of the first `count` steps at which to die.
    fn steps(&self, part: Part, count: usize, which: Which) -> Result<Vec<usize>, String> {
        if which == Which::All {
            return Ok((1..=count).collect());
        }
        let tree = self.fresh("recorded");
        let calls = mortal::calls(&mut self.performer(&tree, part))?;
        self.remove(&tree);
        Ok(which.choose(mortal::changing(&calls[..count.min(calls.len())], &[Side::Before, Side::After])))
    }

    /// Dies there. Returns the call, and what is seen then.
    fn cut(&self, part: Part, fate: Fate, states: &States, verdict: &mut Verdict) -> (String, Option<Picture>) {
        let tree = self.fresh("cut");
        let (call, seen) = match self.act(&tree, part, fate) {
            End::Killed(call) => (call, self.realm.look(&tree)),
            // Other threads are not there at every turn.
            End::Done(_) => ("the end".into(), self.realm.look(&tree)),
            End::Failed(why) => ("the end".into(), Err(why)),
        };
        verdict.points += 1;
        let admitted = seen.as_ref().map_err(String::clone).and_then(|seen| states.admit(seen));
        if let Err(why) = admitted {
            verdict.violations.push(format!("{}: {} {fate:?} of {:?}, {call}: {why}", self.deed.name, part.name(), states.steps));
        }
        self.remove(&tree);
        (call, seen.ok())
    }

    /// What was answered is there, whatever happens then.
    fn check_answered(&self, states: &States) -> Result<(), String> {
        let tree = self.fresh("answered");
        let end = self.act(&tree, Part::Whole, Fate::Done);
        let End::Done(_) = end else { return Err(format!("{end:?}")) };
        let seen = self.realm.look(&tree)?;
        self.remove(&tree);
        seen.difference(&states.new).map_or(Ok(()), Err)
    }

    /// Each state as somebody leaves it who is not cut short.
    pub(crate) fn states(&self) -> Result<States, String> {
        let (idle, old) = self.state(Part::None)?;
        let between = self.deed.between.map(|_| self.state(Part::First)).transpose()?.map(|(_, seen)| seen);
        let (steps, new) = self.state(Part::Whole)?;
        let steps = Steps { own: steps.own.saturating_sub(idle.own), ..steps };
        Ok(States { old, between, new, steps, idle: idle.own })
    }

    fn state(&self, part: Part) -> Result<(Steps, Picture), String> {
        let tree = self.fresh(part.name());
        let end = self.act(&tree, part, Fate::Never);
        let End::Done(steps) = end else { return Err(format!("{}: {end:?}", part.name())) };
        let seen = self.realm.look(&tree)?;
        self.remove(&tree);
        Ok((steps, seen))
    }

    pub(crate) fn fresh(&self, name: &str) -> PathBuf {
        let tree = self.dir.join(format!("{}-{name}", self.deed.name));
        self.realm.make(&tree);
        tree
    }

    pub(crate) fn remove(&self, tree: &Path) {
        std::fs::remove_dir_all(tree).expect("removing a tree");
    }

    fn act(&self, tree: &Path, part: Part, fate: Fate) -> End {
        mortal::live(&mut self.performer(tree, part), fate)
    }

    pub(crate) fn performer(&self, tree: &Path, part: Part) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.args([PERFORM, self.realm.name()]).arg(tree).args([self.deed.name, part.name()]);
        command
    }
}

impl States {
    pub(crate) fn admit(&self, seen: &Picture) -> Result<(), String> {
        let Some(from_old) = seen.difference(&self.old) else { return Ok(()) };
        let Some(from_new) = seen.difference(&self.new) else { return Ok(()) };
        let from_between = match self.between.as_ref().map(|between| seen.difference(between)) {
            None => String::new(),
            Some(None) => return Ok(()),
            Some(Some(why)) => format!("\n    not between: {why}"),
        };
        Err(format!("\n    not old: {from_old}\n    not new: {from_new}{from_between}"))
    }
}
