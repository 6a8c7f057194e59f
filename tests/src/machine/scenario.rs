//! What every kind of guest has to live through on `externfs serve`.

use super::processes::{descendants, descriptors};
use super::{Kind, Machine, Plan, exhibit};
use crate::fixture::{Server, need_root, temp_dir};
use crate::humtree::{HumTree, TOTAL};
use humfs::store::Format;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The tag of every share here.
pub const TAG: &str = "host";
/// What all rows together may take, emulated and unoptimized.
pub const ROWS_PATIENCE: Duration = Duration::from_secs(480);

fn boot(kind: Kind, program: &Path, server: &Server, guest: usize) -> Machine {
    let plan = Plan { queues: 2, ..Plan::new(kind, &[(server.socket(guest), TAG)]) };
    let mut machine = Machine::boot(&plan, program);
    machine.mount(TAG);
    machine
}

/// Runs the rows on a share of the host, with the server's `options`, and
/// looks on the host at what they left.
///
/// # Panics
/// When a row fails.
pub fn rows_pass(kind: Kind, program: &Path, options: &str) {
    need_root();
    let share = temp_dir();
    exhibit::prepare(share.path(), None);
    let server = Server::new(share.path(), options, 1, false);
    if rows_pass_on(kind, program, &server) {
        exhibit::verify(share.path(), true);
    }
}

/// The same on a humfs tree that an ordinary user owns and serves; host root
/// looks at it before and after through that user's mount.
///
/// # Panics
/// When a row fails.
pub fn humfs_rows_pass(kind: Kind, program: &Path, format: Format) {
    // Without a limit of its own its number of inodes would be the host's, and change.
    let tree = HumTree::limited(format, TOTAL, Some(1 << 20));
    let mount = tree.mount("");
    exhibit::prepare(mount.path(), None);
    mount.finish();
    let server = Server::humfs(&tree.path(), "", 1);
    let all = rows_pass_on(kind, program, &server);
    drop(server);
    let mount = tree.mount("");
    if all {
        exhibit::verify(mount.path(), true);
    }
    mount.finish();
}

/// Whether all of them were run.
fn rows_pass_on(kind: Kind, program: &Path, server: &Server) -> bool {
    let mut guest = boot(kind, program, server, 0);
    let filter = std::env::var("EXTERNFS_GUEST_ROWS").unwrap_or_default();
    let ran = guest.run_within(&format!("externfs-guest-check rows /mnt/{TAG} {filter}"), ROWS_PATIENCE);
    println!("{}", ran.output);
    assert_eq!(ran.code, 0, "rows failed, see above; {}", guest.said());
    guest.check(&format!("df /mnt/{TAG} && umount /mnt/{TAG}"));
    guest.power_off();
    filter.is_empty()
}

/// The process that serves, and its descriptors once it has come to rest: its
/// sockets are there before it is.
fn settled(server: &Server) -> (u32, Vec<PathBuf>) {
    let end = Instant::now() + Duration::from_secs(10);
    let mut before = (0, Vec::new());
    loop {
        std::thread::sleep(Duration::from_millis(300));
        if let [worker] = descendants(server.process.id())[..] {
            let now = (worker, descriptors(worker));
            if now == before {
                return now;
            }
            before = now;
        }
        assert!(Instant::now() < end, "the server does not come to rest: {before:?}");
    }
}

/// A guest reboots, another is killed, and each leaves files open: the next
/// one is served on the same socket, and what the others held is given back.
///
/// # Panics
/// When not.
pub fn the_server_outlives_its_guests(kind: Kind, program: &Path) {
    let share = temp_dir();
    for number in 0..300 {
        std::fs::write(share.path().join(format!("f{number}")), "x").expect("write");
    }
    let server = Server::new(share.path(), "", 1, false);
    let (worker, at_first) = settled(&server);
    // Knows every file, holds some open, and goes on holding them.
    let hold = "cd /mnt/host; (cat f* >/dev/null; exec 3<f1 4>>log; echo held >&4; exec sleep 600) >/dev/null 2>&1 & \
                while ! grep -q held /mnt/host/log 2>/dev/null; do sleep 0.1; done; cat /mnt/host/log; ls -l /mnt/host | wc -l; rm /mnt/host/log";
    let held = "held\n302\n";
    let mut guest = boot(kind, program, &server, 0);
    assert_eq!(guest.check(hold), held);
    guest.reboot();
    guest.mount(TAG);
    assert_eq!(guest.check(hold), held, "after a reboot");
    guest.kill();
    let mut guest = boot(kind, program, &server, 0);
    assert_eq!(guest.check(hold), held, "in a new guest after one that was killed");
    guest.kill_leader();
    let killed = guest;
    let mut guest = boot(kind, program, &server, 0);
    assert_eq!(guest.check(hold), held, "in a new guest while the helpers of a killed one linger");
    drop(killed);
    guest.reboot();
    guest.mount(TAG);
    // Given back by the guest, and the device used again.
    guest.check("umount /mnt/host && mount -t virtiofs host /mnt/host && cat /mnt/host/f* && umount /mnt/host");
    guest.power_off();
    let end = Instant::now() + Duration::from_secs(20);
    while descriptors(worker).len() > at_first.len() {
        assert!(Instant::now() < end, "descriptors of guests that are gone: at first {at_first:?}, now {:?}", descriptors(worker));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(descendants(server.process.id()).contains(&worker), "another process serves now");
}

/// What one guest does, the other and the host see at once.
///
/// # Panics
/// When not.
pub fn two_guests_see_each_others_writes(kind: Kind, program: &Path) {
    let share = temp_dir();
    // The host cannot tell a guest of changes: what must be seen at once is not cached.
    let server = Server::new(share.path(), "cache=none", 2, false);
    let (mut one, mut two) = (boot(kind, program, &server, 0), boot(kind, program, &server, 1));
    for guest in [&mut one, &mut two] {
        guest.check("cd /mnt/host; test ! -e shared; ls");
    }
    for round in 0..15 {
        one.check(&format!("echo {round} from one > /mnt/host/shared"));
        assert_eq!(two.check("cat /mnt/host/shared"), format!("{round} from one\n"));
        two.check(&format!("echo {round} and two >> /mnt/host/shared; mv /mnt/host/shared /mnt/host/moved"));
        assert_eq!(one.check("cat /mnt/host/moved"), format!("{round} from one\n{round} and two\n"));
        assert_ne!(one.run("test -e /mnt/host/shared").code, 0, "a name that the other guest has moved away");
        one.check(&format!("rm /mnt/host/moved; mkdir /mnt/host/d{round}; chmod 750 /mnt/host/d{round}"));
        assert_eq!(two.check(&format!("stat -c %a /mnt/host/d{round}; test ! -e /mnt/host/moved && rmdir /mnt/host/d{round}")), "750\n");
    }
    let hosts = share.path().join("hosts");
    std::fs::write(&hosts, "of the host\n").expect("write");
    assert_eq!(one.check("cat /mnt/host/hosts"), "of the host\n");
    one.check("echo more >> /mnt/host/hosts");
    assert_eq!(std::fs::read_to_string(&hosts).expect("read"), "of the host\nmore\n");
    one.kill();
    assert_eq!(two.check("cat /mnt/host/hosts; rm /mnt/host/hosts"), "of the host\nmore\n", "when the other guest is gone");
    assert!(!hosts.exists());
    two.power_off();
}

/// `nodev` and `nosuid` bind a guest, also where the host has a mount beside it.
///
/// # Panics
/// When a device node or setuid arrives on the host.
pub fn nodev_and_nosuid_bind_guests(kind: Kind, program: &Path) {
    for mount in [true, false] {
        let share = temp_dir();
        std::fs::write(share.path().join("file"), "x").expect("write");
        let server = Server::new(share.path(), "nodev,nosuid", 1, mount);
        let mut guest = boot(kind, program, &server, 0);
        for refused in ["mknod node c 1 3", "chmod 4755 file"] {
            assert_ne!(guest.run(&format!("cd /mnt/{TAG} && {refused}")).code, 0, "{refused}, with a mount: {mount}");
        }
        guest.check(&format!("cd /mnt/{TAG} && chmod 755 file && mknod pipe p"));
        assert!(share.path().join("pipe").exists() && !share.path().join("node").exists());
        let mode = std::fs::metadata(share.path().join("file")).expect("stat").permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
        guest.power_off();
    }
}

/// A guest that was alone on a tree when it looked at it.
///
/// # Panics
/// When it does not see what a later one changes.
pub fn a_guest_sees_what_one_that_came_later_changes(kind: Kind, program: &Path) {
    let tree = HumTree::limited(Format::Xattr, TOTAL, None);
    let server = Server::humfs(&tree.path(), "", 2);
    let mut one = boot(kind, program, &server, 0);
    let look = "cd /mnt/host; stat -c %s log; cat log; stat -c %a d; ls d; test -e new && echo new";
    one.check("cd /mnt/host; mkdir d; echo one > log; chmod 600 log; cat log");
    one.run(look);
    let mut two = boot(kind, program, &server, 1);
    two.check("cd /mnt/host; echo two >> log; chmod 700 d; echo x > d/x; echo y > new");
    assert_eq!(one.run(look).output, "8\none\ntwo\n700\nx\nnew\n");
    one.check("echo three >> /mnt/host/log");
    assert_eq!(two.check("cat /mnt/host/log"), "one\ntwo\nthree\n");
    one.power_off();
    two.power_off();
}

/// A guest that QEMU pauses while it waits for locks of the host.
///
/// # Panics
/// When a wait ends before its lock is free, or never.
pub fn a_paused_guest_goes_on_waiting_for_locks(program: &Path) {
    let share = temp_dir();
    let held = std::fs::File::create(share.path().join("flock")).expect("a file");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).expect("flock");
    let record = std::fs::File::create(share.path().join("record")).expect("a file");
    rustix::fs::fcntl_lock(&record, rustix::fs::FlockOperation::LockExclusive).expect("fcntl");
    let server = Server::new(share.path(), "locks=host", 1, false);
    let mut guest = boot(Kind::Qemu, program, &server, 0);
    for kind in ["flock", "record"] {
        let hold = format!("externfs-guest-check hold {kind} exclusive /mnt/{TAG}/{kind} < /dev/null");
        guest.check(&format!("({hold} > /{kind}.said 2>&1; echo $? >> /{kind}.said) > /dev/null 2>&1 &"));
    }
    let said = |guest: &mut Machine| guest.check("sleep 2; cat /flock.said /record.said");
    assert_eq!(said(&mut guest), "", "both wait");
    for _ in 0..2 {
        guest.monitor("stop");
        std::thread::sleep(Duration::from_millis(300));
        guest.monitor("cont");
        assert_eq!(said(&mut guest), "", "both wait on");
    }
    drop((held, record));
    assert_eq!(said(&mut guest), "ready\n0\nready\n0\n");
    guest.power_off();
}
