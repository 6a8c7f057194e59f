//! [`Interrupt`]: how a frontend stops a blocked operation.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Wake = Box<dyn Fn() + Send>;

#[derive(Default)]
struct State {
    raised: bool,
    wake: Option<Wake>,
}

/// Raised at most once, by a signal in the guest, or by its transport.
#[derive(Default)]
pub struct Interrupt {
    state: Mutex<State>,
}

impl Interrupt {
    /// Not raised.
    #[must_use]
    pub fn new() -> Interrupt {
        Interrupt::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is two plain fields: right even after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the operation should end with EINTR.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.state().raised
    }

    /// Raises it and wakes the operation.
    pub fn raise(&self) {
        let mut state = self.state();
        state.raised = true;
        if let Some(wake) = &state.wake {
            wake();
        }
    }

    /// From now until [`Interrupt::clear_wake`], `wake` is called when it is
    /// raised; at once if it was raised before. `wake` must not block and must
    /// not call the interrupt back.
    pub fn set_wake(&self, wake: impl Fn() + Send + 'static) {
        let mut state = self.state();
        if state.raised {
            wake();
        }
        state.wake = Some(Box::new(wake));
    }

    /// The operation no longer needs waking. After this returns, `wake` is
    /// neither running nor called again.
    pub fn clear_wake(&self) {
        self.state().wake = None;
    }
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupt").field("raised", &self.is_raised()).finish()
    }
}
