//! Hears of every record that leaves a node, at the moment it does: also of those whose answer nobody
//! receives.
//!
//! Invariant: what is heard comes from the place where the record is sealed, not from what a node says
//! of itself later.
//!
//! Not here: judging (oracle/i3_issue_once.rs, oracle/seals.rs).

use std::cell::RefCell;

use access::desk::ISSUED;
use ticket::seal::SealNumber;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// A record that left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Whom it was sealed to.
    pub user: u64,
    /// Its slot.
    pub slot: u64,
    /// Its file.
    pub file: u64,
    /// Its place in the file.
    pub index: u64,
    /// The number of the node that sealed it.
    pub node: u64,
    /// The boot epoch it was sealed under.
    pub boot_epoch: u64,
    /// How many were sealed before under that epoch.
    pub counter: u64,
}

type Ear = Box<dyn Fn(Left)>;

thread_local! {
    static EAR: RefCell<Option<Ear>> = const { RefCell::new(None) };
}

/// From now on this is told of every record that leaves on this thread.
pub fn listen(ear: impl Fn(Left) + 'static) {
    EAR.set(Some(Box::new(ear)));
}

/// Part of the subscriber of a run.
pub struct Tap;

impl Tap {
    /// What it has to be shown.
    #[must_use]
    pub fn filter() -> tracing_subscriber::filter::Targets {
        tracing_subscriber::filter::Targets::new().with_target(ISSUED, tracing::Level::DEBUG)
    }
}

impl<S: Subscriber> Layer<S> for Tap {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != ISSUED {
            return;
        }
        let mut left = Left::default();
        event.record(&mut left);
        EAR.with_borrow(|ear| ear.iter().for_each(|ear| ear(left)));
    }
}

impl Visit for Left {
    fn record_u64(&mut self, field: &Field, value: u64) {
        let place = match field.name() {
            "user" => &mut self.user,
            "slot" => &mut self.slot,
            "file" => &mut self.file,
            "index" => &mut self.index,
            "node" => &mut self.node,
            "boot_epoch" => &mut self.boot_epoch,
            "counter" => &mut self.counter,
            _ => return,
        };
        *place = value;
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        unreachable!("{field} is a number and not {value:?}");
    }
}

impl Left {
    /// The ticket's number.
    #[must_use]
    pub fn number(&self) -> SealNumber {
        SealNumber {
            node: u16::try_from(self.node).expect("it was one"),
            boot_epoch: u32::try_from(self.boot_epoch).expect("it was one"),
            counter: self.counter,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn a_record_is_heard_of_with_all_its_numbers_and_nothing_else_is() {
        let heard: Rc<RefCell<Vec<Left>>> = Rc::default();
        let ear = Rc::clone(&heard);
        listen(move |left| ear.borrow_mut().push(left));
        let subscriber = tracing_subscriber::registry().with(Tap.with_filter(Tap::filter()));
        tracing::subscriber::with_default(subscriber, || {
            let (user, slot, file, index) = (1u64, 2u16, 3u32, 4u32);
            tracing::debug!(target: ISSUED, user, slot, file, index, node = 5u16, boot_epoch = 6u32, counter = 7u64);
            tracing::info!(user, "something else");
        });
        let left = Left { user: 1, slot: 2, file: 3, index: 4, node: 5, boot_epoch: 6, counter: 7 };
        assert_eq!(*heard.borrow(), [left]);
    }
}
