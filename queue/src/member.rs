//! A Raft group as the partition's log.

use async_trait::async_trait;
use bytes::Bytes;
use replica::engine::View;
use replica::error::{ProposeError, ReadError};
use replica::group::Group;
use world::{NodeId, UnixMs};

use crate::log::{Changed, Log};
use crate::machine::QueueMachine;
use crate::receipt::Token;

#[async_trait]
impl Log for Group<QueueMachine> {
    async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        Group::propose(self, command).await
    }

    async fn read_barrier(&self) -> Result<(), ReadError> {
        Group::read_barrier(self).await
    }

    fn read(&self, visit: &mut dyn FnMut(&QueueMachine, &dyn View)) {
        Group::read(self, |machine, view| visit(machine, view));
    }

    fn token(&self) -> Option<Token> {
        self.term_token().map(|(term, node)| Token { term, node })
    }

    fn leader(&self) -> Option<NodeId> {
        Group::leader(self)
    }

    fn now(&self) -> UnixMs {
        Group::now(self)
    }

    fn changed(&self) -> Changed {
        Box::pin(self.next_change())
    }
}
