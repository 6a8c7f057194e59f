//! The host user's own mount of a humfs tree, without root and without
//! `allow_other`: it shows the recorded owners, and the user is the tree's root
//! in it, as far as the host's kernel lets users. What it refuses is tried as
//! well, so that SEMANTICS.md says the truth of both.

use externfs_tests::fixture::{self, Mount};
use externfs_tests::harness::{self, Case};
use externfs_tests::humtree::{HumTree, TOTAL};
use externfs_tests::ordinary;
use humfs::store::Format;
use std::os::unix::fs::FileExt;
use std::process::Command;

fn main() -> std::process::ExitCode {
    ordinary::in_own_mounts(|| {
        let mut cases = Vec::new();
        for (format, transport) in Format::ALL.into_iter().zip(["native", "fuser"].into_iter().cycle()) {
            let mut case = |name: &str, run: fn(&HumTree, &str)| {
                let name = format!("{name}_{}_{transport}", format.name());
                cases.push(Case::new(name, move || run(&prepared(format), &format!("transport={transport}"))));
            };
            case("the_owner_is_root_in_it", the_owner_is_root_in_it);
            case("the_kernel_refuses_what_it_keeps_for_root", the_kernel_refuses_what_it_keeps_for_root);
            case("nobody_else_comes_in", nobody_else_comes_in);
            case("the_kernel_checks_where_others_may_come_in", the_kernel_checks_where_others_may_come_in);
        }
        for format in Format::ALL {
            let name = format!("root_serves_another_users_tree_as_him_{}", format.name());
            cases.push(Case::new(name, move || root_serves_another_users_tree_as_him(format)));
            let name = format!("a_writer_can_map_what_others_read_{}", format.name());
            cases.push(Case::new(name, move || a_writer_can_map_what_others_read(format)));
        }
        harness::main(cases)
    })
}

/// Whoever came before, and however the kernel serves him.
fn a_writer_can_map_what_others_read(format: Format) {
    let tree = HumTree::new(format, TOTAL);
    let point = fixture::temp_dir();
    let mut mount = Command::new(fixture::binary());
    fixture::succeed(mount.args(["mount", "humfs"]).arg(tree.path()).arg(point.path()));
    let path = point.path().join("large");
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    let reader = std::fs::File::open(&path).unwrap();
    let script = "import mmap,os,sys\nf=os.open(sys.argv[1],os.O_RDWR)\n\
                  for how in (mmap.MAP_PRIVATE, mmap.MAP_SHARED):\n    m=mmap.mmap(f,1<<20,how); assert m[5]==7; m[5]=8\nm.flush()";
    fixture::succeed(Command::new(fixture::need_program("python3", "python3")).args(["-c", script]).arg(&path));
    let mut byte = [0];
    reader.read_exact_at(&mut byte, 5).unwrap();
    assert_eq!(byte, [8], "and the reader sees it");
    drop(reader);
    fixture::unmount(point.path());
}

/// Root's mount of a user's tree: nothing in it becomes root's, whose own mount
/// comes next, and the server has none of root's rights.
fn root_serves_another_users_tree_as_him(format: Format) {
    let tree = HumTree::new(format, TOTAL);
    let point = fixture::temp_dir();
    let mut mount = Command::new(fixture::binary());
    mount.args(["mount", "humfs"]).arg(tree.path()).arg(point.path());
    let mounted = fixture::output(&mut mount);
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    fixture::succeed(Command::new("sh").args(["-euc", PREPARE]).current_dir(point.path()));
    let status = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let process_of = |user: u32| {
        let processes = fixture::shell(&format!("pgrep -f 'mount humfs {}'", tree.path().display()));
        let is_his = |pid: &&str| status(pid).contains(&format!("Uid:\t{user}\t{user}\t{user}\t{user}"));
        processes.lines().find(is_his).unwrap_or_else(|| panic!("nobody of {processes} is user {user}")).to_owned()
    };
    let status = status(&process_of(ordinary::USER));
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).expect("capabilities");
    assert_eq!(u64::from_str_radix(capabilities, 16), Ok(0), "{capabilities}");
    let asked = Command::new(fixture::binary()).arg("query").arg(tree.path()).arg("select name from root_fs where setuid = 1").output();
    assert_eq!(String::from_utf8_lossy(&asked.expect("a query").stdout), "/tool\n");
    // In the background it is over a moment after the unmount.
    let gone = || {
        fixture::unmount(point.path());
        fixture::wait_for("the server's end", || {
            let mut look = Command::new("pgrep");
            !fixture::output(look.args(["-f", &format!("mount humfs {}", tree.path().display())])).status.success()
        });
    };
    gone();
    let strange = || fixture::shell(&format!("find {} ! -user {}", tree.path().display(), ordinary::USER));
    assert_eq!(strange(), "", "something in it is not the owner's");
    let own = tree.mount("");
    let said = fixture::succeed(Command::new("stat").args(["-c", "%u:%g %a", "theirs", "tool", "private/f"]).current_dir(own.path()));
    assert_eq!(said, "4242:4243 640\n0:0 4755\n7:8 644\n");
    // There is one writer, and it is not root.
    let refused = fixture::output(&mut mount);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("in use"), "{refused:?}");
    let looking = fixture::output(mount.args(["-o", "ro"]));
    assert!(looking.status.success(), "{}", String::from_utf8_lossy(&looking.stderr));
    fixture::unmount(point.path());
    own.finish();
    gone();
    assert_eq!(strange(), "");
    // The server does not outlive who watches over it, and the lock goes with it.
    let mut mount = Command::new(fixture::binary());
    mount.args(["mount", "humfs"]).arg(tree.path()).arg(point.path());
    fixture::succeed(&mut mount);
    let (server, supervisor) = (process_of(ordinary::USER), process_of(0));
    fixture::shell(&format!("kill -9 {supervisor}"));
    fixture::wait_for("the server's end", || !std::path::Path::new(&format!("/proc/{server}")).exists());
    fixture::unmount(point.path());
    tree.mount("").finish();
}

/// What a guest's root has made.
const PREPARE: &str = "\
umask 022
echo secret >shadow; chmod 600 shadow; echo locked >locked; chmod 000 locked; echo theirs >theirs; chown 4242:4243 theirs; chmod 640 theirs
mkdir private; chmod 700 private; echo deep >private/f; chown 7:8 private/f; mkdir other; chown 4242:4243 other; chmod 700 other
mkdir -m 1777 tmp; echo t >tmp/f; chown 4242 tmp/f; mknod null c 1 3; mkfifo fifo; ln -s private/f link; cp /bin/true tool; chmod 4755 tool
setfattr -n user.note -v 1 shadow; setfattr -n trusted.note -v 1 shadow; setfacl -m u:99:r theirs; setcap cap_net_raw+ep tool";

fn prepared(format: Format) -> HumTree {
    for (program, package) in [("setfacl", "acl"), ("setcap", "libcap2-bin"), ("setfattr", "attr")] {
        fixture::need_program(program, package);
    }
    let tree = HumTree::new(format, TOTAL);
    let mount = tree.mount("");
    fixture::succeed(Command::new("sh").args(["-euc", PREPARE]).current_dir(mount.path()));
    mount.finish();
    tree
}

/// Functions for what users say: `no COMMAND` must fail.
const PRELUDE: &str = "umask 022; no() { if (eval \"$*\") 2>/dev/null; then echo \"ALLOWED: $*\" >&2; exit 1; fi; }\n";

fn by(uid: u32, mount: &Mount, script: &str) -> String {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid.to_string(), "--regid", &uid.to_string(), "--clear-groups", "sh", "-euc"]);
    fixture::succeed(command.arg(format!("{PRELUDE}{script}")).arg("sh").arg(mount.path()))
}

fn the_owner_is_root_in_it(tree: &HumTree, options: &str) {
    let mount = Mount::humfs(&tree.path(), options);
    let said = by(
        ordinary::USER,
        &mount,
        "cd \"$1\"; cat shadow locked theirs private/f link; ls private other >/dev/null; stat -c '%n %U %u:%g %a %F %t,%T' shadow theirs null fifo other\n\
         getfattr --only-values -n user.note shadow; echo; getfacl -cn theirs",
    );
    let lines = [
        "secret\nlocked\ntheirs\ndeep\ndeep\n",
        "shadow root 0:0 600 regular file 0,0\n",
        "4242:4243 640 regular file",
        "null root 0:0 644 character special file 1,3\n",
        "other UNKNOWN 4242:4243 700 directory",
        "user:99:r--",
    ];
    for line in lines {
        assert!(said.contains(line), "{line:?} is missing in:\n{said}");
    }
    by(
        ordinary::USER,
        &mount,
        "cd \"$1\"; echo more >>shadow; echo new >locked; truncate -s 2 theirs; echo fresh >other/fresh; mkdir other/d private/d; ln -s x other/l\n\
         mkfifo other/p; chown 4242:0 private/f; chown 0:0 other/fresh; chown 11:12 other/d; chmod 4711 locked; chmod 2750 other\n\
         mv private/f other/moved; rm theirs; rmdir private/d; touch -d @7 shadow; setfattr -n user.note -v 2 shadow; setfattr -x user.note shadow\n\
         setfattr -n user.new -v 3 other; access() { test -r \"$1\" && test -w \"$1\"; }; access shadow; access other; cd private; cd ../other; cd ..\n\
         mv tmp/f tmp/g; rm tmp/g; setfattr -n user.new -v 3 tmp",
    );
    mount.finish();
    // As the tree's root sees it.
    let mount = tree.mount("");
    let said = fixture::succeed(
        Command::new("sh")
            .args(["-euc", "stat -c '%n %u:%g %a' shadow locked other other/* private; cat shadow locked; stat -c %Y shadow; getfattr --only-values -n user.new other"])
            .current_dir(mount.path()),
    );
    let wanted = "shadow 0:0 600\nlocked 0:0 4711\nother 4242:4243 2750\nother/d 11:12 755\nother/fresh 0:0 644\nother/l 0:4243 777\n\
                  other/moved 4242:0 644\nother/p 0:4243 644\nprivate 0:0 700\nsecret\nmore\nnew\n7\n3";
    // Made before the directory was setgid.
    let wanted = wanted.replace("other/l 0:4243", "other/l 0:0").replace("other/p 0:4243", "other/p 0:0");
    assert_eq!(said.trim_end(), wanted);
    mount.finish();
}

/// Checks in the kernel's own code that ask for a capability, whatever file
/// system it is.
fn the_kernel_refuses_what_it_keeps_for_root(tree: &HumTree, options: &str) {
    let mount = Mount::humfs(&tree.path(), options);
    by(
        ordinary::USER,
        &mount,
        "cd \"$1\"; no mknod dev c 1 5; no 'cat <null'; no setfattr -n trusted.note -v 2 shadow; no setfattr -x trusted.note shadow\n\
         no setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 tool\n\
         no setfacl -m u:5:r theirs; no chroot . true\n\
         if ./tool; then :; fi; test \"$(stat -c %a tool)\" = 4755\n\
         if [ \"$(cat /proc/sys/fs/protected_hardlinks)\" = 1 ]; then no ln tool tmp/hard; fi; ln theirs tmp/t",
    );
    mount.finish();
}

fn nobody_else_comes_in(tree: &HumTree, options: &str) {
    let mount = Mount::humfs(&tree.path(), options);
    for uid in [0, 4242] {
        by(uid, &mount, "no ls \"$1\"; no cat \"$1/link\"; no stat \"$1/shadow\"");
    }
    mount.finish();
}

/// With `allow_other`, or where the user asks for it.
fn the_kernel_checks_where_others_may_come_in(tree: &HumTree, options: &str) {
    for more in ["allow_other", "default_permissions"] {
        let mount = Mount::humfs(&tree.path(), &format!("{more},{options}"));
        by(
            ordinary::USER,
            &mount,
            "cd \"$1\"; no cat shadow; no 'echo x >>shadow'; no ls private; no chown 5 tool; no chmod 777 tool; no touch fresh; cat tool >/dev/null\n\
             echo mine >tmp/mine; test \"$(stat -c %u tmp/mine)\" = $(id -u); rm tmp/mine",
        );
        mount.finish();
    }
}
