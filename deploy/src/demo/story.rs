//! The course of the demo, step by step.
//!
//! Invariant: each step waits for what it needs to see, never for a guessed time; the only waits by
//! the clock are for slots to begin and end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use kvsvr::api::Kv;
use payment::plan::{BuildOptions, Layout, VerifyOptions};
use queue::api::Queue;
use ticket::control::EventRecord;
use ticket::id::UserId;
use world::disk::RealDisk;
use world::net::Net;
use world::{Clock, UnixMs, ZoneId};

use super::crowd::{Crowd, CrowdOptions, Memory};
use super::ledger::Books;
use super::probe::{Probes, Trace, Witnesses};
use super::report::Report;
use super::stage::Stage;
use super::timeline::Timeline;
use super::verdicts::{self, Evidence};
use super::watch::{Issued, Watch, at_least_opened};
use super::{DemoArgs, Fault};
use crate::cli::money::Money;
use crate::cli::target::Connected;
use crate::cli::{plan, token, zone};
use crate::clients;
use crate::dev::{self, layout::DevDir};
use crate::distribute::{BuildDir, Schedule};
use crate::failure::{Exit, Failure};
use crate::output::{grouped, yuan};
use crate::serve::api::{EventReport, ZonesReport};

/// Time between activation and the first slot.
const FIRST_SLOT_AFTER: Duration = Duration::from_millis(2_500);
/// How long an operator takes to fail a lost zone over.
const OPERATOR_REACTS_AFTER: Duration = Duration::from_millis(1_000);
/// How long openings may take to be settled after the last slot.
const DRAINED_WITHIN: Duration = Duration::from_secs(60);
/// How long a restarted zone may take until it serves.
const SERVING_WITHIN: Duration = Duration::from_secs(30);
/// How often something that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Users acting at the same time, for each node.
const WORKERS_PER_NODE: usize = 32;
/// Session tokens last for the whole demo.
const TOKEN_FOR: Duration = Duration::from_secs(24 * 3_600);

/// What the demo itself needs of the outside world.
pub struct Doors {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Network.
    pub net: Arc<dyn Net>,
}

/// What is known once the cluster runs.
struct Scene<'a> {
    args: &'a DemoArgs,
    stage: &'a Stage,
    doors: Doors,
    timeline: Timeline,
    connected: Connected,
    build: BuildDir,
    event: EventRecord,
    kv: Arc<dyn Kv>,
    queue: Arc<dyn Queue>,
}

/// What the fault did.
#[derive(Default)]
struct Loss {
    zone: Option<ZoneId>,
    killed_at: Option<UnixMs>,
}

/// Plays the event and answers the report.
///
/// # Errors
/// Whatever a step failed with.
pub async fn tell(args: &DemoArgs, stage: &Stage, doors: Doors) -> Result<Report, Failure> {
    let timeline = Timeline::start(Arc::clone(&doors.clock));
    let build = make_build(args, stage, &timeline)?;
    let mut scene = raise_cluster(args, stage, doors, timeline, build).await?;
    let money = Money::new(Arc::clone(&scene.kv), Arc::clone(&scene.queue), &scene.build, &scene.doors.clock);
    let loaded = money.preload_instant().await?;
    scene.timeline.note(format!("{} large amounts loaded for instant credit", grouped(loaded)));
    activate(&mut scene).await?;

    let witnesses = Witnesses::default();
    let partitions = scene.connected.cluster.queue.partitions;
    let probes = Probes::start(&scene.kv, (&scene.queue, partitions), &witnesses, &scene.doors.clock);
    let watch = Watch::start(&scene.connected.cluster, &scene.doors.net);
    let crowd = gather_crowd(&scene, &witnesses)?;
    let loss = play_slots(&scene, &crowd).await?;
    let memory = crowd.finish().await;
    let traces = probes.finish().await;
    scene.timeline.note(format!(
        "the crowd goes home: {} shakes, {} opens acknowledged",
        grouped(memory.shakes.values().sum()),
        grouped(memory.acked.len() as u64)
    ));
    drain_queue(&scene).await?;
    let nodes = watch.finish().await;
    settle_up(scene, &money, (memory, traces, nodes), &loss).await
}

fn make_build(args: &DemoArgs, stage: &Stage, timeline: &Timeline) -> Result<BuildDir, Failure> {
    let summary = plan::build(&BuildOptions {
        budget: stage.budget.clone(),
        script: stage.script.clone(),
        scheme: args.scheme.clone(),
        out: stage.build_dir(),
        layout: Layout::default(),
        jobs: 0,
        seed: None,
    })?;
    timeline.note(format!(
        "{} packets, {} yuan, in {} files under {} keys, built in {:.2} s ({:.1} million records a second)",
        grouped(summary.records),
        yuan(summary.total_fen.get()),
        summary.files,
        summary.keys,
        summary.seconds,
        summary.records as f64 / summary.seconds.max(1e-9) / 1e6
    ));
    let verified = plan::verify(&stage.build_dir(), VerifyOptions { full: true, jobs: 0 })?;
    timeline.note(format!("every record verified against the budget in {:.2} s", verified.seconds));
    BuildDir::load(Arc::new(RealDisk), &stage.build_dir())
}

async fn raise_cluster<'a>(
    args: &'a DemoArgs,
    stage: &'a Stage,
    doors: Doors,
    timeline: Timeline,
    build: BuildDir,
) -> Result<Scene<'a>, Failure> {
    let status = dev::up(&stage.cluster_dir(), Some(stage.base_port)).await?;
    let pids: Vec<String> =
        status.nodes.iter().map(|n| format!("{} {}", n.id, n.pid.unwrap_or_default())).collect();
    timeline.note(format!("three zones serve (processes {})", pids.join(", ")));
    let cluster = DevDir::load(&stage.cluster_dir())?.cluster()?;
    let kv: Arc<dyn Kv> = Arc::new(clients::kv(&cluster, &doors.net, None));
    let queue: Arc<dyn Queue> = Arc::new(clients::queue(&cluster, &doors.net, None)?);
    let connected = Connected::to(cluster, Arc::clone(&doors.net), &RealDisk)?;
    build.install_secrets(&connected)?;
    let pushed = build.push(&connected, |_| {}).await?;
    let copies: usize = pushed.iter().map(|node| node.verified).sum();
    timeline.note(format!(
        "{} files at home and in both other zones: {copies} copies verified",
        build.roster.files.len()
    ));
    let event = build.event(Schedule::AsPlanned);
    Ok(Scene { args, stage, doors, timeline, connected, build, event, kv, queue })
}

async fn activate(scene: &mut Scene<'_>) -> Result<(), Failure> {
    let schedule = Schedule::Compressed {
        first: scene.doors.clock.now().plus(FIRST_SLOT_AFTER),
        slot: Duration::from_secs(scene.args.slot),
        gap: Duration::from_secs(scene.args.gap),
    };
    let report = scene.build.activate(&scene.connected, schedule).await?;
    scene.event =
        report.event.ok_or_else(|| Failure::new(Exit::Error, "the event is not active after all"))?;
    scene.timeline.note(format!("event {} is active: {} slots", scene.event.event, scene.event.slots.len()));
    Ok(())
}

fn gather_crowd(scene: &Scene<'_>, witnesses: &Witnesses) -> Result<Crowd, Failure> {
    let key = token::session_key(&DevDir::load(&scene.stage.cluster_dir())?.session_key_file())?;
    let expires = scene.doors.clock.now().plus(TOKEN_FOR);
    let tokens =
        (1..=scene.args.users).map(|user| ticket::token::issue(&key, UserId(user), expires)).collect();
    let edges: Vec<String> = scene.connected.cluster.nodes.iter().map(|node| node.edge.clone()).collect();
    let options = CrowdOptions {
        greedy_one_in: 0,
        first_user: 1,
        users: scene.args.users,
        workers: edges.len() * WORKERS_PER_NODE,
        shakes_per_second: scene.args.rate,
        edges,
        seed: scene.args.seed,
        partitions: scene.connected.cluster.queue.partitions,
        witnesses: Arc::clone(witnesses),
        trouble: Arc::default(),
    };
    scene.timeline.note(format!("{} users gather at {} nodes", grouped(options.users), options.edges.len()));
    Ok(Crowd::start(options, tokens, &scene.doors.net, &scene.doors.clock))
}

/// Waits through all slots; the fault happens in the middle one.
async fn play_slots(scene: &Scene<'_>, crowd: &Crowd) -> Result<Loss, Failure> {
    let mut loss = Loss::default();
    let slots = &scene.event.slots;
    let faulty = slots.len() / 2;
    let mut restarted = None;
    for (at, slot) in slots.iter().enumerate() {
        wait_until(scene, crowd, slot.start_ms).await;
        scene.timeline.note(format!("slot {} starts", slot.id));
        if at == faulty && scene.args.fault == Fault::ZoneKill {
            let half = slot.end_ms.since(slot.start_ms) / 2;
            wait_until(scene, crowd, slot.start_ms.plus(half)).await;
            loss = lose_zone(scene).await?;
        }
        if at == faulty + 1
            && let Some(zone) = loss.zone
        {
            restarted = Some(bring_back(scene, crowd, zone).await?);
        }
        wait_until(scene, crowd, slot.end_ms).await;
    }
    if let (Some(zone), None) = (loss.zone, restarted) {
        bring_back(scene, crowd, zone).await?;
    }
    Ok(loss)
}

async fn lose_zone(scene: &Scene<'_>) -> Result<Loss, Failure> {
    let victim = &scene.connected.cluster.nodes[scene.connected.cluster.nodes.len() / 2];
    dev::kill_node(&scene.stage.cluster_dir(), victim.id)?;
    let killed_at = scene.doors.clock.now();
    let zone = victim.id.zone();
    scene
        .timeline
        .note(format!("zone {zone} is gone: {} ended with SIGKILL in the middle of the slot", victim.id));
    tokio::time::sleep(OPERATOR_REACTS_AFTER).await;
    let outcome = zone::request(&scene.connected, zone, "failover", "the demo killed it", false).await?;
    scene.timeline.note(format!(
        "zone {zone} failed over, epoch {}: {} packets in {} claimed files are frozen",
        outcome.epoch,
        grouped(outcome.frozen_packets),
        outcome.frozen_files
    ));
    Ok(Loss { zone: Some(zone), killed_at: Some(killed_at) })
}

/// Starts the lost zone again and gives it its files back.
async fn bring_back(scene: &Scene<'_>, crowd: &Crowd, zone: ZoneId) -> Result<(), Failure> {
    let nodes = scene.connected.cluster.nodes.iter().filter(|node| node.id.zone() == zone);
    for node in nodes {
        dev::start_node(&scene.stage.cluster_dir(), node.id)?;
        let give_up = scene.doors.clock.uptime() + SERVING_WITHIN;
        while !dev::serves(&scene.doors.net, &node.admin).await {
            if scene.doors.clock.uptime() > give_up {
                let message = format!("{} does not serve {SERVING_WITHIN:?} after its restart", node.id);
                return Err(Failure::new(Exit::Unavailable, message));
            }
            show_progress(scene, crowd);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    scene.timeline.note(format!("zone {zone} is back: restarted from its disk, caught up, serves"));
    let outcome = zone::request(&scene.connected, zone, "restore", "the demo restarted it", false).await?;
    let from = outcome.from_slot.unwrap_or_else(|| "no further slot".to_owned());
    scene.timeline.note(format!("zone {zone} restored, epoch {}: issues again from {from}", outcome.epoch));
    Ok(())
}

async fn wait_until(scene: &Scene<'_>, crowd: &Crowd, moment: UnixMs) {
    loop {
        let left = moment.since(scene.doors.clock.now());
        if left.is_zero() {
            return;
        }
        show_progress(scene, crowd);
        tokio::time::sleep(left.min(LOOK_EVERY)).await;
    }
}

fn show_progress(scene: &Scene<'_>, crowd: &Crowd) {
    let (Some(first), Some(last)) = (scene.event.slots.first(), scene.event.slots.last()) else { return };
    let whole = last.end_ms.since(first.start_ms).as_secs_f64();
    let done = scene.doors.clock.now().since(first.start_ms).as_secs_f64();
    let shakes = grouped(crowd.progress.shakes.load(Ordering::Relaxed));
    let opens = grouped(crowd.progress.opens.load(Ordering::Relaxed));
    scene.timeline.progress(done / whole.max(1.0), format!("{shakes} shakes, {opens} opens"));
}

async fn drain_queue(scene: &Scene<'_>) -> Result<(), Failure> {
    let give_up = scene.doors.clock.uptime() + DRAINED_WITHIN;
    loop {
        let stats = scene.queue.stats().await?;
        let waiting = stats.ready + stats.in_flight + stats.delayed;
        if waiting == 0 {
            scene.timeline.note(format!("the queue is empty: {} openings settled", grouped(stats.acked)));
            return Ok(());
        }
        if scene.doors.clock.uptime() > give_up {
            let message = format!("{waiting} openings are not settled after {DRAINED_WITHIN:?}");
            return Err(Failure::new(Exit::Unavailable, message));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Reconcile, credit, close, refund; then everything is compared with everything.
async fn settle_up(
    scene: Scene<'_>,
    money: &Money,
    (memory, traces, said): (Memory, Vec<Trace>, Issued),
    loss: &Loss,
) -> Result<Report, Failure> {
    let before = money.reconcile().await?;
    scene.timeline.note(format!(
        "reconciled: {} yuan credited, {} pending, {} mismatches",
        yuan(before.totals.credited_fen),
        yuan(before.totals.pending_fen),
        before.totals.mismatches
    ));
    let credited = money.credit_pending().await?;
    scene.timeline.note(format!("{} pending packets match the plan and are credited", grouped(credited)));
    let _: EventReport =
        scene.connected.call_any(|_| false, Method::POST, "/v1/event/close", Bytes::new()).await?;
    let refunded = money.refund().await?;
    scene.timeline.note(format!("event closed; {} yuan refunded to the sponsors", yuan(refunded)));
    let after = money.reconcile().await?;
    scene.timeline.note(format!("reconciled again: {} mismatches", after.totals.mismatches));
    let books = Books::read(&*scene.kv, &scene.build.manifest).await?;
    let event: EventReport =
        scene.connected.call_any(|_| false, Method::GET, "/v1/event", Bytes::new()).await?;
    let zones: ZonesReport =
        scene.connected.call_any(|_| false, Method::GET, "/v1/zones", Bytes::new()).await?;
    let seconds = scene.timeline.elapsed().as_secs_f64();
    let opened = books.rows.values().map(|row| (row.node, row.slot, row.file));
    let nodes = at_least_opened(said, opened);
    let evidence = Evidence {
        manifest: &scene.build.manifest,
        event: &event,
        zones: &zones,
        nodes: &nodes,
        before: &before,
        after: &after,
        books: &books,
        memory: &memory,
        traces: &traces,
        zone_failed: loss.zone,
        killed_at: loss.killed_at,
        seconds,
    };
    let mut report = verdicts::judge(&evidence);
    report.timeline = scene.timeline.finish();
    Ok(report)
}
