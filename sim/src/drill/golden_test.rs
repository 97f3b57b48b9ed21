//! A story with everything in it that can be shown, and files that say what it looks like.

use std::collections::BTreeMap;

use super::story::{Band, Claim, Story, Who};
use crate::history::operator::{OperatorCall, OperatorHistory, OperatorReply};
use crate::history::{Moments, Outcome};
use crate::oracle::Findings;
use crate::schedule::Expect;

/// Compares with a file of `golden/`; `HONGBAO_BLESS=1` writes it anew.
pub fn golden(name: &str, text: &str) {
    let path = format!("{}/src/drill/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("HONGBAO_BLESS").is_some() {
        std::fs::write(&path, text).expect("a writable source tree");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == expected,
        "not what {path} says; look at it, and run with HONGBAO_BLESS=1 if it is right:\n{text}"
    );
}

/// A drill with everything in it that a story can show.
pub fn sample(broken: bool) -> Story {
    let text = include_str!("../../../deploy/drills/zone-kill.toml");
    let drill = crate::drill::parse(text).expect("a shipped drill");
    let (scene, end_ms) = (drill.scene(), 60_000);
    let mut story = Story::new(&drill.title, &drill.about, drill.seed, &scene, &drill.resolve(), end_ms);
    let slots = drill.setting.slots;
    story.slots(
        (1..)
            .zip(slots.starts_ms())
            .map(|(number, from_ms)| Band {
                name: format!("s{number}"),
                from_ms,
                to_ms: from_ms + slots.length_ms,
            })
            .collect(),
    );
    let mut moments = Moments::default();
    let mut commands = OperatorHistory::default();
    for (at_ms, verb, outcome) in [
        (30_100, "failover", Outcome::Refused("<a guard> & a reason".to_owned())),
        (
            31_000,
            "failover",
            Outcome::Done(OperatorReply {
                changed: true,
                said: "zone b is failed over from slot 3 on".to_owned(),
            }),
        ),
        (
            44_000,
            "restore",
            Outcome::Done(OperatorReply {
                changed: true,
                said: "zone b has its files back from slot 5 on".to_owned(),
            }),
        ),
    ] {
        let call = OperatorCall { line: format!("zone {verb} b --reason drill --yes"), expect: Expect::Any };
        let id = commands.invoke(moments.next(at_ms), 0, None, call);
        commands.finish(moments.next(at_ms + 50), id, outcome);
    }
    story.commands(&commands);
    let claim = |at_ms, node: &str, home: &str, slot| Claim {
        at_ms,
        node: node.parse().expect("a node"),
        home: home.parse().expect("a zone"),
        slot,
        file: 0,
    };
    story.claims = vec![
        claim(4_900, "a1", "a", 0),
        claim(4_910, "b1", "b", 0),
        claim(38_000, "c1", "b", 3),
        claim(38_020, "a1", "a", 3),
    ];
    story.tell(29_900, Who::System, "c1 leads group 0 in term 3".to_owned());
    let mut minted = Findings::new("I1", "minted amounts and counts equal the budget");
    minted.checked();
    let mut lost = Findings::new("I7", "what was acknowledged is there");
    lost.must(!broken, Some(moments.next(52_000)), || "message <m-17> was acknowledged & lost".to_owned());
    story.verdicts(vec![
        minted.verdict(|_| "1,508 records minted as ordered".to_owned()),
        lost.verdict(|_| "312 acknowledged writes and messages are there".to_owned()),
    ]);
    story.faults = BTreeMap::from([("zone-down".to_owned(), 1), ("zone-up".to_owned(), 1)]);
    story.replay = "hongbao drill replay zone-kill --seed 16".to_owned();
    story
}
