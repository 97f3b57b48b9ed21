//! The operator's host: brings the event to the nodes, makes it active, carries out commands while
//! it runs, and settles everything at the end, with the code of the command line.
//!
//! ```text
//!   push -> load instant amounts -> activate -> (commands of the schedule) -> healed, last slot over
//!                                               finance credits again and again, through the bank
//!        -> everybody goes home -> queue empty -> reconcile, credit, close, refund, reconcile -> evidence
//! ```
//! When the sponsors change their orders at the last moment ([`LATE`]), somebody types what makes the
//! second build active, and the first never is.
//!
//! Invariant: what fails for want of an answer is repeated, as a person would; what is refused by
//! a guard or fails a verification is not.
//!
//! Not here: judging the evidence.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deploy::cli::money::Money;
use deploy::cli::target::Connected;
use deploy::demo::ledger::Books;
use deploy::demo::watch::{Issued, Watch};
use deploy::distribute::{BuildDir, Pushed, Schedule};
use deploy::failure::{Context, Exit, Failure};
use deploy::serve::api::{EventReport, ZonesReport};
use deploy::serve::keys::{KeysReport, KeysRequest};
use http::Method;
use kvsvr::api::Kv;
use payment::reconcile::Report as Reconciled;
use queue::api::Queue;
use ticket::id::{BuildId, KeyId};
use ticket::keys::KeyList;
use world::{Clock, UnixMs};

use super::auditor::read_accounts;
use super::bank::{BankBooks, BankLine};
use super::insider::Insider;
use crate::board::Board;
use crate::fabric::time::EPOCH_MS;
use crate::history::Moment;
use crate::knobs::{Knobs, LAST_SLOT_ENDS_AFTER_MS, Purpose, stream};

/// Pause before something is repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(400);
/// How often something is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often finance credits what is pending while the event runs.
const CREDIT_EVERY: Duration = Duration::from_millis(1_500);
/// How long finance waits for one run of it.
const CREDITED_WITHIN: Duration = Duration::from_secs(10);
/// Between activation and the first slot.
const FIRST_SLOT_AFTER: Duration = Duration::from_millis(1_500);
/// Between two slots.
const GAP: Duration = Duration::from_millis(600);
/// The shortest slot.
const SLOT_MIN: Duration = Duration::from_millis(2_000);

/// The build that is made first.
pub const FIRST: &str = "first";
/// The build that is made when the sponsors have changed their orders.
pub const LATE: &str = "late";

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
    /// What the bank did.
    pub bank: BankBooks,
    /// When the two reconciles were made.
    pub reconciled: [Moment; 2],
}

/// What operators work with.
pub struct Tools {
    /// The cluster's admin endpoints.
    pub connected: Arc<Connected>,
    /// The builds, on the operators' disk.
    pub builds: BTreeMap<&'static str, BuildDir>,
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
    /// The run's seed.
    pub seed: u64,
}

impl Tools {
    /// A build by its name.
    ///
    /// # Errors
    /// Exit code 3.
    pub fn build(&self, name: &str) -> Result<&BuildDir, Failure> {
        self.builds.get(name).ok_or_else(|| Failure::new(Exit::NotFound, format!("there is no build {name}")))
    }

    /// A build by its id.
    #[must_use]
    pub fn build_of(&self, id: BuildId) -> Option<&BuildDir> {
        self.builds.values().find(|build| build.manifest.build == id)
    }

    fn money(&self, build: &BuildDir) -> Money {
        Money::new(Arc::clone(&self.kv), Arc::clone(&self.queue), build, &self.clock)
    }

    /// `deploy push`
    ///
    /// # Errors
    /// The first node that cannot be reached or refuses.
    pub async fn push(&self, name: &str) -> Result<Vec<Pushed>, Failure> {
        self.build(name)?.push(&self.connected, |_| {}).await
    }

    /// `deploy activate`: loads the instant amounts, and makes the build the active event.
    ///
    /// # Errors
    /// When copies are not verified, another event is open, or nobody answers.
    pub async fn activate(&self, name: &str) -> Result<EventReport, Failure> {
        let build = self.build(name)?;
        self.money(build).preload_instant().await?;
        if self.knobs.revoked_key {
            self.revoke_one(build).await?;
        }
        let report = build.activate(&self.connected, self.schedule(build)).await?;
        self.board.event.lock().clone_from(&report.event);
        Ok(report)
    }

    /// Revokes a data key before anything can be opened under it. The list that activation would put
    /// there is put there first.
    async fn revoke_one(&self, build: &BuildDir) -> Result<(), Failure> {
        let manifest = &build.manifest;
        let path = format!("/v1/builds/{}/keys", manifest.build);
        let list = Bytes::from(KeyList::all(manifest.key_count).encode());
        let _: KeysReport = self.connected.call_any(|_| false, Method::PUT, &path, list).await?;
        let key = KeyId(manifest.key_count);
        let body = serde_json::to_vec(&KeysRequest { keys: BTreeSet::from([key]) });
        let body = Bytes::from(body.context(Exit::Error, "making the request")?);
        let _: KeysReport =
            self.connected.call_any(|_| false, Method::POST, &format!("{path}/revoke"), body).await?;
        self.board.revoked.lock().insert(key);
        Ok(())
    }

    fn schedule(&self, build: &BuildDir) -> Schedule {
        if let Some(slots) = self.knobs.slots_at {
            return Schedule::Compressed {
                first: UnixMs(EPOCH_MS + slots.first_ms),
                slot: Duration::from_millis(slots.length_ms),
                gap: Duration::from_millis(slots.gap_ms),
            };
        }
        let slots = u32::try_from(build.manifest.slots.len()).unwrap_or(1).max(1);
        let first = self.clock.now().plus(FIRST_SLOT_AFTER);
        let heal_at = UnixMs(EPOCH_MS).plus(self.knobs.safety());
        let end = heal_at.plus(Duration::from_millis(LAST_SLOT_ENDS_AFTER_MS));
        let slot = (end.since(first) / slots).saturating_sub(GAP).max(SLOT_MIN);
        Schedule::Compressed { first, slot, gap: GAP }
    }

    /// Runs the whole event.
    ///
    /// # Errors
    /// What was refused and cannot be repeated.
    pub async fn run(&self) -> Result<(), Failure> {
        let board = Arc::clone(&self.board);
        self.insist("all files to be on all nodes", async || self.push(FIRST).await).await?;
        let report = self.insist("the event to be active", async || self.make_active().await).await?;
        let event = report.event.ok_or_else(|| Failure::new(Exit::NotFound, "no event is active"))?;
        let build = self.build_of(event.build).ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("build {} is not one of the operators'", event.build))
        })?;
        let watch = Watch::start(&self.connected.cluster, &self.connected.net);
        *board.event.lock() = Some(event.clone());
        let money = self.money(build);
        let last_end = event.slots.last().map(|slot| slot.end_ms);
        let insider = Insider {
            queue: Arc::clone(&self.queue),
            clock: Arc::clone(&self.clock),
            chance: stream(self.seed, Purpose::Insider, 0),
            board: Arc::clone(&board),
        };
        board.wait_for("the slots to run and the faults to end");
        tokio::select! {
            biased;
            () = self.until_healed() => {}
            () = self.pay_out(&money) => {}
            failure = self.let_in(insider, build) => return Err(failure),
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
        self.settle(build, &money, issued).await
    }

    async fn until_healed(&self) {
        while !self.board.healed() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// An insider at work; answers only if that cannot be.
    async fn let_in(&self, insider: Insider, build: &BuildDir) -> Failure {
        match insider.run(build, self.knobs.made_up_packets).await {
            Ok(()) => std::future::pending().await,
            Err(failure) => failure,
        }
    }

    /// Finance: credits what is pending through the bank, again and again. While the bank reports twice
    /// two of them work at the same time.
    async fn pay_out(&self, money: &Money) {
        loop {
            tokio::time::sleep(CREDIT_EVERY).await;
            if let Ok(stats) = self.queue.stats().await {
                self.board.grew_to("backlog-most", stats.ready + stats.in_flight);
            }
            let once = || tokio::time::timeout(CREDITED_WITHIN, money.credit_through(&BankLine));
            let credited = if self.board.mischief.bank.reports_twice() {
                let (one, other) = tokio::join!(once(), once());
                vec![one, other]
            } else {
                vec![once().await]
            };
            tracing::info!(target: "sim::operator", ?credited, "credited through the bank");
        }
    }

    /// Makes the event active, or waits until somebody has typed what does.
    async fn make_active(&self) -> Result<EventReport, Failure> {
        if self.builds.contains_key(LATE) {
            let report = self.look().await?;
            let waits = || Failure::new(Exit::Unavailable, "nobody has activated the late build yet");
            return if report.event.is_some() { Ok(report) } else { Err(waits()) };
        }
        match self.activate(FIRST).await {
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

    /// Credits through the bank until nothing is left whose payment is not known.
    async fn credit_all(&self, money: &Money) -> Result<(), Failure> {
        let credited = money.credit_through(&BankLine).await?;
        if credited.left == 0 {
            return Ok(());
        }
        Err(Failure::new(Exit::Unavailable, format!("{} payments are not known yet", credited.left)))
    }

    async fn settle(&self, build: &BuildDir, money: &Money, issued: Issued) -> Result<(), Failure> {
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
        let before_at = self.board.moment();
        self.insist("credit", async || self.credit_all(money).await).await?;
        let _: EventReport = self
            .insist("the event to be closed", async || {
                self.connected.call_any(|_| false, Method::POST, "/v1/event/close", Bytes::new()).await
            })
            .await?;
        self.insist("refund", async || money.refund().await).await?;
        // Somebody repeats the last two, not knowing that they were done.
        self.insist("credit again", async || self.credit_all(money).await).await?;
        self.insist("refund again", async || money.refund().await).await?;
        let after = self.insist("the last reconcile", async || money.reconcile().await).await?;
        let reconciled = [before_at, self.board.moment()];
        self.insist("the accounts", async || {
            Ok(read_accounts(&*self.kv, build.manifest.build, &self.board).await?)
        })
        .await?;
        let books = self.insist("the rows", async || Books::read(&*self.kv, &build.manifest).await).await?;
        let event = self.insist("the claims", async || self.look().await).await?;
        let damaged = self.board.ticket_files_damaged.lock().clone();
        for (node, slot, file) in damaged {
            let claims = event.claims.iter().filter(|claim| (claim.slot, claim.file) == (slot, file));
            let taken_over = claims.filter(|claim| claim.node != node).count() as u64;
            self.board.count("damaged-file-issued-by-another", taken_over);
        }
        let zones = self
            .insist("the zones", async || {
                self.connected.call_any(|_| false, Method::GET, "/v1/zones", Bytes::new()).await
            })
            .await?;
        let bank = self.board.mischief.bank.books();
        self.board.wait_for("the replicas to agree");
        *self.board.closing.lock() =
            Some(Closing { before, after, books, event, zones, issued, bank, reconciled });
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
