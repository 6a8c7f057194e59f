//! The words of a statement, as far as a file name's meaning hangs on them:
//! whether it is a query, whether something in it is still open, how many
//! arguments it takes. Nothing here runs or changes anything.

use std::collections::HashSet;

/// Whether `text` begins as a query does.
pub(crate) fn is_query(text: &str) -> bool {
    let text = text.trim_start();
    let word: String = text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    ["select", "with", "values", "explain"].iter().any(|known| known.eq_ignore_ascii_case(&word))
}

/// What a statement looks like from a distance.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Shape {
    /// A quote, a parenthesis or a comment is not closed: it goes on.
    pub(crate) is_open: bool,
    /// The arguments that it takes, as SQLite numbers them.
    pub(crate) arguments: usize,
}

/// Looks at `sql`.
pub(crate) fn shape(sql: &str) -> Shape {
    let mut rest = sql;
    let (mut depth, mut highest, mut names) = (0_u32, 0, HashSet::new());
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '\'' | '"' | '`' | '[' => match after_quote(rest, first) {
                Some(after) => after,
                None => return Shape { is_open: true, arguments: highest },
            },
            '-' if rest.starts_with("--") => rest.split_once('\n').map_or("", |(_, after)| after),
            '/' if rest.starts_with("/*") => match rest.split_at(2).1.split_once("*/") {
                Some((_, after)) => after,
                None => return Shape { is_open: true, arguments: highest },
            },
            '?' => {
                let (digits, after) = split_while(rest.split_at(1).1, |c| c.is_ascii_digit());
                // SQLite refuses numbers that are too large by itself.
                highest = if digits.is_empty() { highest + 1 } else { highest.max(digits.parse().unwrap_or(0)) };
                after
            }
            ':' | '@' | '$' => {
                let (name, after) = variable(rest.split_at(1).1);
                if !name.is_empty() && names.insert((first, name)) {
                    highest += 1;
                }
                after
            }
            _ if is_of_a_word(first) => split_while(rest, is_of_a_word_within).1,
            _ => {
                match first {
                    '(' => depth += 1,
                    // One too many is SQLite's to complain about.
                    ')' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                rest.split_at(first.len_utf8()).1
            }
        };
    }
    Shape { is_open: depth > 0, arguments: highest }
}

fn is_of_a_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()
}

fn is_of_a_word_within(c: char) -> bool {
    is_of_a_word(c) || c == '$'
}

/// A variable's name at the beginning of `text`, and what follows it. SQLite
/// takes those of Tcl too: `a::b`, and `a(b)` at the end.
fn variable(text: &str) -> (&str, &str) {
    let mut length = 0;
    loop {
        let (before, rest) = text.split_at(length);
        let (word, after) = split_while(rest, is_of_a_word_within);
        length += word.len();
        if after.starts_with("::") {
            length += 2;
        } else if after.starts_with('(') && length > 0 {
            let end = after.find(|c: char| c == ')' || c.is_ascii_whitespace());
            // Without its end it is no variable, and no statement either.
            return text.split_at(end.map_or(text.len(), |end| length + end + 1));
        } else {
            return text.split_at(before.len() + word.len());
        }
    }
}

fn split_while(text: &str, is_in: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !is_in(c)).unwrap_or(text.len());
    text.split_at(end)
}

/// What follows the quoted text at the beginning of `text`; a doubled quote
/// is part of it.
fn after_quote(text: &str, open: char) -> Option<&str> {
    let close = if open == '[' { ']' } else { open };
    let mut rest = text.split_at(1).1;
    loop {
        let after = rest.split_once(close)?.1;
        match after.strip_prefix(close) {
            Some(more) if close != ']' => rest = more,
            _ => return Some(after),
        }
    }
}

/// A name as a path component. Queries are taken as they are; names of tables
/// and columns and keys are data, and may be anything: `/`, `%` and what no
/// component can be is written as `%` and two digits.
pub(crate) fn spell(name: &str) -> String {
    if matches!(name, "." | "..") {
        return name.replace('.', "%2E");
    }
    if name.is_empty() {
        return "%".to_owned();
    }
    name.replace('%', "%25").replace('/', "%2F").replace('\0', "%00")
}

/// Takes [`spell`] back; None for what it never writes.
pub(crate) fn unspell(component: &str) -> Option<String> {
    if component == "%" {
        return Some(String::new());
    }
    let mut name = String::new();
    let mut parts = component.split('%');
    name.push_str(parts.next()?);
    for part in parts {
        let (digits, after) = part.split_at_checked(2)?;
        name.push(match digits {
            "25" => '%',
            "2F" => '/',
            "2E" => '.',
            "2C" => ',',
            "00" => '\0',
            _ => return None,
        });
        name.push_str(after);
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_known_by_their_first_word() {
        for query in [
            "select 1",
            "SELECT",
            "With x as (select 1) select 2",
            "values (1)",
            "explain select 1",
            " select\t1",
            "select(1)",
            "select'x'",
            "select*from t",
        ] {
            assert!(is_query(query), "{query}");
        }
        for other in
            ["", "selects", "select_1 ", "insert into t", "pragma x", "README", "4913", ".git", ".hidden select 1", "autorun.inf", "délete"]
        {
            assert!(!is_query(other), "{other}");
        }
    }

    #[test]
    fn what_is_open_goes_on() {
        for open in [
            "select * from t where name like '",
            "select (1",
            "select ((1)",
            "select 'it''s ",
            "select \"a",
            "select [a",
            "select `a",
            "select (1 /* x",
            "select 'a' || '",
            "select '--",
            "select '/*'||'",
            "select (')'",
            "select (1 -- )",
        ] {
            assert!(shape(open).is_open, "{open}");
        }
        for closed in [
            "select 1",
            "select 'a'",
            "select 'it''s'",
            "select (1)",
            "select ')'",
            "select [a]]",
            "select \"a\"\"b\"",
            "select 1 -- (",
            "select ('(')",
            "select 1)",
            "select 'a--'",
            "select 1 /* ( */",
            "",
            "select 'ä'",
        ] {
            assert!(!shape(closed).is_open, "{closed}");
        }
    }

    #[test]
    fn arguments_are_counted_as_sqlite_counts() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        for sql in [
            "select 1",
            "select ?",
            "select ?, ?",
            "select ?2",
            "select ?1, ?1",
            "select ?3, ?",
            "select :a, :a, :b",
            "select @a, $a, :a",
            "select '?', \"?\", ?",
            "select 1 -- ?\n, ?",
            "select 1 /* ? */",
            "select ?1 || '?2' || [?]  from (select 1 as \"?\")",
            "select 'a:b', 1 as a$b",
        ] {
            let counted = connection.prepare(sql).unwrap().parameter_count();
            assert_eq!(shape(sql).arguments, counted, "{sql}");
        }
    }

    #[test]
    fn any_name_is_a_component_and_back() {
        for name in ["a", ".", "..", "a/b", "100%", "%2F", "", "x\0y", "ä", "...", ".a", "%"] {
            let component = spell(name);
            assert!(!component.is_empty() && !component.contains(['/', '\0']) && component != "." && component != "..");
            assert_eq!(unspell(&component).as_deref(), Some(name));
        }
        assert_eq!(unspell("%zz"), None);
        assert_eq!(unspell("a%"), None);
    }

    /// What a guest sends is anything. Whatever SQLite takes, we see alike.
    #[test]
    fn any_text_is_looked_at() {
        let pieces = [
            "select ", "'", "\"", "`", "[", "]", "(", ")", "--", "\n", "/*", "*/", "?", "?2", ":a", "@b", "$c", "::", "1", ", ", "ä", " ",
            "x", "%", "/", "||",
        ];
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let (mut seed, mut valid) = (1_u64, 0);
        for _ in 0..20_000 {
            let mut text = String::from("select 1, ");
            for _ in 0..seed % 9 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
            }
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let seen = shape(&text);
            let _ = is_query(&text);
            assert_eq!(unspell(&spell(&text)).as_deref(), Some(text.as_str()));
            let _ = unspell(&text);
            if let Ok(statement) = connection.prepare(&text) {
                valid += 1;
                assert_eq!(seen.arguments, statement.parameter_count(), "{text}");
                // SQLite lets a comment run to the end of the text.
                assert!(!seen.is_open || text.contains("/*"), "{text}");
            }
        }
        assert!(valid > 100, "{valid}");
    }
}
