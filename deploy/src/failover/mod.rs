//! Failing a zone over and giving it back: gather what is known, decide, commit one fenced write.
//!
//! Invariant: a zone operation commits only if no zone record changed since it was decided, so two
//! operators, or an operator and a stale controller, cannot both succeed.

pub mod act;
pub mod decide;
