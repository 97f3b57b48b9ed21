//! A network inside one runtime: no socket, no thread, no time of its own.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use world::net::{Connection, Incoming, Net};

/// Bytes under way on one connection.
const WIRE_BYTES: usize = 256 << 10;

/// Who listens where.
#[derive(Clone, Default)]
pub struct MemNet {
    listeners: Arc<Mutex<BTreeMap<String, mpsc::Sender<Connection>>>>,
}

#[async_trait]
impl Net for MemNet {
    /// Takes the address over: who listened there before is dead.
    async fn listen(&self, address: &str) -> io::Result<Incoming> {
        let (sender, receiver) = mpsc::channel(64);
        self.listeners.lock().insert(address.to_owned(), sender);
        Ok(Box::pin(ReceiverStream::new(receiver).map(Ok)))
    }

    async fn connect(&self, address: &str) -> io::Result<Connection> {
        let listener = self.listeners.lock().get(address).cloned();
        let listener = listener.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (near, far) = tokio::io::duplex(WIRE_BYTES);
        let sent = listener.send(Connection::new(far, None)).await;
        sent.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Connection::new(near, None))
    }
}
