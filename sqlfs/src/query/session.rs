//! [`Session`]: one connection with everything shut that can be.

use super::failure::{Failure, Refusal};
use super::format::Format;
use super::limits::{self, Limits};
use super::plan;
use super::policy::Policy;
use super::schema::{self, Schema};
use super::sheet::{Metered, Sheet, spoiled};
use super::worker::Errand;
use super::{Allowed, Ask, Deed, Source, Value};
use externfs::Errno;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, Statement, ToSql, ffi};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What SQLite's programs are asked after so many of their instructions.
const INSTRUCTIONS: i32 = 1000;

/// The clock that a running statement is stopped by.
#[derive(Clone)]
struct Clock(Arc<(Instant, AtomicU64, AtomicBool)>);

impl Clock {
    fn new() -> Clock {
        Clock(Arc::new((Instant::now(), AtomicU64::new(u64::MAX), AtomicBool::new(false))))
    }

    fn now_ms(&self) -> u64 {
        self.0.0.elapsed().as_millis() as u64
    }

    fn start(&self, limit: Duration) {
        self.0.1.store(self.now_ms() + limit.as_millis() as u64, Ordering::Relaxed);
        self.0.2.store(false, Ordering::Relaxed);
    }

    /// Whether the time is over; from then on it was.
    fn is_over(&self) -> bool {
        let over = self.now_ms() >= self.0.1.load(Ordering::Relaxed);
        if over {
            self.0.2.store(true, Ordering::Relaxed);
        }
        over
    }

    fn was_over(&self) -> bool {
        self.0.2.load(Ordering::Relaxed)
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Real(number) => ValueRef::Real(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// See the [module](self).
pub(crate) struct Session {
    connection: Connection,
    policy: Policy,
    allowed: Allowed,
    clock: Clock,
    limits: Limits,
    source: Source,
    files: Vec<Known>,
    /// Of the schemas that `policy` knows.
    versions: Vec<i64>,
}

impl Session {
    /// Opens the database and reads all that a confined process could not.
    pub(crate) fn open(errand: &Errand, writes: bool) -> Result<Session, Failure> {
        let path = &errand.source.path;
        let access = if writes { OpenFlags::SQLITE_OPEN_READ_WRITE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
        // A tree's owner must not lead whoever looks into it elsewhere.
        let links = if errand.source.catalog.is_some() { OpenFlags::SQLITE_OPEN_NOFOLLOW } else { OpenFlags::empty() };
        let connection =
            Connection::open_with_flags(path, access | links | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(|error| Failure::of(&error))?;
        let session = Session {
            policy: Policy::default(),
            allowed: errand.allowed.clone(),
            clock: Clock::new(),
            limits: errand.limits,
            source: errand.source.clone(),
            files: errand.source.databases().map(|(name, path)| Known::look(name, path)).collect(),
            versions: Vec::new(),
            connection,
        };
        session.prepare(writes).map_err(|error| Failure::of(&error))
    }

    fn prepare(mut self, writes: bool) -> rusqlite::Result<Session> {
        let connection = &self.connection;
        connection.busy_timeout(self.limits.time / 2)?;
        // Sorting must not want a file. The random numbers are drawn for the
        // first time now, from a device that must be opened.
        connection.execute_batch(&format!(
            "PRAGMA temp_store=MEMORY; PRAGMA mmap_size=0; PRAGMA cell_size_check=ON; PRAGMA foreign_keys=ON; PRAGMA query_only={}; SELECT random();",
            if writes { "OFF" } else { "ON" }
        ))?;
        let is_catalog = self.source.catalog.is_some();
        connection.query_row(&format!("PRAGMA hard_heap_limit={}", self.limits.heap), [], |_| Ok(()))?;
        for (switch, on) in [
            (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
            // A catalog's view calls snippet(), which SQLite takes for unsafe in a schema
            // that may be anybody's.
            (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, is_catalog),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
            (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
        ] {
            connection.set_db_config(switch, on)?;
        }
        for (name, path) in self.source.databases().skip(1) {
            // It is opened as the first was: read only, and by no link.
            connection.execute("ATTACH ?1 AS ?2", (path.as_os_str().as_bytes(), name)).map(drop)?;
        }
        // The schema is parsed before the limits hold: what is in it was
        // allowed to whoever made it.
        self.learn()?;
        let limits = self.limits;
        self.set_length(limits.length)?;
        for (which, most) in [
            (Limit::SQLITE_LIMIT_SQL_LENGTH, i32::try_from(limits.sql + 1024).unwrap_or(i32::MAX)),
            (Limit::SQLITE_LIMIT_COLUMN, limits::COLUMNS),
            (Limit::SQLITE_LIMIT_EXPR_DEPTH, limits::EXPRESSION_DEPTH),
            (Limit::SQLITE_LIMIT_COMPOUND_SELECT, limits::COMPOUND),
            (Limit::SQLITE_LIMIT_VDBE_OP, limits::PROGRAM),
            (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, limits::PATTERN),
            (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, limits::ARGUMENTS),
            (Limit::SQLITE_LIMIT_ATTACHED, 0),
            (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 10),
            (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
        ] {
            self.connection.set_limit(which, most)?;
        }
        let clock = self.clock.clone();
        self.connection.progress_handler(INSTRUCTIONS, Some(move || clock.is_over()))?;
        self.policy.install(&mut self.connection, writes)?;
        Ok(self)
    }

    fn set_length(&self, most: u64) -> rusqlite::Result<()> {
        self.connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, i32::try_from(most).unwrap_or(i32::MAX)).map(drop)
    }

    /// Looks which tables there are, if a schema is another than before.
    fn learn(&mut self) -> rusqlite::Result<()> {
        let (connection, known, is_catalog) = (&self.connection, &self.versions, self.source.catalog.is_some());
        let databases: Vec<&str> = self.files.iter().map(|file| file.database.as_str()).collect();
        let seen: rusqlite::Result<_> = self.policy.ours(|| {
            let version = |name: &&str| connection.query_row(&format!("PRAGMA {name}.schema_version"), [], |row| row.get(0));
            let versions = databases.iter().map(version).collect::<rusqlite::Result<Vec<i64>>>()?;
            if versions == *known {
                return Ok(None);
            }
            let mut names = Vec::new();
            for database in &databases {
                if is_catalog && !externfs_catalog::is_ours(connection, database)? {
                    let why = "the catalog is not one of this version, or has something in its schema that is not its own";
                    return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_NOTADB), Some(why.into())));
                }
                let mut list = connection.prepare(&format!("SELECT name FROM {database}.sqlite_schema WHERE type IN ('table', 'view')"))?;
                for name in list.query_map([], |row| row.get(0))? {
                    names.push(name?);
                }
            }
            Ok(Some((versions, names)))
        });
        if let Some((versions, names)) = seen? {
            self.policy.learn(&names, &self.allowed);
            self.versions = versions;
        }
        Ok(())
    }

    /// What was seen of a file before this process gave up its rights may be
    /// out of its sight now; then nothing can be noticed.
    pub(crate) fn forget_what_is_out_of_sight(&mut self) {
        for known in &mut self.files {
            known.identity = identity(&known.path).and(known.identity);
        }
    }

    /// Whether somebody has put another file in the place of one.
    fn is_replaced(&self) -> bool {
        self.files.iter().any(Known::is_replaced)
    }

    /// Begins the time of one request.
    fn begin(&mut self) -> Result<(), Failure> {
        if self.is_replaced() {
            let refusal = Refusal::new(Errno::EIO, "the database is another file than before");
            return Err(Failure { refusal, sick: true });
        }
        self.clock.start(self.limits.time);
        self.policy.take_refused();
        self.learn().map_err(|error| self.failure(&error))
    }

    /// What an error means, to those who know what was refused and how late it is.
    fn failure(&self, error: &rusqlite::Error) -> Failure {
        let mut failure = Failure::of(error);
        if self.clock.was_over() {
            return Refusal::time(self.limits.time).into();
        }
        if let Some(refused) = self.policy.take_refused() {
            failure.refusal.errno = Errno::EACCES;
            failure.refusal.message = refused;
            failure.sick = false;
        }
        failure
    }

    /// Runs a query and writes its answer to `file`; how many rows it has.
    pub(crate) fn query(&mut self, ask: &Ask, file: &mut File, limits: &Limits) -> Result<u64, Failure> {
        if ask.sql.len() > limits.sql {
            let message = format!("the statement has {} bytes of {} at most", ask.sql.len(), limits.sql);
            return Err(Refusal::limit(Errno::EFBIG, "sql", message).into());
        }
        self.begin()?;
        let length = if ask.own { limits.bytes } else { limits.length };
        self.set_length(length).map_err(|error| self.failure(&error))?;
        let mut out = Metered::new(BufWriter::with_capacity(64 << 10, file), limits.bytes);
        let rows = if ask.explain { self.explain(ask, &mut out) } else { self.rows(ask, &mut out) }?;
        out.flush().map_err(|error| spoiled(&error))?;
        Ok(rows)
    }

    fn compile(&self, sql: &str, arguments: &[Value]) -> Result<Statement<'_>, Failure> {
        let mut statement = self.connection.prepare(sql).map_err(|error| self.failure(&error))?;
        // Some statements that do something else read only too, and answer nothing.
        if !statement.readonly() || statement.column_count() == 0 {
            return Err(Refusal::new(Errno::EACCES, "only statements that read are open to queries").into());
        }
        let wanted = statement.parameter_count();
        if wanted != arguments.len() {
            return Err(Refusal::new(Errno::EINVAL, format!("it takes {wanted} arguments, not {}", arguments.len())).into());
        }
        for (number, value) in arguments.iter().enumerate() {
            statement.raw_bind_parameter(number + 1, value).map_err(|error| self.failure(&error))?;
        }
        Ok(statement)
    }

    fn rows(&self, ask: &Ask, out: &mut dyn Write) -> Result<u64, Failure> {
        let mut statement = self.compile(&ask.sql, &ask.arguments)?;
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut sheet = Sheet::begin(out, ask.format, &names, self.limits.bytes).map_err(|error| spoiled(&error))?;
        let mut rows = statement.raw_query();
        let mut count = 0;
        while let Some(row) = rows.next().map_err(|error| self.failure(&error))? {
            count += 1;
            if count > self.limits.rows {
                let message = format!("the answer has more than {} rows: LIMIT asks for fewer", self.limits.rows);
                return Err(Refusal::limit(Errno::EFBIG, "rows", message).into());
            }
            if self.clock.is_over() {
                return Err(Refusal::time(self.limits.time).into());
            }
            let values: rusqlite::Result<Vec<_>> = (0..names.len()).map(|column| row.get_ref(column)).collect();
            sheet.row(&values.map_err(|error| self.failure(&error))?)?;
        }
        sheet.end()
    }

    fn explain(&self, ask: &Ask, out: &mut dyn Write) -> Result<u64, Failure> {
        const BEFORE: &str = "EXPLAIN QUERY PLAN ";
        let placed = |mut failure: Failure| {
            failure.refusal.offset = failure.refusal.offset.map(|offset| offset.saturating_sub(BEFORE.len()));
            failure
        };
        let nothing = vec![Value::Null; ask.arguments.len()];
        let mut statement = self.compile(&format!("{BEFORE}{}", ask.sql), &nothing).map_err(placed)?;
        let (text, count) = plan::show(&mut statement.raw_query()).map_err(|error| self.failure(&error))?;
        let format = ask.format;
        let shown = match format {
            Format::Text => out.write_all(text.as_bytes()),
            _ => {
                let mut sheet = Sheet::begin(out, format, &["plan"], self.limits.bytes).map_err(|error| spoiled(&error))?;
                text.lines().try_for_each(|line| sheet.row(&[ValueRef::Text(line.as_bytes())]))?;
                return sheet.end().map(|_| count);
            }
        };
        shown.map(|()| count).map_err(|error| spoiled(&error))
    }

    /// The tables that are open.
    pub(crate) fn schema(&mut self) -> Result<Schema, Failure> {
        self.begin()?;
        let (connection, policy) = (&self.connection, &self.policy);
        let databases: Vec<&str> = self.files.iter().map(|file| file.database.as_str()).collect();
        let read = policy.ours(|| {
            // Asked outside of `ours`, which holds no lock while it works.
            schema::read(connection, &databases, |name| policy.is_open(name))
        });
        read.map_err(|failure| if self.clock.was_over() { Refusal::time(self.limits.time).into() } else { failure })
    }

    /// Changes rows in a transaction; how many, and the rowid of the last one inserted.
    pub(crate) fn change(&mut self, deed: &Deed) -> Result<(u64, i64), Failure> {
        self.begin()?;
        self.set_length(self.limits.bytes).map_err(|error| self.failure(&error))?;
        let changed = self.connection.execute(&deed.sql, rusqlite::params_from_iter(&deed.arguments));
        let changed = changed.map_err(|error| self.failure(&error))?;
        Ok((changed as u64, self.connection.last_insert_rowid()))
    }
}

/// A file of a database as it was opened.
struct Known {
    /// What the connection calls it.
    database: String,
    path: PathBuf,
    /// Device and inode; None for one that is out of sight.
    identity: Option<(u64, u64)>,
    /// Tells that it is gone, also when its directory cannot be seen any more.
    held: Option<OwnedFd>,
}

impl Known {
    fn look(database: String, path: &Path) -> Known {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let held = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).ok();
        Known { database, path: path.to_owned(), identity: identity(path), held }
    }

    fn is_replaced(&self) -> bool {
        let is_gone = self.held.as_ref().is_some_and(|held| rustix::fs::fstat(held).is_ok_and(|stat| stat.st_nlink == 0));
        is_gone || (self.identity.is_some() && identity(&self.path) != self.identity)
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::stat(path).ok()?;
    Some((stat.st_dev, stat.st_ino))
}
