//! One Raft member, generic over its state machine.
pub mod codec;
pub mod engine;
pub mod error;
pub mod log;
pub mod machine;
pub mod state;
pub mod testing;
pub mod types;
