//! Whether the cluster has a leader, for streams that want to end when it has none.
//!
//! A member that is cut off goes on believing in the leader it last heard of. So belief does not
//! count: the question is whether a read barrier can be passed, which takes a leader, a quorum and
//! a way to them.
//!
//! Invariant: it asks only while somebody wants to know.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::group::KvGroup;

/// How often it asks.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How long nobody may have answered before the leader counts as lost. Elections are far shorter,
/// and opening all streams anew costs more than waiting a little (as etcd: three election timeouts).
const LOST_AFTER: Duration = Duration::from_millis(3_000);

const _: () = assert!(ASK_EVERY.as_millis() * 2 < LOST_AFTER.as_millis());

/// Asks, for everybody who wants to know.
pub struct LeaderMonitor {
    group: Arc<dyn KvGroup>,
    present: watch::Sender<bool>,
    asking: Mutex<bool>,
}

impl LeaderMonitor {
    /// A monitor of this member's group.
    pub fn new(group: Arc<dyn KvGroup>) -> Arc<LeaderMonitor> {
        Arc::new(LeaderMonitor { group, present: watch::Sender::new(true), asking: Mutex::new(false) })
    }

    /// Turns false when the leader is lost; `None` when there is none now. Must be called within
    /// the runtime.
    pub fn follow(self: &Arc<Self>) -> Option<watch::Receiver<bool>> {
        let mut asking = self.asking.lock();
        let present = self.present.subscribe();
        if !*asking {
            self.present.send_replace(true);
            *asking = true;
            tokio::spawn(Arc::clone(self).ask());
        }
        drop(asking);
        let known = self.group.standing().leader.is_some() && *present.borrow();
        known.then_some(present)
    }

    async fn ask(self: Arc<Self>) {
        let mut answered = Instant::now();
        loop {
            if let Ok(Ok(())) = timeout(ASK_EVERY, self.group.read_barrier_anywhere()).await {
                answered = Instant::now();
            }
            let present = answered.elapsed() < LOST_AFTER;
            self.present.send_if_modified(|before| std::mem::replace(before, present) != present);
            sleep(ASK_EVERY).await;
            let mut asking = self.asking.lock();
            if self.present.receiver_count() == 0 {
                *asking = false;
                return;
            }
        }
    }
}
