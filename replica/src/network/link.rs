//! Everything that leads to one peer: three connections and the append stream shared by all groups.
//!
//! ```text
//!   session --frame--> outbound (bounded) --> stream --> peer
//!   session <--reply-- routes (by session) <-- reader <--+
//! ```
//!
//! Invariant: a reply goes to the session that asked or nowhere. When the stream breaks every
//! session on it learns so, and none is routed to a stream that is broken.
//!
//! Not here: the order and number of a session's frames ([`super::session`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use world::net::{AddressError, Net};

use crate::codec::pb::peer_client::PeerClient;
use crate::codec::pb::{AppendFrame, AppendReply};
use crate::limits::{LINK_FRAMES_MAX, LINK_OPEN_DEADLINE, LINK_RETRY_PAUSE, MESSAGE_BYTES_MAX};

/// The links of one host, by the peer's address.
pub(crate) struct Links {
    net: Arc<dyn Net>,
    links: Mutex<BTreeMap<String, Arc<Link>>>,
}

impl Links {
    pub(crate) fn new(net: Arc<dyn Net>) -> Arc<Links> {
        Arc::new(Links { net, links: Mutex::new(BTreeMap::new()) })
    }

    /// The link to `address`; made when it is asked for the first time, connected when used.
    ///
    /// # Errors
    /// [`AddressError`].
    pub(crate) fn to(&self, address: &str) -> Result<Arc<Link>, AddressError> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(address) {
            return Ok(Arc::clone(link));
        }
        let link = Arc::new(Link::new(&self.net, address)?);
        links.insert(address.to_owned(), Arc::clone(&link));
        Ok(link)
    }

    /// Forgets all links; sessions that still hold one end with it.
    pub(crate) fn clear(&self) {
        let links = std::mem::take(&mut *self.links.lock());
        for link in links.values() {
            if let Ok(mut dial) = link.dial.try_lock() {
                dial.stream = None;
            }
        }
    }
}

/// The way to one peer.
pub(crate) struct Link {
    append: PeerClient<Channel>,
    /// Heartbeats, votes, transfers.
    pub(crate) control: PeerClient<Channel>,
    /// Snapshots.
    pub(crate) bulk: PeerClient<Channel>,
    dial: tokio::sync::Mutex<Dial>,
    next_session: AtomicU64,
}

#[derive(Default)]
struct Dial {
    stream: Option<AppendStream>,
    failed: Option<(Instant, String)>,
}

/// The live append stream.
#[derive(Clone)]
struct AppendStream {
    outbound: mpsc::Sender<AppendFrame>,
    routes: Arc<Routes>,
}

/// Where replies go. Closed for good when the stream breaks.
struct Routes {
    sessions: Mutex<Option<BTreeMap<u64, mpsc::UnboundedSender<AppendReply>>>>,
    /// Sessions that ended here and of which the peer has not been told.
    closed: Mutex<Vec<u64>>,
}

/// One session's place on the stream. Dropping it ends the session.
pub(crate) struct Seat {
    pub(crate) session: u64,
    pub(crate) outbound: mpsc::Sender<AppendFrame>,
    /// Bounded by the session's window: the peer answers each frame once.
    pub(crate) replies: mpsc::UnboundedReceiver<AppendReply>,
    routes: Arc<Routes>,
}

impl Link {
    fn new(net: &Arc<dyn Net>, address: &str) -> Result<Link, AddressError> {
        let client = || -> Result<PeerClient<Channel>, AddressError> {
            let channel = world::net::channel(net, address)?;
            Ok(PeerClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX))
        };
        Ok(Link {
            append: client()?,
            control: client()?,
            bulk: client()?,
            dial: tokio::sync::Mutex::new(Dial::default()),
            next_session: AtomicU64::new(1),
        })
    }

    /// Opens a session, and the stream first when there is none.
    ///
    /// # Errors
    /// Why the peer cannot be reached, for people.
    pub(crate) async fn open_session(&self) -> Result<Seat, String> {
        let session = self.next_session.fetch_add(1, Ordering::Relaxed);
        let mut dial = self.dial.lock().await;
        if let Some(seat) = dial.stream.as_ref().and_then(|stream| stream.seat(session)) {
            return Ok(seat);
        }
        // All groups come here at once when a peer goes away: one dials, the others believe it.
        if let Some((when, reason)) = &dial.failed
            && when.elapsed() < LINK_RETRY_PAUSE
        {
            let (again, reason) = (*when + LINK_RETRY_PAUSE, reason.clone());
            drop(dial);
            // openraft waits between requests, not between attempts to open a stream: whoever was
            // answered at once would ask again at once, and keep a core busy while a peer is away.
            sleep_until(again).await;
            return Err(reason);
        }
        match self.open_stream().await {
            Ok(stream) => {
                let seat = stream.seat(session).ok_or_else(|| "the stream broke at once".to_owned());
                *dial = Dial { stream: Some(stream), failed: None };
                seat
            }
            Err(reason) => {
                *dial = Dial { stream: None, failed: Some((Instant::now(), reason.clone())) };
                Err(reason)
            }
        }
    }

    async fn open_stream(&self) -> Result<AppendStream, String> {
        let routes =
            Arc::new(Routes { sessions: Mutex::new(Some(BTreeMap::new())), closed: Mutex::new(Vec::new()) });
        let (outbound, frames) = mpsc::channel(LINK_FRAMES_MAX);
        let closing = Arc::clone(&routes);
        let frames = ReceiverStream::new(frames).map(move |mut frame: AppendFrame| {
            frame.closed = std::mem::take(&mut *closing.closed.lock());
            frame
        });
        let mut client = self.append.clone();
        let replies = timeout(LINK_OPEN_DEADLINE, client.append(frames))
            .await
            .map_err(|_| "no answer to opening the append stream".to_owned())?
            .map_err(|status| format!("append stream refused: {status}"))?
            .into_inner();
        tokio::spawn(read_replies(replies, Arc::clone(&routes)));
        Ok(AppendStream { outbound, routes })
    }
}

/// Hands each reply to its session until the stream ends.
async fn read_replies(mut replies: Streaming<AppendReply>, routes: Arc<Routes>) {
    while let Ok(Some(reply)) = replies.message().await {
        if let Some(sessions) = &*routes.sessions.lock()
            && let Some(session) = sessions.get(&reply.session)
        {
            let _ = session.send(reply); // A session may have ended a moment ago.
        }
    }
    *routes.sessions.lock() = None;
}

impl AppendStream {
    /// A place for `session`; `None` when the stream is broken.
    fn seat(&self, session: u64) -> Option<Seat> {
        let (sender, replies) = mpsc::unbounded_channel();
        let mut sessions = self.routes.sessions.lock();
        let replaced = sessions.as_mut()?.insert(session, sender);
        assert!(replaced.is_none(), "session numbers are never used twice");
        Some(Seat { session, outbound: self.outbound.clone(), replies, routes: Arc::clone(&self.routes) })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let removed =
            self.routes.sessions.lock().as_mut().and_then(|sessions| sessions.remove(&self.session));
        if removed.is_some() {
            self.routes.closed.lock().push(self.session);
            // A full stream carries the news with its next frame.
            let _ = self.outbound.try_send(AppendFrame::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use async_trait::async_trait;
    use world::net::{Connection, Incoming};

    use super::*;

    /// A network where nobody is at home.
    struct Nobody;

    #[async_trait]
    impl Net for Nobody {
        async fn listen(&self, _address: &str) -> io::Result<Incoming> {
            Err(io::ErrorKind::AddrInUse.into())
        }

        async fn connect(&self, _address: &str) -> io::Result<Connection> {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_away_is_asked_at_a_pace_and_not_in_a_busy_loop() {
        let links = Links::new(Arc::new(Nobody));
        let link = links.to("b1:7000").expect("an address");
        let (started, mut attempts) = (Instant::now(), 0u32);
        while started.elapsed() < LINK_RETRY_PAUSE * 10 {
            assert!(link.open_session().await.is_err());
            attempts += 1;
            assert!(attempts <= 30, "{attempts} attempts in {:?}", started.elapsed());
        }
    }
}
