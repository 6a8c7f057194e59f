//! [`Driver`]: something that an [`Op`] can be run on, and [`run`], which runs
//! a list on one and on the reference model and says where they part.

use crate::model::Model;
use crate::op::Op;
use crate::stamp::Clock;
use externfs::{Errno, FileKind, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

/// What an operation answers when it succeeds.
#[derive(Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Value {
    Done,
    Bytes(Vec<u8>),
    Names(BTreeSet<Vec<u8>>),
    /// Kind, mode, uid, gid, nlink, size; what of it does not depend on the host.
    Facts(Facts),
    Count(u64),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Done => f.write_str("done"),
            Value::Bytes(bytes) => write!(f, "{} bytes {:?}", bytes.len(), Excerpt(bytes)),
            Value::Names(names) => f.debug_set().entries(names.iter().map(|n| n.escape_ascii().to_string())).finish(),
            Value::Facts(facts) => facts.fmt(f),
            Value::Count(count) => write!(f, "{count}"),
        }
    }
}

/// The first few bytes of many, for messages.
pub struct Excerpt<'a>(pub &'a [u8]);

impl fmt::Debug for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(24)];
        write!(f, "\"{}\"{}", shown.escape_ascii(), if shown.len() < self.0.len() { "..." } else { "" })
    }
}

/// The part of stat(2) that a model can foretell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Type.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names; for a directory 2 and one more for each directory in it.
    pub nlink: u32,
    /// Bytes; 0 for a directory, whose size is the host's affair.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
}

/// Everything that can be seen of one node.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeView {
    /// stat(2).
    pub facts: Facts,
    /// The same number for two names of one object.
    pub identity: u64,
    /// A file's contents or a link's target.
    pub content: Vec<u8>,
    /// `user.*` attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Last access, change of contents, change of attributes.
    pub times: [Timestamp; 3],
}

/// A whole tree, by path relative to its root.
pub type TreeView = BTreeMap<PathBuf, NodeView>;

/// Where a tree differs from a local file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// fallocate(2) and copy_file_range(2) take setuid and setgid bits away
    /// from root's files too: the protocol does not say who asks.
    pub range_drops_setid: bool,
}

/// Something that operations can be run on.
pub trait Driver {
    /// Where it may differ from a local file system.
    fn rules(&self) -> Rules {
        Rules::default()
    }

    /// Runs one.
    fn apply(&mut self, op: &Op) -> Result<Value, Errno>;

    /// Looks at everything.
    fn view(&mut self) -> Result<TreeView, String>;
}

/// Runs `ops` on `driver` and on a model, and compares each answer and, at the
/// end and now and then between, the whole tree.
///
/// # Errors
/// Where they part, in words for whoever has to mend it.
pub fn run(ops: &[Op], driver: &mut dyn Driver) -> Result<(), String> {
    // Looking moves access times already.
    let clock = Clock::new();
    let first = driver.view()?;
    let root = first.get(&PathBuf::new()).ok_or("the driver's view lacks the root")?;
    let mut model = Model::new(root, clock, driver.rules());
    for (index, op) in ops.iter().enumerate() {
        model.clock_before();
        let got = driver.apply(op);
        model.clock_after();
        let want = model.apply(op);
        if got != want {
            return Err(format!("operation {index} {op:?}\n  answered {got:?}\n  model    {want:?}\n{}", story(ops, index)));
        }
        if index + 1 == ops.len() || index % 16 == 15 {
            let view = driver.view()?;
            model.check(&view).map_err(|why| format!("after operation {index} {op:?}: {why}\n{}", story(ops, index)))?;
        }
    }
    Ok(())
}

fn story(ops: &[Op], last: usize) -> String {
    ops.iter().take(last + 1).enumerate().map(|(i, op)| format!("    {i}: {op:?}\n")).collect()
}
