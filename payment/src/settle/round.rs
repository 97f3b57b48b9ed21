//! One round over a batch: read, decide, write the users' units, decide again, write the packets'
//! units. See settle.rs for the drawing.
//!
//! Invariant: a message is marked finished only by what was read as settled in this round or by a
//! unit that answered `Done` (or, for insertions of evidence, conflicted with the same evidence).
//!
//! Not here: how many rounds, and acks (settle.rs).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvsvr::api::{DataKey, DataOp, Kv, KvError, Unit, UnitOutcome};
use queue::api::Delivery;
use ticket::id::{BuildId, PacketId, UserId};
use ticket::money::Fen;
use ticket::open::OpenKeyring;
use ticket::opening::Opening;

use super::check::{Fault, check};
use super::counters::Counters;
use super::decide::{Rules, Seen, Step, decide};
use crate::claims::ClaimDoc;
use crate::keyspace;
use crate::ledger::{self, Transfer};
use crate::row::{Row, RowState, StoredError};

/// A leased message on its way.
struct Work {
    receipt: Bytes,
    body: Bytes,
    /// The opening and what is wrong with it; `None` for a body that is no opening.
    opening: Option<(Opening, Result<(), Fault>)>,
    finished: bool,
}

/// The messages of one lease.
pub(super) struct Batch {
    work: Vec<Work>,
}

impl Batch {
    pub(super) fn new(deliveries: Vec<Delivery>, keys: &OpenKeyring, build: BuildId) -> Batch {
        let work = deliveries.into_iter().map(|delivery| {
            let opening = Opening::decode(&delivery.body).ok();
            let opening = opening.map(|opening| {
                let checked = check(keys, build, &opening);
                (opening, checked)
            });
            Work { receipt: delivery.receipt, body: delivery.body, opening, finished: false }
        });
        Batch { work: work.collect() }
    }

    pub(super) fn finished(&self) -> bool {
        self.work.iter().all(|work| work.finished)
    }

    /// Receipts of what is finished, and of what is not.
    pub(super) fn receipts(self) -> (Vec<Bytes>, Vec<Bytes>) {
        let (done, left): (Vec<Work>, Vec<Work>) = self.work.into_iter().partition(|work| work.finished);
        let receipts = |work: Vec<Work>| work.into_iter().map(|work| work.receipt).collect();
        (receipts(done), receipts(left))
    }

    /// The unfinished openings, at most one per packet: a second one waits for the next round.
    fn open(&self) -> Vec<usize> {
        let mut packets = BTreeSet::new();
        let fresh = |place: &usize| match &self.work[*place] {
            Work { finished: false, opening: Some((opening, _)), .. } => packets.insert(opening.packet),
            _ => false,
        };
        (0..self.work.len()).filter(fresh).collect()
    }

    fn opening(&self, place: usize) -> (&Opening, Result<(), Fault>) {
        let (opening, checked) = self.work[place].opening.as_ref().expect("open() names openings only");
        (opening, *checked)
    }
}

/// A user's claim document in this round.
struct UserState {
    found: Option<Bytes>,
    doc: ClaimDoc,
    /// What the user's unit does beside the document, packet by packet.
    wallet: Vec<DataOp>,
    /// Whether `doc` is what the KV holds.
    durable: bool,
}

/// What was read for a round.
struct View {
    seen: BTreeMap<PacketId, Seen>,
    users: BTreeMap<UserId, UserState>,
}

/// What a round works with.
pub(super) struct Round<'a> {
    pub(super) kv: &'a dyn Kv,
    pub(super) build: BuildId,
    pub(super) rules: &'a Rules,
    pub(super) counters: &'a Counters,
}

impl Round<'_> {
    /// Takes every unfinished message as far as it goes.
    pub(super) async fn run(&self, batch: &mut Batch) -> Result<(), KvError> {
        self.keep_unread(batch).await;
        let open = batch.open();
        if open.is_empty() {
            return Ok(());
        }
        let mut view = self.read(batch, &open).await?;
        self.write_users(batch, &open, &mut view).await;
        self.write_packets(batch, &open, &view).await;
        Ok(())
    }

    /// Keeps bodies that are no openings as evidence, under their digest.
    async fn keep_unread(&self, batch: &mut Batch) {
        let places: Vec<usize> = (0..batch.work.len())
            .filter(|place| !batch.work[*place].finished && batch.work[*place].opening.is_none())
            .collect();
        if places.is_empty() {
            return;
        }
        let unit = |place: &usize| {
            let body = batch.work[*place].body.clone();
            let digest = *blake3::hash(&body).as_bytes().first_chunk::<16>().expect("a digest has 32 bytes");
            let DataKey { partition, key } = keyspace::unread(digest);
            Unit { partition, ops: vec![DataOp::InsertIfAbsent { key, value: body }] }
        };
        let outcomes = self.kv.write(places.iter().map(unit).collect()).await;
        assert!(outcomes.len() == places.len(), "the KV answers every unit");
        for (place, outcome) in places.into_iter().zip(outcomes) {
            let work = &mut batch.work[place];
            work.finished = match outcome {
                Ok(UnitOutcome::Done) => true,
                Ok(UnitOutcome::Conflict { found, .. }) => found.as_ref() == Some(&work.body),
                Err(_) => false,
            };
            if work.finished {
                self.counters.unread();
                tracing::error!(
                    bytes = work.body.len(),
                    "a message of the queue is no opening; kept as evidence"
                );
            }
        }
    }

    async fn read(&self, batch: &Batch, open: &[usize]) -> Result<View, KvError> {
        let users: BTreeSet<UserId> = open.iter().map(|place| batch.opening(*place).0.user).collect();
        let tag = self.build.tag();
        let mut keys = vec![keyspace::closing(tag)];
        keys.extend(users.iter().map(|user| keyspace::claims(tag, *user)));
        for place in open {
            let packet = batch.opening(*place).0.packet;
            keys.extend([keyspace::row(packet), keyspace::instant(packet)]);
        }
        let asked = keys.len();
        let values = self.kv.read(keys).await?;
        assert!(values.len() == asked, "the KV answers every key");
        let mut values = values.into_iter();
        let closing = values.next().flatten().is_some();
        let mut view = View { seen: BTreeMap::new(), users: BTreeMap::new() };
        for (user, found) in users.into_iter().zip(values.by_ref()) {
            match found.as_deref().map_or(Ok(ClaimDoc::default()), |bytes| ClaimDoc::decode(user, bytes)) {
                Ok(doc) => {
                    let state = UserState { found, doc, wallet: Vec::new(), durable: true };
                    view.users.insert(user, state);
                }
                // Left out of the view, its openings are left alone: people must look at this.
                Err(error) => tracing::error!(%error, "settling is stuck"),
            }
        }
        for place in open {
            let packet = batch.opening(*place).0.packet;
            let (row, instant) = (values.next().flatten(), values.next().flatten());
            match seen(packet, row.as_deref(), instant.as_deref(), closing) {
                Ok(seen) => {
                    view.seen.insert(packet, seen);
                }
                Err(error) => tracing::error!(%error, "settling is stuck"),
            }
        }
        Ok(view)
    }

    /// Reserves and releases claims: one unit per user that needs it.
    async fn write_users(&self, batch: &Batch, open: &[usize], view: &mut View) {
        for place in open {
            let (opening, checked) = batch.opening(*place);
            let (Some(seen), Some(user)) =
                (view.seen.get(&opening.packet), view.users.get_mut(&opening.user))
            else {
                continue;
            };
            let wallet = keyspace::wallet(opening.user, opening.packet).key;
            match decide(opening, checked, seen, &user.doc, self.rules) {
                Step::Reserve => {
                    user.doc.add(opening.packet);
                    user.wallet
                        .push(DataOp::Put { key: wallet, value: keyspace::fen_value(opening.amount.get()) });
                }
                Step::Release => {
                    user.doc.remove(opening.packet);
                    user.wallet.push(DataOp::Delete { key: wallet });
                }
                Step::Done | Step::Insert(_) | Step::Reject(_) => {}
            }
        }
        let changed: Vec<UserId> =
            view.users.iter().filter(|(_, state)| !state.wallet.is_empty()).map(|(user, _)| *user).collect();
        if changed.is_empty() {
            return;
        }
        let units: Vec<Unit> =
            changed.iter().map(|user| user_unit(self.build, *user, &view.users[user])).collect();
        let outcomes = self.kv.write(units).await;
        assert!(outcomes.len() == changed.len(), "the KV answers every unit");
        for (user, outcome) in changed.into_iter().zip(outcomes) {
            let state = view.users.get_mut(&user).expect("changed users are in the view");
            state.durable = outcome == Ok(UnitOutcome::Done);
        }
    }

    /// Inserts rows and rejections: one unit per packet whose user's claims are durable.
    async fn write_packets(&self, batch: &mut Batch, open: &[usize], view: &View) {
        let mut steps = Vec::new();
        for place in open {
            let (opening, checked) = batch.opening(*place);
            let (Some(seen), Some(user)) = (view.seen.get(&opening.packet), view.users.get(&opening.user))
            else {
                continue;
            };
            if !user.durable {
                continue;
            }
            match decide(opening, checked, seen, &user.doc, self.rules) {
                Step::Done => {
                    self.counters.again();
                    batch.work[*place].finished = true;
                }
                // A place that another opening of the user gave back in this round: next round.
                Step::Reserve | Step::Release => {}
                step => steps.push((*place, step)),
            }
        }
        let units: Vec<Unit> = steps.iter().filter_map(|(_, step)| packet_unit(step)).collect();
        assert!(units.len() == steps.len(), "every step kept is a write");
        if units.is_empty() {
            return;
        }
        let outcomes = self.kv.write(units).await;
        assert!(outcomes.len() == steps.len(), "the KV answers every unit");
        for ((place, step), outcome) in steps.into_iter().zip(outcomes) {
            match (outcome, &step) {
                (Ok(UnitOutcome::Done), _) => {
                    batch.work[place].finished = true;
                    self.count(&step);
                }
                // The first rejection of (packet, user) stands, whatever this one says.
                (Ok(UnitOutcome::Conflict { found: Some(_), .. }), Step::Reject(_)) => {
                    batch.work[place].finished = true;
                    self.counters.again();
                }
                (Ok(UnitOutcome::Conflict { .. }) | Err(_), _) => {}
            }
        }
    }

    fn count(&self, step: &Step) {
        match step {
            Step::Insert(row) => self.counters.row(row.state),
            Step::Reject(rejection) => {
                self.counters.rejected(rejection.reason);
                let (packet, user) = (rejection.opening.packet, rejection.opening.user);
                tracing::warn!(%packet, %user, reason = rejection.reason.code(), "an opening was turned down");
            }
            Step::Done | Step::Reserve | Step::Release => {}
        }
    }
}

fn seen(
    packet: PacketId,
    row: Option<&[u8]>,
    instant: Option<&[u8]>,
    closing: bool,
) -> Result<Seen, StoredError> {
    let row = row.map(|bytes| Row::decode(packet, bytes)).transpose()?;
    let no_amount = || StoredError::new("instant amount", packet, "wrong length");
    let instant = instant.map(|bytes| keyspace::parse_fen(bytes).ok_or_else(no_amount)).transpose()?;
    Ok(Seen { row, instant: instant.map(Fen::new), closing })
}

fn user_unit(build: BuildId, user: UserId, state: &UserState) -> Unit {
    assert!(!state.wallet.is_empty(), "the unit of user {user} changes something");
    let DataKey { partition, key } = keyspace::claims(build.tag(), user);
    let mut ops =
        vec![DataOp::CompareAndSet { key, expected: state.found.clone(), value: state.doc.encode() }];
    ops.extend(state.wallet.iter().cloned());
    Unit { partition, ops }
}

/// The unit of a row with its posting, or of a rejection.
fn packet_unit(step: &Step) -> Option<Unit> {
    match step {
        Step::Insert(row) => {
            let DataKey { partition, key } = keyspace::row(row.packet);
            let ops = vec![DataOp::InsertIfAbsent { key, value: row.encode() }];
            let transfer = match row.state {
                RowState::Pending => Transfer::hold(row.packet, row.amount),
                RowState::Credited => Transfer::instant(row.packet, row.amount),
                RowState::Rejected(_) => return Some(Unit { partition, ops }),
            };
            let transfer =
                transfer.expect("check() lets through only records, whose amounts are u24 and not 0");
            Some(ledger::unit(partition, ops, &transfer))
        }
        Step::Reject(rejection) => {
            let DataKey { partition, key } =
                keyspace::rejected(rejection.opening.packet, rejection.opening.user);
            Some(Unit { partition, ops: vec![DataOp::InsertIfAbsent { key, value: rejection.encode() }] })
        }
        Step::Done | Step::Reserve | Step::Release => None,
    }
}
