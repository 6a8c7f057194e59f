//! Who may: several users on one mount, and several mounts of one tree.

use super::{Scene, what};
use externfs_tests::fixture::{self, Mount, binary, need_program};
use externfs_tests::ordinary;
use std::fs;
use std::process::Command;

/// Shell functions. `as UID GID GROUPS COMMAND`.
const PRELUDE: &str = "\
umask 022
as() { uid=$1; gid=$2; groups=$3; shift 3; setpriv --reuid $uid --regid $gid $groups -- sh -c \"umask ${UMASK:-022}; $*\" 2>/dev/null; }
user() { as 1234 1234 --clear-groups \"$*\"; }
other() { as 77 77 --clear-groups \"$*\"; }
no() { if \"$@\"; then echo \"ALLOWED: $*\"; exit 1; fi; }
";

fn run(scene: &Scene, script: &str) -> String {
    need_program("setpriv", "util-linux");
    scene.shell(&format!("{PRELUDE}{script}"))
}

pub(super) fn acls_are_obeyed_and_inherited(scene: &mut Scene) {
    need_program("setfacl", "acl");
    run(
        scene,
        "echo data >f; chmod 600 f; setfacl -m u:1234:r f\n\
         mkdir d; chown 1234 d; setfacl -d -m u:77:rwx,g::r-x,o::- d; UMASK=077; user 'echo x >d/f; mkdir d/e; echo y >d/e/g'\n\
         mkdir team; chmod 700 team; setfacl -m g:555:rwx team",
    );
    scene.twice(|scene| {
        let said = run(
            scene,
            "user 'cat f'; no user 'echo x >>f'; no other 'cat f'; other 'cat d/f'; other 'echo z >>d/e/g'; no as 78 78 --clear-groups 'cat d/f'\n\
             as 77 77 '--groups 555' 'rm -f team/x; echo hi >team/x'; no user 'ls team'; getfacl -cn f d d/f d/e team",
        );
        assert!(said.starts_with("data\nx\n"), "{said}");
        for line in ["user:1234:r--", "default:user:77:rwx", "group:555:rwx"] {
            assert!(said.contains(line), "{line} is missing in:\n{said}");
        }
        assert_eq!(what(&scene.at("team/x")), "100644 77:77 0");
        assert_eq!(what(&scene.at("f")), "100640 0:0 0");
    });
    // The mode and the ACL keep in step; the last entry that says more takes it away.
    run(scene, "chmod 000 f; no user 'cat f'; chmod 640 f; user 'cat f'; setfacl -b f; no user 'cat f'; setfacl -k d");
    scene.twice(|scene| {
        assert!(!run(scene, "no user 'cat f'; getfacl -cn f d").contains("1234:"));
    });
}

pub(super) fn owners_decide_who_may(scene: &mut Scene) {
    run(
        scene,
        "echo r >rf; chmod 600 rf; mkdir rd; mkdir -m 1777 t; mkdir -m 2770 s; chown 0:555 s\n\
         user 'echo u >t/uf; mkdir t/ud; ln -s x t/ul; mkfifo t/up'; as 1234 1234 '--groups 555' 'echo s >s/f; mkdir s/d'",
    );
    scene.twice(|scene| {
        run(
            scene,
            "no user 'cat rf'; no user 'chmod 777 rf'; no user 'touch rf'; no user 'touch rd/x'; no user 'chown 77 t/uf'; no user 'mknod t/dev c 1 3'\n\
             no user 'setfattr -n trusted.x -v 1 t/uf'; no other 'rm -f t/uf && ! test -e t/uf'; no other 'mv t/uf t/g'; no other 'rmdir t/ud'; no other 'ls s'",
        );
        for (name, wanted) in [
            ("t/uf", "100644 1234:1234 0"),
            ("t/ud", "40755 1234:1234 0"),
            ("t/ul", "120777 1234:1234 0"),
            ("t/up", "10644 1234:1234 0"),
            ("s/f", "100644 1234:555 0"),
            ("s/d", "42755 1234:555 0"),
        ] {
            assert_eq!(what(&scene.at(name)), wanted, "{name}");
        }
    });
    run(scene, "user 'mv t/uf t/g; rmdir t/ud'");
    // The server's own user is nobody in the guest's tree.
    let mut look = Command::new("cat");
    ordinary::act(look.arg(scene.at("rf")));
    assert!(!fixture::output(&mut look).status.success());
}

pub(super) fn setid_bits_go_when_somebody_writes(scene: &mut Scene) {
    let files = ["w", "t", "a", "c", "p"];
    run(
        scene,
        "for f in w t a c p; do echo data >$f; chmod 6777 $f; done; echo other >from; chmod 644 from; echo o >own; chown 1234:1234 own; chmod 6755 own\n\
         echo m >root; chmod 6755 root; echo g >group; chmod 2644 group",
    );
    scene.twice(|scene| {
        files.iter().for_each(|name| assert_eq!(what(&scene.at(name)), "106777 0:0 0", "{name}"));
    });
    run(
        scene,
        "user 'echo x >w'; user 'truncate -s 1 t'; user 'echo x >>a'; user 'dd if=from of=c conv=notrunc status=none'; user 'fallocate -l 8192 p'\n\
         as 1234 1234 '--groups 555' 'chgrp 555 own'; echo more >>root; chown 5:6 group",
    );
    scene.twice(|scene| {
        files.iter().for_each(|name| assert_eq!(what(&scene.at(name)), "100777 0:0 0", "{name}"));
        assert_eq!(what(&scene.at("own")), "100755 1234:555 0");
        assert_eq!(what(&scene.at("root")), "106755 0:0 0", "root's own writing takes nothing");
        assert_eq!(what(&scene.at("group")), "102644 5:6 0", "without execution it means mandatory locking");
    });
    run(scene, "chown 5:6 root");
    scene.twice(|scene| assert_eq!(what(&scene.at("root")), "100755 5:6 0"));
}

pub(super) fn a_second_writer_is_refused_and_a_reader_is_not(scene: &mut Scene) {
    fs::write(scene.at("f"), "one").unwrap();
    std::os::unix::fs::chown(scene.at("f"), Some(42), Some(43)).unwrap();
    let point = fixture::temp_dir();
    ordinary::give(point.path());
    let mut second = Command::new(binary());
    second.args(["mount", "humfs"]).arg(scene.tree.path()).arg(point.path());
    ordinary::act(&mut second);
    let told = fixture::output(&mut second);
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(!told.status.success() && said.contains("in use by another writer") && said.lines().count() == 1, "{said}");
    let reader: Mount = scene.tree.mount("ro");
    // A database is a second behind.
    fixture::wait_for("a reader sees what was there", || what(&reader.path().join("f")) == "100644 42:43 0");
    assert!(fs::write(reader.path().join("f"), "two").is_err());
    std::os::unix::fs::chown(scene.at("f"), Some(44), Some(43)).unwrap();
    fs::write(scene.at("g"), "new").unwrap();
    fixture::wait_for("a reader sees what the writer does", || {
        reader.path().join("g").exists() && what(&reader.path().join("f")) == "100644 44:43 0"
    });
    reader.finish();
    scene.twice(|scene| assert_eq!(what(&scene.at("f")), "100644 44:43 0"));
}
