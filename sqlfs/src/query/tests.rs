//! One connection, without a process around it: what is allowed, and what the
//! answers look like. The limits in time and memory are `tests/hostile.rs`.

use super::session::Session;
use super::worker::Errand;
use super::{Allowed, Ask, Format, Limits, Refusal, Source, Value};
use externfs::Errno;
use std::io::{Read, Seek};

struct Ground {
    session: Session,
    limits: Limits,
    dir: tempfile::TempDir,
}

const MADE: &str = "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT); INSERT INTO t VALUES(1,'x'),(2,NULL),(3,'a	b');
    CREATE TABLE secret(s); INSERT INTO secret VALUES('hidden'); CREATE VIEW v AS SELECT b FROM t; CREATE VIEW leak AS SELECT s FROM secret";

fn ground(allowed: Allowed) -> Ground {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    rusqlite::Connection::open(&path).unwrap().execute_batch(MADE).unwrap();
    let limits = Limits::default();
    let session = Session::open(&Errand { source: Source::plain(path), allowed, limits }, false).unwrap();
    Ground { session, limits, dir }
}

impl Ground {
    fn ask(&mut self, ask: &Ask) -> Result<String, Refusal> {
        let mut file = tempfile::tempfile().unwrap();
        self.session.query(ask, &mut file, &self.limits).map_err(|failure| failure.refusal)?;
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    fn text(&mut self, sql: &str) -> Result<String, Errno> {
        self.ask(&Ask::new(sql, Format::Text)).map_err(|refusal| refusal.errno)
    }
}

#[test]
fn queries_are_answered() {
    let mut ground = ground(Allowed::Everything);
    for (sql, answer) in [
        ("select b from t order by a", "x\n\na\\tb\n"),
        ("SELECT a, b FROM t WHERE a < 3;", "1\tx\n2\t\n"),
        ("select count(*) from v", "3\n"),
        ("with recursive c(x) as (select 1 union all select x+1 from c where x < 5) select count(*) from c", "5\n"),
        ("with x as (select * from t) select max(a) from x", "3\n"),
        ("values (1,2),(3,4)", "1\t2\n3\t4\n"),
        ("select s from leak", "hidden\n"),
    ] {
        assert_eq!(ground.text(sql).as_deref(), Ok(answer), "{sql}");
    }
    let own = Ask::own("select b from t where a = ?1", vec![Value::from("1")], Format::Text);
    assert_eq!(ground.ask(&own).as_deref(), Ok("x\n"));
}

#[test]
fn tables_are_closed_by_name_however_they_are_reached() {
    let mut ground = ground(Allowed::Only(vec!["T".into(), "v".into(), "leak".into()]));
    assert_eq!(ground.text("select count(*) from t, v").as_deref(), Ok("9\n"));
    for sql in [
        "select s from secret",
        "select count(*) from secret",
        "select 1 from secret",
        "select t.* from t, secret",
        "select x.s from secret x",
        "with leak as (select * from secret) select * from leak",
        "with v as (select * from secret) select s from v",
        "select (select s from secret)",
        "select 1 where exists (select 1 from secret)",
        "select s from leak",
        "select a from t where b in secret",
        "select * from t natural join SECRET",
        "select * from main.secret",
        "explain select s from secret",
    ] {
        assert_eq!(ground.text(sql), Err(Errno::EACCES), "{sql}");
    }
}

#[test]
fn nothing_but_reading_is_open() {
    let mut ground = ground(Allowed::Everything);
    let other = ground.dir.path().join("other");
    for sql in [
        "select name from sqlite_schema",
        "select count(*) from sqlite_master",
        "select * from sqlite_temp_schema",
        "select * from pragma_table_info('t')",
        "select count(*) from pragma_table_info('t')",
        "select value from json_each('[1]')",
        "pragma table_info(t)",
        "pragma query_only = 0",
        "attach 'x' as y",
        "vacuum into 'x'",
        "create temp table x(a)",
        "with x as (select 1) delete from t",
        "insert into t values(9, 9)",
        "update t set a = 1",
        "explain delete from t",
        "select load_extension('x')",
        "select zeroblob(10)",
        "select randomblob(10)",
        "select fts3_tokenizer('x')",
        "select 1; select 2",
        "select 1; drop table t",
        "begin",
        "reindex",
        "analyze",
        "drop table t",
    ] {
        assert_eq!(ground.text(sql), Err(Errno::EACCES), "{sql}");
    }
    assert!(!other.exists());
}

#[test]
fn mistakes_are_named_with_their_place() {
    let mut ground = ground(Allowed::Everything);
    for (sql, errno, says, offset) in [
        ("select frob from t", Errno::EINVAL, "no such column: frob", Some(7)),
        ("select 1 from nowhere", Errno::EINVAL, "no such table: nowhere", None),
        ("select * frm t", Errno::EINVAL, "syntax error", None),
        ("", Errno::EINVAL, "no statement", None),
        ("-- nothing", Errno::EINVAL, "no statement", None),
        ("select ?1", Errno::EINVAL, "takes 1 arguments", None),
        ("select name from sqlite_schema", Errno::EACCES, "sqlite_master is not open", None),
    ] {
        let refusal = ground.ask(&Ask::new(sql, Format::Text)).unwrap_err();
        assert_eq!(refusal.errno, errno, "{sql}: {refusal}");
        assert!(refusal.message.contains(says), "{sql}: {refusal}");
        if offset.is_some() {
            assert_eq!(refusal.offset, offset, "{sql}: {refusal}");
        }
    }
}

#[test]
fn a_plan_warns_of_full_scans() {
    let mut ground = ground(Allowed::Everything);
    let ask = |sql: &str| Ask { explain: true, ..Ask::new(sql, Format::Text) };
    let said = ground.ask(&ask("select b from t where b = 'x'")).unwrap();
    assert_eq!(said, "SCAN t\nwarning: full scan of t: every row is read\n");
    let said = ground.ask(&ask("select b from t where a = ?1")).unwrap_err();
    assert_eq!(said.errno, Errno::EINVAL);
    let said = ground.ask(&ask("select b from t where a = 1")).unwrap();
    assert!(said.starts_with("SEARCH t USING INTEGER PRIMARY KEY") && !said.contains("warning"), "{said}");
}

#[test]
fn the_schema_is_followed() {
    let mut ground = ground(Allowed::Everything);
    let names =
        |ground: &mut Ground| -> Vec<String> { ground.session.schema().unwrap().tables.into_iter().map(|table| table.name).collect() };
    assert_eq!(names(&mut ground), ["leak", "secret", "t", "v"]);
    let other = rusqlite::Connection::open(ground.dir.path().join("db")).unwrap();
    other
        .execute_batch("CREATE TABLE later(k TEXT PRIMARY KEY, n NOT NULL DEFAULT 7) WITHOUT ROWID; INSERT INTO later VALUES('a', 1)")
        .unwrap();
    assert_eq!(ground.text("select n from later").as_deref(), Ok("1\n"));
    let schema = ground.session.schema().unwrap();
    let later = schema.table("later").unwrap();
    assert_eq!((later.key(), later.without_rowid), (vec!["\"k\"".to_owned()], true));
    assert_eq!(later.column("n").map(|column| (column.not_null, column.default.as_deref())), Some((true, Some("7"))));
    assert_eq!(schema.table("t").map(super::Table::key), Some(vec!["rowid".to_owned()]));
    assert_eq!(schema.table("v").map(super::Table::key), Some(vec![]));
}

#[test]
fn a_database_in_the_place_of_another_is_noticed() {
    let mut ground = ground(Allowed::Everything);
    let path = ground.dir.path().join("db");
    std::fs::rename(&path, ground.dir.path().join("old")).unwrap();
    std::fs::copy(ground.dir.path().join("old"), &path).unwrap();
    let failure =
        ground.session.query(&Ask::new("select 1", Format::Text), &mut tempfile::tempfile().unwrap(), &ground.limits).unwrap_err();
    assert!(failure.sick, "{failure:?}");
}
