//! The `shadow_fs` and `shadow_link` formats.

/// See the [module](self).
#[derive(Debug)]
pub struct ShadowStore;
