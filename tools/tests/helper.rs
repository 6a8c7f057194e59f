//! `mount -t fuse.externfs`, by way of /sbin/mount.fuse and as a helper.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use support::{Place, can_mount, needs, succeeds};

#[test]
fn the_helper_mounts_as_mount_8_calls_it() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let helper = place.path().join("mount.fuse.externfs");
    symlink(support::PROGRAM, &helper).expect("symlink");
    let source = format!("hostfs:{}", place.source().display());
    for options in ["rw", "ro,noauto,user,_netdev,nofail,x-systemd.automount,allow_other,nosuid,nodev"] {
        let mut command = Command::new(&helper);
        command.arg(&source).arg(place.point()).args(["-sn", "-o", options, "-t", "fuse.externfs"]);
        succeeds(&mut command);
        assert!(place.point().join("hello").exists());
        let written = fs::write(place.point().join("w"), "x");
        assert_eq!(written.is_err(), options.starts_with("ro"), "{options}");
        succeeds(&mut place.umount());
    }
    // A pretence changes nothing.
    succeeds(Command::new(&helper).arg(&source).arg(place.point()).arg("-f"));
    assert!(!place.is_mounted());
}

/// Runs `script` where our program is installed: over /usr/sbin as a helper if
/// `as_helper`, over /usr/local/bin as a command. Only this process sees it.
fn installed(place: &Place, as_helper: bool, script: &str) -> Command {
    let links = place.path().join("links");
    let prepare = if as_helper { "mount -t overlay none -o lowerdir=$L:/usr/sbin /usr/sbin" } else { "mount --bind $L /usr/local/bin" };
    let make = "mkdir -p $L && ln -sf $P $L/externfs && ln -sf $P $L/mount.externfs && ln -sf $P $L/mount.fuse.externfs";
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "60", "unshare", "-m", "sh", "-ec", &format!("{make}\n{prepare}\n{script}")]);
    command.env("L", links).env("P", support::PROGRAM).env("S", place.source()).env("M", place.point());
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

#[test]
fn mount_8_finds_the_command() {
    if !can_mount() || !needs(Path::new("/sbin/mount.fuse").exists(), "/sbin/mount.fuse (package fuse3)") {
        return;
    }
    // mount.fuse runs `externfs SRC MNT -o ...` by a shell, so by PATH.
    for source in ["hostfs:$S", "hostfs#$S", "$S"] {
        let place = Place::new();
        let script = format!("mount -t fuse.externfs {source} $M -o ro,allow_other\ncat $M/hello\ngrep \" $M \" /proc/mounts\numount $M");
        let said = succeeds(&mut installed(&place, false, &script));
        assert!(said.contains("from the host") && said.contains("fuse.externfs ro,"), "{said}");
    }
}

#[test]
fn mount_8_finds_the_helper() {
    let overlay = fs::read_to_string("/proc/filesystems").is_ok_and(|list| list.contains("overlay"));
    if !can_mount() || !needs(overlay, "overlayfs") {
        return;
    }
    for kind in ["externfs", "fuse.externfs"] {
        let place = Place::new();
        let script = format!(
            "echo \"hostfs:$S $M {kind} ro,noauto,nofail,x-test=1 0 0\" > $L/fstab\nmount -T $L/fstab $M\ncat $M/hello\ngrep \" $M \" /proc/mounts\numount $M"
        );
        let said = succeeds(&mut installed(&place, true, &script));
        assert!(said.contains("from the host") && said.contains("fuse.externfs ro,"), "{said}");
    }
}

#[test]
fn a_line_of_fstab_that_is_mounted_is_recognized() {
    let overlay = fs::read_to_string("/proc/filesystems").is_ok_and(|list| list.contains("overlay"));
    if !can_mount() || !needs(overlay, "overlayfs") {
        return;
    }
    for (source, shown) in [("hostfs:$S", "hostfs:$S"), ("$S", "$S"), ("hostfs:$S", "named")] {
        let place = Place::new();
        let option = if shown == "named" { "fsname=named" } else { "ro" };
        let script = format!(
            "echo \"{source} $M fuse.externfs {option} 0 0\" > $L/fstab\nmount -a -T $L/fstab\n\
             grep -q \"^{shown} $M \" /proc/mounts\ntest {shown} = named || mount -a -T $L/fstab\n\
             grep -c \" $M \" /proc/mounts\nfindmnt -no SOURCE $M\numount $M"
        );
        let said = succeeds(&mut installed(&place, true, &script));
        let expected = shown.replace("$S", &place.source().display().to_string());
        assert_eq!(said, format!("1\n{expected}\n"));
    }
}

#[test]
fn a_remount_has_its_remedy() {
    let overlay = fs::read_to_string("/proc/filesystems").is_ok_and(|list| list.contains("overlay"));
    if !can_mount() || !needs(overlay, "overlayfs") {
        return;
    }
    let place = Place::new();
    let script = "mount -t fuse.externfs hostfs:$S $M\nmount -o remount,ro $M 2>&1 && exit 1\n\
                  mount -i -o remount,ro $M\n! touch $M/no 2>/dev/null\nmount -i -o remount,rw $M\ntouch $M/yes\numount $M";
    let said = succeeds(&mut installed(&place, true, script));
    assert!(said.contains("mount -i -o remount,ro MNT"), "{said}");
}

#[test]
fn the_helper_says_what_it_is() {
    let place = Place::new();
    let helper = place.path().join("mount.fuse.externfs");
    symlink(support::PROGRAM, &helper).expect("symlink");
    for flag in ["--help", "-h"] {
        let said = succeeds(Command::new(&helper).arg(flag));
        assert!(said.starts_with("usage: mount.externfs [PLUGIN:]SRC MNT"), "{said}");
    }
    for flag in ["--version", "-V"] {
        assert_eq!(succeeds(Command::new(&helper).arg(flag)), format!("externfs {}\n", env!("CARGO_PKG_VERSION")));
    }
    support::fails(Command::new(&helper).args(["--surprise", "/a", "/m"]), 2, &["unknown flag --surprise", "usage:"]);
}

#[test]
fn a_plugin_that_is_not_there_is_told_from_a_directory() {
    let place = Place::new();
    let helper = place.path().join("mount.fuse.externfs");
    symlink(support::PROGRAM, &helper).expect("symlink");
    for source in ["foofs:/x", "foofs#/x"] {
        support::fails(Command::new(&helper).arg(source).arg(place.point()), 2, &["unknown plugin 'foofs'", "hostfs"]);
    }
    for source in ["/no/such:dir", "./a:b", "/no/such"] {
        support::fails(Command::new(&helper).arg(source).arg(place.point()), 1, &["does not exist"]);
    }
}
