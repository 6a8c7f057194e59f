//! The plan of a query, for people: `.explain/`.

use rusqlite::Rows;
use std::collections::HashMap;
use std::fmt::Write;

/// The rows of EXPLAIN QUERY PLAN as an indented tree, and a warning for each
/// table that is read whole.
pub(crate) fn show(rows: &mut Rows<'_>) -> rusqlite::Result<(String, u64)> {
    let mut depths: HashMap<i64, usize> = HashMap::new();
    let (mut text, mut warnings, mut count) = (String::new(), String::new(), 0);
    while let Some(row) = rows.next()? {
        let (id, parent, detail): (i64, i64, String) = (row.get(0)?, row.get(1)?, row.get(3)?);
        let depth = depths.get(&parent).map_or(0, |depth| depth + 1);
        depths.insert(id, depth);
        count += 1;
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{}{detail}", "  ".repeat(depth));
        if let Some(table) = detail.strip_prefix("SCAN ")
            && table != "CONSTANT ROW"
            && !table.contains(" USING ")
            && !table.contains(" VIRTUAL TABLE ")
        {
            let _ = writeln!(warnings, "warning: full scan of {table}: every row is read");
        }
    }
    Ok((text + &warnings, count))
}
