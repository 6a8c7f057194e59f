//! [`WatchQueue`]: tells the kernel of changes that it did not make.
//!
//! Never on a thread that serves: the kernel may hold a directory's lock for a
//! request that only that thread would answer, and the notification waits for
//! the same lock. So changes are noted, and one thread of its own sends them.
//! Several notes of one node or name become one.

use externfs::{Change, NodeId, Watcher};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Most notes kept; a name more is then left to its time-out.
const NOTES_MAX: usize = 1 << 16;

/// What a session can tell its kernel.
pub(crate) trait Notify: Send + 'static {
    /// Attributes of `node`, and with `data` its pages too, are outdated.
    fn inval_inode(&self, node: u64, data: bool) -> io::Result<()>;
    /// What `name` in `parent` leads to is outdated.
    fn inval_entry(&self, parent: u64, name: &[u8]) -> io::Result<()>;
}

#[derive(Default)]
struct Notes {
    /// Node, and whether its data changed.
    nodes: HashMap<u64, bool>,
    entries: HashSet<(u64, Vec<u8>)>,
    closed: bool,
    overflowed: bool,
}

/// Changes on their way to the kernel.
#[derive(Default)]
pub(crate) struct WatchQueue {
    notes: Mutex<Notes>,
    more: Condvar,
}

impl WatchQueue {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread that sends until [`WatchQueue::close`].
    pub(crate) fn start(notify: impl Notify) -> io::Result<(Arc<WatchQueue>, JoinHandle<()>)> {
        let queue = Arc::new(WatchQueue::default());
        let theirs = Arc::clone(&queue);
        let thread = thread::Builder::new().name("fuse-notify".into()).spawn(move || theirs.send_all(&notify))?;
        Ok((queue, thread))
    }

    /// The session is over.
    pub(crate) fn close(&self) {
        self.notes().closed = true;
        self.more.notify_all();
    }

    /// The notes so far, when there are any; None at the end.
    fn take(&self) -> Option<Notes> {
        let mut notes = self.notes();
        while !notes.closed && notes.nodes.is_empty() && notes.entries.is_empty() {
            notes = self.more.wait(notes).unwrap_or_else(PoisonError::into_inner);
        }
        if notes.closed { None } else { Some(std::mem::take(&mut *notes)) }
    }

    fn send_all(&self, notify: &impl Notify) {
        while let Some(notes) = self.take() {
            for (node, data) in notes.nodes {
                note_failure(notify.inval_inode(node, data));
            }
            for (parent, name) in notes.entries {
                note_failure(notify.inval_entry(parent, &name));
            }
        }
    }
}

fn note_failure(result: io::Result<()>) {
    match result {
        Ok(()) => {}
        // The kernel has forgotten it by itself, or the mount is going.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENOTCONN | libc::ENOTDIR)) => {}
        Err(error) => tracing::debug!("the kernel did not take a notification: {error}"),
    }
}

impl Watcher for WatchQueue {
    fn changed(&self, change: Change<NodeId>) {
        let mut notes = self.notes();
        if notes.closed {
            return;
        }
        let is_full = notes.nodes.len() + notes.entries.len() >= NOTES_MAX;
        match change {
            // Bounded by the nodes that the kernel knows.
            Change::Node { node, data } => *notes.nodes.entry(node.0).or_insert(false) |= data,
            Change::Entry { parent, name } if !is_full => {
                notes.entries.insert((parent.0, name));
            }
            // The bridge names the nodes instead. That every name is to be looked up
            // again could be said at once (7.44), and would unmount what is mounted
            // below.
            Change::Everything => {}
            Change::Entry { .. } => {
                if !std::mem::replace(&mut notes.overflowed, true) {
                    tracing::warn!("the host changes names faster than the kernel can be told: some are noticed late");
                }
            }
        }
        drop(notes);
        self.more.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    struct Told(Sender<String>);

    impl Notify for Told {
        fn inval_inode(&self, node: u64, data: bool) -> io::Result<()> {
            self.0.send(format!("{node} {data}")).map_err(io::Error::other)
        }
        fn inval_entry(&self, parent: u64, name: &[u8]) -> io::Result<()> {
            self.0.send(format!("{parent}/{}", name.escape_ascii())).map_err(io::Error::other)?;
            Err(io::Error::from_raw_os_error(libc::ENOENT))
        }
    }

    #[test]
    fn changes_arrive_and_the_thread_ends() {
        let (sender, receiver) = channel();
        let (queue, thread) = WatchQueue::start(Told(sender)).unwrap();
        queue.changed(Change::Node { node: NodeId(5), data: true });
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)).unwrap(), "5 true");
        queue.changed(Change::Entry { parent: NodeId(1), name: b"a".to_vec() });
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)).unwrap(), "1/a");
        queue.close();
        thread.join().unwrap();
        queue.changed(Change::Node { node: NodeId(6), data: false });
        assert!(receiver.recv().is_err());
    }

    #[test]
    fn notes_of_one_node_become_one_and_memory_is_bounded() {
        let queue = WatchQueue::default();
        for data in [false, true, false] {
            queue.changed(Change::Node { node: NodeId(5), data });
        }
        for number in 0..NOTES_MAX + 10 {
            queue.changed(Change::Entry { parent: NodeId(1), name: number.to_string().into_bytes() });
        }
        let notes = queue.take().unwrap();
        assert_eq!(notes.nodes, HashMap::from([(5, true)]));
        assert_eq!(notes.entries.len() + notes.nodes.len(), NOTES_MAX);
        assert!(notes.overflowed);
    }
}
