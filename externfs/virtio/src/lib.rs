//! The virtio-fs frontend for guests, a vhost-user backend: serves User Mode
//! Linux (`virtio_uml.device=SOCK:26:1`) and QEMU (`vhost-user-fs-pci`).
//!
//! ```no_run
//! # fn example(connect: std::sync::Arc<dyn externfs::Connect>) -> Result<(), Box<dyn std::error::Error>> {
//! use externfs_virtio::{Options, Server, Stop};
//!
//! let server = Server::bind("/run/share.sock".as_ref(), Options::new("share"), connect)?;
//! server.run(&Stop::new()?)?; // guests come and go
//! # Ok(())
//! # }
//! ```
//!
//! # Trust
//! Neither the guest nor the process that runs it is trusted. Every index,
//! length and address is checked before use; what a guest can change while we
//! look is copied first, or handed to the kernel, which checks for itself. The
//! worst that a guest can reach is the end of its own connection.
//!
//! # Threads
//! The caller of [`Server::run`] accepts guests and reads their messages. Each
//! queue that a guest sets up has a thread; a request that waits for a lock
//! gets one for itself, so that its queue goes on. All of a guest's threads
//! end with its connection. What a frontend sent and should not have is closed
//! by a thread of the server that nobody waits for.
//!
//! # Locks
//! ```text
//! Ring::state      a queue's indices and memory; held for a few memory accesses
//! Ring::call       the interrupt's descriptor; not taken with the state held
//! Laters::waiting  a count
//! Stuck            numbers of threads, while they are sent a signal
//! Guest::reason    a string
//! Undertaker       the way to its thread
//! ```
//! No lock is held while a request is served, and none nests in another.

mod backing;
mod call;
mod chain;
mod connection;
mod endpoint;
mod fence;
mod foreign;
mod handler;
mod later;
mod memory;
mod message;
mod ring;
mod server;
mod session;
mod spin;
mod statistics;
mod stop;
mod stuck;
mod vring;
mod worker;

#[cfg(test)]
mod tests;

pub use server::{Options, Poll, Server};
pub use statistics::Statistics;
pub use stop::Stop;
