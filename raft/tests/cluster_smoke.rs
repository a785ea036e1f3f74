//! A few nodes in lock step: elections, replication, reads, membership, each shown once. What can
//! go wrong together is the simulator's affair.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is this test failing")]

#[path = "kit/lockstep.rs"]
#[expect(unreachable_pub, reason = "the toolbox of this test")]
mod lockstep;

use bowline_raft::{
    Admin, LogIndex, NodeId, Part, Phase, ReadMode, ReplicaId, SnapshotEvent, Step, Term, Verdict,
};
use lockstep::{MemLog, World};

#[test]
fn three_nodes_elect_one_leader_and_commit_everywhere() {
    let mut world = World::new(3);
    world.run(2_000);
    let leader = world.leader();
    for _ in 0..20 {
        assert!(world.propose(leader, 3));
        world.step(5);
    }
    world.run(300);
    for id in 1..=3 {
        assert_eq!(world.commit(id), 61);
        assert_eq!(world.nodes[&id].applied, LogIndex(61));
    }
    assert_eq!(world.leader(), leader, "nothing happened that deposes it");
}

#[test]
fn a_cut_off_leader_steps_down_and_its_tail_is_replaced() {
    let mut world = World::new(3);
    world.run(2_000);
    let old = world.leader();
    world.isolate(old);
    assert!(world.propose(old, 5));
    world.run(2_500);
    let new = world.leader();
    assert_ne!(new, old);
    assert!(world.propose(new, 2));
    world.run(100);
    world.cut.clear();
    world.run(1_500);
    let leader = world.leader();
    let commit = world.commit(leader);
    assert!(commit >= 4);
    for id in 1..=3 {
        assert_eq!(world.commit(id), commit);
        let view = world.nodes[&id].core.view(world.nodes[&id].slot);
        assert_eq!(view.last.0, commit);
    }
}

#[test]
fn crashes_of_every_node_in_turn_lose_nothing() {
    let mut world = World::new(3);
    world.run(2_000);
    let mut accepted = 0;
    for round in 0..30 {
        if let [leader] = world.leaders()[..] {
            accepted += u64::from(world.propose(leader, 1));
        }
        world.run(200);
        world.restart(1 + round % 3);
        world.run(1_500);
    }
    world.run(3_000);
    let leader = world.leader();
    assert!(accepted > 20);
    assert!(world.commit(leader) >= accepted);
    for id in 1..=3 {
        assert_eq!(world.commit(id), world.commit(leader));
    }
}

#[test]
fn reads_at_the_leader_and_at_a_follower_see_what_was_committed() {
    let mut world = World::new(3);
    world.run(2_000);
    let leader = world.leader();
    assert!(world.propose(leader, 4));
    world.run(50);
    let commit = world.commit(leader);
    for id in 1..=3 {
        let node = world.nodes.get_mut(&id).unwrap();
        node.core.read(node.slot, ReadMode::Follower, 10 + id).unwrap();
    }
    world.run(60);
    for id in 1..=3 {
        assert_eq!(world.nodes[&id].reads, [(10 + id, LogIndex(commit))]);
    }
    world.isolate(leader);
    let node = world.nodes.get_mut(&leader).unwrap();
    node.core.read(node.slot, ReadMode::ReadIndex, 99).unwrap();
    world.run(3_000);
    assert_eq!(world.nodes[&leader].reads.len(), 1, "no quorum confirms it");
}

#[test]
fn leadership_is_handed_over_at_once() {
    let mut world = World::new(3);
    world.run(2_000);
    let old = world.leader();
    let to = 1 + old % 3;
    world.admin(old, Admin::Transfer { to: ReplicaId(to) });
    world.run(60);
    assert_eq!(world.leader(), to);
    assert!(world.propose(to, 1));
    world.run(300);
    assert_eq!(world.commit(old), world.commit(to));
}

#[test]
fn a_learner_catches_up_is_promoted_and_a_leader_leaves() {
    let mut world = World::new(3);
    world.run(2_000);
    let leader = world.leader();
    assert!(world.propose(leader, 4));
    world.run(50);
    let add = Step::Add { node: NodeId(4), priority: 0, auto_promote: true };
    world.admin(leader, Admin::Change(&[add]));
    world.step(5);
    world.start(4, 4, MemLog { lsn: 1, ..MemLog::default() });
    world.run(1_500);
    let view = world.nodes[&4].core.view(world.nodes[&4].slot);
    let conf = view.conf.unwrap();
    assert_eq!((conf.phase, conf.members.len(), conf.epoch), (Phase::Stable, 4, 4));
    assert!(conf.members.iter().all(|member| member.after == Part::Voter));
    world.admin(leader, Admin::Change(&[Step::Remove { replica: ReplicaId(leader) }]));
    world.run(2_000);
    let new = world.leader();
    assert_ne!(new, leader);
    let node = &world.nodes[&new];
    let conf = node.core.view(node.slot).conf.unwrap();
    assert_eq!((conf.phase, conf.members.len()), (Phase::Stable, 3));
    assert!(world.propose(new, 1));
    world.run(300);
    assert_eq!(world.commit(4), world.commit(new));
}

#[test]
fn a_follower_behind_a_compacted_log_gets_a_snapshot() {
    let mut world = World::new(3);
    world.run(2_000);
    let leader = world.leader();
    let behind = 1 + leader % 3;
    world.isolate(behind);
    for _ in 0..10 {
        assert!(world.propose(leader, 2));
        world.run(20);
    }
    let upto = LogIndex(world.commit(leader));
    world.admin(leader, Admin::Compact { upto });
    world.run(50);
    world.cut.clear();
    world.run(1_500);
    let (node, founding) = (world.nodes.get_mut(&behind).unwrap(), world.founding.encode());
    let term = Term(node.core.view(node.slot).term.0);
    assert!(term.0 >= 1 && node.core.view(node.slot).commit < upto);
    let leader_log = world.nodes[&leader].log.memory.floor_term;
    let node = world.nodes.get_mut(&behind).unwrap();
    let from = (ReplicaId(leader), NodeId(leader));
    let conf = &founding.unwrap();
    let ready = SnapshotEvent::Ready { index: upto, term: leader_log, conf, from };
    let verdict = node.core.handle_snapshot(node.slot, ready, &mut node.log, &mut node.out);
    assert_eq!(verdict, Verdict::Taken);
    world.flush(behind);
    world.run(1_000);
    assert!(world.propose(world.leader(), 1));
    world.run(500);
    assert_eq!(world.commit(behind), world.commit(world.leader()));
}
