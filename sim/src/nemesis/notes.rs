//! What a nemesis writes down for the oracles: when a zone could reach no other, and when anything was wrong.
//!
//! Invariant: written between two steps of the simulation, after everything that was due.
//!
//! Not here: judging it (`oracle::i9_island`).

use super::Nemesis;
use crate::oracle::i9_island::{Isolation, Trouble};

impl Nemesis {
    pub(super) fn note_isolations(&mut self) {
        if self.noted.replace(self.links.version()) == Some(self.links.version()) {
            return;
        }
        for node in self.sites.keys() {
            let others: Vec<String> =
                self.sites.keys().filter(|other| *other != node).map(ToString::to_string).collect();
            let alone = self.links.alone(&node.to_string(), &others);
            let zone = node.zone();
            let last = self.outages.isolations.iter_mut().rfind(|isolation| isolation.zone == zone);
            match last.filter(|isolation| isolation.to.is_none()) {
                Some(isolation) if !alone => isolation.to = Some(self.board.moment()),
                None if alone => {
                    self.outages.isolations.push(Isolation { zone, from: self.board.moment(), to: None });
                }
                _ => {}
            }
        }
    }

    pub(super) fn note_troubles(&mut self) {
        let ill = [&self.down, &self.harmed, &self.hampered].iter().any(|nodes| !nodes.is_empty());
        let calm = !ill && self.ended.is_empty() && self.swapped.is_empty() && self.links.all_work();
        match self.outages.troubles.last_mut().filter(|trouble| trouble.to.is_none()) {
            Some(trouble) if calm => trouble.to = Some(self.board.moment()),
            None if !calm => self.outages.troubles.push(Trouble { from: self.board.moment(), to: None }),
            _ => {}
        }
    }
}
