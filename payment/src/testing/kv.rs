//! The data groups of a KV in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kvsvr::api::{
    Compare, ControlOp, DataKey, DataOp, IngestOutcome, KeyValue, Kv, KvError, RangePage, TxnOutcome, Unit,
    UnitOutcome,
};
use parking_lot::Mutex;

use super::faults::Injector;

const GROUPS: u32 = 3;

type Group = BTreeMap<Bytes, Bytes>;

/// Shared by all connections.
#[derive(Clone, Default)]
pub struct MemKv {
    groups: Arc<Mutex<[Group; GROUPS as usize]>>,
    faults: Injector,
}

impl MemKv {
    /// The same store, seen through another process's connection.
    pub fn through(&self, faults: Injector) -> MemKv {
        MemKv { groups: self.groups.clone(), faults }
    }

    /// All pairs of all groups whose key begins with `prefix`.
    pub fn all(&self, prefix: &[u8]) -> Vec<(Bytes, Bytes)> {
        let groups = self.groups.lock();
        let pairs = groups.iter().flat_map(|group| group.iter());
        pairs
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// Changes what is stored, as a fault of the store would. Answers whether the key was there.
    pub fn tamper(&self, key: &[u8], value: Option<&[u8]>) -> bool {
        let mut groups = self.groups.lock();
        let Some(group) = groups.iter_mut().find(|group| group.contains_key(key)) else { return false };
        match value {
            Some(value) => group.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)),
            None => group.remove(key),
        };
        true
    }

    fn unit(&self, unit: &Unit) -> UnitOutcome {
        assert!(!unit.ops.is_empty(), "a unit has an operation");
        let mut groups = self.groups.lock();
        let group = &mut groups[group_of(&unit.partition)];
        let mut after = group.clone();
        for (op, operation) in unit.ops.iter().enumerate() {
            if let Err(found) = apply(&mut after, operation) {
                return UnitOutcome::Conflict { op, found };
            }
        }
        *group = after;
        UnitOutcome::Done
    }
}

impl MemKv {
    /// All of the pairs or none, as if they were one file.
    fn take_in(&self, pairs: &[(DataKey, Bytes)]) -> IngestOutcome {
        let mut groups = self.groups.lock();
        let held = |groups: &[Group], key: &DataKey| groups[group_of(&key.partition)].get(&key.key).cloned();
        for (key, value) in pairs {
            if let Some(found) = held(&groups[..], key).filter(|found| found != value) {
                return IngestOutcome::Conflict { key: key.key.clone(), found };
            }
        }
        let (mut written, mut present) = (0, 0);
        for (key, value) in pairs {
            let before = groups[group_of(&key.partition)].insert(key.key.clone(), value.clone());
            *(if before.is_some() { &mut present } else { &mut written }) += 1;
        }
        IngestOutcome::Done { written, present }
    }
}

fn group_of(partition: &[u8]) -> usize {
    blake3::hash(partition).as_bytes()[0] as usize % GROUPS as usize
}

fn apply(group: &mut Group, operation: &DataOp) -> Result<(), Option<Bytes>> {
    match operation {
        DataOp::InsertIfAbsent { key, value } => match group.get(key) {
            Some(found) => return Err(Some(found.clone())),
            None => group.insert(key.clone(), value.clone()),
        },
        DataOp::CompareAndSet { key, expected, value } => match group.get(key) {
            found if found != expected.as_ref() => return Err(found.cloned()),
            _ => group.insert(key.clone(), value.clone()),
        },
        DataOp::Add { key, delta } => {
            let found = group.get(key).cloned();
            let before =
                found.as_ref().map_or(Some(0), |bytes| Some(i64::from_be_bytes(bytes[..].try_into().ok()?)));
            let sum = before.and_then(|before| before.checked_add(*delta)).ok_or(found)?;
            group.insert(key.clone(), Bytes::copy_from_slice(&sum.to_be_bytes()))
        }
        DataOp::Put { key, value } => group.insert(key.clone(), value.clone()),
        DataOp::Delete { key } => group.remove(key),
    };
    Ok(())
}

#[async_trait]
impl Kv for MemKv {
    async fn get(&self, _key: &[u8]) -> Result<Option<KeyValue>, KvError> {
        Err(KvError::Refused("no control group here".to_owned()))
    }

    async fn range(&self, _prefix: &[u8]) -> Result<RangePage, KvError> {
        Err(KvError::Refused("no control group here".to_owned()))
    }

    async fn txn(&self, _compares: Vec<Compare>, _writes: Vec<ControlOp>) -> Result<TxnOutcome, KvError> {
        Err(KvError::Refused("no control group here".to_owned()))
    }

    async fn write(&self, units: Vec<Unit>) -> Vec<Result<UnitOutcome, KvError>> {
        tokio::task::yield_now().await;
        let verdict = self.faults.next();
        let mut outcomes = Vec::new();
        for (place, unit) in units.iter().enumerate() {
            let outcome = (verdict.does)(place).then(|| self.unit(unit));
            outcomes.push(match outcome {
                Some(outcome) if verdict.heard => Ok(outcome),
                _ if verdict.plainly_not => Err(KvError::Unavailable("injected".to_owned())),
                _ => Err(KvError::Unknown("injected".to_owned())),
            });
        }
        outcomes
    }

    async fn ingest(&self, pairs: Vec<(DataKey, Bytes)>) -> Result<IngestOutcome, KvError> {
        tokio::task::yield_now().await;
        let verdict = self.faults.next();
        let outcome = if (verdict.does)(0) { Some(self.take_in(&pairs)) } else { None };
        match outcome {
            Some(outcome) if verdict.heard => Ok(outcome),
            _ if verdict.plainly_not => Err(KvError::Unavailable("injected".to_owned())),
            _ => Err(KvError::Unknown("injected".to_owned())),
        }
    }

    async fn read(&self, keys: Vec<DataKey>) -> Result<Vec<Option<Bytes>>, KvError> {
        tokio::task::yield_now().await;
        if !self.faults.next().heard {
            return Err(KvError::Unavailable("injected".to_owned()));
        }
        let groups = self.groups.lock();
        Ok(keys.iter().map(|key| groups[group_of(&key.partition)].get(&key.key).cloned()).collect())
    }

    fn data_groups(&self) -> u32 {
        GROUPS
    }

    async fn scan(
        &self,
        group: u32,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        if !self.faults.next().heard {
            return Err(KvError::Unavailable("injected".to_owned()));
        }
        let groups = self.groups.lock();
        let from = after.map_or(prefix, |after| after.max(prefix));
        let pairs = groups[group as usize].range(Bytes::copy_from_slice(from)..);
        let pairs =
            pairs.take_while(|(key, _)| key.starts_with(prefix)).filter(|(key, _)| after != Some(&key[..]));
        Ok(pairs.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}
