//! Processes by their id: does it live, is it ours, end it.
//!
//! Invariant: a process id alone proves nothing, because the system gives it out again; a process
//! is ours only if its command line names our directory's cluster file and the node.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use world::NodeId;

use crate::failure::{Context, Exit, Failure};

/// Pause between two looks at a process that is ending.
const ENDED_LOOK_EVERY: Duration = Duration::from_millis(5);

/// Whether the process runs. One that ended and was not yet collected does not.
#[must_use]
pub fn lives(pid: u32) -> bool {
    runs(Path::new(&format!("/proc/{pid}/stat")))
}

fn runs(stat: &Path) -> bool {
    let Ok(stat) = fs::read_to_string(stat) else { return false };
    // The state follows the command's name, which stands in parentheses and may hold spaces.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

// The first thread may be gone while others still end, and they hold the files.
fn a_thread_runs(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.into_iter().any(|thread| runs(&thread.path().join("stat")))
}

/// Waits, for `patience` at most, until a process that was ended is gone with its files. Between
/// SIGKILL and then it has no command line any more, and still holds the locks of its databases.
pub fn await_end(pid: u32, patience: Duration) {
    let mut waited = Duration::ZERO;
    let leaving = || fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.is_empty());
    while waited < patience && leaving() && a_thread_runs(pid) {
        std::thread::sleep(ENDED_LOOK_EVERY);
        waited += ENDED_LOOK_EVERY;
    }
}

/// Whether the process is `hongbao serve` of this cluster file and node.
#[must_use]
pub fn is_node(pid: u32, cluster_file: &Path, node: NodeId) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let words: Vec<String> =
        line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    let has = |word: &str| words.iter().any(|w| w == word);
    lives(pid) && has("serve") && has(&cluster_file.display().to_string()) && has(&node.to_string())
}

/// Sends a signal. A process that is gone is no error.
///
/// # Errors
/// When the system refuses.
pub fn signal(pid: u32, signal: Signal) -> Result<(), Failure> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = raw.ok_or_else(|| Failure::new(Exit::Error, format!("{pid} is not a process id")))?;
    match rustix::process::kill_process(pid, signal) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        outcome => outcome.context(Exit::Error, format!("ending process {}", pid.as_raw_nonzero())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_is_no_node() {
        let pid = std::process::id();
        let node = "a1".parse().expect("a node");
        assert!(lives(pid) && a_thread_runs(pid));
        assert!(!lives(u32::MAX) && !a_thread_runs(u32::MAX));
        assert!(!is_node(pid, Path::new("/nowhere/cluster.toml"), node));
    }
}
