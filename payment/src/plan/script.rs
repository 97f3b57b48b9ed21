//! `script.toml`: when packets go out, which share of each kind goes out when, and the rules of
//! the event. Amounts and counts stand in the budget; one budget can carry several schemes.
//!
//! Invariant: a script without findings has slots in order that do not overlap, and in every
//! scheme the shares of each kind it mentions name known slots.
//!
//! Not here: whether the schemes fit the budget (the plan's own checks do that).

use std::collections::BTreeMap;

use ticket::money::Fen;
use ticket::record::Kind;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use world::UnixMs;

use super::limits::{OPEN_GRACE_MINUTES, OPEN_GRACE_MINUTES_MAX, SLOT_COUNT_MAX, TOTAL_FEN_MAX};
use super::moment::Calendar;
use super::section::{At, Need, Section, article};
use super::source::{Findings, Source};

/// Hundredths of a percent that make a whole.
pub const SHARE_WHOLE: u32 = 10_000;

/// How the packets of a file are mixed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exposure {
    /// Every order is equally likely.
    #[default]
    Random,
    /// Each batch's packets are spread evenly over the file, so that every sponsor is seen from
    /// the beginning of a slot to its end.
    Even,
}

/// Rules of the whole event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The time zone of the script's times, as an IANA name.
    pub timezone: String,
    /// Packets one user may have over the whole event.
    pub claims_per_user: u32,
    /// Packets one user may have of one sponsor, if limited.
    pub claims_per_user_per_merchant: Option<u32>,
    /// A packet may be opened until this long after its slot ended.
    pub open_grace_ms: u64,
    /// How packets are mixed.
    pub exposure: Exposure,
}

/// A time window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its id.
    pub id: String,
    /// Issuing starts.
    pub start_ms: UnixMs,
    /// Issuing ends.
    pub end_ms: UnixMs,
    /// Its line in the file.
    pub line: usize,
}

/// One way to spread the budget over the slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// Its id.
    pub id: String,
    /// Per kind the share of each slot in hundredths of a percent, by slot number.
    pub share: BTreeMap<Kind, Vec<u32>>,
    /// Its line in the file.
    pub line: usize,
    /// Lines of the shares.
    pub share_lines: BTreeMap<Kind, usize>,
}

/// A page shown with a shake that wins nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its id.
    pub id: String,
    /// The sponsor it shows, if any.
    pub merchant_id: Option<u32>,
    /// How often it is shown in relation to the others.
    pub weight: u32,
    /// Exposures promised to the sponsor, if any.
    pub exposures: Option<u64>,
    /// Its line in the file.
    pub line: usize,
}

/// The whole script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// Rules of the event.
    pub event: Event,
    /// No data key protects more money than this.
    pub key_budget: Fen,
    /// Line of the key budget.
    pub key_budget_line: usize,
    /// Packets of at least this much are credited at once; `None`: no packet is.
    pub instant_min: Option<Fen>,
    /// The slots in time order.
    pub slots: Vec<Slot>,
    /// The schemes.
    pub schemes: Vec<Scheme>,
    /// The pages.
    pub pages: Vec<Page>,
}

/// Reads the whole script; what is wrong goes to `findings`.
pub(crate) fn parse(source: &Source, findings: &mut Findings) -> Script {
    let (document, errors) = DeTable::parse_recoverable(&source.text);
    for error in &errors {
        let line = error.span().map_or(1, |span| source.line_at(span.start));
        let message = format!("not valid TOML: {}", error.message().replace('\n', " "));
        findings.note(&source.name, line, message, "compare with events/spring/script.toml");
    }
    if source.text.trim().is_empty() {
        return Script::default();
    }
    let document = document.get_ref();
    let mut top = Section::new("the script".to_owned(), source, document, 0);
    let mut script = Script::default();
    let calendar = event(&mut top, source, &mut script, findings);
    seal_and_instant(&mut top, source, &mut script, findings);
    for (at, (table, offset)) in array(&mut top, "slot", Need::Required, findings).into_iter().enumerate() {
        let section = Section::new(format!("[[slot]] {}", at + 1), source, table, offset);
        slot(section, calendar.as_ref(), &mut script, findings);
    }
    check_slots(source, &script, findings);
    let slot_ids = slot_ids(document);
    for (at, (table, offset)) in array(&mut top, "scheme", Need::Required, findings).into_iter().enumerate() {
        let section = Section::new(format!("[[scheme]] {}", at + 1), source, table, offset);
        scheme(section, &slot_ids, &mut script, findings);
    }
    for (at, (table, offset)) in array(&mut top, "page", Need::Optional, findings).into_iter().enumerate() {
        let section = Section::new(format!("[[page]] {}", at + 1), source, table, offset);
        page(section, &mut script, findings);
    }
    twice(source, "scheme", script.schemes.iter().map(|scheme| (&scheme.id, scheme.line)), findings);
    twice(source, "page", script.pages.iter().map(|page| (&page.id, page.line)), findings);
    top.finish(findings);
    script
}

/// The tables of `[[key]]` with the offsets of their headers.
fn array<'a>(
    top: &mut Section<'a>,
    key: &'static str,
    need: Need,
    findings: &mut Findings,
) -> Vec<(&'a DeTable<'a>, usize)> {
    let Some(value) = top.value(key, need, findings) else { return Vec::new() };
    let mut tables = Vec::new();
    let entries: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
        DeValue::Array(entries) => entries.iter().collect(),
        _ => vec![value],
    };
    if entries.is_empty() && need == Need::Required {
        top.note(top.line_of(value), format!("there is no {key}"), "add one", findings);
    }
    for entry in entries {
        match entry.get_ref() {
            DeValue::Table(table) if value.get_ref().is_array() => tables.push((table, entry.span().start)),
            other => {
                let message = format!("{key} is {}, not a list of tables", article(other));
                top.note(top.line_of(entry), message, &format!("begin it with [[{key}]]"), findings);
            }
        }
    }
    tables
}

/// A `[key]` table.
fn table<'a>(
    top: &mut Section<'a>,
    source: &'a Source,
    key: &'static str,
    need: Need,
    findings: &mut Findings,
) -> Option<Section<'a>> {
    let value = top.value(key, need, findings)?;
    let Some(table) = value.get_ref().as_table() else {
        let message = format!("{key} is {}, not a table", article(value.get_ref()));
        top.note(top.line_of(value), message, &format!("begin it with [{key}]"), findings);
        return None;
    };
    Some(Section::new(format!("[{key}]"), source, table, value.span().start))
}

fn event<'a>(
    top: &mut Section<'a>,
    source: &'a Source,
    script: &mut Script,
    findings: &mut Findings,
) -> Option<Calendar> {
    let mut section = table(top, source, "event", Need::Required, findings)?;
    let id = section.id("id", findings);
    let name = section.name("name", findings);
    let timezone = section.text("timezone", Need::Required, findings);
    let most = u64::from(u32::MAX);
    let claims = section.number("claims_per_user", Need::Required, 1..=most, findings);
    let per_merchant = section.number("claims_per_user_per_merchant", Need::Optional, 1..=most, findings);
    let grace = section.number("open_grace_minutes", Need::Optional, 1..=OPEN_GRACE_MINUTES_MAX, findings);
    let exposure = exposure(&mut section, findings);
    let narrow = |claims: At<u64>| u32::try_from(claims.value).expect("the bounds above are those of u32");
    let calendar = timezone.as_ref().and_then(|zone| {
        let calendar = Calendar::new(&zone.value);
        if calendar.is_none() {
            let message = format!("the time zone {:?} is not known", zone.value);
            section.note(zone.line, message, "use an IANA name like \"Asia/Shanghai\"", findings);
        }
        calendar
    });
    section.finish(findings);
    script.event = Event {
        id: id.map(|id| id.value).unwrap_or_default(),
        name: name.map(|name| name.value).unwrap_or_default(),
        timezone: timezone.map(|zone| zone.value).unwrap_or_default(),
        claims_per_user: claims.map(narrow).unwrap_or_default(),
        claims_per_user_per_merchant: per_merchant.map(narrow),
        open_grace_ms: grace.map_or(OPEN_GRACE_MINUTES, |grace| grace.value) * 60_000,
        exposure,
    };
    calendar
}

fn exposure(section: &mut Section<'_>, findings: &mut Findings) -> Exposure {
    let text = section.text("exposure", Need::Optional, findings);
    match text.as_ref().map(|text| text.value.as_str()) {
        None | Some("random") => {}
        Some("even") => return Exposure::Even,
        Some(other) => {
            let line = text.as_ref().map_or(section.line(), |text| text.line);
            section.note(line, format!("exposure {other:?} is not known"), "use random or even", findings);
        }
    }
    Exposure::Random
}

fn seal_and_instant<'a>(
    top: &mut Section<'a>,
    source: &'a Source,
    script: &mut Script,
    findings: &mut Findings,
) {
    if let Some(mut section) = table(top, source, "seal", Need::Required, findings) {
        if let Some(budget) = section.money("key_budget_yuan", findings) {
            if budget.value.get() == 0 || budget.value.get() > TOTAL_FEN_MAX {
                let message = format!("key_budget_yuan {} is out of bounds", budget.value);
                section.note(budget.line, message, "use an amount like \"250000.00\"", findings);
            }
            (script.key_budget, script.key_budget_line) = (budget.value, budget.line);
        }
        section.finish(findings);
    }
    if let Some(mut section) = table(top, source, "instant", Need::Optional, findings) {
        script.instant_min = section.money("min_yuan", findings).map(|min| min.value);
        section.finish(findings);
    }
}

fn slot(mut section: Section<'_>, calendar: Option<&Calendar>, script: &mut Script, findings: &mut Findings) {
    let line = section.line();
    let id = section.id("id", findings);
    let mut moment = |key: &'static str| {
        let text = section.text(key, Need::Required, findings)?;
        match calendar?.instant(&text.value) {
            Ok(at) => Some(at),
            Err(reason) => {
                let message = format!("{key} {:?} {}", text.value, reason.message);
                section.note(text.line, message, reason.cure, findings);
                None
            }
        }
    };
    let (start_ms, end_ms) = (moment("start"), moment("end"));
    if let (Some(start_ms), Some(end_ms)) = (start_ms, end_ms)
        && start_ms >= end_ms
    {
        section.note(line, "the slot ends before it starts".to_owned(), "exchange start and end", findings);
    }
    section.finish(findings);
    if let (Some(id), Some(start_ms), Some(end_ms)) = (id, start_ms, end_ms) {
        script.slots.push(Slot { id: id.value, start_ms, end_ms, line });
    }
}

/// Order and ids of the slots.
fn check_slots(source: &Source, script: &Script, findings: &mut Findings) {
    for pair in script.slots.windows(2) {
        let [earlier, later] = pair else { unreachable!("windows of two") };
        if later.start_ms < earlier.end_ms {
            let message = format!("slot {:?} starts before slot {:?} ends", later.id, earlier.id);
            findings.note(&source.name, later.line, message, "put the slots in order, without overlap");
        }
    }
    twice(source, "slot", script.slots.iter().map(|slot| (&slot.id, slot.line)), findings);
    if let Some(slot) = script.slots.get(SLOT_COUNT_MAX) {
        let message = format!("there are more than {SLOT_COUNT_MAX} slots");
        findings.note(&source.name, slot.line, message, "use fewer, longer slots");
    }
}

fn twice<'a>(
    source: &Source,
    what: &str,
    ids: impl Iterator<Item = (&'a String, usize)>,
    findings: &mut Findings,
) {
    let mut seen: BTreeMap<&String, usize> = BTreeMap::new();
    for (id, line) in ids {
        if let Some(earlier) = seen.insert(id, line) {
            let message = format!("the {what} {id:?} stands on line {earlier} already");
            findings.note(&source.name, line, message, format!("give each {what} its own id"));
        }
    }
}

/// The ids of all slots as written, so that a slot with a bad time is not also an unknown slot.
fn slot_ids<'a>(document: &'a DeTable<'a>) -> Vec<&'a str> {
    let slots = document.iter().find(|(name, _)| name.get_ref() == "slot");
    let entries = slots.and_then(|(_, value)| value.get_ref().as_array());
    let ids = entries.into_iter().flat_map(|entries| entries.iter()).map(|entry| {
        let table = entry.get_ref().as_table();
        let id = table.and_then(|table| table.iter().find(|(name, _)| name.get_ref() == "id"));
        id.and_then(|(_, value)| value.get_ref().as_str()).unwrap_or_default()
    });
    ids.collect()
}

fn scheme(mut section: Section<'_>, slot_ids: &[&str], script: &mut Script, findings: &mut Findings) {
    let line = section.line();
    let id = section.id("id", findings);
    let mut share = BTreeMap::new();
    let mut share_lines = BTreeMap::new();
    for (name, line, value) in section.entries("share", Need::Required, findings) {
        let Ok(kind) = name.parse::<Kind>() else {
            let message = format!("share.{name} is of no known kind");
            section.note(line, message, "use logo, picture or video", findings);
            continue;
        };
        let Some(slots) = value.get_ref().as_table() else {
            let message = format!("share.{name} is {}, not a table", article(value.get_ref()));
            section.note(line, message, "write it like { \"slot-id\" = 100 }", findings);
            continue;
        };
        let parts = shares(&section, name, slots, slot_ids, findings);
        share.insert(kind, parts);
        share_lines.insert(kind, line);
    }
    section.finish(findings);
    let id = id.map(|id| id.value).unwrap_or_default();
    script.schemes.push(Scheme { id, share, line, share_lines });
}

/// The shares of one kind by slot number.
fn shares(
    section: &Section<'_>,
    kind: &str,
    slots: &DeTable<'_>,
    slot_ids: &[&str],
    findings: &mut Findings,
) -> Vec<u32> {
    let mut parts = vec![0u32; slot_ids.len()];
    for (slot, value) in slots {
        let line = section.line_of(value);
        let Some(at) = slot_ids.iter().position(|id| id == slot.get_ref()) else {
            let message = format!("share.{kind} names the slot {:?}, which does not exist", slot.get_ref());
            let cure = format!("use one of {}", slot_ids.join(", "));
            section.note(line, message, &cure, findings);
            continue;
        };
        let text = match value.get_ref() {
            DeValue::Integer(digits) if digits.radix() == 10 => digits.as_str(),
            DeValue::Float(digits) => digits.as_str(),
            _ => "",
        };
        match percent(text) {
            Some(hundredths) => parts[at] = hundredths,
            None => {
                let message = format!("share.{kind} of {:?} is not a percentage", slot.get_ref());
                section.note(line, message, "use a number from 0 to 100 with at most two decimals", findings);
            }
        }
    }
    parts
}

/// Hundredths of a percent of `12`, `12.5` or `12.25`.
fn percent(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 2 {
        return None;
    }
    let tens: u32 = if fraction.len() == 1 { 10 } else { 1 };
    let hundredths = whole.parse::<u32>().ok()? * 100 + fraction.parse::<u32>().ok()? * tens;
    (hundredths <= SHARE_WHOLE).then_some(hundredths)
}

fn page(mut section: Section<'_>, script: &mut Script, findings: &mut Findings) {
    let line = section.line();
    let id = section.id("id", findings);
    let merchant = section.number("merchant_id", Need::Optional, 0..=u64::from(u32::MAX), findings);
    let weight = section.number("weight", Need::Required, 1..=1_000_000, findings);
    let exposures = section.number("exposures", Need::Optional, 1..=TOTAL_FEN_MAX, findings);
    section.finish(findings);
    if let (Some(id), Some(weight)) = (id, weight) {
        let narrow = |number: u64| u32::try_from(number).expect("the bounds above are within u32");
        script.pages.push(Page {
            id: id.value,
            merchant_id: merchant.map(|merchant| narrow(merchant.value)),
            weight: narrow(weight.value),
            exposures: exposures.map(|exposures| exposures.value),
            line,
        });
    }
}
