//! `hongbao reconcile run` and `hongbao refund run`: finance's part, run where the build directory
//! and its keys are.
//!
//! Invariant: nothing is credited that the plan does not hold, and nothing refunded before the event
//! is closed, the queue empty and nothing pending.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use kvsvr::api::Kv;
use payment::ledger::backend::{EmbeddedLedger, PaymentBackend};
use payment::reconcile::Report;
use payment::reconcile::credit::Credited;
use payment::reconcile::run::Sources;
use payment::{fund, instant, reconcile, refund};
use queue::api::Queue;
use serde::Serialize;
use ticket::manifest::Manifest;
use ticket::sign::SigningKey;
use world::Clock;
use world::clock::SystemClock;
use world::disk::{Disk, RealDisk};

use super::target::{Connected, Target};
use crate::clients;
use crate::distribute::BuildDir;
use crate::failure::{Context, Exit, Failure};
use crate::output::{Format, grouped, print, right, table, yuan};
use crate::serve::{event, keys};

/// `hongbao reconcile`
#[derive(Debug, Subcommand)]
pub enum ReconcileCommand {
    /// Compare plan, rows, postings and queue, to the fen
    Run {
        /// Which cluster and build
        #[command(flatten)]
        place: Place,
        /// Afterwards credit the pending packets that match the plan
        #[arg(long)]
        credit: bool,
        /// Write the signed report to this file (and its signature beside it)
        #[arg(long)]
        report: Option<PathBuf>,
    },
}

/// `hongbao refund`
#[derive(Debug, Subcommand)]
pub enum RefundCommand {
    /// Give back to each sponsor what was not credited. The event must be closed.
    Run(Place),
}

/// A cluster and a build.
#[derive(Debug, Args)]
pub struct Place {
    #[command(flatten)]
    target: Target,
    /// The directory `plan build` made, with its keys
    #[arg(long)]
    build: PathBuf,
}

#[derive(Serialize)]
struct Reconciled<'a> {
    report: &'a Report,
    credited_now: Option<u64>,
}

/// Everything that moves money, over one cluster and one build.
pub struct Money {
    sources: Sources,
    manifest: Manifest,
}

impl Money {
    /// Over these connections.
    #[must_use]
    pub fn new(kv: Arc<dyn Kv>, queue: Arc<dyn Queue>, build: &BuildDir, clock: &Arc<dyn Clock>) -> Money {
        let disk = Arc::clone(&build.disk);
        let (build_dir, clock) = (build.path.clone(), Arc::clone(clock));
        Money { sources: Sources { disk, build_dir, kv, queue, clock }, manifest: build.manifest.clone() }
    }

    fn connect(connected: &Connected, build: &BuildDir) -> Result<Money, Failure> {
        let kv = Arc::new(clients::kv(&connected.cluster, &connected.net, None));
        let queue = Arc::new(clients::queue(&connected.cluster, &connected.net, None)?);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        Ok(Money::new(kv, queue, build, &clock))
    }

    /// Books the sponsors' money and loads the amounts that are credited at once. Answers how many
    /// amounts there are. Repeating it changes nothing.
    ///
    /// # Errors
    /// When the KV does not take them.
    pub async fn preload_instant(&self) -> Result<u64, Failure> {
        let kv = &*self.sources.kv;
        fund::fund(kv, &self.manifest).await.context(Exit::Unavailable, "booking the sponsors' money")?;
        instant::preload(kv, &*self.sources.disk, &self.sources.build_dir, &self.manifest)
            .await
            .context(Exit::Unavailable, "loading the instant amounts")
    }

    /// Compares everything with the plan.
    ///
    /// # Errors
    /// When something cannot be read.
    pub async fn reconcile(&self) -> Result<Report, Failure> {
        reconcile::run::reconcile(&self.sources, None).await.context(Exit::Unavailable, "reconciling")
    }

    /// Credits the pending packets that match the plan; answers how many.
    ///
    /// # Errors
    /// When the KV does not answer; what was credited stays so, and repeating goes on from there.
    pub async fn credit_pending(&self) -> Result<u64, Failure> {
        Ok(self.credit_through(&EmbeddedLedger).await?.count)
    }

    /// The same, through another payment back end; answers what became of them.
    ///
    /// # Errors
    /// As [`Money::credit_pending`].
    pub async fn credit_through(&self, backend: &dyn PaymentBackend) -> Result<Credited, Failure> {
        let (list, _) = keys::current(&*self.sources.kv, self.manifest.build).await?;
        let credited = reconcile::credit::credit_through(&self.sources, &list, backend).await;
        credited.context(Exit::Unavailable, "crediting")
    }

    /// Gives every batch's remainder back; answers how much.
    ///
    /// # Errors
    /// Exit code 7 when it is too early.
    pub async fn refund(&self) -> Result<u64, Failure> {
        let Some((event, _)) = event::read(&*self.sources.kv).await? else {
            return Err(Failure::new(Exit::NotFound, "no event is active"));
        };
        let refunded = refund::refund(&*self.sources.kv, &*self.sources.queue, &self.manifest, &event).await;
        refunded.map(|refunded| refunded.fen.get()).map_err(|error| {
            let exit = if matches!(error, refund::RefundError::Guard(_)) {
                Exit::Refused
            } else {
                Exit::Unavailable
            };
            Failure::new(exit, error.to_string())
        })
    }
}

/// Loads what must be in the KV before the first slot.
///
/// # Errors
/// As [`Money::preload_instant`].
pub async fn preload_instant(connected: &Connected, build: &BuildDir) -> Result<u64, Failure> {
    Money::connect(connected, build)?.preload_instant().await
}

/// Runs `reconcile run`.
///
/// # Errors
/// Exit code 8 when something does not match, 6 when openings are still in the queue.
pub async fn reconcile(command: ReconcileCommand, format: Format) -> Result<(), Failure> {
    let ReconcileCommand::Run { place, credit, report: file } = command;
    let connected = place.target.connect()?;
    let build = BuildDir::load(Arc::new(RealDisk), &place.build)?;
    let money = Money::connect(&connected, &build)?;
    let mut report = money.reconcile().await?;
    let mut credited_now = None;
    if credit {
        credited_now = Some(money.credit_pending().await?);
        report = money.reconcile().await?;
    }
    if let Some(file) = file {
        let key = SigningKey::load(&RealDisk, &build.path.join("keys/sign.key"));
        let key = key.context(Exit::Denied, "reading sign.key")?;
        let (bytes, signature) = report.signed(&key);
        let doing = || format!("writing {}", file.display());
        let beside = ticket::manifest::signature_path(&file);
        RealDisk.publish(&beside, format!("{signature}\n").as_bytes()).context(Exit::Error, doing())?;
        RealDisk.publish(&file, &bytes).context(Exit::Error, doing())?;
    }
    print(format, &Reconciled { report: &report, credited_now }, show)?;
    if report.totals.mismatches == 0 && report.complete {
        return Ok(());
    }
    if report.totals.mismatches == 0 {
        return Err(Failure::new(
            Exit::Unavailable,
            "not complete: openings are still in the queue; repeat when it is empty",
        ));
    }
    let message = format!("{} mismatches: see the findings", report.totals.mismatches);
    Err(Failure::new(Exit::Unverified, message))
}

/// Runs `refund run`.
///
/// # Errors
/// Exit code 7 when it is too early.
pub async fn refund(command: RefundCommand, format: Format) -> Result<(), Failure> {
    let RefundCommand::Run(place) = command;
    let connected = place.target.connect()?;
    let build = BuildDir::load(Arc::new(RealDisk), &place.build)?;
    let refunded = Money::connect(&connected, &build)?.refund().await?;
    print(format, &serde_json::json!({ "refunded_fen": refunded }), |_| {
        format!("{} yuan refunded", yuan(refunded))
    })
}

fn show(reconciled: &Reconciled<'_>) -> String {
    let report = reconciled.report;
    let mut rows = table(&["batch", "sponsor", "budget", "credited", "pending", "refunded", "unissued"]);
    for batch in &report.batches {
        rows.add_row(vec![
            right(batch.batch),
            batch.sponsor.as_str().into(),
            right(yuan(batch.budget_fen)),
            right(yuan(batch.credited.fen)),
            right(yuan(batch.pending.fen)),
            right(yuan(batch.refunded_fen)),
            right(yuan(batch.unissued_fen)),
        ]);
    }
    let totals = &report.totals;
    rows.add_row(vec![
        "all".into(),
        "".into(),
        right(yuan(totals.budget_fen)),
        right(yuan(totals.credited_fen)),
        right(yuan(totals.pending_fen)),
        right(yuan(totals.refunded_fen)),
        right(yuan(totals.unissued_fen)),
    ]);
    let mut text = format!("{rows}\n{} mismatches", totals.mismatches);
    for finding in &report.findings {
        text.push_str(&format!("\n  {finding:?}"));
    }
    if totals.to_release > 0 {
        text.push_str(&format!(
            "\n{} packets that were turned down still count as their users': crediting was interrupted; run it again \
             (--credit)",
            grouped(totals.to_release)
        ));
    }
    if let Some(credited) = reconciled.credited_now {
        text.push_str(&format!("\n{} pending packets credited", grouped(credited)));
    }
    if !report.complete {
        text.push_str("\nnot complete: the queue is not empty yet; repeat when it is");
    }
    text
}
