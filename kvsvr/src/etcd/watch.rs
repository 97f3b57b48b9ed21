//! The Watch service: one task per stream, between its client, its session and the hub.
//!
//! ```text
//!   requests --> create, cancel, progress --+
//!   hub, store --> pages ------------------ session --> bounded queue --> client
//!   leader lost, server stops --------------+--> the stream ends with a status
//! ```
//! Any member serves watches, from what it has applied itself.
//!
//! Invariant: a client that does not read makes its own task wait, and nobody else.
//!
//! Not here: which events a client is told (`watch::session`).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, future, stream};
use tokio::sync::{mpsc, oneshot, watch as signal};
use tokio::time::{Interval, MissedTickBehavior, interval_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::leader::LeaderMonitor;
use super::{Identity, leader_wanted};
use crate::auth::AuthDesk;
use crate::control_port::ControlPort;
use crate::limits::{MESSAGE_BYTES_MAX, WATCH_PROGRESS_INTERVAL, WATCH_RESPONSES_QUEUED_MAX};
use crate::outcome::CallError;
use crate::watch::{Hub, Session, Span, Subscription, refused};
use crate::wire::etcdserverpb::watch_request::RequestUnion;
use crate::wire::etcdserverpb::watch_server::Watch;
use crate::wire::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};

/// What a client of a watch hears.
pub type Responses = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

/// etcd's Watch service over the local member.
#[derive(Clone)]
pub struct WatchService {
    port: ControlPort,
    identity: Identity,
    hub: Arc<Hub>,
    leader: Arc<LeaderMonitor>,
    stopping: signal::Sender<bool>,
    progress_interval: Duration,
    desk: Option<AuthDesk>,
}

/// Why a stream's task ends: with a status for the client, or because it is gone.
enum End {
    With(Status),
    Gone,
}

struct Driver<R> {
    requests: R,
    // False once the client has said that no more requests come; its watches go on.
    listening: bool,
    session: Session,
    subscription: Subscription,
    out: mpsc::Sender<Result<WatchResponse, Status>>,
    leader: Option<signal::Receiver<bool>>,
    stopping: signal::Receiver<bool>,
    service: WatchService,
    metadata: MetadataMap,
    ticks: Interval,
}

impl WatchService {
    /// A service over the member behind `port`. Its streams end when `stopping` turns true.
    pub fn new(port: ControlPort, identity: Identity, stopping: signal::Sender<bool>) -> WatchService {
        let (hub, leader) = (Hub::new(port.shared_group()), LeaderMonitor::new(port.shared_group()));
        WatchService {
            port,
            identity,
            hub,
            leader,
            stopping,
            progress_interval: WATCH_PROGRESS_INTERVAL,
            desk: None,
        }
    }

    /// The same, for whom this desk finds to be allowed.
    #[must_use]
    pub(crate) fn guarded_by(mut self, desk: AuthDesk) -> WatchService {
        self.desk = Some(desk);
        self
    }

    /// The same, telling progress this often.
    #[must_use]
    pub fn with_progress_interval(mut self, interval: Duration) -> WatchService {
        self.progress_interval = interval;
        self
    }

    /// Serves one stream. Must be called within the runtime.
    ///
    /// # Errors
    /// A status when there is no leader and the client wants one, or history cannot be read.
    pub fn serve<R>(&self, requests: R, metadata: &MetadataMap) -> Result<Responses, Status>
    where
        R: Stream<Item = Result<WatchRequest, Status>> + Send + Unpin + 'static,
    {
        let leader = match leader_wanted(metadata) {
            true => Some(self.leader.follow().ok_or_else(no_leader)?),
            false => None,
        };
        let subscription = self.hub.subscribe().map_err(storage)?;
        let seen = subscription.take().map_err(storage)?.head;
        let (out, queued) = mpsc::channel(WATCH_RESPONSES_QUEUED_MAX);
        let (ended, end) = oneshot::channel();
        let mut ticks =
            interval_at(tokio::time::Instant::now() + self.progress_interval, self.progress_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut driver = Driver {
            requests,
            listening: true,
            session: Session::new(seen, MESSAGE_BYTES_MAX),
            subscription,
            out,
            leader,
            stopping: self.stopping.subscribe(),
            service: self.clone(),
            metadata: metadata.clone(),
            ticks,
        };
        tokio::spawn(async move {
            if let Err(End::With(status)) = driver.run().await {
                // Nobody hears it when the client has gone meanwhile.
                let _ = ended.send(status);
            }
        });
        // The queue may be full when the stream ends: its last word comes beside it.
        let last = stream::once(end).filter_map(|end| future::ready(end.ok().map(Err)));
        Ok(Box::pin(ReceiverStream::new(queued).chain(last)))
    }
}

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = Responses;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (metadata, _, requests) = request.into_parts();
        Ok(Response::new(self.serve(requests, &metadata)?))
    }
}

fn no_leader() -> Status {
    Status::unavailable("etcdserver: no leader")
}

fn storage(error: replica::engine::EngineError) -> Status {
    CallError::Storage(error.to_string()).status()
}

impl<R> Driver<R>
where
    R: Stream<Item = Result<WatchRequest, Status>> + Send + Unpin,
{
    async fn run(&mut self) -> Result<(), End> {
        loop {
            self.go_live().await?;
            self.catch_up().await?;
            while let Some(response) = self.session.progress() {
                self.send(response).await?;
            }
            if let Some(revision) = self.session.progress_asked() {
                self.subscription.wake_at(revision);
            }
            let behind = self.session.behind_from().is_some();
            tokio::select! {
                biased;
                status = ending(&mut self.leader, &mut self.stopping) => return Err(End::With(status)),
                () = self.out.closed() => return Err(End::Gone),
                request = self.requests.next(), if self.listening => match request {
                    Some(Ok(request)) => self.handle(request).await?,
                    Some(Err(_)) => return Err(End::Gone),
                    None => self.listening = false,
                },
                _ = self.ticks.tick() => {
                    for response in self.session.tick() {
                        self.send(response).await?;
                    }
                }
                () = self.subscription.woken() => {}
                // Watches that are behind get a page a turn; the client's requests come in between.
                () = future::ready(()), if behind => {}
            }
        }
    }

    // Gives the live watches what has happened since the last look.
    async fn go_live(&mut self) -> Result<(), End> {
        let taken = self.subscription.take().map_err(|error| End::With(storage(error)))?;
        let Some(first) = taken.first else {
            self.session.skip_to(taken.head);
            return Ok(());
        };
        let mut from = first.max(self.session.seen() + 1);
        while from <= taken.head {
            let Some(page) = self.subscription.read(from) else {
                self.session.fall_behind(from, taken.head);
                return Ok(());
            };
            let hub = Arc::clone(self.subscription.hub());
            let responses = self.session.deliver(&page, &mut |change| hub.before(change));
            let responses = responses.map_err(|error| End::With(storage(error)))?;
            from = page.through + 1;
            self.send_all(responses).await?;
        }
        Ok(())
    }

    // Gives the watches that are behind one page.
    async fn catch_up(&mut self) -> Result<(), End> {
        let Some(from) = self.session.behind_from() else { return Ok(()) };
        let hub = Arc::clone(self.subscription.hub());
        match hub.replay(from).map_err(|error| End::With(storage(error)))? {
            Ok(page) => {
                let responses = self.session.deliver_behind(&page, &mut |change| hub.before(change));
                let responses = responses.map_err(|error| End::With(storage(error)))?;
                self.send_all(responses).await
            }
            Err(revision) => {
                for (span, response) in self.session.compacted(revision, self.newest()?) {
                    self.subscription.unregister(&span);
                    self.send(response).await?;
                }
                Ok(())
            }
        }
    }

    async fn handle(&mut self, request: WatchRequest) -> Result<(), End> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(&request).await,
            Some(RequestUnion::CancelRequest(request)) => {
                let newest = self.newest()?;
                if let Some((span, response)) = self.session.cancel(request.watch_id, newest) {
                    self.subscription.unregister(&span);
                    self.send(response).await?;
                }
                Ok(())
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                let newest = self.newest()?;
                self.session.ask_progress(newest);
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, request: &WatchCreateRequest) -> Result<(), End> {
        if let Err(status) = self.check(request) {
            let reason = format!("rpc error: code = {:?} desc = {}", status.code(), status.message());
            let response = refused(self.newest()?, &reason);
            return self.send(response).await;
        }
        let span = Span::of_watch(&request.key, &request.range_end);
        // Registered before the revision is read: what happens after that revision is heard of.
        if let Some(span) = &span {
            self.subscription.register(span);
        }
        let newest = self.newest()?;
        let (response, created) = self.session.create(request, newest);
        if let (Some(span), false) = (&span, created) {
            self.subscription.unregister(span);
        }
        self.send(response).await
    }

    fn check(&self, request: &WatchCreateRequest) -> Result<(), Status> {
        let Some(desk) = &self.service.desk else { return Ok(()) };
        let key = if request.key.is_empty() { Bytes::from_static(&[0]) } else { request.key.clone() };
        desk.check(&self.metadata, |access| access.check_read(&key, &request.range_end)).map(|_| ())
    }

    fn newest(&self) -> Result<i64, End> {
        self.subscription.hub().revision().map_err(|error| End::With(storage(error)))
    }

    async fn send_all(&mut self, responses: Vec<WatchResponse>) -> Result<(), End> {
        for response in responses {
            self.send(response).await?;
        }
        Ok(())
    }

    async fn send(&mut self, mut response: WatchResponse) -> Result<(), End> {
        self.service.identity.fill(response.header.get_or_insert_default(), &self.service.port);
        tokio::select! {
            biased;
            sent = self.out.send(Ok(response)) => sent.map_err(|_| End::Gone),
            status = ending(&mut self.leader, &mut self.stopping) => Err(End::With(status)),
        }
    }
}

// Returns when the stream has to end, and what its client is told.
async fn ending(
    leader: &mut Option<signal::Receiver<bool>>,
    stopping: &mut signal::Receiver<bool>,
) -> Status {
    let lost = async {
        match leader {
            // An error means that nobody looks for a leader any more, which is a stop.
            Some(present) => drop(present.wait_for(|present| !*present).await),
            None => future::pending().await,
        }
    };
    tokio::select! {
        () = lost => no_leader(),
        // There can be no error: the service holds the sender, and the driver the service.
        _ = stopping.wait_for(|stop| *stop) => Status::unavailable("etcdserver: server stopped"),
    }
}
