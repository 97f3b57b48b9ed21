//! One Raft member, generic over its state machine.
pub mod engine;
pub mod machine;
pub mod error;
