//! [`Answer`]: what an operation says, and what is to be taken back if the
//! kernel never hears it.

use crate::codec::Payload;
use crate::passthrough::Passthrough;
use externfs::{Export, HandleId, Lock, LockKind, NodeId};

/// The payload of a reply. It lives on the stack for one request; a box would
/// cost that request an allocation.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Body {
    Empty,
    Fixed(Payload),
    Bytes(Vec<u8>),
    /// A READ's data, put into the reply already.
    InReply,
}

/// What the kernel holds from the moment it reads the answer.
pub(crate) enum Held {
    Nothing,
    Node(NodeId),
    Nodes(Vec<NodeId>),
    File(HandleId),
    NewFile(NodeId, HandleId),
    Listing(HandleId),
    Lock(HandleId, Lock),
}

/// A successful operation.
pub(crate) struct Answer {
    pub(crate) body: Body,
    pub(crate) held: Held,
}

impl Answer {
    pub(crate) fn empty() -> Answer {
        Answer { body: Body::Empty, held: Held::Nothing }
    }

    pub(crate) fn in_reply() -> Answer {
        Answer { body: Body::InReply, held: Held::Nothing }
    }

    pub(crate) fn holding(self, held: Held) -> Answer {
        Answer { held, ..self }
    }
}

impl From<Payload> for Answer {
    fn from(payload: Payload) -> Answer {
        Answer { body: Body::Fixed(payload), held: Held::Nothing }
    }
}

impl From<Vec<u8>> for Answer {
    fn from(bytes: Vec<u8>) -> Answer {
        Answer { body: Body::Bytes(bytes), held: Held::Nothing }
    }
}

impl Held {
    /// The kernel never heard of it: nothing may leak.
    pub(crate) fn give_back(self, export: &dyn Export, passthrough: Option<&dyn Passthrough>) {
        let close = |handle| {
            export.release(handle, None);
            if let Some(passthrough) = passthrough {
                passthrough.released(handle);
            }
        };
        match self {
            Held::Nothing => {}
            Held::Node(node) => export.forget(node, 1),
            Held::Nodes(nodes) => nodes.into_iter().for_each(|node| export.forget(node, 1)),
            Held::File(handle) => close(handle),
            Held::NewFile(node, handle) => {
                close(handle);
                export.forget(node, 1);
            }
            Held::Listing(handle) => export.release_dir(handle),
            Held::Lock(handle, lock) => {
                let unlock = Lock { kind: LockKind::Unlock, ..lock };
                if let Err(error) = export.set_lock(handle, &unlock, None) {
                    tracing::debug!(%error, "a lock whose owner is gone could not be released");
                }
            }
        }
    }
}
