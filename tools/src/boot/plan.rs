//! [`Plan`]: what `externfs boot` was asked for, checked.

use super::control::ROOT_TAG;
use super::orders::{Orders, ShareOrder};
use crate::cli;
use crate::failure::{Failure, Result};
use crate::mount::{self, Sorted};
use crate::options;
use crate::plugins;
use crate::sandbox::{Grounds, Mode};
use externfs::{Connect, Registry};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a command is looked for in a root that is not the host's.
const GUEST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A share before it is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Share {
    tag: String,
    plugin: String,
    source: PathBuf,
    sorted: Sorted,
}

/// A share that can be served.
pub struct OpenShare {
    /// What the guest mounts by.
    pub tag: String,
    /// The host's path of it.
    pub source: PathBuf,
    /// Its options.
    pub sorted: Sorted,
    /// What of it the server may go on opening.
    pub grounds: Grounds,
    /// Its bridge.
    pub connect: Arc<dyn Connect>,
}

/// A guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// See [`super::uml::find`].
    pub kernel: PathBuf,
    /// See [`super::uml::find`].
    pub modules: Option<PathBuf>,
    /// `mem=`.
    pub memory: String,
    /// The guest's console goes to standard error.
    pub verbose: bool,
    /// For the servers.
    pub sandbox: Mode,
    /// The guest's root is the host's.
    host_root: bool,
    root: Share,
    shares: Vec<Share>,
    command: Vec<OsString>,
    environment: Vec<OsString>,
}

impl Plan {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// A share that is not `TAG=SRC`, an option that its plugin does not have.
    pub fn new(asked: &cli::Boot, verbose: u8) -> Result<Plan> {
        let registry = plugins::registry();
        let host_root = asked.root.is_none();
        let root = share(&registry, ROOT_TAG, asked.root.as_deref().unwrap_or("/,ro"))?;
        let mut shares: Vec<Share> = Vec::new();
        for text in &asked.shares {
            let usage = || Failure::usage(format!("--share wants TAG=SRC[,OPT...], not '{text}'"));
            let (tag, rest) = text.split_once('=').ok_or_else(usage)?;
            check_tag(tag)?;
            if shares.iter().any(|share| share.tag == tag) {
                return Err(Failure::usage(format!("two shares are called '{tag}'")));
            }
            shares.push(share(&registry, tag, rest)?);
        }
        let command = if asked.command.is_empty() { vec!["/bin/sh".into()] } else { asked.command.clone() };
        Ok(Plan {
            kernel: asked.kernel.clone(),
            modules: asked.modules.clone(),
            memory: asked.memory.clone(),
            verbose: verbose > 0,
            sandbox: asked.sandbox,
            host_root,
            root,
            shares,
            command,
            environment: environment(host_root, &asked.environment),
        })
    }

    /// Opens every share, the root last.
    ///
    /// # Errors
    /// The plugin's line about the first that cannot be had.
    pub fn open_shares(&self) -> Result<Vec<OpenShare>> {
        let registry = plugins::registry();
        let open = |share: &Share| -> Result<OpenShare> {
            plugins::warn_of_tree(&share.plugin, &share.source);
            let mut sorted = share.sorted.clone();
            let (connect, grounds) = mount::open(mount::known(&registry, &share.plugin)?, &share.source, &mut sorted)?;
            Ok(OpenShare { tag: share.tag.clone(), source: share.source.clone(), sorted, grounds, connect })
        };
        self.shares.iter().chain([&self.root]).map(open).collect()
    }

    /// What the guest is told.
    #[must_use]
    pub fn orders(&self, terminals: [bool; 3], window: (u16, u16)) -> Orders {
        let mut scratch = vec![PathBuf::from("/run")];
        if self.host_root {
            scratch.push("/tmp".into());
        }
        // Their mount points are made there, and must not stay in a root that
        // somebody goes on using.
        if self.host_root || !self.shares.is_empty() {
            scratch.push("/mnt".into());
        }
        let shares = self.shares.iter().map(|share| ShareOrder {
            tag: share.tag.clone().into(),
            target: Path::new("/mnt").join(&share.tag),
            read_only: share.is_read_only(),
        });
        let here = std::env::current_dir().ok().filter(|_| self.host_root);
        Orders {
            command: self.command.clone(),
            environment: self.environment.clone(),
            directory: here.unwrap_or_else(|| "/".into()),
            terminals,
            window,
            root_read_only: self.root.is_read_only(),
            scratch,
            shares: shares.collect(),
        }
    }
}

impl Share {
    fn is_read_only(&self) -> bool {
        self.sorted.mount.read_only || self.sorted.plugin.iter().any(|option| option.key == "ro")
    }
}

/// It becomes a directory's name in the guest and a name in virtio's
/// configuration space, which has 36 bytes.
fn check_tag(tag: &str) -> Result<()> {
    let good = (1..=36).contains(&tag.len()) && !matches!(tag, "." | "..") && !tag.contains(['/', '\0']) && !tag.starts_with("externfs.");
    if good { Ok(()) } else { Err(Failure::usage(format!("'{}' is no tag: 1 to 36 bytes without '/'", tag.escape_debug()))) }
}

/// Parses `[PLUGIN:]SRC[,OPT...]`.
fn share(registry: &Registry, tag: &str, text: &str) -> Result<Share> {
    let mut items = options::split(text).into_iter();
    let source = items.next().unwrap_or_default();
    let list: Vec<String> = items.map(|item| item.replace('\\', "\\\\").replace(',', "\\,")).collect();
    let (plugin, source) = split_source(registry, &source)?;
    if source.is_empty() {
        return Err(Failure::usage(format!("share '{tag}' has no source: {tag}=SRC")));
    }
    let source = std::path::absolute(source).unwrap_or_else(|_| source.into());
    let known = mount::known(registry, plugin)?;
    let sorted = mount::sort(known, &options::parse(&list)?)?;
    Ok(Share { tag: tag.into(), plugin: plugin.into(), source, sorted })
}

/// `PLUGIN:SRC` or `PLUGIN#SRC` where there is such a plugin, else hostfs.
///
/// # Errors
/// There is none, and no file that is called so: SRC of hostfs with a colon is
/// there, or has a slash or a dot before it.
pub fn split_source<'a>(registry: &Registry, text: &'a str) -> Result<(&'a str, &'a str)> {
    let Some((plugin, source)) = text.split_once([':', '#']) else { return Ok(("hostfs", text)) };
    let looks_like_one = !plugin.is_empty() && plugin.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    match mount::known(registry, plugin) {
        Ok(_) => Ok((plugin, source)),
        Err(unknown) if looks_like_one && Path::new(text).symlink_metadata().is_err() => Err(unknown),
        Err(_) => Ok(("hostfs", text)),
    }
}

/// What the command finds in its environment: little, as after a login.
fn environment(host_root: bool, asked: &[OsString]) -> Vec<OsString> {
    let host = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let mut all: Vec<(OsString, OsString)> = Vec::new();
    let mut set = |name: &OsStr, value: OsString| {
        all.retain(|(other, _)| other != name);
        all.push((name.to_owned(), value));
    };
    let path = host("PATH").filter(|_| host_root).unwrap_or_else(|| GUEST_PATH.into());
    let home = host("HOME").filter(|_| host_root).unwrap_or_else(|| "/root".into());
    set("PATH".as_ref(), path);
    set("HOME".as_ref(), home);
    set("TERM".as_ref(), host("TERM").unwrap_or_else(|| "linux".into()));
    set("USER".as_ref(), "root".into());
    set("LOGNAME".as_ref(), "root".into());
    for name in ["LANG", "LC_ALL", "TZ"] {
        if let Some(value) = host(name) {
            set(name.as_ref(), value);
        }
    }
    for item in asked {
        let text = item.to_string_lossy();
        match text.split_once('=') {
            Some((name, value)) => set(name.as_ref(), value.into()),
            None => {
                if let Some(value) = std::env::var_os(item) {
                    set(item, value);
                }
            }
        }
    }
    let joined = all.into_iter().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    joined.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn plan(arguments: &[&str]) -> Result<Plan> {
        let all = ["externfs", "boot"].iter().chain(arguments);
        match cli::Cli::try_parse_from(all).expect("parses").command {
            cli::Command::Boot(boot) => Plan::new(&boot, 0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn shares_are_taken_apart() {
        let plan = plan(&["--share", r"a=/srv/x\,y,ro", "--share", "b=hostfs:/srv", "--", "ls", "-l"]).expect("good");
        let orders = plan.orders([false; 3], (24, 80));
        assert_eq!(orders.command, ["ls", "-l"]);
        assert_eq!(plan.shares[0].source, Path::new("/srv/x,y"));
        assert_eq!(plan.shares[1].source, Path::new("/srv"));
        assert!(orders.shares[0].read_only && !orders.shares[1].read_only && orders.root_read_only);
        assert_eq!(orders.scratch, [Path::new("/run"), Path::new("/tmp"), Path::new("/mnt")]);
    }

    #[test]
    fn a_root_of_its_own_is_writable_and_left_as_it_was() {
        let plan = plan(&["--root", "/srv/debian"]).expect("good");
        let orders = plan.orders([false; 3], (24, 80));
        assert!(!orders.root_read_only);
        assert_eq!((orders.scratch, orders.directory), (vec![PathBuf::from("/run")], PathBuf::from("/")));
        assert_eq!(orders.command, ["/bin/sh"]);
        assert!(orders.environment.contains(&format!("PATH={GUEST_PATH}").into()));
    }

    #[test]
    fn nonsense_is_named() {
        for bad in
            ["a", "=x", "a=", "a/b=/x", "..=/x", "externfs.root=/x", "a=/x,surprise", "a=foofs:/x", &format!("{}=/x", "t".repeat(37))]
        {
            let failure = plan(&["--share", bad]).expect_err(bad);
            assert_eq!(failure.code, 2, "{failure}");
        }
        assert!(plan(&["--share", "a=/x", "--share", "a=/y"]).is_err());
    }
}
