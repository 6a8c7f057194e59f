//! [`Policy`]: what a statement may name. SQLite asks it about each table,
//! function and action while it compiles.

use super::Allowed;
use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Functions that compute something from their arguments and cannot be made to
/// allocate more than those ask for. Sorted.
const FUNCTIONS: &[&str] = &[
    "->",
    "->>",
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "avg",
    "bm25",
    "ceil",
    "ceiling",
    "char",
    "coalesce",
    "concat",
    "concat_ws",
    "cos",
    "cosh",
    "count",
    "cume_dist",
    "current_date",
    "current_time",
    "current_timestamp",
    "date",
    "datetime",
    "degrees",
    "dense_rank",
    "exp",
    "first_value",
    "floor",
    "format",
    "glob",
    "group_concat",
    "hex",
    "highlight",
    "if",
    "ifnull",
    "iif",
    "instr",
    "json_array_length",
    "json_extract",
    "json_type",
    "json_valid",
    "julianday",
    "lag",
    "last_value",
    "lead",
    "length",
    "like",
    "likelihood",
    "likely",
    "ln",
    "log",
    "log10",
    "log2",
    "lower",
    "ltrim",
    "match",
    "max",
    "median",
    "min",
    "mod",
    "nth_value",
    "ntile",
    "nullif",
    "octet_length",
    "percent_rank",
    "pi",
    "pow",
    "power",
    "printf",
    "quote",
    "radians",
    "random",
    "rank",
    "replace",
    "round",
    "row_number",
    "rtrim",
    "sign",
    "sin",
    "sinh",
    "snippet",
    "sqlite_version",
    "sqrt",
    "strftime",
    "string_agg",
    "substr",
    "substring",
    "subtype",
    "sum",
    "tan",
    "tanh",
    "time",
    "timediff",
    "total",
    "trim",
    "trunc",
    "typeof",
    "unhex",
    "unicode",
    "unistr",
    "unixepoch",
    "unlikely",
    "upper",
];

#[derive(Default)]
struct State {
    /// Tables that may be read, in small letters.
    open: HashSet<String>,
    /// Those that exist and may not.
    closed: HashSet<String>,
    /// What we do for ourselves needs no permission.
    ours: bool,
    /// Rows of open tables may be changed.
    writes: bool,
    /// The first thing that was refused.
    refused: Option<String>,
}

/// Shared between a connection's authorizer and those who run statements.
#[derive(Clone, Default)]
pub(crate) struct Policy(Arc<Mutex<State>>);

impl Policy {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `connection` ask.
    pub(crate) fn install(&self, connection: &mut Connection, writes: bool) -> rusqlite::Result<()> {
        self.state().writes = writes;
        let own = self.clone();
        connection.authorizer(Some(move |context: AuthContext<'_>| own.decide(&context)))
    }

    /// From now on `names` exist, of which `allowed` are open.
    pub(crate) fn learn(&self, names: &[String], allowed: &Allowed) {
        let mut state = self.state();
        let small: HashSet<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        let is_listed = |name: &&String| match allowed {
            Allowed::Everything => !name.starts_with("sqlite_"),
            Allowed::Only(list) => list.iter().any(|listed| listed.eq_ignore_ascii_case(name)),
        };
        let (open, closed): (HashSet<&String>, HashSet<&String>) = small.iter().partition(is_listed);
        state.open = open.into_iter().cloned().collect();
        state.closed = closed.into_iter().cloned().collect();
    }

    /// Whether queries may read the table called `name`.
    pub(crate) fn is_open(&self, name: &str) -> bool {
        self.state().open.contains(&name.to_ascii_lowercase())
    }

    /// Runs `work` without asking for permission.
    pub(crate) fn ours<T>(&self, work: impl FnOnce() -> T) -> T {
        self.state().ours = true;
        let done = work();
        self.state().ours = false;
        done
    }

    /// What was refused since the last call.
    pub(crate) fn take_refused(&self) -> Option<String> {
        self.state().refused.take()
    }

    fn decide(&self, context: &AuthContext<'_>) -> Authorization {
        let mut state = self.state();
        if state.ours {
            return Authorization::Allow;
        }
        match refuse(&state, context) {
            None => Authorization::Allow,
            Some(what) => {
                state.refused.get_or_insert(what);
                Authorization::Deny
            }
        }
    }
}

/// What about `context` is not allowed.
fn refuse(state: &State, context: &AuthContext<'_>) -> Option<String> {
    let not_open = |name: &str| {
        let is_open = state.open.contains(&name.to_ascii_lowercase());
        (!is_open).then(|| format!("table {name} is not open to queries"))
    };
    match &context.action {
        AuthAction::Select | AuthAction::Recursive => None,
        // A table of which no column is read. SQLite asks the same of a CTE,
        // by a name that the query has made up; so here the closed ones count.
        AuthAction::Read { table_name, column_name: "" } => {
            let name = table_name.to_ascii_lowercase();
            let closed = state.closed.contains(&name) || name.starts_with("sqlite_") || name.starts_with("pragma_");
            closed.then(|| format!("table {table_name} is not open to queries"))
        }
        AuthAction::Read { table_name, .. } => not_open(table_name),
        AuthAction::Function { function_name } => {
            let name = function_name.to_ascii_lowercase();
            FUNCTIONS.binary_search(&name.as_str()).is_err().then(|| format!("function {function_name} is not open to queries"))
        }
        // Full text tables look at it for themselves.
        AuthAction::Pragma { pragma_name: "data_version", pragma_value: None } => None,
        AuthAction::Insert { table_name } | AuthAction::Delete { table_name } | AuthAction::Update { table_name, .. } if state.writes => {
            not_open(table_name)
        }
        AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } if state.writes => None,
        AuthAction::Pragma { pragma_name, .. } => Some(format!("PRAGMA {pragma_name} is not open to queries")),
        AuthAction::Attach { .. } => Some("no other database can be attached".into()),
        _ => Some("only statements that read are open to queries".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_sorted_and_harmless() {
        assert!(FUNCTIONS.is_sorted());
        for bad in
            ["load_extension", "zeroblob", "randomblob", "fts3_tokenizer", "readfile", "writefile", "sqlite_compileoption_get", "edit"]
        {
            assert!(FUNCTIONS.binary_search(&bad).is_err(), "{bad}");
        }
    }
}
