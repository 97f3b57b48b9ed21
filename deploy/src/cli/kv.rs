//! `hongbao kv`: the cluster's own records, as they stand in KvSvr, and the members that keep them.
//!
//! Not here: the keys of etcd's clients, which have a group and a command line of their own; and
//! writing. What changes these records has guards, and so commands of its own.

use clap::Subcommand;
use kvsvr::api::{KeyValue, Kv};
use kvsvr::client::{WatchEnd, WatchEvent};
use serde::Serialize;

use super::log::{self, LogCommand};
use super::member::{self, MemberCommand};
use super::snapshot::{self, SnapshotCommand};
use super::target::Target;
use crate::clients;
use crate::failure::{Context, Exit, Failure};
use crate::output::{Format, print, print_line};

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
    /// The Raft log of a node that does not run, as it lies on its disk
    #[command(subcommand)]
    Log(LogCommand),
    /// All keys of etcd's clients as one file, and a new cluster made of it
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Show changes of the cluster's own records as they happen, one line each, until interrupted
    Watch {
        /// Only records whose key begins so
        #[arg(default_value = "")]
        prefix: String,
        /// The first revision to show; from now on without it
        #[arg(long)]
        from: Option<i64>,
        #[command(flatten)]
        target: Target,
    },
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
struct Change {
    kind: &'static str,
    revision: i64,
    key: String,
    /// Absent when the record was deleted.
    value: Option<String>,
}

#[derive(Debug, Serialize)]
struct Records {
    revision: i64,
    records: Vec<Record>,
}

/// Does what the command says.
///
/// # Errors
/// Exit code 3 when there is no such record or no such history, 6 when the KV does not answer.
pub async fn run(command: KvCommand, format: Format) -> Result<(), Failure> {
    match command {
        KvCommand::Get { prefix, target } => get(&prefix, &target, format).await,
        KvCommand::Log(command) => log::run(&command, format),
        KvCommand::Snapshot(command) => Box::pin(snapshot::run(command, format)).await,
        KvCommand::Member(command) => Box::pin(member::run(command, format)).await,
        KvCommand::Watch { prefix, from, target } => watch(&prefix, from, &target, format).await,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn record(pair: KeyValue) -> Record {
    let KeyValue { create_revision, mod_revision, version, .. } = pair;
    Record { key: text(&pair.key), value: text(&pair.value), create_revision, mod_revision, version }
}

async fn get(prefix: &str, target: &Target, format: Format) -> Result<(), Failure> {
    let connected = target.connect()?;
    let kv = clients::kv(&connected.cluster, &connected.net, None);
    let page = kv.range(prefix.as_bytes()).await.context(Exit::Unavailable, "asking KvSvr")?;
    let found = Records { revision: page.revision, records: page.pairs.into_iter().map(record).collect() };
    print(format, &found, |found| {
        let lines = found.records.iter().map(|record| format!("{}\n{}", record.key, record.value));
        lines.collect::<Vec<_>>().join("\n")
    })?;
    if found.records.is_empty() {
        return Err(Failure::new(Exit::NotFound, format!("no record begins with {prefix:?}")));
    }
    Ok(())
}

async fn watch(prefix: &str, from: Option<i64>, target: &Target, format: Format) -> Result<(), Failure> {
    let connected = target.connect()?;
    let kv = clients::kv(&connected.cluster, &connected.net, None);
    let mut watcher = kv.watch(prefix.as_bytes(), from);
    loop {
        let batch = watcher.next().await.map_err(ended)?;
        for event in batch.events {
            let change = change(event);
            print_line(format, &change, |change| {
                let value = change.value.as_deref().unwrap_or_default();
                format!("{} {} {} {value}", change.revision, change.kind, change.key)
            })?;
        }
    }
}

fn ended(end: WatchEnd) -> Failure {
    match end {
        WatchEnd::Compacted { revision } => {
            let cure = "look with `hongbao kv get` and watch from the revision it answers";
            Failure::new(Exit::NotFound, format!("history begins at revision {revision}: {cure}"))
        }
        WatchEnd::Refused(reason) => Failure::new(Exit::Error, format!("the watch was refused: {reason}")),
    }
}

fn change(event: WatchEvent) -> Change {
    let (revision, key) = (event.revision(), text(event.key()));
    match event {
        WatchEvent::Put(pair) => Change { kind: "put", revision, key, value: Some(text(&pair.value)) },
        WatchEvent::Delete { .. } => Change { kind: "delete", revision, key, value: None },
    }
}
