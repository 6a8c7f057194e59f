//! externfs: a bridge that carries host data into Linux guests as a file
//! system, and the same data onto the host.
//!
//! * A plugin implements [`ExternFs`] over nodes of its own type.
//! * [`Bridge`] turns nodes into numbers, counts lookups, keeps handles, checks
//!   what a guest sends, and gives each kernel an [`Export`].
//! * A frontend (FUSE on the host, virtio-fs for guests) speaks its kernel's
//!   protocol and calls the export.
//!
//! This crate knows no protocol and no plugin.

mod bridge;
mod data;
mod error;
mod export;
mod fs;
mod interrupt;
mod memory;
mod name;
mod registry;
mod session;
mod table;
mod types;

pub mod example;
pub mod helper;

pub use bridge::{Bridge, BridgeOptions};
pub use data::{DataSink, DataSource, WritePlace};
pub use error::{Errno, Error, Result};
pub use export::{Connect, Entry, Export, Handle, HostMount, Listing, Memory, Statistics, Watcher};
pub use fs::{ChangeSink, Child, ExternFs};
pub use interrupt::Interrupt;
pub use memory::{measure_memory, nodes_max_bytes, when_much_is_forgotten};
pub use name::{NAME_LIMIT, Name};
pub use registry::{MountOption, Plugin, Registry, Source, UsageError};
pub use types::*;
