//! What the linearizer must know of the thing that operations work on.
//!
//! Invariant: a model is a function: the same state and operation give the same answer.
//!
//! Not here: any model; each oracle has its own.

/// What the operations do to the thing they work on.
pub trait Model {
    /// The thing.
    type State: Clone + Ord;
    /// An operation with its outcome.
    type Op;

    /// Before any operation.
    fn start(&self) -> Self::State;

    /// The states after `op`, if it may happen in `state` with the outcome it had; none if not. More
    /// than one where the outcome leaves it open.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Vec<Self::State>;

    /// Whether `op` cannot happen any more, whatever comes before it. `false` is always right; `true`
    /// spares the search what would come to nothing.
    fn too_late(&self, state: &Self::State, op: &Self::Op) -> bool;
}
