//! sqlfs over a humfs tree: the book's query, on a tree that is served, on one at
//! rest, on one whose catalog is being made, made anew, or not kept any more.

use externfs_catalog::barrier::{self, Standing};
use externfs_catalog::{Batch, Catalog, DATABASE, DIRECTORY};
use externfs_tests::fixture::{self, Mount, need_root, output, succeed, temp_dir, wait_for};
use externfs_tests::harness;
use externfs_tests::ordinary;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn main() -> std::process::ExitCode {
    ordinary::in_own_mounts(|| {
        harness::main(externfs_tests::cases![
            the_books_query_follows_the_tree,
            a_guest_reads_its_own_writes,
            a_catalog_that_is_made_anew_is_the_next_query,
            what_is_not_there_yet_is_not_answered,
            a_server_that_does_not_answer_holds_up_nobody_else,
            a_server_may_come_later,
            a_tree_is_never_written_through_sql,
            the_views_of_a_label,
            several_trees_at_once,
            the_command_asks_trees_too,
            a_tree_on_a_medium_that_cannot_be_written,
            the_command_waits_for_a_catalog_that_is_made,
        ])
    })
}

/// The book's.
const SETUID: &str = "select name from root_fs where setuid = 1";

/// A humfs tree of an ordinary user's, with two setuid files in it.
struct Ground {
    tree: PathBuf,
    dir: TempDir,
}

impl Ground {
    fn new() -> Ground {
        need_root();
        let dir = temp_dir();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
        let source = dir.path().join("source");
        for part in ["usr/bin", "etc", "home/ada"] {
            fs::create_dir_all(source.join(part)).expect("mkdir");
        }
        for (name, mode) in [("usr/bin/passwd", 0o4755), ("usr/bin/su", 0o4755), ("usr/bin/ls", 0o755), ("home/ada/mail", 0o600)] {
            fs::write(source.join(name), name).expect("write");
            fs::set_permissions(source.join(name), PermissionsExt::from_mode(mode)).expect("chmod");
        }
        fs::write(source.join("etc/passwd"), "root:x:0:0:::\nada:x:1234:1234:::\n").expect("write");
        std::os::unix::fs::chown(source.join("home/ada/mail"), Some(1234), None).expect("chown");
        let tree = dir.path().join("tree");
        let mut create = Command::new(fixture::binary());
        create.args(["create", "--size", "1G", "--owner", &format!("{}:65534", ordinary::USER), "--from"]).arg(&source).arg(&tree);
        succeed(&mut create);
        Ground { tree, dir }
    }

    fn catalog(&self) -> PathBuf {
        self.tree.join(DIRECTORY)
    }

    fn identity(&self) -> u64 {
        self.catalog().join(DATABASE).metadata().map_or(0, |there| there.ino())
    }
}

fn cat(mount: &Mount, name: &str) -> String {
    succeed(Command::new("cat").arg(mount.path().join(name)))
}

fn info(mount: &Mount, key: &str) -> String {
    let info = cat(mount, ".info");
    let line = info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('\t'));
    line.unwrap_or_else(|| panic!("no {key} in {info}")).to_owned()
}

/// As the guest's root.
fn guest(script: &str, mount: &Mount) -> String {
    let mut command = Command::new("bash");
    ordinary::act(command.args(["-euc", script]).current_dir("/").env("M", mount.path()));
    succeed(&mut command)
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(str::to_owned).collect()
}

fn the_books_query_follows_the_tree() {
    let ground = Ground::new();
    let tree = Mount::humfs(&ground.tree, "");
    let mount = Mount::sqlfs(&ground.tree, "");
    let found = || guest("cd $M; find . -perm -4000 | sed 's/^.//'", &tree);
    let ask = || fs::read_to_string(mount.path().join(SETUID));
    wait_for("the catalog", || ask().is_ok());
    assert_eq!(lines(&ask().expect("an answer")), lines("/usr/bin/passwd\n/usr/bin/su\n"));
    assert_eq!(lines(&ask().expect("an answer")), lines(&found()));
    guest(
        "cd $M; chmod u-s usr/bin/su; mv usr/bin usr/sbin; cp usr/sbin/passwd home/; ln home/passwd etc/link; chmod 4755 home/passwd",
        &tree,
    );
    assert_eq!(lines(&ask().expect("an answer")), lines("/usr/sbin/passwd\n/home/passwd\n/etc/link\n"));
    assert_eq!(lines(&ask().expect("an answer")), lines(&found()));
    assert_eq!(cat(&mount, "select user from root_fs where base = 'mail'"), "ada\n");
    assert_eq!((info(&mount, "standing"), info(&mount, "complete")), ("up to date".into(), "yes".into()));
    assert_eq!(cat(&mount, "tables/root_fs/count"), guest("cd $M; find . -mindepth 1 | wc -l", &tree));
    let listed = succeed(Command::new("ls").arg(mount.path().join("tables")));
    assert_eq!(listed, "root_changes\nroot_fs\nroot_inodes\nroot_text\nroot_usage\nroot_xattrs\n");
    assert!(cat(&mount, "README").contains(&format!("cat \"{SETUID}\"")));
    // Nobody serves it, then somebody does again.
    tree.finish();
    assert_eq!(lines(&ask().expect("an answer")), lines("/usr/sbin/passwd\n/home/passwd\n/etc/link\n"));
    assert_eq!(info(&mount, "standing"), "up to date: nobody serves the tree");
    let tree = Mount::humfs(&ground.tree, "");
    guest("cd $M; chmod u-s usr/sbin/passwd", &tree);
    assert_eq!(lines(&ask().expect("an answer")), lines("/home/passwd\n/etc/link\n"));
    mount.finish();
    tree.finish();
}

fn a_guest_reads_its_own_writes() {
    let ground = Ground::new();
    let tree = Mount::humfs(&ground.tree, "");
    let mount = Mount::sqlfs(&ground.tree, "");
    wait_for("the catalog", || fs::read(mount.path().join("select 1")).is_ok());
    let begun = Instant::now();
    for round in 0..40 {
        guest(
            &format!("cd $M/home; echo {round} > f{round}; head -c {round} /dev/zero >> f{round}; chmod 4700 f{round}; mkdir d{round}"),
            &tree,
        );
        let said = cat(
            &mount,
            &format!("select size, perms, (select count(*) from root_fs where base = 'd{round}') from root_fs where base = 'f{round}'"),
        );
        let size = round.to_string().len() + 1 + round;
        assert_eq!(said, format!("{size}\t4700\t1\n"));
        guest(&format!("cd $M/home; rm f{round}; mv d{round} e{round}"), &tree);
        assert_eq!(
            cat(&mount, &format!("select base from root_fs where base in ('f{round}', 'd{round}', 'e{round}')")),
            format!("e{round}\n")
        );
    }
    println!("    80 queries after 80 changes: {:?}", begun.elapsed());
    // Several at once share the word of the server.
    let askers: Vec<_> = (0..6)
        .map(|number| {
            let path = mount.path().join(format!("select count(*) + {number} from root_fs where base like 'e%'"));
            std::thread::spawn(move || fs::read_to_string(path).map_err(|error| error.raw_os_error()))
        })
        .collect();
    let many = 1 + 40;
    for (number, asker) in askers.into_iter().enumerate() {
        assert_eq!(asker.join().expect("joined"), Ok(format!("{}\n", many + number)));
    }
    mount.finish();
    tree.finish();
}

fn a_catalog_that_is_made_anew_is_the_next_query() {
    let ground = Ground::new();
    let tree = Mount::humfs(&ground.tree, "");
    let mount = Mount::sqlfs(&ground.tree, "");
    let ask = || fs::read_to_string(mount.path().join(SETUID));
    wait_for("the catalog", || ask().is_ok());
    let before = ground.identity();
    guest("cd $M; chmod u-s usr/bin/su", &tree);
    tree.kill();
    // Whoever was killed has told nobody; what is there is shown, with a warning.
    ask().expect("an answer");
    assert!(info(&mount, "standing").contains("may be behind"), "{}", info(&mount, "standing"));
    let tree = Mount::humfs(&ground.tree, "");
    wait_for("the new catalog", || match ask() {
        Ok(answer) => answer == "/usr/bin/passwd\n",
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
            false
        }
    });
    assert_ne!(ground.identity(), before, "it was to be another file");
    assert_eq!(info(&mount, "standing"), "up to date");
    mount.finish();
    tree.finish();
}

/// A tree as far as sqlfs looks at it, with a catalog and whoever answers for it.
struct Fake {
    tree: PathBuf,
    _dir: TempDir,
}

impl Fake {
    fn new(is_complete: bool) -> Fake {
        need_root();
        let dir = temp_dir();
        let tree = dir.path().join("tree");
        fs::DirBuilder::new().recursive(true).mode(0o755).create(tree.join(DIRECTORY)).expect("mkdir");
        fs::write(tree.join("superblock"), "").expect("write");
        let mut catalog = Catalog::create(&tree.join(DIRECTORY).join(DATABASE), "root", 1).expect("a catalog");
        catalog.apply(&Batch::default()).expect("applied");
        if is_complete {
            catalog.complete().expect("complete");
        }
        Fake { tree, _dir: dir }
    }

    fn listen(&self) -> UnixListener {
        barrier::listen(&self.tree.join(DIRECTORY)).expect("a socket")
    }
}

/// A server that is well.
struct Answering {
    is_over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
    dir: PathBuf,
}

impl Answering {
    fn begin(fake: &Fake, listener: UnixListener) -> Answering {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = is_over.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                barrier::answer(&stream, || Standing::Current);
                if told.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        Answering { is_over, thread, dir: fake.tree.join(DIRECTORY) }
    }

    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = barrier::flush(&self.dir, Duration::from_secs(5));
        self.thread.join().expect("joined");
    }
}

fn errno(mount: &Mount, name: &str) -> Option<i32> {
    fs::read(mount.path().join(name)).expect_err(name).raw_os_error()
}

fn what_is_not_there_yet_is_not_answered() {
    let fake = Fake::new(false);
    let listener = fake.listen();
    std::thread::spawn(move || {
        let standings =
            [Standing::Building(0, 0), Standing::Building(17, 40), Standing::Current, Standing::Failed("the disk\nis full".into())];
        for standing in standings {
            let (stream, _) = listener.accept().expect("a client");
            barrier::answer(&stream, || standing);
        }
    });
    // What begins late is waited for a while.
    let mount = Mount::sqlfs(&fake.tree, "");
    assert_eq!(info(&mount, "standing"), "nobody has asked yet");
    for line in ["the catalog is being made: 0 names so far", "the catalog is being made: 17 of about 40 names"] {
        assert_eq!(errno(&mount, "select 1"), Some(libc::EAGAIN));
        let errors = cat(&mount, "errors");
        let last = errors.lines().last().unwrap_or_default();
        assert!(last.contains(&format!("EAGAIN: {line}: select 1")), "{errors}");
        assert_eq!((info(&mount, "standing"), info(&mount, "complete")), (line.into(), "no".into()));
    }
    assert_eq!(cat(&mount, "select 1"), "1\n");
    // Nobody keeps it any more, and it has never been finished.
    assert_eq!(errno(&mount, "select 1"), Some(libc::EAGAIN));
    assert!(info(&mount, "standing").contains("not complete"));
    mount.finish();
}

fn a_server_that_does_not_answer_holds_up_nobody_else() {
    let fake = Fake::new(true);
    let listener = fake.listen();
    let mount = Mount::sqlfs(&fake.tree, "time=500");
    let path = mount.path().to_owned();
    let askers: Vec<_> = (0..6)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || {
                let begun = Instant::now();
                (fs::read(path.join("select 7")).map_err(|error| error.raw_os_error()), begun.elapsed())
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    for _ in 0..20 {
        fs::metadata(path.join("README")).expect("stat");
        fs::read(path.join(".limits")).expect("read");
    }
    let names = begun.elapsed();
    // At most two at a time ask, and share the word they wait for.
    for asker in askers {
        let (answer, took) = asker.join().expect("joined");
        assert_eq!(answer, Ok(b"7\n".to_vec()));
        assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(12), "{took:?}");
    }
    println!("    20 looks meanwhile: {names:?}");
    assert!(names < Duration::from_millis(900), "{names:?}");
    assert!(info(&mount, "standing").contains("does not answer"), "{}", info(&mount, "standing"));
    // It comes to its senses: the next query hears of it.
    let server = Answering::begin(&fake, listener);
    wait_for("the server's word", || {
        fs::read(path.join("select 8")).expect("an answer");
        info(&mount, "standing") == "up to date"
    });
    mount.finish();
    server.end();
}

/// A guest's root and its catalog may be shared by one command, on a tree that has never been served.
fn a_server_may_come_later() {
    let fake = Fake::new(false);
    let database = fake.tree.join(DIRECTORY).join(DATABASE);
    fs::remove_file(&database).expect("removed");
    let listener = fake.listen();
    let begun = Instant::now();
    let mount = Mount::sqlfs(&fake.tree, "time=200");
    println!("    mounted after {:?}", begun.elapsed());
    // Nobody answers, and there is nothing to ask.
    assert_eq!(errno(&mount, "select count(*) from root_fs"), Some(libc::EAGAIN));
    Catalog::create(&database, "root", 1).expect("a catalog").complete().expect("complete");
    let server = Answering::begin(&fake, listener);
    wait_for("an answer", || fs::read(mount.path().join("select count(*) from root_fs")).is_ok_and(|answer| answer == b"0\n"));
    mount.finish();
    server.end();
}

fn refused(tree: &Path, options: &[&str]) -> Output {
    let point = temp_dir();
    let mut command = Command::new(fixture::binary());
    output(command.args(["mount", "sqlfs"]).arg(tree).arg(point.path()).args(options))
}

fn a_tree_is_never_written_through_sql() {
    let fake = Fake::new(true);
    for (options, line) in [(&["-o", "rw"][..], "never written through SQL"), (&["-o", "write"], "leave out")] {
        let said = refused(&fake.tree, options);
        assert!(!said.status.success() && String::from_utf8_lossy(&said.stderr).contains(line), "{said:?}");
    }
    let mount = Mount::sqlfs(&fake.tree, "");
    for sql in ["with x as (select 1) delete from inode", "select * from state", "select name from sqlite_schema"] {
        assert_eq!(errno(&mount, sql), Some(libc::EACCES), "{sql}");
    }
    mount.finish();
    // Without a catalog there is a remedy; whoever is to keep it may begin later.
    fs::remove_dir_all(fake.tree.join(DIRECTORY)).expect("removed");
    let mount = Mount::sqlfs(&fake.tree, "");
    assert_eq!(errno(&mount, "select count(*) from root_fs"), Some(libc::EAGAIN));
    assert!(cat(&mount, "errors").contains("mount the tree"), "{}", cat(&mount, "errors"));
    let log = mount.server.log();
    assert!(log.contains("has no catalog") && log.contains("externfs query"), "{log}");
    mount.finish();
    // Nor is whoever looks led elsewhere.
    let other = Fake::new(true);
    std::os::unix::fs::symlink(other.tree.join(DIRECTORY), fake.tree.join(DIRECTORY)).expect("symlink");
    let mount = Mount::sqlfs(&fake.tree, "");
    assert_eq!(errno(&mount, "select count(*) from root_fs"), Some(libc::EIO));
    mount.finish();
}

fn the_views_of_a_label() {
    let ground = Ground::new();
    let tree = Mount::humfs(&ground.tree, "label=mail");
    let mount = Mount::sqlfs(&ground.tree, "");
    wait_for("the catalog", || fs::read(mount.path().join("select 1")).is_ok());
    assert_eq!(info(&mount, "catalog"), "mail");
    assert_eq!(cat(&mount, "select name from mail_fs where base = 'mail'"), "/home/ada/mail\n");
    assert_eq!(errno(&mount, SETUID), Some(libc::EINVAL));
    assert!(cat(&mount, "README").contains("mail_usage"));
    mount.finish();
    tree.finish();
}

fn several_trees_at_once() {
    let (first, second, third) = (Ground::new(), Ground::new(), Ground::new());
    let tree = Mount::humfs(&first.tree, "");
    let mail = Mount::humfs(&second.tree, "label=mail");
    // At rest, and another format's would be the same.
    Mount::humfs(&third.tree, "label=old").finish();
    // Somebody else's, so that a worker, who becomes the first one's owner, cannot look there.
    fixture::shell(&format!("chown -R 4321:4321 {}", third.tree.display()));
    let also = format!("also={}:{}", second.tree.display(), third.tree.display());
    let mount = Mount::sqlfs(&first.tree, &also);
    wait_for("the catalogs", || fs::read(mount.path().join("select 1")).is_ok());
    let everything = "select (select count(*) from root_fs), (select count(*) from mail_fs), (select count(*) from old_fs)";
    let objects = guest("find $M -mindepth 1 | wc -l", &tree);
    let objects = objects.trim();
    assert_eq!(cat(&mount, everything), format!("{objects}\t{objects}\t{objects}\n"));
    // What was done a moment ago, in each of those that are served.
    guest("echo hello > $M/home/one; chmod 4711 $M/home/one", &tree);
    guest("rm $M/home/ada/mail; mkdir $M/home/two $M/home/three", &mail);
    let (more, other): (usize, usize) = objects.parse().map(|objects: usize| (objects + 1, objects + 1)).expect("a number");
    assert_eq!(cat(&mount, everything), format!("{more}\t{other}\t{objects}\n"));
    assert_eq!(cat(&mount, "select name from root_fs where setuid = 1 except select name from mail_fs where setuid = 1"), "/home/one\n");
    assert_eq!(
        cat(&mount, "select m.base from mail_fs m left join root_fs r using (name) where r.name is null order by 1"),
        "three\ntwo\n"
    );
    assert_eq!(cat(&mount, "select bytes > 0 from mail_usage where kind = 'all' union all select count(*) > 0 from old_text"), "1\n0\n");
    let listed = succeed(Command::new("ls").arg(mount.path().join("tables")));
    assert_eq!(listed.lines().count(), 18, "{listed}");
    assert_eq!(cat(&mount, "tables/mail_fs/count").trim(), other.to_string());
    assert_eq!((info(&mount, "catalog"), info(&mount, "standing")), ("root mail old".into(), "up to date".into()));
    assert!(cat(&mount, "README").contains("mail_fs"));
    // None is more open than one alone is.
    for shut in ["select * from beside0.sqlite_schema", "select * from pragma_table_list"] {
        assert_eq!(errno(&mount, shut), Some(libc::EACCES), "{shut}");
    }
    // One that is made anew is asked from then on.
    let anew = third.catalog().join(DATABASE);
    let mut catalog = Catalog::create(&anew, "old", third.tree.metadata().expect("stat").ino()).expect("a catalog");
    catalog.complete().expect("complete");
    catalog.close().expect("closed");
    std::os::unix::fs::chown(&anew, Some(4321), Some(4321)).expect("chown");
    assert_eq!(cat(&mount, "select count(*) from old_fs"), "0\n");
    // One of them has died: all are answered, and it is said.
    mail.kill();
    assert_eq!(cat(&mount, "select count(*) from mail_fs").trim(), other.to_string());
    assert!(info(&mount, "standing").contains("may be behind"), "{}", info(&mount, "standing"));
    mount.finish();
    tree.finish();
    // Two that are called the same cannot be told apart.
    let twice = format!("also={}", first.tree.display());
    let missing = format!("also={}", first.dir.path().display());
    for (option, says) in [(twice, "a tree with the label 'root' already"), (missing, "no humfs tree")] {
        let said = refused(&first.tree, &["-o", &option]);
        let line = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!said.status.success() && line.contains(says), "{line}");
    }
}

fn the_command_asks_trees_too() {
    let ground = Ground::new();
    let query = |sql: &str| output(Command::new(fixture::binary()).arg("query").arg(&ground.tree).arg(sql));
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = lines("/usr/bin/passwd\n/usr/bin/su\n");
    // Nobody has ever served it: its catalog is made, and is its owner's.
    let said = query(SETUID);
    assert!(said.status.success() && lines(&text(&said)) == expected, "{said:?}");
    let made = ground.catalog().join(DATABASE).metadata().expect("a catalog");
    assert_eq!((made.uid(), made.mode() & 0o777), (ordinary::USER, 0o600));
    let identity = ground.identity();
    assert_eq!(lines(&text(&query(SETUID))), expected);
    let tree = Mount::humfs(&ground.tree, "");
    for round in 0..10 {
        guest(&format!("cd $M; echo x > home/new{round}; chmod u+s home/new{round}"), &tree);
        assert_eq!(
            text(&query(&format!("select name from root_fs where setuid = 1 and base = 'new{round}'"))),
            format!("/home/new{round}\n")
        );
    }
    assert_eq!(ground.identity(), identity, "it was current, and not to be made again");
    tree.finish();
    assert_eq!(text(&query("select count(*) from root_fs where base like 'new%'")), "10\n");
    // One that is served without a catalog cannot be asked, and says so.
    let tree = Mount::humfs(&ground.tree, "catalog=off");
    let said = query(SETUID);
    let line = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.code() == Some(1) && line.lines().count() == 1 && line.contains("catalog=off"), "{line}");
    guest("cd $M; rm home/new*", &tree);
    tree.finish();
    // Nobody has told the catalog.
    assert_eq!(text(&query("select count(*) from root_fs where base like 'new%'")), "0\n");
    drop(ground.dir);
}

fn a_tree_on_a_medium_that_cannot_be_written() {
    let ground = Ground::new();
    let line = "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" && exec \"$2\" query \"$1\" \"$3\"";
    let query = |sql: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", line, "sh"]).arg(&ground.tree);
        succeed(command.arg(fixture::binary()).arg(sql))
    };
    let everything = "select name, perms, uid, user, size, target from root_fs order by name";
    for round in 0..2 {
        // Without a catalog, and beside one that is there and could not be opened.
        assert_eq!(lines(&query(SETUID)), lines("/usr/bin/passwd\n/usr/bin/su\n"), "{round}");
        let here = query(everything);
        assert!(here.contains("/home/ada/mail\t0600\t1234\tada\t13\t\n"), "{here}");
        assert_eq!(ground.identity() == 0, round == 0);
        let there = output(Command::new(fixture::binary()).arg("query").arg(&ground.tree).arg(everything));
        assert_eq!(String::from_utf8_lossy(&there.stdout), here);
    }
}

fn the_command_waits_for_a_catalog_that_is_made() {
    let fake = Fake::new(true);
    let listener = fake.listen();
    let query = || output(Command::new(fixture::binary()).arg("query").arg(&fake.tree).arg("select 7"));
    let server = std::thread::spawn(move || {
        let building = (1..=5).map(|seen| Standing::Building(seen * 100, 500));
        let failed = std::iter::repeat_with(|| Standing::Failed("the disk is full".into()));
        // Each command asks whether there is a server, and then for its word.
        let standings = building.chain([Standing::Current]).chain(failed.take(2));
        for standing in standings {
            let (stream, _) = listener.accept().expect("a client");
            barrier::answer(&stream, || standing);
        }
    });
    let begun = Instant::now();
    let said = query();
    assert_eq!((String::from_utf8_lossy(&said.stdout).as_ref(), said.stderr.is_empty()), ("7\n", true), "{said:?}");
    assert!(begun.elapsed() > Duration::from_millis(600), "{:?}", begun.elapsed());
    // One that is not kept any more is asked all the same, aloud.
    let said = query();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "7\n");
    assert_eq!(String::from_utf8_lossy(&said.stderr).matches("may be behind: the disk is full").count(), 1, "{said:?}");
    server.join().expect("joined");
}
