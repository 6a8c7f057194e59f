//! placeholder, being written
use crate::export::{Connect, Export};
use crate::fs::ExternFs;
use std::sync::Arc;
/// Switches.
#[derive(Clone, Debug, Default)]
pub struct BridgeOptions {
    /// All changes answer EROFS.
    pub read_only: bool,
}
/// The bridge.
pub struct Bridge<F: ExternFs> {
    #[allow(dead_code)]
    fs: Arc<F>,
}
impl<F: ExternFs> Bridge<F> {
    /// Over `fs`.
    pub fn new(fs: F, _options: BridgeOptions) -> crate::Result<Arc<Bridge<F>>> {
        Ok(Arc::new(Bridge { fs: Arc::new(fs) }))
    }
}
impl<F: ExternFs> Connect for Bridge<F> {
    fn connect(&self) -> crate::Result<Arc<dyn Export>> {
        Err(crate::Errno::EIO.into())
    }
}
