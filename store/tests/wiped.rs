//! Why a member that was wiped may not come back under its old id: the second winner that it would help to make, and that
//! it makes none because it is refused.

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::*;
use troika_store::db::crash::CrashDisk;
use troika_store::db::{Directory, Files, Identity};
use troika_store::raft::Stopped;
use troika_store::runtime::Runtime;
use troika_store::state::{Decision, Winner};

fn winner(decision: Decision) -> Winner {
    match decision {
        Decision::Winner(winner) => winner,
        other => panic!("no winner: {other:?}"),
    }
}

/// A round whose shard 0 is decided and acknowledged by the leader and one other member, while the third is cut off. Then
/// those two are gone: the leader for good, the other one comes back without its disk.
struct Loss {
    cluster: Cluster,
    round: u64,
    acknowledged: Winner,
    /// The member that lost its disk.
    wiped: u64,
    /// The member that never heard of the decision.
    behind: u64,
}

async fn lose() -> Loss {
    let mut cluster = Cluster::start(3).await;
    init(cluster.handle(1)).await;
    let round = open(cluster.handle(1)).await;
    cluster.settled().await;
    let leader = cluster.leader().await;
    let wiped = leader % 3 + 1;
    let behind = wiped % 3 + 1;
    for other in [leader, wiped] {
        cluster.hub.cut(behind, other);
    }
    let decided = propose(cluster.handle(leader), proposal(round, 0, 0, 1, "first")).await;
    let acknowledged = winner(decided.answer.decision);
    cluster.kill(leader);
    cluster.kill(wiped);
    cluster.hub.heal();
    Loss {
        cluster,
        round,
        acknowledged,
        wiped,
        behind,
    }
}

/// Asks the member that was behind for a decision of the shard that was decided.
async fn decide_again(loss: &Loss) -> Option<Winner> {
    let deadline = Runtime::now() + Duration::from_secs(8);
    let handle = loss.cluster.handle(loss.behind);
    while Runtime::now() < deadline {
        let command = proposal(loss.round, 0, 0, 1, "second");
        let soon = Runtime::now() + Duration::from_secs(1);
        if let Ok(decided) = handle.propose_by(command, soon).await {
            return Some(winner(decided.answer.decision));
        }
        Runtime::sleep(Duration::from_millis(50)).await;
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_member_that_passed_for_its_old_self_would_make_a_second_winner() {
    let mut loss = lose().await;
    // What a store without incarnations would be: an empty directory that is taken for the old one.
    let old = Identity::read(&loss.cluster.disks[&loss.wiped])
        .unwrap()
        .unwrap();
    let forged = CrashDisk::new();
    let files: Arc<dyn Files> = Arc::new(forged.clone());
    drop(
        Directory::open(files, loss.wiped, old.cluster)
            .await
            .unwrap(),
    );
    old.write(&forged).unwrap();
    forged.kill();
    loss.cluster.disks.insert(loss.wiped, forged);
    loss.cluster.run(loss.wiped).await;
    let second = decide_again(&loss)
        .await
        .expect("two of three are a majority");
    assert_eq!(&*loss.acknowledged.executor, "first");
    assert_eq!(&*second.executor, "second", "this is what must never be");
    assert_ne!(second.shard_hash, loss.acknowledged.shard_hash);
    loss.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_member_is_refused_and_makes_none() {
    let mut loss = lose().await;
    loss.cluster.disks.insert(loss.wiped, CrashDisk::new());
    let wiped = loss.cluster.run(loss.wiped).await;
    assert_eq!(decide_again(&loss).await, None);
    let why = Runtime::timeout(LONG, wiped.stopped()).await.unwrap();
    assert!(matches!(why, Stopped::Wiped { .. }), "{why}");
    loss.cluster.members.remove(&loss.wiped);
    // The one that has the decision comes back, and it stands.
    let leader = (1..=3)
        .find(|id| ![loss.wiped, loss.behind].contains(id))
        .unwrap();
    loss.cluster.run(leader).await;
    let decided = decide_again(&loss).await.expect("a majority is back");
    assert_eq!(decided, loss.acknowledged);
    loss.cluster.shutdown().await;
}
