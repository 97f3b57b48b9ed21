//! TCP whose links can be cut: bytes stop, nobody is told, as when a cable is pulled.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use world::net::{Connection, Incoming, Net, TcpNet};

type Wire = (String, String);

/// Which addresses cannot talk to each other.
pub struct Cuts {
    cut: watch::Sender<BTreeSet<Wire>>,
    /// Bytes carried from who dialled to who answered.
    carried: Mutex<BTreeMap<Wire, u64>>,
    /// Links that are cut once they have carried so many.
    budgets: Mutex<BTreeMap<Wire, u64>>,
}

fn link(one: &str, other: &str) -> Wire {
    let (low, high) = if one < other { (one, other) } else { (other, one) };
    (low.to_owned(), high.to_owned())
}

impl Cuts {
    pub fn new() -> Arc<Cuts> {
        Arc::new(Cuts {
            cut: watch::channel(BTreeSet::new()).0,
            carried: Mutex::default(),
            budgets: Mutex::default(),
        })
    }

    pub fn cut(&self, one: &str, other: &str) {
        self.cut.send_modify(|cut| {
            cut.insert(link(one, other));
        });
    }

    /// Cuts the link as soon as it has carried `bytes` in all.
    pub fn cut_after(&self, one: &str, other: &str, bytes: u64) {
        self.budgets.lock().insert(link(one, other), bytes);
    }

    /// Bytes the link has carried, from whoever dialled.
    pub fn carried(&self, one: &str, other: &str) -> u64 {
        self.carried.lock().get(&link(one, other)).copied().unwrap_or(0)
    }

    /// Whether the link is cut.
    pub fn is_cut(&self, one: &str, other: &str) -> bool {
        self.cut.borrow().contains(&link(one, other))
    }

    fn count(&self, wire: &Wire, bytes: usize) {
        let carried = {
            let mut carried = self.carried.lock();
            let carried = carried.entry(wire.clone()).or_default();
            *carried += bytes as u64;
            *carried
        };
        let spent = self.budgets.lock().get(wire).is_some_and(|budget| carried >= *budget);
        if spent {
            self.budgets.lock().remove(wire);
            self.cut(&wire.0, &wire.1);
        }
    }

    pub fn heal(&self) {
        self.cut.send_modify(BTreeSet::clear);
    }
}

pub struct CutNet {
    own: String,
    cuts: Arc<Cuts>,
}

impl CutNet {
    pub fn new(own: &str, cuts: Arc<Cuts>) -> CutNet {
        CutNet { own: own.to_owned(), cuts }
    }
}

#[async_trait]
impl Net for CutNet {
    async fn listen(&self, address: &str) -> io::Result<Incoming> {
        TcpNet.listen(address).await
    }

    async fn connect(&self, address: &str) -> io::Result<Connection> {
        let link = link(&self.own, address);
        if self.cuts.cut.borrow().contains(&link) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let far = TcpNet.connect(address).await?;
        let (near, ours) = tokio::io::duplex(1 << 20);
        tokio::spawn(carry(ours, far, link, Arc::clone(&self.cuts)));
        Ok(Connection::new(near, None))
    }
}

/// Carries bytes both ways. While the link is cut it carries none and keeps both ends open; once
/// it is healed the old connection is gone.
async fn carry(near: tokio::io::DuplexStream, far: Connection, link: Wire, watched: Arc<Cuts>) {
    let mut cuts = watched.cut.subscribe();
    let (mut near_read, mut near_write) = tokio::io::split(near);
    let (mut far_read, mut far_write) = tokio::io::split(far);
    let there = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = near_read.read(&mut buffer).await {
            if far_write.write_all(&buffer[..count]).await.is_err() {
                return;
            }
            watched.count(&link, count);
        }
    };
    let back = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = far_read.read(&mut buffer).await {
            if near_write.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = there => {}
        () = back => {}
        cut = cuts.wait_for(|cut| cut.contains(&link)) => if cut.is_err() { return },
    }
    if cuts.borrow().contains(&link) {
        let _ = cuts.wait_for(|cut| !cut.contains(&link)).await;
    }
}
