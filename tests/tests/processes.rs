//! Real processes under load, killed at the worst moment: blocks go on, and every feed tells the same story.

use alloy_primitives::B256;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use troika_node::dev::genesis::genesis;
use troika_tests::load::Load;
use troika_tests::processes::{POLL, Process, Processes, Shape};

/// Longest that the chain may stand still after a kill.
const GOES_ON_WITHIN: Duration = Duration::from_secs(5);

fn shape() -> Shape {
    Shape {
        members: 3,
        executors: 3,
        genesis: genesis(2, Duration::from_millis(200)),
    }
}

/// (round, shard) -> hash, and what the feed said of whole blocks: round -> hash.
type Story = (BTreeMap<(u64, u64), B256>, BTreeMap<u64, B256>);

/// Reads what a `follow --json` has printed by now, up to a round; a shard or a block that comes twice is an error.
fn story(follower: &Process, newest: u64) -> Story {
    let printed = std::fs::read_to_string(follower.output()).expect("printed");
    let (mut shards, mut blocks) = Story::default();
    // The last line may be half written.
    let whole = printed.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for line in whole.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
        let Some(hash) = line["hash"].as_str() else {
            continue;
        };
        let hash: B256 = hash.parse().expect("a hash");
        let round = line["round"].as_u64().expect("a round");
        if round > newest {
            continue;
        }
        let before = match line["shard"].as_u64() {
            Some(shard) => shards.insert((round, shard), hash),
            None => blocks.insert(round, hash),
        };
        assert_eq!(before, None, "{} printed it twice: {line}", follower.name);
    }
    (shards, blocks)
}

/// Waits until the chain is `blocks` blocks further, the first of them within the limit.
async fn goes_on(cluster: &mut Processes, blocks: u64, after: &str) {
    let height = cluster.height().await.expect("the store answers");
    let took = cluster.wait_for_block(height + 2, GOES_ON_WITHIN).await;
    let took = took.unwrap_or_else(|error| panic!("after {after}: {error}"));
    println!("after {after}: two more blocks within {took:?}");
    let more = cluster
        .wait_for_block(height + blocks, 3 * GOES_ON_WITHIN)
        .await;
    more.unwrap_or_else(|error| panic!("after {after}: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_blocks_go_on_and_all_feeds_agree() {
    let mut cluster = Processes::start(&shape())
        .await
        .expect("the cluster starts");
    let load = Load::start(&cluster.rpc, 50);
    // These hear what each executor says before it is killed, and go on with what it says once it is back.
    let mut witnesses = followers(&cluster, u64::MAX);

    goes_on(&mut cluster, 4, "the start").await;
    let leader = cluster.leader().await.expect("one leads");
    cluster.members[leader].kill();
    goes_on(&mut cluster, 4, "the leader was killed").await;
    cluster.members[leader].start_again().expect("starts");
    goes_on(&mut cluster, 4, "the member is back").await;

    cluster.executors[0].kill();
    goes_on(&mut cluster, 4, "an executor was killed").await;
    cluster.executors[1].kill();
    goes_on(&mut cluster, 4, "two of three executors were killed").await;
    for executor in 0..2 {
        cluster.executors[executor].start_again().expect("starts");
    }
    goes_on(&mut cluster, 4, "all are back").await;

    let sent = load.stop().await.expect("the gateway took the load");
    assert!(sent.count > 0, "nothing was sent: nothing was tested");
    let included = sent.wait_included(&cluster.store, 3 * GOES_ON_WITHIN).await;
    included.expect("no crash loses a transaction");
    assert_feeds_agree(&mut cluster, &mut witnesses).await;
}

fn followers(cluster: &Processes, to_round: u64) -> Vec<Process> {
    let all = 0..cluster.executors.len();
    all.map(|executor| cluster.follow(executor, to_round).expect("starts"))
        .collect()
}

/// Every executor's feed from its first round to one beyond the head, as it is told now and as it was told meanwhile.
async fn assert_feeds_agree(cluster: &mut Processes, witnesses: &mut [Process]) {
    let head = cluster.store.head().await.expect("the store answers");
    let rounds = cluster.store.rounds(1, 1_000, false).await.expect("listed");
    let newest = rounds
        .iter()
        .filter(|r| !r.is_open())
        .map(|r| r.number)
        .max();
    let newest = newest.expect("rounds were sealed");
    let mut followers = followers(cluster, newest);
    let deadline = Instant::now() + Duration::from_secs(30);
    while followers.iter_mut().any(Process::is_running) {
        assert!(
            Instant::now() < deadline,
            "followers do not reach round {newest}"
        );
        sleep(POLL).await;
    }
    let first = story(&followers[0], newest);
    assert!(
        first.1.len() as u64 >= head.header.number,
        "blocks are missing"
    );
    for round in first.1.keys() {
        for shard in 0..u64::from(head.config.shards) {
            assert!(
                first.0.contains_key(&(*round, shard)),
                "round {round}, shard {shard} is missing"
            );
        }
    }
    for follower in &followers {
        assert!(
            follower.logged().contains("checked"),
            "{}",
            follower.logged()
        );
        let told = story(follower, newest);
        assert_eq!(told, first, "{} tells another story", follower.name);
    }
    for witness in witnesses {
        while story(witness, newest).1.len() < first.1.len() {
            assert!(
                witness.is_running() && Instant::now() < deadline,
                "{} does not reach round {newest}: {}",
                witness.name,
                witness.logged()
            );
            sleep(POLL).await;
        }
        let told = story(witness, newest);
        assert_eq!(told, first, "{} was told another story", witness.name);
    }
}
