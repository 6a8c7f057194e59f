//! `externfs query` over directories of the host, as people and scripts run it.

mod support;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use support::{PROGRAM, Place, eventually, externfs, fails, is_root, needs, run, succeeds, text};

/// A directory with what is hard to tell.
fn zoo(place: &Place) {
    let at = |name: &str| place.source().join(name);
    let mode = |name: &str, mode| fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).expect("chmod");
    fs::create_dir_all(at("deep/er/est")).expect("mkdir");
    fs::write(at("deep/er/est/leaf"), vec![b'x'; 100_000]).expect("write");
    for (name, bits) in [("su", 0o4755), ("sg", 0o2711), ("none", 0o000), ("deep", 0o1777)] {
        if name != "deep" {
            fs::write(at(name), name).expect("write");
        }
        mode(name, bits);
    }
    fs::hard_link(at("su"), at("deep/su too")).expect("link");
    fs::write(at("two\nlines\ttab\\"), "").expect("write");
    fs::write(place.source().join(OsStr::from_bytes(b"no\xfftext\xc3")), "").expect("write");
    fs::create_dir(place.source().join(OsStr::from_bytes(b"dir\xfe\n"))).expect("mkdir");
    fs::write(place.source().join(OsStr::from_bytes(b"dir\xfe\n/in it")), "").expect("write");
    symlink(OsStr::from_bytes(b"to\xff\n/nowhere"), at("link")).expect("symlink");
    symlink("/", at("root")).expect("symlink");
    symlink("deep", at("to a directory")).expect("symlink");
    succeeds(Command::new("mkfifo").arg(at("fifo")));
    File::create(at("sparse")).and_then(|file| file.set_len(1 << 33)).expect("truncate");
    succeeds(Command::new("touch").args(["-d", "@-5.000000007"]).arg(at("sparse")));
    if is_root() {
        succeeds(Command::new("mknod").arg(at("null")).args(["c", "1", "3"]));
        chown(at("none"), Some(1234), Some(4_000_000_000)).expect("chown");
        lchown(at("link"), Some(7), Some(8)).expect("lchown");
    }
}

fn ask(place: &Place, sql: &str) -> Command {
    let mut command = externfs(["query"]);
    let mut tree = std::ffi::OsString::from("hostfs:");
    tree.push(place.source());
    command.arg(tree).arg(sql);
    command
}

/// Records of `fields` values that end with NUL bytes each.
fn records(bytes: &[u8], fields: usize) -> BTreeSet<Vec<Vec<u8>>> {
    let values: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
    values.chunks_exact(fields).map(|record| record.iter().map(|value| value.to_vec()).collect()).collect()
}

#[test]
fn who_asks_nothing_is_told_how() {
    let place = Place::new();
    let mut command = externfs(["query"]);
    fails(command.arg(place.source()), 2, &["SQL", "--repl"]);
}

#[test]
fn a_directory_is_what_find_says() {
    let place = Place::new();
    zoo(&place);
    let format = r"/%P\0%y\0%m\0%U\0%G\0%s\0%b\0%n\0%i\0%l\0%T@\0%D\0";
    let found = run(Command::new("find").arg(place.source()).args(["-mindepth", "1", "-printf", format]));
    let sql = "select raw, type, printf('%o', mode), uid, gid, size, blocks, nlink, ino, target, printf('%d.%09d0', mtime, mtime_ns), '' from root_fs";
    let told = run(ask(&place, sql).args(["--format", "nul"]));
    assert!(told.status.success(), "{}", text(&told.stderr));
    let without_device = |records: BTreeSet<Vec<Vec<u8>>>| -> BTreeSet<Vec<Vec<u8>>> {
        records
            .into_iter()
            .map(|mut record| {
                record.pop();
                record
            })
            .collect()
    };
    let (mut found, told) = (without_device(records(&found.stdout, 12)), without_device(records(&told.stdout, 12)));
    // find spells what is before 1970 in its own way.
    let sparse = |record: &Vec<Vec<u8>>| record[0] == b"/sparse";
    found.retain(|record| !sparse(record));
    assert!(told.iter().any(sparse) && found.len() >= 17);
    let told_but_sparse: BTreeSet<_> = told.iter().filter(|record| !sparse(record)).cloned().collect();
    assert_eq!(told_but_sparse, found);
    let sparse = place.source().join("sparse").metadata().expect("stat");
    let expected = format!("8589934592\t{}\t{}\n", sparse.mtime(), sparse.mtime_nsec());
    assert_eq!(succeeds(&mut ask(&place, "select size, mtime, mtime_ns from root_fs where base = 'sparse'")), expected);
    // Names of users come from the host; objects are there once.
    assert_eq!(succeeds(&mut ask(&place, "select distinct user from root_fs where uid = 0")), if is_root() { "root\n" } else { "" });
    assert_eq!(succeeds(&mut ask(&place, "select count(*), min(nlink) from root_inodes where setuid = 1")), "1\t2\n");
    // The directory itself is an object without a name.
    let inode = succeeds(Command::new("stat").args(["-c", "%i"]).arg(place.source()));
    assert_eq!(succeeds(&mut ask(&place, &format!("select type, count(*) from root_inodes where ino = {}", inode.trim()))), "d\t1\n");
    let bytes = succeeds(&mut ask(&place, "select bytes - (select sum(blocks * 512) from root_inodes) from root_usage where kind = 'all'"));
    assert_eq!(bytes, "0\n");
}

#[test]
fn attributes_are_read() {
    let place = Place::new();
    let file = place.source().join("hello");
    let set = rustix::fs::setxattr(&file, "user.greeting", b"good\0day", rustix::fs::XattrFlags::empty());
    if !needs(set.is_ok(), "a file system with extended attributes") {
        return;
    }
    let said = succeeds(&mut ask(&place, "select f.name, x.name, hex(x.value) from root_xattrs x join root_fs f using(ino)"));
    assert_eq!(said, "/hello\tuser.greeting\t676F6F6400646179\n");
}

#[test]
fn formats_are_those_of_sqlfs() {
    let place = Place::new();
    let sql = "select base, size, null as n from root_fs";
    for (format, expected) in [
        ("text", "hello\t14\t\n"),
        ("txt", "hello\t14\t\n"),
        ("csv", "base,size,n\nhello,14,\n"),
        ("tsv", "base\tsize\tn\nhello\t14\t\n"),
        ("json", "[\n{\"base\":\"hello\",\"size\":14,\"n\":null}\n]\n"),
        ("jsonl", "{\"base\":\"hello\",\"size\":14,\"n\":null}\n"),
        ("nul", "hello\u{0}14\u{0}\u{0}"),
        ("table", "base   size  n\n-----  ----  -\nhello  14\n"),
    ] {
        assert_eq!(succeeds(ask(&place, sql).args(["--format", format])), expected, "{format}");
    }
    // Not a terminal.
    assert_eq!(succeeds(&mut ask(&place, sql)), "hello\t14\t\n");
    let plan = succeeds(ask(&place, "select name from root_fs where setuid = 1").arg("--explain"));
    assert!(plan.starts_with("SEARCH inode USING INDEX inode_setuid") && !plan.contains("warning"), "{plan}");
    let plan = succeeds(ask(&place, "select name from root_fs where size > 5").arg("--explain"));
    assert!(plan.contains("warning: full scan of "), "{plan}");
    // A reader that has enough is no mistake.
    let line = format!(
        "'{PROGRAM}' query 'hostfs:{}' 'with recursive c(x) as (select 1 union all select x+1 from c limit 200000) select x from c' | head -n 1",
        place.source().display()
    );
    let piped = run(Command::new("bash").args(["-o", "pipefail", "-c", &line]));
    assert_eq!((text(&piped.stdout), text(&piped.stderr), piped.status.code()), ("1\n".into(), String::new(), Some(0)));
}

#[test]
fn mistakes_have_one_line_and_a_remedy() {
    let place = Place::new();
    let source = place.source().display().to_string();
    for (sql, parts) in [
        ("select frob from root_fs", &["no such column: frob (at byte 7)"][..]),
        ("select * from nowhere", &["no such table: nowhere"]),
        ("delete from root_fs", &["cannot modify root_fs"]),
        ("delete from inode", &["only statements that read"]),
        ("select name from sqlite_schema", &["not open"]),
        ("select v from state", &["table state is not open"]),
        ("attach '/etc/passwd' as x", &["no other database"]),
        ("select 1; select 2", &["one statement at a time"]),
        ("", &["no statement"]),
    ] {
        fails(&mut ask(&place, sql), 1, parts);
    }
    let forever = "with recursive c(x) as (select 1 union all select x+1 from c) select ";
    fails(&mut ask(&place, &format!("{forever} count(*) from c")), 1, &["1000 ms", "--time SECONDS"]);
    fails(ask(&place, &format!("{forever} x from c limit 11")).args(["--rows", "10"]), 1, &["more than 10 rows", "--rows N"]);
    assert_eq!(succeeds(ask(&place, &format!("{forever} x from c limit 10")).args(["--rows", "10"])).lines().count(), 10);
    fails(externfs(["query"]).arg(place.path().join("none")).arg("select 1"), 1, &["none", "no such file"]);
    fails(externfs(["query"]).arg(place.source()).arg("select 1"), 1, &["is no humfs tree", "hostfs:"]);
    fails(&mut externfs(["query", &format!("hostfs:{source}/hello"), "select 1"]), 1, &["hello"]);
    fails(&mut externfs(["query", &format!("sqlfs:{source}"), "select 1"]), 2, &["not sqlfs"]);
    fails(&mut externfs(["query", "--all-filesystems", &source, "select 1"]), 2, &["--all-filesystems"]);
    for wrong in [
        &["query"][..],
        &["query", "x"],
        &["query", "x", "y", "--format", "xml"],
        &["query", "x", "y", "--time", "0"],
        &["query", "x", "y", "--repl"],
    ] {
        assert_eq!(run(&mut externfs(wrong)).status.code(), Some(2), "{wrong:?}");
    }
    fails(ask(&place, "select 1").env("TMPDIR", place.path().join("none")), 1, &["set TMPDIR"]);
}

#[test]
fn other_file_systems_are_told_and_not_entered() {
    if !needs(is_root(), "root") {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.source().join("mnt")).expect("mkdir");
    let line = "mount -t tmpfs -o mode=700 tmpfs \"$1/mnt\" && mkdir \"$1/mnt/d\" && echo x > \"$1/mnt/d/f\" && ln \"$1/mnt/d/f\" \"$1/mnt/g\" && mount --bind \"$1\" \"$1/mnt/d\" && shift && exec \"$@\"";
    let told = |more: &[&str]| {
        let sql = "select name, perms, nlink from root_fs order by name";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", line, "sh"]).arg(place.source());
        succeeds(command.arg(PROGRAM).args(["query", &format!("hostfs:{}", place.source().display()), sql]).args(more))
    };
    if !needs(run(Command::new("unshare").args(["--mount", "true"])).status.success(), "mount namespaces") {
        return;
    }
    assert_eq!(told(&[]), "/hello\t0644\t1\n/mnt\t0700\t3\n");
    let all = told(&["--all-filesystems"]);
    let names: Vec<&str> = all.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!(names, ["/hello", "/mnt", "/mnt/d", "/mnt/d/hello", "/mnt/d/mnt", "/mnt/g"], "{all}");
}

/// What is left in the directory for temporary files.
fn left(dir: &Path) -> usize {
    fs::read_dir(dir).expect("a directory").count()
}

#[test]
fn nothing_is_left_behind() {
    let place = Place::new();
    let temporary = place.source().join("tmp");
    fs::create_dir(&temporary).expect("mkdir");
    // Its own files are not in the answer.
    let said = succeeds(ask(&place, "select name from root_fs order by 1").env("TMPDIR", &temporary));
    assert_eq!((said.as_str(), left(&temporary)), ("/hello\n/tmp\n", 0));
    // SQLite follows no link to a catalog, whoever has made it.
    let link = place.path().join("link");
    std::os::unix::fs::symlink(place.source(), &link).expect("symlink");
    let said = succeeds(ask(&place, "select count(*) from root_fs").env("TMPDIR", link.join("tmp")));
    assert_eq!((said.as_str(), left(&temporary)), ("2\n", 0));
    fails(ask(&place, "select frob").env("TMPDIR", &temporary), 1, &["frob"]);
    assert_eq!(left(&temporary), 0);
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let mut command = Command::new(PROGRAM);
        command.args(["query", "--repl", &format!("hostfs:{}", place.source().display())]).env("TMPDIR", &temporary);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
        let mut running = support::Running(child);
        eventually("the catalog", || left(&temporary) == 1);
        running.signal(signal);
        assert_eq!(running.ends(), Some(code));
        assert_eq!(left(&temporary), 0);
    }
}

#[test]
fn what_cannot_be_read_is_said() {
    let place = Place::new();
    for name in ["a", "b"] {
        fs::create_dir(place.source().join(name)).expect("mkdir");
        fs::set_permissions(place.source().join(name), PermissionsExt::from_mode(0o000)).expect("chmod");
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", PROGRAM, "query", &format!("hostfs:{}", place.source().display())]);
    if is_root() && !needs(run(Command::new("setpriv").arg("--version")).status.success(), "setpriv") {
        return;
    }
    let done = run(command.arg("select name from root_fs order by 1"));
    let said = text(&done.stderr);
    assert_eq!((text(&done.stdout).as_str(), done.status.code()), ("/a\n/b\n/hello\n", Some(0)), "{said}");
    assert!(said.contains("permission denied and 1 other directories") && said.lines().count() == 1, "{said}");
}

/// What `input` does to a REPL that reads no terminal.
fn talk(place: &Place, input: &str) -> (String, String, Option<i32>) {
    let mut command = externfs(["query", "--repl", &format!("hostfs:{}", place.source().display())]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("ends");
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

#[test]
fn one_question_after_another() {
    let place = Place::new();
    let (out, err, code) = talk(
        &place,
        "select name\n  from root_fs\n where base = 'hello;';\n.format csv\nselect base, ';' as s from root_fs;\n\n.explain\n.tables\nselect 7",
    );
    assert_eq!((err.as_str(), code), ("", Some(0)));
    let rest = out.strip_prefix("base,s\nhello,;\n").expect(&out);
    assert!(
        rest.starts_with("plan\n") && rest.ends_with("root_changes\nroot_fs\nroot_inodes\nroot_text\nroot_usage\nroot_xattrs\n7\n7\n"),
        "{rest}"
    );
    // A directory is looked at once, until that is wanted again.
    let (out, _, code) = talk(&place, "select count(*) from root_fs;\n.rescan\nselect count(*) from root_inodes;\n");
    assert_eq!((out.as_str(), code), ("1\n2\n", Some(0)));
    let (out, err, code) =
        talk(&place, "select frob;\n.frob\n.format xml\nselect 1;\n.schema root_usage\n.schema x\n.help\n.quit\nselect 2;\n");
    assert!(out.starts_with("1\nCREATE VIEW root_usage AS") && out.contains("-- columns: kind, id, name, inodes, bytes\n"), "{out}");
    assert!(out.contains(".rescan") && !out.contains("2\n"), "{out}");
    assert_eq!(err.lines().count(), 4, "{err}");
    assert_eq!(code, Some(1));
}

#[test]
fn who_has_enough_ends_the_conversation() {
    let place = Place::new();
    for order in [".help", ".tables", ".schema", "select 1;", ".frob"] {
        let mut command = externfs(["query", "--repl", &format!("hostfs:{}", place.source().display())]);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        // What is refused is told to nobody either.
        let errors = std::io::pipe().expect("a pipe").1;
        let errors = if order == ".frob" { Stdio::from(errors) } else { Stdio::piped() };
        let mut child = command.stdin(Stdio::piped()).stdout(writer).stderr(errors).spawn().expect("starts");
        // Before the first word, as far as can be.
        drop((reader, command));
        // It may have ended before it has read everything.
        let _ = child.stdin.take().expect("a pipe").write_all(format!("{order}\n").repeat(50).as_bytes());
        let output = child.wait_with_output().expect("ends");
        assert!(!text(&output.stderr).contains("panicked"), "{order}: {}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(i32::from(order == ".frob")), "{order}: {}", text(&output.stderr));
    }
}

#[test]
fn a_terminal_has_a_history_and_completion() {
    if !needs(run(Command::new("script").arg("--version")).status.success(), "script(1)") {
        return;
    }
    let place = Place::new();
    let state = place.path().join("state");
    let line = format!("'{PROGRAM}' query --repl 'hostfs:{}'", place.source().display());
    let mut command = Command::new("timeout");
    command.args(["60", "script", "-qec", &line, "/dev/null"]).env("XDG_STATE_HOME", &state).env("TERM", "xterm");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut input = child.stdin.take().expect("a pipe");
    let mut output = child.stdout.take().expect("a pipe");
    let mut said = String::new();
    let mut wait_for = |what: &str, times: usize| {
        let mut piece = [0; 1024];
        while said.matches(what).count() < times {
            let read = output.read(&mut piece).expect("output");
            assert!(read > 0, "{said}");
            said.push_str(&text(piece.get(..read).expect("read")));
        }
    };
    // What a terminal is told when a line begins.
    const BEGIN: &str = "\x1b[?2004h";
    wait_for(BEGIN, 1);
    input.write_all(b"select nonsense\x03").expect("written");
    wait_for(BEGIN, 2);
    input.write_all(b"sel\t count(*) as many from root_f\t;\r").expect("written");
    wait_for("----", 1);
    wait_for(BEGIN, 3);
    input.write_all(b"\x04").expect("written");
    assert!(child.wait().expect("ends").success(), "{said}");
    assert!(said.contains("many"), "{said}");
    let history = state.join("externfs/history");
    let kept = fs::read_to_string(&history).expect("a history");
    assert!(kept.contains("select count(*) as many from root_fs;") && !kept.contains("nonsense"), "{kept}");
    assert_eq!(history.metadata().expect("stat").permissions().mode() & 0o777, 0o600);
}
