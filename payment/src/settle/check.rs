//! Whether an opening is what its record says, judged again at settlement: the queue is not
//! trusted to hold only what the opener put there, and keys may have been revoked meanwhile.
//!
//! Invariant: `Ok` means the record was made with the build's keys for exactly this packet, slot
//! and amount, and its key is good now.
//!
//! Not here: whether the packet is in the plan (the instant set and reconcile tell).

use ticket::id::BuildId;
use ticket::open::{OpenKeyring, RecordError};
use ticket::opening::Opening;

/// What is wrong with an opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The record does not verify: not of this build, or not of this slot.
    Forged,
    /// The opening says something else than its record.
    Altered,
    /// The key is on the blacklist. Its records are not looked into.
    KeyRevoked,
    /// The key is not on the whitelist. Its records are not looked into.
    KeyUnlisted,
}

/// Judges `opening`.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check(keys: &OpenKeyring, build: BuildId, opening: &Opening) -> Result<(), Fault> {
    let record = &opening.record;
    if opening.packet != record.packet_id(build) || opening.key != record.key_id() {
        return Err(Fault::Altered);
    }
    let packet = keys.open(opening.slot, record).map_err(|error| match error {
        RecordError::Revoked(_) => Fault::KeyRevoked,
        RecordError::NotWhitelisted(_) => Fault::KeyUnlisted,
        _ => Fault::Forged,
    })?;
    assert!(packet.id == opening.packet, "the keyring and the record agree on the packet");
    // The plan mints no packet of nothing.
    if packet.amount != opening.amount || packet.amount.get() == 0 {
        return Err(Fault::Altered);
    }
    Ok(())
}
