//! The loop behind an access node: reads the store, claims, loads, freezes, retires.
//!
//! ```text
//!   every tick:  view (or the last good one)
//!                build: roster, seal key, boot epoch          once per build
//!                own claims not on the shelf: resume          after a restart
//!                claims that are due: prepare, claim, place
//!                frozen, ended, superseded: close             exact count written
//!                offer and board: swapped whole
//! ```
//! Invariant: a file is on the shelf only if the store showed a claim naming this node and this
//! incarnation, it was not frozen when it was put there, and its cursor was loaded from this disk.
//!
//! Not here: decisions about claiming (see `claim`) and what a file is made of (see `stockroom`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use kvsvr::api::Kv;
use ticket::control::{ClaimRecord, EventState};
use ticket::id::{BuildId, FileNo, SlotNo};
use ticket::manifest::FileEntry;
use tokio::sync::{Notify, watch};
use world::disk::Disk;
use world::{Clock, UnixMs};

use crate::blocking::off_the_path;
use crate::boot::take_epoch;
use crate::claim::{ClaimIntent, Situation, due, in_window};
use crate::claimer::{Claimed, claim};
use crate::desk::{Desk, Offer};
use crate::history::HistorySealer;
use crate::incarnation::DiskIdentity;
use crate::node::NodeConfig;
use crate::rules::Terms;
use crate::shelf::ShelfFile;
use crate::status::{BoardLine, FileState, FileStatus};
use crate::stockroom::{LoadedBuild, Stockroom};
use crate::view::View;

type Key = (SlotNo, FileNo);

/// What the driver shows to `status`.
#[derive(Clone, Default)]
pub struct Board {
    /// The incarnation of the disk.
    pub incarnation: String,
    /// The epoch in use.
    pub boot_epoch: Option<u32>,
    /// Whether a later start was seen.
    pub superseded: bool,
    /// The event.
    pub event: Option<String>,
    /// Its build.
    pub build: Option<BuildId>,
    /// Uptime at the last good reading of the store.
    pub viewed_at: Option<Duration>,
    /// Files, in order.
    pub lines: Vec<BoardLine>,
    /// Sentences about what is wrong.
    pub problems: Vec<String>,
}

/// A file on the shelf, or what is left to say about one that was.
enum Placed {
    Open(Arc<ShelfFile>),
    Closed { state: FileState, issued: u32, resumed_at: u32, reserved: u32 },
}

impl Placed {
    fn open(&self) -> Option<&Arc<ShelfFile>> {
        match self {
            Placed::Open(file) => Some(file),
            Placed::Closed { .. } => None,
        }
    }
}

/// The build in use, and the epoch its tickets are sealed under.
struct Serving {
    build: LoadedBuild,
    boot_epoch: u32,
}

/// The loop's state.
pub struct Driver {
    config: NodeConfig,
    kv: Arc<dyn Kv>,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    desk: Arc<Desk>,
    board: Arc<ArcSwap<Board>>,
    identity: DiskIdentity,
    stockroom: Stockroom,
    view: View,
    viewed_at: Option<Duration>,
    serving: Option<Serving>,
    placed: BTreeMap<Key, Placed>,
    /// Why a file is not served, by file; kept until it is.
    faults: BTreeMap<Key, String>,
    superseded: bool,
    problems: Vec<String>,
}

impl Driver {
    /// A driver that has read nothing yet.
    #[must_use]
    pub fn new(
        config: NodeConfig,
        (kv, disk, clock): (Arc<dyn Kv>, Arc<dyn Disk>, Arc<dyn Clock>),
        identity: DiskIdentity,
        (desk, board, keeper): (Arc<Desk>, Arc<ArcSwap<Board>>, Arc<Notify>),
    ) -> Driver {
        let stockroom = Stockroom::new(&config, Arc::clone(&disk), keeper);
        Driver {
            config,
            kv,
            disk,
            clock,
            desk,
            board,
            identity,
            stockroom,
            view: View::default(),
            viewed_at: None,
            serving: None,
            placed: BTreeMap::new(),
            faults: BTreeMap::new(),
            superseded: false,
            problems: Vec::new(),
        }
    }

    /// Ticks until told to stop, then closes everything.
    pub async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                biased;
                _ = stopped.changed() => break,
                () = self.tick() => {}
            }
            tokio::select! {
                biased;
                _ = stopped.changed() => break,
                () = tokio::time::sleep(self.config.poll) => {}
            }
        }
        self.desk.set_offer(None);
        let keys: Vec<Key> = self.placed.keys().copied().collect();
        for key in keys {
            self.close(key, FileState::Ended);
        }
        // The board only: the desk stays closed.
        self.board.store(Arc::new(self.new_board()));
    }

    async fn tick(&mut self) {
        let mut problems = Vec::new();
        let now = self.clock.now();
        match self.view.refreshed(&*self.kv, self.config.node, self.config.timing, now).await {
            Ok(view) => {
                self.view = view;
                self.viewed_at = Some(self.clock.uptime());
                problems.extend(self.view.rules_fault.clone());
            }
            Err(error) => problems.push(format!("the store cannot be read: {error}")),
        }
        if let Err(problem) = self.take_up_build().await {
            problems.push(problem);
        }
        self.watch_for_a_later_start();
        self.retire();
        if !self.superseded {
            self.resume();
            problems.extend(self.claim_due().await);
        }
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            tracing::warn!(node = %self.config.node, "{problem}");
        }
        self.problems = problems;
        self.publish();
    }

    /// Loads what the event's build needs, under a boot epoch of its own.
    async fn take_up_build(&mut self) -> Result<(), String> {
        let Some(event) = self.view.event.as_ref().map(|seen| &seen.record) else { return Ok(()) };
        let current = |serving: &Serving| serving.build.is_of(event);
        if self.serving.as_ref().is_some_and(current) {
            return Ok(());
        }
        let build = off_the_path(|| self.stockroom.load_build(event)).map_err(|error| error.to_string())?;
        let epoch = take_epoch(&*self.kv, &*self.disk, &mut self.identity, self.config.node).await;
        let boot_epoch = epoch.map_err(|error| error.to_string())?;
        let build = build.with_epoch(self.config.node, boot_epoch);
        let keys: Vec<Key> = self.placed.keys().copied().collect();
        for key in keys {
            self.close(key, FileState::Ended);
        }
        self.placed.clear();
        self.faults.clear();
        self.stockroom.serve(build.roster.build);
        self.serving = Some(Serving { build, boot_epoch });
        Ok(())
    }

    fn watch_for_a_later_start(&mut self) {
        let Some(serving) = &self.serving else { return };
        let seen = self.view.boot.as_ref().map_or(0, |boot| boot.boot_epoch);
        if serving.boot_epoch < seen && !self.superseded {
            tracing::error!(node = %self.config.node, ours = serving.boot_epoch, seen, "a later start of this node runs");
            self.superseded = true;
        }
    }

    /// Closes what must not be issued any more.
    fn retire(&mut self) {
        let now = self.clock.now();
        let mut closing = Vec::new();
        for key in self.placed.keys() {
            if self.view.frozen.contains(key) {
                closing.push((*key, FileState::Frozen));
            } else if self.superseded || self.slot_is_over(key.0, now) {
                closing.push((*key, FileState::Ended));
            }
        }
        for (key, state) in closing {
            self.close(key, state);
        }
    }

    fn slot_is_over(&self, slot: SlotNo, now: UnixMs) -> bool {
        let Some(event) = self.view.event.as_ref().map(|seen| &seen.record) else { return false };
        let window = event.slots.iter().find(|window| window.slot == slot);
        event.state == EventState::Closed || window.is_none_or(|window| window.end_ms <= now)
    }

    fn close(&mut self, key: Key, state: FileState) {
        let Some(Placed::Open(file)) = self.placed.get(&key) else { return };
        let file = Arc::clone(file);
        match off_the_path(|| file.close()) {
            Ok(issued) => tracing::info!(slot = %key.0, file = %key.1, issued, ?state, "a file was closed"),
            Err(error) => self.note_fault(key, error.to_string()),
        }
        assert!(file.is_closed(), "a closed file still issues");
        let (issued, resumed_at, reserved) = (file.position(), file.resumed_at(), file.reserved());
        self.placed.insert(key, Placed::Closed { state, issued, resumed_at, reserved });
    }

    /// Puts claims of this disk back on the shelf.
    fn resume(&mut self) {
        let now = self.clock.now();
        let incarnation = self.identity.incarnation().to_string();
        let ours = |claim: &ClaimRecord| claim.node == self.config.node && claim.incarnation == incarnation;
        let missing = |key: &Key| !self.placed.contains_key(key) && !self.view.frozen.contains(key);
        let claims = self.view.claims.iter().filter(|(key, claim)| ours(claim) && missing(key));
        let keys: Vec<Key> =
            claims.map(|(key, _)| *key).filter(|key| !self.slot_is_over(key.0, now)).collect();
        for key in keys {
            if let Some(entry) = self.entry(key) {
                self.place(&entry);
            }
        }
    }

    /// Makes the claims that are due; stops at the first doubt, for the store is then in trouble.
    async fn claim_due(&mut self) -> Option<String> {
        for intent in self.intents() {
            let key = (intent.slot, intent.file);
            let Some(entry) = self.entry(key) else { continue };
            let incarnation = self.identity.incarnation();
            if let Err(error) = off_the_path(|| self.stockroom.prepare(&entry, incarnation)) {
                self.note_fault(key, error.to_string());
                continue;
            }
            match claim(&*self.kv, &intent).await {
                Claimed::Mine => {
                    tracing::info!(slot = %key.0, file = %key.1, node = %self.config.node, "claimed");
                    self.view.claims.insert(key, intent.record);
                    self.place(&entry);
                }
                Claimed::Theirs(claim) => {
                    self.view.claims.insert(key, claim);
                    self.stockroom.drop_prepared(key);
                }
                Claimed::Fenced => {}
                Claimed::Doubt(reason) => {
                    return Some(format!(
                        "file {} of slot {} may or may not be claimed: {reason}",
                        key.1, key.0
                    ));
                }
            }
        }
        None
    }

    fn intents(&self) -> Vec<ClaimIntent> {
        let (Some(serving), Some(event)) = (self.current(), &self.view.event) else { return Vec::new() };
        let incarnation = self.identity.incarnation().to_string();
        let shelved = self.placed.keys().copied().collect();
        due(&Situation {
            node: self.config.node,
            incarnation: &incarnation,
            event,
            zones: &self.view.zones,
            holdings: &serving.build.holdings,
            claims: &self.view.claims,
            shelved: &shelved,
            timing: self.config.timing,
            now: self.clock.now(),
        })
    }

    /// What is served, if it is what the event issues from.
    fn current(&self) -> Option<&Serving> {
        let event = &self.view.event.as_ref()?.record;
        self.serving.as_ref().filter(|serving| serving.build.is_of(event))
    }

    fn entry(&self, (slot, file): Key) -> Option<FileEntry> {
        let serving = self.current()?;
        serving.build.holdings.of(slot).iter().find(|entry| entry.no == file).cloned()
    }

    fn place(&mut self, entry: &FileEntry) {
        let key = (entry.slot, entry.no);
        assert!(!self.placed.contains_key(&key), "a file was put on the shelf twice");
        let incarnation = self.identity.incarnation();
        match off_the_path(|| self.stockroom.place(entry, incarnation)) {
            Ok(file) => {
                self.faults.remove(&key);
                self.placed.insert(key, Placed::Open(Arc::new(file)));
            }
            Err(error) => self.note_fault(key, error.to_string()),
        }
    }

    fn note_fault(&mut self, key: Key, fault: String) {
        if self.faults.get(&key) != Some(&fault) {
            tracing::error!(slot = %key.0, file = %key.1, "{fault}");
            self.faults.insert(key, fault);
        }
    }

    /// Swaps the offer and the board.
    fn publish(&self) {
        let offer = self.offer();
        self.board.store(Arc::new(self.new_board()));
        self.desk.set_offer(offer.map(Arc::new));
    }

    fn offer(&self) -> Option<Offer> {
        let serving = self.current()?;
        let event = &self.view.event.as_ref()?.record;
        if self.superseded {
            return None;
        }
        let rules = self.view.rules.as_ref().unwrap_or(&self.config.rules);
        Some(Offer {
            event: Arc::new(event.clone()),
            terms: Arc::new(Terms::new(rules, &serving.build.roster)),
            files: self.placed.values().filter_map(Placed::open).cloned().collect(),
            sealer: serving.build.sealer(),
            histories: HistorySealer::new(&self.config.history_key, &event.event, event.build),
        })
    }

    fn new_board(&self) -> Board {
        Board {
            incarnation: self.identity.incarnation().to_string(),
            boot_epoch: self.serving.as_ref().map(|serving| serving.boot_epoch),
            superseded: self.superseded,
            event: self.view.event.as_ref().map(|seen| seen.record.event.clone()),
            build: self.view.event.as_ref().map(|seen| seen.record.build),
            viewed_at: self.viewed_at,
            lines: self.lines(),
            problems: self.problems.clone(),
        }
    }

    fn lines(&self) -> Vec<BoardLine> {
        let Some(serving) = self.current() else { return Vec::new() };
        let now = self.clock.now();
        let near = self.view.event.iter().flat_map(|seen| &seen.record.slots);
        let near = near.filter(|slot| in_window(slot, self.config.timing, now));
        let near = near.flat_map(|slot| serving.build.holdings.of(slot.slot));
        let mut lines: BTreeMap<Key, BoardLine> =
            near.map(|entry| ((entry.slot, entry.no), self.line(entry))).collect();
        for key in self.placed.keys() {
            if let Some(entry) = self.entry(*key) {
                lines.entry(*key).or_insert_with(|| self.line(&entry));
            }
        }
        lines.into_values().collect()
    }

    fn line(&self, entry: &FileEntry) -> BoardLine {
        let key = (entry.slot, entry.no);
        let claim = self.view.claims.get(&key);
        let placed = self.placed.get(&key);
        let fault = self.faults.get(&key).cloned();
        let ours = claim.is_some_and(|claim| claim.node == self.config.node);
        let state = match placed {
            Some(Placed::Open(_)) => FileState::Issuing,
            Some(Placed::Closed { state, .. }) => *state,
            None if ours && self.view.frozen.contains(&key) => FileState::Frozen,
            None if fault.is_some() => FileState::Faulty,
            None if claim.is_some() => FileState::Elsewhere,
            None => FileState::Waiting,
        };
        let (issued, resumed_at, reserved) = match placed {
            Some(Placed::Closed { issued, resumed_at, reserved, .. }) => (*issued, *resumed_at, *reserved),
            _ => (0, 0, 0),
        };
        let status = FileStatus {
            slot: entry.slot,
            file: entry.no,
            home: entry.home,
            claimed_by: claim.map(|claim| claim.node).or(placed.map(|_| self.config.node)),
            state,
            count: entry.count,
            issued,
            resumed_at,
            reserved,
            remaining: entry.count - issued,
            fault,
        };
        BoardLine { status, live: placed.and_then(Placed::open).cloned() }
    }
}
