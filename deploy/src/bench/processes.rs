//! What the processes of a dev cluster cost: processor time, memory, disk.
//!
//! Invariant: figures are the system's own (`/proc`, file sizes); what cannot be read is an error, never 0.
//!
//! Not here: clusters on other machines. Their figures are theirs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use replica::identity::{LOG_DIR, STATE_DIR};
use serde::Serialize;
use world::NodeId;

use crate::dev::layout::DevDir;
use crate::failure::{Context, Exit, Failure};

/// Ticks of `/proc/<pid>/stat` in a second, the same on every Linux a user sees.
const TICKS_PER_SECOND: u64 = 100;

/// What one node holds now.
#[derive(Clone, Debug, Serialize)]
pub struct Holds {
    /// Which.
    pub node: NodeId,
    /// Memory of its process that is in RAM.
    pub rss_bytes: u64,
    /// The most it ever was.
    pub rss_max_bytes: u64,
    /// Its Raft logs on disk.
    pub log_bytes: u64,
    /// Its applied state on disk.
    pub state_bytes: u64,
}

/// The processes of a dev cluster.
pub struct Processes {
    nodes: BTreeMap<NodeId, (u32, PathBuf)>,
}

impl Processes {
    /// Those that run now.
    ///
    /// # Errors
    /// Exit code 3 when the directory holds no dev cluster, 6 when nothing of it runs.
    pub fn of(dir: &Path) -> Result<Processes, Failure> {
        let dev = DevDir::load(dir)?;
        let cluster = dev.cluster()?;
        let mut nodes = BTreeMap::new();
        for (node, pid) in dev.all_running()? {
            nodes.insert(node, (pid, cluster.node(node)?.data_dir.clone()));
        }
        if nodes.is_empty() {
            let cure = format!("start it with `hongbao dev up --dir {}`", dir.display());
            return Err(Failure::new(Exit::Unavailable, format!("no node runs; {cure}")));
        }
        Ok(Processes { nodes })
    }

    /// Processor time of all of them since each began, user and system.
    ///
    /// # Errors
    /// When one of them ended.
    pub fn cpu(&self) -> Result<Duration, Failure> {
        let mut sum = Duration::ZERO;
        for (pid, _) in self.nodes.values() {
            sum += cpu_of(&format!("/proc/{pid}/stat"))?;
        }
        Ok(sum)
    }

    /// What each holds now.
    ///
    /// # Errors
    /// When one of them ended.
    pub fn hold(&self) -> Result<Vec<Holds>, Failure> {
        let one = |(node, (pid, data_dir)): (&NodeId, &(u32, PathBuf))| {
            let status = read(&format!("/proc/{pid}/status"))?;
            Ok(Holds {
                node: *node,
                rss_bytes: kilobytes(&status, "VmRSS:")?,
                rss_max_bytes: kilobytes(&status, "VmHWM:")?,
                log_bytes: bytes_below(&data_dir.join(LOG_DIR)),
                state_bytes: bytes_below(&data_dir.join(STATE_DIR)),
            })
        };
        self.nodes.iter().map(one).collect()
    }
}

/// Processor time of this process.
///
/// # Errors
/// Where there is no `/proc`.
pub fn own_cpu() -> Result<Duration, Failure> {
    cpu_of("/proc/self/stat")
}

fn read(path: &str) -> Result<String, Failure> {
    fs::read_to_string(path).context(Exit::Unavailable, format!("reading {path}"))
}

fn cpu_of(path: &str) -> Result<Duration, Failure> {
    let stat = read(path)?;
    // User and system time are the 14th and 15th field; the command's name, the 2nd, may hold spaces.
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks: Option<u64> = {
        let mut fields = after_name.split_whitespace().skip(11);
        let mut next = || fields.next().and_then(|field| field.parse::<u64>().ok());
        next().zip(next()).map(|(user, system)| user + system)
    };
    let ticks = ticks.ok_or_else(|| Failure::new(Exit::Error, format!("{path}: not as expected: {stat}")))?;
    Ok(Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND))
}

fn kilobytes(status: &str, field: &str) -> Result<u64, Failure> {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    number
        .map(|kilobytes| kilobytes * 1_024)
        .ok_or_else(|| Failure::new(Exit::Unavailable, format!("a node ended: its status shows no {field}")))
}

/// Files come and go while a database compacts: what vanishes between two looks counts as nothing.
fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        Some(if metadata.is_dir() { bytes_below(&entry.path()) } else { metadata.len() })
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_processor_time_and_memory() {
        let before = own_cpu().expect("there is /proc");
        let mut sum = 0u64;
        while own_cpu().expect("there is /proc") == before {
            sum = (0..1_000_000u64).fold(sum, |sum, number| std::hint::black_box(sum ^ number));
        }
        let status = read("/proc/self/status").expect("there is /proc");
        assert!(kilobytes(&status, "VmRSS:").expect("a figure") > 1 << 20);
        assert!(kilobytes(&status, "VmNo:").is_err());
    }
}
