//! Three members and more in one process: each test is named after what must hold.

mod support;

use std::time::Duration;

use support::*;
use troika_proto::v1;
use troika_store::limits::{LOG_READ_BYTES, LOG_TAIL_BYTES, MAX_UNWRITTEN_BYTES};
use troika_store::raft::Stopped;
use troika_store::runtime::Runtime;
use troika_store::state::{Command, Decision, Submission};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_takes_proposals_and_all_racers_hear_one_winner() {
    let cluster = Cluster::start(3).await;
    init(cluster.handle(2)).await;
    let round = open(cluster.handle(3)).await;
    let mut racing = Vec::new();
    for shard in 0..SHARDS - 1 {
        for (id, name) in [(1, "a"), (2, "b"), (3, "c"), (1, "d")] {
            let handle = cluster.handle(id).clone();
            racing.push(async move {
                let command = proposal(round, shard, shard, 1, name);
                (shard, propose(&handle, command).await)
            });
        }
    }
    let mut winners = std::collections::BTreeMap::new();
    for (shard, proposed) in futures::future::join_all(racing).await {
        let Decision::Winner(winner) = proposed.answer.decision else {
            panic!("shard {shard}: {:?}", proposed.answer.decision);
        };
        assert!(winner.revision <= proposed.answer.revision);
        assert_eq!(
            winners.entry(shard).or_insert_with(|| winner.clone()),
            &winner
        );
    }
    // A loser needs no entry of its own: far fewer entries than submissions were logged.
    let logged = cluster.handle(1).status().last_log_index;
    assert!(logged < 4 * u64::from(SHARDS), "{logged} entries");
    cluster.settled().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_group_goes_on_when_its_leader_is_killed_and_takes_it_back() {
    let mut cluster = Cluster::start(3).await;
    init(cluster.handle(1)).await;
    let mut winners = blocks(cluster.handle(1), 1, 3).await;
    let leader = cluster.leader().await;
    cluster.kill(leader);
    let other = *cluster.members.keys().next().unwrap();
    winners.extend(blocks(cluster.handle(other), 4, 3).await);
    cluster.run(leader).await;
    cluster.settled().await;
    for ((round, shard), hash) in &winners {
        for member in cluster.members.values() {
            let winner = member
                .handle
                .read(|machine| machine.winner_of(*round, *shard))
                .unwrap();
            assert_eq!(&winner.shard_hash.to_string(), hash);
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_decisions_survive_the_death_of_all_members_at_once() {
    let mut cluster = Cluster::start(3).await;
    init(cluster.handle(1)).await;
    let winners = blocks(cluster.handle(2), 1, 3).await;
    for id in 1..=3 {
        cluster.kill(id);
        cluster.disks[&id].power_cut(id);
    }
    for id in 1..=3 {
        cluster.run(id).await;
    }
    cluster.leader().await;
    let deadline = Runtime::now() + LONG;
    for id in 1..=3 {
        cluster.handle(id).linearize(deadline).await.unwrap();
        for ((round, shard), hash) in &winners {
            let winner = cluster
                .handle(id)
                .read(|machine| machine.winner_of(*round, *shard))
                .unwrap();
            assert_eq!(&winner.shard_hash.to_string(), hash);
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_on_any_member_see_what_was_acknowledged_before_them() {
    let cluster = Cluster::start(3).await;
    init(cluster.handle(1)).await;
    for nonce in 1..20 {
        let writer = cluster.handle(nonce % 3 + 1);
        let reader = cluster.handle((nonce + 1) % 3 + 1);
        let round = open(writer).await;
        let decided = propose(writer, proposal(round, 0, 0, nonce, "a")).await;
        let deadline = Runtime::now() + LONG;
        reader.linearize(deadline).await.unwrap();
        assert!(reader.read(|machine| machine.winner_of(round, 0)).is_some());
        let third = cluster.handle((nonce + 2) % 3 + 1);
        third
            .wait_revision(decided.answer.revision, deadline)
            .await
            .unwrap();
        assert!(third.read(|machine| machine.winner_of(round, 0)).is_some());
        Runtime::sleep(Duration::from_millis(110)).await;
        let seal = Command::SealRound {
            round,
            waited_ms: 0,
        };
        let sealed = propose(reader, seal).await;
        assert!(
            matches!(sealed.answer.decision, Decision::Closed(_)),
            "{sealed:?}"
        );
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_submission_is_refused_on_any_member_and_the_next_racer_wins() {
    let cluster = Cluster::start(3).await;
    init(cluster.handle(1)).await;
    let round = open(cluster.handle(1)).await;
    let deadline = Runtime::now() + LONG;
    for id in 1..=3 {
        let shard = id as u32 - 1;
        let handle = cluster.handle(id);
        let mut spoiled = submission(proposal(round, shard, shard, 1, "spoiled"));
        spoiled.header.as_mut().unwrap().gas_used += 1;
        let spoiled = Submission::parse(spoiled).unwrap();
        let good = submission(proposal(round, shard, shard, 1, "good"));
        let good = Submission::parse(good).unwrap();
        let (refused, decided) = tokio::join!(
            handle.submit_by(spoiled, deadline),
            handle.submit_by(good, deadline)
        );
        let refused = refused.unwrap_err().to_string();
        assert!(refused.starts_with("header.gas_used"), "{refused}");
        let decided = decided.unwrap().answer.decision;
        assert!(
            matches!(&decided, Decision::Winner(winner) if &*winner.executor == "good"),
            "{decided:?}"
        );
    }
    cluster.shutdown().await;
}

/// The request that a proposal came with.
fn submission(command: Command) -> v1::SubmitRequest {
    let Command::AcceptShard(accept) = command else {
        panic!("not a proposal: {command:?}");
    };
    v1::SubmitRequest {
        round: accept.round,
        shard: accept.shard,
        executor: accept.executor.to_string(),
        header: Some((&accept.proposal.header).into()),
        body: Some((&accept.proposal.body).into()),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_member_answers_what_is_decided_and_nothing_else() {
    let cluster = Cluster::start(3).await;
    init(cluster.handle(1)).await;
    let round = open(cluster.handle(1)).await;
    propose(cluster.handle(1), proposal(round, 0, 0, 1, "a")).await;
    cluster.settled().await;
    let leader = cluster.leader().await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.hub.cut(leader, id);
    }
    let alone = cluster.handle(leader);
    let decided = propose(alone, proposal(round, 0, 0, 1, "b")).await;
    assert!(
        matches!(decided.answer.decision, Decision::Winner(winner) if &*winner.executor == "a")
    );
    let soon = Runtime::now() + Duration::from_millis(700);
    let undecided = alone.propose_by(proposal(round, 1, 1, 1, "b"), soon).await;
    assert!(undecided.is_err(), "{undecided:?}");
    assert!(
        alone
            .linearize(soon + Duration::from_millis(300))
            .await
            .is_err()
    );
    // The others go on, and what they decide is what the one alone hears in the end.
    let other = cluster.handle(leader % 3 + 1);
    let theirs = propose(other, proposal(round, 1, 1, 1, "c")).await;
    cluster.hub.heal();
    let ours = propose(alone, proposal(round, 1, 1, 1, "b")).await;
    assert_eq!(ours.answer.decision, theirs.answer.decision);
    cluster.settled().await;
    cluster.shutdown().await;
}

/// What openraft's own read index allows: a late answer to an entry counts for the message, sent when that entry was
/// committed, which ends with the same entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_answers_do_not_confirm_a_leader_that_has_been_replaced() {
    let cluster = Cluster::start(3).await;
    init(cluster.handle(1)).await;
    let round = open(cluster.handle(1)).await;
    cluster.settled().await;
    let old = cluster.leader().await;
    let [first, second] = [old % 3 + 1, (old + 1) % 3 + 1];
    let alone = cluster.handle(old).clone();
    // Both others log an entry and say so; nobody hears it.
    let last = alone.status().last_log_index;
    cluster.hub.hold_answers(first, old);
    cluster.hub.hold_answers(second, old);
    let soon = Runtime::now() + LONG;
    let proposing = alone.clone();
    let held = Runtime::spawn(async move {
        let command = proposal(round, 0, 0, 1, "a");
        proposing.propose_by(command, soon).await
    });
    until("the entry is on all disks", || {
        let logged = [first, second].map(|id| cluster.handle(id).status().last_log_index);
        logged.iter().all(|index| *index > last).then_some(())
    })
    .await;
    // They are cut off from their leader, and go on without it.
    cluster.hub.stall(old);
    until("another leader", || {
        let leader = cluster.handle(first).position().leader;
        (leader != old && leader == cluster.handle(second).position().leader).then_some(())
    })
    .await;
    let theirs = propose(cluster.handle(first), proposal(round, 1, 1, 1, "c")).await;
    assert!(matches!(theirs.answer.decision, Decision::Winner(_)));
    // A read begins where that has not been heard; then the answers come.
    let deadline = Runtime::now() + Duration::from_millis(1_500);
    let reading = alone.clone();
    let read = Runtime::spawn(async move { reading.linearize(deadline).await });
    Runtime::sleep(Duration::from_millis(100)).await;
    let before = alone.status().committed_index;
    cluster.hub.let_answers_through(first, old);
    // By a leader of the past. On a slow machine it has given its streams up by now, and there is nothing to be seen.
    while alone.status().committed_index == before && Runtime::now() < deadline {
        Runtime::sleep(Duration::from_millis(10)).await;
    }
    Runtime::sleep(Duration::from_millis(100)).await;
    cluster.hub.let_answers_through(second, old);
    let read = read.await.unwrap();
    let knows = alone.read(|machine| matches!(machine.decided(round, 1), Ok(Some(_))));
    assert!(read.is_err() || knows, "it read what was not true any more");
    cluster.hub.heal();
    assert!(held.await.unwrap().is_ok());
    cluster.settled().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_far_behind_gets_the_state_while_writes_go_on() {
    let mut cluster = Cluster::start(3).await;
    init(cluster.handle(1)).await;
    let leader = cluster.leader().await;
    let behind = leader % 3 + 1;
    let other = behind % 3 + 1;
    cluster.kill(behind);
    let mut winners = blocks(cluster.handle(other), 1, 5).await;
    for id in [leader, other] {
        cluster.handle(id).compact().await.unwrap();
        assert!(cluster.handle(id).status().purged_index > 0);
    }
    let writer = cluster.handle(other).clone();
    let load = Runtime::spawn(async move { blocks(&writer, 6, 10).await });
    cluster.run(behind).await;
    winners.extend(load.await.unwrap());
    cluster.settled().await;
    // And it is as good as any: it may lead, restart, and answers what was decided while it was away.
    cluster
        .handle(leader)
        .transfer_leadership(behind)
        .await
        .unwrap();
    cluster.kill(behind);
    let back = cluster.run(behind).await;
    back.linearize(Runtime::now() + LONG).await.unwrap();
    for ((round, shard), hash) in &winners {
        let winner = back
            .read(|machine| machine.winner_of(*round, *shard))
            .unwrap();
        assert_eq!(&winner.shard_hash.to_string(), hash);
    }
    cluster.settled().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_takes_nothing_in_slows_nobody_and_little_is_held_for_it() {
    const TRANSACTION_BYTES: usize = 100 << 10;
    let cluster = Cluster::start(3).await;
    init(cluster.handle(1)).await;
    let leader = cluster.leader().await;
    let slow = leader % 3 + 1;
    let handle = cluster.handle(leader);
    cluster.hub.stall(slow);
    // Several times as much as the log keeps in memory.
    let rounds = 1 + 4 * LOG_TAIL_BYTES as u64 / (u64::from(SHARDS) * TRANSACTION_BYTES as u64);
    for nonce in 1..=rounds {
        let round = open(handle).await;
        for shard in 0..SHARDS {
            let transaction = vec![nonce as u8; TRANSACTION_BYTES];
            let command = proposal_of(round, shard, shard, nonce, "a", transaction);
            let decision = propose(handle, command).await.answer.decision;
            assert!(matches!(decision, Decision::Winner(_)), "{decision:?}");
        }
        assert!(handle.status().dirty_bytes as usize <= MAX_UNWRITTEN_BYTES);
    }
    let (ahead, behind) = (handle.status(), cluster.handle(slow).status());
    assert!(behind.last_log_index < ahead.applied_index);
    // A message on its way on each of a few streams, and no more.
    let withheld = cluster.hub.most_withheld();
    assert!(withheld <= 4 * LOG_READ_BYTES, "{withheld} bytes wait");
    cluster.hub.heal();
    cluster.settled().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_voter_is_refused_under_its_old_id() {
    let mut cluster = Cluster::start(3).await;
    init(cluster.handle(1)).await;
    blocks(cluster.handle(1), 1, 2).await;
    let leader = cluster.leader().await;
    let victim = leader % 3 + 1;
    cluster.kill(victim);
    cluster.disks.insert(victim, Default::default());
    let wiped = cluster.run(victim).await;
    let why = Runtime::timeout(LONG, wiped.stopped()).await.unwrap();
    assert!(
        matches!(why, Stopped::Wiped { id, .. } if id == victim),
        "{why:?}"
    );
    assert!(why.to_string().contains("--join"), "{why}");
    assert_ne!(why.exit_code(), 0);
    cluster.members.remove(&victim);
    // Under a new id it may come back.
    cluster.handle(leader).remove(victim).await.unwrap();
    cluster.run(4).await;
    cluster
        .handle(leader)
        .add_learner(4, address(4), String::new())
        .await
        .unwrap();
    promote(&cluster, leader, 4).await;
    blocks(cluster.handle(4), 3, 1).await;
    cluster.settled().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_two_clusters_do_not_mix() {
    let one = Cluster::start(1).await;
    let mut two = Cluster::start(3).await;
    // Member 1 of the first cluster is put where the second one's was.
    two.kill(1);
    let stranger = one.disks[&1].clone();
    one.shutdown().await;
    two.disks.insert(1, stranger);
    let handle = two.run(1).await;
    init(two.handle(2)).await;
    Runtime::sleep(Duration::from_millis(500)).await;
    assert_eq!(handle.position().revision, 0);
    assert_ne!(handle.cluster_id(), two.handle(2).cluster_id());
    two.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_disk_fails_ends_with_a_reason_and_the_others_go_on() {
    let mut cluster = Cluster::start(3).await;
    init(cluster.handle(1)).await;
    let leader = cluster.leader().await;
    let disk = cluster.disks[&leader].clone();
    disk.fail_after(0, std::io::ErrorKind::Other);
    let failing = cluster.handle(leader).clone();
    let other = cluster.handle(leader % 3 + 1).clone();
    blocks(&other, 1, 2).await;
    let why = Runtime::timeout(LONG, failing.stopped()).await.unwrap();
    assert!(
        matches!(&why, Stopped::Failed(text) if text.contains("log.redb")),
        "{why}"
    );
    assert_eq!(why.exit_code(), 1);
    cluster.members.remove(&leader);
    blocks(&other, 3, 1).await;
    cluster.settled().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_refused_below_the_reserve_and_resume_by_themselves() {
    let mut cluster = Cluster::named([1]);
    let mut config = cluster.config(1);
    config.reserve_bytes = 1_000;
    let handle = cluster.try_run(config).await.unwrap();
    cluster.leader().await;
    init(&handle).await;
    cluster.disks[&1].set_free_bytes(999);
    until("writes refused", || {
        (!handle.status().writes_refused.is_empty()).then_some(())
    })
    .await;
    let refused = handle.propose(open_round()).await;
    assert!(
        matches!(refused, Err(troika_store::raft::ProposeError::NoSpace(_))),
        "{refused:?}"
    );
    cluster.disks[&1].set_free_bytes(1_000_000);
    until("writes admitted", || {
        handle.status().writes_refused.is_empty().then_some(())
    })
    .await;
    open(&handle).await;
    cluster.shutdown().await;
}
