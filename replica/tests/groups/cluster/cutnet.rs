//! TCP whose links can be cut: bytes stop, nobody is told, as when a cable is pulled.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use world::net::{Connection, Incoming, Net, TcpNet};

/// Which addresses cannot talk to each other.
pub struct Cuts {
    cut: watch::Sender<BTreeSet<(String, String)>>,
}

fn link(one: &str, other: &str) -> (String, String) {
    let (low, high) = if one < other { (one, other) } else { (other, one) };
    (low.to_owned(), high.to_owned())
}

impl Cuts {
    pub fn new() -> Arc<Cuts> {
        Arc::new(Cuts { cut: watch::channel(BTreeSet::new()).0 })
    }

    pub fn cut(&self, one: &str, other: &str) {
        self.cut.send_modify(|cut| {
            cut.insert(link(one, other));
        });
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
        tokio::spawn(carry(ours, far, link, self.cuts.cut.subscribe()));
        Ok(Connection::new(near, None))
    }
}

/// Carries bytes both ways. While the link is cut it carries none and keeps both ends open; once
/// it is healed the old connection is gone.
async fn carry(
    near: tokio::io::DuplexStream,
    far: Connection,
    link: (String, String),
    mut cuts: watch::Receiver<BTreeSet<(String, String)>>,
) {
    let (mut near_read, mut near_write) = tokio::io::split(near);
    let (mut far_read, mut far_write) = tokio::io::split(far);
    let there = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = near_read.read(&mut buffer).await {
            if far_write.write_all(&buffer[..count]).await.is_err() {
                return;
            }
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
