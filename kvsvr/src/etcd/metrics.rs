//! Figures for Prometheus, under the names that etcd's dashboards and alert rules ask for, and our
//! own under `hongbao_kv_`.
//!
//! Invariant: a figure is read off the state or counted where it happens; what this program does
//! not have (a WAL of its own, a bbolt file) has no figure.
//!
//! Not here: histograms. They cost more than the requests they would measure here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::HeaderMap;
use parking_lot::Mutex;
use world::NodeId;

use super::http::cluster_version;
use super::maintenance::StateBytes;
use super::{ETCD_VERSION, member_id};
use crate::admin::GroupAdmin;
use crate::group::read_with;
use crate::lease::LeaseKeeper;
use crate::limits::LEASE_TICK;
use crate::machine::control::{self, alarm, lease};
use crate::outcome::CallError;
use crate::quota::Quota;
use crate::wire::etcdserverpb::AlarmType;

/// Methods that are counted at most: the port serves fewer; more are somebody's guesses.
const METHODS_MAX: usize = 128;
/// Methods whose answers are streams.
const STREAMS: [&str; 5] = ["/Watch", "/LeaseKeepAlive", "/Snapshot", "/Observe", "/ServerReflectionInfo"];
/// gRPC's names of its codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// What the figures are read off.
pub struct Metrics {
    node: NodeId,
    group: Arc<dyn GroupAdmin>,
    keeper: Arc<LeaseKeeper>,
    state_bytes: StateBytes,
    quota: Quota,
    leader_changes: AtomicU64,
    // By method, for each code.
    calls: Mutex<BTreeMap<String, [u64; CODES.len()]>>,
}

struct Page(String);

impl Page {
    fn figure(&mut self, kind: &str, name: &str, help: &str, value: impl std::fmt::Display) {
        self.labelled(kind, name, help, &[(String::new(), value)]);
    }

    fn labelled(&mut self, kind: &str, name: &str, help: &str, values: &[(String, impl std::fmt::Display)]) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            let _ = match labels.as_str() {
                "" => writeln!(self.0, "{name} {value}"),
                labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
            };
        }
    }
}

impl Metrics {
    /// Figures of the local member.
    pub(crate) fn new(
        node: NodeId,
        group: Arc<dyn GroupAdmin>,
        keeper: Arc<LeaseKeeper>,
        state_bytes: StateBytes,
        quota: Quota,
    ) -> Arc<Metrics> {
        let leader_changes = AtomicU64::new(0);
        Arc::new(Metrics { node, group, keeper, state_bytes, quota, leader_changes, calls: Mutex::default() })
    }

    /// Counts changes of leaders for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut last = None;
        loop {
            let leader = self.group.standing().leader;
            if leader.is_some() && leader != last {
                self.leader_changes.fetch_add(1, Ordering::Relaxed);
                last = leader;
            }
            tokio::time::sleep(LEASE_TICK).await;
        }
    }

    /// Counts an answered call. An error stands in the headers; a stream that has begun is well.
    pub(super) fn called(&self, path: &str, headers: &HeaderMap) {
        let status = headers.get("grpc-status").and_then(|code| code.to_str().ok()?.parse::<usize>().ok());
        let code = status.unwrap_or(0).min(CODES.len() - 1);
        let mut calls = self.calls.lock();
        if let Some(counts) = calls.get_mut(path) {
            counts[code] += 1;
        } else if calls.len() < METHODS_MAX {
            calls.entry(path.to_owned()).or_default()[code] += 1;
        }
    }

    /// All figures, as Prometheus reads them.
    pub(super) fn text(&self) -> Result<String, CallError> {
        let mut page = Page(String::with_capacity(8_192));
        self.server(&mut page);
        self.store(&mut page).map_err(|error| CallError::Storage(error.to_string()))?;
        self.leases(&mut page);
        self.calls(&mut page);
        Ok(page.0)
    }

    fn server(&self, page: &mut Page) {
        let standing = self.group.standing();
        let members = self.group.members();
        let leads = standing.leader == Some(self.node);
        let pending = standing.committed_index.saturating_sub(standing.applied_index);
        let flag = u8::from;
        page.figure(
            "gauge",
            "etcd_server_has_leader",
            "Whether a leader is known.",
            flag(standing.leader.is_some()),
        );
        page.figure("gauge", "etcd_server_is_leader", "Whether this member leads.", flag(leads));
        let learns = flag(members.learners.contains(&self.node));
        page.figure("gauge", "etcd_server_is_learner", "Whether this member has no vote.", learns);
        page.figure(
            "counter",
            "etcd_server_leader_changes_seen_total",
            "Leaders seen since the start.",
            self.leader_changes.load(Ordering::Relaxed),
        );
        page.figure(
            "gauge",
            "etcd_server_proposals_committed_total",
            "The last committed log index.",
            standing.committed_index,
        );
        page.figure(
            "gauge",
            "etcd_server_proposals_applied_total",
            "The last applied log index.",
            standing.applied_index,
        );
        page.figure("gauge", "etcd_server_proposals_pending", "Committed and not yet applied.", pending);
        page.figure("gauge", "hongbao_kv_raft_term", "The term of the control group.", standing.term);
        page.figure("gauge", "hongbao_kv_voters", "Members with a vote.", members.voters.len());
        let label = |name: &str, value: &str| format!("{name}=\"{value}\"");
        let id = format!("{:x}", member_id(self.node));
        page.labelled("gauge", "etcd_server_id", "This member.", &[(label("server_id", &id), 1)]);
        let version = label("server_version", ETCD_VERSION);
        page.labelled("gauge", "etcd_server_version", "The release served.", &[(version, 1)]);
        let cluster = label("cluster_version", &cluster_version());
        page.labelled("gauge", "etcd_cluster_version", "The release all members serve.", &[(cluster, 1)]);
    }

    fn store(&self, page: &mut Page) -> Result<(), replica::engine::EngineError> {
        let bytes = (self.state_bytes)();
        page.figure(
            "gauge",
            "etcd_mvcc_db_total_size_in_bytes",
            "Room the state of all groups takes on the node's disk.",
            bytes,
        );
        page.figure(
            "gauge",
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "What the keys of etcd's clients and their history take; the quota is about this.",
            read_with(&*self.group, |view| control::bytes(view))?,
        );
        page.figure(
            "gauge",
            "etcd_server_quota_backend_bytes",
            "What they may take; 0 for no bound.",
            self.quota.bytes(),
        );
        let (revision, compacted) = read_with(&*self.group, |view| control::revisions(view))?;
        let granted = read_with(&*self.group, |view| lease::last_grant(view))?;
        let alarms = read_with(&*self.group, |view| alarm::list(view, AlarmType::None))?;
        page.figure("gauge", "etcd_debugging_mvcc_current_revision", "The newest revision.", revision);
        page.figure("gauge", "etcd_debugging_mvcc_compact_revision", "The last compaction.", compacted);
        page.figure("counter", "etcd_debugging_lease_granted_total", "Leases granted.", granted);
        let raised = |kind: AlarmType| {
            let count = alarms.iter().filter(|alarm| alarm.alarm == kind as i32).count();
            (format!("alarm=\"{}\"", kind.as_str_name()), count)
        };
        let kinds = [raised(AlarmType::Nospace), raised(AlarmType::Corrupt)];
        page.labelled("gauge", "hongbao_kv_alarms", "Members that have raised an alarm.", &kinds);
        Ok(())
    }

    fn leases(&self, page: &mut Page) {
        let counts = self.keeper.counts();
        page.figure(
            "counter",
            "etcd_debugging_lease_renewed_total",
            "Leases kept alive by this member.",
            counts.renewed,
        );
        page.figure(
            "counter",
            "etcd_debugging_server_lease_expired_total",
            "Leases this member ended because their time was up.",
            counts.expired,
        );
        page.figure(
            "gauge",
            "hongbao_kv_leases",
            "Leases whose time this member keeps, as the leader.",
            counts.kept,
        );
    }

    fn calls(&self, page: &mut Page) {
        let calls = self.calls.lock().clone();
        let (mut started, mut handled) = (Vec::new(), Vec::new());
        for (path, counts) in &calls {
            let Some((service, method)) = path.trim_start_matches('/').split_once('/') else { continue };
            let stream = STREAMS.iter().any(|stream| path.ends_with(stream));
            let kind = if stream { "bidi_stream" } else { "unary" };
            let labels = format!("grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"");
            if !stream {
                for (code, count) in CODES.iter().zip(counts).filter(|(_, count)| **count > 0) {
                    handled.push((format!("grpc_code=\"{code}\",{labels}"), *count));
                }
            }
            started.push((labels, counts.iter().sum::<u64>()));
        }
        page.labelled("counter", "grpc_server_started_total", "Calls begun.", &started);
        page.labelled("counter", "grpc_server_handled_total", "Calls answered, by code.", &handled);
    }
}
