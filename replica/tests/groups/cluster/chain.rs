//! A machine that shows every difference: it chains a digest over all commands and counts how
//! often each was applied.

use std::ops::ControlFlow;

use bytes::Bytes;
use replica::engine::{EngineError, View};
use replica::group::Group;
use replica::machine::{At, Machine, Txn};

/// Holds the number of commands in memory as well, to show that caches are rebuilt.
#[derive(Default)]
pub struct Chain {
    pub count: u64,
}

fn number(bytes: Option<Bytes>) -> u64 {
    bytes.map_or(0, |bytes| u64::from_be_bytes(bytes.as_ref().try_into().expect("eight bytes")))
}

impl Machine for Chain {
    fn restore(&mut self, view: &dyn View) -> Result<(), EngineError> {
        self.count = number(view.get(b"count")?);
        Ok(())
    }

    fn apply(&mut self, txn: &mut Txn<'_>, _at: At, command: &Bytes) -> Result<Bytes, EngineError> {
        let durable = number(txn.get(b"count")?);
        assert_eq!(durable, self.count, "the cache is what the state says");
        self.count += 1;
        let mut digest = blake3::Hasher::new();
        digest.update(&txn.get(b"digest")?.unwrap_or_default());
        digest.update(command);
        digest.update(txn.attached().map_or(&[][..], |content| content));
        let key = [b"c/", command.as_ref()].concat();
        let times = number(txn.get(&key)?) + 1;
        txn.put(key, Bytes::copy_from_slice(&times.to_be_bytes()));
        txn.put(&b"count"[..], Bytes::copy_from_slice(&self.count.to_be_bytes()));
        txn.put(&b"digest"[..], Bytes::copy_from_slice(digest.finalize().as_bytes()));
        Ok(Bytes::copy_from_slice(&self.count.to_be_bytes()))
    }
}

/// How many commands a member holds, and their digest.
pub fn held(member: &Group<Chain>) -> (u64, Bytes) {
    member.read(|chain, view| {
        let count = number(view.get(b"count").expect("readable"));
        assert_eq!(count, chain.count, "a consistent cut");
        (count, view.get(b"digest").expect("readable").unwrap_or_default())
    })
}

/// How often a member applied `command`.
pub fn times(member: &Group<Chain>, command: &str) -> u64 {
    member.read(|_, view| number(view.get(&[b"c/", command.as_bytes()].concat()).expect("readable")))
}

/// All commands a member holds, in key order.
pub fn commands(member: &Group<Chain>) -> Vec<String> {
    member.read(|_, view| {
        let mut commands = Vec::new();
        let mut visit = |key: &[u8], _: &[u8]| {
            commands.push(String::from_utf8_lossy(&key[2..]).into_owned());
            ControlFlow::Continue(())
        };
        view.scan(b"c/", b"c0", false, &mut visit).expect("readable");
        commands
    })
}
