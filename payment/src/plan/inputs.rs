//! The two inputs of a plan together: every finding about both, or a plan that can be built.
//!
//! Invariant: a [`Plan`] has no findings; what follows (apportioning, splitting, minting) may rely
//! on every rule checked here and in the two parsers.
//!
//! Not here: which scheme is built, and on how many nodes.

use std::path::Path;

use ticket::money::Fen;
use world::disk::Disk;

use super::budget::{self, Budget};
use super::error::{CheckError, PlanErrors};
use super::script::{self, SHARE_WHOLE, Scheme, Script};
use super::source::{Findings, Source};

/// A budget and a script that fit each other.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The sponsors' orders.
    pub budget: Budget,
    /// When packets go out.
    pub script: Script,
    /// The budget as it was read.
    pub budget_bytes: Vec<u8>,
    /// The script as it was read.
    pub script_bytes: Vec<u8>,
}

/// What `plan check` tells about inputs without findings.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CheckSummary {
    /// The event's id.
    pub event: String,
    /// Orders in the budget.
    pub batches: u64,
    /// Sponsors in the budget.
    pub merchants: u64,
    /// Packets in the budget.
    pub packets: u64,
    /// Money in the budget.
    pub total_fen: Fen,
    /// Slots in the script.
    pub slots: u64,
    /// Ids of the schemes in the script.
    pub schemes: Vec<String>,
}

/// Checks a budget and a script.
///
/// # Errors
/// [`CheckError::Invalid`] with every finding of both files; [`CheckError::Read`].
pub fn check(disk: &dyn Disk, budget: &Path, script: &Path) -> Result<CheckSummary, CheckError> {
    Ok(load(disk, budget, script)?.summary())
}

/// Reads and checks a budget and a script.
///
/// # Errors
/// [`CheckError::Invalid`] with every finding of both files; [`CheckError::Read`].
pub fn load(disk: &dyn Disk, budget: &Path, script: &Path) -> Result<Plan, CheckError> {
    let read =
        |path: &Path| disk.read(path).map_err(|source| CheckError::Read { path: path.to_owned(), source });
    let (budget_bytes, script_bytes) = (read(budget)?, read(script)?);
    parse((&name_of(budget), budget_bytes), (&name_of(script), script_bytes)).map_err(CheckError::Invalid)
}

/// Parses and checks (name, bytes) of a budget and of a script.
///
/// # Errors
/// Every finding of both.
pub fn parse(budget: (&str, Vec<u8>), script: (&str, Vec<u8>)) -> Result<Plan, PlanErrors> {
    let mut findings = Findings::default();
    let (budget_name, budget_bytes) = budget;
    let (script_name, script_bytes) = script;
    let budget_source = Source::new(budget_name, &budget_bytes, &mut findings);
    let script_source = Source::new(script_name, &script_bytes, &mut findings);
    let budget = budget::parse(&budget_source, &mut findings);
    let script = script::parse(&script_source, &mut findings);
    check_shares(&budget, &script, &script_source, &mut findings);
    check_money(&budget, &script, &budget_source, &mut findings);
    check_pages(&budget, &script, &script_source, &mut findings);
    match PlanErrors::of(findings.0) {
        Some(errors) => Err(errors),
        None => Ok(Plan { budget, script, budget_bytes, script_bytes }),
    }
}

impl Plan {
    /// The scheme with this id.
    #[must_use]
    pub fn scheme(&self, id: &str) -> Option<&Scheme> {
        self.script.schemes.iter().find(|scheme| scheme.id == id)
    }

    /// Counts and sums.
    #[must_use]
    pub fn summary(&self) -> CheckSummary {
        CheckSummary {
            event: self.script.event.id.clone(),
            batches: self.budget.batches.len() as u64,
            merchants: self.budget.merchants.len() as u64,
            packets: self.budget.count(),
            total_fen: self.budget.total(),
            slots: self.script.slots.len() as u64,
            schemes: self.script.schemes.iter().map(|scheme| scheme.id.clone()).collect(),
        }
    }
}

/// The last part of a path, as findings show it.
fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Every kind of the budget is spread completely by every scheme.
fn check_shares(budget: &Budget, script: &Script, source: &Source, findings: &mut Findings) {
    for scheme in &script.schemes {
        for kind in budget.kinds.keys() {
            let name = kind.as_str();
            let Some(parts) = scheme.share.get(kind) else {
                let message =
                    format!("scheme {:?} has no share.{name}, but the budget has {name} packets", scheme.id);
                let cure = format!("add share.{name} with percentages that add up to 100");
                findings.note(&source.name, scheme.line, message, cure);
                continue;
            };
            let sum: u64 = parts.iter().map(|part| u64::from(*part)).sum();
            if sum != u64::from(SHARE_WHOLE) {
                let line = scheme.share_lines.get(kind).copied().unwrap_or(scheme.line);
                let percent = format!("{}.{:02}", sum / 100, sum % 100);
                let message = format!("share.{name} of scheme {:?} adds up to {percent} percent", scheme.id);
                findings.note(&source.name, line, message, "make it 100");
            }
        }
    }
}

/// No packet alone holds more than a data key may protect.
fn check_money(budget: &Budget, script: &Script, source: &Source, findings: &mut Findings) {
    if script.key_budget == Fen::default() {
        return; // Missing or zero: a finding already.
    }
    for batch in budget.batches.iter().filter(|batch| batch.max > script.key_budget) {
        let message =
            format!("max_yuan {} is more than seal.key_budget_yuan {}", batch.max, script.key_budget);
        findings.note(
            &source.name,
            batch.line,
            message,
            "lower max_yuan, or raise key_budget_yuan in the script",
        );
    }
}

fn check_pages(budget: &Budget, script: &Script, source: &Source, findings: &mut Findings) {
    for page in &script.pages {
        if let Some(merchant) = page.merchant_id
            && !budget.merchants.contains(&merchant)
            && !budget.merchants.is_empty()
        {
            let message =
                format!("page {:?} is of merchant {merchant}, which has no batch in the budget", page.id);
            findings.note(&source.name, page.line, message, "correct merchant_id, or leave it out");
        }
    }
}
