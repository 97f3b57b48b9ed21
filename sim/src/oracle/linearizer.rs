//! Is there an order? A search in the way of Wing and Gong, with Lowe's memory of what was tried.
//!
//! ```text
//!   entries, by number:  call 1   call 2   return 1   call 3   return 3   return 2
//!   walk: try each call before the first return; lift it out and start again from the front;
//!   at a return whose call is still in: no order from here, take the last one back
//! ```
//! An operation whose outcome is unknown has a call and no return: it may be put anywhere after its
//! call, or be left out. It is tried last, and only right before an operation to which it makes a
//! difference: if both come to the same in the other order, or without it, it could as well come later,
//! or never. Of two unknown ones in a row that do not mind their order, one order is tried. Orders with
//! few unknown operations in a row are tried first: nearly always one before each is enough.
//!
//! Invariant: [`Answer::No`] only after every order was ruled out. The same operations in order with
//! the same state are tried once. The search is bounded by steps, not by time, and says so when it gives
//! up.
//!
//! Not here: what the operations mean; see [`Model`].

use std::collections::BTreeSet;

use super::model::Model;

/// One operation in time.
#[derive(Clone, Debug)]
pub struct Span<O> {
    /// Number of the moment it began.
    pub call: u64,
    /// Number of the moment it was over; `None` if its outcome is unknown.
    pub end: Option<u64>,
    /// Of several that may come next, the one with the least is tried first. It changes how long the
    /// search takes, not what it finds.
    pub hint: u64,
    /// The operation.
    pub op: O,
}

/// What the search came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is an order.
    Yes,
    /// There is none: this many operations could be put in order at most, and the operation at
    /// this place in the list is the first that then could not be.
    No {
        /// How many could be put in order.
        most: usize,
        /// Place of the one that could not.
        stuck: usize,
    },
    /// The search was given up after this many steps.
    GaveUp(u64),
}

/// Unknown operations in a row that are tried, in one search after the other.
const ROWS: [usize; 3] = [1, 2, usize::MAX];

/// Searches for an order, in at most `steps_max` steps for each length of rows.
pub fn search<M: Model>(model: &M, spans: &[Span<M::Op>], steps_max: u64) -> Answer {
    let mut answer = Answer::Yes;
    for row_max in ROWS {
        let mut search = Search::new(model, spans, row_max);
        answer = search.run(steps_max);
        let final_no = matches!(answer, Answer::No { .. }) && !search.cut;
        if answer == Answer::Yes || final_no {
            break;
        }
    }
    answer
}

/// A place in the list of entries: calls and returns in order of number.
#[derive(Clone, Copy, Debug)]
struct Entry {
    op: usize,
    is_return: bool,
}

struct Taken<S> {
    op: usize,
    before: S,
    /// The states the operation could lead to, but for those tried already.
    others: Vec<S>,
    /// Where the search goes on if this was wrong.
    resume: Cursor,
}

/// What is tried next: certain operations before unknown ones, then by hint, then by place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cursor {
    unknown: bool,
    hint: u64,
    entry: usize,
}

/// Operations done and the state; if the last one was unknown, it is not counted as done and the
/// state before it is there too.
type Node<S> = (Vec<u64>, S, Option<S>);

struct Search<'a, M: Model> {
    model: &'a M,
    spans: &'a [Span<M::Op>],
    entries: Vec<Entry>,
    /// Links over the entries that are still in; the last place is the head.
    next: Vec<usize>,
    previous: Vec<usize>,
    call_at: Vec<usize>,
    return_at: Vec<Option<usize>>,
    done: Vec<u64>,
    returns_left: usize,
    state: M::State,
    taken: Vec<Taken<M::State>>,
    tried: BTreeSet<Node<M::State>>,
    /// Unknown operations in a row at most, and whether more were left out for that.
    row_max: usize,
    cut: bool,
    most: usize,
    stuck: usize,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, spans: &'a [Span<M::Op>], row_max: usize) -> Search<'a, M> {
        let mut numbered: Vec<(u64, Entry)> = Vec::new();
        for (op, span) in spans.iter().enumerate() {
            numbered.push((span.call, Entry { op, is_return: false }));
            if let Some(end) = span.end {
                assert!(span.call < end, "an operation was over before it began");
                numbered.push((end, Entry { op, is_return: true }));
            }
        }
        numbered.sort_by_key(|(number, entry)| (*number, entry.is_return));
        let entries: Vec<Entry> = numbered.into_iter().map(|(_, entry)| entry).collect();
        let (mut call_at, mut return_at) = (vec![0; spans.len()], vec![None; spans.len()]);
        for (at, entry) in entries.iter().enumerate() {
            if entry.is_return {
                return_at[entry.op] = Some(at);
            } else {
                call_at[entry.op] = at;
            }
        }
        // A ring through the head, which stands behind the last entry.
        let head = entries.len();
        let next = (0..=head).map(|at| if at == head { 0 } else { at + 1 }).collect();
        let previous = (0..=head).map(|at| if at == 0 { head } else { at - 1 }).collect();
        Search {
            model,
            spans,
            returns_left: return_at.iter().flatten().count(),
            entries,
            next,
            previous,
            call_at,
            return_at,
            done: vec![0; spans.len().div_ceil(64)],
            state: model.start(),
            taken: Vec::new(),
            tried: BTreeSet::new(),
            row_max,
            cut: false,
            most: 0,
            stuck: 0,
        }
    }

    fn head(&self) -> usize {
        self.entries.len()
    }

    fn unlink(&mut self, at: usize) {
        let (before, after) = (self.previous[at], self.next[at]);
        self.next[before] = after;
        self.previous[after] = before;
    }

    fn relink(&mut self, at: usize) {
        let (before, after) = (self.previous[at], self.next[at]);
        self.next[before] = at;
        self.previous[after] = at;
    }

    fn lift(&mut self, op: usize) {
        self.unlink(self.call_at[op]);
        if let Some(at) = self.return_at[op] {
            self.unlink(at);
            self.returns_left -= 1;
        }
        self.done[op / 64] |= 1 << (op % 64);
    }

    /// The reverse of `lift`, in reverse order, so that the links are as they were.
    fn put_back(&mut self, op: usize) {
        if let Some(at) = self.return_at[op] {
            self.relink(at);
            self.returns_left += 1;
        }
        self.relink(self.call_at[op]);
        self.done[op / 64] &= !(1 << (op % 64));
    }

    fn run(&mut self, steps_max: u64) -> Answer {
        let mut after = None;
        for _ in 0..steps_max {
            if self.returns_left == 0 {
                return Answer::Yes;
            }
            after = match self.candidate(after) {
                Some(found) => self.attempt(found),
                None => match self.back() {
                    Some(resume) => resume,
                    None => return Answer::No { most: self.most, stuck: self.stuck },
                },
            };
        }
        Answer::GaveUp(steps_max)
    }

    /// The first of the calls that may come next, or the first after `after` was tried in vain.
    fn candidate(&mut self, after: Option<Cursor>) -> Option<Cursor> {
        let mut best: Option<Cursor> = None;
        let mut at = self.next[self.head()];
        while at != self.head() && !self.entries[at].is_return {
            let op = self.entries[at].op;
            let unknown = self.return_at[op].is_none();
            if !unknown && self.model.too_late(&self.state, &self.spans[op].op) {
                return None;
            }
            let cursor = Cursor { unknown, hint: self.spans[op].hint, entry: at };
            if after.is_none_or(|after| after < cursor) && best.is_none_or(|best| cursor < best) {
                best = Some(cursor);
            }
            at = self.next[at];
        }
        // What must have ended before anything else begins is what the search is stuck at.
        if best.is_none() && at != self.head() && self.taken.len() >= self.most {
            self.most = self.taken.len();
            self.stuck = self.entries[at].op;
        }
        best
    }

    /// Whether `op`, which leads to `state` now, could as well come before the unknown operation just
    /// done, or could do without it.
    fn idle(&self, last: &Taken<M::State>, op: &M::Op, state: &M::State) -> bool {
        let without = self.model.step(&last.before, op);
        let later = |before: &M::State| self.model.step(before, &self.spans[last.op].op).contains(state);
        without.contains(state) || without.iter().any(later)
    }

    fn attempt(&mut self, found: Cursor) -> Option<Cursor> {
        let op = self.entries[found.entry].op;
        let is_unknown = |taken: &&Taken<M::State>| self.return_at[taken.op].is_none();
        if found.unknown && self.taken.iter().rev().take_while(is_unknown).count() >= self.row_max {
            self.cut = true;
            return Some(found);
        }
        let mut states = self.model.step(&self.state, &self.spans[op].op);
        if found.unknown {
            states.retain(|state| *state != self.state);
        }
        // Two unknown ones are tried in the order of their places, unless they mind it.
        if let Some(last) = self.taken.last().filter(is_unknown)
            && !(found.unknown && last.resume.entry < found.entry)
        {
            states.retain(|state| !self.idle(last, &self.spans[op].op, state));
        }
        self.lift(op);
        if self.advance(op, states, found) {
            return None;
        }
        self.put_back(op);
        Some(found)
    }

    /// Takes the first of `states` that was not tried with these operations done. `op` is lifted.
    fn advance(&mut self, op: usize, mut states: Vec<M::State>, resume: Cursor) -> bool {
        while let Some(state) = states.pop() {
            let mut node: Node<M::State> = (self.done.clone(), state.clone(), None);
            if resume.unknown {
                // Unknown operations that do the same are as good as each other: one is tried.
                node.0[op / 64] &= !(1 << (op % 64));
                node.2 = Some(self.state.clone());
            }
            if self.tried.insert(node) {
                let before = std::mem::replace(&mut self.state, state);
                self.taken.push(Taken { op, before, others: states, resume });
                return true;
            }
        }
        false
    }

    /// Takes the last operation back, or turns to another state it could have led to. Where the
    /// search goes on: at the front, or behind what was taken back.
    fn back(&mut self) -> Option<Option<Cursor>> {
        let Taken { op, before, others, resume } = self.taken.pop()?;
        self.state = before;
        if self.advance(op, others, resume) {
            return Some(None);
        }
        self.put_back(op);
        Some(Some(resume))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register of one number; `Unsure` may or may not add one.
    enum Number {
        Write(u32),
        Read(u32),
        Unsure,
    }

    struct Register;

    impl Model for Register {
        type State = u32;
        type Op = Number;

        fn start(&self) -> u32 {
            0
        }

        fn step(&self, state: &u32, op: &Number) -> Vec<u32> {
            match op {
                Number::Write(value) => vec![*value],
                Number::Read(value) if value == state => vec![*state],
                Number::Read(_) => vec![],
                Number::Unsure => vec![*state, state + 1],
            }
        }

        fn too_late(&self, _: &u32, _: &Number) -> bool {
            false
        }
    }

    fn check(ops: Vec<(u64, Option<u64>, Number)>, expected: &Answer) {
        let spans: Vec<Span<Number>> =
            ops.into_iter().map(|(call, end, op)| Span { call, end, hint: 0, op }).collect();
        assert_eq!(search(&Register, &spans, 10_000), *expected);
    }

    #[test]
    fn one_after_the_other_is_an_order() {
        check(vec![(1, Some(2), Number::Write(7)), (3, Some(4), Number::Read(7))], &Answer::Yes);
    }

    #[test]
    fn a_read_of_what_was_overwritten_before_it_began_is_none() {
        let ops = vec![
            (1, Some(2), Number::Write(7)),
            (3, Some(4), Number::Write(8)),
            (5, Some(6), Number::Read(7)),
        ];
        check(ops, &Answer::No { most: 2, stuck: 2 });
    }

    #[test]
    fn what_overlaps_may_come_in_either_order() {
        let overlap = |read| {
            vec![
                (1, Some(10), Number::Write(7)),
                (2, Some(9), Number::Write(8)),
                (11, Some(12), Number::Read(read)),
            ]
        };
        check(overlap(7), &Answer::Yes);
        check(overlap(8), &Answer::Yes);
        check(overlap(9), &Answer::No { most: 2, stuck: 2 });
    }

    #[test]
    fn reads_that_saw_two_orders_are_none() {
        let ops = vec![
            (1, Some(20), Number::Write(7)),
            (2, Some(21), Number::Write(8)),
            (3, Some(4), Number::Read(7)),
            (5, Some(6), Number::Read(8)),
            (7, Some(8), Number::Read(7)),
        ];
        assert!(matches!(
            search(
                &Register,
                &ops.into_iter().map(|(call, end, op)| Span { call, end, hint: 0, op }).collect::<Vec<_>>(),
                10_000
            ),
            Answer::No { .. }
        ));
    }

    #[test]
    fn an_unknown_write_may_happen_late_or_never_but_not_before_it_began() {
        let late = |read| {
            vec![
                (1, Some(2), Number::Write(7)),
                (3, None, Number::Write(8)),
                (5, Some(6), Number::Read(7)),
                (7, Some(8), Number::Read(read)),
            ]
        };
        check(late(8), &Answer::Yes);
        check(late(7), &Answer::Yes);
        let early =
            vec![(1, Some(2), Number::Write(7)), (3, Some(4), Number::Read(8)), (5, None, Number::Write(8))];
        check(early, &Answer::No { most: 1, stuck: 1 });
    }

    #[test]
    fn an_unknown_write_happens_once() {
        let ops = vec![
            (1, None, Number::Write(8)),
            (2, Some(3), Number::Read(8)),
            (4, Some(5), Number::Write(7)),
            (6, Some(7), Number::Read(8)),
        ];
        check(ops, &Answer::No { most: 3, stuck: 3 });
    }

    #[test]
    fn every_state_an_operation_may_lead_to_is_tried() {
        let unsure = |read| {
            vec![(1, Some(2), Number::Unsure), (3, Some(4), Number::Unsure), (5, Some(6), Number::Read(read))]
        };
        for read in 0..=2 {
            check(unsure(read), &Answer::Yes);
        }
        check(unsure(3), &Answer::No { most: 2, stuck: 2 });
    }

    #[test]
    fn a_search_that_is_cut_short_says_so() {
        let ops: Vec<Span<Number>> = (0..40)
            .map(|n| Span {
                call: n + 1,
                end: Some(100 + n),
                hint: 0,
                op: Number::Write(u32::try_from(n).expect("small")),
            })
            .chain([Span { call: 200, end: Some(201), hint: 0, op: Number::Read(99) }])
            .collect();
        assert_eq!(search(&Register, &ops, 1_000), Answer::GaveUp(1_000));
    }
}
