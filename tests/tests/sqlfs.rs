//! What shells, editors, cp, tar, rsync and find do to a mounted sqlfs, with
//! the errno of each refusal; and a database that others have made.

use externfs_tests::fixture::{self, Mount, Process, cache_dir, need_program, need_root, output, shell, succeed, temp_dir};
use externfs_tests::harness::{self, skip};
use externfs_tests::ordinary;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn main() -> std::process::ExitCode {
    ordinary::in_own_mounts(|| {
        harness::main(externfs_tests::cases![
            a_query_is_a_file_name,
            a_query_may_contain_slashes,
            formats_by_suffix_and_by_directory,
            a_conversation_on_one_descriptor,
            queries_are_saved_and_take_arguments,
            editors_save_queries,
            tables_are_read_without_sql,
            keys_and_names_may_be_anything,
            programs_read_answers_whole,
            looking_around_is_harmless,
            refusals_have_their_errno_and_a_line,
            hostile_queries_hurt_nobody,
            only_those_who_may_ask,
            saved_queries_come_from_a_directory,
            rows_are_changed_like_files,
            what_the_database_refuses_is_an_errno,
            nothing_is_written_unless_asked_for,
            the_server_lets_go_of_everything,
            an_ordinary_user_mounts_for_himself,
            guests_are_served_too,
            a_database_of_others_is_read_whole,
        ])
    })
}

const MADE: &str = "
CREATE TABLE root_fs(name TEXT, setuid INTEGER, size INTEGER);
INSERT INTO root_fs VALUES('/usr/bin/passwd',1,64152),('/usr/bin/ls',0,151344),('/etc/passwd',0,1500),('/bin/su',1,72000);
CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT NOT NULL, age INTEGER CHECK (age > 0), mail TEXT UNIQUE, photo BLOB, born TEXT DEFAULT 'never');
INSERT INTO person VALUES(1,'Ada',36,'ada@example.org',x'00ff0a','1815'),(2,'Tab	and
newline',NULL,NULL,NULL,NULL),(7,'',5,'x',x'',NULL);
CREATE TABLE pair(a TEXT, b INTEGER, v TEXT, PRIMARY KEY(a, b)) WITHOUT ROWID;
INSERT INTO pair VALUES('x/y',1,'slash'),('50%, or so',2,'comma'),('.',3,'dot');
CREATE VIEW adults AS SELECT name FROM person WHERE age >= 18;
CREATE TABLE \"odd/name % \"(\"col/umn\" TEXT, \"select 1\" INT); INSERT INTO \"odd/name % \" VALUES('v', 1);
CREATE TABLE many(n INTEGER PRIMARY KEY);
WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < 20000) INSERT INTO many SELECT x FROM c;
";

struct Ground {
    mount: Mount,
    database: PathBuf,
    _dir: TempDir,
}

impl Ground {
    fn new(options: &str) -> Ground {
        need_root();
        let dir = temp_dir();
        let database = dir.path().join("made.db");
        let mut sqlite = Command::new(need_program("sqlite3", "sqlite3"));
        succeed(sqlite.arg(&database).arg(MADE));
        let mount = Mount::sqlfs(&database, options);
        Ground { mount, database, _dir: dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.mount.path().join(name)
    }

    fn cat(&self, name: &str) -> String {
        succeed(Command::new("cat").arg(self.at(name)))
    }

    /// A script within the mount, which must succeed.
    fn sh(&self, script: &str) -> String {
        succeed(Command::new("bash").args(["-euc", script]).current_dir(self.mount.path()))
    }

    fn try_sh(&self, script: &str) -> Output {
        output(Command::new("bash").args(["-uc", script]).current_dir(self.mount.path()))
    }

    fn errno(&self, name: &str) -> i32 {
        let read = fs::read(self.at(name));
        read.expect_err(name).raw_os_error().expect("an errno")
    }

    fn errors(&self) -> String {
        self.cat("errors")
    }

    fn sqlite(&self, sql: &str) -> String {
        succeed(Command::new("sqlite3").arg(&self.database).arg(sql))
    }
}

fn a_query_is_a_file_name() {
    let ground = Ground::new("");
    assert_eq!(ground.sh("cat \"select name from root_fs where setuid = 1\""), "/usr/bin/passwd\n/bin/su\n");
    for (query, answer) in [
        ("SELECT count(*), max(size) FROM root_fs", "4\t151344\n"),
        ("values (1)", "1\n"),
        ("with x(n) as (select 1 union all select 2) select n from x", "1\n2\n"),
        ("select name, age from person order by id", "Ada\t36\nTab\\tand\\nnewline\t\n\t5\n"),
        (".explain/select name from root_fs", "SCAN root_fs\nwarning: full scan of root_fs: every row is read\n"),
        (".explain/select age from person where id = 5", "SEARCH person USING INTEGER PRIMARY KEY (rowid=?)\n"),
    ] {
        assert_eq!(ground.cat(query), answer, "{query}");
    }
    // 1,023 bytes of name.
    let long = format!("select '{}'", "x".repeat(1000));
    assert_eq!(ground.cat(&long).len(), 1001);
    // What is no query is not there.
    for name in ["selects", "insert into person values (1)", "pragma user_version", "nothing", ".git", "4913"] {
        assert_eq!(ground.errno(name), libc::ENOENT, "{name}");
    }
    ground.mount.finish();
}

fn a_query_may_contain_slashes() {
    let ground = Ground::new("");
    assert_eq!(ground.sh("cat \"select name from root_fs where name like '/usr/%' order by 1\""), "/usr/bin/ls\n/usr/bin/passwd\n");
    assert_eq!(ground.sh("cat \"select (size/1024) from root_fs where name = '/etc/passwd'\""), "1\n");
    assert_eq!(ground.cat(".csv/select name from root_fs where name = '/bin/su'"), "name\n/bin/su\n");
    assert_eq!(ground.cat("select name from root_fs where name = '/bin/su'.json"), "[\n{\"name\":\"/bin/su\"}\n]\n");
    assert_eq!(ground.errno("select size/1024 from root_fs"), libc::ENOTDIR);
    assert!(fs::read_dir(ground.at("select '")).expect("a directory").next().is_none());
    ground.mount.finish();
}

fn formats_by_suffix_and_by_directory() {
    let ground = Ground::new("");
    let query = "select id, name from person where id < 3 order by id";
    for (format, expected) in [
        ("csv", "id,name\n1,Ada\n2,\"Tab\tand\nnewline\"\n"),
        ("tsv", "id\tname\n1\tAda\n2\tTab\\tand\\nnewline\n"),
        ("json", "[\n{\"id\":1,\"name\":\"Ada\"},\n{\"id\":2,\"name\":\"Tab\\tand\\nnewline\"}\n]\n"),
        ("jsonl", "{\"id\":1,\"name\":\"Ada\"}\n{\"id\":2,\"name\":\"Tab\\tand\\nnewline\"}\n"),
        ("nul", "1\0Ada\x002\0Tab\tand\nnewline\0"),
        ("table", "id  name\n--  -----------------\n1   Ada\n2   Tab\\tand\\nnewline\n"),
    ] {
        assert_eq!(ground.cat(&format!("{query}.{format}")), expected, "{format}");
        assert_eq!(ground.cat(&format!(".{format}/{query}")), expected, "{format}");
    }
    let shown = ground.sh("cat .nul/'select name from root_fs order by 1' | xargs -0 -n1 echo");
    assert_eq!(shown, "/bin/su\n/etc/passwd\n/usr/bin/ls\n/usr/bin/passwd\n");
    let parsed: serde_json::Value = serde_json::from_str(&ground.cat("select id, name from person order by id.json")).expect("JSON");
    assert_eq!((parsed[1]["id"].as_i64(), parsed[1]["name"].as_str()), (Some(2), Some("Tab\tand\nnewline")));
    // Bytes that are no text, as Python reads them back.
    assert_eq!(ground.cat("select photo from person where id = 1.jsonl"), "{\"photo\":\"\\u0000\\udcff\\n\"}\n");
    ground.mount.finish();
}

fn a_conversation_on_one_descriptor() {
    let ground = Ground::new("");
    assert_eq!(ground.sh("exec 3<>query; echo 'select size/1024 from root_fs' >&3; cat <&3; exec 3>&-"), "62\n147\n1\n70\n");
    let mut talk = OpenOptions::new().read(true).write(true).open(ground.at("query.json")).expect("query.json");
    for (sql, answer) in [("select 1 as a", "[\n{\"a\":1}\n]\n"), ("select '//' as b", "[\n{\"b\":\"//\"}\n]\n")] {
        // In pieces, and with a seek or without.
        let (first, second) = sql.split_at(4);
        talk.write_all(first.as_bytes()).expect("write");
        talk.write_all(second.as_bytes()).expect("write");
        if sql.ends_with('a') {
            talk.rewind().expect("seek");
        }
        let mut said = String::new();
        talk.read_to_string(&mut said).expect("read");
        assert_eq!(said, answer);
    }
    talk.write_all(b"select frob").expect("write");
    let mut said = Vec::new();
    assert_eq!(talk.read_to_end(&mut said).expect_err("no such column").raw_os_error(), Some(libc::EINVAL));
    assert!(ground.errors().contains("no such column: frob (at byte 7)"), "{}", ground.errors());
    let too_long = talk.write_all(&vec![b'x'; 9000]).expect_err("too long");
    assert_eq!(too_long.raw_os_error(), Some(libc::EFBIG));
    drop(talk);
    assert!(ground.cat("query").contains("exec 3<>query"));
    assert_eq!(OpenOptions::new().write(true).open(ground.at("query")).expect_err("no reading").raw_os_error(), Some(libc::EINVAL));
    ground.mount.finish();
}

fn queries_are_saved_and_take_arguments() {
    let ground = Ground::new("");
    ground.sh("cd queries; echo 'select name from root_fs where setuid = 1 order by 1' > suid.sql; \
         printf 'select name from person where age between ?1 and ?2' > aged.sql");
    assert_eq!(
        ground.sh("ls queries; cat queries/suid.sql"),
        "aged\naged.sql\nsuid\nsuid.sql\nselect name from root_fs where setuid = 1 order by 1\n"
    );
    assert_eq!(ground.cat("queries/suid"), "/bin/su\n/usr/bin/passwd\n");
    assert_eq!(ground.cat("queries/suid.jsonl"), "{\"name\":\"/bin/su\"}\n{\"name\":\"/usr/bin/passwd\"}\n");
    assert_eq!(ground.cat("queries/aged/30/40"), "Ada\n");
    assert_eq!(ground.cat("queries/aged.csv/1/10"), "name\n\"\"\n");
    assert_eq!(ground.errno("queries/aged"), libc::EISDIR);
    assert_eq!(ground.errno("queries/aged/1/2/3"), libc::ENOTDIR);
    assert_eq!(ground.errno("queries/none"), libc::ENOENT);
    ground.sh("cd queries; mv suid.sql set-user-id.sql; cat set-user-id; rm set-user-id.sql aged.sql; test -z \"$(ls -A)\"");
    assert!(!ground.try_sh("mkdir queries/dir 2>&1").status.success());
    assert!(!ground.try_sh("touch elsewhere").status.success());
    // Together they are bounded.
    ground.sh("cd queries; for i in $(seq 70); do head -c 262144 /dev/zero > $i 2>/dev/null || break; done; test $i -lt 70; rm -f *");
    ground.sh("cd queries; head -c 262144 /dev/zero > again; rm again");
    ground.mount.finish();
}

fn editors_save_queries() {
    let ground = Ground::new("");
    ground.sh("cd queries; echo 'select 1' > q.sql; sed -i s/1/2/ q.sql; cat q; cp -p q.sql r.sql; cat r; \
         echo 'select 3' > .q.sql.new; chmod 600 .q.sql.new; mv -f .q.sql.new q.sql; cat q; \
         printf 'select 4' | tee q.sql >/dev/null; cat q; echo ' + 1' >> q.sql; cat q; : > q.sql; test ! -s q.sql");
    let (vim, ed) = (fixture::find_program("vim"), fixture::find_program("ed"));
    for (program, script) in [
        (vim, "cd queries; echo 'select 5' > v.sql; vim -es -c '%s/5/6/' -c wq v.sql; cat v"),
        (ed, "cd queries; echo 'select 5' > v.sql; printf '%s\\n' 's/5/6/' w q | ed -s v.sql; cat v"),
    ] {
        match program {
            Some(_) => assert_eq!(ground.sh(script), "6\n"),
            None => println!("    not installed: {}", script.split_whitespace().nth(6).unwrap_or_default()),
        }
    }
    ground.mount.finish();
}

fn tables_are_read_without_sql() {
    let ground = Ground::new("");
    assert_eq!(ground.sh("ls tables"), "adults\nmany\nodd%2Fname %25 \npair\nperson\nroot_fs\n");
    assert_eq!(ground.sh("ls tables/person"), "by\ncolumns\ncount\nhead\nrows\nschema\n");
    assert_eq!(ground.sh("ls tables/adults"), "by\ncolumns\ncount\nhead\nschema\n");
    assert_eq!(ground.cat("tables/many/count"), "20000\n");
    assert_eq!(ground.cat("tables/many/head").lines().count(), 11);
    assert_eq!(ground.cat("tables/adults/head.csv"), "name\nAda\n");
    assert!(ground.cat("tables/person/schema").starts_with("CREATE TABLE person(id INTEGER PRIMARY KEY"));
    assert!(ground.cat("tables/person/columns").contains("born\tTEXT\tDEFAULT 'never'\n"));
    assert_eq!(ground.sh("ls tables/person/rows; ls tables/person/rows/1"), "1\n2\n7\nage\nborn\nid\nmail\nname\nphoto\n");
    assert_eq!(ground.cat("tables/person/rows/1/name"), "Ada\n");
    assert_eq!(ground.cat("tables/person/rows/2/name"), "Tab\tand\nnewline\n");
    assert_eq!(fs::read(ground.at("tables/person/rows/1/photo")).expect("photo"), b"\x00\xff\n");
    assert_eq!(ground.cat("tables/person/rows/2/age"), "");
    assert_eq!(
        ground.cat("tables/person/by/name/Ada"),
        "id\tname\tage\tmail\tphoto\tborn\n1\tAda\t36\tada@example.org\t\0\u{fffd}\\n\t1815\n"
    );
    assert_eq!(ground.cat("tables/root_fs/by/name/%2Fbin%2Fsu"), "name\tsetuid\tsize\n/bin/su\t1\t72000\n");
    assert_eq!(ground.sh("ls -A tables/root_fs/by/name"), "");
    for missing in
        ["tables/none", "tables/person/rows/3/name", "tables/person/rows/01/name", "tables/person/rows/x", "tables/person/rows/1/none"]
    {
        assert_eq!(ground.errno(missing), libc::ENOENT, "{missing}");
    }
    assert_eq!(fs::read_dir(ground.at("tables/many/rows")).expect_err("too many").raw_os_error(), Some(libc::EFBIG));
    assert!(ground.errors().contains("many has more than 10000 rows"), "{}", ground.errors());
    assert_eq!(ground.cat("tables/many/rows/19999/n"), "19999\n");
    // What others change is seen at once; a new table a second later.
    ground.sqlite("INSERT INTO person(name) VALUES('new'); CREATE TABLE later(a); INSERT INTO later VALUES (1)");
    assert_eq!(ground.cat("tables/person/rows/8/name"), "new\n");
    assert_eq!(ground.cat("select a from later"), "1\n");
    fixture::wait_for("the new table", || ground.at("tables/later").exists());
    ground.mount.finish();
}

fn keys_and_names_may_be_anything() {
    let ground = Ground::new("");
    assert_eq!(ground.sh("ls tables/pair/rows"), "%2E,3\n50%25%2C or so,2\nx%2Fy,1\n");
    assert_eq!(ground.sh("cat tables/pair/rows/*/v | sort"), "comma\ndot\nslash\n");
    assert_eq!(ground.cat("tables/pair/rows/%2E,3/v"), "dot\n");
    assert_eq!(ground.cat("tables/odd%2Fname %25 /rows/1/col%2Fumn"), "v\n");
    assert_eq!(ground.cat("tables/odd%2Fname %25 /count"), "1\n");
    ground.mount.finish();
}

fn programs_read_answers_whole() {
    let ground = Ground::new("");
    let numbers: String = (1..=20000).map(|n| format!("{n}\n")).collect();
    let query = "select n from many order by n";
    let to = temp_dir();
    let whole = |what: &str, got: &[u8]| assert_eq!(got, numbers.as_bytes(), "{what}: {} bytes", got.len());
    whole("cat", ground.cat(query).as_bytes());
    for line in [
        "cp '@' out",
        "dd if='@' of=out status=none",
        "dd if='@' of=out bs=1 count=200000 status=none",
        "head -c 1000000 '@' > out",
        "sort -n '@' > out",
        "awk 1 '@' > out",
        "sed '' '@' > out",
        "cp --sparse=never '@' out",
        "grep '' '@' > out",
        "tail -n +1 '@' > out",
    ] {
        let source = ground.at(query);
        shell(&format!("cd {}; rm -f out; {}", to.path().display(), line.replace('@', &source.display().to_string())));
        whole(line, &fs::read(to.path().join("out")).expect("out"));
    }
    assert_eq!(
        ground.sh(&format!("wc -l < '{query}'; grep -c 7 '{query}'; tail -n 1 '{query}'")),
        "20000\n6878\n20000\n".replace("6878", &count_sevens())
    );
    if fixture::find_program("rsync").is_some() {
        shell(&format!("rsync --inplace '{}' {}/synced", ground.at(query).display(), to.path().display()));
        let synced = fs::read(to.path().join("synced")).expect("synced");
        // It believes the size.
        assert!(synced.is_empty() || synced == numbers.as_bytes(), "{} bytes", synced.len());
    }
    // The size is there while it is open, and only then.
    let file = File::open(ground.at(query)).expect("open");
    assert_eq!(file.metadata().expect("fstat").len(), numbers.len() as u64);
    drop(file);
    fixture::wait_for("the size is forgotten", || ground.at(query).metadata().expect("stat").len() == 0);
    let tar = ground.sh("tar cf - README '.limits' queries 2>/dev/null | tar tf - | head -n 3");
    assert_eq!(tar, "README\n.limits\nqueries/\n");
    // One open file is one answer, whatever happens meanwhile.
    let mut file = File::open(ground.at("select count(*) from person")).expect("open");
    ground.sqlite("INSERT INTO person(name) VALUES('x')");
    let mut said = String::new();
    file.read_to_string(&mut said).expect("read");
    assert_eq!((said.as_str(), ground.cat("select count(*) from person").as_str()), ("3\n", "4\n"));
    drop(file);
    ground.mount.finish();
}

fn count_sevens() -> String {
    (1..=20000).filter(|n: &u32| n.to_string().contains('7')).count().to_string()
}

fn looking_around_is_harmless() {
    let ground = Ground::new("");
    ground.sh("echo 'with recursive c(x) as (select 1 union all select x+1 from c) select count(*) from c' > queries/forever.sql");
    let begun = Instant::now();
    let found = ground.try_sh("find . -type f | wc -l; find . -name frob; ls -lR . | wc -l; du -s . ; stat -f -c %l .");
    let said = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(said.ends_with("\n1024\n"), "{said}");
    let looked = begun.elapsed();
    println!("    find, find, ls -lR, du: {looked:?}");
    // Not one query was run but those that list rows.
    let refused = ground.cat(".info").lines().find_map(|line| line.strip_prefix("killed\t").map(str::to_owned));
    assert_eq!(refused.as_deref(), Some("0"));
    assert!(!ground.errors().contains("ETIME"), "{}", ground.errors());
    // grep -r opens everything, and so runs what is saved: for as long as a query may.
    let begun = Instant::now();
    let grepped = ground.try_sh("grep -r Ada . 2>/dev/null | sort | head -n 5");
    assert!(String::from_utf8_lossy(&grepped.stdout).contains("tables/person/rows/1/name:Ada"), "{grepped:?}");
    println!("    grep -r: {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(60));
    ground.mount.finish();
}

fn refusals_have_their_errno_and_a_line() {
    let ground = Ground::new("");
    for (query, errno, line) in [
        ("select frob", libc::EINVAL, "EINVAL: no such column: frob (at byte 7): select frob"),
        ("select from", libc::EINVAL, "syntax error"),
        ("select 1 from nowhere", libc::EINVAL, "no such table: nowhere"),
        ("select name from sqlite_schema", libc::EACCES, "table sqlite_master is not open to queries"),
        ("with x as (select 1) delete from person", libc::EACCES, "only statements that read are open"),
        ("select load_extension('x')", libc::EACCES, "function load_extension is not open"),
        ("select 1; drop table person", libc::EACCES, "EACCES"),
        ("select count(*) from many a, many b, many c", libc::ETIME, "[limit: time]"),
        ("select a.n from many a, many b", libc::EFBIG, "[limit: "),
        ("select printf('%.*c', 10000000, 'x')", libc::EFBIG, "[limit: length]"),
    ] {
        let got = ground.errno(query);
        // A slow machine meets the time before the rows.
        assert!(got == errno || (got == libc::ETIME && errno == libc::EFBIG), "{query}: {got}");
        let errors = ground.errors();
        let last = errors.lines().last().unwrap_or_default();
        assert!(last.contains(line) || got == libc::ETIME, "{query}: {last}");
        assert!(last.contains(&query[..query.len().min(40)]), "{query}: {last}");
    }
    for (script, says) in [
        ("echo x > 'select 1'", "Read-only file system"),
        ("echo x >> 'select 1'", "Read-only file system"),
        ("mkdir x", "Read-only file system"),
        ("mkdir 'select 1'", "File exists"),
        ("ln -s a b", "Read-only file system"),
        ("rm README", "Read-only file system"),
        ("mv README x", "Read-only file system"),
        ("chmod 777 README", "Read-only file system"),
        ("chown 5 queries", "Read-only file system"),
        ("rm -r tables/person", "Read-only file system"),
        ("echo 5 > tables/person/rows/1/age", "Read-only file system"),
        ("mkdir tables/person/rows/9", "Read-only file system"),
        ("ln queries x", "not permitted"),
        ("rmdir queries", "Read-only file system"),
    ] {
        let done = ground.try_sh(&format!("{{ {script}; }} 2>&1"));
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(!done.status.success() && (said.contains(says) || said.contains("hard link not allowed")), "{script}: {said}");
    }
    assert_eq!(ground.cat("tables/person/rows/1/age"), "36\n");
    ground.mount.finish();
}

fn hostile_queries_hurt_nobody() {
    let ground = Ground::new("");
    let slow = "select count(*) from many a, many b, many c where a.n < @";
    let point = ground.mount.path().to_owned();
    let askers: Vec<_> = (0..12)
        .map(|number| {
            let path = point.join(slow.replace('@', &(10_000 + number).to_string()));
            std::thread::spawn(move || fs::read(path).expect_err("slow").raw_os_error())
        })
        .collect();
    // Meanwhile names are answered as ever.
    std::thread::sleep(Duration::from_millis(300));
    let mut longest = Duration::ZERO;
    for _ in 0..50 {
        let begun = Instant::now();
        fs::metadata(point.join("README")).expect("stat");
        fs::read_to_string(point.join("README")).expect("read");
        longest = longest.max(begun.elapsed());
    }
    println!("    stat and read beside twelve queries: {longest:?} at most");
    assert!(longest < Duration::from_millis(900), "{longest:?}");
    let ends: Vec<_> = askers.into_iter().map(|asker| asker.join().expect("joined")).collect();
    let count = |errno| ends.iter().filter(|end| **end == Some(errno)).count();
    assert_eq!(count(libc::ETIME) + count(libc::EAGAIN), 12, "{ends:?}");
    assert!(count(libc::ETIME) >= 6 && count(libc::EAGAIN) >= 1, "{ends:?}");
    assert!(ground.errors().contains("[limit: queue]"));
    assert_eq!(ground.cat("select 1"), "1\n");
    ground.mount.finish();
}

fn as_user(uid: u32, path: &Path) -> Output {
    let mut command = Command::new(need_program("setpriv", "util-linux"));
    let (uid, path) = (uid.to_string(), path.as_os_str());
    output(command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "cat"]).arg(path))
}

fn only_those_who_may_ask() {
    let ground = Ground::new("allow_other");
    assert!(!as_user(1234, &ground.at("select 1")).status.success());
    assert!(!as_user(1234, &ground.at("README")).status.success());
    assert_eq!(ground.mount.path().metadata().expect("stat").mode() & 0o7777, 0o500);
    ground.mount.finish();
    let ground = Ground::new("allow_other,uid=1234:77");
    for uid in [0, 77, 1234] {
        assert_eq!(as_user(uid, &ground.at("select 1")).stdout, b"1\n", "{uid}");
    }
    let refused = as_user(1235, &ground.at("select 1"));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"), "{refused:?}");
    // Each sees his own errors.
    assert!(!as_user(77, &ground.at("select mine")).status.success());
    assert!(as_user(1234, &ground.at("errors")).stdout.is_empty());
    assert!(String::from_utf8_lossy(&as_user(77, &ground.at("errors")).stdout).contains("select mine"));
    assert!(ground.errors().contains("select mine"));
    ground.mount.finish();
}

fn saved_queries_come_from_a_directory() {
    let dir = temp_dir();
    fs::write(dir.path().join("one.sql"), "select 1").expect("write");
    fs::write(dir.path().join("other.txt"), "x").expect("write");
    let ground = Ground::new(&format!("ro,queries={}", dir.path().display()));
    assert_eq!(ground.sh("ls queries; cat queries/one"), "one\none.sql\n1\n");
    let said = ground.try_sh("echo x > queries/two.sql 2>&1");
    assert!(!said.status.success());
    ground.mount.finish();
}

fn rows_are_changed_like_files() {
    let ground = Ground::new("rw");
    ground.sh("cd tables/person/rows; echo 37 > 1/age; printf 'Ada Lovelace' > 1/name; printf '\\001\\002' > 1/photo; cat 1/age 1/name");
    assert_eq!(ground.sqlite("SELECT typeof(age), age, name, hex(photo) FROM person WHERE id=1"), "integer|37|Ada Lovelace|0102\n");
    // A key of two numbers is not the row's own number, and must have something.
    ground.sqlite("CREATE TABLE places(x INTEGER NOT NULL, y INTEGER NOT NULL, what TEXT, PRIMARY KEY(x, y))");
    ground.sh("until test -d tables/places; do sleep 0.1; done; cd tables/places/rows; mkdir 7; echo 5 > 7/x; mkdir 8; echo hut > 8/what");
    assert_eq!(ground.sqlite("SELECT rowid, x, y, what FROM places"), "7|5|0|\n8|0|0|hut\n");
    // Shorter than before, and longer.
    ground.sh(
        "cd tables/person/rows; echo x > 1/name; cat 1/name; echo ' y' >> 1/name; seq 100 | cp /dev/stdin 1/born; truncate -s 0 1/photo",
    );
    assert_eq!(ground.sqlite("SELECT name, length(born), length(photo) FROM person WHERE id=1"), "x\n y|291|0\n");
    ground.sh("cd tables/person/rows; mkdir 20; echo Bob > 20/name; echo 5 > 20/age; cat 20/born; ls | tail -n 1");
    assert_eq!(ground.sqlite("SELECT id, name, age, born FROM person WHERE id=20"), "20|Bob|5|never\n");
    ground.sh("cd tables/person/rows; rm 20/mail 20/age; cat 20/age; rm -r 20 7; test ! -e 20; rmdir 2");
    assert_eq!(ground.sqlite("SELECT group_concat(id) FROM person"), "1\n");
    // A removed cell that cannot be NULL is gone until it is written or the row goes.
    ground.sh("cd tables/person/rows/1; rm name; test ! -e name; ls; echo back > name; cat name");
    assert_eq!(ground.sqlite("SELECT name FROM person"), "back\n");
    ground.sh("cd tables/pair/rows; mkdir 'new%2Fkey,9'; echo v > 'new%2Fkey,9/v'; rm -r 'x%2Fy,1'");
    assert_eq!(
        ground.sqlite("SELECT a, typeof(b), b, v FROM pair ORDER BY b"),
        "50%, or so|integer|2|comma\n.|integer|3|dot\nnew/key|integer|9|v\n"
    );
    ground.mount.finish();
}

fn what_the_database_refuses_is_an_errno() {
    let ground = Ground::new("rw");
    for (script, says, line) in [
        ("echo -5 > tables/person/rows/1/age", "Invalid argument", "CHECK constraint failed"),
        ("echo x > tables/person/rows/2/mail", "File exists", "UNIQUE constraint failed: person.mail"),
        ("mkdir tables/person/rows/1", "File exists", ""),
        ("mkdir tables/person/rows/x", "Invalid argument", ""),
        ("touch tables/person/rows/1/.swp", "not permitted", ""),
        ("mv tables/person/rows/1 tables/person/rows/5", "not permitted", ""),
        ("rmdir tables/person", "Read-only", ""),
        ("rmdir tables/person/rows/99", "No such file", ""),
        ("mkdir tables/new", "Read-only", ""),
        ("echo 1 > 'select 1'", "Read-only", ""),
        ("printf '\\377' > tables/person/rows/1/name", "Invalid argument", "a text is UTF-8"),
    ] {
        let done = ground.try_sh(&format!("{{ {script}; }} 2>&1"));
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(!done.status.success() && said.contains(says), "{script}: {said}");
        assert!(ground.errors().contains(line), "{script}: {}", ground.errors());
    }
    assert_eq!(ground.sqlite("SELECT id, name, age FROM person WHERE id = 1"), "1|Ada|36\n");
    // Queries do not write there either.
    assert_eq!(ground.errno("with x as (select 1) delete from person"), libc::EACCES);
    ground.mount.finish();
}

fn nothing_is_written_unless_asked_for() {
    let ground = Ground::new("");
    let digest = |ground: &Ground| {
        shell(&format!("sha256sum < {}; ls -a {}", ground.database.display(), ground.database.parent().unwrap().display()))
    };
    let before = digest(&ground);
    ground.try_sh(
        "find . >/dev/null; cat tables/*/count; echo 5 > tables/person/rows/1/age; mkdir tables/person/rows/9; rm -rf tables/person/rows/1",
    );
    assert_eq!(digest(&ground), before);
    ground.mount.finish();
}

fn the_server_lets_go_of_everything() {
    let ground = Ground::new("");
    let family = || {
        let said = output(Command::new("pgrep").args(["-f", &ground.database.display().to_string()]));
        String::from_utf8_lossy(&said.stdout).lines().count()
    };
    assert_eq!(ground.cat("select 1"), "1\n");
    // The supervisor, the server, the keeper and a worker.
    assert_eq!(family(), 4);
    // The server opens nothing, so it has no right left, nor has a worker.
    let said = succeed(Command::new("pgrep").args(["-f", &ground.database.display().to_string()]));
    let powerless = |pid: &&str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("CapPrm:").is_some_and(|set| set.trim().trim_matches('0').is_empty()))
    };
    assert_eq!(said.lines().filter(powerless).count(), 2, "{said}");
    let database = ground.database.clone();
    let Ground { mount, _dir, .. } = ground;
    mount.finish();
    let left = || String::from_utf8_lossy(&output(Command::new("pgrep").args(["-f", &database.display().to_string()])).stdout).into_owned();
    fixture::wait_for("the keeper and its workers end", || left().is_empty());
    // In the background nobody waits for the keeper's output.
    let dir = temp_dir();
    let point = dir.path().join("point");
    fs::create_dir(&point).expect("a mount point");
    let line = format!(
        "x=$({} mount sqlfs {} {} 2>&1); cat {}/'select 5'",
        fixture::binary().display(),
        database.display(),
        point.display(),
        point.display()
    );
    let said = shell(&line);
    fixture::unmount(&point);
    assert_eq!(said, "5\n");
    fixture::wait_for("the keeper and its workers end", || left().is_empty());
    // What is no database is refused at once.
    let text = dir.path().join("text");
    fs::write(&text, "this is not a database at all").expect("write");
    fs::set_permissions(&text, fs::Permissions::from_mode(0o644)).expect("chmod");
    let refused = output(Command::new(fixture::binary()).args(["mount", "sqlfs"]).arg(&text).arg(&point));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is no SQLite database"), "{refused:?}");
}

fn an_ordinary_user_mounts_for_himself() {
    ordinary::need();
    let dir = temp_dir();
    let database = dir.path().join("made.db");
    succeed(Command::new(need_program("sqlite3", "sqlite3")).arg(&database).arg(MADE));
    // A journal is made beside it.
    ordinary::give(&database);
    ordinary::give(dir.path());
    let mount = Mount::sqlfs_of_user(&database, &format!("rw,uid={}", ordinary::USER));
    let run = |script: &str| {
        let mut command = Command::new("sh");
        ordinary::act(command.args(["-euc", script]).current_dir("/"));
        succeed(&mut command)
    };
    let point = mount.path().display();
    assert_eq!(run(&format!("cat {point}/'select max(age) from person'")), "36\n");
    assert_eq!(run(&format!("echo 40 > {point}/tables/person/rows/1/age; cat {point}/tables/person/rows/1/age")), "40\n");
    mount.finish();
}

/// Without a guest: that the server comes up and goes, and takes all with it.
fn guests_are_served_too() {
    need_root();
    let dir = temp_dir();
    let (database, socket) = (dir.path().join("made.db"), dir.path().join("socket"));
    succeed(Command::new(need_program("sqlite3", "sqlite3")).arg(&database).arg(MADE));
    let mut command = Command::new(fixture::binary());
    command.args(["serve", "sqlfs"]).arg(&database).arg("--socket").arg(&socket);
    let mut server = Process::start(&mut command);
    server.wait_until("does not serve", || socket.exists());
    server.signal(rustix::process::Signal::TERM);
    assert!(server.wait(10).success(), "{}", server.log());
    let left = || output(Command::new("pgrep").args(["-f", &database.display().to_string()])).stdout.is_empty();
    fixture::wait_for("the keeper ends", left);
}

/// PROJ's database of coordinate systems, as Debian ships it: some eighty
/// tables and views with triggers and composite keys, by people who never
/// heard of us.
fn proj() -> PathBuf {
    let kept = cache_dir().join("proj.db");
    if kept.is_file() {
        return kept;
    }
    let dir = temp_dir();
    let line = format!("cd {} && apt-get download proj-data >log 2>&1 && dpkg-deb -x proj-data_*.deb out", dir.path().display());
    let done = output(Command::new("sh").args(["-c", &line]));
    let made = dir.path().join("out/usr/share/proj/proj.db");
    if !done.status.success() || !made.is_file() {
        skip("no package proj-data to be had with apt-get download");
    }
    fs::copy(&made, &kept).expect("copy");
    kept
}

fn a_database_of_others_is_read_whole() {
    need_root();
    let sqlite = need_program("sqlite3", "sqlite3");
    let database = proj();
    // Some of its views are joins of everything.
    let mount = Mount::sqlfs(&database, "time=20000");
    let ask = |sql: &str| succeed(Command::new(&sqlite).arg("-readonly").arg(&database).arg(sql));
    let named = ask("SELECT name FROM sqlite_schema WHERE type IN ('table','view') AND name NOT LIKE 'sqlite_%' ORDER BY name");
    let named: Vec<&str> = named.lines().collect();
    let tables = mount.path().join("tables");
    let mut listed: Vec<String> =
        fs::read_dir(&tables).expect("tables").map(|entry| entry.expect("entry").file_name().into_string().expect("text")).collect();
    listed.sort_unstable();
    assert_eq!(listed, named);
    let (mut rows, mut cells) = (0, 0);
    for table in &named {
        let cat = |file: &str| succeed(Command::new("cat").arg(tables.join(table).join(file)));
        let count = ask(&format!("SELECT count(*) FROM \"{table}\""));
        assert_eq!(cat("count"), count, "{table}");
        let count: usize = count.trim().parse().expect("a number");
        rows += count;
        let whole = succeed(Command::new("cat").arg(mount.path().join(format!("select * from {table}.tsv"))));
        assert_eq!(whole.lines().count(), count + 1, "{table}");
        let schema = ask(&format!("SELECT sql FROM sqlite_schema WHERE name = '{table}'"));
        assert_eq!(cat("schema"), schema, "{table}");
        if count > 0 {
            let head = cat("head");
            let word = head.split_whitespace().last().unwrap_or_default();
            let found = succeed(Command::new("grep").arg("-F").arg("-e").arg(word).arg(tables.join(table).join("head")));
            assert!(found.contains(word));
        }
        // Every value of a few rows, as the shell has it.
        let listing = fs::read_dir(tables.join(table).join("rows"));
        for row in listing.into_iter().flatten().take(3) {
            for cell in fs::read_dir(row.expect("row").path()).expect("columns") {
                fs::read(cell.expect("cell").path()).expect("a value");
                cells += 1;
            }
        }
    }
    println!("    {} tables and views, {rows} rows, {cells} values", named.len());
    assert!(named.len() >= 40 && rows > 10_000 && cells > 100);
    // The same rows, byte for byte.
    let ours =
        succeed(Command::new("cat").arg(mount.path().join("select auth_name, code, name from ellipsoid order by auth_name, code.csv")));
    let theirs = succeed(
        Command::new(&sqlite)
            .args(["-readonly", "-csv", "-header"])
            .arg(&database)
            .arg("select auth_name, code, name from ellipsoid order by auth_name, code"),
    );
    let fields = |text: &str| text.replace("\r\n", "\n").replace('"', "");
    assert_eq!(fields(&ours), fields(&theirs));
    mount.finish();
}
