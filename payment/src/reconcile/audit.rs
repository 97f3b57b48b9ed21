//! The pure core of reconcile: everything is fed in once, [`Auditor::finish`] compares.
//!
//! Invariant: what is fed in is counted in exactly one place, and two independent roads to the
//! same figure are compared: files with manifest, rows with files, accounts with rows, wallets and
//! claims with rows.
//!
//! Not here: where things are read from (run.rs).

use std::collections::{BTreeMap, BTreeSet};

use queue::api::Stats;
use ticket::id::{BatchId, FileNo, PacketId, UserId};
use ticket::manifest::Manifest;
use ticket::money::Fen;
use world::UnixMs;

use super::plan::{PlanSlice, Tally};
use super::report::{
    BatchLine, FINDINGS_MAX, FORMAT, Finding, Outstanding, REJECTIONS_MAX, RejectionLine, Report, Totals,
};
use super::sets::{Holding, SetDigest};
use crate::claims::{ClaimDoc, Limits};
use crate::ledger::{Account, AccountKind, Ledger, Transfer};
use crate::row::{Reason, Row, RowState};

/// Figures of one batch as they come in.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    plan: Tally,
    credited: Tally,
    pending: Tally,
    rejected: Tally,
    refunded_fen: u64,
    funded_fen: u64,
}

/// The state of one reconcile.
pub struct Auditor<'a> {
    manifest: &'a Manifest,
    limits: Limits,
    batches: BTreeMap<BatchId, Figures>,
    /// What the accounts must be, by rows, fund and refund records; and what they are.
    booked: Ledger,
    found: Ledger,
    /// The users' side: by rows, by wallets; the same without amounts, by rows, by claims.
    pub(super) row_wallets: SetDigest,
    pub(super) wallets: SetDigest,
    pub(super) row_claims: SetDigest,
    pub(super) claims: SetDigest,
    opened: BTreeMap<FileNo, u64>,
    issued: Option<BTreeMap<FileNo, u64>>,
    rejections: BTreeMap<&'static str, Tally>,
    rejection_list: Vec<RejectionLine>,
    unread: u64,
    to_release: BTreeSet<PacketId>,
    mismatches: u64,
    findings: Vec<Finding>,
}

impl<'a> Auditor<'a> {
    /// Begins. `issued` is what the nodes' cursors say they gave out, where that is known.
    #[must_use]
    pub fn new(manifest: &'a Manifest, issued: Option<BTreeMap<FileNo, u64>>) -> Auditor<'a> {
        Auditor {
            manifest,
            limits: Limits::of(manifest),
            batches: manifest.batches.iter().map(|batch| (batch.batch, Figures::default())).collect(),
            booked: Ledger::default(),
            found: Ledger::default(),
            row_wallets: SetDigest::default(),
            wallets: SetDigest::default(),
            row_claims: SetDigest::default(),
            claims: SetDigest::default(),
            opened: BTreeMap::new(),
            issued,
            rejections: BTreeMap::new(),
            rejection_list: Vec::new(),
            unread: 0,
            to_release: BTreeSet::new(),
            mismatches: 0,
            findings: Vec::new(),
        }
    }

    /// Something is not as it should be.
    pub fn finding(&mut self, finding: Finding) {
        self.mismatches += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    /// The packets of a slice of the plan.
    pub fn slice(&mut self, slice: &PlanSlice) {
        for (batch, tally) in slice.batches() {
            let plan = &mut self.batches.entry(*batch).or_default().plan;
            plan.count += tally.count;
            plan.fen += tally.fen;
        }
    }

    /// A row, with the slice that holds its file (any slice, if the plan has no such file).
    pub fn row(&mut self, row: &Row, slice: &PlanSlice) {
        let judged = slice.judge(row);
        if row.state.accepted() {
            self.hold(row);
            if let Err(difference) = judged {
                let (packet, user, fen) = (row.packet, row.user, row.amount.get());
                let state = if row.state == RowState::Credited { "credited" } else { "pending" };
                self.finding(Finding::Row { packet, user, fen, state, difference });
            }
        }
        let figures = self.batches.entry(row.packet.batch).or_default();
        let tally = match row.state {
            RowState::Credited => &mut figures.credited,
            RowState::Pending => &mut figures.pending,
            RowState::Rejected(_) => &mut figures.rejected,
        };
        tally.add(row.amount.get());
        *self.opened.entry(row.file).or_default() += 1;
        if let RowState::Rejected(reason) = row.state {
            self.rejection(row.packet, row.user, row.amount, reason);
        }
    }

    /// What an accepted row obliges the accounts and the user's side to say.
    fn hold(&mut self, row: &Row) {
        let holding = Holding { user: row.user, packet: row.packet, fen: row.amount.get() };
        self.row_wallets.add(&holding);
        self.row_claims.add(&Holding { fen: 0, ..holding });
        let transfer = match row.state {
            RowState::Credited => Transfer::instant(row.packet, row.amount),
            _ => Transfer::hold(row.packet, row.amount),
        };
        let posted = transfer.and_then(|transfer| self.booked.post(&transfer));
        if let Err(error) = posted {
            self.finding(Finding::Unreadable { what: format!("row of {}: {error}", row.packet) });
        }
    }

    /// An opening that was turned down.
    pub fn rejection(&mut self, packet: PacketId, user: UserId, amount: Fen, reason: Reason) {
        self.rejections.entry(reason.code()).or_default().add(amount.get());
        if self.rejection_list.len() < REJECTIONS_MAX {
            self.rejection_list.push(RejectionLine {
                packet,
                user,
                fen: amount.get(),
                reason: reason.code(),
            });
        }
    }

    /// A packet that crediting turned down, and that its user still holds.
    pub fn to_release(&mut self, packet: PacketId) {
        self.to_release.insert(packet);
    }

    /// A message that was no opening.
    pub fn unread(&mut self) {
        self.unread += 1;
    }

    /// A sub-account's balance.
    pub fn account(&mut self, account: Account, balance: i64) {
        if let Err(error) = self.found.add_found(account, balance) {
            self.finding(Finding::Unreadable { what: error.to_string() });
        }
    }

    /// A batch's funding record.
    pub fn funded(&mut self, batch: BatchId, amount: Fen) {
        self.batches.entry(batch).or_default().funded_fen = amount.get();
        self.book(Transfer::fund(self.manifest.build.tag(), batch, amount));
    }

    /// A batch's refund record.
    pub fn refunded(&mut self, batch: BatchId, amount: Fen) {
        self.batches.entry(batch).or_default().refunded_fen = amount.get();
        if !amount.is_zero() {
            self.book(Transfer::refund(self.manifest.build.tag(), batch, amount));
        }
    }

    fn book(&mut self, transfer: Result<Transfer, crate::ledger::LedgerError>) {
        if let Err(error) = transfer.and_then(|transfer| self.booked.post(&transfer)) {
            self.finding(Finding::Unreadable { what: error.to_string() });
        }
    }

    /// An entry of a user's packet index.
    pub fn wallet(&mut self, user: UserId, packet: PacketId, fen: u64) {
        self.wallets.add(&Holding { user, packet, fen });
    }

    /// A user's claim document.
    pub fn claims(&mut self, user: UserId, doc: &ClaimDoc) {
        for packet in doc.packets() {
            self.claims.add(&Holding { user, packet: *packet, fen: 0 });
        }
        if let Err(reason) = self.limits.check(doc) {
            self.finding(Finding::OverLimit { user, limit: reason.code() });
        }
    }

    /// Compares everything. `before` and `after` are the queue around the reading.
    #[must_use]
    pub fn finish(mut self, at_ms: UnixMs, before: Stats, after: Stats) -> Report {
        let complete = complete(&before, &after);
        let batches: Vec<(BatchId, Figures)> =
            self.batches.iter().map(|(batch, figures)| (*batch, *figures)).collect();
        let lines = batches.into_iter().map(|(batch, figures)| self.line(batch, figures, complete)).collect();
        if complete {
            self.check_accounts();
        }
        let issued_unopened = self.check_issued();
        self.report(at_ms, complete, outstanding(&after), lines, issued_unopened)
    }

    fn line(&mut self, batch: BatchId, figures: Figures, complete: bool) -> BatchLine {
        let entry = self.manifest.batches.iter().find(|entry| entry.batch == batch);
        let budget_fen = entry.map_or(0, |entry| entry.amount_fen.get());
        let spent = [figures.credited.fen, figures.pending.fen, figures.refunded_fen];
        let spent_fen = spent.into_iter().fold(0, u64::saturating_add);
        self.equal(batch, "files hold the budget", budget_fen, figures.plan.fen);
        if figures.plan.fen < spent_fen {
            self.equal(
                batch,
                "credited + pending + refunded is at most the plan",
                figures.plan.fen,
                spent_fen,
            );
        }
        let unissued_fen = figures.plan.fen.saturating_sub(spent_fen);
        // An event that never began has no deposit and no account yet.
        if complete && self.found != Ledger::default() {
            self.equal(batch, "the deposit is the budget", budget_fen, figures.funded_fen);
            let escrow = Account { tag: self.manifest.build.tag(), batch, kind: AccountKind::Escrow };
            let found = self.found.balance(escrow);
            self.equal_signed(batch, "escrow is what nobody opened", signed(unissued_fen), found);
        }
        BatchLine {
            batch,
            sponsor: entry.map_or_else(String::new, |entry| entry.sponsor.clone()),
            budget_fen,
            plan: figures.plan,
            credited: figures.credited,
            pending: figures.pending,
            rejected: figures.rejected,
            refunded_fen: figures.refunded_fen,
            unissued_fen,
        }
    }

    fn equal(&mut self, batch: BatchId, rule: &'static str, expected: u64, found: u64) {
        self.equal_signed(batch, rule, signed(expected), signed(found));
    }

    fn equal_signed(&mut self, batch: BatchId, rule: &'static str, expected_fen: i64, found_fen: i64) {
        if expected_fen != found_fen {
            self.finding(Finding::Batch { batch, rule, expected_fen, found_fen });
        }
    }

    /// Every account is what rows, deposits and refunds say.
    fn check_accounts(&mut self) {
        let mut accounts: BTreeMap<Account, (i64, i64)> = BTreeMap::new();
        for (account, balance) in self.booked.iter() {
            accounts.entry(account).or_default().0 = balance;
        }
        for (account, balance) in self.found.iter() {
            accounts.entry(account).or_default().1 = balance;
        }
        for (account, (booked, found)) in accounts {
            let rule = match account.kind {
                AccountKind::Escrow => "account escrow",
                AccountKind::Held => "account held",
                AccountKind::Payable => "account payable",
                AccountKind::Refunded => "account refunded",
                AccountKind::Sponsor => "account sponsor",
            };
            self.equal_signed(account.batch, rule, booked, found);
        }
    }

    /// No file has more openings than issues. Answers how many were issued and not opened.
    fn check_issued(&mut self) -> Option<u64> {
        let issued = self.issued.take()?;
        let mut unopened = 0;
        for (file, count) in &issued {
            let opened = self.opened.get(file).copied().unwrap_or(0);
            unopened += count.saturating_sub(opened);
            if *count < opened {
                self.finding(Finding::Issued { file: file.0, issued: *count, opened });
            }
        }
        Some(unopened)
    }

    fn report(
        self,
        at_ms: UnixMs,
        complete: bool,
        outstanding: Outstanding,
        batches: Vec<BatchLine>,
        issued_unopened: Option<u64>,
    ) -> Report {
        let sum = |figure: fn(&BatchLine) -> u64| batches.iter().map(figure).fold(0, u64::saturating_add);
        let totals = Totals {
            budget_fen: sum(|line| line.budget_fen),
            credited_fen: sum(|line| line.credited.fen),
            pending_fen: sum(|line| line.pending.fen),
            refunded_fen: sum(|line| line.refunded_fen),
            unissued_fen: sum(|line| line.unissued_fen),
            packets: sum(|line| line.plan.count),
            credited: sum(|line| line.credited.count),
            pending: sum(|line| line.pending.count),
            to_release: self.to_release.len() as u64,
            mismatches: self.mismatches,
        };
        Report {
            format: FORMAT,
            event: self.manifest.event.clone(),
            build: self.manifest.build,
            scheme: self.manifest.scheme.clone(),
            at_ms,
            complete,
            outstanding,
            totals,
            batches,
            rejections: self.rejections,
            rejection_list: self.rejection_list,
            unread_messages: self.unread,
            issued_unopened,
            findings: self.findings,
        }
    }
}

fn signed(fen: u64) -> i64 {
    i64::try_from(fen).unwrap_or(i64::MAX)
}

/// What a queue still holds.
#[must_use]
pub fn outstanding(stats: &Stats) -> Outstanding {
    Outstanding { ready: stats.ready, in_flight: stats.in_flight, delayed: stats.delayed, dead: stats.dead }
}

/// Whether nothing moved between the two looks.
#[must_use]
pub fn complete(before: &Stats, after: &Stats) -> bool {
    outstanding(before).drained() && outstanding(after).drained() && before.accepted == after.accepted
}
