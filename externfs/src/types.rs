//! The vocabulary that plugins and frontends share. No protocol's numbers
//! here: a frontend converts them in and out.

mod attr;
mod ids;
mod lock;
mod policy;
mod request;

pub use attr::*;
pub use ids::*;
pub use lock::*;
pub use policy::*;
pub use request::*;
