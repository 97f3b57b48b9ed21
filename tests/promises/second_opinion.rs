//! A checker that others wrote (crate `todc-utils`, Wing, Gong and Lowe's algorithm) on the keys that no
//! transaction touches: it and ours must agree.
//!
//! It knows neither revisions nor unknown outcomes. A write of which nothing is known is put after
//! everything else, where it explains nothing and contradicts nothing, if nobody saw its value; a key of which
//! somebody saw such a value has it where it is: from its call to the end.
//!
//! Invariant: at most so many unknown writes a key: that checker has no bound on its search.
//!
//! Not here: transactions, and what revisions say.

use std::collections::BTreeMap;

use sim::history::Outcome;
use sim::history::kv::{KvCall, KvHistory, KvOp, KvReply};
use sim::oracle::i8_linearizable;
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

/// Unknown writes a key may have to be in the sample.
const UNKNOWN_MAX: usize = 10;
/// Keys in the sample.
const KEYS_MAX: usize = 40;

/// An operation on one key, with its outcome.
#[derive(Clone, Debug)]
enum Deed {
    Put(String),
    Get(Option<String>),
    /// Whether there was anything to remove, if that is known.
    Delete(Option<bool>),
}

struct OneKey;

impl Specification for OneKey {
    type State = Option<String>;
    type Operation = Deed;

    fn init() -> Option<String> {
        None
    }

    fn apply(deed: &Deed, state: &Option<String>) -> (bool, Option<String>) {
        match deed {
            Deed::Put(value) => (true, Some(value.clone())),
            Deed::Get(seen) => (seen == state, state.clone()),
            Deed::Delete(there) => {
                let right = there.is_none_or(|there| there == state.is_some());
                (right, if right { None } else { state.clone() })
            }
        }
    }
}

/// What two checkers say of the keys both could judge.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Opinions {
    /// Keys of which both say that they have an order.
    pub right: usize,
    /// Keys of which both say that they have none.
    pub wrong: usize,
    /// Keys of which they say different things.
    pub split: Vec<String>,
}

/// Asks both.
pub fn ask(history: &KvHistory) -> Opinions {
    let mut keys: BTreeMap<&str, Vec<&KvOp>> = BTreeMap::new();
    // A read without an answer says nothing, and that checker takes no empty history.
    for op in history.ops().iter().filter(|op| op.may_have_happened() && deed(op).is_some()) {
        match &op.call {
            KvCall::Put { key, .. } | KvCall::Get { key } | KvCall::Delete { key } => {
                keys.entry(key).or_default().push(op);
            }
            KvCall::Txn { .. } => {}
        }
    }
    let unknown = |ops: &[&KvOp]| ops.iter().filter(|op| op.reply().is_none()).count();
    let solo = |key: &str| key.rsplit('/').next().is_some_and(|name| name.starts_with('s'));
    let sample = keys.into_iter().filter(|(key, ops)| solo(key) && unknown(ops) <= UNKNOWN_MAX);
    let mut opinions = Opinions::default();
    for (key, ops) in sample.take(KEYS_MAX) {
        let ours = i8_linearizable::check(&KvHistory::from(
            ops.iter().map(|op| without_revision(op)).collect::<Vec<_>>(),
        ));
        match (ours.held, WGLChecker::<OneKey>::is_linearizable(theirs(&ops))) {
            (true, true) => opinions.right += 1,
            (false, false) => opinions.wrong += 1,
            (ours_held, theirs_held) => opinions
                .split
                .push(format!("{key}: ours says {ours_held} ({}), theirs {theirs_held}", ours.detail)),
        }
    }
    opinions
}

fn without_revision(op: &KvOp) -> KvOp {
    let mut op = op.clone();
    if let Outcome::Done(
        KvReply::Put { revision }
        | KvReply::Get { revision, .. }
        | KvReply::Delete { revision, .. }
        | KvReply::Txn { revision, .. },
    ) = &mut op.outcome
    {
        *revision = 0;
    }
    if let Outcome::Done(KvReply::Get { pair: Some(pair), .. }) = &mut op.outcome {
        (pair.create_revision, pair.mod_revision, pair.version) = (0, 0, 0);
    }
    op
}

fn theirs(ops: &[&KvOp]) -> History<Deed> {
    let mut actions: Vec<(u64, usize, Action<Deed>)> = Vec::new();
    for (process, op) in ops.iter().enumerate() {
        let Some(deed) = deed(op) else { continue };
        actions.push((op.invoked.number, process, Action::Call(deed.clone())));
        // After everything else, if nothing is known of its end.
        actions.push((op.over(), process, Action::Response(deed)));
    }
    actions.sort_by_key(|(number, process, _)| (*number, *process));
    History::from_actions(actions.into_iter().map(|(_, process, action)| (process, action)).collect())
}

fn deed(op: &KvOp) -> Option<Deed> {
    match (&op.call, op.reply()) {
        (KvCall::Put { value, .. }, _) => Some(Deed::Put(value.clone())),
        (KvCall::Get { .. }, Some(KvReply::Get { pair, .. })) => {
            Some(Deed::Get(pair.as_ref().map(|pair| pair.value.clone())))
        }
        (KvCall::Delete { .. }, Some(KvReply::Delete { deleted, .. })) => Some(Deed::Delete(Some(*deleted))),
        (KvCall::Delete { .. }, None) => Some(Deed::Delete(None)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sim::history::Moments;
    use sim::history::kv::Pair;

    fn get(value: Option<&str>) -> (KvCall, Outcome<KvReply>) {
        let pair =
            |value: &str| Pair { value: value.to_owned(), create_revision: 1, mod_revision: 1, version: 1 };
        let reply = KvReply::Get { revision: 1, pair: value.map(pair) };
        (KvCall::Get { key: "e/0/s0".to_owned() }, Outcome::Done(reply))
    }

    fn put(value: &str, known: bool) -> (KvCall, Outcome<KvReply>) {
        let done = Outcome::Done(KvReply::Put { revision: 1 });
        let call = KvCall::Put { key: "e/0/s0".to_owned(), value: value.to_owned() };
        (call, if known { done } else { Outcome::Unknown })
    }

    /// One after the other.
    fn check(ops: Vec<(KvCall, Outcome<KvReply>)>, right: bool) {
        let (mut history, mut moments) = (KvHistory::default(), Moments::default());
        for (call, outcome) in ops {
            let id = history.invoke(moments.next(0), 1, None, call);
            history.finish(moments.next(0), id, outcome);
        }
        let expected = Opinions { right: usize::from(right), wrong: usize::from(!right), split: Vec::new() };
        assert_eq!(ask(&history), expected);
    }

    #[test]
    fn both_checkers_see_a_stale_read_and_neither_sees_one_where_there_is_none() {
        check(vec![put("1", true), get(Some("1")), put("2", true), get(Some("2"))], true);
        check(vec![put("1", true), put("2", true), get(Some("1"))], false);
        check(vec![put("1", true), get(None)], false);
    }

    #[test]
    fn to_both_an_unknown_write_may_have_happened_late_or_never_but_not_twice() {
        check(vec![put("1", true), put("2", false), get(Some("1")), get(Some("2"))], true);
        check(vec![put("1", true), put("2", false), get(Some("1")), get(Some("1"))], true);
        check(vec![put("2", false), get(Some("2")), put("3", true), get(Some("2"))], false);
    }
}
