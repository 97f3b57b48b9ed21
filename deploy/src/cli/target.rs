//! Which cluster a command talks to, and the connections to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::Method;
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
        Ok(Connected { cluster, net, token })
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
        let mut client = HttpClient::new(Arc::clone(&self.net), &node.admin).with_bearer(self.token.clone());
        admin_call(&mut client, method, path, body, CALL_WITHIN).await
    }

    /// Calls the first node that can be reached; `after` are tried last, because they are the ones
    /// the call is about.
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
        nodes.sort_by_key(|node| (after(node.id), node.id));
        let mut reasons = Vec::new();
        for node in nodes {
            match self.call(node, method.clone(), path, body.clone()).await {
                Err(failure) if failure.exit == Exit::Unavailable => {
                    reasons.push(format!("{}: {failure}", node.id))
                }
                outcome => return outcome,
            }
        }
        Err(Failure::new(Exit::Unavailable, format!("no node could answer\n{}", reasons.join("\n"))))
    }
}
