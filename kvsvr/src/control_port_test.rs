//! What a port answers when its member stops leading in the middle of a call.

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::*;
use crate::group::Standing;
use crate::machine::control::ControlMachine;
use crate::outcome::not_done;
use crate::testing::{LocalMachine, LocalMember};

/// A member that leads until it has carried out a compaction.
struct Leaving(LocalMember<ControlMachine>);

#[async_trait]
impl KvGroup for Leaving {
    async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        // Behind the byte that tells the format.
        let decoded = ControlCommand::decode(command.slice(1..)).expect("a command");
        let reply = self.0.propose(command).await;
        if matches!(decoded.command, Some(Command::Compact(_))) {
            self.0.set_leader(None);
        }
        reply
    }

    async fn propose_attached(&self, command: Bytes, content: Bytes) -> Result<Bytes, ProposeError> {
        self.0.propose_attached(command, content).await
    }

    async fn read_barrier(&self) -> Result<(), ReadError> {
        self.0.read_barrier().await
    }

    async fn read_barrier_anywhere(&self) -> Result<(), ReadError> {
        self.0.read_barrier_anywhere().await
    }

    fn applied(&self) -> watch::Receiver<u64> {
        self.0.applied()
    }

    fn read(&self, visit: &mut dyn FnMut(&dyn View)) {
        self.0.read(visit);
    }

    fn read_long(&self, visit: &mut dyn FnMut(&dyn View)) {
        self.0.read_long(visit);
    }

    fn standing(&self) -> Standing {
        self.0.standing()
    }
}

#[tokio::test]
async fn a_compaction_whose_sweep_lost_its_leader_is_not_said_to_be_undone() {
    let machine = LocalMachine::new(ControlMachine);
    let port = ControlPort::new(Arc::new(Leaving(LocalMember::new(machine))));
    let command = |command| ControlCommand { command: Some(command), author: None };
    for value in ["one", "two", "three"] {
        let put = PutRequest { key: "k".into(), value: value.into(), ..PutRequest::default() };
        port.carry_out(command(Command::Put(put))).await.expect("put");
    }
    let compact = CompactionRequest { revision: 3, physical: true };
    let error = port.carry_out(command(Command::Compact(compact))).await.expect_err("it leads no more");
    assert!(!not_done(&error.status()), "it would be made again: {error}");
    assert!(matches!(error, CallError::Unknown(_)), "{error}");
}
