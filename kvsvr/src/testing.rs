//! A KV in this process's memory, for the tests of its users: the real machines, one replica, no
//! Raft, no network, nothing on disk.
//!
//! Invariant: it answers what a healthy cluster answers, in every detail but time. It fails only
//! when told to.
//!
//! Not here: faults of a network. A test of those runs the client against real servers.

mod member;
pub mod trio;

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

pub use member::LocalMember;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use replica::engine::{EngineError, View};
use replica::machine::{At, Machine, Txn};
use world::{NodeId, UnixMs, ZoneId};

use crate::api::{
    Compare, ControlOp, DataKey, IngestOutcome, KeyValue, Kv, KvError, RangePage, TxnOutcome, Unit,
    UnitOutcome,
};
use crate::limits::INGEST_FILE_BYTES;
use crate::machine::control::{self, ControlMachine, Fault};
use crate::machine::data::{self, DataMachine};
use crate::machine::encode_command;
use crate::route::data_group;
use crate::translate;
use crate::wire::native::control_command::Command;
use crate::wire::native::control_reply::Reply;
use crate::wire::native::data_command::Ingest;
use crate::wire::native::{Author, ControlCommand, ControlReply, DataCommand, IngestReply, WriteResponse};

/// An ordered key space in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryView(BTreeMap<Bytes, Bytes>);

impl MemoryView {
    /// Makes the writes of a transaction.
    pub fn commit(&mut self, writes: BTreeMap<Bytes, Option<Bytes>>) {
        for (key, value) in writes {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
    }

    /// All pairs in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.0.iter()
    }
}

impl View for MemoryView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        if !to.is_empty() && to <= from {
            return Ok(());
        }
        let upper = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
        let mut range = self.0.range::<[u8], _>((Bound::Included(from), upper));
        loop {
            let next = if reverse { range.next_back() } else { range.next() };
            let Some((key, value)) = next else { return Ok(()) };
            if visit(key, value).is_break() {
                return Ok(());
            }
        }
    }
}

/// One machine over one key space: a group of one member.
pub struct LocalMachine<M> {
    machine: M,
    view: MemoryView,
    applied: u64,
    attached: Option<Bytes>,
}

impl<M: Machine> LocalMachine<M> {
    /// A group with nothing in it.
    pub fn new(machine: M) -> LocalMachine<M> {
        LocalMachine { machine, view: MemoryView::default(), applied: 0, attached: None }
    }

    /// Applies a command as the next log entry.
    ///
    /// # Errors
    /// [`EngineError`] when the machine gives up.
    pub fn apply(&mut self, command: &Bytes) -> Result<Bytes, EngineError> {
        let zone = ZoneId::from_index(0).expect("there is a zone a");
        let leader = NodeId::new(zone, 1).expect("1 is a node number");
        self.apply_from(leader, 1, command)
    }

    /// The same with something attached; nothing is none.
    ///
    /// # Errors
    /// [`EngineError`] when the machine gives up.
    pub fn apply_attached(&mut self, command: &Bytes, content: Bytes) -> Result<Bytes, EngineError> {
        self.attached = Some(content).filter(|content| !content.is_empty());
        let reply = self.apply(command);
        self.attached = None;
        reply
    }

    /// The same, as an entry that this leader proposed in this term.
    ///
    /// # Errors
    /// [`EngineError`] when the machine gives up.
    pub fn apply_from(&mut self, leader: NodeId, term: u64, command: &Bytes) -> Result<Bytes, EngineError> {
        self.applied += 1;
        let at = At { index: self.applied, term, leader, now: UnixMs(self.applied) };
        let mut txn = Txn::new(&self.view);
        txn.attach(self.attached.clone());
        let reply = self.machine.apply(&mut txn, at, command)?;
        let writes = txn.into_writes();
        self.view.commit(writes);
        Ok(reply)
    }

    /// What is stored.
    pub fn view(&self) -> &MemoryView {
        &self.view
    }

    /// Commands applied so far.
    pub fn applied(&self) -> u64 {
        self.applied
    }
}

/// Trait [`Kv`] over machines in memory.
pub struct LocalKv {
    control: RwLock<LocalMachine<ControlMachine>>,
    data: Vec<RwLock<LocalMachine<DataMachine>>>,
    fault: Mutex<Option<KvError>>,
}

impl LocalKv {
    /// An empty KV with this many data groups.
    ///
    /// # Panics
    /// When `data_groups` is 0.
    #[must_use]
    pub fn new(data_groups: u32) -> LocalKv {
        assert!(data_groups > 0, "a cluster without data groups takes no data");
        LocalKv {
            control: RwLock::new(LocalMachine::new(ControlMachine)),
            data: (0..data_groups).map(|_| RwLock::new(LocalMachine::new(DataMachine))).collect(),
            fault: Mutex::new(None),
        }
    }

    /// From now on every call fails so; `None` heals. A call that fails as `Unknown` has been made
    /// when it writes: that is the case worth testing.
    pub fn fail_with(&self, fault: Option<KvError>) {
        *self.fault.lock() = fault;
    }

    fn fault(&self) -> Option<KvError> {
        self.fault.lock().clone()
    }

    // A read fails like this; a write that fails as unknown is made first.
    fn refuse_unless_unknown(&self) -> Result<(), KvError> {
        match self.fault() {
            Some(KvError::Unknown(_)) | None => Ok(()),
            Some(fault) => Err(fault),
        }
    }

    fn control_txn(&self, compares: &[Compare], writes: &[ControlOp]) -> Result<TxnOutcome, KvError> {
        let request = translate::txn_request(compares, writes);
        let command = encode_command(&ControlCommand { command: Some(Command::Txn(request)), author: None });
        let reply = self.control.write().apply(&command).map_err(broken)?;
        let reply: ControlReply = decode(&reply);
        match reply.reply {
            Some(Reply::Txn(response)) => translate::txn_outcome(response).map_err(KvError::Unknown),
            Some(Reply::Refused(code)) => {
                let refusal = crate::refusal::Refusal::try_from(code).expect("the machine's own refusal");
                Err(KvError::Refused(refusal.text().to_owned()))
            }
            other => Err(KvError::Unknown(translate::malformed(&format!("{other:?}")))),
        }
    }

    fn control_range(&self, request: &crate::wire::etcdserverpb::RangeRequest) -> Result<RangePage, KvError> {
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        let control = self.control.read();
        let response =
            control::read_range(control.view(), &Author::default(), request).map_err(
                |fault| match fault {
                    Fault::Refused(refusal) => KvError::Refused(refusal.text().to_owned()),
                    Fault::Engine(error) => broken(error),
                },
            )?;
        translate::range_page(response).map_err(KvError::Unavailable)
    }

    fn group_of(&self, partition: &[u8]) -> usize {
        let count = u32::try_from(self.data.len()).expect("made from a u32");
        data_group(partition, count) as usize
    }
}

fn broken(error: EngineError) -> KvError {
    KvError::Unknown(error.to_string())
}

fn decode<M: prost::Message + Default>(reply: &[u8]) -> M {
    M::decode(reply).expect("the machine's own reply")
}

#[async_trait]
impl Kv for LocalKv {
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, KvError> {
        let page = self.control_range(&translate::get_request(key))?;
        Ok(page.pairs.into_iter().next())
    }

    async fn range(&self, prefix: &[u8]) -> Result<RangePage, KvError> {
        self.control_range(&translate::prefix_request(prefix))
    }

    async fn txn(&self, compares: Vec<Compare>, writes: Vec<ControlOp>) -> Result<TxnOutcome, KvError> {
        self.refuse_unless_unknown()?;
        let outcome = self.control_txn(&compares, &writes);
        self.fault().map_or(outcome, Err)
    }

    async fn write(&self, units: Vec<Unit>) -> Vec<Result<UnitOutcome, KvError>> {
        if let Err(fault) = self.refuse_unless_unknown() {
            return units.iter().map(|_| Err(fault.clone())).collect();
        }
        let mut by_group: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (number, unit) in units.iter().enumerate() {
            by_group.entry(self.group_of(&unit.partition)).or_default().push(number);
        }
        let mut outcomes: Vec<Option<Result<UnitOutcome, KvError>>> = vec![None; units.len()];
        for (group, numbers) in by_group {
            let wire = numbers.iter().map(|number| translate::unit_to_wire(&units[*number])).collect();
            let command = encode_command(&DataCommand { units: wire, ingest: None });
            let applied = self.data[group].write().apply(&command).map_err(broken);
            let replies = applied.map(|reply| decode::<WriteResponse>(&reply).replies);
            for (place, number) in numbers.into_iter().enumerate() {
                let outcome =
                    replies.clone().and_then(|replies| translate::unit_outcome(replies[place].clone()));
                outcomes[number] = Some(self.fault().map_or(outcome, Err));
            }
        }
        outcomes.into_iter().map(|outcome| outcome.expect("every unit is in one group")).collect()
    }

    async fn ingest(&self, pairs: Vec<(DataKey, Bytes)>) -> Result<IngestOutcome, KvError> {
        self.refuse_unless_unknown()?;
        let command = encode_command(&DataCommand { ingest: Some(Ingest {}), ..DataCommand::default() });
        let mut sum = (0, 0);
        for (group, file) in translate::ingest_files(pairs, self.data_groups(), INGEST_FILE_BYTES)? {
            let reply = self.data[group as usize].write().apply_attached(&command, file).map_err(broken)?;
            let outcome = translate::ingest_outcome(decode::<IngestReply>(&reply))?;
            let IngestOutcome::Done { written, present } = outcome else { return Ok(outcome) };
            sum = (sum.0 + written, sum.1 + present);
        }
        self.fault().map_or(Ok(IngestOutcome::Done { written: sum.0, present: sum.1 }), Err)
    }

    async fn read(&self, keys: Vec<DataKey>) -> Result<Vec<Option<Bytes>>, KvError> {
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        let read = |key: &DataKey| {
            let group = self.data[self.group_of(&key.partition)].read();
            data::get(group.view(), &key.key).map_err(broken)
        };
        keys.iter().map(read).collect()
    }

    fn data_groups(&self) -> u32 {
        u32::try_from(self.data.len()).expect("made from a u32")
    }

    async fn scan(
        &self,
        group: u32,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        let Some(machine) = self.data.get(group as usize) else {
            return Err(KvError::Refused(format!("there is no data group {group}")));
        };
        data::scan(machine.read().view(), prefix, after, limit).map_err(broken)
    }
}
