//! The opener and the settler of a node, from the moment the active build's secrets are on its disk.
//!
//! Invariant: they work for the build that is active, under the key list that stands in KvSvr:
//! a revoked key is refused within a second, without a restart.
//!
//! Not here: the decisions themselves (crate `payment`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use kvsvr::api::Kv;
use payment::claims::Limits;
use payment::open::decide::{Code, EventView};
use payment::open::{OpenerWatches, PacketOpener};
use payment::settle::decide::Rules;
use payment::settle::{Settler, SettlerConfig};
use queue::api::Queue;
use ticket::control::EventRecord;
use ticket::id::UserId;
use ticket::keys::{BuildSecret, KeyList, SealMaster};
use ticket::manifest::{Manifest, load_signed};
use ticket::open::OpenKeyring;
use ticket::seal::Unsealer;
use ticket::sign::VerifyingKey;
use tokio::sync::watch;
use world::Clock;
use world::disk::Disk;

use super::{event, keys};
use crate::failure::{Context, Exit, Failure};
use crate::store::TicketStore;

/// How often event and key list are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What the payment roles of a node work with.
pub struct Payments {
    kv: Arc<dyn Kv>,
    queue: Arc<dyn Queue>,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    store: Arc<TicketStore>,
    opener: ArcSwapOption<PacketOpener>,
    settler: ArcSwapOption<Settler>,
    paused: watch::Sender<bool>,
}

/// What is kept up to date for the build that is active.
struct Active {
    event: watch::Sender<Option<Arc<EventView>>>,
    keys: watch::Sender<Arc<OpenKeyring>>,
    key_list: KeyList,
}

impl Payments {
    /// Payment roles that wait for a build.
    #[must_use]
    pub fn new(
        kv: Arc<dyn Kv>,
        queue: Arc<dyn Queue>,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        store: Arc<TicketStore>,
    ) -> Arc<Payments> {
        let (opener, settler) = (ArcSwapOption::empty(), ArcSwapOption::empty());
        let paused = watch::Sender::new(false);
        Arc::new(Payments { kv, queue, disk, clock, store, opener, settler, paused })
    }

    /// Lets the settler take nothing more from the queue, or go on. The batch it has is finished.
    pub fn pause_settling(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    /// What was counted so far: opens and settlements.
    #[must_use]
    pub fn counters(&self) -> Vec<(String, u64)> {
        let mut counters = Vec::new();
        if let Some(opener) = &*self.opener.load() {
            counters.extend(
                opener.counters().snapshot().into_iter().map(|(code, n)| (format!("open.{code}"), n)),
            );
        }
        if let Some(settler) = &*self.settler.load() {
            counters.extend(
                settler.counters().snapshot().into_iter().map(|(code, n)| (format!("settle.{code}"), n)),
            );
        }
        counters
    }

    /// Waits for a build, then keeps opener and settler going until `stopped`.
    /// While the node is `drained` nothing is settled here; what was taken before is finished.
    pub async fn run(self: Arc<Self>, mut stopped: watch::Receiver<bool>, drained: watch::Receiver<bool>) {
        let mut active: Option<Active> = None;
        let mut settling = None;
        while !*stopped.borrow() {
            if let Err(failure) = self.look(&mut active, &mut settling, &stopped, &drained).await {
                tracing::warn!(%failure, "the payment roles cannot be brought up to date");
            }
            let pause = tokio::time::timeout(LOOK_EVERY, stopped.changed());
            if let Ok(Err(_)) = pause.await {
                break;
            }
        }
        if let Some(task) = settling {
            let task: tokio::task::JoinHandle<()> = task;
            if task.await.is_err() {
                tracing::error!("the settler ended in a panic");
            }
        }
    }

    async fn look(
        self: &Arc<Self>,
        active: &mut Option<Active>,
        settling: &mut Option<tokio::task::JoinHandle<()>>,
        stopped: &watch::Receiver<bool>,
        drained: &watch::Receiver<bool>,
    ) -> Result<(), Failure> {
        // Taken before the question: the answer is at least as new as this.
        let asked_at = self.clock.now();
        let Some((record, _)) = event::read(&*self.kv).await? else { return Ok(()) };
        let secrets = self.store.secrets_dir(record.build);
        if !self.disk.exists(&secrets.join("sign.pub")) {
            return Ok(());
        }
        // Without a list no key is known to be good.
        let Some((list, _)) = keys::read(&*self.kv, record.build).await? else { return Ok(()) };
        let view = Arc::new(EventView { event: record.clone(), confirmed_ms: asked_at });
        match active {
            None => {
                *active = Some(self.activate(&record, &secrets, view, list)?);
                tracing::info!(build = %record.build, "opening and settling");
            }
            Some(active) => {
                active.event.send_replace(Some(view));
                if list != active.key_list {
                    let ring = active.keys.borrow().with_list(list.clone());
                    active.keys.send_replace(Arc::new(ring));
                    active.key_list = list;
                    tracing::warn!("the key list has changed");
                }
            }
        }
        if let Some(ended) = settling.take_if(|task| task.is_finished())
            && ended.await.is_err()
        {
            tracing::error!("the settler ended in a panic and is not started again");
            self.settler.store(None);
        }
        if settling.is_none() && !*drained.borrow() && !*self.paused.borrow() {
            let settler = self.settler.load_full();
            *settling = settler.map(|settler| settle(settler, stopped, drained, self.paused.subscribe()));
        }
        Ok(())
    }

    fn activate(
        &self,
        record: &EventRecord,
        secrets: &Path,
        view: Arc<EventView>,
        key_list: KeyList,
    ) -> Result<Active, Failure> {
        let reading = |what: &str| format!("reading {what} of build {}", record.build);
        let trusted = VerifyingKey::load(&*self.disk, &secrets.join("sign.pub"))
            .context(Exit::Denied, reading("sign.pub"))?;
        let manifest = load_signed(&*self.disk, &secrets.join("manifest.json"), &trusted);
        let manifest: Manifest = manifest.context(Exit::Unverified, reading("the manifest"))?;
        let secret = BuildSecret::load(&*self.disk, &secrets.join("build.key"))
            .context(Exit::Denied, reading("build.key"))?;
        let master = SealMaster::load(&*self.disk, &secrets.join("seal.key"))
            .context(Exit::Denied, reading("seal.key"))?;
        let ring = OpenKeyring::new(&secret, record.build, manifest.key_count, key_list.clone());
        let (event, event_watch) = watch::channel(Some(view));
        let (keys, key_watch) = watch::channel(Arc::new(ring));
        let unsealer = Unsealer::new(master, &record.event, record.build);
        let watches = OpenerWatches { event: event_watch, keys: key_watch.clone() };
        let opener = PacketOpener::new(Arc::clone(&self.queue), Arc::clone(&self.kv), unsealer, watches);
        let rules = Rules { limits: limits(&manifest), instant_credit: true };
        let settler = Arc::new(Settler::new(
            Arc::clone(&self.kv),
            Arc::clone(&self.queue),
            key_watch,
            record.build,
            rules,
            SettlerConfig::default(),
        ));
        self.opener.store(Some(Arc::new(opener)));
        self.settler.store(Some(settler));
        Ok(Active { event, keys, key_list })
    }
}

/// Settles until the node stops, is drained or is told to pause.
fn settle(
    settler: Arc<Settler>,
    stopped: &watch::Receiver<bool>,
    drained: &watch::Receiver<bool>,
    mut paused: watch::Receiver<bool>,
) -> tokio::task::JoinHandle<()> {
    let (mut stopped, mut drained) = (stopped.clone(), drained.clone());
    tokio::spawn(async move {
        let stop = async move {
            // An error means that the sender is gone, which is a stop too.
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => {}
                _ = drained.wait_for(|drained| *drained) => {}
                _ = paused.wait_for(|paused| *paused) => {}
            }
        };
        settler.run(stop).await;
    })
}

/// The limits on what one user may be credited, as the script has them.
#[must_use]
pub fn limits(manifest: &Manifest) -> Limits {
    let most = |limit: u32| (limit > 0).then_some(limit);
    Limits {
        event_max: most(manifest.claims_per_user_max),
        merchant_max: most(manifest.claims_per_merchant_max),
        merchant_of: manifest.batches.iter().map(|batch| (batch.batch, batch.merchant_id)).collect(),
    }
}

#[async_trait]
impl access::opener::Opener for Payments {
    async fn open(
        &self,
        user: u64,
        ticket: &[u8],
    ) -> Result<access::opener::Opened, access::opener::OpenRefused> {
        let opener = self.opener.load_full();
        let opened = match opener {
            Some(opener) => opener.open(UserId(user), ticket, self.clock.now()).await,
            None => Err(Code::Unavailable),
        };
        match opened {
            Ok(opened) => Ok(access::opener::Opened {
                packet_id: opened.packet.to_string(),
                amount_fen: opened.amount.get(),
            }),
            Err(code) => Err(access::opener::OpenRefused {
                code: code.name(),
                message: code.message().to_owned(),
                retryable: code.retryable(),
            }),
        }
    }
}
