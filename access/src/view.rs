//! What a node knows of the control group: the last good reading of it.
//!
//! A reading is taken whole or not at all: if any part fails, the old view stays and grows older.
//! The parts are read one after the other and may stem from different revisions; that is enough,
//! because whatever is decided from them is written under conditions naming the revisions seen.
//!
//! Invariant: a value that cannot be read is never taken for an absent one.
//!
//! Not here: watches. A poll of a few small ranges costs less than it saves in machinery, and
//! answers on a node that was cut off and came back without any resumption protocol.

use std::collections::{BTreeMap, BTreeSet};

use kvsvr::api::{Kv, KvError};
use ticket::control::{
    BootRecord, CLAIM_PREFIX, ClaimRecord, ControlError, EVENT_KEY, EventRecord, FREEZE_PREFIX, ZONE_PREFIX,
    ZoneRecord, boot_key, claim_slot_prefix, decode, parse_file_key,
};
use ticket::id::{FileNo, SlotNo};
use world::{NodeId, UnixMs, ZoneId};

use crate::claim::{ClaimTiming, Seen, in_window};
use crate::claimer::bounded;
use crate::rules::{RULES_KEY, Rules};

/// A reading of the control group.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The active event.
    pub event: Option<Seen<EventRecord>>,
    /// The zones that were ever operated on.
    pub zones: BTreeMap<ZoneId, Seen<ZoneRecord>>,
    /// The claims of the slots in their claim window.
    pub claims: BTreeMap<(SlotNo, FileNo), ClaimRecord>,
    /// What was frozen.
    pub frozen: BTreeSet<(SlotNo, FileNo)>,
    /// The operator's rules; the last good ones if the present ones are not.
    pub rules: Option<Rules>,
    /// What is wrong with the rules in the store, if anything.
    pub rules_fault: Option<String>,
    /// The last start of this node, as the store knows it.
    pub boot: Option<BootRecord>,
}

/// Why a reading failed.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The store did not answer.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A value makes no sense.
    #[error(transparent)]
    Record(#[from] ControlError),
    /// A key makes no sense.
    #[error("{0} is not a key of this program")]
    Key(String),
}

impl View {
    /// Reads the control group anew for `node`.
    ///
    /// # Errors
    /// [`ViewError`]; this view is then still the best there is.
    pub async fn refreshed(
        &self,
        kv: &dyn Kv,
        node: NodeId,
        timing: ClaimTiming,
        now: UnixMs,
    ) -> Result<View, ViewError> {
        let event = match bounded(kv.get(EVENT_KEY.as_bytes())).await? {
            Some(pair) => Some(Seen::<EventRecord>::read(&pair)?),
            None => None,
        };
        let boot_key = boot_key(node);
        let boot = match bounded(kv.get(boot_key.as_bytes())).await? {
            Some(pair) => Some(decode(&boot_key, &pair.value)?),
            None => None,
        };
        let (rules, rules_fault) = self.read_rules(kv).await?;
        let slots = event.iter().flat_map(|seen| &seen.record.slots);
        let slots: Vec<SlotNo> =
            slots.filter(|slot| in_window(slot, timing, now)).map(|slot| slot.slot).collect();
        let zones = read_zones(kv).await?;
        // Claims before freezes: a claim that was frozen when it was read is then seen as frozen.
        let claims = read_claims(kv, &slots).await?;
        Ok(View { zones, claims, frozen: read_frozen(kv).await?, event, rules, rules_fault, boot })
    }

    async fn read_rules(&self, kv: &dyn Kv) -> Result<(Option<Rules>, Option<String>), KvError> {
        let Some(pair) = bounded(kv.get(RULES_KEY.as_bytes())).await? else { return Ok((None, None)) };
        Ok(match Rules::parse(&pair.value) {
            Ok(rules) => (Some(rules), None),
            Err(error) => (self.rules.clone(), Some(error.to_string())),
        })
    }
}

async fn read_zones(kv: &dyn Kv) -> Result<BTreeMap<ZoneId, Seen<ZoneRecord>>, ViewError> {
    let mut zones = BTreeMap::new();
    for pair in bounded(kv.range(ZONE_PREFIX.as_bytes())).await?.pairs {
        let key = text(&pair.key);
        let zone = key.strip_prefix(ZONE_PREFIX).and_then(|zone| zone.parse().ok());
        let zone: ZoneId = zone.ok_or_else(|| ViewError::Key(key.clone()))?;
        zones.insert(zone, Seen::read(&pair)?);
    }
    Ok(zones)
}

async fn read_frozen(kv: &dyn Kv) -> Result<BTreeSet<(SlotNo, FileNo)>, ViewError> {
    let pairs = bounded(kv.range(FREEZE_PREFIX.as_bytes())).await?.pairs;
    pairs.iter().map(|pair| file_of(&pair.key)).collect()
}

async fn read_claims(
    kv: &dyn Kv,
    slots: &[SlotNo],
) -> Result<BTreeMap<(SlotNo, FileNo), ClaimRecord>, ViewError> {
    let mut claims = BTreeMap::new();
    for slot in slots {
        let prefix = claim_slot_prefix(*slot);
        assert!(prefix.starts_with(CLAIM_PREFIX), "a slot's claims stand among the claims");
        for pair in bounded(kv.range(prefix.as_bytes())).await?.pairs {
            claims.insert(file_of(&pair.key)?, decode(&text(&pair.key), &pair.value)?);
        }
    }
    Ok(claims)
}

fn file_of(key: &[u8]) -> Result<(SlotNo, FileNo), ViewError> {
    let key = text(key);
    parse_file_key(&key).ok_or(ViewError::Key(key))
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
