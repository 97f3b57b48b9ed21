//! The network door over turmoil's TCP: addresses are `host:port` with a simulated host's name.
//!
//! Invariant: a connection is what production code gets from the operating system: bytes in
//! order, a peer, and no notice when the other side is gone but silence.
//!
//! Not here: latency, partitions and holds, which are set on the simulation itself.

use std::io;

use async_trait::async_trait;
use turmoil::net::{TcpListener, TcpStream};
use world::net::{CONNECT_TIMEOUT, Connection, Incoming, Net};

/// The network of the simulation this runs in.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimNet;

#[async_trait]
impl Net for SimNet {
    async fn listen(&self, address: &str) -> io::Result<Incoming> {
        let (_, port) = split(address)?;
        let listener = TcpListener::bind(("0.0.0.0", port)).await?;
        let incoming = futures_util::stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await;
            Some((accepted.map(|(stream, peer)| Connection::new(stream, Some(peer))), listener))
        });
        Ok(Box::pin(incoming))
    }

    async fn connect(&self, address: &str) -> io::Result<Connection> {
        let (host, port) = split(address)?;
        let dialled = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port)));
        let stream = dialled.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let peer = stream.peer_addr().ok();
        Ok(Connection::new(stream, peer))
    }
}

fn split(address: &str) -> io::Result<(&str, u16)> {
    let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    parts.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{address:?} is not host:port")))
}
