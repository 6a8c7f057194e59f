//! A writer that is really killed, by SIGKILL, wherever it happens to be.

use super::*;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Where the child works.
const DIR: &str = "HUMFS_TEST_TREE";

/// Names with the owners of what they lead to.
type Model = BTreeMap<String, u32>;

enum Op {
    Create(String, u32),
    Remove(String),
    Save(String, u32),
    Rename(String, String),
    Exchange(String, String),
}

/// The change number `number`, which `model` goes along with.
fn next(number: u64, model: &mut Model) -> Op {
    let random = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23).wrapping_mul(0xd134_2543_de82_ef95);
    let name = |bits: u64| {
        let slot = bits % 16;
        if slot < 8 { format!("f{slot}") } else { format!("d/f{slot}") }
    };
    let (one, other, uid) = (name(random >> 8), name(random >> 16), number as u32);
    let Some(&owner) = model.get(&one) else {
        model.insert(one.clone(), uid);
        return Op::Create(one, uid);
    };
    match (random >> 32) % 4 {
        0 => {
            model.remove(&one);
            Op::Remove(one)
        }
        1 if one != other => {
            model.remove(&one);
            model.insert(other.clone(), owner);
            Op::Rename(one, other)
        }
        2 if one != other && model.contains_key(&other) => {
            let before = model.insert(other.clone(), owner);
            model.insert(one.clone(), before.unwrap());
            Op::Exchange(one, other)
        }
        _ => {
            model.insert(one.clone(), uid);
            Op::Save(one, uid)
        }
    }
}

impl World {
    fn run_op(&self, op: &Op) {
        match op {
            Op::Create(path, uid) => drop(self.create(path, &file(*uid)).unwrap()),
            Op::Remove(path) => self.remove(path).unwrap(),
            Op::Save(path, uid) => {
                self.save(path, &file(*uid));
            }
            Op::Rename(from, to) => self.rename(from, to, false).unwrap(),
            Op::Exchange(from, to) => self.rename(from, to, true).unwrap(),
        }
    }
}

/// Not a test of its own: the process that is killed.
#[test]
#[ignore = "it is started by another test"]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let tree = open_tree(Path::new(&dir), Access::Write);
    let fs = HostFs::layer(host::open_listing(tree.data()).unwrap(), false).unwrap();
    let store = SqliteStore::open(&tree).unwrap();
    store.recover(&fs.root().unwrap()).unwrap();
    let world = World { dir: tempfile::tempdir().unwrap(), fs, store, _tree: tree };
    let path = Path::new(&dir).join("done");
    let answered = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    let (mut model, mut number) = (Model::new(), read_count(&answered));
    for done in 0..number {
        next(done, &mut model);
    }
    let mut out = std::io::stdout();
    out.write_all(b"!").and_then(|()| out.flush()).unwrap();
    // Should nobody be there any more to kill it.
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        let op = next(number, &mut model);
        world.run_op(&op);
        number += 1;
        answered.write_all_at(&number.to_le_bytes(), 0).unwrap();
    }
}

fn read_count(file: &std::fs::File) -> u64 {
    let mut count = [0; 8];
    file.read_exact_at(&mut count, 0).map_or(0, |()| u64::from_le_bytes(count))
}

fn as_view(model: &Model) -> View {
    let files = model.iter().map(|(path, uid)| (path.clone().into_bytes(), Loaded::Record(file(*uid))));
    files.chain([(b"d".to_vec(), Loaded::Record(directory(0)))]).collect()
}

#[test]
fn what_was_answered_survives_kill_9() {
    let world = World::new();
    world.create("d", &directory(0)).unwrap();
    let mut dir = world.close();
    let mut cut_short = 0;
    for round in 0..25u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "store::sqlite::tests::kill::child"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It says when it begins.
        let mut out = child.stdout.take().unwrap();
        let mut byte = [0];
        while byte != *b"!" {
            std::io::Read::read_exact(&mut out, &mut byte).unwrap();
        }
        std::thread::sleep(Duration::from_micros(round * round * 1_000 + round * 137));
        child.kill().unwrap();
        child.wait().unwrap();

        let world = World::open(dir);
        let answered = std::fs::File::options().read(true).write(true).open(world.dir.path().join("done")).unwrap();
        let (mut model, number) = (Model::new(), read_count(&answered));
        for done in 0..number {
            next(done, &mut model);
        }
        let view = world.view();
        if view != as_view(&model) {
            // The one that was under way may have been done.
            next(number, &mut model);
            assert_eq!(view, as_view(&model), "round {round}, {number} changes answered");
            answered.write_all_at(&(number + 1).to_le_bytes(), 0).unwrap();
            cut_short += 1;
        }
        world.check_rows();
        dir = world.close();
    }
    let world = World::open(dir);
    let number = read_count(&std::fs::File::open(world.dir.path().join("done")).unwrap());
    assert!(number > 100, "only {number} changes in all");
    eprintln!("{number} changes, {cut_short} done and not answered");
}
