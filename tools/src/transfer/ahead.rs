//! [`Ahead`]: an origin that is read in a thread of its own, so that reading,
//! and decompressing, goes on while what was read is written.

use super::{BUFFER, Body, Item, Origin};
use crate::failure::{Failure, Result};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// How many batches wait at most.
const BATCHES: usize = 8;

/// A batch is sent off at this many messages, or bytes: waking the other
/// thread for each small file would cost more than the file.
const BATCH_MESSAGES: usize = 64;
const BATCH_BYTES: usize = 1 << 20;

enum Message {
    Item(Item),
    /// Contents of the item before it, and where they belong.
    Piece(u64, Vec<u8>),
    Failed(Failure),
    End,
}

/// See the head of this file.
pub struct Ahead {
    batches: Receiver<Vec<Message>>,
    batch: std::vec::IntoIter<Message>,
    /// A message that was looked at and is still to be taken.
    waiting: Option<Message>,
}

impl Ahead {
    /// Begins to read `origin`.
    ///
    /// # Errors
    /// There cannot be another thread.
    pub fn new(origin: impl Origin + Send + 'static) -> Result<Ahead> {
        let (sender, batches) = sync_channel(BATCHES);
        let read = move || Reading { origin, sender, batch: Vec::new(), bytes: 0 }.run();
        let started = std::thread::Builder::new().name("reader".into()).spawn(read);
        started.map_err(|error| Failure::io("cannot start a thread", &error))?;
        Ok(Ahead { batches, batch: Vec::new().into_iter(), waiting: None })
    }

    fn next(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = self.waiting.take().or_else(|| self.batch.next()) {
                return Ok(message);
            }
            // The thread says how it ends, unless it panics.
            self.batch = self.batches.recv().map_err(|_| Failure::new("reading the source failed"))?.into_iter();
        }
    }
}

impl Origin for Ahead {
    fn next_item(&mut self) -> Result<Option<Item>> {
        loop {
            match self.next()? {
                Message::Item(item) => return Ok(Some(item)),
                Message::Piece(..) => {}
                Message::Failed(failure) => return Err(failure),
                Message::End => {
                    self.waiting = Some(Message::End);
                    return Ok(None);
                }
            }
        }
    }

    fn data(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>> {
        match self.next()? {
            Message::Piece(offset, mut bytes) => {
                let count = bytes.len().min(buffer.len());
                buffer.get_mut(..count).unwrap_or_default().copy_from_slice(bytes.get(..count).unwrap_or_default());
                if count < bytes.len() {
                    bytes.drain(..count);
                    self.waiting = Some(Message::Piece(offset + count as u64, bytes));
                }
                Ok(Some((offset, count)))
            }
            Message::Failed(failure) => Err(failure),
            other => {
                self.waiting = Some(other);
                Ok(None)
            }
        }
    }
}

/// The thread's side.
struct Reading<O> {
    origin: O,
    sender: SyncSender<Vec<Message>>,
    batch: Vec<Message>,
    bytes: usize,
}

/// Nobody wants to hear more.
struct Unheard;

impl<O: Origin> Reading<O> {
    fn run(mut self) {
        let last = match self.read_all() {
            Err(Unheard) => return,
            Ok(Ok(())) => Message::End,
            Ok(Err(failure)) => Message::Failed(failure),
        };
        self.batch.push(last);
        let _ = self.sender.send(self.batch);
    }

    fn read_all(&mut self) -> std::result::Result<Result<()>, Unheard> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let item = match self.origin.next_item() {
                Ok(Some(item)) => item,
                Ok(None) => return Ok(Ok(())),
                Err(failure) => return Ok(Err(failure)),
            };
            let is_file = matches!(item.body, Body::Regular(_));
            let bytes = item.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
            self.put(Message::Item(item), bytes)?;
            if is_file && let Err(failure) = self.contents(&mut buffer)? {
                return Ok(Err(failure));
            }
        }
    }

    fn contents(&mut self, buffer: &mut [u8]) -> std::result::Result<Result<()>, Unheard> {
        loop {
            match self.origin.data(buffer) {
                Ok(Some((offset, count))) => {
                    let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                    self.put(Message::Piece(offset, bytes), count)?;
                }
                Ok(None) => return Ok(Ok(())),
                Err(failure) => return Ok(Err(failure)),
            }
        }
    }

    fn put(&mut self, message: Message, bytes: usize) -> std::result::Result<(), Unheard> {
        self.batch.push(message);
        self.bytes += bytes;
        if self.batch.len() < BATCH_MESSAGES && self.bytes < BATCH_BYTES {
            return Ok(());
        }
        self.bytes = 0;
        self.sender.send(std::mem::take(&mut self.batch)).map_err(|_| Unheard)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HostTree, Keep};
    use super::*;

    /// All items with their contents.
    fn collect(origin: &mut dyn Origin, buffer: usize) -> Result<Vec<(Item, Vec<u8>)>> {
        let (mut all, mut buffer) = (Vec::new(), vec![0; buffer]);
        while let Some(item) = origin.next_item()? {
            let mut contents = Vec::new();
            // Every third is passed over.
            while !all.len().is_multiple_of(3) {
                let Some((offset, count)) = origin.data(&mut buffer)? else { break };
                contents.resize(offset as usize, 0);
                contents.extend(&buffer[..count]);
            }
            all.push((item, contents));
        }
        Ok(all)
    }

    #[test]
    fn what_is_read_ahead_is_the_same() {
        let dir = tempfile::tempdir().expect("tempdir");
        for index in 0..300usize {
            std::fs::write(dir.path().join(index.to_string()), vec![index as u8; index * 4000]).expect("write");
        }
        let origin = || HostTree::new(dir.path(), Keep::All, true, true).expect("opens");
        // The first to read them moves their atimes.
        collect(&mut Ahead::new(origin()).expect("starts"), BUFFER).expect("reads");
        let expected = collect(&mut origin(), BUFFER).expect("reads");
        assert_eq!(expected.len(), 301);
        assert!(collect(&mut Ahead::new(origin()).expect("starts"), BUFFER).expect("reads") == expected);
        assert!(collect(&mut Ahead::new(origin()).expect("starts"), 1000).expect("reads") == expected);
        // One who stops listening holds nothing up.
        drop(Ahead::new(origin()));
    }

    #[test]
    fn a_failure_arrives_where_it_belongs() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("a")).expect("mkdir");
        let origin = HostTree::new(dir.path(), Keep::Little, false, true).expect("opens");
        let failure = collect(&mut Ahead::new(origin).expect("starts"), 10).expect_err("not recursive");
        assert!(failure.line.contains("-r"), "{failure}");
    }
}
