//! Everything that leads to one member: three connections and the append stream shared by all
//! groups.
//!
//! ```text
//!   session --frame--> outbound (bounded) --> stream --> peer
//!   session <--reply-- routes (by session) <-- reader <--+
//! ```
//!
//! Invariant: a reply goes to the session that asked or nowhere. When the stream breaks every
//! session on it learns so, and none is routed to a stream that is broken. Every call says whom it
//! is meant for; when another answers at the member's address, that is remembered and said aloud.
//!
//! Not here: the order and number of a session's frames ([`super::session`]).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use world::mux::Mux;
use world::net::{AddressError, Net};

use crate::codec::pb::peer_client::PeerClient;
use crate::codec::pb::{AppendFrame, AppendReply};
use crate::identity::Identity;
use crate::limits::{LINK_FRAMES_MAX, LINK_OPEN_DEADLINE, LINK_RETRY_PAUSE, MESSAGE_BYTES_MAX};
use crate::member_id::MemberId;
use crate::network::envelope::Envelope;

/// The calls one member answers.
pub(crate) type Calls = PeerClient<InterceptedService<Channel, Envelope>>;

/// Where a link leads: an address, and the member that must answer there. No member in particular
/// is asked only who there is.
type Target = (String, Option<MemberId>);

/// The links of one host.
pub(crate) struct Links {
    own: Identity,
    net: Arc<dyn Net>,
    links: Mutex<BTreeMap<Target, Arc<Link>>>,
}

impl Links {
    pub(crate) fn new(own: Identity, net: Arc<dyn Net>) -> Arc<Links> {
        Arc::new(Links { own, net, links: Mutex::new(BTreeMap::new()) })
    }

    /// The link to `member` at `address`; made when it is asked for the first time, connected when
    /// used.
    ///
    /// # Errors
    /// [`AddressError`].
    pub(crate) fn to(&self, member: Option<MemberId>, address: &str) -> Result<Arc<Link>, AddressError> {
        let target = (address.to_owned(), member);
        let mut links = self.links.lock();
        if let Some(link) = links.get(&target) {
            return Ok(Arc::clone(link));
        }
        let link = Arc::new(Link::new(&self.own, &self.net, &target)?);
        links.insert(target, Arc::clone(&link));
        Ok(link)
    }

    /// Members at whose address another one answers, and what that one said.
    pub(crate) fn refusals(&self) -> BTreeMap<MemberId, String> {
        let links = self.links.lock();
        let refusals = links.iter().filter_map(|((_, member), link)| {
            let refusal = link.refusal.reason.lock().clone()?;
            Some(((*member)?, refusal))
        });
        refusals.collect()
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

/// The way to one member.
pub(crate) struct Link {
    append: Calls,
    /// Heartbeats, votes, transfers.
    pub(crate) control: Calls,
    /// Snapshots.
    pub(crate) bulk: Calls,
    /// Heartbeats of all groups; the stream is opened with the first.
    beats: OnceLock<Mux>,
    refusal: Arc<Refusal>,
    dial: tokio::sync::Mutex<Dial>,
    next_session: AtomicU64,
}

/// What another member said that answers at the address.
struct Refusal {
    address: String,
    reason: Mutex<Option<String>>,
}

impl Refusal {
    fn heard<T>(&self, answer: &Result<T, Status>) {
        let refused = match answer {
            Ok(_) => None,
            Err(status) if status.code() == Code::FailedPrecondition => Some(status.message().to_owned()),
            Err(_) => return,
        };
        let mut known = self.reason.lock();
        if *known == refused {
            return;
        }
        if let Some(reason) = &refused {
            tracing::error!(address = %self.address, %reason, "another member answers");
        }
        *known = refused;
    }
}

#[derive(Default)]
struct Dial {
    stream: Option<AppendStream>,
    /// When the last attempt ended.
    tried: Option<Instant>,
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
    fn new(own: &Identity, net: &Arc<dyn Net>, target: &Target) -> Result<Link, AddressError> {
        let (address, member) = target;
        let envelope = Envelope::new(own, *member);
        let client = || -> Result<Calls, AddressError> {
            let channel = world::net::channel(net, address)?;
            Ok(PeerClient::with_interceptor(channel, envelope.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX))
        };
        Ok(Link {
            beats: OnceLock::new(),
            refusal: Arc::new(Refusal { address: address.clone(), reason: Mutex::new(None) }),
            append: client()?,
            control: client()?,
            bulk: client()?,
            dial: tokio::sync::Mutex::new(Dial::default()),
            next_session: AtomicU64::new(1),
        })
    }

    /// Remembers whether it was the right member that answered.
    pub(crate) fn heard<T>(&self, answer: &Result<T, Status>) {
        self.refusal.heard(answer);
    }

    /// The way of heartbeats.
    pub(crate) fn beats(&self) -> &Mux {
        self.beats.get_or_init(|| {
            let (control, refusal) = (self.control.clone(), Arc::clone(&self.refusal));
            Mux::start(move |calls| {
                let (mut control, refusal) = (control.clone(), Arc::clone(&refusal));
                async move {
                    let opened = control.beats(calls).await;
                    refusal.heard(&opened);
                    opened.map(tonic::Response::into_inner)
                }
                .boxed()
            })
        })
    }

    /// Opens a session, and the stream first when there is none. Whoever comes soon after an attempt
    /// waits: Raft tries again at once when a stream breaks or cannot be opened, and a peer that is
    /// away, stopping or another one would be asked as fast as the processor can.
    ///
    /// # Errors
    /// Why the peer cannot be reached, for people.
    pub(crate) async fn open_session(&self) -> Result<Seat, String> {
        let session = self.next_session.fetch_add(1, Ordering::Relaxed);
        let arrived = Instant::now();
        loop {
            let mut dial = self.dial.lock().await;
            if let Some(seat) = dial.stream.as_ref().and_then(|stream| stream.seat(session)) {
                return Ok(seat);
            }
            // All groups come here at once when a peer goes away: one dials, the others believe it.
            if let Some((when, reason)) = &dial.failed
                && *when > arrived
            {
                return Err(reason.clone());
            }
            let waited = dial.tried.map_or(LINK_RETRY_PAUSE, |tried| tried.elapsed());
            if waited < LINK_RETRY_PAUSE {
                drop(dial);
                tokio::time::sleep(LINK_RETRY_PAUSE - waited).await;
                continue;
            }
            let opened = self.open_stream().await;
            let now = Instant::now();
            *dial = Dial { tried: Some(now), ..Dial::default() };
            let seat = opened.and_then(|stream| {
                let seat = stream.seat(session).ok_or_else(|| "the stream broke at once".to_owned());
                dial.stream = Some(stream);
                seat
            });
            if let Err(reason) = &seat {
                dial.failed = Some((now, reason.clone()));
            }
            return seat;
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
        let opened = timeout(LINK_OPEN_DEADLINE, client.append(frames))
            .await
            .map_err(|_| "no answer to opening the append stream".to_owned())?;
        self.heard(&opened);
        let replies = opened.map_err(|status| format!("append stream refused: {status}"))?.into_inner();
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
    use crate::member_id::DiskNo;

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
        let member = |name: &str| MemberId {
            node: name.parse().expect("a node"),
            disk: DiskNo::new(1).expect("48 bits"),
        };
        let own = Identity { cluster: "test".to_owned(), member: member("a1"), starts: 1 };
        let links = Links::new(own, Arc::new(Nobody));
        let link = links.to(Some(member("b1")), "b1:7000").expect("an address");
        let (started, mut attempts) = (Instant::now(), 0u32);
        while started.elapsed() < LINK_RETRY_PAUSE * 10 {
            assert!(link.open_session().await.is_err());
            attempts += 1;
            assert!(attempts <= 30, "{attempts} attempts in {:?}", started.elapsed());
        }
    }
}
