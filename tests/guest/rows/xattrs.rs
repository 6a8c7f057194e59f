//! Extended attributes.

use crate::place::{ALICE, Place, Verdict, done, failed, refused, same, skipped};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::path::Path;

fn set(path: &Path, name: &str, value: &[u8], flags: XattrFlags) -> rustix::io::Result<()> {
    rustix::fs::lsetxattr(path, name, value, flags)
}

fn get(path: &Path, name: &str) -> rustix::io::Result<Vec<u8>> {
    let mut value = vec![0; 65_536];
    let size = rustix::fs::lgetxattr(path, name, &mut value[..])?;
    value.truncate(size);
    Ok(value)
}

fn list(path: &Path) -> Verdict<BTreeSet<String>> {
    let mut names = vec![0; 65_536];
    let size = done("listxattr", rustix::fs::llistxattr(path, &mut names[..]))?;
    let names = names.get(..size).unwrap_or_default();
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    // The host may label files of its own accord.
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).filter(|name| !name.starts_with("security.selinux")).collect())
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

pub(super) fn set_list_remove(place: &Place) -> Verdict {
    for path in [place.file("file", "")?, place.directory("dir")?] {
        let none = XattrFlags::empty();
        same("names at first", list(&path)?, BTreeSet::new())?;
        refused("get nothing", get(&path, "user.none"), Errno::NODATA)?;
        refused("remove nothing", rustix::fs::lremovexattr(&path, "user.none"), Errno::NODATA)?;
        refused("replace nothing", set(&path, "user.a", b"1", XattrFlags::REPLACE), Errno::NODATA)?;
        done("create", set(&path, "user.a", b"1", XattrFlags::CREATE))?;
        refused("create again", set(&path, "user.a", b"2", XattrFlags::CREATE), Errno::EXIST)?;
        done("replace", set(&path, "user.a", b"\0\xff\0", XattrFlags::REPLACE))?;
        done("set", set(&path, "user.b", b"", none))?;
        same("a", done("get", get(&path, "user.a"))?, b"\0\xff\0".to_vec())?;
        same("b", done("get", get(&path, "user.b"))?, vec![])?;
        same("names", list(&path)?, names(["user.a", "user.b"]))?;
        done("remove", rustix::fs::lremovexattr(&path, "user.a"))?;
        same("names", list(&path)?, names(["user.b"]))?;
    }
    Ok(())
}

pub(super) fn limits(place: &Place) -> Verdict {
    let file = place.file("file", "")?;
    let big = vec![b'v'; 3000];
    done("a value of 3000 bytes", set(&file, "user.big", &big, XattrFlags::empty()))?;
    same("it", done("get", get(&file, "user.big"))? == big, true)?;
    let mut small = [0; 10];
    refused("a small buffer", rustix::fs::lgetxattr(&file, "user.big", &mut small[..]), Errno::RANGE)?;
    let mut small = [0; 3];
    refused("a small list", rustix::fs::llistxattr(&file, &mut small[..]), Errno::RANGE)?;
    same("size asked for", done("query", rustix::fs::lgetxattr_query(&file, "user.big"))?, 3000)?;
    let longest = format!("user.{}", "n".repeat(250));
    done("a name of 255 bytes", set(&file, &longest, b"1", XattrFlags::empty()))?;
    same("it", done("get", get(&file, &longest))?, b"1".to_vec())?;
    match set(&file, "nonsense.a", b"1", XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP) => {}
        other => return failed(format_args!("a namespace that is none: {other:?}")),
    }
    let link = place.at("link");
    done("symlink", rustix::fs::symlink("file", &link))?;
    refused("user.* on a symlink", set(&link, "user.a", b"1", XattrFlags::empty()), Errno::PERM)
}

pub(super) fn trusted(place: &Place) -> Verdict {
    let file = place.file("file", "")?;
    match set(&file, "trusted.a", b"1", XattrFlags::empty()) {
        Err(Errno::PERM) => return skipped("the server has given up CAP_SYS_ADMIN, see its option 'trusted'"),
        other => done("set", other)?,
    }
    same("it", done("get", get(&file, "trusted.a"))?, b"1".to_vec())?;
    same("names", list(&file)?, names(["trusted.a"]))?;
    // The name is seen by everybody: FUSE leaves a list as the server gives it, without saying who reads it.
    ALICE.acts(|| refused("get by another", get(&file, "trusted.a"), Errno::NODATA))
}

pub(super) fn capabilities(place: &Place) -> Verdict {
    let file = place.file("file", "")?;
    // cap_net_raw=ep, version 2 of linux/capability.h.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    done("security.capability", set(&file, "security.capability", &capability, XattrFlags::empty()))?;
    same("it", done("get", get(&file, "security.capability"))?, capability.to_vec())?;
    same("names", list(&file)?, names(["security.capability"]))?;
    ALICE.acts(|| refused("set by another", set(&file, "security.capability", &capability, XattrFlags::empty()), Errno::PERM))?;
    done("write", std::fs::write(&file, "changed"))?;
    refused("capability after a write", get(&file, "security.capability"), Errno::NODATA)
}
