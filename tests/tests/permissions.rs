//! Who may do what, and whose is what is made: several users on one mount, and
//! a mount by an ordinary user. Each row is run on the host's own file system
//! too: the mount must answer the same.

use externfs_tests::fixture::{self, Mount, need_program};
use externfs_tests::harness;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

fn main() -> std::process::ExitCode {
    harness::main(externfs_tests::cases![
        what_is_made_belongs_to_the_caller,
        setgid_directories_give_their_group_on,
        supplementary_groups_count,
        default_acls_are_inherited,
        acls_are_obeyed,
        setid_bits_go_when_an_ordinary_user_writes,
        root_keeps_setid_bits,
        capabilities_go_when_anybody_writes,
        ordinary_users_may_not_do_what_is_roots,
        sticky_directories_protect,
        what_others_make_meanwhile_is_checked,
        an_ordinary_user_can_mount,
    ])
}

/// Shell functions for the rows. `as UID GID GROUPS COMMAND`.
const PRELUDE: &str = "\
set -u; umask 022
as() { uid=$1; gid=$2; groups=$3; shift 3; setpriv --reuid $uid --regid $gid $groups -- sh -c \"umask ${UMASK:-022}; $*\" 2>/dev/null; }
user() { as 1234 1234 --clear-groups \"$*\"; }
no() { if \"$@\"; then echo \"ALLOWED: $*\"; else echo \"refused: $*\"; fi; }
what() { stat -c '%n %F %u:%g %a' \"$@\"; }
";

/// Runs a script in a directory of a mount and in one of the host, compares
/// what they say, and returns it.
fn row(options: &str, script: &str) -> String {
    fixture::need_root();
    need_program("setpriv", "util-linux");
    let source = fixture::temp_dir();
    let mount = Mount::new(source.path(), &format!("allow_other,{options}"));
    let (native, through) = (source.path().join("native"), mount.path().join("mounted"));
    let seen = [&native, &through].map(|dir| {
        std::fs::create_dir(dir).unwrap();
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o777)).unwrap();
        run(dir, script)
    });
    let [native, through] = seen;
    assert_eq!(through, native, "the mount (left) and the host's own file system (right) differ in:\n{script}");
    mount.finish();
    native
}

fn run(dir: &Path, script: &str) -> String {
    let done = fixture::output(Command::new("sh").args(["-c", &format!("{PRELUDE}{script}")]).current_dir(dir));
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{}: {said}{}", done.status, String::from_utf8_lossy(&done.stderr));
    said
}

fn expect(said: &str, lines: &[&str]) {
    for line in lines {
        assert!(said.lines().any(|l| l == *line), "{line:?} is missing in:\n{said}");
    }
    assert!(!said.contains("ALLOWED"), "{said}");
}

fn what_is_made_belongs_to_the_caller() {
    let said = row(
        "",
        "UMASK=027; user 'echo x >f; mkdir d; ln -s f l; mkfifo p; ln f hard'\nUMASK=0 as 77 88 --clear-groups 'echo y >g; mkdir e'\nwhat f d l p g e; stat -c %h f",
    );
    expect(
        &said,
        &[
            "f regular file 1234:1234 640",
            "d directory 1234:1234 750",
            "l symbolic link 1234:1234 777",
            "p fifo 1234:1234 640",
            "g regular file 77:88 666",
            "e directory 77:88 777",
            "2",
        ],
    );
}

fn setgid_directories_give_their_group_on() {
    let said = row(
        "",
        "mkdir s; chown 0:555 s; chmod 2777 s\nuser 'echo x >s/f; mkdir s/d; mkfifo s/p; ln -s x s/l; echo y >s/d/g'\ncd s; what f d p l d/g",
    );
    expect(&said, &["f regular file 1234:555 644", "d directory 1234:555 2755", "p fifo 1234:555 644", "d/g regular file 1234:555 644"]);
}

fn supplementary_groups_count() {
    let said = row(
        "",
        "mkdir team; chown 0:555 team; chmod 2770 team; echo secret >team/old; chmod 640 team/old; chown 0:555 team/old\n\
         member() { as 1234 1234 '--groups 555,556' \"$*\"; }\n\
         member 'cat team/old; echo x >team/f; mkdir team/d; chmod 2755 team/f; chgrp 556 team/d'\n\
         no user 'cat team/old'; no user 'echo y >team/g'; no member 'chgrp 557 team/f'; no user 'ls team'\nwhat team/f team/d",
    );
    // chgrp to another group clears setgid on files, not on directories.
    expect(&said, &["secret", "team/f regular file 1234:555 2755"]);
}

fn default_acls_are_inherited() {
    need_program("setfacl", "acl");
    let said = row(
        "",
        "mkdir a; chown 1234 a; setfacl -d -m u:77:rwx,g::r-x,o::- a\nUMASK=077; user 'echo x >a/f; mkdir a/d; echo y >a/d/g'\n\
         what a/f a/d a/d/g\ngetfacl -cn a/f a/d a/d/g\nas 77 77 --clear-groups 'cat a/f; echo z >>a/d/g' || echo denied\nno as 78 78 --clear-groups 'cat a/f'",
    );
    assert!(said.contains("user:77:rwx"), "the default ACL was not inherited:\n{said}");
}

fn acls_are_obeyed() {
    need_program("setfacl", "acl");
    let said = row(
        "",
        "echo data >f; chmod 600 f; setfacl -m u:1234:r f; what f\nuser 'cat f'; no user 'echo x >>f'; no as 77 77 --clear-groups 'cat f'\n\
         chmod 000 f; no user 'cat f'; chmod 640 f; user 'cat f'; setfacl -b f; no user 'cat f'\ngetfacl -cn f\n\
         mkdir d; chmod 700 d; setfacl -m g:555:rwx d; as 77 77 '--groups 555' 'echo hi >d/x'; what d/x",
    );
    expect(&said, &["data", "d/x regular file 77:77 644"]);
}

fn setid_bits_go_when_an_ordinary_user_writes() {
    let said = row(
        "",
        "for f in w t a c p; do echo data >$f; chmod 6777 $f; done; echo other >from; chmod 644 from\n\
         user 'echo x >w'; user 'truncate -s 1 t'; user 'echo x >>a'; user 'dd if=from of=c conv=notrunc status=none'; user 'fallocate -l 8192 p'\n\
         what w t a c p\necho o >own; chown 1234:1234 own; chmod 6755 own; as 1234 1234 '--groups 555' 'chgrp 555 own'; what own",
    );
    for file in ["w", "t", "a", "c", "p"] {
        expect(&said, &[&format!("{file} regular file 0:0 777")]);
    }
    expect(&said, &["own regular file 1234:555 755"]);
}

/// Where the kernel tells who writes. It does not with passthrough, and never
/// for fallocate(2): there the bits go for everybody.
fn root_keeps_setid_bits() {
    let said = row(
        "passthrough=off",
        "echo data >f; chmod 6755 f; echo more >>f; what f; truncate -s 2 f; what f; chown 5:6 f; what f\n\
         echo data >g; chmod 2644 g; chown 5:6 g; what g",
    );
    expect(&said, &["f regular file 0:0 6755", "f regular file 5:6 755", "g regular file 5:6 2644"]);
}

fn capabilities_go_when_anybody_writes() {
    fixture::need_root();
    let setcap = need_program("setcap", "libcap2-bin");
    let getcap = need_program("getcap", "libcap2-bin");
    // A mount with nosuid shows capabilities as bytes all the same.
    let (set, get) = (setcap.display(), getcap.display());
    let said = row(
        "",
        &format!(
            "cp /bin/true f; {set} cap_net_raw+ep f; {get} f | sed 's/ = / /;s/=/ /'; echo x >>f; echo after write: $({get} f)\n\
             cp /bin/true g; {set} cap_net_raw+ep g; chown 5 g; echo after chown: $({get} g)"
        ),
    );
    assert!(said.contains("cap_net_raw"), "capabilities cannot be set: {said}");
    expect(&said, &["after write:", "after chown:"]);
}

fn ordinary_users_may_not_do_what_is_roots() {
    let said = row(
        "",
        "echo r >rf; chmod 600 rf; mkdir rd; user 'echo u >uf'\n\
         no user 'cat rf'; no user 'chmod 777 rf'; no user 'touch rf'; no user 'rm -f rd/x && touch rd/x'; no user 'chown 77 uf'; no user 'mknod dev c 1 3'\n\
         no user 'setfattr -n trusted.x -v 1 uf'; no user 'ln rf mine && cat mine'; user 'chmod 4755 uf'; what uf; user 'setfattr -n user.x -v 1 uf'; getfattr -n user.x uf",
    );
    expect(&said, &["uf regular file 1234:1234 4755"]);
}

fn sticky_directories_protect() {
    let said = row(
        "",
        "mkdir t; chmod 1777 t; user 'echo x >t/f; mkdir t/d'\n\
         other() { as 77 77 --clear-groups \"$*\"; }\nno other 'rm -f t/f && ! test -e t/f'; no other 'mv t/f t/g'; no other 'rmdir t/d'; user 'mv t/f t/g; rmdir t/d'; ls t",
    );
    expect(&said, &["g"]);
}

/// A kernel that believes a name to be free has it made, and does not look who
/// may open what is there by now.
fn what_others_make_meanwhile_is_checked() {
    fixture::need_root();
    let python = need_program("python3", "python3");
    let source = fixture::temp_dir();
    let mount = Mount::new(source.path(), "allow_other");
    std::fs::create_dir(source.path().join("d")).unwrap();
    std::fs::set_permissions(source.path().join("d"), PermissionsExt::from_mode(0o777)).unwrap();
    let script = "\
import os, sys
there, host = sys.argv[1:]
assert not os.path.exists(there)
os.close(os.open(host, os.O_WRONLY | os.O_CREAT, 0o600))
os.setgroups([]); os.setgid(1234); os.setuid(1234)
try:
    os.open(there, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
except PermissionError:
    sys.exit(7)
";
    let [through, host] = [mount.path(), source.path()].map(|root| root.join("d/x"));
    let done = fixture::output(Command::new(python).args(["-c", script]).args([through, host]));
    assert_eq!(done.status.code(), Some(7), "{done:?}");
    mount.finish();
}

/// /dev/fuse may be root's alone on this machine, so the mount happens where a
/// copy of it is everybody's: in a mount namespace of its own.
fn an_ordinary_user_can_mount() {
    fixture::need_root();
    fixture::need_fuse();
    need_program("fusermount3", "fuse3");
    let dir = fixture::temp_dir();
    for sub in ["src", "mnt", "dev"] {
        std::fs::create_dir(dir.path().join(sub)).unwrap();
        std::os::unix::fs::chown(dir.path().join(sub), Some(1001), Some(1001)).unwrap();
    }
    std::fs::copy(fixture::binary(), dir.path().join("externfs")).unwrap();
    std::fs::write(dir.path().join("as-user"), AS_USER).unwrap();
    let script = "set -eu; cd \"$1\"; mount -t tmpfs tmpfs dev; mknod dev/fuse c 10 229; chmod 666 dev/fuse; mount --bind dev/fuse /dev/fuse; chmod 755 .\n\
                  exec setpriv --reuid 1001 --regid 1001 --clear-groups sh -eu as-user";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(dir.path());
    let said = fixture::succeed(command.env("HOME", dir.path()));
    assert!(said.contains("mounted fuse.externfs") && said.contains("unmounted"), "{said}");
    assert_eq!(std::fs::read_to_string(dir.path().join("src/f")).unwrap(), "through the mount\n");
}

const AS_USER: &str = "\
./externfs mount hostfs src mnt
trap './externfs umount mnt 2>/dev/null || true' EXIT
echo mounted $(stat -f -c %T mnt >/dev/null; awk '$2 ~ /mnt$/ {print $3}' /proc/self/mounts)
echo 'through the mount' >mnt/f
mkdir mnt/d; mv mnt/f mnt/d/; mv mnt/d/f mnt/f; rmdir mnt/d
chmod 600 mnt/f; test \"$(cat mnt/f)\" = 'through the mount'
if chown 0 mnt/f 2>/dev/null; then exit 3; fi
./externfs umount mnt
if grep -q mnt/mnt /proc/self/mounts; then exit 4; fi
echo unmounted
";
