//! What oracles are shown of an event: the plan decrypted, and the rows, claims and accounts as they
//! were read, in the words of the oracles.
//!
//! ```text
//!   sponsors' orders + every record, opened      Plan        I1, I6
//!   rows, rejections at the end                  books       I3, I4, I6, LIMIT
//!   what the crowd was told                      crowd       I4, I6
//!   writes to claims and zones, by revision      control     I2
//! ```
//! Invariant: nothing here is a verdict of the product's own: reconcile's opinion enters only where I5
//! asks for it.
//!
//! Not here: judging.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use deploy::demo::crowd::{Acked, Memory};
use deploy::demo::ledger;
use deploy::distribute::BuildDir;
use deploy::failure::{Context, Exit, Failure};
use kvsvr::client::WatchEvent;
use payment::ledger::AccountKind;
use payment::reconcile::Report;
use payment::reconcile::report::Finding;
use payment::row::RowState;
use ticket::control::{self, BootRecord, CLAIM_PREFIX, ClaimRecord, ZONE_PREFIX, ZoneRecord, ZoneState};
use ticket::file::TicketFile;
use ticket::id::{BuildId, PacketId};
use ticket::keys::{BuildSecret, KeyList};
use ticket::open::OpenKeyring;

use world::NodeId;

use crate::history::access::{AccessCall, AccessHistory, AccessReply, Issue, OpenAttempt, RecordPlace};
use crate::history::{Moment, Op, OpId, Outcome};
use crate::oracle::Verdict;
use crate::oracle::i1_minting::{Minting, Order};
use crate::oracle::i2_claims::ControlWrite;
use crate::oracle::i3_issue_once::OpenedPlace;
use crate::oracle::i4_opens_kept::{Books, Fate, PacketRow};
use crate::oracle::i5_balance::{Accounts, Line, Reconcile};
use crate::oracle::i6_only_the_plan::Planned;

/// A build, opened record by record.
pub struct Plan {
    /// Which.
    pub build: BuildId,
    /// Packets one user may be given.
    pub claims_per_user: u32,
    /// What each batch is worth, as its sponsor ordered.
    pub budgets: BTreeMap<u16, u64>,
    /// Every packet.
    pub packets: BTreeMap<String, Planned>,
    /// What I1 says.
    pub minted: Verdict,
}

impl Plan {
    /// Opens every record of a build that was made from these orders.
    ///
    /// # Errors
    /// When a file or key cannot be read, or a record does not open.
    pub fn open(build: &BuildDir, orders: &[Order]) -> Result<Plan, Failure> {
        let manifest = &build.manifest;
        let secret = BuildSecret::load(&*build.disk, &build.path.join("keys").join("build.key"));
        let secret = secret.context(Exit::Error, "reading the build's key")?;
        let all = KeyList::all(manifest.key_count);
        let keys = OpenKeyring::new(&secret, manifest.build, manifest.key_count, all);
        let mut minting = Minting::new(orders);
        minting.scheme(&manifest.scheme);
        let mut packets = BTreeMap::new();
        for file in &manifest.files {
            let entry = &file.entry;
            let loaded = TicketFile::load(&*build.disk, &entry.path_in(&build.path), entry);
            let loaded = loaded.context(Exit::Error, "reading a ticket file")?;
            for index in 0..loaded.count() {
                let record = loaded.record(index).context(Exit::Error, "reading a record")?;
                let packet = keys.open(entry.slot, &record).context(Exit::Error, "opening a record")?;
                let fen = packet.amount.get();
                minting.record(&manifest.scheme, packet.id.batch.0, packet.id.serial, fen);
                packets.insert(packet.id.to_string(), Planned { fen, key: packet.key.0 });
            }
        }
        Ok(Plan {
            build: manifest.build,
            claims_per_user: manifest.claims_per_user_max,
            budgets: orders.iter().map(|order| (order.batch, order.fen)).collect(),
            packets,
            minted: minting.verdict(),
        })
    }
}

/// The rows and rejections.
#[must_use]
pub fn books(read: &ledger::Books) -> Books {
    let mut books = Books::default();
    for (packet, row) in &read.rows {
        let (packet, user, fen) = (packet.to_string(), row.user.0, row.amount.get());
        let fate = match row.state {
            RowState::Pending => Fate::Pending,
            RowState::Credited => {
                books.credits.push((packet.clone(), user, fen));
                Fate::Credited
            }
            RowState::Rejected(reason) => Fate::Rejected(format!("{reason:?}")),
        };
        books.rows.insert(packet, PacketRow { user, fen, fate });
    }
    for ((packet, user), rejection) in &read.rejections {
        let reason = format!("{:?}", rejection.reason);
        books.rejections.entry(packet.to_string()).or_default().insert(user.0, reason);
    }
    books
}

/// The places of the rows. What an insider made up has none.
#[must_use]
pub fn opened(read: &ledger::Books, made_up: &BTreeSet<PacketId>) -> Vec<OpenedPlace> {
    let rows = read.rows.iter().filter(|(packet, _)| !made_up.contains(packet));
    rows.map(|(packet, row)| OpenedPlace {
        packet: packet.to_string(),
        place: RecordPlace { slot: row.slot.0, file: row.file.0, index: row.index },
        user: row.user.0,
    })
    .collect()
}

/// What is credited, by batch.
#[must_use]
pub fn credited(read: &ledger::Books) -> BTreeMap<u16, u64> {
    let mut sums = BTreeMap::new();
    for (packet, row) in read.rows.iter().filter(|(_, row)| row.state == RowState::Credited) {
        *sums.entry(packet.batch.0).or_default() += row.amount.get();
    }
    sums
}

/// Opens as a history: users remember what they were told, not when.
#[must_use]
pub fn crowd(memory: &Memory) -> AccessHistory {
    let open = |(number, (attempt, told)): (u64, (OpenAttempt, &Acked))| Op {
        id: OpId(number),
        client: 0,
        asked: None,
        call: AccessCall::Open { user: told.user, ticket: String::new(), attempt },
        invoked: Moment { number: number + 1, at_ms: 0 },
        returned: None,
        outcome: Outcome::Done(AccessReply::Opened { packet: told.packet_id.clone(), fen: told.amount_fen }),
    };
    let honest = memory.acked.iter().map(|told| (OpenAttempt::Honest, told));
    let loot = memory.loot.iter().map(|told| (OpenAttempt::Stolen, told));
    let mut ops: Vec<_> = (0..).zip(honest.chain(loot)).map(open).collect();
    for number in memory.loot.len() as u64..memory.thefts {
        ops.push(Op {
            id: OpId(ops.len() as u64),
            client: 0,
            asked: None,
            call: AccessCall::Open { user: 0, ticket: String::new(), attempt: OpenAttempt::Altered },
            invoked: Moment { number: number + 1, at_ms: 0 },
            returned: None,
            outcome: Outcome::Refused("turned down".to_owned()),
        });
    }
    ops.into()
}

/// Differences of a reconcile that a verdict shows.
const EXAMPLES_MAX: usize = 3;

/// One reconcile. Findings about what an insider made up are right, and not differences.
#[must_use]
pub fn reconcile(at: Moment, report: &Report, made_up: &BTreeSet<PacketId>) -> Reconcile {
    let of_insider = |finding: &&Finding| match finding {
        Finding::Row { packet, .. } | Finding::Holding { packet, .. } => made_up.contains(packet),
        _ => false,
    };
    let expected = report.findings.iter().filter(of_insider).count() as u64;
    let differences = report.findings.iter().filter(|finding| !of_insider(finding));
    let line = |batch: &payment::reconcile::report::BatchLine| Line {
        budget: batch.budget_fen,
        credited: batch.credited.fen,
        pending: batch.pending.fen,
        refunded: batch.refunded_fen,
        unissued: batch.unissued_fen,
    };
    Reconcile {
        at,
        lines: report.batches.iter().map(|batch| (batch.batch.0, line(batch))).collect(),
        mismatches: report.totals.mismatches.saturating_sub(expected),
        to_release: report.totals.to_release,
        examples: differences.take(EXAMPLES_MAX).map(|finding| format!("{finding:?}")).collect(),
    }
}

/// A balance, put where it belongs.
pub fn add_balance(accounts: &mut Accounts, kind: AccountKind, fen: i64) {
    let place = match kind {
        AccountKind::Escrow => &mut accounts.escrow,
        AccountKind::Held => &mut accounts.held,
        AccountKind::Payable => &mut accounts.payable,
        AccountKind::Refunded => &mut accounts.refunded,
        AccountKind::Sponsor => &mut accounts.sponsor,
    };
    *place += fen;
}

/// What an event of the control records says about ownership; `None` if it says nothing.
///
/// # Errors
/// When a record cannot be read.
pub fn control_write(event: &WatchEvent) -> Result<Option<(i64, ControlWrite)>, Failure> {
    let (key, revision, value) = match event {
        WatchEvent::Put(pair) => (&pair.key, pair.mod_revision, Some(&pair.value)),
        WatchEvent::Delete { key, revision } => (key, *revision, None),
    };
    let key = String::from_utf8_lossy(key);
    let reading = || format!("reading {key}");
    let write = if key.starts_with(CLAIM_PREFIX) {
        let (slot, file) =
            control::parse_file_key(&key).ok_or_else(|| Failure::new(Exit::Error, reading()))?;
        let (slot, file) = (slot.0, file.0);
        match value {
            None => ControlWrite::Unclaim { slot, file },
            Some(value) => {
                let claim: ClaimRecord = control::decode(&key, value).context(Exit::Error, reading())?;
                let ClaimRecord { node, incarnation, zone_epoch, .. } = claim;
                ControlWrite::Claim { slot, file, node, incarnation, zone_epoch: zone_epoch.0 }
            }
        }
    } else if let (Some(zone), Some(value)) = (key.strip_prefix(ZONE_PREFIX), value) {
        let zone = zone.parse().context(Exit::Error, reading())?;
        let record: ZoneRecord = control::decode(&key, value).context(Exit::Error, reading())?;
        let active = record.state == ZoneState::Active;
        ControlWrite::Zone { zone, active, epoch: record.epoch.0, from_slot: record.from_slot.0 }
    } else {
        return Ok(None);
    };
    Ok(Some((revision, write)))
}

/// Which incarnation a node said it was when it took a boot epoch; `None` if this is about something
/// else.
#[must_use]
pub fn boot(event: &WatchEvent) -> Option<((NodeId, u64), String)> {
    let WatchEvent::Put(pair) = event else { return None };
    let key = String::from_utf8_lossy(&pair.key);
    let node = key.strip_prefix("hongbao/boot/")?.parse().ok()?;
    let record: BootRecord = control::decode(&key, &pair.value).ok()?;
    Some(((node, u64::from(record.boot_epoch)), record.incarnation))
}

/// The issues, with the incarnation that the node had told of when it took the ticket's boot epoch.
#[must_use]
pub fn with_incarnations(issues: &[Issue], boots: &BTreeMap<(NodeId, u64), String>) -> Vec<Issue> {
    let told = |issue: &Issue| boots.get(&(issue.node, issue.boot)).cloned().unwrap_or_default();
    issues.iter().map(|issue| Issue { incarnation: told(issue), ..issue.clone() }).collect()
}

/// The plan of a build; the first one's if it is none of the run's.
#[must_use]
pub fn plan_of(plans: &[Arc<Plan>], build: Option<BuildId>) -> &Plan {
    let found = plans.iter().find(|plan| Some(plan.build) == build);
    found.unwrap_or(&plans[0])
}
