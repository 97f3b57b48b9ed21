//! The operator's host: brings the event to the nodes, makes it active, carries out commands while
//! it runs, and settles everything at the end, with the code of the command line.
//!
//! ```text
//!   push -> load instant amounts -> activate -> (commands of the schedule) -> healed, last slot over
//!        -> everybody goes home -> queue empty -> reconcile, credit, close, refund, reconcile -> evidence
//! ```
//! Invariant: what fails for want of an answer is repeated, as a person would; what is refused by
//! a guard or fails a verification is not.
//!
//! Not here: judging the evidence.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deploy::cli::money::Money;
use deploy::cli::target::Connected;
use deploy::demo::ledger::Books;
use deploy::demo::watch::{Issued, Watch};
use deploy::distribute::{BuildDir, Schedule};
use deploy::failure::{Exit, Failure};
use deploy::serve::api::{EventReport, ZonesReport};
use http::Method;
use kvsvr::api::Kv;
use payment::reconcile::Report as Reconciled;
use queue::api::Queue;
use tokio::sync::mpsc;
use world::{Clock, UnixMs};

use super::orders::{Typed, carry_out};
use crate::board::Board;
use crate::fabric::time::EPOCH_MS;
use crate::knobs::Knobs;

/// Pause before something is repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(400);
/// How often something is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between activation and the first slot.
const FIRST_SLOT_AFTER: Duration = Duration::from_millis(1_500);
/// Between two slots.
const GAP: Duration = Duration::from_millis(600);
/// The shortest slot.
const SLOT_MIN: Duration = Duration::from_millis(2_000);
/// How long after the faults the last slot ends: nodes claim for it in peace, and users shake.
const LAST_SLOT_ENDS_AFTER: Duration = Duration::from_millis(5_500);

/// What the operator found at the end.
pub struct Closing {
    /// The first reconcile, with the queue empty.
    pub before: Reconciled,
    /// The last one, after credit and refund.
    pub after: Reconciled,
    /// All rows.
    pub books: Books,
    /// The event and its claims.
    pub event: EventReport,
    /// The zones.
    pub zones: ZonesReport,
    /// What the nodes said they issued.
    pub issued: Issued,
}

/// The operator and their tools.
pub struct Operator {
    /// The cluster's admin endpoints.
    pub connected: Arc<Connected>,
    /// The build, on the operator's disk.
    pub build: BuildDir,
    /// The KV.
    pub kv: Arc<dyn Kv>,
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// The operator's watch.
    pub clock: Arc<dyn Clock>,
    /// What is common to the run.
    pub board: Arc<Board>,
    /// The run's sizes.
    pub knobs: Knobs,
}

/// Carries out the schedule's commands, one after the other.
pub async fn obey(connected: Arc<Connected>, board: Arc<Board>, mut lines: mpsc::UnboundedReceiver<Typed>) {
    while let Some(typed) = lines.recv().await {
        carry_out(&connected, &board, typed).await;
    }
}

impl Operator {
    /// Runs the whole event.
    ///
    /// # Errors
    /// What was refused and cannot be repeated.
    pub async fn run(self) -> Result<(), Failure> {
        let board = Arc::clone(&self.board);
        let money = Money::new(Arc::clone(&self.kv), Arc::clone(&self.queue), &self.build, &self.clock);
        self.insist("all files to be on all nodes", async || self.build.push(&self.connected, |_| {}).await)
            .await?;
        self.insist("instant amounts to be loaded", async || money.preload_instant().await).await?;
        let report = self.activate().await?;
        let watch = Watch::start(&self.connected.cluster, &self.connected.net);
        board.event.lock().clone_from(&report.event);
        let last_end = report.event.and_then(|event| event.slots.last().map(|slot| slot.end_ms));
        board.wait_for("the slots to run and the faults to end");
        while !board.healed() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.restore_all().await?;
        board.wait_for("the last slot to end");
        while last_end.is_some_and(|end| self.clock.now() < end) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        board.send_home();
        board.wait_for("the crowd to go home");
        while board.memory.lock().is_none() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let issued = watch.finish().await;
        self.settle(&money, issued).await
    }

    async fn activate(&self) -> Result<EventReport, Failure> {
        self.insist("the event to be active", async || {
            if let Some(slots) = self.knobs.slots_at {
                let schedule = Schedule::Compressed {
                    first: UnixMs(EPOCH_MS + slots.first_ms),
                    slot: Duration::from_millis(slots.length_ms),
                    gap: Duration::from_millis(slots.gap_ms),
                };
                return self.make_active(schedule).await;
            }
            let slots = u32::try_from(self.build.manifest.slots.len()).unwrap_or(1).max(1);
            let first = self.clock.now().plus(FIRST_SLOT_AFTER);
            let heal_at = UnixMs(EPOCH_MS).plus(self.knobs.safety());
            let end = heal_at.plus(LAST_SLOT_ENDS_AFTER);
            let slot = (end.since(first) / slots).saturating_sub(GAP).max(SLOT_MIN);
            let schedule = Schedule::Compressed { first, slot, gap: GAP };
            self.make_active(schedule).await
        })
        .await
    }

    async fn make_active(&self, schedule: Schedule) -> Result<EventReport, Failure> {
        match self.build.activate(&self.connected, schedule).await {
            // An earlier attempt whose answer was lost.
            Err(failure) if failure.exit == Exit::Conflict => self.look().await,
            answer => answer,
        }
    }

    async fn look(&self) -> Result<EventReport, Failure> {
        self.connected.call_any(|_| false, Method::GET, "/v1/event", Bytes::new()).await
    }

    /// Gives every zone its files back before the last slot.
    async fn restore_all(&self) -> Result<(), Failure> {
        self.insist("every zone to be active", async || {
            let zones: ZonesReport =
                self.connected.call_any(|_| false, Method::GET, "/v1/zones", Bytes::new()).await?;
            let failed: Vec<_> = zones.zones.iter().filter(|zone| zone.state != "active").collect();
            let Some(zone) = failed.first() else { return Ok(()) };
            deploy::cli::zone::request(&self.connected, zone.zone, "restore", "healed", false).await?;
            Err(Failure::new(Exit::Unavailable, "restored one; looking again"))
        })
        .await
    }

    async fn settle(&self, money: &Money, issued: Issued) -> Result<(), Failure> {
        self.insist("every opening to be settled", async || {
            let stats = self.queue.stats().await?;
            let waiting = stats.ready + stats.in_flight + stats.delayed;
            if waiting == 0 {
                return Ok(());
            }
            Err(Failure::new(Exit::Unavailable, format!("{waiting} openings are in the queue")))
        })
        .await?;
        let before = self.insist("reconcile", async || money.reconcile().await).await?;
        self.insist("credit", async || money.credit_pending().await).await?;
        let _: EventReport = self
            .insist("the event to be closed", async || {
                self.connected.call_any(|_| false, Method::POST, "/v1/event/close", Bytes::new()).await
            })
            .await?;
        self.insist("refund", async || money.refund().await).await?;
        let after = self.insist("the last reconcile", async || money.reconcile().await).await?;
        let books =
            self.insist("the rows", async || Books::read(&*self.kv, &self.build.manifest).await).await?;
        let event = self.insist("the claims", async || self.look().await).await?;
        let zones = self
            .insist("the zones", async || {
                self.connected.call_any(|_| false, Method::GET, "/v1/zones", Bytes::new()).await
            })
            .await?;
        self.board.wait_for("the replicas to agree");
        *self.board.closing.lock() = Some(Closing { before, after, books, event, zones, issued });
        Ok(())
    }

    /// Repeats what fails for want of an answer, and what a guard refuses while faults go on.
    async fn insist<T>(
        &self,
        what: &str,
        mut attempt: impl AsyncFnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.board.wait_for(what);
        loop {
            let failure = match attempt().await {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            tracing::info!(target: "sim::operator", %what, exit = ?failure.exit, %failure, "not yet");
            let worth_repeating = match failure.exit {
                Exit::Unavailable | Exit::Refused | Exit::Conflict | Exit::Denied | Exit::Error => true,
                Exit::Usage | Exit::NotFound | Exit::Unverified | Exit::Unhealthy | Exit::InvariantBroken => {
                    false
                }
            };
            if !worth_repeating {
                return Err(Failure::new(failure.exit, format!("{what}: {failure}")));
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}
