//! Verdicts about changes of members, and the way of a replacement.

use super::*;
use crate::member_id::DiskNo;

/// `a1` is disk 1 of node a1, `a1.2` its disk 2.
fn member(name: &str) -> MemberId {
    let (node, disk) = name.split_once('.').unwrap_or((name, "1"));
    let disk = DiskNo::new(disk.parse().expect("a number")).expect("48 bits");
    MemberId { node: node.parse().expect("a node name"), disk }
}

fn members(names: &[&str]) -> BTreeSet<MemberId> {
    names.iter().map(|name| member(name)).collect()
}

fn view(voters: &[&str], learners: &[&str], alive: &[(&str, u64)]) -> View {
    View {
        voters: members(voters),
        learners: members(learners),
        majorities: vec![members(voters)],
        pending: false,
        last_index: 1_000,
        alive: alive.iter().map(|(name, index)| (member(name), *index)).collect(),
        lag_entries_max: 10,
    }
}

#[test]
fn a_dead_voter_is_replaced_by_a_learner_that_has_caught_up() {
    let view = view(&["a1", "b1", "c1"], &["c2"], &[("a1", 1_000), ("b1", 999), ("c2", 995)]);
    assert_eq!(view.check_replace(member("c1"), member("c2")), Ok(members(&["a1", "b1", "c2"])));
}

#[test]
fn a_learner_that_is_behind_or_silent_gets_no_vote() {
    let behind = view(&["a1", "b1", "c1"], &["c2"], &[("a1", 1_000), ("b1", 1_000), ("c2", 900)]);
    let verdict = behind.check_replace(member("c1"), member("c2"));
    assert_eq!(verdict, Err(MemberError::Behind { member: member("c2"), lag: 100, lag_max: 10 }));
    let silent = view(&["a1", "b1", "c1"], &["c2"], &[("a1", 1_000), ("b1", 1_000)]);
    assert_eq!(
        silent.check_replace(member("c1"), member("c2")),
        Err(MemberError::Silent { member: member("c2") })
    );
}

#[test]
fn a_change_that_would_leave_no_quorum_is_refused() {
    let view = view(&["a1", "b1", "c1"], &[], &[("a1", 1_000)]);
    assert_eq!(
        view.check_change(&members(&["a1", "b1", "c1"])),
        Err(MemberError::NoQuorum { alive: 1, count: 3 })
    );
    assert_eq!(view.check_add_learner(member("c1.2")), Err(MemberError::NoQuorum { alive: 1, count: 3 }));
}

#[test]
fn a_change_is_refused_while_another_is_under_way_and_for_odd_wishes() {
    let mut view =
        view(&["a1", "b1", "c1"], &["a2"], &[("a1", 1_000), ("b1", 1_000), ("c1", 1_000), ("a2", 1_000)]);
    assert_eq!(view.check_change(&members(&["a1", "b1"])), Err(MemberError::Even { count: 2 }));
    assert_eq!(view.check_change(&BTreeSet::new()), Err(MemberError::NoVoters));
    assert_eq!(
        view.check_change(&members(&["a1", "b1", "z1"])),
        Err(MemberError::NotMember { member: member("z1") })
    );
    assert_eq!(view.check_add_learner(member("a1")), Err(MemberError::AlreadyVoter { member: member("a1") }));
    assert_eq!(view.check_change(&members(&["a1"])), Ok(()));
    view.majorities.push(members(&["a1"]));
    assert_eq!(view.check_change(&members(&["a1"])), Err(MemberError::InProgress));
    assert_eq!(view.check_add_learner(member("z1")), Err(MemberError::InProgress));
}

#[test]
fn the_successor_answers_and_lacks_the_least() {
    let check = |alive: &[(&str, u64)], expected: Option<&str>| {
        let view = view(&["a1", "b1", "c1"], &[], alive);
        assert_eq!(best_successor(&view, member("a1")), expected.map(member), "{alive:?}");
    };
    check(&[("a1", 1_000), ("b1", 998), ("c1", 999)], Some("c1"));
    check(&[("a1", 1_000), ("b1", 999), ("c1", 999)], Some("b1"));
    check(&[("a1", 1_000), ("b1", 2), ("c1", 3)], None);
    check(&[("a1", 1_000)], None);
}

const TWO: [(&str, u64); 2] = [("a1", 1_000), ("b1", 1_000)];

#[test]
fn a_lost_disk_is_replaced_step_by_step_from_wherever_the_group_stands() {
    let new = member("c1.2");
    let check = |view: &View, expected: Step| assert_eq!(view.next_step(Wish::Voter(new)), Ok(expected));
    check(&view(&["a1", "b1", "c1"], &[], &TWO), Step::AddLearner);
    let mut filling = view(&["a1", "b1", "c1"], &["c1.2"], &TWO);
    check(&filling, Step::Wait { lag: None });
    filling.alive.insert(new, 900);
    check(&filling, Step::Wait { lag: Some(100) });
    filling.alive.insert(new, 1_000);
    check(&filling, Step::SetVoters(members(&["a1", "b1", "c1.2"])));
    filling.majorities.push(members(&["a1", "b1", "c1.2"]));
    check(&filling, Step::FinishChange);
    let mut done = view(&["a1", "b1", "c1.2"], &[], &TWO);
    check(&done, Step::Done);
    let pending = View { pending: true, ..done.clone() };
    assert_eq!(
        pending.next_step(Wish::Voter(member("c1.2"))),
        Err(MemberError::InProgress),
        "what may be taken back"
    );
    // An earlier replacement was given up when its disk was lost as well.
    done.learners = members(&["c1.9"]);
    check(&done, Step::RemoveLearners(members(&["c1.9"])));
}

#[test]
fn a_change_is_finished_although_the_old_disk_and_the_one_that_was_to_take_its_place_are_lost() {
    let mut joint = view(&["a1", "b1", "c1", "c1.2"], &[], &TWO);
    joint.majorities = vec![members(&["a1", "b1", "c1"]), members(&["a1", "b1", "c1.2"])];
    assert_eq!(joint.next_step(Wish::Voter(member("c1.3"))), Ok(Step::FinishChange));
    joint.alive.remove(&member("b1"));
    assert_eq!(
        joint.next_step(Wish::Voter(member("c1.3"))),
        Err(MemberError::NoQuorum { alive: 1, count: 3 })
    );
    // A majority of both together is none of each.
    joint.alive.extend([(member("c1"), 1_000), (member("c1.2"), 1_000)]);
    joint.majorities = vec![members(&["a1", "c1", "c1.2"]), members(&["a1", "b1", "b1.2"])];
    assert_eq!(
        joint.next_step(Wish::Voter(member("c1.3"))),
        Err(MemberError::NoQuorum { alive: 1, count: 3 })
    );
}

#[test]
fn a_disk_that_answers_is_not_replaced() {
    let view = view(&["a1", "b1", "c1"], &[], &[("a1", 1_000), ("b1", 1_000), ("c1", 3)]);
    assert_eq!(view.next_step(Wish::Voter(member("c1.2"))), Err(MemberError::Alive { member: member("c1") }));
    assert_eq!(
        view.next_step(Wish::Voter(member("d1"))),
        Err(MemberError::NotVoter { node: member("d1").node })
    );
}

#[test]
fn nothing_is_replaced_without_a_healthy_quorum() {
    let alone = view(&["a1", "b1", "c1"], &[], &[("a1", 1_000)]);
    assert_eq!(
        alone.next_step(Wish::Voter(member("c1.2"))),
        Err(MemberError::NoQuorum { alive: 1, count: 3 })
    );
    let lagging = view(&["a1", "b1", "c1"], &[], &[("a1", 1_000), ("b1", 10)]);
    assert_eq!(
        lagging.next_step(Wish::Voter(member("c1.2"))),
        Err(MemberError::NoQuorum { alive: 1, count: 3 })
    );
}

const C1: &str = "c1";

#[test]
fn a_voter_that_is_silent_is_removed_and_its_node_added_again_in_steps() {
    let node = member(C1).node;
    let check =
        |view: &View, wish: Wish, expected: Step| assert_eq!(view.next_step(wish), Ok(expected), "{wish:?}");
    let lost = view(&["a1", "b1", "c1"], &[], &TWO);
    check(&lost, Wish::NoVoter(node), Step::SetVoters(members(&["a1", "b1"])));
    let mut two = view(&["a1", "b1"], &[], &TWO);
    check(&two, Wish::NoVoter(node), Step::Done);
    let new = member("c1.2");
    check(&two, Wish::Learner(new), Step::AddLearner);
    check(&two, Wish::Voter(new), Step::AddLearner);
    two.learners.insert(new);
    check(&two, Wish::Learner(new), Step::Done);
    check(&two, Wish::Voter(new), Step::Wait { lag: None });
    check(&two, Wish::NoLearner(node), Step::RemoveLearners(members(&["c1.2"])));
    two.alive.insert(new, 1_000);
    check(&two, Wish::Voter(new), Step::SetVoters(members(&["a1", "b1", "c1.2"])));
    check(&view(&["a1", "b1", "c1.2"], &[], &TWO), Wish::NoLearner(node), Step::Done);
    for wish in [Wish::Learner(new), Wish::NoVoter(node), Wish::NoLearner(member("d1").node)] {
        let mut pending = View { pending: true, ..two.clone() };
        assert_eq!(pending.next_step(wish), Err(MemberError::InProgress), "{wish:?}");
        pending.majorities.push(members(&["a1"]));
        assert_eq!(pending.next_step(wish), Ok(Step::FinishChange), "{wish:?}");
    }
}

#[test]
fn no_voter_is_removed_that_answers_or_without_which_the_rest_could_not_go_on() {
    let node = member(C1).node;
    let refused =
        |view: &View, error: MemberError| assert_eq!(view.next_step(Wish::NoVoter(node)), Err(error));
    let mut view = view(&["a1", "b1", "c1"], &[], &[("a1", 1_000), ("b1", 1_000), ("c1", 3)]);
    refused(&view, MemberError::Alive { member: member(C1) });
    view.alive = [(member("a1"), 1_000)].into();
    refused(&view, MemberError::NoQuorum { alive: 1, count: 2 });
    view.voters = members(&["c1"]);
    view.alive.clear();
    refused(&view, MemberError::NoVoters);
}

#[test]
fn a_fourth_node_becomes_neither_voter_nor_learner() {
    let view = view(&["a1", "b1", "c1"], &[], &TWO);
    for wish in [Wish::Voter(member("d1")), Wish::Learner(member("d1"))] {
        assert_eq!(view.next_step(wish), Err(MemberError::NotVoter { node: member("d1").node }));
    }
}
