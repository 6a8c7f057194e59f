//! What files say can be searched: the book's mail directory, an ordinary one
//! in a humfs tree, in which a letter is found soon after it was delivered.

use externfs_tests::fixture::{self, Mount, output, succeed, wait_for};
use externfs_tests::harness::{self, Case};
use externfs_tests::humtree::{HumTree, TOTAL};
use externfs_tests::ordinary;
use humfs::store::Format;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A check, with a tree of one of these formats.
type Check = fn(&HumTree);

const CASES: &[(&str, Check)] = &[
    ("a_letter_is_found_soon_after_it_was_delivered", a_letter_is_found_soon_after_it_was_delivered),
    ("what_is_not_wanted_is_not_read", what_is_not_wanted_is_not_read),
    ("what_was_there_before_is_read_too", what_was_there_before_is_read_too),
];

fn main() -> std::process::ExitCode {
    ordinary::in_own_mounts(|| {
        let formats = [Format::Xattr, Format::ShadowFs].into_iter();
        let cases = formats.flat_map(|format| {
            CASES.iter().map(move |(name, run)| Case::new(format!("{name}_{}", format.name()), move || run(&HumTree::new(format, TOTAL))))
        });
        harness::main(cases.chain(externfs_tests::cases![wrong_options_are_named]))
    })
}

const MAIL: &str = "content=*.eml";

fn ask(tree: &HumTree, sql: &str) -> String {
    succeed(Command::new(fixture::binary()).args(["query", "--format", "text"]).arg(tree.path()).arg(sql))
}

/// The files that say `word`, by the index.
fn found(tree: &HumTree, word: &str) -> BTreeSet<String> {
    ask(tree, &format!("select name from root_text where text match '{word}'")).lines().map(str::to_owned).collect()
}

/// And by looking.
fn grepped(mount: &Mount, word: &str) -> BTreeSet<String> {
    let script = format!("cd {} && grep -rilw --include=*.eml -e {word} . | sed 's/^.//'; true", mount.path().display());
    fixture::shell(&script).lines().map(str::to_owned).collect()
}

fn agree(tree: &HumTree, mount: &Mount, word: &str) {
    let begun = Instant::now();
    wait_for("the index agrees with grep", || found(tree, word) == grepped(mount, word));
    println!("    '{word}' in {} files after {:.1} s", found(tree, word).len(), begun.elapsed().as_secs_f64());
}

/// As maildir(5) does it: written under another name first.
fn deliver(mail: &Path, number: u32, body: &str) {
    let (being_written, done) = (mail.join(format!("tmp/{number}")), mail.join(format!("new/{number}.eml")));
    fs::write(&being_written, format!("From: ada@example.org\nSubject: letter {number}\n\n{body}\n")).unwrap();
    fs::rename(being_written, done).unwrap();
}

fn a_letter_is_found_soon_after_it_was_delivered(tree: &HumTree) {
    let mount = tree.mount(MAIL);
    let mail = mount.path().join("home/ada/Maildir");
    for dir in ["tmp", "new", "cur"] {
        fs::create_dir_all(mail.join(dir)).unwrap();
    }
    for number in 0..200 {
        deliver(&mail, number, if number % 10 == 0 { "The UMBRELLA is lost." } else { "All is well." });
    }
    agree(tree, &mount, "umbrella");
    assert_eq!(found(tree, "umbrella").len(), 20);
    // Diacritics do not matter, nor do letters that are no UTF-8.
    fs::write(mail.join("cur/latin.eml"), b"caf\xe9 and Stra\xc3\x9fe and \xc3\xa9clair\n").unwrap();
    wait_for("a word without its accent", || found(tree, "eclair").contains("/home/ada/Maildir/cur/latin.eml"));
    // It is an ordinary directory all the while.
    fs::rename(mail.join("new/10.eml"), mail.join("cur/10.eml")).unwrap();
    fs::remove_file(mail.join("new/20.eml")).unwrap();
    fs::write(mail.join("new/30.eml"), "It was found again.\n").unwrap();
    fs::rename(&mail, mount.path().join("home/ada/Mail")).unwrap();
    fs::hard_link(mount.path().join("home/ada/Mail/new/40.eml"), mount.path().join("saved.eml")).unwrap();
    agree(tree, &mount, "umbrella");
    agree(tree, &mount, "found");
    assert_eq!(found(tree, "umbrella").len(), 19);
    let snippet = ask(tree, "select snippet from root_text where text match 'umbrella' and name = '/saved.eml'");
    assert!(snippet.contains("The [UMBRELLA] is lost."), "{snippet}");
    mount.finish();
    // Nobody serves it, then somebody does again.
    assert_eq!(found(tree, "umbrella").len(), 19);
    let mount = tree.mount(MAIL);
    agree(tree, &mount, "umbrella");
    mount.finish();
}

fn what_is_not_wanted_is_not_read(tree: &HumTree) {
    let mount = tree.mount("content=/doc/*:*.eml,content-max=1000");
    fs::create_dir(mount.path().join("doc")).unwrap();
    let long = format!("needle {}", "x ".repeat(1000));
    for (name, contents) in [
        ("doc/here", &b"a needle"[..]),
        ("there.eml", b"a needle"),
        ("elsewhere", b"a needle"),
        ("doc/long", long.as_bytes()),
        ("doc/binary", b"a needle\0"),
        ("doc/empty", b""),
    ] {
        fs::write(mount.path().join(name), contents).unwrap();
    }
    let before = fs::metadata(mount.path().join("doc/here")).unwrap().accessed().unwrap();
    let wanted = BTreeSet::from(["/doc/here".to_owned(), "/there.eml".to_owned()]);
    wait_for("the index", || found(tree, "needle") == wanted);
    wait_for("all that is to be read", || !ask(tree, "select count(*) from root_text").starts_with('0'));
    // Another look, when anything else would have been read as well.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(found(tree, "needle"), wanted);
    assert_eq!(fs::metadata(mount.path().join("doc/here")).unwrap().accessed().unwrap(), before);
    // What grows beyond the limit goes.
    fs::write(mount.path().join("doc/here"), &long).unwrap();
    wait_for("the index", || found(tree, "needle") == BTreeSet::from(["/there.eml".to_owned()]));
    mount.finish();
}

fn what_was_there_before_is_read_too(tree: &HumTree) {
    let mount = tree.mount("");
    for number in 0..300 {
        fs::write(mount.path().join(format!("{number}.eml")), format!("letter {number} of old")).unwrap();
    }
    assert_eq!(found(tree, "old").len(), 0);
    mount.finish();
    let mount = tree.mount(MAIL);
    agree(tree, &mount, "old");
    assert_eq!(found(tree, "old").len(), 300);
    fs::write(mount.path().join("7.eml"), "new").unwrap();
    // Killed, it makes its catalog anew.
    mount.kill();
    let mount = tree.mount(MAIL);
    agree(tree, &mount, "old");
    assert_eq!(found(tree, "old").len(), 299);
    mount.finish();
    // Who wants nothing gets nothing.
    let mount = tree.mount("");
    wait_for("nothing", || found(tree, "old").is_empty());
    mount.finish();
}

fn wrong_options_are_named() {
    let tree = HumTree::new(Format::Xattr, TOTAL);
    let point = fixture::temp_dir();
    for (options, named) in [
        ("content=", "content wants 1 to 20 patterns"),
        ("content-max=5", "content-max says nothing without content"),
        ("content=*.eml,content-max=much", "content-max is a number of bytes"),
        ("content=*.eml,catalog=off", "content wants a catalog"),
        ("label=root_fs;drop", "label 'root_fs;drop': up to 32 letters"),
    ] {
        let mut command = Command::new(fixture::binary());
        ordinary::act(command.args(["mount", "humfs"]).arg(tree.path()).arg(point.path()).args(["-o", options]));
        let said = output(&mut command);
        let line = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!said.status.success(), "{options}");
        assert!(line.contains(named) && line.lines().count() == 1, "{options}: {line}");
    }
}
