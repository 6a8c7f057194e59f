//! A kernel's side of the FUSE protocol, as bytes, for sending what no kernel
//! would: the only way to ask for `..`.

use externfs::Export;
use externfs_wire::buffer::{SliceSource, VecReply};
use externfs_wire::{Config, Opcode, Outcome, Session, TransportKind};
use std::sync::{Arc, Mutex, PoisonError};

/// One conversation.
pub struct WireClient {
    session: Session,
    unique: u64,
}

/// An answer: the errno (0 for success) and the payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WireAnswer {
    /// As a positive number.
    pub errno: i32,
    /// What follows the header.
    pub payload: Vec<u8>,
}

/// What became of some bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WireOutcome {
    /// The session answered.
    Answer(WireAnswer),
    /// The protocol knows no answer to it.
    Silent,
    /// The session said that the kernel broke the protocol.
    Broken(String),
}

impl WireClient {
    /// After INIT of ABI 7.45, with every flag offered.
    ///
    /// # Panics
    /// When INIT is refused.
    #[must_use]
    pub fn new(export: Arc<dyn Export>) -> WireClient {
        let mut client = WireClient { session: Session::new(export, Config::new(TransportKind::Virtio)), unique: 0 };
        let mut args = Vec::new();
        for word in [7u32, 45, 1 << 20, u32::MAX, u32::MAX] {
            args.extend(word.to_le_bytes());
        }
        args.extend([0; 44]);
        let answer = client.request(Opcode::Init as u32, 0, &args);
        assert!(matches!(&answer, WireOutcome::Answer(a) if a.errno == 0), "INIT: {answer:?}");
        client
    }

    /// Sends a request as root with a correct header.
    pub fn request(&mut self, opcode: u32, node: u64, args: &[u8]) -> WireOutcome {
        self.unique += 2;
        let mut bytes = Vec::with_capacity(40 + args.len());
        bytes.extend((40 + args.len() as u32).to_le_bytes());
        bytes.extend(opcode.to_le_bytes());
        bytes.extend(self.unique.to_le_bytes());
        bytes.extend(node.to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend(args);
        self.raw(&bytes)
    }

    /// What a kernel sends when a signal ends the wait for this request.
    fn interrupt(&self, request: &[u8]) {
        const INTERRUPT: u32 = 36;
        let mut bytes = 48u32.to_le_bytes().to_vec();
        bytes.extend(INTERRUPT.to_le_bytes());
        bytes.extend([0; 32]);
        bytes.extend(request.get(8..16).unwrap_or_default());
        let mut nothing = VecReply::new(0, |_: &[u8]| Ok(()));
        let outcome = self.session.handle(&mut SliceSource::new(&bytes), &mut nothing);
        assert!(matches!(outcome, Outcome::Silent), "an answer to INTERRUPT");
    }

    /// Sends any bytes.
    ///
    /// # Panics
    /// When the answer itself is malformed.
    pub fn raw(&self, bytes: &[u8]) -> WireOutcome {
        let sent = Arc::new(Mutex::new(None::<Vec<u8>>));
        let keep = sent.clone();
        let mut reply = VecReply::new(2 << 20, move |bytes: &[u8]| {
            let old = keep.lock().unwrap_or_else(PoisonError::into_inner).replace(bytes.to_vec());
            assert!(old.is_none(), "two answers to one request");
            Ok(())
        });
        let outcome = match self.session.handle(&mut SliceSource::new(bytes), &mut reply) {
            Outcome::Later(later) => {
                // Whatever would wait, waits for nobody here.
                self.interrupt(bytes);
                later(&mut reply);
                None
            }
            Outcome::Replied => None,
            Outcome::Silent => Some(WireOutcome::Silent),
            Outcome::Broken(why) => Some(WireOutcome::Broken(why)),
        };
        let sent = sent.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (outcome, sent) {
            (Some(outcome), None) => outcome,
            (None, Some(bytes)) => WireOutcome::Answer(parse(&bytes)),
            (outcome, sent) => panic!("outcome {outcome:?} with an answer of {:?} bytes", sent.map(|s| s.len())),
        }
    }
}

fn parse(bytes: &[u8]) -> WireAnswer {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(i32::from_le_bytes);
    let (Some(len), Some(error)) = (word(0), word(4)) else { panic!("an answer of {} bytes", bytes.len()) };
    assert_eq!(len as usize, bytes.len(), "the answer's length field");
    assert!(error <= 0 && error > -4096, "the answer's error {error}");
    assert!(error == 0 || bytes.len() == 16, "an error with a payload");
    WireAnswer { errno: -error, payload: bytes[16..].to_vec() }
}
