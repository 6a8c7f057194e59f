//! `kill -9` of the server during load: what a write answered is on the host,
//! nothing else is harmed, and the next mount works at once.

use externfs_tests::fixture::{self, Mount, Process};
use externfs_tests::harness;
use rustix::process::{Pid, Signal};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn main() -> std::process::ExitCode {
    harness::main(externfs_tests::cases![
        what_was_written_survives_the_servers_death,
        the_next_mount_works_at_once,
        a_mount_in_the_background_can_be_replaced_too,
        a_client_of_a_dead_mount_is_told,
    ])
}

/// A process and all below it, from the top down.
fn family(process: &Process) -> Vec<Pid> {
    let mut pids = vec![process.id()];
    let mut index = 0;
    while let Some(&pid) = pids.get(index) {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        pids.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        index += 1;
    }
    pids.into_iter().filter_map(|pid| Pid::from_raw(pid as i32)).collect()
}

/// Kills them and waits until they are dead: until then the mount is alive.
fn kill(pids: &[Pid]) {
    for &pid in pids {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    let is_dead = |pid: &Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        stat.rsplit(')').next().is_none_or(|rest| rest.trim().is_empty() || rest.trim_start().starts_with('Z'))
    };
    fixture::wait_for("a killed process is dead", || pids.iter().all(is_dead));
}

/// Kills the server and whatever watches over it, at one stroke.
fn kill_all(process: &Process) {
    kill(&family(process));
}

/// Kills the process that serves: the youngest of the family.
fn kill_server(process: &Process) {
    kill(&family(process).split_off(family(process).len() - 1));
}

/// Writers that note what was answered. Each line is as long as the next.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Vec<Arc<AtomicU64>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

const LINE: usize = 64;

fn line(thread: usize, number: u64) -> String {
    let text = format!("thread {thread} line {number} ");
    format!("{text:.<width$}\n", width = LINE - 1)
}

impl Load {
    fn start(dir: &Path, count: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let answered: Vec<_> = (0..count).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let spawn = |(thread, answered): (usize, &Arc<AtomicU64>)| {
            let (stop, answered, path) = (stop.clone(), answered.clone(), dir.join(format!("log{thread}")));
            let renamed = dir.join(format!("marker{thread}"));
            let mut file = File::options().create(true).append(true).open(path).unwrap();
            std::thread::spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) || file.write_all(line(thread, number).as_bytes()).is_err() {
                        return;
                    }
                    answered.store(number + 1, Ordering::Release);
                    // Names come and go as well.
                    if number % 8 == 0 && std::fs::write(&renamed, "x").is_ok() {
                        let _ = std::fs::remove_file(&renamed);
                    }
                }
            })
        };
        let threads = answered.iter().enumerate().map(spawn).collect();
        Load { stop, answered, threads }
    }

    /// Ends the writers and returns what each had been answered.
    fn finish(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.answered.iter().map(|count| count.load(Ordering::Acquire)).collect()
    }
}

fn check_logs(source: &Path, answered: &[u64]) {
    for (thread, &answered) in answered.iter().enumerate() {
        let data = std::fs::read(source.join(format!("log{thread}"))).unwrap();
        let lines = (data.len() / LINE) as u64;
        assert!(lines >= answered, "thread {thread} was answered {answered} lines; {lines} are on the host");
        assert!(data.len().is_multiple_of(LINE) && lines <= answered + 1, "thread {thread}: {} bytes for {answered} lines", data.len());
        for (number, chunk) in data.chunks(LINE).enumerate() {
            assert_eq!(String::from_utf8_lossy(chunk), line(thread, number as u64), "thread {thread}");
        }
    }
}

fn what_was_written_survives_the_servers_death() {
    for (options, kill) in [("cache=auto", kill_server as fn(&Process)), ("cache=none", kill_all), ("cache=always", kill_server)] {
        for round in 0..3 {
            let source = fixture::temp_dir();
            let mount = Mount::new(source.path(), options);
            let load = Load::start(mount.path(), 4);
            std::thread::sleep(Duration::from_millis(200 + 90 * round));
            kill(&mount.server);
            let answered = load.finish();
            assert!(answered.iter().sum::<u64>() > 20, "hardly any load: {answered:?}");
            check_logs(source.path(), &answered);
        }
    }
}

/// On the very same mount point, whatever the dead one left there.
fn the_next_mount_works_at_once() {
    for kill in [kill_server as fn(&Process), kill_all] {
        let source = fixture::temp_dir();
        std::fs::write(source.path().join("f"), "kept").unwrap();
        let mount = Mount::new(source.path(), "");
        kill(&mount.server);
        let begun = Instant::now();
        let mut command = Command::new(fixture::binary());
        command.args(["mount", "hostfs"]).arg(source.path()).arg(mount.path());
        fixture::succeed(&mut command);
        assert_eq!(std::fs::read_to_string(mount.path().join("f")).unwrap(), "kept");
        std::fs::write(mount.path().join("g"), "new").unwrap();
        println!("    mounted again {} ms after the death", begun.elapsed().as_millis());
        fixture::succeed(Command::new(fixture::binary()).arg("umount").arg(mount.path()));
        assert_eq!(std::fs::read_to_string(source.path().join("g")).unwrap(), "new");
    }
}

fn a_mount_in_the_background_can_be_replaced_too() {
    fixture::need_fuse();
    let (source, point) = (fixture::temp_dir(), fixture::temp_dir());
    let guard = Unmounts(point.path());
    for round in 0..2 {
        fixture::succeed(Command::new(fixture::binary()).args(["mount", "hostfs"]).arg(source.path()).arg(point.path()));
        std::fs::write(point.path().join("f"), format!("{round}")).unwrap();
        kill(&servers_of(point.path()));
        assert_eq!(std::fs::read_to_string(source.path().join("f")).unwrap(), format!("{round}"));
    }
    drop(guard);
}

struct Unmounts<'a>(&'a Path);

impl Drop for Unmounts<'_> {
    fn drop(&mut self) {
        fixture::unmount(self.0);
    }
}

/// By the mount point on their command line, which nobody else's can have.
fn servers_of(point: &Path) -> Vec<Pid> {
    let wanted = point.as_os_str().as_encoded_bytes();
    let pids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let ours = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|&b| b == 0).any(|word| word == wanted)
    };
    pids.filter(ours).filter_map(Pid::from_raw).collect()
}

fn a_client_of_a_dead_mount_is_told() {
    let source = fixture::temp_dir();
    std::fs::write(source.path().join("f"), vec![b'x'; 100_000]).unwrap();
    let mount = Mount::new(source.path(), "cache=none");
    let file = File::options().read(true).write(true).open(mount.path().join("f")).unwrap();
    kill_all(&mount.server);
    let begun = Instant::now();
    // Not a hang: an error, soon.
    fixture::wait_for("a client is told that the server is gone", || file.metadata().is_err());
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(file);
}
