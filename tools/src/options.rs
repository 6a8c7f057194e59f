//! `-o` lists: parsed once, then split between the mount and the plugin.
//!
//! A list is `key,key=value,...`. A comma inside a value is written `\,` and a
//! backslash `\\`, as mount(8) helpers have it. Later options win.

use crate::failure::{Failure, Result};
use externfs::{MountOption, Plugin};

/// Parses every `-o` list of a command line, in order.
///
/// # Errors
/// An option without a name (`=x`).
pub fn parse(lists: &[String]) -> Result<Vec<MountOption>> {
    let mut options = Vec::new();
    for list in lists {
        for item in split(list) {
            if item.is_empty() {
                continue;
            }
            let (key, value) = match item.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (item, None),
            };
            if key.is_empty() {
                return Err(Failure::usage(format!("option without a name in '-o {list}'")));
            }
            options.push(MountOption { key, value });
        }
    }
    Ok(options)
}

/// The items between unescaped commas, without the escapes.
pub(crate) fn split(list: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        let literal = match character {
            ',' => {
                items.push(String::new());
                continue;
            }
            '\\' => characters.next().unwrap_or('\\'),
            other => other,
        };
        if let Some(item) = items.last_mut() {
            item.push(literal);
        }
    }
    items
}

/// The key of an option as a plugin documents it: "map-uid=GUEST:HOST:N" is `map-uid`.
fn documented_key(written: &str) -> &str {
    written.split_once('=').map_or(written, |(key, _)| key).trim_end_matches('[')
}

/// Whether `plugin` documents an option called `key`.
#[must_use]
pub fn is_known_to(plugin: &dyn Plugin, key: &str) -> bool {
    plugin.options().iter().flat_map(|(written, _)| written.split('|')).any(|written| documented_key(written) == key)
}

/// Refuses an option that neither the mount took nor the plugin has, naming what
/// both have, and the one that was meant if it is close.
///
/// # Errors
/// The option and the lists.
pub fn check_for_plugin(plugin: &dyn Plugin, options: &[MountOption]) -> Result<()> {
    let Some(stranger) = options.iter().find(|option| !is_known_to(plugin, &option.key)) else { return Ok(()) };
    let list = |options: &mut dyn Iterator<Item = &'static str>| options.collect::<Vec<_>>().join(", ");
    let plugins = list(&mut plugin.options().iter().map(|(written, _)| documented_key(written)));
    let plugins = if plugins.is_empty() { "none".into() } else { plugins };
    let all = plugin.options().iter().flat_map(|(written, _)| written.split('|')).map(documented_key);
    let all = all.chain(of_mounts()).chain(externfs_fuse::MOUNT_OPPOSITES.iter().copied());
    let meant = meant(&stranger.key, all).map_or_else(String::new, |key| format!(" (did you mean '{key}'?)"));
    let (name, mounts) = (plugin.name(), list(&mut of_mounts()));
    Err(Failure::usage(format!("unknown option '{}'{meant}: {name} has {plugins}; every mount has {mounts}", stranger.key)))
}

/// What a mount has, whatever the plugin.
fn of_mounts() -> impl Iterator<Item = &'static str> {
    let all = [externfs_fuse::MOUNT_OPTIONS, externfs_fuse::SERVE_OPTIONS, crate::mount::GENERAL_OPTIONS];
    all.into_iter().flatten().map(|(written, _)| documented_key(written))
}

/// The key of `known` that `written` is a slip of: one or two letters in half of
/// them, `-` for `_`, capitals. The first letter is never the wrong one, or `uid`
/// would be `suid`.
fn meant<'k>(written: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    const SLIPS: usize = 2;
    let plain = |text: &str| text.to_ascii_lowercase().replace('_', "-").chars().collect::<Vec<_>>();
    let written = plain(written);
    let near = known.filter_map(|key| {
        let other = plain(key);
        if other.first() != written.first() || other.len().abs_diff(written.len()) > SLIPS {
            return None;
        }
        let slips = distance(&written, &other);
        (slips <= SLIPS && slips * 2 <= written.len()).then_some((slips, key))
    });
    near.min_by_key(|(slips, _)| *slips).map(|(_, key)| key)
}

/// How many letters must be put in, taken out or exchanged to make `b` of `a`.
fn distance(a: &[char], b: &[char]) -> usize {
    // To each beginning of `b`, from the beginning of `a` so far.
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (done, letter) in a.iter().enumerate() {
        let (mut diagonal, mut left) = (done, done + 1);
        let mut next = vec![left];
        for (other, above) in b.iter().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(letter != other)).min(above + 1).min(left + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// The number in `option`, for options that need one.
///
/// # Errors
/// No value, or one that is no number from `1` to `most`.
pub fn number(option: &MountOption, most: usize) -> Result<usize> {
    let wanted = || Failure::usage(format!("option '{}' wants a number from 1 to {most}", option.key));
    let value: usize = option.value.as_deref().ok_or_else(wanted)?.parse().map_err(|_| wanted())?;
    if (1..=most).contains(&value) { Ok(value) } else { Err(wanted()) }
}

/// Whether a switch is on: `key`, `key=on`, `key=off`.
///
/// # Errors
/// Another value.
pub fn switch(option: &MountOption) -> Result<bool> {
    match option.value.as_deref() {
        None | Some("on" | "yes" | "true" | "1") => Ok(true),
        Some("off" | "no" | "false" | "0") => Ok(false),
        Some(other) => Err(Failure::usage(format!("option '{}' is on or off, not '{other}'", option.key))),
    }
}

/// The value of an option that needs one.
///
/// # Errors
/// There is none.
pub fn value(option: &MountOption) -> Result<&str> {
    match option.value.as_deref() {
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(Failure::usage(format!("option '{}' wants a value: {0}=VALUE", option.key))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(list: &str) -> Vec<(String, Option<String>)> {
        parse(&[list.to_owned()]).expect("good").into_iter().map(|o| (o.key, o.value)).collect()
    }

    #[test]
    fn lists_split_at_commas_that_are_not_escaped() {
        assert_eq!(keys("ro,,squash=1:2,"), [("ro".into(), None), ("squash".into(), Some("1:2".into()))]);
        assert_eq!(keys(r"fsname=a\,b\\c"), [("fsname".into(), Some(r"a,b\c".into()))]);
        assert_eq!(keys("a=b=c"), [("a".into(), Some("b=c".into()))]);
        assert_eq!(keys("a="), [("a".into(), Some(String::new()))]);
        assert_eq!(keys("x\\"), [("x\\".into(), None)]);
        assert!(parse(&["=x".into()]).is_err());
    }

    #[test]
    fn slips_are_told_from_other_words() {
        let distance = |a: &str, b: &str| distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
        for (a, b, slips) in [("", "", 0), ("", "ab", 2), ("ab", "", 2), ("kitten", "sitting", 3), ("wacth", "watch", 2), ("ro", "ro", 0)] {
            assert_eq!((distance(a, b), distance(b, a)), (slips, slips), "{a} {b}");
        }
        let known = ["ro", "sync", "suid", "allow_other", "one-file-system", "watch"];
        for (written, expected) in [
            ("allow-other", Some("allow_other")),
            ("Allow_Other", Some("allow_other")),
            ("onefilesystem", Some("one-file-system")),
            ("wacth", Some("watch")),
            ("r0", Some("ro")),
            ("uid", None),
            ("r", None),
            ("", None),
            ("surprise", None),
            ("größe", None),
        ] {
            assert_eq!(meant(written, known.into_iter()), expected, "{written}");
        }
        assert_eq!(meant(&"r".repeat(1 << 20), known.into_iter()), None);
    }

    #[test]
    fn numbers_and_switches_say_what_they_want() {
        let option = |text: &str| parse(&[text.to_owned()]).expect("good").remove(0);
        assert_eq!(number(&option("threads=4"), 64), Ok(4));
        for bad in ["threads", "threads=", "threads=0", "threads=65", "threads=-1", "threads=x"] {
            assert!(number(&option(bad), 64).is_err(), "{bad}");
        }
        assert_eq!(switch(&option("p")), Ok(true));
        assert_eq!(switch(&option("p=off")), Ok(false));
        assert!(switch(&option("p=maybe")).is_err());
        assert!(value(&option("fsname=")).is_err());
    }
}
