//! [`Endpoint`]: the virtio-fs device that one frontend talks to: what it
//! offers, what was agreed, and what each message does.
//!
//! Sources: docs/interop/vhost-user.rst of QEMU; the virtio specification,
//! "File System Device"; for what User Mode Linux sends,
//! arch/um/drivers/virtio_uml.c of Linux.

use crate::call::{Call, event_kind};
use crate::memory::{Memory, REGIONS_MAX, RegionPlace};
use crate::message::{Message, Request};
use crate::ring::RingPlace;
use crate::vring::{Surroundings, Vring};
use crate::worker::Guest;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

const VIRTIO_F_RING_INDIRECT_DESC: u64 = 1 << 28;
const VIRTIO_F_RING_EVENT_IDX: u64 = 1 << 29;
const VHOST_USER_F_PROTOCOL_FEATURES: u64 = 1 << 30;
const VIRTIO_F_VERSION_1: u64 = 1 << 32;
const FEATURES: u64 = VIRTIO_F_VERSION_1 | VIRTIO_F_RING_INDIRECT_DESC | VIRTIO_F_RING_EVENT_IDX | VHOST_USER_F_PROTOCOL_FEATURES;

const PROTOCOL_MQ: u64 = 1 << 0;
const PROTOCOL_REPLY_ACK: u64 = 1 << 3;
/// Without it User Mode Linux sets up no interrupt at all.
const PROTOCOL_BACKEND_REQ: u64 = 1 << 5;
/// The only way for User Mode Linux to learn the tag. QEMU 7.2 warns that it
/// does not use it.
const PROTOCOL_CONFIG: u64 = 1 << 9;
const PROTOCOL_RESET_DEVICE: u64 = 1 << 13;
/// Left out on purpose is 14, in-band notifications: User Mode Linux would
/// then send a message for every kick.
const PROTOCOL_CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
const PROTOCOL_FEATURES: u64 =
    PROTOCOL_MQ | PROTOCOL_REPLY_ACK | PROTOCOL_BACKEND_REQ | PROTOCOL_CONFIG | PROTOCOL_RESET_DEVICE | PROTOCOL_CONFIGURE_MEM_SLOTS;

/// Most request queues that a frontend may set up, whatever the configuration
/// space says: QEMU has its own number there. An unused one costs nothing.
pub(crate) const REQUEST_QUEUES_MAX: usize = 64;
/// Longest tag, in bytes.
pub(crate) const TAG_MAX: usize = 36;
/// Largest part of the configuration space that is read at once
/// (`VHOST_USER_MAX_CONFIG_SIZE`).
const CONFIG_READ_MAX: usize = 256;
/// How long the end of a queue waits for requests that wait themselves, after
/// they were told to stop.
const INTERRUPT_GRACE: Duration = Duration::from_secs(1);

/// What a message is answered with.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// Nothing but an acknowledgement, if one is asked for.
    Done,
    /// This payload, in any case.
    Payload(Vec<u8>),
}

/// One guest's device.
pub(crate) struct Endpoint {
    config: Vec<u8>,
    guest: Arc<Guest>,
    features: u64,
    protocol_features: u64,
    memory: Option<Arc<Memory>>,
    /// The queue for urgent requests, then the request queues.
    vrings: Vec<Vring>,
    /// Never used, never closed: User Mode Linux gives interrupts up when its
    /// other end is.
    backend_channel: Option<OwnedFd>,
}

impl Endpoint {
    /// `tag` has at most [`TAG_MAX`] bytes.
    pub(crate) fn new(tag: &str, request_queues: u32, guest: Arc<Guest>) -> Endpoint {
        let mut config = tag.as_bytes().to_vec();
        config.resize(TAG_MAX, 0);
        config.extend_from_slice(&request_queues.to_le_bytes());
        Endpoint {
            config,
            guest,
            features: 0,
            protocol_features: 0,
            memory: None,
            vrings: (0..=REQUEST_QUEUES_MAX).map(Vring::new).collect(),
            backend_channel: None,
        }
    }

    /// Does what a message says.
    ///
    /// # Errors
    /// It makes no sense or cannot be done: the reason for the log.
    pub(crate) fn handle(&mut self, message: &mut Message) -> Result<Answer, String> {
        let number = |number: u64| Ok(Answer::Payload(number.to_le_bytes().to_vec()));
        match message.request().ok_or("it is unknown or was not offered")? {
            Request::GetFeatures => number(FEATURES),
            Request::GetProtocolFeatures => number(PROTOCOL_FEATURES),
            Request::GetQueueNum => number(self.vrings.len() as u64),
            Request::GetMaxMemSlots => number(REGIONS_MAX as u64),
            Request::GetConfig => self.get_config(message),
            Request::GetVringBase => self.get_vring_base(message),
            Request::SetOwner => Ok(Answer::Done),
            Request::SetFeatures => self.set_features(message.u64_at(0)?),
            Request::SetProtocolFeatures => self.set_protocol_features(message.u64_at(0)?),
            Request::SetBackendReqFd => {
                self.backend_channel = Some(message.take_fd()?);
                Ok(Answer::Done)
            }
            Request::SetMemTable => self.set_mem_table(message),
            Request::AddMemReg => self.add_mem_reg(message),
            Request::RemMemReg => self.rem_mem_reg(message),
            Request::SetConfig => Err("nothing in the configuration space can be set".into()),
            Request::ResetOwner | Request::ResetDevice => {
                self.reset();
                Ok(Answer::Done)
            }
            request => self.set_vring(request, message),
        }
    }

    fn set_features(&mut self, features: u64) -> Result<Answer, String> {
        if features & !FEATURES != 0 {
            return Err(format!("features {:#x} were not offered", features & !FEATURES));
        }
        self.features = features;
        // Who does not know how to enable a queue has it enabled.
        if features & VHOST_USER_F_PROTOCOL_FEATURES == 0 {
            self.each_vring(|vring, around| vring.set_enabled(true, around))?;
        }
        Ok(Answer::Done)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<Answer, String> {
        if features & !PROTOCOL_FEATURES != 0 {
            return Err(format!("protocol features {:#x} were not offered", features & !PROTOCOL_FEATURES));
        }
        self.protocol_features = features;
        Ok(Answer::Done)
    }

    /// Reads past the end give zeroes, so that a frontend that knows a longer
    /// configuration space finds the rest of it empty. What cannot be read is
    /// answered with no bytes, as the specification wants.
    fn get_config(&self, message: &Message) -> Result<Answer, String> {
        let (offset, size, flags) = (message.u32_at(0)?, message.u32_at(4)?, message.u32_at(8)?);
        let size = if size as usize <= CONFIG_READ_MAX { size } else { 0 };
        let mut payload: Vec<u8> = [offset, size, flags].into_iter().flat_map(u32::to_le_bytes).collect();
        let from_offset = self.config.iter().copied().chain(std::iter::repeat(0)).skip((offset as usize).min(self.config.len()));
        payload.extend(from_offset.take(size as usize));
        Ok(Answer::Payload(payload))
    }

    fn set_mem_table(&mut self, message: &mut Message) -> Result<Answer, String> {
        let count = message.u32_at(0)? as usize;
        if count == 0 || count > REGIONS_MAX {
            return Err(format!("{count} memory regions, not 1 to {REGIONS_MAX}"));
        }
        let table: Result<Vec<_>, String> = (0..count).map(|index| Ok((region_at(message, 8 + index * 32)?, message.take_fd()?))).collect();
        self.set_memory(Some(Memory::map(table?)?))
    }

    fn add_mem_reg(&mut self, message: &mut Message) -> Result<Answer, String> {
        let place = region_at(message, 8)?;
        let memory = Memory::with(self.memory.as_deref(), place, message.take_fd()?)?;
        self.set_memory(Some(memory))
    }

    fn rem_mem_reg(&mut self, message: &Message) -> Result<Answer, String> {
        let place = region_at(message, 8)?;
        let memory = self.memory.as_ref().ok_or("there is no memory region to remove")?.without(place)?;
        self.set_memory(memory)
    }

    fn set_memory(&mut self, memory: Option<Memory>) -> Result<Answer, String> {
        self.memory = memory.map(Arc::new);
        let set = self.each_vring(Vring::set_memory);
        // A queue that ends has the waits of all interrupted.
        self.each_vring(Vring::resume)?;
        set.map(|()| Answer::Done)
    }

    /// All of them, whatever becomes of one: a change is not half made. The
    /// first failure counts.
    fn each_vring(&mut self, set: impl Fn(&mut Vring, &Surroundings<'_>) -> Result<(), String>) -> Result<(), String> {
        let around =
            Surroundings { guest: &self.guest, memory: self.memory.as_ref(), event_index: self.features & VIRTIO_F_RING_EVENT_IDX != 0 };
        let mut outcome = Ok(());
        for vring in &mut self.vrings {
            outcome = outcome.and(set(vring, &around));
        }
        outcome
    }

    fn set_vring(&mut self, request: Request, message: &mut Message) -> Result<Answer, String> {
        let around =
            Surroundings { guest: &self.guest, memory: self.memory.as_ref(), event_index: self.features & VIRTIO_F_RING_EVENT_IDX != 0 };
        // Where a descriptor comes along, the number's low byte is the index.
        let with_fd = matches!(request, Request::SetVringKick | Request::SetVringCall | Request::SetVringErr);
        let index = if with_fd { message.u64_at(0)? as u32 & 0xff } else { message.u32_at(0)? };
        let known = self.vrings.len();
        let vring = self.vrings.get_mut(index as usize).ok_or_else(|| format!("queue {index} of {known}"))?;
        match request {
            Request::SetVringNum => vring.set_size(message.u32_at(4)?, &around)?,
            Request::SetVringBase => vring.set_base(message.u32_at(4)?, &around)?,
            Request::SetVringEnable => vring.set_enabled(message.u32_at(4)? != 0, &around)?,
            Request::SetVringAddr => {
                let [descriptors, used, available] = [8, 16, 24].map(|offset| message.u64_at(offset));
                vring.set_place(RingPlace { descriptors: descriptors?, available: available?, used: used? }, &around);
            }
            Request::SetVringKick => {
                let kick = optional_fd(message)?.ok_or("a queue without a kick descriptor is not supported")?;
                event_kind(&kick)?;
                vring.set_kick(kick, &around)?;
            }
            Request::SetVringCall => vring.set_call(self.guest.call(message)?, &around)?,
            Request::SetVringErr => vring.set_error(self.guest.call(message)?),
            _ => return Err("it is not for a queue".into()),
        }
        // As for memory.
        if matches!(request, Request::SetVringNum | Request::SetVringBase | Request::SetVringAddr) {
            self.each_vring(Vring::resume)?;
        }
        Ok(Answer::Done)
    }

    fn get_vring_base(&mut self, message: &Message) -> Result<Answer, String> {
        let index = message.u32_at(0)?;
        let vring = self.vrings.get_mut(index as usize).ok_or_else(|| format!("queue {index} does not exist"))?;
        vring.pause();
        self.guest.settle();
        let base = u32::from(vring.stop());
        // The waits of all queues have ended.
        self.each_vring(Vring::resume)?;
        Ok(Answer::Payload([index, base].into_iter().flat_map(u32::to_le_bytes).collect()))
    }

    /// All queues end; what was agreed stays.
    fn reset(&mut self) {
        self.vrings.iter_mut().for_each(Vring::pause);
        self.guest.settle();
        let enabled = self.features & VHOST_USER_F_PROTOCOL_FEATURES == 0;
        for (index, vring) in self.vrings.iter_mut().enumerate() {
            vring.stop();
            *vring = Vring::new(index);
            vring.start_enabled(enabled);
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.guest.handler.interrupt();
        self.vrings.iter_mut().for_each(Vring::pause);
        self.guest.settle();
    }
}

impl Guest {
    /// What a message says to tell the guest, or the frontend, through.
    fn call(&self, message: &mut Message) -> Result<Option<Call>, String> {
        optional_fd(message)?.map(|fd| Call::new(fd, &self.stuck)).transpose()
    }

    /// Ends what waits on threads of its own; without an answer, it is asked for
    /// again when its queue goes on. What a stuck host keeps longer
    /// than the grace is given up: its queue is closed, its answer dropped.
    pub(crate) fn settle(&self) {
        self.handler.interrupt();
        if !self.laters.wait(INTERRUPT_GRACE, &self.stuck) {
            let limit = INTERRUPT_GRACE.as_secs();
            self.gate.pass(|| tracing::warn!("a request that waits did not end within {limit} s; its answer is dropped"));
        }
    }
}

fn region_at(message: &Message, offset: usize) -> Result<RegionPlace, String> {
    Ok(RegionPlace {
        guest_address: message.u64_at(offset)?,
        size: message.u64_at(offset + 8)?,
        user_address: message.u64_at(offset + 16)?,
        file_offset: message.u64_at(offset + 24)?,
    })
}

/// The descriptor of a queue's message, None where bit 8 says that there is none.
fn optional_fd(message: &mut Message) -> Result<Option<OwnedFd>, String> {
    if message.u64_at(0)? & 0x100 != 0 { Ok(None) } else { message.take_fd().map(Some) }
}
