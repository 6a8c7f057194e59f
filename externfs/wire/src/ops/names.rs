//! Names: LOOKUP, FORGET, BATCH_FORGET, MKNOD, MKDIR, SYMLINK, LINK, UNLINK,
//! RMDIR, RENAME and RENAME2.

use super::Call;
use crate::abi::size;
use crate::answer::{Answer, Held};
use crate::codec::Fields;
use crate::reply;
use crate::request::{Component, Making};
use externfs::*;

/// Answers with an entry; a node that cannot be told is not held.
fn entry_answer(call: &Call<'_>, entry: &Entry) -> Result<Answer> {
    let held = Held::Node(entry.id);
    match reply::entry(&call.told(entry)) {
        Ok(payload) => Ok(Answer::from(payload).holding(held)),
        Err(errno) => {
            call.give_back(held);
            Err(Error::because(errno, format!("the protocol cannot carry device number {:?}", entry.attr.device)))
        }
    }
}

pub(crate) fn lookup(call: &Call<'_>, component: Component<'_>) -> Result<Answer> {
    let found = match component {
        Component::This => call.export.lookup_self(call.node),
        Component::Parent => call.export.lookup_parent(call.node),
        Component::Name(name) => call.export.lookup(&call.caller, call.node, name),
    };
    match found {
        Ok(entry) => {
            if let Component::Name(name) = component {
                call.habit.looked_up(call.node, name.as_bytes());
            }
            entry_answer(call, &entry)
        }
        Err(error) if error.errno() == Errno::ENOENT && matches!(component, Component::Name(_)) => {
            let ttl = call.policy().negative;
            if ttl.is_zero() { Err(error) } else { Ok(reply::no_entry(ttl).into()) }
        }
        Err(error) => Err(error),
    }
}

/// Takes back what follows the header of BATCH_FORGET, entry by entry.
pub(crate) fn batch_forget(call: &Call<'_>, count: u32, source: &mut dyn DataSource) -> Result<Answer> {
    if (count as usize).checked_mul(size::FORGET_ONE) != Some(source.remaining()) {
        return Err(Error::because(Errno::EINVAL, format!("BATCH_FORGET of {count} in {} bytes", source.remaining())));
    }
    for _ in 0..count {
        let mut one = [0; size::FORGET_ONE];
        if source.take(&mut one)? < one.len() {
            return Err(Errno::EINVAL.into());
        }
        let mut fields = Fields::new(&one);
        call.export.forget(NodeId(fields.u64()?), fields.u64()?);
    }
    Ok(Answer::empty())
}

pub(crate) fn make(call: &Call<'_>, making: &Making<'_>, new: &NewNode<'_>) -> Result<Answer> {
    let entry = call.export.make(&call.maker(making.umask), call.node, making.name, new, making.mode)?;
    entry_answer(call, &entry)
}

pub(crate) fn link(call: &Call<'_>, node: NodeId, name: Name<'_>) -> Result<Answer> {
    let entry = call.export.link(&call.caller, node, call.node, name)?;
    entry_answer(call, &entry)
}

pub(crate) fn unlink(call: &Call<'_>, name: Name<'_>) -> Result<Answer> {
    call.export.unlink(&call.caller, call.node, name)?;
    Ok(Answer::empty())
}

pub(crate) fn rmdir(call: &Call<'_>, name: Name<'_>) -> Result<Answer> {
    call.export.rmdir(&call.caller, call.node, name)?;
    Ok(Answer::empty())
}

pub(crate) fn rename(call: &Call<'_>, from: Name<'_>, to: (NodeId, Name<'_>), flags: RenameFlags) -> Result<Answer> {
    call.export.rename(&call.caller, (call.node, from), to, flags)?;
    Ok(Answer::empty())
}
