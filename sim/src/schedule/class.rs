//! Kinds of faults: what a seed switches on or off, and what the summary of a run counts by.
//!
//! Invariant: every action but `heal-all` belongs to exactly one class. Rows are those of the fault
//! table in `docs/simulation/faults.md`.
//!
//! Not here: how often; see `mix`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Action;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A process ends and starts again.
    Crash,
    /// Machines stop silently, and what was not synced is lost or torn.
    PowerCut,
    /// Every machine loses power at once.
    Blackout,
    /// A process stands still for a while.
    Pause,
    /// A zone is lost, and returns.
    Zone,
    /// A zone is cut off, or two sides are.
    Partition,
    /// Messages pass in one direction only.
    OneWay,
    /// A link goes down and up.
    Flap,
    /// Messages are kept back and arrive in a burst.
    Hold,
    /// Delay, per pair of zones.
    Latency,
    /// Some messages never arrive.
    Loss,
    /// Some requests arrive twice.
    Repeat,
    /// Syncs take long.
    SlowDisk,
    /// No space.
    FullDisk,
    /// A sync fails.
    FailedSync,
    /// Stored bits change.
    BitRot,
    /// A write lands elsewhere.
    Misdirected,
    /// A file is missing, short or old.
    DamagedFile,
    /// A disk is lost and its node replaced.
    LostDisk,
    /// Two nodes get each other's disk.
    SwappedDisks,
    /// Clocks are off, drift or leap.
    Clock,
    /// Elections and hand-overs nobody needed.
    Election,
    /// Snapshots and short logs.
    Snapshot,
    /// Too many users.
    Overload,
    /// Users' devices fail, and they ask again.
    Clients,
    /// Consumers stand still.
    Backlog,
    /// The payment back end.
    Bank,
    /// Ticket files.
    TicketFile,
    /// A controller that acts on what it knew.
    OldController,
    /// Commands: right, wrong, repeated, mistyped.
    Operator,
    /// Machines with slow disks lose power just after they have spoken.
    Amnesia,
    /// A zone stands still, is failed over, and goes on.
    Zombie,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 32] = [
        Class::Crash,
        Class::PowerCut,
        Class::Blackout,
        Class::Pause,
        Class::Zone,
        Class::Partition,
        Class::OneWay,
        Class::Flap,
        Class::Hold,
        Class::Latency,
        Class::Loss,
        Class::Repeat,
        Class::SlowDisk,
        Class::FullDisk,
        Class::FailedSync,
        Class::BitRot,
        Class::Misdirected,
        Class::DamagedFile,
        Class::LostDisk,
        Class::SwappedDisks,
        Class::Clock,
        Class::Election,
        Class::Snapshot,
        Class::Overload,
        Class::Clients,
        Class::Backlog,
        Class::Bank,
        Class::TicketFile,
        Class::OldController,
        Class::Operator,
        Class::Amnesia,
        Class::Zombie,
    ];

    /// Its place in [`Class::ALL`], which numbers the random streams: new classes go to the end.
    #[must_use]
    pub fn number(self) -> u64 {
        self as u64
    }

    /// Rows of the fault table it stands for.
    #[must_use]
    pub fn rows(self) -> &'static [u8] {
        match self {
            Class::Crash => &[1],
            Class::PowerCut => &[2, 3],
            Class::Amnesia => &[2, 12],
            Class::Blackout => &[4],
            Class::Pause | Class::Zombie => &[19],
            Class::Zone => &[27],
            Class::Partition => &[13],
            Class::OneWay => &[14],
            Class::Flap | Class::Hold => &[15],
            Class::Latency => &[18],
            Class::Loss => &[16],
            Class::Repeat => &[17],
            Class::SlowDisk => &[12],
            Class::FullDisk => &[10],
            Class::FailedSync => &[11],
            Class::BitRot => &[5],
            Class::Misdirected => &[6],
            Class::DamagedFile => &[7],
            Class::LostDisk => &[8, 21],
            Class::SwappedDisks => &[9],
            Class::Clock => &[20],
            Class::Election => &[22],
            Class::Snapshot => &[23, 28],
            Class::Overload | Class::Backlog => &[29],
            Class::Clients => &[31],
            Class::Bank => &[32],
            Class::TicketFile => &[33],
            Class::OldController => &[34],
            Class::Operator => &[35],
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_value(self).expect("a class is a word");
        f.write_str(text.as_str().expect("a class is a word"))
    }
}

impl Action {
    /// The names of all actions, as written in a drill file.
    pub const NAMES: [&'static str; 41] = [
        "bank-fault",
        "bit-rot",
        "burst",
        "clock-drift",
        "clock-jump",
        "clock-offset",
        "crash",
        "crash-crowd",
        "damage-file",
        "damage-ticket-file",
        "elect",
        "fail-sync",
        "flap",
        "full-disk",
        "heal",
        "heal-all",
        "hold",
        "island",
        "latency",
        "lose-disk",
        "lose-messages",
        "mend-clock",
        "mend-disk",
        "misdirect-write",
        "old-controller",
        "one-way",
        "operator",
        "partition",
        "pause",
        "power-cut",
        "release",
        "repeat-messages",
        "replace-node",
        "restart",
        "slow-disk",
        "snapshot",
        "stop-settlers",
        "swap-disks",
        "transfer-leader",
        "zone-down",
        "zone-up",
    ];

    /// Its name, as written in a drill file.
    #[must_use]
    pub fn name(&self) -> String {
        let value = serde_json::to_value(self).expect("an action is plain data");
        value["action"].as_str().expect("an action has a name").to_owned()
    }

    /// The class it belongs to; `None` for what ends all faults. Ends belong to what they end.
    #[must_use]
    pub fn class(&self) -> Option<Class> {
        Some(match self {
            Action::Crash { .. } | Action::Restart { .. } => Class::Crash,
            Action::PowerCut { .. } => Class::PowerCut,
            Action::Pause { .. } => Class::Pause,
            Action::ZoneDown { .. } | Action::ZoneUp { .. } => Class::Zone,
            Action::Island { .. } | Action::Partition { .. } | Action::Heal { .. } => Class::Partition,
            Action::OneWay { .. } => Class::OneWay,
            Action::Flap { .. } => Class::Flap,
            Action::Hold { .. } | Action::Release { .. } => Class::Hold,
            Action::Latency { .. } => Class::Latency,
            Action::LoseMessages { .. } => Class::Loss,
            Action::RepeatMessages { .. } => Class::Repeat,
            Action::SlowDisk { .. } | Action::MendDisk { .. } => Class::SlowDisk,
            Action::FullDisk { .. } => Class::FullDisk,
            Action::FailSync { .. } => Class::FailedSync,
            Action::BitRot { .. } => Class::BitRot,
            Action::MisdirectWrite { .. } => Class::Misdirected,
            Action::DamageFile { .. } => Class::DamagedFile,
            Action::LoseDisk { .. } | Action::ReplaceNode { .. } => Class::LostDisk,
            Action::SwapDisks { .. } => Class::SwappedDisks,
            Action::ClockOffset { .. }
            | Action::ClockDrift { .. }
            | Action::ClockJump { .. }
            | Action::MendClock { .. } => Class::Clock,
            Action::Elect { .. } | Action::TransferLeader { .. } => Class::Election,
            Action::Snapshot { .. } => Class::Snapshot,
            Action::Burst { .. } => Class::Overload,
            Action::CrashCrowd { .. } => Class::Clients,
            Action::StopSettlers { .. } => Class::Backlog,
            Action::BankFault { .. } => Class::Bank,
            Action::DamageTicketFile { .. } => Class::TicketFile,
            Action::OldController { .. } => Class::OldController,
            Action::Operator { .. } => Class::Operator,
            Action::HealAll => return None,
        })
    }

    /// Whether it ends faults and causes none.
    #[must_use]
    pub fn mends(&self) -> bool {
        matches!(
            self,
            Action::Restart { .. }
                | Action::ZoneUp { .. }
                | Action::Heal { .. }
                | Action::Release { .. }
                | Action::MendDisk { .. }
                | Action::MendClock { .. }
                | Action::ReplaceNode { .. }
                | Action::HealAll
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_numbered_as_they_are_listed() {
        for (at, class) in Class::ALL.iter().enumerate() {
            assert_eq!(class.number(), at as u64, "{class}");
        }
    }

    #[test]
    fn every_name_is_that_of_an_action() {
        for name in Action::NAMES {
            let action = serde_json::from_str::<Action>(&format!("{{\"action\": \"{name}\"}}"));
            let unknown = action.is_err_and(|error| error.to_string().contains("unknown variant"));
            assert!(!unknown, "{name}");
        }
    }

    #[test]
    fn the_table_of_faults_names_each_class_in_its_rows_and_every_action() {
        let table = include_str!("../../../docs/simulation/faults.md");
        let row = |number: u8| {
            let head = format!("| {number} |");
            table.lines().find(|line| line.starts_with(&head)).unwrap_or_else(|| panic!("no row {number}"))
        };
        for class in Class::ALL {
            for number in class.rows() {
                assert!(row(*number).contains(&format!("`{class}`")), "row {number} does not name {class}");
            }
        }
        for name in Action::NAMES {
            assert!(table.contains(&format!("`{name}`")), "{name} is not in the table");
        }
        (1..=35).for_each(|number| assert!(row(number).matches('|').count() == 7, "row {number}"));
    }

    #[test]
    fn every_row_a_class_names_is_in_the_fault_table() {
        for class in Class::ALL {
            assert!(!class.rows().is_empty());
            assert!(class.rows().iter().all(|row| (1..=35).contains(row)), "{class}");
        }
    }
}
