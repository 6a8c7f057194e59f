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

/// Refuses an option that the plugin does not have, naming those it has.
///
/// # Errors
/// The option and the list.
pub fn check_for_plugin(plugin: &dyn Plugin, options: &[MountOption]) -> Result<()> {
    match options.iter().find(|option| !is_known_to(plugin, &option.key)) {
        None => Ok(()),
        Some(stranger) => {
            let known: Vec<_> = plugin.options().iter().map(|(written, _)| documented_key(written)).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            Err(Failure::usage(format!("unknown option '{}': {} has {known}", stranger.key, plugin.name())))
        }
    }
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
