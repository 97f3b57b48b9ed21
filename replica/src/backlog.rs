//! Commands that wait to be proposed: bounded, in order, and each can be withdrawn until it is
//! taken. Pure: no clock, no task, no lock.
//!
//! ```text
//!   push -> [ 7 | 8 | 9 | 10 ] -> take: as many as one proposal holds
//!                 ^ withdraw: its caller gave up; never proposed
//! ```
//!
//! Invariant: a command is taken or withdrawn, never both. So a caller whose withdrawal succeeds
//! knows that its command was not proposed, and one whose withdrawal fails knows that it was.
//!
//! Not here: proposing ([`crate::batcher`]).

use std::collections::VecDeque;

use bytes::Bytes;

/// What one backlog and one proposal may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) backlog_commands_max: usize,
    pub(crate) backlog_bytes_max: usize,
    pub(crate) proposal_commands_max: usize,
    pub(crate) proposal_bytes_max: usize,
}

/// Names a waiting command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(u64);

/// Why a command may not wait here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// Too many wait already.
    Backlog,
    /// No more are taken.
    Closed,
}

struct Waiting<T> {
    place: Place,
    command: Bytes,
    /// `None` once withdrawn.
    caller: Option<T>,
}

/// The waiting commands, each with its caller `T`.
pub(crate) struct Backlog<T> {
    bounds: Bounds,
    waiting: VecDeque<Waiting<T>>,
    /// Bytes of all commands in `waiting`, withdrawn ones included until they are passed over.
    bytes: usize,
    next_place: u64,
    closed: bool,
}

impl<T> Backlog<T> {
    pub(crate) fn new(bounds: Bounds) -> Backlog<T> {
        assert!(bounds.proposal_commands_max > 0, "a proposal carries a command");
        Backlog { bounds, waiting: VecDeque::new(), bytes: 0, next_place: 0, closed: false }
    }

    /// Lets a command wait.
    ///
    /// # Errors
    /// [`Full`]; then nothing has changed.
    pub(crate) fn push(&mut self, command: Bytes, caller: T) -> Result<Place, Full> {
        if self.closed {
            return Err(Full::Closed);
        }
        let bytes = self.bytes + command.len();
        if self.waiting.len() >= self.bounds.backlog_commands_max || bytes > self.bounds.backlog_bytes_max {
            return Err(Full::Backlog);
        }
        let place = Place(self.next_place);
        self.next_place += 1;
        self.bytes = bytes;
        self.waiting.push_back(Waiting { place, command, caller: Some(caller) });
        Ok(place)
    }

    /// Takes a command back. `false` when it has been taken for a proposal already.
    pub(crate) fn withdraw(&mut self, place: Place) -> bool {
        let found = self.waiting.binary_search_by_key(&place, |waiting| waiting.place);
        let Ok(position) = found else { return false };
        let withdrawn = self.waiting[position].caller.take().is_some();
        assert!(withdrawn, "a command is withdrawn once");
        true
    }

    /// The commands of the next proposal, in order; empty when nothing waits. The first command
    /// is taken whatever its size.
    pub(crate) fn take(&mut self) -> Vec<(Bytes, T)> {
        let mut taken = Vec::new();
        let mut bytes = 0usize;
        while let Some(next) = self.waiting.front() {
            let fits = taken.is_empty()
                || (taken.len() < self.bounds.proposal_commands_max
                    && bytes + next.command.len() <= self.bounds.proposal_bytes_max);
            if next.caller.is_some() && !fits {
                break;
            }
            let Some(next) = self.waiting.pop_front() else { break };
            assert!(self.bytes >= next.command.len(), "bytes are counted in and out alike");
            self.bytes -= next.command.len();
            if let Some(caller) = next.caller {
                bytes += next.command.len();
                taken.push((next.command, caller));
            }
        }
        taken
    }

    /// Takes no more commands and gives back the callers that still wait.
    pub(crate) fn close(&mut self) -> Vec<T> {
        self.closed = true;
        self.bytes = 0;
        self.waiting.drain(..).filter_map(|waiting| waiting.caller).collect()
    }

    /// How many wait, withdrawn ones included until they are passed over.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds {
        backlog_commands_max: 6,
        backlog_bytes_max: 100,
        proposal_commands_max: 3,
        proposal_bytes_max: 10,
    };

    fn bytes(length: usize) -> Bytes {
        Bytes::from(vec![7; length])
    }

    fn taken(backlog: &mut Backlog<u32>) -> Vec<u32> {
        backlog.take().into_iter().map(|(_, caller)| caller).collect()
    }

    #[test]
    fn a_proposal_ends_at_its_count_or_its_bytes_and_keeps_the_order() {
        let mut backlog = Backlog::new(BOUNDS);
        for (caller, length) in [(1, 1), (2, 1), (3, 1), (4, 9), (5, 2), (6, 50)] {
            backlog.push(bytes(length), caller).expect("room");
        }
        assert_eq!(taken(&mut backlog), [1, 2, 3]);
        assert_eq!(taken(&mut backlog), [4]);
        assert_eq!(taken(&mut backlog), [5]);
        assert_eq!(taken(&mut backlog), [6], "a large command goes alone");
        assert!(taken(&mut backlog).is_empty());
    }

    #[test]
    fn a_full_backlog_refuses_and_has_room_again_after_a_proposal() {
        let mut backlog = Backlog::new(BOUNDS);
        for caller in 0..6 {
            backlog.push(bytes(1), caller).expect("room");
        }
        assert_eq!(backlog.push(bytes(1), 6), Err(Full::Backlog));
        assert_eq!(taken(&mut backlog), [0, 1, 2]);
        backlog.push(bytes(1), 7).expect("room again");
        assert_eq!(backlog.push(bytes(98), 8), Err(Full::Backlog), "bytes are bounded as well");
    }

    #[test]
    fn a_withdrawn_command_is_never_taken_and_a_taken_one_cannot_be_withdrawn() {
        let mut backlog = Backlog::new(BOUNDS);
        let places: Vec<Place> = (0..4).map(|caller| backlog.push(bytes(1), caller).expect("room")).collect();
        assert!(backlog.withdraw(places[1]));
        assert_eq!(taken(&mut backlog), [0, 2, 3]);
        assert!(!backlog.withdraw(places[2]));
    }

    #[test]
    fn a_closed_backlog_gives_its_callers_back() {
        let mut backlog = Backlog::new(BOUNDS);
        let first = backlog.push(bytes(1), 1).expect("room");
        backlog.push(bytes(1), 2).expect("room");
        assert!(backlog.withdraw(first));
        assert_eq!(backlog.close(), [2]);
        assert_eq!(backlog.push(bytes(1), 3), Err(Full::Closed));
        assert!(backlog.is_empty());
    }

    proptest! {
        #[test]
        fn every_command_is_taken_once_in_order_or_withdrawn(
            steps in proptest::collection::vec((0u8..3, 0usize..12), 1..200)
        ) {
            let mut backlog = Backlog::new(BOUNDS);
            let (mut pushed, mut gone) = (Vec::new(), Vec::new());
            for (caller, (step, number)) in (0u32..).zip(steps) {
                match step {
                    0 => {
                        if let Ok(place) = backlog.push(bytes(number), caller) {
                            pushed.push((place, caller));
                        }
                    }
                    1 => gone.extend(taken(&mut backlog)),
                    _ => {
                        if let Some((place, caller)) = pushed.get(number).copied()
                            && !gone.contains(&caller)
                        {
                            prop_assert!(backlog.withdraw(place));
                            pushed.remove(number);
                        }
                    }
                }
            }
            while !backlog.is_empty() {
                gone.extend(taken(&mut backlog));
            }
            let expected: Vec<u32> = pushed.into_iter().map(|(_, caller)| caller).collect();
            prop_assert_eq!(gone, expected);
            prop_assert_eq!(backlog.bytes, 0);
        }
    }
}
