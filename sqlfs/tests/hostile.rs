//! The hostile corpus: queries that want too much, or what is not theirs. Each
//! is stopped by its limit within twice that limit, with the right errno; and
//! the engine answers the next one.
//!
//! A program of its own, since the engine forks while there is one thread.

// A test that unwraps says what it expects.
#![allow(clippy::unwrap_used)]

use externfs::{Caller, DataSink, DataSource, Errno, MountOption, Name, NodeId, OpenFlags, Plugin, WriteFlags, WritePlace};
use sqlfs::query::{Allowed, Ask, Deed, Engine, Format, Limits, Refusal, Source, Value};
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_millis(1000);
/// Beyond twice the limit: a worker to start and a machine that is busy.
const GRACE: Duration = Duration::from_millis(1000);

type Test = fn(&Path);

fn main() -> ExitCode {
    let tests: [(&str, Test); 10] = [
        ("time_is_limited", time_is_limited),
        ("memory_and_size_are_limited", memory_and_size_are_limited),
        ("what_is_not_theirs_is_refused", what_is_not_theirs_is_refused),
        ("what_the_clock_cannot_stop_is_killed", what_the_clock_cannot_stop_is_killed),
        ("too_many_are_told_to_try_again", too_many_are_told_to_try_again),
        ("workers_are_confined", workers_are_confined),
        ("a_dead_worker_is_replaced", a_dead_worker_is_replaced),
        ("changes_are_transactions", changes_are_transactions),
        ("a_database_by_a_link_is_changed", a_database_by_a_link_is_changed),
        ("a_crowd_at_one_file_is_told_to_try_again", a_crowd_at_one_file_is_told_to_try_again),
    ];
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in tests {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part)) {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        make(&path);
        let good = catch_unwind(AssertUnwindSafe(|| test(&path))).is_ok();
        println!("test {name} ... {}", if good { "ok" } else { "FAILED" });
        *(if good { &mut passed } else { &mut failed }) += 1;
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
    ExitCode::from(u8::from(failed > 0))
}

fn make(path: &Path) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE big(n INTEGER PRIMARY KEY, t TEXT); \
             WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 20000) INSERT INTO big SELECT x, 'row ' || x FROM c; \
             CREATE TABLE small(k INTEGER PRIMARY KEY, v TEXT NOT NULL UNIQUE, w INTEGER CHECK (w > 0)); INSERT INTO small VALUES (1, 'one', 1);",
        )
        .unwrap();
}

fn engine(path: &Path, limits: Limits) -> Engine {
    Engine::new(Source::plain(path), Allowed::Everything, limits).unwrap()
}

fn text(engine: &Engine, sql: &str) -> Result<String, Refusal> {
    engine.run(Ask::new(sql, Format::Text)).map(|answer| String::from_utf8(answer.to_vec().unwrap()).unwrap())
}

/// Each is refused with the errno and by the limit, and in time.
fn refused(engine: &Engine, errno: Errno, limit: &str, queries: &[&str]) {
    assert_eq!(text(engine, "select 1").as_deref(), Ok("1\n"));
    for sql in queries {
        let begun = Instant::now();
        let refusal = text(engine, sql).expect_err(sql);
        let took = begun.elapsed();
        let shown = &sql[..sql.len().min(100)];
        assert_eq!(refusal.errno, errno, "{shown}: {refusal}");
        assert_eq!(refusal.limit.as_deref().unwrap_or_default(), limit, "{shown}: {refusal}");
        assert!(took < LIMIT * 2 + GRACE, "{shown}: {took:?}");
        println!("    {:>5} ms {errno:?}: {shown}", took.as_millis());
        assert_eq!(text(engine, "select count(*) from small").as_deref(), Ok("1\n"), "after {shown}");
    }
}

fn time_is_limited(path: &Path) {
    let engine = engine(path, Limits::default());
    refused(
        &engine,
        Errno::ETIME,
        "time",
        &[
            "with recursive c(x) as (select 1 union all select x + 1 from c) select count(*) from c",
            // Its text is too long early on, which SQLite says at the end.
            "with recursive c(x) as (select 1 union all select x + 1 from c) select group_concat(x) from c",
            "with recursive c(x) as (select 1 union all select x + 1 from c) select x from c where x < 0",
            "select count(*) from big a, big b, big c",
            "select sum(length(a.t) * length(b.t)) from big a, big b where a.t > b.t",
            "select count(*) from big a, big b where instr(printf('%.*c', 60000, 'a'), printf('%.*c', 30000, 'a') || a.n || b.n)",
            "select count(*) from big a, big b where a.t || b.t like '%a%b%c%d%e%f%g%h%'",
        ],
    );
    let counts = engine.counts();
    assert_eq!((counts.refused, counts.running, counts.queued), (7, 0, 0));
}

fn memory_and_size_are_limited(path: &Path) {
    let slow = Limits { time: LIMIT * 8, ..Limits::default() };
    let engine = engine(path, slow);
    let deep = format!("select {}1{}", "abs(".repeat(200), ")".repeat(200));
    let sum = format!("select {}1", "1+".repeat(500));
    let compound = vec!["select 1"; 40].join(" union all ");
    let wide = format!("select {}", vec!["1"; 500].join(","));
    let megabyte = format!("select '{}'", "x".repeat(1 << 20));
    let long = format!("select '{}'", "x".repeat(8 << 10));
    let pattern = format!("select 'a' like '{}'", "%a".repeat(400));
    refused(&engine, Errno::EFBIG, "sql", &[&megabyte, &long]);
    refused(
        &engine,
        Errno::EFBIG,
        "length",
        &[
            "select printf('%.*c', 100000000, 'a')",
            "select replace(printf('%.*c', 100000, 'a'), 'a', 'aaaaaaaaaa')",
            "with recursive c(x, s) as (select 1, 'ab' union all select x + 1, s || s from c) select max(length(s)) from c",
            "select hex(printf('%.*c', 100000, 'a'))",
        ],
    );
    refused(&engine, Errno::EFBIG, "expression depth", &[&deep, &sum]);
    refused(&engine, Errno::EFBIG, "compound terms", &[&compound]);
    refused(&engine, Errno::EFBIG, "columns", &[&wide]);
    refused(&engine, Errno::EFBIG, "pattern", &[&pattern]);
    drop(engine);
    let engine = self::engine(path, Limits { time: Duration::from_secs(20), ..Limits::default() });
    let heavy = "with recursive c(x) as (select 1 union all select x + 1 from c) select x, printf('%.*c', 1000, 'a') as s from c order by s, x desc";
    let refusal = text(&engine, heavy).expect_err("a heap");
    assert_eq!((refusal.errno, refusal.limit.as_deref()), (Errno::EFBIG, Some("heap")), "{refusal}");
    drop(engine);
    let engine = self::engine(path, Limits { rows: 1000, bytes: 1 << 20, ..Limits::default() });
    refused(&engine, Errno::EFBIG, "rows", &["select n from big", "select 1 from big a, big b"]);
    refused(&engine, Errno::EFBIG, "bytes", &["select printf('%.*c', 100000, 'a') from big"]);
    assert_eq!(text(&engine, "select n from big limit 1000").map(|text| text.lines().count()), Ok(1000));
    let table = Ask::new("select printf('%.*c', 100000, 'a') from big", Format::Table);
    assert_eq!(engine.run(table).map_err(|refusal| refusal.errno).map(drop), Err(Errno::EFBIG));
}

fn what_is_not_theirs_is_refused(path: &Path) {
    let engine = engine(path, Limits::default());
    refused(
        &engine,
        Errno::EACCES,
        "",
        &[
            "select * from sqlite_schema",
            "with x as (select * from sqlite_master) select count(*) from x",
            "select * from pragma_database_list",
            "select count(*) from pragma_compile_options",
            "pragma writable_schema = 1",
            "pragma hard_heap_limit = 0",
            "attach '/etc/passwd' as p",
            "vacuum into '/tmp/stolen'",
            "select load_extension('/lib/x86_64-linux-gnu/libc.so.6')",
            "select readfile('/etc/passwd')",
            "select 1; select 2",
            "select 1; attach '/tmp/x' as x",
            "create temp table t as select 1",
            "delete from small",
        ]
        .into_iter()
        // A function that is not there is no secret: a mistake.
        .filter(|sql| !sql.contains("readfile"))
        .collect::<Vec<_>>(),
    );
    let unknown = text(&engine, "select readfile('/etc/passwd')").expect_err("no such function");
    assert_eq!(unknown.errno, Errno::EINVAL, "{unknown}");
}

fn what_the_clock_cannot_stop_is_killed(path: &Path) {
    let limits = Limits { length: 32 << 20, time: Duration::from_millis(300), ..Limits::default() };
    let engine = engine(path, limits);
    assert_eq!(text(&engine, "select 1").as_deref(), Ok("1\n"));
    for round in 1..=3 {
        let begun = Instant::now();
        let bomb = "select instr(printf('%.*c', 20000000, 'a'), printf('%.*c', 9000000, 'a') || 'b')";
        let refusal = text(&engine, bomb).expect_err("it must not end");
        let took = begun.elapsed();
        assert_eq!((refusal.errno, refusal.limit.as_deref()), (Errno::ETIME, Some("time")), "{refusal}");
        assert!(took >= limits.time && took < limits.time * 2 + GRACE, "{took:?}");
        assert_eq!(engine.counts().killed, round);
        assert_eq!(text(&engine, "select 2").as_deref(), Ok("2\n"));
    }
}

fn too_many_are_told_to_try_again(path: &Path) {
    let engine = engine(path, Limits { running: 2, queued: 3, ..Limits::default() });
    let slow = "select count(*) from big a, big b, big c";
    let ends: Vec<Errno> = std::thread::scope(|scope| {
        let ask = || text(&engine, slow).expect_err("slow").errno;
        let threads: Vec<_> = (0..12).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let count = |errno| ends.iter().filter(|end| **end == errno).count();
    assert_eq!((count(Errno::ETIME), count(Errno::EAGAIN)), (5, 7), "{ends:?}");
    assert_eq!(text(&engine, "select 1").as_deref(), Ok("1\n"));

    // What is open counts against those who want more.
    let engine = self::engine(path, Limits { held: 1 << 20, ..Limits::default() });
    let large = || engine.run(Ask::new("select t, t, t, t, t, t from big", Format::Text));
    let kept = large().unwrap();
    assert!(kept.size() > 1 << 20);
    assert_eq!(large().map(drop).map_err(|refusal| (refusal.errno, refusal.limit)), Err((Errno::EAGAIN, Some("held".into()))));
    assert_eq!(kept.to_vec().unwrap().len() as u64, kept.size());
    drop(kept);
    assert!(large().is_ok());
}

/// The processes whose parent is `parent`.
fn children(parent: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    all.filter(|pid| field(*pid, "PPid:").parse() == Ok(parent)).collect()
}

fn field(pid: u32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
}

/// Of the newest engine: the keeper's child.
fn worker_of(engine: &Engine) -> u32 {
    assert_eq!(text(engine, "select 1").as_deref(), Ok("1\n"));
    let keepers = children(std::process::id());
    let workers: Vec<u32> = keepers.into_iter().flat_map(children).collect();
    assert_eq!(workers.len(), 1, "{workers:?}");
    workers[0]
}

fn gone(what: &str, is_gone: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_gone() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn no_workers() {
    gone("workers of earlier engines stay", || children(std::process::id()).into_iter().all(|keeper| children(keeper).is_empty()));
}

fn workers_are_confined(path: &Path) {
    no_workers();
    let engine = engine(path, Limits::default());
    let worker = worker_of(&engine);
    for (name, value) in
        [("Seccomp:", "2"), ("NoNewPrivs:", "1"), ("CapEff:", "0000000000000000"), ("CapPrm:", "0000000000000000"), ("Threads:", "1")]
    {
        assert_eq!(field(worker, name), value, "{name}");
    }
    // The database, its socket, and the standard streams, which are null.
    for entry in std::fs::read_dir(format!("/proc/{worker}/fd")).unwrap().flatten() {
        let target: PathBuf = std::fs::read_link(entry.path()).unwrap_or_default();
        let shown = target.display().to_string();
        assert!(target == path || shown == "/dev/null" || shown.starts_with("socket:"), "{shown}");
    }
    drop(engine);
    gone("the worker outlives its engine", || !Path::new(&format!("/proc/{worker}")).exists());
}

fn a_dead_worker_is_replaced(path: &Path) {
    no_workers();
    let engine = engine(path, Limits::default());
    for _ in 0..3 {
        let worker = worker_of(&engine);
        let worker = rustix::process::Pid::from_raw(worker as i32).unwrap();
        rustix::process::kill_process(worker, rustix::process::Signal::KILL).unwrap();
    }
    assert_eq!(text(&engine, "select 3").as_deref(), Ok("3\n"));
    // And a database that was put in the place of another is the one that is asked.
    let other = path.with_extension("other");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE small(k); INSERT INTO small VALUES (1), (2)").unwrap();
    std::fs::rename(&other, path).unwrap();
    assert_eq!(text(&engine, "select count(*) from small").as_deref(), Ok("2\n"));
    // A writer in WAL mode beside us is read.
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    for count in 3..6 {
        connection.execute("INSERT INTO small VALUES (?1)", [count]).unwrap();
        assert_eq!(text(&engine, "select count(*) from small"), Ok(format!("{count}\n")));
    }
    drop((engine, connection));
    let plain = path.with_extension("plain");
    make(&plain);
    let engine = self::engine(&plain, Limits::default());
    assert_eq!(text(&engine, "select count(*) from small").as_deref(), Ok("1\n"));
    std::fs::write(&plain, "this is no database, ".repeat(1000)).unwrap();
    let refusal = text(&engine, "select count(*) from small").expect_err("no database");
    assert_eq!(refusal.errno, Errno::EIO, "{refusal}");
}

fn changes_are_transactions(path: &Path) {
    let engine = engine(path, Limits::default());
    let change = |sql: &str, arguments: Vec<Value>| engine.change(Deed { sql: sql.into(), arguments });
    assert_eq!(change("INSERT INTO small(v) VALUES (?1)", vec!["two".into()]), Ok((1, 2)));
    for (sql, errno) in [
        ("INSERT INTO small(v) VALUES ('one')", Errno::EEXIST),
        ("INSERT INTO small(k, v) VALUES (1, 'x')", Errno::EEXIST),
        ("UPDATE small SET v = NULL", Errno::EINVAL),
        ("UPDATE small SET w = -1", Errno::EINVAL),
        ("DROP TABLE small", Errno::EACCES),
        ("INSERT INTO sqlite_schema VALUES (1, 1, 1, 1, 1)", Errno::EACCES),
        ("ATTACH '/tmp/x' AS x", Errno::EACCES),
        ("PRAGMA journal_mode = OFF", Errno::EACCES),
    ] {
        assert_eq!(change(sql, vec![]).map_err(|refusal| refusal.errno), Err(errno), "{sql}");
    }
    assert_eq!(text(&engine, "select k, v, w from small").as_deref(), Ok("1\tone\t1\n2\ttwo\t\n"));
}

/// The journal is made beside what the link leads to.
fn a_database_by_a_link_is_changed(path: &Path) {
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link");
    std::os::unix::fs::symlink(path, &link).unwrap();
    let engine = engine(&link, Limits::default());
    let deed = || Deed { sql: "UPDATE small SET v = 'changed'".into(), arguments: Vec::new() };
    assert_eq!(engine.change(deed()).unwrap().0, 1);
    assert_eq!(engine.change(deed()).unwrap().0, 1);
}

/// What is written, and room for what is read.
struct Piece(&'static [u8]);

impl DataSource for Piece {
    fn take(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
    fn drain_to(&mut self, _: BorrowedFd<'_>, _: WritePlace, _: usize, _: bool) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
    fn remaining(&self) -> usize {
        self.0.len()
    }
}

impl DataSink for Piece {
    fn put(&mut self, _: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
    fn fill_from(&mut self, _: BorrowedFd<'_>, _: u64, _: usize) -> std::io::Result<usize> {
        Ok(0)
    }
    fn room(&self) -> usize {
        4096
    }
}

/// A mount's threads are eight: six may be with those who query, or wait for them.
fn a_crowd_at_one_file_is_told_to_try_again(path: &Path) {
    let slow = "CREATE TRIGGER slow BEFORE UPDATE ON small BEGIN SELECT count(*) FROM big a, big b, big c; END";
    rusqlite::Connection::open(path).unwrap().execute_batch(slow).unwrap();
    let options = vec![MountOption { key: "write".into(), value: None }];
    let connect = sqlfs::SqlFsPlugin.open(&externfs::Source { path: path.to_owned(), options }).unwrap();
    let (export, caller) = (connect.connect().unwrap(), Caller::root());
    let open = |path: &str| {
        let step = |at, name: &str| export.lookup(&caller, at, Name::new(name.as_bytes()).unwrap()).unwrap().id;
        let id = path.split('/').fold(NodeId::ROOT, step);
        export.open(&caller, id, OpenFlags { read: true, write: true, ..OpenFlags::default() }).unwrap().id
    };
    let write = |handle, text| export.write(handle, 0, &mut Piece(text), WriteFlags::default());
    let crowd = |work: &(dyn Fn() -> externfs::Result<usize> + Sync)| -> Vec<_> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| work().map_err(|error| error.errno()))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    let count = |ends: &[_], end| ends.iter().filter(|one| **one == end).count();
    let talk = open("query");
    write(talk, b"select count(*) from big a, big b, big c").unwrap();
    // The one that runs it, four that wait and find it done with.
    let ends = crowd(&|| export.read(talk, 0, 4096, &mut Piece(b"")));
    assert_eq!((count(&ends, Err(Errno::ETIME)), count(&ends, Ok(0)), count(&ends, Err(Errno::EAGAIN))), (1, 4, 3), "{ends:?}");
    let cell = open("tables/small/rows/1/v");
    let ends = crowd(&|| write(cell, b"two"));
    assert_eq!((count(&ends, Err(Errno::ETIME)), count(&ends, Err(Errno::EAGAIN))), (5, 3), "{ends:?}");
    // To close it does not wait for anybody.
    let other = open("tables/small/rows/1/v");
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| write(cell, b"two").is_err());
        std::thread::sleep(LIMIT / 5);
        let begun = Instant::now();
        export.release(other, None);
        assert!(begun.elapsed() < LIMIT / 5);
        assert!(writing.join().unwrap());
    });
    export.release(cell, None);
}
