//! What host processes change behind a mount's back is seen: at once, after a
//! second, or within moments, as each cache policy promises.

use externfs_tests::fixture::{self, Mount};
use externfs_tests::harness;
use externfs_tests::machine::processes::that_mention;
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn main() -> std::process::ExitCode {
    harness::main(externfs_tests::cases![
        without_caching_changes_are_seen_at_once,
        with_caching_changes_are_seen_within_a_second,
        with_watching_changes_are_seen_within_moments,
        more_changes_than_can_be_told_are_seen_too,
        open_files_see_what_the_host_writes,
        a_replaced_directory_is_found_again,
        what_the_mount_writes_is_on_the_host_at_once,
        two_mounts_of_one_tree_agree_in_time,
    ])
}

fn scene(options: &str) -> (TempDir, Mount) {
    fixture::need_root();
    let source = fixture::temp_dir();
    std::fs::create_dir(source.path().join("d")).unwrap();
    for name in ["change", "remove", "replace", "mode", "d/move"] {
        std::fs::write(source.path().join(name), "old").unwrap();
    }
    let mount = Mount::new(source.path(), options);
    (source, mount)
}

/// What a client can see, in words; it is asked for again and again.
fn look(at: &Path) -> Vec<String> {
    let read = |name: &str| match std::fs::read_to_string(at.join(name)) {
        Ok(text) => format!("{name}: {text}"),
        Err(error) => format!("{name}: {:?}", error.kind()),
    };
    let mut seen: Vec<String> = ["change", "remove", "replace", "d/move", "d/moved", "new", "newdir/in"].into_iter().map(read).collect();
    let mode = std::fs::metadata(at.join("mode")).map(|meta| meta.permissions().mode() & 0o7777);
    seen.push(format!("mode: {:o}", mode.unwrap_or(0)));
    let mut names: Vec<String> = std::fs::read_dir(at).unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    seen.push(names.join(" "));
    seen
}

/// What a host process does to all of it.
fn change(source: &Path) {
    // The same size: only times tell.
    std::fs::write(source.join("change"), "new").unwrap();
    std::fs::remove_file(source.join("remove")).unwrap();
    std::fs::write(source.join("replacement"), "another file").unwrap();
    std::fs::rename(source.join("replacement"), source.join("replace")).unwrap();
    std::fs::set_permissions(source.join("mode"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::rename(source.join("d/move"), source.join("d/moved")).unwrap();
    std::fs::write(source.join("new"), "made").unwrap();
    std::fs::create_dir(source.join("newdir")).unwrap();
    std::fs::write(source.join("newdir/in"), "inside").unwrap();
}

fn seen_within(options: &str, limit: Duration) {
    let (source, mount) = scene(options);
    let before = look(mount.path());
    assert_eq!(before, look(source.path()), "{options}: before any change");
    // File times are coarse: without a moment between, nobody could tell.
    std::thread::sleep(Duration::from_millis(20));
    change(source.path());
    let (changed, end) = (Instant::now(), look(source.path()));
    assert_ne!(before, end);
    loop {
        let asked = changed.elapsed();
        let seen = look(mount.path());
        if seen == end {
            println!("    {options}: seen after {} ms", asked.as_millis());
            break;
        }
        assert!(asked <= limit, "{options}: after {} ms the mount still shows\n{seen:#?}\nwhere the host has\n{end:#?}", asked.as_millis());
        std::thread::sleep(Duration::from_millis(10));
    }
    mount.finish();
}

fn without_caching_changes_are_seen_at_once() {
    seen_within("cache=none", Duration::ZERO);
}

fn with_caching_changes_are_seen_within_a_second() {
    seen_within("cache=auto", Duration::from_millis(1300));
}

fn with_watching_changes_are_seen_within_moments() {
    // With a day's time-outs, only the watch can be what tells.
    seen_within("cache=always,watch", Duration::from_millis(1500));
}

fn more_changes_than_can_be_told_are_seen_too() {
    let (source, mount) = scene("cache=always,watch");
    let before = look(mount.path());
    assert_eq!(before, look(source.path()));
    let servers = that_mention(&mount.path().display().to_string());
    assert!(!servers.is_empty());
    let signal = |signal| servers.iter().for_each(|(server, _)| kill_process(Pid::from_raw(*server as i32).unwrap(), signal).unwrap());
    std::thread::sleep(Duration::from_millis(20));
    signal(Signal::STOP);
    let most: usize = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    for _ in 0..most / 2 + 100 {
        std::fs::write(source.path().join("d/much"), "").unwrap();
        std::fs::remove_file(source.path().join("d/much")).unwrap();
    }
    // None of this is told of.
    change(source.path());
    signal(Signal::CONT);
    let end = look(source.path());
    assert_ne!(before, end);
    fixture::wait_for("all of it is seen", || look(mount.path()) == end);
    mount.finish();
}

fn open_files_see_what_the_host_writes() {
    for options in ["cache=none", "cache=auto"] {
        let (source, mount) = scene(options);
        let file = std::fs::File::open(mount.path().join("change")).unwrap();
        let read = || {
            let mut bytes = [0; 16];
            let count = std::os::unix::fs::FileExt::read_at(&file, &mut bytes, 0).unwrap();
            bytes[..count].to_vec()
        };
        assert_eq!(read(), b"old");
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(source.path().join("change"), "much longer").unwrap();
        fixture::wait_for(&format!("{options}: an open file shows the host's writes"), || {
            // Attributes are what a kernel checks its pages by.
            file.metadata().unwrap().len() == 11 && read() == b"much longer"
        });
        drop(file);
        mount.finish();
    }
}

fn a_replaced_directory_is_found_again() {
    let (source, mount) = scene("cache=auto");
    assert_eq!(std::fs::read_to_string(mount.path().join("d/move")).unwrap(), "old");
    for round in 0..3 {
        let aside = source.path().join(format!("aside{round}"));
        std::fs::rename(source.path().join("d"), &aside).unwrap();
        std::fs::create_dir(source.path().join("d")).unwrap();
        std::fs::write(source.path().join("d/move"), format!("round {round}")).unwrap();
        let wanted = format!("round {round}");
        fixture::wait_for("the new directory is found", || std::fs::read_to_string(mount.path().join("d/move")).is_ok_and(|t| t == wanted));
        std::fs::write(mount.path().join("d/made"), "x").unwrap();
        assert!(source.path().join("d/made").exists(), "it was made in the old directory");
    }
    mount.finish();
}

fn what_the_mount_writes_is_on_the_host_at_once() {
    for options in ["cache=none", "cache=auto", "cache=always"] {
        let (source, mount) = scene(options);
        for round in 0..50 {
            let text = format!("{options} {round}");
            std::fs::write(mount.path().join("new"), &text).unwrap();
            assert_eq!(std::fs::read_to_string(source.path().join("new")).unwrap(), text);
            std::fs::rename(mount.path().join("new"), mount.path().join("newer")).unwrap();
            assert!(source.path().join("newer").exists() && !source.path().join("new").exists());
            std::fs::remove_file(mount.path().join("newer")).unwrap();
            assert!(!source.path().join("newer").exists());
        }
        mount.finish();
    }
}

fn two_mounts_of_one_tree_agree_in_time() {
    let (source, first) = scene("cache=auto");
    let second = Mount::new(source.path(), "cache=auto");
    for round in 0..3 {
        let (writer, reader) = if round % 2 == 0 { (&first, &second) } else { (&second, &first) };
        let text = format!("round {round}");
        std::fs::write(writer.path().join("change"), &text).unwrap();
        fixture::wait_for("the other mount sees it", || std::fs::read_to_string(reader.path().join("change")).is_ok_and(|t| t == text));
    }
    first.finish();
    second.finish();
}
