//! `hongbao kv`: the cluster's own records, as they stand in KvSvr, and the members that keep them.
//!
//! Not here: the keys of etcd's clients, which have a group and a command line of their own; and
//! writing. What changes these records has guards, and so commands of its own.

use clap::Subcommand;
use kvsvr::api::Kv;
use serde::Serialize;

use super::member::{self, MemberCommand};
use super::target::Target;
use crate::clients;
use crate::failure::{Context, Exit, Failure};
use crate::output::{Format, print};

/// `hongbao kv`
#[derive(Debug, Subcommand)]
pub enum KvCommand {
    /// Show the cluster's own records: the event, zones, claims
    Get {
        /// Only records whose key begins so
        #[arg(default_value = "")]
        prefix: String,
        #[command(flatten)]
        target: Target,
    },
    /// Members of the Raft groups: nodes and their disks
    #[command(subcommand)]
    Member(MemberCommand),
}

#[derive(Debug, Serialize)]
struct Record {
    key: String,
    value: String,
    create_revision: i64,
    mod_revision: i64,
    version: i64,
}

#[derive(Debug, Serialize)]
struct Records {
    revision: i64,
    records: Vec<Record>,
}

/// Does what the command says.
///
/// # Errors
/// Exit code 3 when there is no such record, 6 when the KV does not answer.
pub async fn run(command: KvCommand, format: Format) -> Result<(), Failure> {
    match command {
        KvCommand::Get { prefix, target } => get(&prefix, &target, format).await,
        KvCommand::Member(command) => Box::pin(member::run(command, format)).await,
    }
}

async fn get(prefix: &str, target: &Target, format: Format) -> Result<(), Failure> {
    let connected = target.connect()?;
    let kv = clients::kv(&connected.cluster, &connected.net, None);
    let page = kv.range(prefix.as_bytes()).await.context(Exit::Unavailable, "asking KvSvr")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let records = page.pairs.into_iter().map(|pair| Record {
        key: text(&pair.key),
        value: text(&pair.value),
        create_revision: pair.create_revision,
        mod_revision: pair.mod_revision,
        version: pair.version,
    });
    let found = Records { revision: page.revision, records: records.collect() };
    print(format, &found, |found| {
        let lines = found.records.iter().map(|record| format!("{}\n{}", record.key, record.value));
        lines.collect::<Vec<_>>().join("\n")
    })?;
    if found.records.is_empty() {
        return Err(Failure::new(Exit::NotFound, format!("no record begins with {prefix:?}")));
    }
    Ok(())
}
