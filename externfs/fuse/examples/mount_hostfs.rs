//! `mount_hostfs SRC MNT [OPTION,...]`: hostfs in the foreground, for trying
//! and measuring. The command `externfs mount` is the product.

use externfs::{MountOption, Plugin, Source};
use externfs_fuse::{FuseMount, MountOptions, ServeOptions, StopHandle};
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(source), Some(point)) = (words.next(), words.next()) else {
        return Err("usage: mount_hostfs SRC MNT [OPTION,...]".into());
    };
    let (mut mount, mut serve, mut plugin) = (MountOptions::default(), ServeOptions::default(), Vec::new());
    let text = words.next().unwrap_or_default();
    for word in text.to_string_lossy().split(',').filter(|word| !word.is_empty()) {
        let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
        if !mount.accept(key, value)? && !serve.accept(key, value)? {
            plugin.push(MountOption { key: key.to_owned(), value: value.map(str::to_owned) });
        }
    }
    let connect = hostfs::HostFsPlugin.open(&Source { path: source.clone(), options: plugin })?;
    let mut mounted = FuseMount::mount(source.as_os_str(), &point, &mount)?;
    if let Some(about) = mounted.take_about() {
        connect.mounted(Some(about));
    }
    let reason = mounted.serve(connect.connect()?, &serve, &StopHandle::new(), || println!("ready"))?;
    println!("{reason:?}");
    Ok(())
}
