//! The protocol of mount(8)'s helpers: `mount.TYPE SRC MNT [-sfnv] [-N NS]
//! [-o OPTIONS] [-t TYPE]`.
//!
//! `-N`, another namespace, is refused: mount(8) leaves it to the helper to enter
//! that, where there may be no /proc, /dev/fuse or SRC, nor a program to start.
//!
//! mount(8) looks for `/sbin/mount.fuse.externfs` for the type `fuse.externfs`
//! and for `/sbin/mount.externfs` for `externfs`; both are links to our program,
//! which goes by the name that it was called by. Where neither is there, `/sbin/mount.fuse` runs `externfs SRC MNT
//! -o OPTIONS` for the former, which we take too.

use crate::boot::plan::split_source;
use crate::failure::{Failure, Result};
use crate::mount::{self, Request};
use crate::{options, plugins};
use externfs::MountOption;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};

const USAGE: &str = "usage: mount.externfs [PLUGIN:]SRC MNT [-sfnv] [-o OPTIONS]";

/// What people ask who call a helper by hand.
fn answer(arguments: &[OsString]) -> Option<String> {
    let [asked] = arguments else { return None };
    match asked.to_str()? {
        "-h" | "--help" => Some(format!("{USAGE}\nCalled by mount(8). All options: externfs mount --help")),
        "-V" | "--version" => Some(format!("externfs {}", env!("CARGO_PKG_VERSION"))),
        _ => None,
    }
}

/// What a helper was called with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Call {
    source: String,
    point: PathBuf,
    lists: Vec<String>,
    /// `-f`: go through the motions.
    fake: bool,
}

fn parse(arguments: &[OsString]) -> Result<Call> {
    let text = |argument: &OsString| {
        argument.to_str().map(str::to_owned).ok_or_else(|| Failure::usage(format!("'{}' is not UTF-8", argument.display())))
    };
    let mut call = Call::default();
    let mut places = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let argument = text(argument)?;
        if argument.starts_with("--") {
            return Err(Failure::usage(format!("unknown flag {argument}: {USAGE}")));
        }
        let mut letters = argument.strip_prefix('-').filter(|letters| !letters.is_empty()).map(str::chars);
        let Some(letters) = letters.as_mut() else {
            places.push(argument);
            continue;
        };
        while let Some(letter) = letters.next() {
            match letter {
                'f' => call.fake = true,
                // Sloppiness, /etc/mtab and chattiness change nothing here.
                's' | 'n' | 'v' => {}
                'o' | 't' | 'N' => {
                    let attached = letters.as_str();
                    let value = if attached.is_empty() { rest.next().map(text).transpose()? } else { Some(attached.to_owned()) };
                    let value = value.ok_or_else(|| Failure::usage(format!("-{letter} wants a value: {USAGE}")))?;
                    match letter {
                        'o' => call.lists.push(value),
                        'N' => return Err(elsewhere(&value)),
                        _ => {}
                    }
                    break;
                }
                _ => return Err(Failure::usage(format!("unknown flag -{letter}: {USAGE}"))),
            }
        }
    }
    let [source, point] = <[String; 2]>::try_from(places).map_err(|_| Failure::usage(USAGE))?;
    (call.source, call.point) = (source, point.into());
    Ok(call)
}

/// What is said of a mount for another namespace, a file or a process's number.
fn elsewhere(namespace: &str) -> Failure {
    let is_process = namespace.bytes().all(|byte| byte.is_ascii_digit());
    let file = if is_process { format!("/proc/{namespace}/ns/mnt") } else { namespace.to_owned() };
    Failure::usage(format!("-N is not supported: enter the namespace first: nsenter --mount={file} mount ..."))
}

/// What findmnt(8) is to show, unless the list has another `fsname`: the very words
/// of fstab. By them mount(8) knows whether a line is mounted already; SRC alone it
/// would mount once more with each `mount -a`.
fn shown_as(source: &str) -> Option<MountOption> {
    (!source.is_empty()).then(|| MountOption { key: "fsname".into(), value: Some(source.to_owned()) })
}

/// Mounts as mount(8) asks; `arguments` without the program's name.
///
/// # Errors
/// One line.
pub fn run(arguments: &[OsString]) -> Result<()> {
    if let Some(answer) = answer(arguments) {
        let _ = writeln!(std::io::stdout(), "{answer}");
        return Ok(());
    }
    let call = parse(arguments)?;
    let registry = plugins::registry();
    let (plugin, source) = split_source(&registry, &call.source)?;
    // mount(8) puts "rw" into every list, so from there it means nothing.
    let asked = options::parse(&call.lists)?.into_iter().filter(|option| option.key != "rw");
    let options = shown_as(&call.source).into_iter().chain(asked).collect();
    let request = Request { plugin: plugin.into(), source: source.into(), point: call.point, options, ..Request::default() };
    if call.fake {
        return mount::sort(mount::known(&registry, plugin)?, &request.options).map(drop);
    }
    plugins::warn_who_mounts(&request.plugin, &request.source, &request.options);
    mount::run(&request)
}

/// Whether this is a helper's call, not a subcommand's: the program was called
/// `mount.SOMETHING`, or its first argument is a source.
#[must_use]
pub fn is_call(program: &OsStr, arguments: &[OsString]) -> bool {
    if Path::new(program).file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"mount.")) {
        return true;
    }
    let [source, _, ..] = arguments else { return false };
    source.to_str().is_some_and(|source| source.contains(['/', ':', '#']) && !source.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(arguments: &[&str]) -> Result<Call> {
        parse(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn every_shape_that_mount_uses_is_understood() {
        let expected = Call { source: "hostfs:/a".into(), point: "/m".into(), lists: vec!["ro,dev".into()], fake: false };
        for arguments in [
            &["hostfs:/a", "/m", "-o", "ro,dev"][..],
            &["hostfs:/a", "/m", "-sn", "-oro,dev", "-t", "fuse.externfs"],
            &["-v", "-o", "ro,dev", "hostfs:/a", "/m"],
        ] {
            assert_eq!(call(arguments), Ok(expected.clone()), "{arguments:?}");
        }
        assert!(call(&["/a", "/m", "-f"]).expect("good").fake);
        for bad in [&["/a"][..], &["/a", "/m", "/x"], &["/a", "/m", "-o"], &["/a", "/m", "-x"], &[]] {
            assert_eq!(call(bad).expect_err("bad").code, 2);
        }
    }

    #[test]
    fn another_namespace_is_refused_with_its_remedy() {
        for arguments in [&["hostfs:/a", "/m", "-N", "/proc/7/ns/mnt"][..], &["-N7", "hostfs:/a", "/m"], &["/a", "/m", "-vN", "7"]] {
            let failure = call(arguments).expect_err("refused");
            assert_eq!(failure.code, 2);
            assert!(failure.line.contains("nsenter --mount=/proc/7/ns/mnt mount"), "{}", failure.line);
        }
    }

    #[test]
    fn subcommands_are_no_helper_calls() {
        let is = |arguments: &[&str]| is_call("externfs".as_ref(), &arguments.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(is_call("/sbin/mount.fuse.externfs".as_ref(), &[]));
        assert!(is(&["hostfs:/a", "/m", "-o", "ro"]) && is(&["/a", "/m"]));
        assert!(!is(&["mount", "hostfs", "/a", "/m"]) && !is(&["-v", "mount"]) && !is(&["/a"]));
    }
}
