//! [`Statistics`]: what a server did, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! statistics {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a server did since it was made, for all its guests together.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Statistics {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The same, while it is being counted.
        #[derive(Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn read(&self) -> Statistics {
                Statistics { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

statistics! {
    /// Guests that connected.
    connections,
    /// Requests taken from a queue.
    requests,
    /// Wake-ups by a guest: each costs the guest an exit or a system call.
    kicks,
    /// Interrupts sent to a guest.
    calls,
    /// Interrupts that were sent once more, because User Mode Linux may
    /// oversleep one.
    repeated_calls,
    /// Times a queue was watched actively after its last request.
    spins,
    /// How many of those saw a request arrive, which then needed no kick.
    spin_hits,
    /// Microseconds spent watching in vain.
    spin_wasted_us,
    /// Requests that were handed to a thread of their own.
    later,
    /// Queues that were stopped because the guest broke their rules.
    broken_queues,
}

#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}
