//! The network door: listening, dialling, and the one way to build a gRPC channel or server.
//!
//! Invariant: every channel keeps its connection alive with HTTP/2 pings and gives up on a dead
//! one. Without that a partition that heals leaves a stream hanging for ever, because nothing on
//! either side ever learns that the old connection is gone.
//!
//! Not here: TLS, authentication, and retries (who calls knows what may be repeated).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::Stream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::{Connected, Server};
use tonic::transport::{Channel, Endpoint};

/// How long an HTTP/2 connection may be silent before it is pinged.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_millis(500);
/// How long a ping may stay unanswered before the connection is given up.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long dialling may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Streams a client may have open on one connection.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 8_192;

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// One connection, whatever network it crosses.
pub struct Connection {
    inner: Box<dyn Duplex>,
    peer: Option<SocketAddr>,
}

impl Connection {
    /// Wraps a stream; `peer` is told to servers.
    pub fn new(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Option<SocketAddr>,
    ) -> Connection {
        Connection { inner: Box::new(stream), peer }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.inner).poll_write(cx, bytes)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.inner).poll_write_vectored(cx, slices)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_shutdown(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = Option<SocketAddr>;
    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer
    }
}

/// Connections as they arrive at a listener.
pub type Incoming = Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>>;

/// The door to the network. Addresses are `host:port` texts; a simulator resolves them itself.
#[async_trait]
pub trait Net: Send + Sync + 'static {
    /// Starts to listen at `address`.
    async fn listen(&self, address: &str) -> io::Result<Incoming>;

    /// Opens a connection to `address`. Gives up after [`CONNECT_TIMEOUT`].
    async fn connect(&self, address: &str) -> io::Result<Connection>;
}

/// The operating system's TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpNet;

#[async_trait]
impl Net for TcpNet {
    async fn listen(&self, address: &str) -> io::Result<Incoming> {
        let listener = tokio::net::TcpListener::bind(address).await?;
        let incoming = futures_util::stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await.map(|(stream, peer)| {
                // Latency matters more than packet count; failing to set it harms nothing.
                let _ = stream.set_nodelay(true);
                Connection::new(stream, Some(peer))
            });
            Some((accepted, listener))
        });
        Ok(Box::pin(incoming))
    }

    async fn connect(&self, address: &str) -> io::Result<Connection> {
        let dialled = tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::TcpStream::connect(address));
        let stream = dialled.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr().ok();
        Ok(Connection::new(stream, peer))
    }
}

/// An address that is not `host:port`.
#[derive(Debug, thiserror::Error)]
#[error("{address:?} is not a host:port address")]
pub struct AddressError {
    address: String,
}

/// A gRPC channel to `address` that connects when first used and reconnects by itself.
///
/// Every call over it still needs its own deadline.
///
/// # Errors
/// When the address cannot be part of a URI.
pub fn channel(net: &Arc<dyn Net>, address: &str) -> Result<Channel, AddressError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| AddressError { address: address.to_owned() })?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(Some(1 << 20))
        .initial_connection_window_size(Some(16 << 20));
    let net = Arc::clone(net);
    let dial = tower::service_fn(move |uri: http::Uri| {
        let net = Arc::clone(&net);
        async move {
            let address = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
            net.connect(address).await.map(TokioIo::new)
        }
    });
    Ok(endpoint.connect_with_connector_lazy(dial))
}

/// A gRPC server with this project's limits and keepalive; add services, then
/// `serve_with_incoming_shutdown`.
pub fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(Some(STREAMS_PER_CONNECTION_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL * 4))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT * 2))
        .initial_stream_window_size(Some(1 << 20))
        .initial_connection_window_size(Some(16 << 20))
        .tcp_nodelay(true)
}
