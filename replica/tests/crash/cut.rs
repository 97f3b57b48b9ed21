//! What a power cut leaves of a write-ahead log: everything that was synced, and of the rest a part,
//! perhaps full of something else.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rand::RngExt;
use world::rng::Stream;

use crate::child::{LOG, wals};
use crate::model::Cluster;

/// The unit in which disks write.
const SECTOR: u64 = 512;

/// What the last, unsynced record is full of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// What was written, as far as it goes.
    Cut,
    /// Zeros from some sector on: the length was written before the data.
    Zeros,
    /// Anything in its last sector.
    Garbage,
}

/// Takes away what was not synced, or some of it, or fills its end with something else; answers with what.
pub fn power(dir: &Path, cluster: &mut Cluster, chance: &mut Stream) -> Tail {
    let mut worst = Tail::Cut;
    let dir = dir.join(LOG);
    if !dir.exists() {
        return worst;
    }
    for (name, length) in wals(&dir) {
        let synced = cluster.synced.get(&name).copied().unwrap_or(0).min(length);
        let left = match chance.random_range(0..3u32) {
            0 => synced,
            _ => chance.random_range(synced..=length),
        };
        cluster.counts.cut_bytes += length - left;
        let file = OpenOptions::new().write(true).open(dir.join(&name)).expect("writable");
        file.set_len(left).expect("cut");
        if left == synced {
            continue;
        }
        // In turn and not by chance: few lives leave something unsynced, and each kind has to come.
        cluster.counts.tears += 1;
        let (from, bytes): (u64, Vec<u8>) = match cluster.counts.tears % 3 {
            0 => continue,
            1 => {
                let sectors = (synced..left).filter(|at| *at == synced || at % SECTOR == 0);
                let sectors: Vec<u64> = sectors.collect();
                let from = sectors[chance.random_range(0..sectors.len())];
                cluster.counts.zeroed += 1;
                worst = if worst == Tail::Garbage { worst } else { Tail::Zeros };
                (from, vec![0; (left - from) as usize])
            }
            _ => {
                let torn = (left - synced).min(SECTOR);
                worst = Tail::Garbage;
                (left - torn, (0..torn).map(|_| chance.random_range(0..=255u8)).collect())
            }
        };
        file.write_all_at(&bytes, from).expect("torn");
        cluster.counts.cut_bytes += bytes.len() as u64;
    }
    worst
}

/// Takes away some of what *was* synced. `false` when there is too little of it.
pub fn beyond_the_synced(dir: &Path, cluster: &Cluster) -> bool {
    let dir = dir.join(LOG);
    let Some((name, length)) = wals(&dir).pop() else { return false };
    let synced = cluster.synced.get(&name).copied().unwrap_or(0).min(length);
    if synced < 10_000 {
        return false;
    }
    let file = OpenOptions::new().write(true).open(dir.join(&name)).expect("writable");
    file.set_len(synced / 2).expect("cut");
    true
}
