//! What reconcile found. JSON, money in whole fen, signed with the finance key.
//!
//! Invariant: `mismatches` counts every finding, also those beyond [`FINDINGS_MAX`], which bounds
//! how many are listed; the totals are the sums of the batch lines.
//!
//! Not here: rejections that were explained (over a limit, forged and turned down, ...) are not
//! mismatches; they are counted by reason and listed apart.

use std::collections::BTreeMap;

use serde::Serialize;
use ticket::id::{BatchId, BuildId, PacketId, UserId};
use ticket::sign::{Signature, SigningKey};
use world::UnixMs;

use super::plan::{Difference, Tally};

/// Format number of a report.
pub const FORMAT: u32 = 1;
/// What a report's signature is over, beside its bytes.
pub const DOMAIN: &str = "hongbao/report";
/// Findings listed in full.
pub const FINDINGS_MAX: usize = 1000;
/// Rejections listed in full.
pub const REJECTIONS_MAX: usize = 1000;

/// One batch, in fen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BatchLine {
    /// The sponsor's order.
    pub batch: BatchId,
    /// Who pays.
    pub sponsor: String,
    /// The budget, from the signed manifest.
    pub budget_fen: u64,
    /// The packets found in the ticket files.
    pub plan: Tally,
    /// Rows that are the users'.
    pub credited: Tally,
    /// Rows that wait.
    pub pending: Tally,
    /// Rows that earned nothing; their money is in unissued, or refunded.
    pub rejected: Tally,
    /// What went back to the sponsor.
    pub refunded_fen: u64,
    /// What nobody opened: plan - credited - pending - refunded.
    pub unissued_fen: u64,
}

/// All batches together, in fen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Sum of the budgets.
    pub budget_fen: u64,
    /// Sum of the credits.
    pub credited_fen: u64,
    /// Sum of what waits.
    pub pending_fen: u64,
    /// Sum of what went back.
    pub refunded_fen: u64,
    /// Sum of what nobody opened.
    pub unissued_fen: u64,
    /// Packets planned.
    pub packets: u64,
    /// Packets credited.
    pub credited: u64,
    /// Packets waiting.
    pub pending: u64,
    /// Packets that were turned down and that their user's claims or index still hold: crediting was
    /// interrupted, and gives them back when it runs again.
    pub to_release: u64,
    /// Everything that should not be.
    pub mismatches: u64,
}

/// Something that should not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Finding {
    /// A row of a packet the plan does not have like this.
    Row {
        /// Which packet.
        packet: PacketId,
        /// Whose row.
        user: UserId,
        /// Its amount.
        fen: u64,
        /// Its state.
        state: &'static str,
        /// How it differs.
        difference: Difference,
    },
    /// A stored value that cannot be read.
    Unreadable {
        /// What it is.
        what: String,
    },
    /// A ticket file that is not what the manifest says, or holds a record that does not open.
    File {
        /// Its number.
        file: u32,
        /// What is wrong.
        reason: String,
    },
    /// Two figures of a batch that must be equal.
    Batch {
        /// Which batch.
        batch: BatchId,
        /// The rule.
        rule: &'static str,
        /// What it should be, fen.
        expected_fen: i64,
        /// What it is, fen.
        found_fen: i64,
    },
    /// A user's index or claims that are not what the rows say.
    Holding {
        /// Where: `wallet` or `claims`.
        table: &'static str,
        /// Whose.
        user: UserId,
        /// Which packet.
        packet: PacketId,
        /// The amount in the rows; `None`: no accepted row.
        row_fen: Option<u64>,
        /// The amount in the table; `None`: not there.
        table_fen: Option<u64>,
    },
    /// A user holds more than the limits allow.
    OverLimit {
        /// Who.
        user: UserId,
        /// Which limit.
        limit: &'static str,
    },
    /// More packets of a file were opened than its node says it issued.
    Issued {
        /// The file's number.
        file: u32,
        /// Issued, as the node's cursor says.
        issued: u64,
        /// Rows of the file.
        opened: u64,
    },
}

/// An opening that was turned down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RejectionLine {
    /// Which packet.
    pub packet: PacketId,
    /// Whose opening.
    pub user: UserId,
    /// What it asked for.
    pub fen: u64,
    /// Why not: the code of a reason.
    pub reason: &'static str,
}

/// What the queue still held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outstanding {
    /// Deliverable.
    pub ready: u64,
    /// With a settler.
    pub in_flight: u64,
    /// Waiting for their delay.
    pub delayed: u64,
    /// Given up; to be redriven.
    pub dead: u64,
}

impl Outstanding {
    /// Nothing is left.
    #[must_use]
    pub fn drained(&self) -> bool {
        *self == Outstanding::default()
    }
}

/// The whole report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// The event's id.
    pub event: String,
    /// The build.
    pub build: BuildId,
    /// The scheme it was built from.
    pub scheme: String,
    /// When reconcile began.
    pub at_ms: UnixMs,
    /// Whether nothing moved: the queue was drained before and after, and accepted nothing between.
    /// If not, cross-checks of sums were skipped, because they would compare different moments.
    pub complete: bool,
    /// What the queue held at the end.
    pub outstanding: Outstanding,
    /// All batches together.
    pub totals: Totals,
    /// Batch by batch.
    pub batches: Vec<BatchLine>,
    /// Openings turned down, by reason: rows and rejections together.
    pub rejections: BTreeMap<&'static str, Tally>,
    /// The first of them.
    pub rejection_list: Vec<RejectionLine>,
    /// Messages that were no openings.
    pub unread_messages: u64,
    /// Packets issued and not opened, where the nodes' cursors are known.
    pub issued_unopened: Option<u64>,
    /// The first findings.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether everything is as it should be.
    #[must_use]
    pub fn clean(&self) -> bool {
        self.complete && self.totals.mismatches == 0
    }

    /// Its JSON and the signature over it.
    ///
    /// # Panics
    /// Never: it holds nothing JSON cannot express.
    #[must_use]
    pub fn signed(&self, key: &SigningKey) -> (Vec<u8>, Signature) {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a report is always valid JSON");
        bytes.push(b'\n');
        let signature = key.sign(DOMAIN, &bytes);
        (bytes, signature)
    }
}
