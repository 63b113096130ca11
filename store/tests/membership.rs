//! Changes of who belongs to the group, and of who leads it.

mod support;

use std::time::Duration;

use support::*;
use troika_store::raft::{AdminError, Role, Stopped};
use troika_store::runtime::Runtime;

async fn remove(cluster: &Cluster, by: u64, id: u64) {
    let removed = until_not_busy(|| cluster.handle(by).remove(id)).await;
    removed.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_group_grows_to_five_and_shrinks_to_three_while_it_works_and_never_uses_an_id_twice() {
    let mut cluster = Cluster::start(3).await;
    init(cluster.handle(1)).await;
    let mut nonce = 1;
    for id in [4, 5] {
        cluster.run(id).await;
        let asked = cluster.handle(id % 3 + 1);
        asked
            .add_learner(id, address(id), String::new())
            .await
            .unwrap();
        promote(&cluster, 1, id).await;
        blocks(cluster.handle(id), nonce, 1).await;
        nonce += 1;
    }
    assert_eq!(voters(&cluster, 1), [1, 2, 3, 4, 5]);
    // The leader goes first, then somebody who follows.
    for leads in [true, false] {
        let leader = cluster.leader().await;
        let mut others = cluster.members.keys().copied().filter(|id| *id != leader);
        let (asked, follower) = (others.next().unwrap(), others.next_back().unwrap());
        let goes = if leads { leader } else { follower };
        let gone = cluster.handle(goes).clone();
        remove(&cluster, asked, goes).await;
        let why = Runtime::timeout(LONG, gone.stopped()).await.unwrap();
        assert_eq!(why, Stopped::Removed(goes));
        cluster.members.remove(&goes);
        let again = cluster
            .handle(asked)
            .add_learner(goes, address(goes), String::new())
            .await;
        assert!(matches!(again, Err(AdminError::Refused(_))), "{again:?}");
        // Removing once more is done already.
        remove(&cluster, asked, goes).await;
        blocks(cluster.handle(asked), nonce, 1).await;
        nonce += 1;
    }
    let left = *cluster.members.keys().next().unwrap();
    let ids: Vec<u64> = cluster.members.keys().copied().collect();
    cluster.settled().await;
    assert_eq!(voters(&cluster, left), ids);
    assert_eq!(ids.len(), 3);
    // Whoever leads remembers the highest id, whatever was removed.
    let used = cluster
        .handle(left)
        .add_learner(5, address(5), String::new())
        .await;
    let there = ids.contains(&5);
    assert_eq!(used.is_ok(), there, "{used:?}");
    cluster.shutdown().await;
}

fn voters(cluster: &Cluster, by: u64) -> Vec<u64> {
    let members = cluster.handle(by).members();
    let voters = members.iter().filter(|member| member.voter);
    voters.map(|member| member.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_feature_level_rises_only_when_all_members_understand_it() {
    let mut cluster = Cluster::named([1, 2, 3]);
    let config = |cluster: &Cluster, id, level| {
        let mut config = cluster.config(id);
        config.max_feature_level = level;
        config.care_pause = Duration::from_millis(100);
        config
    };
    // A roll that has reached two of three.
    for (id, level) in [(1, 2), (2, 2), (3, 1)] {
        let config = config(&cluster, id, level);
        cluster.try_run(config).await.unwrap();
    }
    cluster.leader().await;
    init(cluster.handle(1)).await;
    let level = |cluster: &Cluster, id| cluster.handle(id).read(|m| m.feature_level());
    Runtime::sleep(Duration::from_millis(1_500)).await;
    for id in 1..=3 {
        assert_eq!(level(&cluster, id), 1, "member 3 does not understand more");
    }
    // Nor while it is away: it may come back as it was.
    cluster.kill(3);
    Runtime::sleep(Duration::from_millis(1_000)).await;
    assert_eq!((level(&cluster, 1), level(&cluster, 2)), (1, 1));
    // The roll is done.
    let newer = config(&cluster, 3, 2);
    cluster.try_run(newer).await.unwrap();
    until("the level to rise", || {
        (1..=3).all(|id| level(&cluster, id) == 2).then_some(())
    })
    .await;
    // From then on there is no way back for a member, neither by a restart nor by joining.
    cluster.handle(3).shutdown().await;
    cluster.kill(3);
    let older = config(&cluster, 3, 1);
    let refused = cluster.try_run(older).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("feature level 2"), "{refused}");
    let older = config(&cluster, 4, 1);
    cluster.try_run(older).await.unwrap();
    let added = cluster
        .handle(1)
        .add_learner(4, address(4), String::new())
        .await;
    assert!(
        matches!(&added, Err(AdminError::Refused(why)) if why.contains("newer release")),
        "{added:?}"
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_would_stop_the_group_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let down = leader % 3 + 1;
    let up = down % 3 + 1;
    cluster.kill(down);
    // Until the leader no longer counts it among those that answer.
    Runtime::sleep(cluster.config(leader).election * 3).await;
    let refused = cluster.handle(leader).remove(up).await;
    assert!(
        matches!(&refused, Err(AdminError::Refused(why)) if why.contains("majority")),
        "{refused:?}"
    );
    cluster.handle(leader).remove(down).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_where_it_is_sent() {
    let cluster = Cluster::start(3).await;
    init(cluster.handle(1)).await;
    for to in [3, 1, 2] {
        cluster.handle(2).transfer_leadership(to).await.unwrap();
        assert_eq!(cluster.leader().await, to);
        open(cluster.handle(1)).await;
    }
    let nobody = cluster.handle(1).transfer_leadership(9).await;
    assert!(matches!(nobody, Err(AdminError::Refused(_))), "{nobody:?}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_leader_hands_over_and_no_call_that_is_repeated_fails() {
    let mut cluster = Cluster::start(3).await;
    init(cluster.handle(1)).await;
    let leader = cluster.leader().await;
    let other = cluster.handle(leader % 3 + 1).clone();
    let load = Runtime::spawn(async move { blocks(&other, 1, 20).await.len() });
    Runtime::sleep(Duration::from_millis(50)).await;
    let started = Runtime::now();
    cluster.handle(leader).shutdown().await;
    assert_eq!(cluster.handle(leader).stopped().await, Stopped::Requested);
    assert_eq!(cluster.handle(leader).status().role, Role::Stopping);
    cluster.members.remove(&leader);
    assert_ne!(cluster.leader().await, leader);
    assert!(Runtime::now() - started < Duration::from_secs(5));
    assert_eq!(load.await.unwrap(), 20 * SHARDS as usize);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_leader_finds_nobody_and_does_not_wait() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let other = leader % 3 + 1;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.handle(id).shutdown().await;
    }
    // Handing over to one of them would leave the group without anybody who takes commands, until an election.
    for (to, why) in [(0, "no other voter answers"), (other, "is stopping")] {
        let refused = cluster.handle(leader).transfer_leadership(to).await;
        assert!(
            matches!(&refused, Err(AdminError::Busy(text)) if text.contains(why)),
            "{refused:?}"
        );
    }
    assert_eq!(cluster.handle(leader).status().role, Role::Leader);
    cluster.shutdown().await;
}

/// Of two changes at once the second is refused before anything is done, and says what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_change_is_refused_while_one_is_under_way() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.run(4).await;
    // The newcomer is asked who it is, and does not answer: again and again a change is under way for a while.
    cluster.hub.stall(4);
    let handle = cluster.handle(leader).clone();
    let under_way = Runtime::spawn(async move {
        loop {
            let added = handle.add_learner(4, address(4), String::new()).await;
            assert!(matches!(added, Err(AdminError::Busy(_))), "{added:?}");
        }
    });
    let deadline = Runtime::now() + LONG;
    for asked in 1..=3 {
        // Of the leader and of others alike. Nobody is member 9: what is not refused as busy changes nothing either.
        let why = loop {
            match cluster.handle(asked).transfer_leadership(9).await {
                Err(AdminError::Busy(why)) => break why,
                other => assert!(matches!(other, Err(AdminError::Refused(_))), "{other:?}"),
            }
            assert!(Runtime::now() < deadline, "member {asked} refuses nothing");
        };
        let expected = "another membership operation is under way: try again";
        assert!(why.contains(expected), "{why}");
    }
    under_way.abort();
    assert_eq!(voters(&cluster, leader), [1, 2, 3]);
    // Nothing is left of either.
    cluster.hub.heal();
    let added = until_not_busy(|| {
        let leader = cluster.handle(leader);
        leader.add_learner(4, address(4), String::new())
    });
    added.await.unwrap();
    cluster.shutdown().await;
}

/// A leader that no majority hears still holds a change that it has logged. It is gone with that leader, so nobody may be
/// told that it is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_no_majority_has_is_not_called_done() {
    let mut cluster = Cluster::start(3).await;
    init(cluster.handle(1)).await;
    let leader = cluster.leader().await;
    cluster.run(4).await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.hub.cut(leader, id);
    }
    let alone = cluster.handle(leader);
    let add = || alone.add_learner(4, address(4), String::new());
    let first = Runtime::timeout(Duration::from_secs(2), add()).await;
    assert!(first.is_err(), "{first:?}");
    let logged = alone.members().iter().any(|member| member.id == 4);
    assert!(logged, "the change is in this leader's log");
    let again = add().await;
    assert!(
        matches!(&again, Err(AdminError::Busy(why)) if why.contains("no majority has it yet")),
        "{again:?}"
    );
    // The others go on without it; then it is done in earnest.
    let others = cluster.handle(leader % 3 + 1);
    open(others).await;
    cluster.hub.heal();
    // The newcomer has heard of that leader's log already: it starts anew.
    cluster.kill(4);
    cluster.disks.remove(&4);
    cluster.run(4).await;
    let added = until_not_busy(|| {
        let handle = cluster.handle(leader);
        handle.add_learner(4, address(4), String::new())
    });
    added.await.unwrap();
    promote(&cluster, leader, 4).await;
    cluster.settled().await;
    assert_eq!(voters(&cluster, 4), [1, 2, 3, 4]);
    cluster.shutdown().await;
}
