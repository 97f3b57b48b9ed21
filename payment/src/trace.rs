//! What became of one packet: everything payment stored about it, for people.
//!
//! Invariant: reads only; what is shown stood in the KV at the moment of the call.
//!
//! Not here: where the packet stands in the plan, and what the queue still holds of it.

use kvsvr::api::{Kv, KvError};
use serde::Serialize;
use ticket::id::{FileNo, PacketId, SlotNo, UserId};
use ticket::money::Fen;
use world::{NodeId, UnixMs};

use crate::bulk::{self, Walk};
use crate::claims::ClaimDoc;
use crate::keyspace;
use crate::rejection::Rejection;
use crate::row::{Row, StoredError};

/// A packet's traces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// Which packet.
    pub packet: PacketId,
    /// Its row: who has it, and how far the money has come. `None`: never settled.
    pub row: Option<Row>,
    /// Whether it is counted in its user's claims; `None` without a row.
    pub claimed: Option<bool>,
    /// What stands in its user's packet index; `None` when it does not stand there.
    pub wallet: Option<Fen>,
    /// Its amount in the instant set; `None`: it waits for reconcile.
    pub instant: Option<Fen>,
    /// Openings of it that got no row.
    pub rejections: Vec<TracedRejection>,
    /// Whether the sponsor's money for its batch came in.
    pub funded_batch: bool,
    /// Whether its batch was refunded.
    pub refunded_batch: bool,
    /// What could not be read, in sentences.
    pub unreadable: Vec<String>,
}

/// An opening that was turned down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TracedRejection {
    /// Whose.
    pub user: UserId,
    /// Why.
    pub reason: &'static str,
    /// What it asked for.
    pub amount: Fen,
    /// The slot it named.
    pub slot: SlotNo,
    /// The file it named.
    pub file: FileNo,
    /// The place in the file it named.
    pub index: u32,
    /// The node it named.
    pub node: NodeId,
    /// When it was opened.
    pub opened_ms: UnixMs,
}

/// Gathers the traces of `packet`.
///
/// # Errors
/// [`KvError`] when the KV cannot be read.
pub async fn trace(kv: &dyn Kv, packet: PacketId) -> Result<Trace, KvError> {
    let (tag, batch) = (packet.build_tag, packet.batch);
    let keys = vec![
        keyspace::row(packet),
        keyspace::instant(packet),
        keyspace::fund(tag, batch),
        keyspace::refund(tag, batch),
    ];
    let values = bulk::read(kv, keys).await?;
    let mut trace = Trace {
        packet,
        row: None,
        claimed: None,
        wallet: None,
        instant: values[1].as_deref().and_then(keyspace::parse_fen).map(Fen::new),
        rejections: Vec::new(),
        funded_batch: values[2].is_some(),
        refunded_batch: values[3].is_some(),
        unreadable: Vec::new(),
    };
    if let Some(row) = values[0].as_deref().map(|bytes| Row::decode(packet, bytes)) {
        trace.row = kept(row, &mut trace.unreadable);
    }
    if let Some(user) = trace.row.as_ref().map(|row| row.user) {
        users_side(kv, &mut trace, user).await?;
    }
    let mut walk = Walk::new(kv, [keyspace::REJECTED, &packet.to_bytes()].concat());
    while let Some(pairs) = walk.next().await? {
        for (key, value) in pairs {
            let Some((packet, user)) = keyspace::parse_rejected(&key) else { continue };
            let rejection = kept(Rejection::decode(packet, user, &value), &mut trace.unreadable);
            trace.rejections.extend(rejection.map(traced));
        }
    }
    Ok(trace)
}

async fn users_side(kv: &dyn Kv, trace: &mut Trace, user: UserId) -> Result<(), KvError> {
    let packet = trace.packet;
    let keys = vec![keyspace::claims(packet.build_tag, user), keyspace::wallet(user, packet)];
    let values = bulk::read(kv, keys).await?;
    trace.wallet = values[1].as_deref().and_then(keyspace::parse_fen).map(Fen::new);
    let doc = values[0].as_deref().map_or(Ok(ClaimDoc::default()), |bytes| ClaimDoc::decode(user, bytes));
    trace.claimed = kept(doc, &mut trace.unreadable).map(|doc| doc.contains(packet));
    Ok(())
}

fn kept<T>(read: Result<T, StoredError>, unreadable: &mut Vec<String>) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(error) => {
            unreadable.push(error.to_string());
            None
        }
    }
}

fn traced(rejection: Rejection) -> TracedRejection {
    let Rejection { reason, opening } = rejection;
    TracedRejection {
        user: opening.user,
        reason: reason.code(),
        amount: opening.amount,
        slot: opening.slot,
        file: opening.file,
        index: opening.index,
        node: opening.node,
        opened_ms: opening.opened_ms,
    }
}
