//! One run: a seed in, a summary out.
//!
//! ```text
//!   safety     faults on, event and clients at work
//!   heal       everything works again; commands set the zones right
//!   liveness   the last slot, everybody goes home, the queue runs empty, reconcile, refund
//!   final scan replicas agree, histories are judged
//! ```
//! Invariant: everything in the summary but the real times follows from the seed.
//!
//! Not here: making processes (main), what is judged how (judge.rs).

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deploy::failure::{Context, Exit, Failure};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use world::mutant::Mutant;

use crate::agree;
use crate::drill::Drill;
use crate::drill::story::Story;
use crate::fabric::platter::EngineKind;
use crate::fabric::rocks::Scratch;
use crate::fabric::time;
use crate::judge::{self, Ending};
use crate::knobs::{Knobs, Purpose, Scenario, stream};
use crate::mutants::Habitat;
use crate::nemesis::{Nemesis, Setting, able};
use crate::oracle::Verdict;
use crate::rehearse::{self, Rehearsal};
use crate::schedule::derive::Mix;
use crate::schedule::{self, Action, Class, Schedule, TicketDamage};
use crate::stage::{NODES, Props, Stage, groups};
use crate::trace;

/// How long after the faults everything may take.
const LIVENESS_MS: u64 = 90_000;
/// In runs without an event: how long after the faults clients go on.
const WORK_AFTER_HEAL_MS: u64 = 4_000;
/// How often it is looked whether the replicas agree.
const LOOK_EVERY_MS: u64 = 100;
/// How often it is looked, while a mistake is hunted, whether something is broken already.
const HUNT_EVERY_MS: u64 = 500;
/// Faults begin no earlier: the cluster has formed its groups.
const FAULTS_FROM_MS: u64 = 1_500;

/// Simulated milliseconds that the run of this process has come to; read by a watchdog.
pub static REACHED_MS: AtomicU64 = AtomicU64::new(0);

/// How the line begins that a run says on its error output when something panics in it.
pub const FIRST_PANIC: &str = "the first panic";

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Play this instead of what the seed derives.
    pub schedule: Option<Schedule>,
    /// Play nothing.
    pub calm: bool,
    /// Play this drill instead of what the seed derives.
    pub drill: Option<Drill>,
    /// Where the drill was read from.
    pub drill_file: Option<PathBuf>,
    /// A mistake to switch on, to see whether it is noticed. The run is one of its habitat, and ends
    /// with the first invariant that is seen to be broken.
    pub mutant: Option<Mutant>,
    /// The habitat of this mistake, without the mistake.
    pub habitat: Option<Mutant>,
    /// These engines instead of those the seed draws.
    pub engine: Option<EngineKind>,
    /// Where RocksDB may write: a directory that is not there yet.
    pub scratch: Option<PathBuf>,
}

/// What came of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// The seed.
    pub seed: u64,
    /// `event` or `queue`.
    pub scenario: String,
    /// `memory` or `rocks`.
    pub engine: String,
    /// Classes of faults that were on.
    pub mix: Vec<String>,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// Real milliseconds.
    pub wall_ms: u64,
    /// Milliseconds of the processor.
    pub cpu_ms: u64,
    /// Simulated seconds for each second of the processor.
    pub speed: f64,
    /// What was asked and answered.
    pub operations: u64,
    /// Faults that really happened.
    pub faults: BTreeMap<String, u64>,
    /// Writes lost in power cuts.
    pub lost_writes: u64,
    /// A verdict each.
    pub invariants: Vec<Verdict>,
    /// Whether all held.
    pub ok: bool,
    /// Hash of the trace.
    pub trace: String,
    /// Lines of the trace.
    pub trace_lines: u64,
    /// The command that plays it again.
    pub replay: String,
    /// Of a drill: what happened when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub story: Option<Box<Story>>,
}

/// Runs a seed on this thread, which must be simulated already (see `fabric::time`). The process
/// should end afterwards: counters of tokio and hyper are the process's.
///
/// # Errors
/// When the run could not begin.
pub fn run(seed: u64, options: &Options) -> Result<Summary, Failure> {
    let started = (real_ms(), cpu_ms());
    if let Some(mutant) = options.mutant {
        world::mutant::arm(mutant).context(Exit::Usage, format!("arming {}", mutant.name()))?;
    }
    let knobs = knobs(seed, options);
    tracing::info!(target: "sim::run", seed, ?knobs);
    let (mix, schedule) = plan(seed, &knobs, options);
    let scratch = match knobs.engine {
        EngineKind::Memory => None,
        EngineKind::Rocks => Some(Scratch::enter(options.scratch.clone().unwrap_or_else(Scratch::place))?),
    };
    let mut stage = Stage::set(seed, &knobs, props(&schedule), scratch.as_ref())?;
    let setting = Setting {
        latency_ms: knobs.latency_ms,
        event: knobs.scenario == Scenario::Event,
        engine: knobs.engine,
        chance: stream(seed, Purpose::Faults, 0),
    };
    let mut nemesis = Nemesis::new(&stage, &schedule, groups(&knobs), setting);
    let hunted = options.mutant.is_some();
    let ending = guarded(|| drive(&mut stage, &knobs, &mut nemesis, hunted));
    let simulated_ms = ms(stage.sim.elapsed());
    let invariants = judge::judge(&stage, &knobs, &ending, nemesis.outages());
    let must = |verdict: &&Verdict| match &options.drill {
        Some(drill) => drill.must_hold.contains(&verdict.id) || verdict.id == "hosts",
        None => true,
    };
    let ok = invariants.iter().filter(must).all(|verdict| verdict.held);
    let faults = nemesis.counts();
    let story = options.drill.as_ref().map(|drill| {
        let run = Rehearsal { seed, end_ms: simulated_ms, faults: &faults, verdicts: &invariants };
        Box::new(rehearse::story(drill, &stage.board, &run, replay(seed, options)))
    });
    for verdict in &invariants {
        tracing::info!(target: "sim::verdict", id = %verdict.id, held = verdict.held, detail = %verdict.detail);
    }
    let operations = operations(&stage);
    let lost_writes = nemesis.lost_writes();
    // Its hosts may be broken: dropping them would run their code outside any host.
    std::mem::forget(stage);
    scratch.iter().for_each(|scratch| scratch.clear());
    let (trace, trace_lines) = trace::end().unwrap_or_else(|error| (error.to_string(), 0));
    let (wall_ms, cpu_ms) = (real_ms() - started.0, cpu_ms() - started.1);
    Ok(Summary {
        seed,
        scenario: format!("{:?}", knobs.scenario).to_lowercase(),
        engine: knobs.engine.to_string(),
        mix: mix.iter().map(ToString::to_string).collect(),
        simulated_ms,
        wall_ms,
        cpu_ms,
        speed: simulated_ms as f64 / cpu_ms.max(1) as f64,
        operations,
        faults,
        lost_writes,
        invariants,
        ok,
        trace,
        trace_lines,
        replay: replay(seed, options),
        story,
    })
}

fn knobs(seed: u64, options: &Options) -> Knobs {
    let mut knobs = match &options.drill {
        Some(drill) => Knobs::of_drill(seed, &drill.setting),
        None => Knobs::derive(seed),
    };
    options.habitat().shape(&mut knobs);
    knobs.engine = options.engine.unwrap_or(knobs.engine);
    knobs
}

impl Options {
    fn habitat(&self) -> Habitat {
        self.mutant.or(self.habitat).map(Habitat::of).unwrap_or_default()
    }
}

/// The summary of a run that a watchdog gave up: a host computes for ever without waiting.
#[must_use]
pub fn stalled(seed: u64, options: &Options) -> Summary {
    let simulated_ms = REACHED_MS.load(Ordering::Relaxed);
    let stands = format!("simulated time stands still at {simulated_ms} ms: a host computes and never waits");
    Summary { simulated_ms, cpu_ms: cpu_ms(), ..unjudged(seed, options, stands) }
}

/// The summary of a run that came to no end of its own, for the reason `why`: no history was judged,
/// and that is a broken run.
#[must_use]
pub fn unjudged(seed: u64, options: &Options, why: String) -> Summary {
    let knobs = knobs(seed, options);
    Summary {
        seed,
        scenario: format!("{:?}", knobs.scenario).to_lowercase(),
        engine: knobs.engine.to_string(),
        mix: Vec::new(),
        simulated_ms: 0,
        wall_ms: 0,
        cpu_ms: 0,
        speed: 0.0,
        operations: 0,
        faults: BTreeMap::new(),
        lost_writes: 0,
        invariants: vec![judge::hosts(&Ending::Broke(why))],
        ok: false,
        trace: String::new(),
        trace_lines: 0,
        replay: replay(seed, options),
        story: None,
    }
}

fn replay(seed: u64, options: &Options) -> String {
    if let Some(drill) = &options.drill_file {
        return format!("hongbao drill replay {} --seed {seed}", drill.display());
    }
    let mut command = format!("hongbao-sim run --seed {seed}");
    if options.calm {
        command.push_str(" --calm");
    }
    if let Some(engine) = options.engine {
        command.push_str(&format!(" --engine {engine}"));
    }
    if options.schedule.is_some() {
        command.push_str(" --schedule FILE");
    }
    for (option, mutant) in [(" --mutant ", options.mutant), (" --habitat ", options.habitat)] {
        if let Some(mutant) = mutant {
            command.push_str(option);
            command.push_str(mutant.name());
        }
    }
    command
}

/// What the schedule wants on stage.
fn props(schedule: &Schedule) -> Props {
    let has = |wanted: fn(&Action) -> bool| schedule.steps.iter().any(|step| wanted(&step.action));
    Props {
        late_build: has(
            |action| matches!(action, Action::Operator { types, .. } if types.contains("--build late")),
        ),
        stale_build: has(|action| {
            matches!(action, Action::DamageTicketFile { damage: TicketDamage::StaleBuild, .. })
        }),
    }
}

fn plan(seed: u64, knobs: &Knobs, options: &Options) -> (Vec<Class>, Schedule) {
    if options.calm {
        return (Vec::new(), Schedule::default());
    }
    if let Some(drill) = &options.drill {
        return (Vec::new(), drill.resolve());
    }
    if let Some(schedule) = &options.schedule {
        return (Vec::new(), schedule.clone());
    }
    let scene = schedule::Scene {
        nodes: NODES.iter().map(|node| node.parse().expect("a node's name")).collect(),
        groups: u32::try_from(groups(knobs).len()).unwrap_or(1),
        ends_ms: knobs.safety_ms,
        slots_ms: knobs.slots_at.map(|slots| slots.starts_ms()).unwrap_or_default(),
    };
    let able: Vec<Class> = able().into_iter().filter(|class| knobs.engine.plays(*class)).collect();
    let mut mix = Mix::draw(seed, &able);
    options.habitat().stir(&mut mix);
    let schedule = schedule::derive::of_mix(seed, &scene, FAULTS_FROM_MS, &mix);
    (mix.intensity.into_keys().collect(), schedule)
}

/// Drives, and makes an ending of a panic.
fn guarded(drive: impl FnOnce() -> Ending) -> Ending {
    let panics = catch_first_panic();
    let driven = catch_unwind(AssertUnwindSafe(drive));
    match (panics.lock().take(), driven) {
        (Some(panic), _) => Ending::Broke(panic),
        (None, Ok(ending)) => ending,
        (None, Err(_)) => Ending::Broke("a panic outside any host".to_owned()),
    }
}

/// Steps the simulation through all phases. Who is hunting ends it with the first broken invariant.
fn drive(stage: &mut Stage, knobs: &Knobs, nemesis: &mut Nemesis, hunted: bool) -> Ending {
    let board = Arc::clone(&stage.board);
    let mut look_at_ms = 0;
    let mut hunt_at_ms = HUNT_EVERY_MS;
    loop {
        let elapsed = stage.sim.elapsed();
        let now_ms = ms(elapsed);
        time::advance(elapsed);
        REACHED_MS.store(now_ms + 1, Ordering::Relaxed);
        nemesis.tick(&mut stage.sim, now_ms);
        if !board.healed() && now_ms >= knobs.safety_ms {
            tracing::info!(target: "sim::run", "the faults are over");
            board.heal();
        }
        if knobs.scenario == Scenario::Queue && now_ms >= knobs.safety_ms + WORK_AFTER_HEAL_MS {
            board.send_home();
        }
        if let Err(error) = stage.sim.step() {
            return Ending::Broke(error.to_string());
        }
        if now_ms < look_at_ms {
            continue;
        }
        look_at_ms = now_ms + LOOK_EVERY_MS;
        if hunted && hunt_at_ms <= now_ms {
            hunt_at_ms = now_ms + HUNT_EVERY_MS;
            if let Some(verdict) = judge::so_far(&board) {
                return Ending::Caught(Box::new(verdict));
            }
        }
        let unfinished = unfinished(stage, knobs, now_ms);
        match unfinished {
            None => return Ending::Complete,
            Some(what) if now_ms > knobs.safety_ms + LIVENESS_MS => return Ending::Stuck(what),
            Some(_) => {}
        }
    }
}

/// What is still missing for the run to end.
fn unfinished(stage: &Stage, knobs: &Knobs, now_ms: u64) -> Option<String> {
    let board = &stage.board;
    if !board.healed() {
        return Some("the faults to end".to_owned());
    }
    if knobs.scenario == Scenario::Event && board.closing.lock().is_none() {
        return Some(board.waiting_for());
    }
    if let Some(what) = judge::still_unseen(board) {
        return Some(what);
    }
    if knobs.scenario == Scenario::Queue && board.queue.lock().1.is_none() {
        return Some("the queue to run empty".to_owned());
    }
    if board.etcd.lock().1.is_none() {
        return Some("the final scan through etcd's API".to_owned());
    }
    if board.kv.lock().1.is_none() {
        return Some("the final scan of the KV".to_owned());
    }
    agree::first_unmet(stage, now_ms.saturating_sub(knobs.safety_ms))
}

fn operations(stage: &Stage) -> u64 {
    let crowd = stage
        .board
        .memory
        .lock()
        .as_ref()
        .map_or(0, |memory| memory.shakes.values().sum::<u64>() + memory.acked.len() as u64);
    stage.board.operations() + crowd
}

/// Remembers the first panic: those after it are its consequences.
fn catch_first_panic() -> Arc<Mutex<Option<String>>> {
    let first: Arc<Mutex<Option<String>>> = Arc::default();
    let seen = Arc::clone(&first);
    std::panic::set_hook(Box::new(move |panic| {
        let mut first = seen.lock();
        if first.is_none() {
            let place = panic.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
            let message = panic.payload_as_str().unwrap_or("no message");
            let panic = format!("panic at {place}: {message}");
            // At once: what is dropped after it may panic again, and that ends the process.
            eprintln!("{FIRST_PANIC}, at {} ms: {panic}", time::elapsed_ms());
            let stack = Backtrace::capture();
            if stack.status() == BacktraceStatus::Captured {
                eprintln!("{stack}");
            }
            *first = Some(panic);
        }
    }));
    first
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The real monotonic clock: asked of the kernel, past libc.
fn real_ms() -> u64 {
    clock_ms(rustix::time::ClockId::Monotonic)
}

/// Milliseconds this process has computed for, on all its threads.
#[must_use]
pub fn cpu_ms() -> u64 {
    clock_ms(rustix::time::ClockId::ProcessCPUTime)
}

fn clock_ms(clock: rustix::time::ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    u64::try_from(now.tv_sec * 1_000 + now.tv_nsec / 1_000_000).unwrap_or(0)
}
