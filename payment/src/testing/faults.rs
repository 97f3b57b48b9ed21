//! Which call goes wrong, and how.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happened, and the caller is told so.
    Unavailable,
    /// It happened, but the answer was lost.
    UnknownDone,
    /// It did not happen, and no answer came.
    UnknownLost,
    /// Of many, every second one happened; no answer came.
    UnknownHalf,
    /// The caller dies before the call.
    CrashBefore,
    /// The caller dies when the call has happened.
    CrashAfter,
}

impl Fault {
    pub const ALL: [Fault; 6] = [
        Fault::Unavailable,
        Fault::UnknownDone,
        Fault::UnknownLost,
        Fault::UnknownHalf,
        Fault::CrashBefore,
        Fault::CrashAfter,
    ];
}

/// What the injector says to one call.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// Which of several items happen.
    pub does: fn(usize) -> bool,
    /// Whether the caller hears the true answer.
    pub heard: bool,
    /// Whether a lost answer is `Unavailable` rather than `Unknown`.
    pub plainly_not: bool,
}

#[derive(Default)]
struct State {
    calls: u64,
    plan: BTreeMap<u64, Fault>,
    dead: bool,
}

/// One process's connection to the world. A dead process's calls reach nothing.
#[derive(Clone, Default)]
pub struct Injector(Arc<Mutex<State>>);

impl Injector {
    /// Goes wrong at these calls, counted from 0.
    pub fn with(plan: impl IntoIterator<Item = (u64, Fault)>) -> Injector {
        Injector(Arc::new(Mutex::new(State { plan: plan.into_iter().collect(), ..State::default() })))
    }

    /// Calls made so far.
    pub fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// Asked by every call.
    pub fn next(&self) -> Verdict {
        let mut state = self.0.lock();
        let number = state.calls;
        state.calls += 1;
        let all: fn(usize) -> bool = |_| true;
        let none: fn(usize) -> bool = |_| false;
        let half: fn(usize) -> bool = |place| place.is_multiple_of(2);
        if state.dead {
            return Verdict { does: none, heard: false, plainly_not: false };
        }
        match state.plan.get(&number).copied() {
            None => Verdict { does: all, heard: true, plainly_not: false },
            Some(Fault::Unavailable) => Verdict { does: none, heard: false, plainly_not: true },
            Some(Fault::UnknownDone) => Verdict { does: all, heard: false, plainly_not: false },
            Some(Fault::UnknownLost) => Verdict { does: none, heard: false, plainly_not: false },
            Some(Fault::UnknownHalf) => Verdict { does: half, heard: false, plainly_not: false },
            Some(Fault::CrashBefore) => {
                state.dead = true;
                Verdict { does: none, heard: false, plainly_not: false }
            }
            Some(Fault::CrashAfter) => {
                state.dead = true;
                Verdict { does: all, heard: false, plainly_not: false }
            }
        }
    }
}
