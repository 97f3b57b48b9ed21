//! The active event in KvSvr: show it, make one active, close it.
//!
//! Invariant: one event is open at a time; every change is conditional on what was read.

use kvsvr::api::{Compare, ControlOp, Kv};
use ticket::control::{self, ClaimRecord, EventRecord, EventState};

use super::api::{ClaimReport, EventReport};
use crate::failure::{Context, Exit, Failure};

/// The active event and all claims.
///
/// # Errors
/// When KvSvr does not answer, or holds what cannot be read.
pub async fn report(kv: &dyn Kv) -> Result<EventReport, Failure> {
    let event = read(kv).await?.map(|(record, _)| record);
    let frozen = kv.range(control::FREEZE_PREFIX.as_bytes()).await?;
    let frozen: Vec<_> = frozen.pairs.iter().filter_map(|pair| std::str::from_utf8(&pair.key).ok()).collect();
    let mut claims = Vec::new();
    for pair in kv.range(control::CLAIM_PREFIX.as_bytes()).await?.pairs {
        let key = String::from_utf8_lossy(&pair.key).into_owned();
        let record: ClaimRecord =
            control::decode(&key, &pair.value).context(Exit::Error, "reading a claim")?;
        let (slot, file) = control::parse_file_key(&key)
            .ok_or_else(|| Failure::new(Exit::Error, format!("{key} is not a claim's key")))?;
        let is_frozen = frozen.contains(&control::freeze_key(slot, file).as_str());
        claims.push(ClaimReport { slot, file, node: record.node, frozen: is_frozen, version: pair.version });
    }
    Ok(EventReport { event, claims })
}

/// The active event with the revision it was read at.
///
/// # Errors
/// As [`report`].
pub async fn read(kv: &dyn Kv) -> Result<Option<(EventRecord, i64)>, Failure> {
    let Some(pair) = kv.get(control::EVENT_KEY.as_bytes()).await? else { return Ok(None) };
    let record =
        control::decode(control::EVENT_KEY, &pair.value).context(Exit::Error, "reading the event")?;
    Ok(Some((record, pair.mod_revision)))
}

/// Makes an event active. Fine when it is so already.
///
/// # Errors
/// Exit code 4 when another event is open, 2 when the slots contradict each other.
pub async fn activate(kv: &dyn Kv, record: &EventRecord) -> Result<(), Failure> {
    check_slots(record)?;
    let compare = match read(kv).await? {
        None => Compare::Absent(control::EVENT_KEY.into()),
        Some((active, _)) if active == *record => return Ok(()),
        Some((active, _)) if active.state == EventState::Open => {
            let message = format!("event {} (build {}) is open: close it first", active.event, active.build);
            return Err(Failure::new(Exit::Conflict, message));
        }
        Some((closed, _)) => {
            let cure = "one cluster runs one event; use a fresh cluster";
            return Err(Failure::new(
                Exit::Conflict,
                format!("event {} was closed here: {cure}", closed.event),
            ));
        }
    };
    write(kv, compare, record).await
}

/// Opens or closes the active event. Fine when it is so already.
///
/// # Errors
/// Exit code 3 when no event is active, 4 when somebody else changed it meanwhile.
pub async fn set_state(kv: &dyn Kv, state: EventState) -> Result<(), Failure> {
    let Some((mut record, revision)) = read(kv).await? else {
        return Err(Failure::new(Exit::NotFound, "no event is active"));
    };
    if record.state == state {
        return Ok(());
    }
    record.state = state;
    write(kv, Compare::ModRevision(control::EVENT_KEY.into(), revision), &record).await
}

async fn write(kv: &dyn Kv, compare: Compare, record: &EventRecord) -> Result<(), Failure> {
    let put = ControlOp::Put(control::EVENT_KEY.into(), control::encode(record).into());
    let outcome = kv.txn(vec![compare], vec![put]).await?;
    let found = outcome.found.first().and_then(Option::as_ref);
    // An earlier sending of the same command may have arrived first.
    if outcome.succeeded || found.is_some_and(|pair| pair.value == control::encode(record)) {
        return Ok(());
    }
    Err(Failure::new(Exit::Conflict, "somebody else changed the event at the same time: look and repeat"))
}

fn check_slots(record: &EventRecord) -> Result<(), Failure> {
    for slot in &record.slots {
        if slot.end_ms <= slot.start_ms {
            return Err(Failure::new(Exit::Usage, format!("slot {} ends before it starts", slot.id)));
        }
    }
    for pair in record.slots.windows(2) {
        if let [earlier, later] = pair
            && later.start_ms < earlier.end_ms
        {
            return Err(Failure::new(Exit::Usage, format!("slots {} and {} overlap", earlier.id, later.id)));
        }
    }
    Ok(())
}
