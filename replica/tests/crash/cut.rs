//! What a power cut leaves of a write-ahead log: everything that was synced, and of the rest a part,
//! perhaps torn.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rand::RngExt;
use world::rng::Stream;

use crate::child::{LOG, wals};
use crate::model::Cluster;

/// Takes away what was not synced, or some of it, or tears its end; answers whether it tore.
pub fn power(dir: &Path, cluster: &mut Cluster, chance: &mut Stream) -> bool {
    let mut torn_any = false;
    let dir = dir.join(LOG);
    if !dir.exists() {
        return false;
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
        // The last sector was under way: its bytes are anything.
        if left > synced && chance.random_range(0..2u32) == 0 {
            let torn = (left - synced).min(512);
            let garbage: Vec<u8> = (0..torn).map(|_| chance.random_range(0..=255u8)).collect();
            file.write_all_at(&garbage, left - torn).expect("torn");
            cluster.counts.cut_bytes += torn;
            torn_any = true;
        }
    }
    torn_any
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
