//! Compressed archives, recognised by their first bytes.

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what is read through it: the bytes of the file, whatever they
/// become after decompression.
pub struct Counter<R> {
    source: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Counter<R> {
    /// Over `source`; the count can be looked at from elsewhere.
    pub fn new(source: R) -> (Counter<R>, Arc<AtomicU64>) {
        let count = Arc::new(AtomicU64::new(0));
        (Counter { source, count: count.clone() }, count)
    }
}

impl<R: Read> Read for Counter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// The bytes of `source`, decompressed if they are gzip's, xz's or zstd's.
///
/// # Errors
/// Those of the source.
pub fn decompressed<'r>(source: impl Read + Send + 'r) -> io::Result<Box<dyn Read + Send + 'r>> {
    /// As much as the longest magic.
    const HEAD: usize = 6;
    let mut source = BufReader::with_capacity(256 << 10, source);
    let mut head = Vec::with_capacity(HEAD);
    // A pipe may give its first bytes one by one.
    source.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    let magic = head.clone();
    let whole = BufReader::with_capacity(256 << 10, io::Cursor::new(head).chain(source));
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(whole)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(whole)?),
        _ => Box::new(whole),
    })
}
