//! Clock and group around the lessor.
//!
//! ```text
//!   every tick, on the leader:   barrier and all leases, once a term
//!                                --> grants since the last tick --> what is due --> proposals
//!   keep-alive:                  barrier --> the lease as the log has it --> lessor
//! ```
//! Invariant: a keep-alive is acknowledged only after a barrier that began when it arrived, so every
//! entry of earlier terms that ends the lease has been applied by then; entries of other terms that
//! come later are void.
//!
//! Not here: forwarding to the leader (`etcd`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use parking_lot::Mutex;
use replica::engine::EngineError;
use world::{Clock, NodeId};

use super::lessor::{Lessor, Ms, Renewal, Term};
use crate::control_port::ControlPort;
use crate::group::read_with;
use crate::limits::{LEASE_EXPIRIES_PER_TICK, LEASE_TICK, RETRY_PAUSE};
use crate::machine::control::{self, lease};
use crate::outcome::CallError;
use crate::wire::etcdserverpb::{
    LeaseLeasesResponse, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, ResponseHeader,
};
use crate::wire::native::LeaseExpire;
use crate::wire::native::control_command::Command;
use crate::wire::native::control_reply::Reply;

/// What has happened to leases on this node since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseCounts {
    /// Kept alive.
    pub renewed: u64,
    /// Ended because their time was up.
    pub expired: u64,
    /// Whose deadlines this node keeps.
    pub kept: u64,
}

/// The deadlines of leases, while this node leads.
pub struct LeaseKeeper {
    port: ControlPort,
    node: NodeId,
    clock: Arc<dyn Clock>,
    lessor: Mutex<Lessor>,
    renewed: AtomicU64,
    expired: AtomicU64,
}

impl LeaseKeeper {
    /// A keeper over the node's member of the control group. It ends leases only while
    /// [`LeaseKeeper::run`] runs.
    pub fn new(port: ControlPort, node: NodeId, clock: Arc<dyn Clock>) -> Arc<LeaseKeeper> {
        let lessor = Mutex::new(Lessor::default());
        Arc::new(LeaseKeeper {
            port,
            node,
            clock,
            lessor,
            renewed: AtomicU64::new(0),
            expired: AtomicU64::new(0),
        })
    }

    /// Looks after leases for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            if let Err(error) = self.tick().await {
                tracing::debug!(%error, "leases are not looked after for now");
            }
            tokio::time::sleep(LEASE_TICK).await;
        }
    }

    /// What has happened so far.
    pub fn counts(&self) -> LeaseCounts {
        let (kept, _) = self.lessor.lock().size();
        LeaseCounts {
            renewed: self.renewed.load(Ordering::Relaxed),
            expired: self.expired.load(Ordering::Relaxed),
            kept: kept as u64,
        }
    }

    fn now(&self) -> Ms {
        u64::try_from(self.clock.uptime().as_millis()).expect("no node runs for 2^64 milliseconds")
    }

    /// Ends what is due, when this node leads.
    pub(super) async fn tick(&self) -> Result<(), CallError> {
        let standing = self.port.group().standing();
        if standing.leader != Some(self.node) {
            self.lessor.lock().retire(standing.term);
            return Ok(());
        }
        if self.lessor.lock().term() != Some(standing.term) {
            self.port.leader_barrier().await?;
            self.lead()?;
        }
        self.learn()?;
        let (term, due) = {
            let mut lessor = self.lessor.lock();
            let Some(term) = lessor.term() else { return Ok(()) };
            (term, lessor.due(self.now(), LEASE_EXPIRIES_PER_TICK))
        };
        // All at once: they share log entries.
        let ends = due.into_iter().map(|(id, grant)| self.expire(term, id, grant));
        stream::iter(ends).buffer_unordered(LEASE_EXPIRIES_PER_TICK).collect::<()>().await;
        Ok(())
    }

    async fn expire(&self, term: Term, id: i64, grant: u64) {
        let leader = u32::from(self.node.as_u16());
        let command = Command::LeaseExpire(LeaseExpire { id, grant, term, leader });
        match self.port.propose(command).await {
            Ok(Reply::LeaseExpired(reply)) if reply.gone => {
                self.expired.fetch_add(1, Ordering::Relaxed);
                self.lessor.lock().forget(id, grant);
            }
            Ok(_) => {}
            // It is told again later.
            Err(error) => tracing::debug!(%error, lease = id, "the end of a lease is not in the log yet"),
        }
    }

    // Begins the term that this member leads; call it behind a barrier. Answers the term.
    fn lead(&self) -> Result<Term, CallError> {
        let standing = self.port.group().standing();
        if standing.leader != Some(self.node) {
            return Err(CallError::NotLeader { hint: standing.leader });
        }
        if self.lessor.lock().term() != Some(standing.term) {
            let (leases, seen) = self.granted_after(0)?;
            self.lessor.lock().lead(standing.term, &leases, seen, self.now());
        }
        Ok(standing.term)
    }

    // Most grants pass through here, but not all: one whose client went away is found in the log.
    fn learn(&self) -> Result<(), CallError> {
        let known = self.lessor.lock().seen();
        let last = read_with(self.port.group(), |view| lease::last_grant(view)).map_err(storage)?;
        if last > known {
            let (leases, seen) = self.granted_after(known)?;
            self.lessor.lock().granted(&leases, seen, self.now());
        }
        Ok(())
    }

    fn granted_after(&self, grant: u64) -> Result<(Vec<(i64, lease::Lease)>, u64), CallError> {
        read_with(self.port.group(), |view| {
            Ok((lease::granted_after(view, grant)?, lease::last_grant(view)?))
        })
        .map_err(storage)
    }

    /// Lets go of what this node knows of a lease that was revoked. Without this its deadline would
    /// stay until its time is up.
    pub fn revoked(&self, id: i64) {
        // The state is read under the lock: a grant of the same id that was learned before is either
        // in the state or gone again.
        let mut lessor = self.lessor.lock();
        match read_with(self.port.group(), |view| lease::get(view, id)) {
            Ok(None) => lessor.forget(id, u64::MAX),
            Ok(Some(newer)) => lessor.forget(id, newer.grant - 1),
            // The member has stopped; so have its deadlines.
            Err(_) => {}
        }
    }

    /// Keeps a lease alive, on the leader. Answers its seconds; 0 when it is not in force.
    ///
    /// # Errors
    /// [`CallError`]; the lease may or may not have its whole time again then.
    pub async fn renew(&self, id: i64) -> Result<i64, CallError> {
        loop {
            self.port.leader_barrier().await?;
            let term = self.lead()?;
            let found = read_with(self.port.group(), |view| lease::get(view, id)).map_err(storage)?;
            let Some(lease) = found else { return Ok(0) };
            let renewal = self.lessor.lock().renew(term, id, lease, self.now());
            match renewal {
                Renewal::Renewed => {
                    self.renewed.fetch_add(1, Ordering::Relaxed);
                    return Ok(lease.ttl_s);
                }
                Renewal::Ending | Renewal::OtherTerm => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// How long a lease has left, on the leader; as etcd, -1 seconds when it is not in force.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn time_to_live(
        &self,
        request: &LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, CallError> {
        let id = request.id;
        self.port.leader_barrier().await?;
        self.lead()?;
        let (found, keys, revision) = read_with(self.port.group(), |view| {
            let keys = if request.keys { lease::keys(view, id)? } else { Vec::new() };
            Ok((lease::get(view, id)?, keys, control::revision(view)?))
        })
        .map_err(storage)?;
        let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
        let Some(lease) = found else {
            return Ok(LeaseTimeToLiveResponse { header, id, ttl: -1, ..Default::default() });
        };
        let left = Duration::from_millis(self.lessor.lock().remaining(id, lease, self.now()));
        let ttl = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        Ok(LeaseTimeToLiveResponse { header, id, ttl, granted_ttl: lease.ttl_s, keys })
    }

    /// The leases in force, on the leader, those that end first before the others.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn leases(&self) -> Result<LeaseLeasesResponse, CallError> {
        self.port.leader_barrier().await?;
        self.lead()?;
        let (leases, _) = self.granted_after(0)?;
        let revision = self.port.revision()?;
        let now = self.now();
        let mut left: Vec<(Ms, i64)> = {
            let lessor = self.lessor.lock();
            leases.iter().map(|(id, lease)| (lessor.remaining(*id, *lease, now), *id)).collect()
        };
        left.sort_unstable();
        Ok(LeaseLeasesResponse {
            header: Some(ResponseHeader { revision, ..ResponseHeader::default() }),
            leases: left.into_iter().map(|(_, id)| LeaseStatus { id }).collect(),
        })
    }
}

fn storage(error: EngineError) -> CallError {
    CallError::Storage(error.to_string())
}
