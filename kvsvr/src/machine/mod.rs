//! The replicated state machines: [`control`] for group 0, [`data`] for the data groups.
//!
//! ```text
//!   command on the log:   format u8 = 1 | protobuf message of proto/kvsvr.proto
//! ```
//!
//! Invariant: pure. State, command and log position in; state and reply out. A command that
//! cannot be decoded stops the replica, for it was written by a newer program or torn on disk, and
//! guessing would make replicas differ.

pub mod control;
pub mod data;
mod ingest;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use replica::engine::EngineError;

/// First byte of every command.
pub const COMMAND_FORMAT: u8 = 1;

/// A command as it stands in the log.
#[must_use]
pub fn encode_command(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    bytes.put_u8(COMMAND_FORMAT);
    message.encode(&mut bytes).expect("a growing buffer takes any message");
    bytes.freeze()
}

// Keys and values of the message are pieces of the command, which is a piece of an entry.
fn decode_command<M: Message + Default>(command: &Bytes) -> Result<M, EngineError> {
    if command.first() != Some(&COMMAND_FORMAT) {
        let found = command.first();
        return Err(EngineError::Corrupt(format!(
            "a command begins with {found:?}, this program reads {COMMAND_FORMAT}"
        )));
    }
    M::decode(command.slice(1..))
        .map_err(|error| EngineError::Corrupt(format!("a command cannot be read: {error}")))
}
