//! A Raft group as the services see it.

use async_trait::async_trait;
use bytes::Bytes;
use replica::engine::View;
use replica::error::{ProposeError, ReadError};
use replica::group::Group;
use replica::machine::Machine;

use tokio::sync::watch;

use crate::group::{KvGroup, Standing};

#[async_trait]
impl<M: Machine> KvGroup for Group<M> {
    async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        Group::propose(self, command).await
    }

    async fn propose_attached(&self, command: Bytes, content: Bytes) -> Result<Bytes, ProposeError> {
        Group::propose_attached(self, command, content).await
    }

    async fn read_barrier(&self) -> Result<(), ReadError> {
        Group::read_barrier(self).await
    }

    async fn read_barrier_anywhere(&self) -> Result<(), ReadError> {
        Group::read_barrier_anywhere(self).await
    }

    fn applied(&self) -> watch::Receiver<u64> {
        Group::applied(self)
    }

    fn read(&self, visit: &mut dyn FnMut(&dyn View)) {
        Group::read(self, |_, view| visit(view));
    }

    fn read_long(&self, visit: &mut dyn FnMut(&dyn View)) {
        visit(&Group::pin(self).view());
    }

    fn standing(&self) -> Standing {
        Group::standing(self)
    }
}
