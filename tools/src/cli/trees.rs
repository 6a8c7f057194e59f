//! The commands for trees that nobody has mounted.

use super::known::Known;
use clap::{ArgAction, Args, ValueHint};
use humfs::Adopt;
use humfs::store::Format;
use std::ffi::OsString;
use std::path::PathBuf;

/// Arguments of `create`.
#[derive(Args, Clone, Debug)]
#[command(after_help = CREATE_HELP)]
pub struct Create {
    /// The directory to make, or an empty one
    #[arg(value_name = "TREE", value_hint = ValueHint::DirPath)]
    pub tree: PathBuf,
    /// How much it may hold, in bytes or with K, M, G or T
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub size: u64,
    /// Where owners, modes and attributes are kept: xattr, sqlite, shadow_fs or shadow_link
    #[arg(long, value_name = "FORMAT", default_value = "xattr", value_parser = FORMATS, hide_possible_values = true)]
    pub metadata: Format,
    /// The host's user who is to own the tree on the host (root only)
    #[arg(long, value_name = "USER[:GROUP]")]
    pub owner: Option<String>,
    /// How many files it may hold [default: as many as the host takes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub inodes: Option<u64>,
    /// Whose files are that the host makes in it, for want of -o adopt=: root, owner-map or refuse [default: root]
    #[arg(long, value_name = "POLICY", value_parser = super::check::POLICIES, hide_possible_values = true)]
    pub adopt: Option<Adopt>,
    /// What to fill it with: a directory, a tar archive, or - for an archive on standard input
    #[arg(long, value_name = "DIR|TAR|-", value_hint = ValueHint::AnyPath)]
    pub from: Option<PathBuf>,
}

const CREATE_HELP: &str = "\
An archive may be compressed by gzip, xz or zstd. Owners, modes, device nodes and attributes are those in the archive: no root is needed. Its member \
'./' is the root. Until the tree is filled nothing can mount it; after an interruption the same command starts it over.

Examples:
  externfs create /srv/guest --size 20G --from debian.tar.zst
  debootstrap --variant=minbase stable root && externfs create guest --size 2G --from root
  tar -C root -c . | externfs create guest --size 2G --metadata shadow_fs --from -
  externfs create empty --size 500M --inodes 100000";

/// Arguments of `export`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
The archive is PAX, ordered by name; the same tree always gives the same bytes. Sockets, for which tar has no type, become empty files that
'externfs create --from' makes sockets again.

Examples:
  externfs export /srv/guest --tar guest.tar
  externfs export /srv/guest --tar - | zstd > guest.tar.zst")]
pub struct Export {
    /// The tree
    #[arg(value_name = "TREE", value_hint = ValueHint::DirPath)]
    pub tree: OsString,
    /// The archive to write; - for standard output
    #[arg(long, value_name = "FILE|-", value_hint = ValueHint::FilePath)]
    pub tar: PathBuf,
}

/// Arguments of `resize`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  externfs resize /srv/guest 40G")]
pub struct Resize {
    /// The tree
    #[arg(value_name = "TREE", value_hint = ValueHint::DirPath)]
    pub tree: PathBuf,
    /// How much it may hold, in bytes or with K, M, G or T
    #[arg(value_name = "SIZE", value_parser = parse_size)]
    pub size: u64,
}

/// Arguments of `convert`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
No data is copied. The old records stay until the new ones are complete and have been compared with them; after an interruption the same command goes on,
or begins anew if the tree was mounted or changed meanwhile.

Examples:
  externfs convert /srv/guest --metadata shadow_fs")]
pub struct Convert {
    /// The tree, which must not be mounted
    #[arg(value_name = "TREE", value_hint = ValueHint::DirPath)]
    pub tree: PathBuf,
    /// Where owners, modes and attributes are to be: xattr, sqlite, shadow_fs or shadow_link
    #[arg(long, value_name = "FORMAT", value_parser = FORMATS, hide_possible_values = true)]
    pub metadata: Format,
}

/// Arguments of `ls`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  externfs ls /srv/guest\n  externfs ls -l /srv/guest /etc /dev\n  externfs ls -lR /srv/guest /var/log")]
pub struct Ls {
    /// The tree
    #[arg(value_name = "TREE", value_hint = ValueHint::DirPath)]
    pub tree: OsString,
    /// Paths in it [default: its root]
    #[arg(value_name = "PATH")]
    pub paths: Vec<OsString>,
    /// Type, mode, links, owner, group, size and time too (UTC)
    #[arg(short, long)]
    pub long: bool,
    /// Owners as numbers
    #[arg(short, long)]
    pub numeric: bool,
    /// Directories themselves, not what is in them
    #[arg(short, long)]
    pub directory: bool,
    /// Everything below as well
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// Arguments of `stat`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  externfs stat /srv/guest /etc/shadow /bin/su")]
pub struct Stat {
    /// The tree
    #[arg(value_name = "TREE", value_hint = ValueHint::DirPath)]
    pub tree: OsString,
    /// Paths in it
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<OsString>,
}

/// Arguments of `chown`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Names are those of the tree's own /etc/passwd and /etc/group. As everywhere, a file that changes hands loses setuid and setgid. Links are changed themselves.

Examples:
  externfs chown /srv/guest root:shadow /etc/shadow
  externfs chown -R /srv/guest 1000:1000 /home/user")]
pub struct Chown {
    /// The tree
    #[arg(value_name = "TREE", value_hint = ValueHint::DirPath)]
    pub tree: OsString,
    /// USER, USER:GROUP, USER: for the user's own group, or :GROUP; by name or number
    #[arg(value_name = "OWNER")]
    pub owner: String,
    /// Paths in it
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<OsString>,
    /// Everything below as well
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// Arguments of `chmod`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
An octal MODE is all twelve bits; a symbolic one is as in chmod(1), where no letter in front means all.

Examples:
  externfs chmod /srv/guest 4755 /bin/su
  externfs chmod -R /srv/guest u=rwX,go-w /home/user")]
pub struct Chmod {
    /// The tree
    #[arg(value_name = "TREE", value_hint = ValueHint::DirPath)]
    pub tree: OsString,
    /// 4755, u+s, go-w, a=rX and lists of these
    #[arg(value_name = "MODE", allow_hyphen_values = true)]
    pub mode: String,
    /// Paths in it
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<OsString>,
    /// Everything below as well; links are passed over
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// Arguments of `mknod`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  externfs mknod /srv/guest /dev/ubda b 98 0 -m 660 --owner root:disk\n  externfs mknod /srv/guest /run/pipe p"
)]
pub struct Mknod {
    /// The tree
    #[arg(value_name = "TREE", value_hint = ValueHint::DirPath)]
    pub tree: OsString,
    /// The path to make in it
    #[arg(value_name = "PATH")]
    pub path: OsString,
    /// b: block device, c: character device, p: FIFO, s: socket
    #[arg(value_name = "TYPE", value_parser = ["b", "c", "p", "s"])]
    pub kind: String,
    /// The device's major number
    #[arg(value_name = "MAJOR", requires = "minor")]
    pub major: Option<u32>,
    /// The device's minor number
    #[arg(value_name = "MINOR")]
    pub minor: Option<u32>,
    /// Permission bits, octal
    #[arg(short, long, value_name = "MODE", default_value = "644", value_parser = parse_octal)]
    pub mode: u32,
    /// Whose it is, as for chown
    #[arg(long, value_name = "USER[:GROUP]")]
    pub owner: Option<String>,
}

/// Arguments of `ln`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  externfs ln /srv/guest /bin/vi /bin/view\n  externfs ln -s /srv/guest ../usr/share/zoneinfo/UTC /etc/localtime"
)]
pub struct Ln {
    /// The tree
    #[arg(value_name = "TREE", value_hint = ValueHint::DirPath)]
    pub tree: OsString,
    /// A path in it; with -s any text
    #[arg(value_name = "TARGET")]
    pub target: OsString,
    /// The path to make in it
    #[arg(value_name = "PATH")]
    pub path: OsString,
    /// A symbolic link
    #[arg(short, long)]
    pub symbolic: bool,
}

/// Arguments of `cp-in`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
What is there already keeps its owner, mode and attributes, and is replaced at once when the copy is whole; its other hard links stay as they were. What is new is root's.
As by cp(1), what a FIFO or device gives becomes a file, unless -r or -p copies it itself; of several files with one name the first is copied.

Examples:
  externfs cp-in /srv/guest ./resolv.conf /etc/resolv.conf
  externfs cp-in -r -p /srv/guest ./modules /lib
  sed 's/^root:[^:]*:/root::/' shadow | externfs cp-in /srv/guest - /etc/shadow")]
pub struct CpIn {
    /// The tree
    #[arg(value_name = "TREE", value_hint = ValueHint::DirPath)]
    pub tree: OsString,
    /// Files of the host; - for standard input
    #[arg(value_name = "SRC", required = true, action = ArgAction::Append, value_hint = ValueHint::AnyPath)]
    pub sources: Vec<PathBuf>,
    /// A path in the tree; a directory if there are several files
    #[arg(value_name = "PATH")]
    pub target: OsString,
    /// Directories with all that is in them; devices, FIFOs, sockets and links themselves
    #[arg(short, long)]
    pub recursive: bool,
    /// Keep owners, all mode bits, times and attributes; devices, FIFOs and sockets themselves
    #[arg(short, long)]
    pub preserve: bool,
}

/// Arguments of `cp-out`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
What is there already is replaced at once when the copy is whole. Links, devices and FIFOs are copied themselves; of several files with one name the first is copied.

Examples:
  externfs cp-out /srv/guest /etc/shadow -
  externfs cp-out -r -p /srv/guest /var/log ./logs")]
pub struct CpOut {
    /// The tree
    #[arg(value_name = "TREE", value_hint = ValueHint::DirPath)]
    pub tree: OsString,
    /// Paths in it
    #[arg(value_name = "PATH", required = true, action = ArgAction::Append)]
    pub paths: Vec<OsString>,
    /// Where to on the host; a directory if there are several paths, - for standard output
    #[arg(value_name = "DEST", value_hint = ValueHint::AnyPath)]
    pub target: PathBuf,
    /// Directories with all that is in them
    #[arg(short, long)]
    pub recursive: bool,
    /// Keep owners, all mode bits, times and attributes, as far as the user may
    #[arg(short, long)]
    pub preserve: bool,
}

/// A number of bytes: digits, with K, M, G or T for powers of 1024.
///
/// # Errors
/// What it should look like.
pub fn parse_size(text: &str) -> Result<u64, String> {
    const WANTED: &str = "a number of bytes, or one with K, M, G or T, as in 20G";
    let (digits, shift) = match text.bytes().last() {
        Some(b'k' | b'K') => (text.get(..text.len() - 1), 10),
        Some(b'm' | b'M') => (text.get(..text.len() - 1), 20),
        Some(b'g' | b'G') => (text.get(..text.len() - 1), 30),
        Some(b't' | b'T') => (text.get(..text.len() - 1), 40),
        _ => (Some(text), 0),
    };
    // "+5" would parse as a number.
    let digits = digits.filter(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).ok_or(WANTED)?;
    let number: u64 = digits.parse().map_err(|_| "it is too large".to_owned())?;
    match number.checked_mul(1 << shift) {
        // The host counts in signed numbers.
        Some(bytes @ 1..=0x7fff_ffff_ffff_ffff) => Ok(bytes),
        Some(0) => Err("nothing fits into 0 bytes".into()),
        _ => Err("it is too large".into()),
    }
}

const FORMATS: Known<Format> = Known { words: || Format::ALL.iter().map(|format| format.name()).collect(), parse: parse_format };

fn parse_format(text: &str) -> Result<Format, String> {
    Format::parse(text).ok_or_else(|| {
        let all: Vec<_> = Format::ALL.iter().map(|format| format.name()).collect();
        format!("there are {}", all.join(", "))
    })
}

fn parse_octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777).ok_or_else(|| "an octal number up to 7777".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        for (text, bytes) in [("1", 1), ("4096", 4096), ("1k", 1 << 10), ("3M", 3 << 20), ("20G", 20 << 30), ("2t", 2 << 40)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "K", "0", "0G", "-1", "+5", "1.5G", "1GB", "1 G", "x", "99999999999999999999", "9999999999T", "8388608T", "5é"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
