//! Streams of random operations, told in batches of any size and any order of names;
//! after each the views are what a model of the tree says.

use crate::rig::{ROOT, Rig, attr, object};
use externfs::FileKind;
use externfs_catalog::{Batch, Link};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % most
    }
}

#[derive(Clone, Copy)]
struct Node {
    is_dir: bool,
    mode: u32,
    uid: u32,
    blocks: u64,
    nlink: u32,
}

#[derive(Default)]
struct Model {
    nodes: HashMap<u64, Node>,
    names: BTreeMap<(u64, String), u64>,
    free: Vec<u64>,
    next: u64,
    touched_names: BTreeSet<(u64, String)>,
    touched_nodes: BTreeSet<u64>,
}

impl Model {
    fn dirs(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.nodes.iter().filter(|(_, node)| node.is_dir).map(|(ino, _)| *ino).chain([ROOT]).collect();
        all.sort_unstable();
        all
    }

    fn some_name(&self, dice: &mut Dice) -> Option<((u64, String), u64)> {
        let all: Vec<_> = self.names.iter().collect();
        (!all.is_empty()).then(|| all[dice.below(all.len())]).map(|(place, ino)| (place.clone(), *ino))
    }

    fn some_place(&self, dice: &mut Dice) -> (u64, String) {
        let dirs = self.dirs();
        (dirs[dice.below(dirs.len())], format!("n{}", dice.below(6)))
    }

    fn is_empty(&self, ino: u64) -> bool {
        self.names.keys().all(|(parent, _)| *parent != ino)
    }

    /// Whether directory `ino` is `dir` or above it.
    fn holds(&self, ino: u64, mut dir: u64) -> bool {
        while dir != ino {
            match self.names.iter().find(|(_, child)| **child == dir) {
                Some(((parent, _), _)) => dir = *parent,
                None => return false,
            }
        }
        true
    }

    fn put(&mut self, place: (u64, String), ino: u64) {
        self.touched_names.insert(place.clone());
        self.touched_nodes.insert(ino);
        self.names.insert(place, ino);
    }

    fn take(&mut self, place: &(u64, String)) {
        let Some(ino) = self.names.remove(place) else { return };
        self.touched_names.insert(place.clone());
        self.touched_nodes.insert(ino);
        let node = self.nodes.get_mut(&ino).expect("a node");
        node.nlink -= 1;
        if node.nlink == 0 {
            self.nodes.remove(&ino);
            self.free.push(ino);
        }
    }

    fn step(&mut self, dice: &mut Dice) {
        let place = self.some_place(dice);
        let other = self.some_name(dice);
        match (dice.below(10), other) {
            (0..=3, _) if !self.names.contains_key(&place) => {
                // The last number to come free is the first to be taken.
                let ino = self.free.pop().unwrap_or_else(|| {
                    self.next += 1;
                    self.next + 100
                });
                let node =
                    Node { is_dir: dice.below(2) == 0, mode: 0o644, uid: dice.below(3) as u32, blocks: dice.below(9) as u64, nlink: 1 };
                self.nodes.insert(ino, node);
                self.put(place, ino);
            }
            (4, Some((_, ino))) if !self.nodes[&ino].is_dir && !self.names.contains_key(&place) => {
                self.nodes.get_mut(&ino).expect("a node").nlink += 1;
                self.put(place, ino);
            }
            (5, Some((from, ino))) if !self.nodes[&ino].is_dir || self.is_empty(ino) => self.take(&from),
            (6 | 7, Some((from, ino))) => self.rename(from, ino, place),
            (8, Some((one, first))) => {
                let Some((two, second)) = self.some_name(dice) else { return };
                if one != two && !self.holds(first, two.0) && !self.holds(second, one.0) {
                    self.put(one, second);
                    self.put(two, first);
                }
            }
            (9, Some((_, ino))) => {
                let node = self.nodes.get_mut(&ino).expect("a node");
                (node.mode, node.uid) = (dice.below(0o10000) as u32, dice.below(3) as u32);
                self.touched_nodes.insert(ino);
            }
            _ => {}
        }
    }

    fn rename(&mut self, from: (u64, String), ino: u64, to: (u64, String)) {
        let is_dir = self.nodes[&ino].is_dir;
        let victim = self.names.get(&to).copied();
        if victim.is_some_and(|victim| victim == ino || self.nodes[&victim].is_dir != is_dir || !self.is_empty(victim)) {
            return;
        }
        if self.holds(ino, to.0) {
            return;
        }
        if victim.is_some() {
            self.take(&to);
        }
        self.names.remove(&from);
        self.touched_names.insert(from);
        self.put(to, ino);
    }

    /// How what was touched is now, in any order.
    fn batch(&mut self, dice: &mut Dice) -> Batch {
        let mut batch = Batch::default();
        for place in std::mem::take(&mut self.touched_names) {
            let link = self.names.get(&place).map(|ino| Link { ino: *ino, is_dir: self.nodes[ino].is_dir });
            let at = dice.below(batch.names.len() + 1);
            batch.names.insert(at, (place.0, place.1.as_bytes().into(), link));
        }
        for ino in std::mem::take(&mut self.touched_nodes) {
            batch.objects.push(self.nodes.get(&ino).map_or((ino, None), |node| {
                let mut attr = attr(ino, if node.is_dir { FileKind::Directory } else { FileKind::Regular }, node.mode);
                (attr.uid.0, attr.blocks, attr.nlink) = (node.uid, node.blocks, node.nlink);
                object(attr, None)
            }));
        }
        batch
    }

    fn lines(&self) -> Vec<String> {
        let mut paths: HashMap<u64, String> = HashMap::from([(ROOT, String::new())]);
        let mut lines = Vec::new();
        let mut waiting = vec![ROOT];
        while let Some(dir) = waiting.pop() {
            for ((_, name), ino) in self.names.range((dir, String::new())..(dir + 1, String::new())) {
                let path = format!("{}/{name}", paths[&dir]);
                let node = self.nodes[ino];
                lines.push(format!("{path}|{ino}|{}|{}|{}|{}", if node.is_dir { 'd' } else { 'f' }, node.mode, node.uid, node.nlink));
                if node.is_dir {
                    paths.insert(*ino, path);
                    waiting.push(*ino);
                }
            }
        }
        lines.sort();
        lines
    }
}

#[test]
fn any_stream_of_operations_is_followed() {
    for seed in 1..=6 {
        let mut dice = Dice(seed * 0x9e37_79b9);
        let (mut rig, mut model) = (Rig::new(), Model::default());
        for round in 0..60 {
            for _ in 0..=dice.below(25) {
                model.step(&mut dice);
            }
            let batch = model.batch(&mut dice);
            rig.apply(&batch);
            if dice.below(4) == 0 {
                rig.apply(&batch);
            }
            let mut told: Vec<String> =
                rig.text("select name, ino, type, mode, uid, nlink from root_fs").lines().map(str::to_owned).collect();
            told.sort();
            assert_eq!(told, model.lines(), "seed {seed}, round {round}");
            rig.check_usage();
        }
        assert!(!model.names.is_empty());
    }
}
