//! The rules of shaking: what the plan laid down, and what an operator may change while it runs.
//!
//! ```text
//!   roster (signed plan):  curve per slot, packets per user, pages ───────────┐
//!   Rules (KV, JSON):      factor, finish, quota, interval, pages, override ──┴─> Terms
//! ```
//! [`Rules`] stand under [`RULES_KEY`] in the control group and are read with every refresh;
//! without that key the node's own hold. A record that does not pass [`Rules::validate`] is
//! reported and the last good rules stay.
//!
//! Invariant: terms in use are made of valid rules.
//!
//! Not here: the slots themselves (the event record has them) and money limits (settlement has).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use ticket::control::SlotWindow;
use ticket::id::{BatchId, SlotNo};
use ticket::manifest::Roster;

use crate::pacing::Pace;

/// The format number of [`Rules`].
pub const RULES_FORMAT: u32 = 1;
/// Where an operator puts [`Rules`] in the control group.
pub const RULES_KEY: &str = "hongbao/rules";
/// Pages a set of rules may name.
pub const PAGES_MAX: usize = 1_024;

/// A page shown to who wins nothing, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageWeight {
    /// The page's name in the resources.
    pub page: String,
    /// Its share among the other pages and `nothing_weight`.
    pub weight: u32,
}

/// What an operator may change. Every field but `format` may be left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// [`RULES_FORMAT`].
    pub format: u32,
    /// Multiplies the release curve: 1000 is as planned, 0 stops issuing.
    #[serde(default = "default_factor_permille")]
    pub factor_permille: u32,
    /// The share of a slot's time after which everything is released, 1..=1000.
    #[serde(default = "default_finish_permille")]
    pub finish_permille: u32,
    /// Packets per second this node may issue.
    #[serde(default = "default_quota_per_s")]
    pub quota_per_s: u32,
    /// The least time between two shakes of one user.
    #[serde(default = "default_user_interval_ms")]
    pub user_interval_ms: u64,
    /// Packets one user may be issued in the event, in place of what the roster says. Settlement
    /// enforces its own limit again.
    #[serde(default)]
    pub claims_per_user_max: Option<u32>,
    /// Pages for those who win nothing, in place of the plan's.
    #[serde(default)]
    pub pages: Vec<PageWeight>,
    /// The share of plain nothing among the pages.
    #[serde(default)]
    pub nothing_weight: u32,
}

fn default_factor_permille() -> u32 {
    1_000
}

/// Done at nine tenths, so that late files and slow users still finish the slot.
fn default_finish_permille() -> u32 {
    900
}

fn default_quota_per_s() -> u32 {
    20_000
}

fn default_user_interval_ms() -> u64 {
    200
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            format: RULES_FORMAT,
            factor_permille: default_factor_permille(),
            finish_permille: default_finish_permille(),
            quota_per_s: default_quota_per_s(),
            user_interval_ms: default_user_interval_ms(),
            claims_per_user_max: None,
            pages: Vec::new(),
            nothing_weight: 0,
        }
    }
}

/// Rules that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// Not JSON of this shape.
    #[error("the rules cannot be read: {0}")]
    Shape(String),
    /// Written for another program.
    #[error("the rules have format {found}, this program reads {RULES_FORMAT}")]
    Format {
        /// The format found.
        found: u32,
    },
    /// Beyond the slot, or no time at all.
    #[error("finish_permille is {found}; give 1 to 1000")]
    Finish {
        /// What was given.
        found: u32,
    },
    /// More pages than a node keeps.
    #[error("{pages} pages are named; at most {PAGES_MAX} may be")]
    TooManyPages {
        /// How many were named.
        pages: usize,
    },
}

impl Rules {
    /// Reads rules from the control group's value.
    ///
    /// # Errors
    /// [`RulesError`] naming the first fault.
    pub fn parse(bytes: &[u8]) -> Result<Rules, RulesError> {
        let rules: Rules =
            serde_json::from_slice(bytes).map_err(|error| RulesError::Shape(error.to_string()))?;
        rules.validate()
    }

    /// The same rules, if they can be used.
    ///
    /// # Errors
    /// [`RulesError`] naming the first fault.
    pub fn validate(self) -> Result<Rules, RulesError> {
        if self.format != RULES_FORMAT {
            return Err(RulesError::Format { found: self.format });
        }
        if self.finish_permille == 0 || 1_000 < self.finish_permille {
            return Err(RulesError::Finish { found: self.finish_permille });
        }
        if PAGES_MAX < self.pages.len() {
            return Err(RulesError::TooManyPages { pages: self.pages.len() });
        }
        Ok(self)
    }
}

/// The rules in force for one build: the operator's, completed by the plan's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Packets one user may be issued in the event.
    pub claims_per_user_max: u32,
    /// Packets per second this node may issue.
    pub quota_per_s: u32,
    /// The least time between two shakes of one user.
    pub user_interval_ms: u64,
    rules: Rules,
    curves: BTreeMap<SlotNo, Vec<u32>>,
    sponsor_pages: BTreeMap<BatchId, String>,
}

impl Terms {
    /// Completes `rules` by what `roster` says.
    #[must_use]
    pub fn new(rules: &Rules, roster: &Roster) -> Terms {
        let planned_max = if roster.claims_per_user_max == 0 { u32::MAX } else { roster.claims_per_user_max };
        let named = roster.pages.iter().filter(|entry| !entry.page.is_empty());
        let sponsor_pages: BTreeMap<BatchId, String> =
            named.map(|entry| (entry.batch, entry.page.clone())).collect();
        let mut rules = rules.clone();
        if rules.pages.is_empty() {
            let planned = roster.consolations.iter().take(PAGES_MAX);
            rules.pages =
                planned.map(|entry| PageWeight { page: entry.page.clone(), weight: entry.weight }).collect();
        }
        Terms {
            claims_per_user_max: rules.claims_per_user_max.unwrap_or(planned_max),
            quota_per_s: rules.quota_per_s,
            user_interval_ms: rules.user_interval_ms,
            curves: roster.slots.iter().map(|slot| (slot.slot, slot.curve.clone())).collect(),
            sponsor_pages,
            rules,
        }
    }

    /// How `window` releases its files.
    #[must_use]
    pub fn pace(&self, window: &SlotWindow) -> Pace<'_> {
        Pace {
            start: window.start_ms,
            end: window.end_ms,
            curve: self.curves.get(&window.slot).map_or(&[], Vec::as_slice),
            finish_permille: self.rules.finish_permille,
            factor_permille: self.rules.factor_permille,
        }
    }

    /// The page that comes with a packet of `batch`.
    #[must_use]
    pub fn sponsor_page(&self, batch: BatchId) -> Option<&str> {
        self.sponsor_pages.get(&batch).map(String::as_str)
    }

    /// The page for a draw among those who win nothing; `None` is plain nothing.
    #[must_use]
    pub fn consolation(&self, draw: u64) -> Option<&str> {
        let total: u64 = self.rules.pages.iter().map(|page| u64::from(page.weight)).sum();
        let all = total + u64::from(self.rules.nothing_weight);
        // The high bits of a 64-bit draw scale without the bias of a remainder.
        let mut point =
            u64::try_from((u128::from(draw) * u128::from(all)) >> 64).expect("a fraction of a u64 is a u64");
        for page in &self.rules.pages {
            if point < u64::from(page.weight) {
                return Some(&page.page);
            }
            point -= u64::from(page.weight);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use ticket::record::Kind;

    use super::*;
    use crate::testkit::roster;

    fn check(change: impl FnOnce(&mut Rules), want: Result<(), RulesError>) {
        let mut rules = Rules::default();
        change(&mut rules);
        assert_eq!(rules.validate().map(|_| ()), want);
    }

    #[test]
    fn the_defaults_are_valid_and_read_back() {
        check(|_| {}, Ok(()));
        let bytes = serde_json::to_vec(&Rules::default()).expect("rules are JSON");
        assert_eq!(Rules::parse(&bytes), Ok(Rules::default()));
        assert_eq!(Rules::parse(br#"{"format":1}"#), Ok(Rules::default()));
    }

    #[test]
    fn each_broken_relation_is_named() {
        check(|r| r.format = 9, Err(RulesError::Format { found: 9 }));
        check(|r| r.finish_permille = 0, Err(RulesError::Finish { found: 0 }));
        check(|r| r.finish_permille = 1_001, Err(RulesError::Finish { found: 1_001 }));
        let page = PageWeight { page: "p".into(), weight: 1 };
        check(|r| r.pages = vec![page; 1_025], Err(RulesError::TooManyPages { pages: 1_025 }));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let error = Rules::parse(br#"{"format":1,"quota":5}"#).expect_err("a misspelt field");
        assert!(error.to_string().contains("quota"), "{error}");
    }

    #[test]
    fn pages_come_by_weight() {
        let pages = [("a", 1), ("b", 2)].map(|(page, weight)| PageWeight { page: page.into(), weight });
        let rules = Rules { pages: pages.into(), nothing_weight: 1, ..Rules::default() };
        let quarter = u64::MAX / 4;
        let drawn = |rules: &Rules| -> Vec<Option<String>> {
            let terms = Terms::new(rules, &roster(&[]));
            (0..4).map(|n| terms.consolation(n * quarter + quarter / 2).map(str::to_owned)).collect()
        };
        assert_eq!(drawn(&rules), [Some("a"), Some("b"), Some("b"), None].map(|p| p.map(str::to_owned)));
        assert_eq!(drawn(&Rules::default()), [None, None, None, None]);
    }

    #[test]
    fn the_plan_fills_what_the_rules_leave_open() {
        let mut roster = roster(&[]);
        roster.claims_per_user_max = 5;
        roster.pages = vec![ticket::manifest::PageEntry {
            batch: BatchId(3),
            merchant_id: 1,
            sponsor: "Acme".into(),
            kind: Kind::Logo,
            page: "acme".into(),
        }];
        let consolation = ("better luck".to_owned(), 7, None);
        let (page, weight, exposures_max) = consolation;
        roster.consolations = vec![ticket::manifest::ConsolationEntry { page, weight, exposures_max }];
        let terms = Terms::new(&Rules::default(), &roster);
        assert_eq!(terms.claims_per_user_max, 5);
        assert_eq!(terms.sponsor_page(BatchId(3)), Some("acme"));
        assert_eq!(terms.sponsor_page(BatchId(4)), None);
        assert_eq!(terms.consolation(7), Some("better luck"));
        let tighter = Rules { claims_per_user_max: Some(2), ..Rules::default() };
        assert_eq!(Terms::new(&tighter, &roster).claims_per_user_max, 2);
        roster.claims_per_user_max = 0;
        assert_eq!(Terms::new(&Rules::default(), &roster).claims_per_user_max, u32::MAX);
    }
}
