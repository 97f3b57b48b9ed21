//! What is done to links between hosts: cuts, holds, delays, and their ends.
//!
//! Invariant: as in `nemesis`.
//!
//! Not here: which reasons against a link there are together (links.rs).

use std::time::Duration;

use rand::RngExt;

use super::{Later, Loss, Nemesis, pairs};
use crate::host::{APPS, CROWD};
use crate::links::Reason;
use crate::schedule::Action;
use crate::target::Target;

/// How often it is drawn whether what is on the way is lost.
const LOSE_EVERY_MS: u64 = 100;

impl Nemesis {
    /// Answers whether it happened; `None` when there is no player for it.
    pub(super) fn act_on_links(
        &mut self,
        sim: &mut turmoil::Sim<'_>,
        now_ms: u64,
        action: &Action,
    ) -> Option<bool> {
        Some(match action {
            Action::Island { zone, crowd } => {
                let inside = self.hosts(&[Target::Zone(*zone)]);
                let mut others: Vec<String> = self.node_names();
                others.retain(|name| !inside.contains(name));
                if *crowd {
                    others.extend([CROWD, APPS].map(str::to_owned));
                }
                self.cut_both(&inside, &others);
                0 < self.links.tell(sim)
            }
            Action::Partition { between, and } => {
                let (one, other) = (self.hosts(between), self.hosts(and));
                self.cut_both(&one, &other);
                0 < self.links.tell(sim)
            }
            Action::OneWay { from, to } => {
                for (from, to) in pairs(&self.hosts(from), &self.hosts(to)) {
                    self.links.cut(&from, &to, Reason::Fault);
                }
                0 < self.links.tell(sim)
            }
            Action::Heal { places } => self.heal_links(sim, places),
            Action::Flap { between, and, down_ms, up_ms, times } => {
                for time in 0..u64::from(*times) {
                    let at_ms = now_ms + time * (down_ms + up_ms);
                    let cut = Action::Partition { between: between.clone(), and: and.clone() };
                    self.plan(at_ms, Later::Play(cut));
                    let ends: Vec<Target> = between.iter().chain(and).copied().collect();
                    self.plan(at_ms + down_ms, Later::Play(Action::Heal { places: ends }));
                }
                *times > 0
            }
            _ => return self.act_on_messages(sim, now_ms, action),
        })
    }

    /// What becomes of messages on links that work.
    fn act_on_messages(&mut self, sim: &mut turmoil::Sim<'_>, now_ms: u64, action: &Action) -> Option<bool> {
        Some(match action {
            Action::Hold { between, and } => {
                for (one, other) in pairs(&self.hosts(between), &self.hosts(and)) {
                    self.links.hold(&one, &other);
                }
                0 < self.links.tell(sim)
            }
            Action::Release { between, and } => {
                for (one, other) in pairs(&self.hosts(between), &self.hosts(and)) {
                    self.links.release(&one, &other);
                }
                0 < self.links.tell(sim)
            }
            Action::Pause { nodes, for_ms } => {
                // turmoil cannot stop a host's tasks: nothing reaches it or leaves it meanwhile.
                let paused: Vec<String> = nodes.iter().map(ToString::to_string).collect();
                let held = pairs(&paused, &self.all_names());
                held.iter().for_each(|(one, other)| self.links.hold(one, other));
                self.plan(now_ms + for_ms, Later::Release(held));
                0 < self.links.tell(sim)
            }
            Action::LoseMessages { between, and, percent, for_ms } => {
                let between = pairs(&self.hosts(between), &self.hosts(and));
                let happens = !between.is_empty();
                self.lose(sim, Loss { between, percent: *percent, until_ms: now_ms + for_ms });
                happens
            }
            Action::Latency { between, and, min_ms, max_ms } => {
                for (one, other) in pairs(&self.hosts(between), &self.hosts(and)) {
                    set_latency(sim, &one, &other, (*min_ms, *max_ms));
                }
                true
            }
            _ => return self.act_on_nodes(action),
        })
    }

    /// Loses what is on the way between hosts whose links work, with the chance that was drawn, and plans
    /// to do so again.
    pub(super) fn lose(&mut self, sim: &turmoil::Sim<'_>, loss: Loss) {
        for (one, other) in &loss.between {
            if !self.links.works(one, other) || !self.chance.random_ratio(u32::from(loss.percent), 100) {
                continue;
            }
            let ends = (sim.lookup(one.as_str()), sim.lookup(other.as_str()));
            let mut lost = 0;
            sim.links(|links| {
                let here = links.filter(|link| link.pair() == ends || link.pair() == (ends.1, ends.0));
                lost = here.map(Iterator::count).sum();
            });
            // What is on the way when a link is cut is lost; what is sent next passes again.
            sim.partition(one.as_str(), other.as_str());
            sim.repair(one.as_str(), other.as_str());
            self.board.count("messages-lost", lost as u64);
        }
        let next_ms = self.now_ms + LOSE_EVERY_MS;
        if next_ms < loss.until_ms {
            self.plan(next_ms, Later::Lose(loss));
        }
    }

    pub(super) fn heal_links(&mut self, sim: &mut turmoil::Sim<'_>, places: &[Target]) -> bool {
        let all = self.all_names();
        let these = if places.is_empty() { all.clone() } else { self.hosts(places) };
        for (one, other) in pairs(&these, &all) {
            self.links.mend(&one, &other, Reason::Fault);
            self.links.mend(&other, &one, Reason::Fault);
            self.links.release(&one, &other);
            set_latency(sim, &one, &other, self.latency_ms);
        }
        self.links.tell(sim);
        true
    }

    fn cut_both(&mut self, one: &[String], other: &[String]) {
        for (one, other) in pairs(one, other) {
            self.links.cut(&one, &other, Reason::Fault);
            self.links.cut(&other, &one, Reason::Fault);
        }
    }
}

/// Messages between two hosts take from `min` to `max` milliseconds from now on. The most alone must not
/// be set: below the least that the network has, turmoil panics at the next message.
fn set_latency(sim: &turmoil::Sim<'_>, one: &str, other: &str, (min, max): (u64, u64)) {
    assert!(min <= max, "a message takes at least {min} and at most {max} ms");
    if one != other {
        sim.set_link_latency(one, other, Duration::from_millis(min));
        sim.set_link_max_message_latency(one, other, Duration::from_millis(max));
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use turmoil::net::{TcpListener, TcpStream};

    use super::*;

    /// The longest and the shortest of some round trips, in milliseconds, over a link whose messages take
    /// `latency`, in a network whose messages take 5 to 9.
    fn round_trips(latency: (u64, u64)) -> (u64, u64) {
        let mut sim = turmoil::Builder::new()
            .rng_seed(1)
            .min_message_latency(Duration::from_millis(5))
            .max_message_latency(Duration::from_millis(9))
            .build();
        sim.host("echo", || async {
            let listener = TcpListener::bind(("0.0.0.0", 1)).await?;
            let (mut caller, _) = listener.accept().await?;
            loop {
                let byte = caller.read_u8().await?;
                caller.write_u8(byte).await?;
            }
        });
        let (told, trips) = std::sync::mpsc::channel();
        sim.client("caller", async move {
            let mut echo = TcpStream::connect("echo:1").await?;
            for _ in 0..20 {
                let sent = tokio::time::Instant::now();
                echo.write_u8(7).await?;
                echo.read_u8().await?;
                told.send(u64::try_from(sent.elapsed().as_millis())?)?;
            }
            Ok(())
        });
        set_latency(&sim, "caller", "echo", latency);
        sim.run().expect("twenty round trips");
        let trips: Vec<u64> = trips.try_iter().collect();
        (*trips.iter().min().expect("some"), *trips.iter().max().expect("some"))
    }

    #[test]
    fn messages_take_no_less_and_no_more_than_was_asked_for() {
        let (least, most) = round_trips((100, 120));
        assert!(200 <= least && most <= 250, "{least} to {most} ms there and back");
    }

    #[test]
    fn a_link_may_be_faster_than_the_network() {
        let (least, most) = round_trips((1, 2));
        assert!(2 <= least && most < 10, "{least} to {most} ms there and back");
    }
}
