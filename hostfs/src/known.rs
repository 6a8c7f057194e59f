//! [`Known`]: the directories that are remembered, each as one [`Inode`].
//!
//! A layer's books go by paths: the way up from a node through its directories.
//! What was looked up before a directory was forgotten, and what is afterwards,
//! must go up through the same inode, or a rename would reach one of them only.

use crate::node::Inode;
use externfs::NodeKey;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// So many more, at least, before those that are gone are swept out.
const SWEEP: usize = 256;

#[derive(Default)]
struct Table {
    inodes: HashMap<NodeKey, Weak<Inode>>,
    /// At how many it is swept.
    sweep_at: usize,
}

/// The directories of a layer that are remembered.
#[derive(Default)]
pub struct Known {
    table: Mutex<Table>,
}

impl Known {
    /// The inode that is remembered with the key of `fresh`; else `fresh` is, from
    /// now on.
    pub(crate) fn intern(&self, fresh: Inode) -> Arc<Inode> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let key = fresh.key();
        if let Some(known) = table.inodes.get(&key).and_then(Weak::upgrade) {
            // Dropped when the lock is free: it may take a chain of others along.
            drop(table);
            drop(fresh);
            return known;
        }
        let inode = Arc::new(fresh);
        table.inodes.insert(key, Arc::downgrade(&inode));
        if table.inodes.len() > table.sweep_at {
            table.inodes.retain(|_, inode| inode.strong_count() > 0);
            table.inodes.shrink_to(0);
            table.sweep_at = 2 * table.inodes.len() + SWEEP;
        }
        inode
    }

    /// Who holds `inode` is about to let go of it. If nobody else has it, neither
    /// has the table any longer.
    pub fn let_go(&self, inode: &Arc<Inode>) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        // Others can only get it from the table.
        if Arc::strong_count(inode) == 1
            && table.inodes.get(&inode.key()).is_some_and(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(inode)))
        {
            table.inodes.remove(&inode.key());
            if table.inodes.capacity() > 1024 && table.inodes.len() < table.inodes.capacity() / 8 {
                let room = table.inodes.len() * 2;
                table.inodes.shrink_to(room);
                table.sweep_at = room + SWEEP;
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.table.lock().unwrap().inodes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use externfs::FileKind;

    fn inode(number: u64) -> Inode {
        Inode::new(NodeKey { volume: 1, number, generation: 0 }, FileKind::Directory, None, c"n")
    }

    #[test]
    fn one_for_each_key_while_somebody_has_it() {
        let known = Known::default();
        let first = known.intern(inode(1));
        assert!(Arc::ptr_eq(&first, &known.intern(inode(1))));
        assert!(!Arc::ptr_eq(&first, &known.intern(inode(2))));
        let gone = Arc::as_ptr(&first);
        drop(first);
        let again = known.intern(inode(1));
        assert!(again.key().number == 1 && (Arc::as_ptr(&again) != gone || Arc::strong_count(&again) == 1));
    }

    #[test]
    fn what_is_let_go_of_is_gone_at_once_unless_others_have_it() {
        let known = Known::default();
        let held: Vec<_> = (0..10_000).map(|number| known.intern(inode(number))).collect();
        let other = held[7].clone();
        for inode in held {
            known.let_go(&inode);
        }
        assert!(known.len() == 1 && Arc::ptr_eq(&known.intern(inode(7)), &other));
        assert!(known.table.lock().unwrap().inodes.capacity() < 1024);
    }

    #[test]
    fn what_is_gone_is_swept_out() {
        let known = Known::default();
        for number in 0..10_000 {
            known.intern(inode(number));
        }
        assert!(known.len() <= SWEEP + 1, "{}", known.len());
        let held: Vec<_> = (0..1000).map(|number| known.intern(inode(number))).collect();
        assert!(held.iter().enumerate().all(|(number, held)| Arc::ptr_eq(held, &known.intern(inode(number as u64)))));
    }
}
