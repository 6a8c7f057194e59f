//! What lies beside a load of several threads and must not change: the
//! bystanders of every deed. Each thread has a directory of its own.

use crate::deed;
use crate::guest::Guest;
use crate::picture::Picture;
use crate::realm::Realm;
use externfs::{Errno, NodeId};
use std::path::Path;

/// Threads of a load.
pub const THREADS: usize = 3;

/// The name of a thread's directory.
#[must_use]
pub fn dir_of(thread: usize) -> String {
    format!("thread {thread}")
}

/// Makes the bystanders and the threads' directories.
///
/// # Errors
/// What the plugin refuses.
pub fn furnish(guest: &Guest) -> Result<Vec<NodeId>, String> {
    let dirs: Result<Vec<NodeId>, Errno> = deed::bystanders(guest)
        .and_then(|()| (0..THREADS).map(|thread| guest.mkdir(NodeId::ROOT, &dir_of(thread)).map(|entry| entry.id)).collect());
    dirs.map_err(|errno| format!("furnishing: {errno}"))
}

/// Compares what is beside the load with a tree that has seen none, made at
/// `scratch`.
///
/// # Errors
/// The first difference.
pub fn check(realm: Realm, seen: Picture, scratch: &Path) -> Result<(), String> {
    realm.make(scratch);
    let connect = realm.open(scratch, &[])?;
    let guest = Guest::new(connect.as_ref());
    furnish(&guest)?;
    guest.finish();
    let untouched = Picture::take(connect.as_ref())?;
    drop(connect);
    std::fs::remove_dir_all(scratch).map_err(|error| error.to_string())?;
    match without_threads(seen).nodes_differ(&without_threads(untouched)) {
        None => Ok(()),
        Some(why) => Err(format!("beside the load: {why}")),
    }
}

fn without_threads(mut picture: Picture) -> Picture {
    picture.nodes.retain(|path, _| !path.starts_with("/thread "));
    picture
}
