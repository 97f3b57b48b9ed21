//! Actions as sentences, for the timeline and the report.
//!
//! Invariant: two different actions give different sentences.
//!
//! Not here: when.

use std::fmt::{self, Display};

use super::{Action, BankFault, Damage, Store, Tail, TicketDamage, ZoneVerb};

/// A duration as people write it.
#[must_use]
pub fn span(ms: u64) -> String {
    match ms {
        0 => "0 s".to_owned(),
        1..1_000 => format!("{ms} ms"),
        _ if ms.is_multiple_of(1_000) => format!("{} s", ms / 1_000),
        _ => format!("{}.{} s", ms / 1_000, format!("{:03}", ms % 1_000).trim_end_matches('0')),
    }
}

/// A list in words: `a`, `a and b`, `a, b and c`.
#[must_use]
pub fn list<T: Display>(items: &[T]) -> String {
    let words: Vec<String> = items.iter().map(ToString::to_string).collect();
    match words.split_last() {
        None => "nothing".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

impl Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Store::Log => "log",
            Store::State => "state",
            Store::Files => "files",
        })
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Crash { .. }
            | Action::PowerCut { .. }
            | Action::Restart { .. }
            | Action::Pause { .. }
            | Action::ZoneDown { .. }
            | Action::ZoneUp { .. } => process(self, f),
            Action::Island { .. }
            | Action::Partition { .. }
            | Action::OneWay { .. }
            | Action::Heal { .. }
            | Action::Flap { .. }
            | Action::Hold { .. }
            | Action::Release { .. }
            | Action::Latency { .. }
            | Action::LoseMessages { .. }
            | Action::RepeatMessages { .. } => network(self, f),
            Action::SlowDisk { .. }
            | Action::FullDisk { .. }
            | Action::FailSync { .. }
            | Action::BitRot { .. }
            | Action::MisdirectWrite { .. }
            | Action::DamageFile { .. }
            | Action::LoseDisk { .. }
            | Action::SwapDisks { .. }
            | Action::MendDisk { .. } => disk(self, f),
            _ => rest(self, f),
        }
    }
}

fn process(action: &Action, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match action {
        Action::Crash { nodes } => write!(f, "crash of {}", list(nodes)),
        Action::PowerCut { nodes, tail } => write!(f, "power cut at {}, {}", list(nodes), tail_words(*tail)),
        Action::Restart { nodes } => write!(f, "start of {}", list(nodes)),
        Action::Pause { nodes, for_ms } => write!(f, "{} stands still for {}", list(nodes), span(*for_ms)),
        Action::ZoneDown { zone, tail } => write!(f, "zone {zone} is lost, {}", tail_words(*tail)),
        Action::ZoneUp { zone } => write!(f, "zone {zone} returns"),
        _ => unreachable!("not about processes"),
    }
}

fn tail_words(tail: Tail) -> &'static str {
    match tail {
        Tail::Lost => "with all that was not synced",
        Tail::Prefix => "with some of what was not synced",
        Tail::Torn => "in the middle of a write",
    }
}

fn network(action: &Action, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match action {
        Action::Island { zone, crowd: false } => write!(f, "zone {zone} is cut off from the other zones"),
        Action::Island { zone, crowd: true } => {
            write!(f, "zone {zone} is cut off from the other zones and the users")
        }
        Action::Partition { between, and } => {
            write!(f, "nothing passes between {} and {}", list(between), list(and))
        }
        Action::OneWay { from, to } => write!(f, "nothing passes from {} to {}", list(from), list(to)),
        Action::Heal { places } if places.is_empty() => f.write_str("all links work"),
        Action::Heal { places } => write!(f, "the links of {} work", list(places)),
        Action::Flap { between, and, down_ms, up_ms, times } => write!(
            f,
            "the links between {} and {} go down for {} and up for {}, {times} times",
            list(between),
            list(and),
            span(*down_ms),
            span(*up_ms)
        ),
        Action::Hold { between, and } => {
            write!(f, "messages between {} and {} are kept back", list(between), list(and))
        }
        Action::Release { between, and } => {
            write!(f, "messages between {} and {} arrive in a burst", list(between), list(and))
        }
        Action::Latency { between, and, min_ms, max_ms } => {
            write!(f, "messages between {} and {} take {min_ms} to {max_ms} ms", list(between), list(and))
        }
        Action::LoseMessages { between, and, percent, for_ms } => write!(
            f,
            "now and then ({percent} %) what is on the way between {} and {} is lost, for {}",
            list(between),
            list(and),
            span(*for_ms)
        ),
        Action::RepeatMessages { percent, for_ms } => {
            write!(f, "{percent} % of the requests arrive twice for {}", span(*for_ms))
        }
        _ => unreachable!("not about the network"),
    }
}

fn disk(action: &Action, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match action {
        Action::SlowDisk { nodes, min_ms, max_ms } => {
            write!(f, "syncs at {} take {min_ms} to {max_ms} ms", list(nodes))
        }
        Action::FullDisk { nodes } => write!(f, "no space at {}", list(nodes)),
        Action::FailSync { nodes } => write!(f, "the next sync at {} fails", list(nodes)),
        Action::BitRot { nodes, store, bits } => {
            write!(f, "{bits} bits of the {store} at {} change", list(nodes))
        }
        Action::MisdirectWrite { nodes, store } => {
            write!(f, "the next write to the {store} at {} lands elsewhere", list(nodes))
        }
        Action::DamageFile { node, store, damage } => {
            let what = match damage {
                Damage::Missing => "is missing",
                Damage::Truncated => "is cut short",
                Damage::RolledBack => "is as it was before",
            };
            write!(f, "a file of the {store} at {node} {what}")
        }
        Action::LoseDisk { nodes } => write!(f, "{} lost the disk", list(nodes)),
        Action::SwapDisks { one, other } => write!(f, "{one} and {other} get each other's disk"),
        Action::MendDisk { nodes } => write!(f, "the disk of {} is well", list(nodes)),
        _ => unreachable!("not about disks"),
    }
}

fn rest(action: &Action, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match action {
        Action::ClockOffset { nodes, by_ms } => write!(f, "the clock of {} is {by_ms:+} ms off", list(nodes)),
        Action::ClockDrift { nodes, ppm } => write!(f, "the clock of {} drifts by {ppm:+} ppm", list(nodes)),
        Action::ClockJump { nodes, by_ms } => write!(f, "the clock of {} leaps by {by_ms:+} ms", list(nodes)),
        Action::MendClock { nodes } => write!(f, "the clock of {} is right", list(nodes)),
        Action::Elect { node, group: None } => write!(f, "{node} stands for election in every group"),
        Action::Elect { node, group: Some(group) } => {
            write!(f, "{node} stands for election in group {group}")
        }
        Action::TransferLeader { group, to } => write!(f, "the leader of group {group} hands over to {to}"),
        Action::Snapshot { nodes } => write!(f, "snapshots and short logs at {}", list(nodes)),
        Action::ReplaceNode { node } => write!(f, "the disk of {node} is replaced"),
        Action::Burst { factor, for_ms } => write!(f, "{factor} times as many users for {}", span(*for_ms)),
        Action::CrashCrowd { percent } => write!(f, "{percent} % of the users' devices fail"),
        Action::StopSettlers { nodes, for_ms } => {
            write!(f, "nothing is settled at {} for {}", list(nodes), span(*for_ms))
        }
        Action::BankFault { fault, percent, for_ms } => {
            write!(f, "the bank {} in {percent} % of the calls for {}", bank_words(*fault), span(*for_ms))
        }
        Action::DamageTicketFile { node, damage } => {
            let what = match damage {
                TicketDamage::Missing => "is missing",
                TicketDamage::Truncated => "is cut short",
                TicketDamage::Altered => "was altered",
                TicketDamage::Exchanged => "is another one",
                TicketDamage::StaleBuild => "is of another build",
            };
            write!(f, "a ticket file at {node} {what}")
        }
        Action::Operator { types, times: 1, .. } => write!(f, "operator: {types}"),
        Action::Operator { types, times, .. } => write!(f, "operator, {times} times: {types}"),
        Action::OldController { zone, verb, behind_ms } => {
            let what = match verb {
                ZoneVerb::Failover => "fails over",
                ZoneVerb::Restore => "restores",
            };
            write!(f, "a controller that decided {} ago {what} zone {zone}", span(*behind_ms))
        }
        Action::HealAll => f.write_str("everything works again"),
        _ => unreachable!("said by another function"),
    }
}

fn bank_words(fault: BankFault) -> &'static str {
    match fault {
        BankFault::TimeoutButPaid => "pays and does not answer",
        BankFault::TimeoutNotPaid => "neither pays nor answers",
        BankFault::DoubleCallback => "reports a payment twice",
        BankFault::LateCallback => "reports a payment late",
        BankFault::Refused => "refuses",
        BankFault::Slow => "is slow",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_people_do() {
        for (ms, text) in [
            (0, "0 s"),
            (250, "250 ms"),
            (3_000, "3 s"),
            (2_500, "2.5 s"),
            (12_340, "12.34 s"),
            (1_001, "1.001 s"),
            (60_000, "60 s"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn lists_are_written_as_people_do() {
        assert_eq!(list::<&str>(&[]), "nothing");
        assert_eq!(list(&["a"]), "a");
        assert_eq!(list(&["a", "b", "c"]), "a, b and c");
    }
}
