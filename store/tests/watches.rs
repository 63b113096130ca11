//! Watches: no gap and no repeat, whatever happens to the members, and nothing that a watcher can hold up or fill.

mod support;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use prost::Message;
use support::chain::{Chain, SHARDS, contract, shard, submission};
use support::group::{Group, ports};
use tonic::Code;
use tonic::transport::Endpoint;
use troika_proto::v1;
use troika_proto::v1::event::Kind;
use troika_proto::v1::rounds_client::RoundsClient;
use troika_store::runtime::Runtime;

/// No test waits longer for anything.
const LONG: Duration = Duration::from_secs(60);

fn is_seal(event: &v1::Event, round: u64) -> bool {
    matches!(&event.kind, Some(Kind::RoundSealed(sealed)) if sealed.round == round)
}

/// Events from a place on, until a round is sealed.
async fn watched(chain: &Chain, member: usize, after: v1::EventId, until: u64) -> Vec<v1::Event> {
    let request = v1::WatchRequest {
        after: Some(after),
        all_shards: true,
        ..Default::default()
    };
    let mut stream = chain
        .rounds(member)
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    let mut events = Vec::new();
    let reading = async {
        loop {
            let message = stream.message().await.unwrap().expect("the watch goes on");
            for event in message.events {
                let sealed = is_seal(&event, until);
                events.push(event);
                if sealed {
                    return;
                }
            }
        }
    };
    let within = Duration::from_secs(20);
    Runtime::timeout(within, reading)
        .await
        .expect("the round is sealed");
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_resumes_at_every_point_without_a_gap_or_a_repeat() {
    let chain = Chain::start().await;
    let mut last = 0;
    for value in 1..4 {
        last = chain.open().await;
        for index in 0..SHARDS {
            let request = submission(last, "w", &shard(index, index.into(), value));
            assert!(chain.submit(index as usize % 3, request).await.won);
        }
    }
    let all = watched(&chain, 0, v1::EventId::default(), last).await;
    // The start, and for each round its opening, its shards and its seal.
    assert_eq!(all.len(), 1 + 3 * (2 + SHARDS as usize));
    for (i, event) in all.iter().enumerate().take(all.len() - 1) {
        let rest = watched(&chain, i % 3, event.id.unwrap(), last).await;
        assert_eq!(rest, all[i + 1..], "after event {i}");
    }

    // What is pruned is gone, and the watcher is told from where it can resume.
    let request = v1::PruneRequest {
        meta: None,
        below_round: last,
    };
    chain.cluster(1).prune(request).await.unwrap();
    let request = v1::WatchRequest {
        after: all[1].id,
        all_shards: true,
        ..Default::default()
    };
    let leader = chain.cluster.leader();
    let mut stream = chain
        .rounds(leader)
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert!(status.message().contains("oldest"), "{status}");
    chain.cluster.stop().await;
}

/// Watches from the beginning until a round is sealed, and goes on at another member wherever a watch breaks off.
async fn follow(group_urls: Vec<String>, first: usize, until: u64) -> Vec<v1::Event> {
    let mut events: Vec<v1::Event> = Vec::new();
    let mut after = v1::EventId::default();
    for turn in first.. {
        let url = group_urls[turn % group_urls.len()].clone();
        let endpoint = Endpoint::from_shared(url).unwrap();
        let channel = endpoint
            .connect_timeout(Duration::from_secs(1))
            .connect_lazy();
        let request = v1::WatchRequest {
            after: Some(after),
            all_shards: true,
            ..Default::default()
        };
        let Ok(watch) = RoundsClient::new(channel).watch(request).await else {
            Runtime::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut watch = watch.into_inner();
        while let Ok(Some(message)) = watch.message().await {
            for event in message.events {
                let done = is_seal(&event, until);
                events.push(event);
                if done {
                    return events;
                }
            }
            // One goes on after the last event, another after what the member says.
            after = match turn % 2 {
                0 => events.last().and_then(|event| event.id).unwrap_or_default(),
                _ => message.progress.unwrap(),
            };
        }
    }
    unreachable!("there is no last turn")
}

/// A block whose last acceptance seals it: two events of one revision.
fn block(group: &Group, round: u64) {
    let opened = group.ctl(&["round", "open"]).ended(0).json();
    assert_eq!(opened["round"], round);
    for shard in 0..3 {
        let write = format!("{}/{shard}={round}", contract());
        let submit = format!("submit --round {round} --shard {shard} --executor a --write {write}");
        group.ctl(&submit.split(' ').collect::<Vec<_>>()).ended(0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_at_every_point_over_a_leader_change_and_restarts() {
    const ROUNDS: u64 = 6;
    let mut group = Group::start(3);
    group.ready();
    let genesis = group.genesis();
    group.ctl(&["init", genesis.to_str().unwrap()]).ended(0);
    let urls: Vec<String> = (0..3).map(|member| group.url(member)).collect();
    let following = (0..3).map(|first| {
        let watch = follow(urls.clone(), first, ROUNDS);
        Runtime::spawn(Runtime::timeout(2 * LONG, watch))
    });
    let following: Vec<_> = following.collect();
    block(&group, 1);
    // A leader hands over, one is killed and comes back, and a follower is restarted.
    group.ctl(&["leader", "transfer"]).ended(0);
    block(&group, 2);
    let leader = group.leader();
    group.members[leader].kill();
    block(&group, 3);
    group.start_member(leader);
    group.ready();
    block(&group, 4);
    let follower = (group.leader() + 1) % 3;
    assert_eq!(group.members[follower].stop(), 0);
    block(&group, 5);
    group.start_member(follower);
    group.ready();
    block(&group, ROUNDS);

    let mut all = Vec::new();
    for watch in following {
        let events = watch.await.unwrap().expect("the watch reaches the end");
        // The start, and for each round its opening, its shards and its seal.
        assert_eq!(events.len() as u64, 1 + ROUNDS * 5);
        assert!(
            all.is_empty() || all == events,
            "watchers saw different things"
        );
        all = events;
    }
    for (i, event) in all.iter().enumerate().take(all.len() - 1) {
        for member in 0..3 {
            let rest = resumed(&group, member, event.id.unwrap(), ROUNDS).await;
            assert_eq!(rest, all[i + 1..], "after event {i} on member {member}");
        }
    }
}

/// Events from a place on, until a round is sealed, on one member.
async fn resumed(group: &Group, member: usize, after: v1::EventId, until: u64) -> Vec<v1::Event> {
    let request = v1::WatchRequest {
        after: Some(after),
        all_shards: true,
        ..Default::default()
    };
    let mut client = RoundsClient::new(group.channel(member));
    let mut watch = client.watch(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    loop {
        let message = watch.message().await.unwrap().expect("the watch goes on");
        for event in message.events {
            let done = is_seal(&event, until);
            events.push(event);
            if done {
                return events;
            }
        }
    }
}

/// A member that stands still keeps its connections: only its silence shows that it will not say more.
#[test]
fn troikactl_goes_on_at_another_member_when_the_one_that_it_watches_stands_still() {
    let mut group = Group::start(3);
    group.ready();
    let genesis = group.genesis();
    group.ctl(&["init", genesis.to_str().unwrap()]).ended(0);
    let leader = group.leader();
    let (still, other) = ((leader + 1) % 3, (leader + 2) % 3);
    block(&group, 1);
    let output = group.folder().join("watched");
    let endpoints = [group.url(still), group.url(other)].join(",");
    let watch = Command::new(env!("CARGO_BIN_EXE_troikactl"))
        .args([
            "watch",
            "--after",
            "0",
            "--until-closed",
            "2",
            "--endpoints",
            &endpoints,
        ])
        .stdout(std::fs::File::create(&output).unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let seen = || std::fs::read_to_string(&output).unwrap();
    support::group::wait("the first block", || {
        seen().contains("sealed as block 1").then_some(())
    });
    group.members[still].pause();
    let live = [group.url(leader), group.url(other)].join(",");
    let on_live = |command: &str| {
        let command = format!("{command} --endpoints {live}");
        group.ctl(&command.split(' ').collect::<Vec<_>>()).ended(0)
    };
    on_live("round open");
    on_live("round seal 2 --wait");
    let ended = ended(watch);
    group.members[still].resume();
    assert!(ended.contains("is silent"), "{ended}");
    let seen = seen();
    assert_eq!(seen.matches("sealed as block 1").count(), 1, "{seen}");
    assert_eq!(seen.matches("sealed as block 2").count(), 1, "{seen}");
}

/// What a process that ended well has said on standard error.
fn ended(mut child: Child) -> String {
    let status = support::group::wait("the end of the watch", || child.try_wait().unwrap());
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    assert!(status.success(), "{status}: {said}");
    said
}

/// A watcher is a place in the history and nothing more: what it does not read stays in the history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_read_is_sent_what_its_connection_takes_and_no_more() {
    const EVENTS: u64 = 30;
    const KEYS: u64 = 4_096;
    let port = ports(1)[0];
    let mut group = Group::new(1);
    group.members[0].extra = ["--metrics".to_owned(), format!("127.0.0.1:{port}")].to_vec();
    group.start_all();
    group.ready();
    let genesis = group.genesis();
    group.ctl(&["init", genesis.to_str().unwrap()]).ended(0);
    group.ctl(&["round", "open"]).ended(0);
    let window = 64 * 1024;
    let endpoint = Endpoint::from_shared(group.url(0)).unwrap();
    let endpoint = endpoint
        .initial_stream_window_size(window)
        .initial_connection_window_size(window);
    let mut client = RoundsClient::new(endpoint.connect().await.unwrap());
    let request = v1::WatchRequest {
        after: Some(v1::EventId::default()),
        all_shards: true,
        ..Default::default()
    };
    let mut watch = client.watch(request).await.unwrap().into_inner();
    // Megabytes of events, of which it reads nothing.
    let mut rounds = RoundsClient::new(group.channel(0));
    let mut bytes = 0;
    for event in 0..EVENTS {
        let key =
            |slot: u64| troika_proto::LockKey::slot(contract(), alloy_primitives::U256::from(slot));
        let keys = (event * KEYS..(event + 1) * KEYS).map(|slot| v1::LockKey::from(key(slot)));
        let request = v1::AcquireLocksRequest {
            round: 1,
            shard: 1,
            keys: keys.collect(),
            ..Default::default()
        };
        bytes += request.encoded_len();
        rounds.acquire_locks(request).await.unwrap();
    }
    let sent = messages_to_watchers(port);
    let most = troika_store::service::limits::WATCH_BYTES;
    println!("{bytes} bytes of events, {sent} messages to the watcher");
    assert!(bytes > 100 * most, "{bytes}");
    // An event of 4,096 keys fills a message of its own: what the connection takes is a few of them.
    assert!(
        sent * 4 < EVENTS,
        "{sent} messages are on their way to a watcher that does not read"
    );
    // When it reads, everything is there.
    let mut seen = 0;
    while seen < EVENTS {
        let message = Runtime::timeout(LONG, watch.message()).await.unwrap();
        let events = message.unwrap().expect("the watch goes on").events;
        let locks = |event: &&v1::Event| matches!(event.kind, Some(Kind::LocksAcquired(_)));
        seen += events.iter().filter(locks).count() as u64;
    }
    assert!(messages_to_watchers(port) >= EVENTS);
}

/// How many messages this member has made for watchers.
fn messages_to_watchers(port: u16) -> u64 {
    let text = support::group::get(port, "/metrics");
    let line = text
        .lines()
        .find(|line| line.starts_with("troika_watch_lag_revisions_count"));
    let count = line.and_then(|line| line.rsplit(' ').next());
    count.map_or(0, |count| count.parse().unwrap())
}
