//! Which cluster a command talks to, and the connections to it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Method;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use world::NodeId;
use world::disk::{Disk, RealDisk};
use world::net::{Net, TcpNet};

use crate::config::{Cluster, Node};
use crate::dev::{admin_token, layout::DevDir};
use crate::failure::{Exit, Failure};
use crate::http::{HttpClient, admin_call};

/// How long an admin call may take.
const CALL_WITHIN: Duration = Duration::from_secs(15);
/// A node that has not answered for so long may stand still: the next one is asked beside it.
const ASK_NEXT_AFTER: Duration = Duration::from_millis(800);

/// The cluster to talk to.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// The directory of a dev cluster
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// The file that describes the cluster
    #[arg(long, env = "HONGBAO_CLUSTER", conflicts_with = "dir")]
    pub cluster: Option<PathBuf>,
}

/// A cluster whose admin endpoints can be called.
pub struct Connected {
    /// What is known about it.
    pub cluster: Cluster,
    /// How it is reached.
    pub net: Arc<dyn Net>,
    token: Option<String>,
    /// Who did not answer when last asked; they are asked last.
    silent: Mutex<BTreeSet<NodeId>>,
}

impl Target {
    /// Reads the cluster's description.
    ///
    /// # Errors
    /// When neither option was given or the file is wrong.
    pub fn connect(&self) -> Result<Connected, Failure> {
        let cluster = match (&self.dir, &self.cluster) {
            (Some(dir), _) => DevDir::load(dir)?.cluster()?,
            (None, Some(file)) => Cluster::load(file)?,
            (None, None) => {
                let cure = "name it with --dir DIR (a dev cluster) or --cluster FILE";
                return Err(Failure::new(Exit::Usage, format!("which cluster? {cure}")));
            }
        };
        Connected::to(cluster, Arc::new(TcpNet), &RealDisk)
    }
}

impl Connected {
    /// A cluster whose description is at hand.
    ///
    /// # Errors
    /// When the admin token cannot be read.
    pub fn to(cluster: Cluster, net: Arc<dyn Net>, disk: &dyn Disk) -> Result<Connected, Failure> {
        let token = admin_token(disk, &cluster)?;
        Ok(Connected { cluster, net, token, silent: Mutex::default() })
    }

    /// Calls one node.
    ///
    /// # Errors
    /// As [`admin_call`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        node: &Node,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, Failure> {
        self.call_within(CALL_WITHIN, node, method, path, body).await
    }

    /// Calls one node that has so long to answer.
    ///
    /// # Errors
    /// As [`admin_call`].
    pub async fn call_within<T: DeserializeOwned>(
        &self,
        within: Duration,
        node: &Node,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, Failure> {
        let mut client = HttpClient::new(Arc::clone(&self.net), &node.admin).with_bearer(self.token.clone());
        admin_call(&mut client, method, path, body, within).await
    }

    /// Calls the nodes in turn until one answers. A node that stands still holds nobody up: after a
    /// moment the next one is asked beside it, and the first answer counts. `after` are tried last,
    /// because they are the ones the call is about. The call must bear to be carried out twice.
    ///
    /// # Errors
    /// The refusal of the node that answered, or that none did.
    pub async fn call_any<T: DeserializeOwned>(
        &self,
        after: impl Fn(NodeId) -> bool,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, Failure> {
        let mut nodes: Vec<&Node> = self.cluster.nodes.iter().collect();
        let silent = self.silent.lock().clone();
        nodes.sort_by_key(|node| (silent.contains(&node.id), after(node.id), node.id));
        let ask = |node: &'_ Node| {
            let (node, method, body) = (node.clone(), method.clone(), body.clone());
            async move { (node.id, self.call::<T>(&node, method, path, body).await) }
        };
        let mut rest = nodes.into_iter();
        let (mut asked, mut reasons) = (FuturesUnordered::new(), Vec::new());
        loop {
            if let Some(node) = rest.next() {
                asked.push(ask(node));
                self.silent.lock().insert(node.id);
            }
            let answer = if rest.len() > 0 {
                tokio::time::timeout(ASK_NEXT_AFTER, asked.next()).await.ok()
            } else {
                Some(asked.next().await)
            };
            match answer {
                None => {}
                Some(Some((node, Err(failure)))) if failure.exit == Exit::Unavailable => {
                    reasons.push(format!("{node}: {failure}"));
                }
                Some(Some((node, outcome))) => {
                    self.silent.lock().remove(&node);
                    return outcome;
                }
                Some(None) => {
                    let message = format!("no node could answer\n{}", reasons.join("\n"));
                    return Err(Failure::new(Exit::Unavailable, message));
                }
            }
        }
    }
}
