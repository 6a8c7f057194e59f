//! `lines`: a whole plugin in sixty lines, to start your own from. Each line of
//! a text file is a file; `externfs mount lines /etc/hosts MNT` shows it.

use crate::helper::{list, plain_attr, read_slice};
use crate::*;
use std::sync::Arc;

/// The lines of one text file, read once.
#[derive(Debug)]
pub struct LinesFs(Vec<Vec<u8>>);

/// A place: None is the directory, Some(n) the line with number n, from 0.
type Place = Option<usize>;

impl LinesFs {
    /// Over the text in `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> LinesFs {
        LinesFs(bytes.split_inclusive(|&b| b == b'\n').map(<[u8]>::to_vec).collect())
    }

    fn attr_of(&self, place: Place) -> Attr {
        match place {
            None => plain_attr(1, FileKind::Directory, 0o555, 0),
            Some(n) => plain_attr(n as u64 + 2, FileKind::Regular, 0o444, self.0[n].len() as u64),
        }
    }
}

impl ExternFs for LinesFs {
    type Node = Place;
    type File = usize;
    type Dir = ();

    fn root(&self) -> Result<Place> {
        Ok(None)
    }
    fn key(&self, node: &Place) -> NodeKey {
        NodeKey { volume: 0, number: self.attr_of(*node).ino, generation: 0 }
    }
    fn attr(&self, node: &Place, _: Option<&usize>) -> Result<Attr> {
        Ok(self.attr_of(*node))
    }
    fn lookup(&self, _: &Place, name: Name<'_>) -> Result<(Place, Attr)> {
        // Line numbers as people write them: from 1, without leading zeros.
        let number = (1..=self.0.len()).find(|n| n.to_string().as_bytes() == name.as_bytes());
        let place = Some(number.ok_or(Errno::ENOENT)? - 1);
        Ok((place, self.attr_of(place)))
    }
    fn open_dir(&self, _: &Place) -> Result<()> {
        Ok(())
    }
    fn read_dir(&self, _: &(), cookie: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let names: Vec<_> = (1..=self.0.len()).map(|n| n.to_string()).collect();
        list(names.iter().zip(2..).map(|(name, ino)| (name.as_bytes(), ino, FileKind::Regular)), cookie, emit);
        Ok(())
    }
    fn open(&self, _: &Caller, node: &Place, flags: OpenFlags) -> Result<Opened<usize>> {
        if flags.write {
            return Err(Errno::EROFS.into());
        }
        Ok(Opened { file: node.ok_or(Errno::EISDIR)?, cache: FileCache::Keep, size: self.attr_of(*node).size })
    }
    fn read(&self, file: &usize, offset: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize> {
        read_slice(&self.0[*file], offset, size, sink)
    }
}

/// Makes it mountable by name.
#[derive(Debug)]
pub struct LinesPlugin;

impl Plugin for LinesPlugin {
    fn name(&self) -> &'static str {
        "lines"
    }
    fn summary(&self) -> &'static str {
        "each line of a text file as a file (the example plugin)"
    }
    fn options(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }
    fn goes_by_path(&self) -> bool {
        false
    }
    fn open(&self, source: &Source) -> std::result::Result<Arc<dyn Connect>, UsageError> {
        if let Some(option) = source.options.first() {
            return Err(UsageError(format!("lines: unknown option '{}': it takes none", option.key)));
        }
        let bytes = std::fs::read(&source.path)
            .map_err(|error| UsageError(format!("{}: {error}: lines needs a text file", source.path.display())))?;
        let bridge = Bridge::new(LinesFs::new(&bytes), BridgeOptions { read_only: true });
        Ok(bridge.map_err(|error| UsageError(error.to_string()))?)
    }
}
