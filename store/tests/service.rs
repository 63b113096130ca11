//! The services over gRPC: what is refused, what is answered, what is read.

mod support;

use alloy_primitives::{Address, B256, U256};
use bytes::Bytes;
use std::time::Duration;
use support::chain::*;
use tonic::{Code, Request};
use troika_proto::{LockKey, v1};
use troika_store::runtime::Runtime;
use troika_store::testing::TestCluster;
use v1::submit_response::Outcome;

/// Makes a good submission bad.
type Spoil = Box<dyn Fn(&mut v1::SubmitRequest)>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racers_hear_of_one_winner_on_every_member() {
    let chain = Chain::start().await;
    let round = chain.open().await;
    let proposals = [shard(0, 1, 1), shard(0, 1, 2), shard(0, 1, 3)];
    let racers = proposals.iter().enumerate().map(|(member, proposal)| {
        let request = submission(round, &format!("racer-{member}"), proposal);
        chain.submit(member, request)
    });
    let answers = futures::future::join_all(racers).await;
    let winners: Vec<_> = answers
        .iter()
        .map(|answer| match &answer.outcome {
            Some(Outcome::Winner(winner)) => winner.clone(),
            other => panic!("no winner: {other:?}"),
        })
        .collect();
    assert_eq!(answers.iter().filter(|answer| answer.won).count(), 1);
    assert!(winners.iter().all(|winner| *winner == winners[0]));

    // After the seal the winner still hears that it won, and anybody reads what it made.
    chain.seal(round).await;
    let place = answers.iter().position(|answer| answer.won).unwrap();
    let again = submission(round, &format!("racer-{place}"), &proposals[place]);
    let answer = chain.submit((place + 1) % 3, again).await;
    assert!(answer.won);
    let request = v1::ShardRequest {
        round,
        diff: true,
        ..Default::default()
    };
    let read = chain.state(0).shard(request).await.unwrap().into_inner();
    assert_eq!(read.winner, Some(winners[0].clone()));
    let expected: v1::Diff = (&proposals[place].body.diff).into();
    assert_eq!(read.body.unwrap().diff, Some(expected));
    chain.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_names_its_reason_and_changes_nothing() {
    let chain = Chain::start().await;
    let round = chain.open().await;
    chain
        .submit(0, submission(round, "a", &shard(0, 1, 1)))
        .await;
    let before = chain.state_hash();

    // Malformed: a code and the field.
    let good = submission(round, "a", &shard(1, 2, 1));
    let cases: Vec<(&str, Spoil)> = vec![
        ("executor", Box::new(|s| s.executor = "a b".to_owned())),
        ("header", Box::new(|s| s.header = None)),
        ("header.index", Box::new(|s| s.shard = 2)),
        (
            "header.gas_used",
            Box::new(|s| s.header.as_mut().unwrap().gas_used += 1),
        ),
        (
            "header.diff_root",
            Box::new(|s| s.header.as_mut().unwrap().diff_root = vec![7; 32].into()),
        ),
        (
            "body.receipts",
            Box::new(|s| s.body.as_mut().unwrap().receipts.clear()),
        ),
        (
            "meta.cluster_id",
            Box::new(|s| {
                s.meta = Some(v1::RequestMeta {
                    cluster_id: Bytes::from_static(&[1; 3]),
                    min_revision: 0,
                });
            }),
        ),
    ];
    for (field, spoil) in cases {
        let mut request = good.clone();
        spoil(&mut request);
        let status = chain.rounds(1).submit(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
        assert!(status.message().starts_with(field), "{field}: {status}");
    }

    // Another cluster is meant.
    let mut request = good.clone();
    request.meta = Some(v1::RequestMeta {
        cluster_id: Bytes::from(vec![9; 16]),
        min_revision: 0,
    });
    let status = chain.rounds(1).submit(request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);

    // Refusals are answers.
    let refused = |request: v1::SubmitRequest| async {
        match chain.submit(1, request).await.outcome {
            Some(Outcome::Refusal(refusal)) => refusal.code(),
            other => panic!("not refused: {other:?}"),
        }
    };
    let unknown = submission(round + 100, "a", &shard(1, 2, 1));
    assert_eq!(refused(unknown).await, v1::RefusalCode::UnknownRound);
    let beyond = submission(round, "a", &shard(SHARDS, 2, 1));
    assert_eq!(refused(beyond).await, v1::RefusalCode::ShardOutOfRange);

    // A conflict names the key and who holds it.
    let rival = submission(round, "b", &shard(1, 1, 5));
    match chain.submit(2, rival).await.outcome {
        Some(Outcome::Conflict(conflict)) => {
            let key = LockKey::slot(contract(), U256::from(1));
            assert_eq!(conflict.held.len(), 1);
            assert_eq!(conflict.held[0].key, Some(key.into()));
            assert_eq!(conflict.held[0].shard, 0);
        }
        other => panic!("no conflict: {other:?}"),
    }
    assert_eq!(chain.state_hash(), before);
    chain.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_answers_every_request_and_a_refusal_does_not_end_it() {
    let chain = Chain::start().await;
    let round = chain.open().await;
    let mut requests = Vec::new();
    for index in 0..SHARDS {
        let mut request = submission(round, "s", &shard(index, index.into(), 1));
        request.id = u64::from(index) + 10;
        requests.push(request);
    }
    let mut bad = requests[0].clone();
    (bad.id, bad.executor) = (99, String::new());
    requests.insert(1, bad);
    let mut stream = chain
        .rounds(0)
        .submit_stream(tokio_stream::iter(requests))
        .await
        .unwrap()
        .into_inner();
    let mut won = Vec::new();
    let mut failed = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        match answer.response {
            Some(response) if response.won => won.push(answer.id),
            _ => failed.push((answer.id, answer.code, answer.message)),
        }
    }
    won.sort_unstable();
    assert_eq!(won, [10, 11, 12, 13]);
    assert_eq!(failed.len(), 1);
    assert_eq!(
        (failed[0].0, failed[0].1),
        (99, i32::from(Code::InvalidArgument))
    );
    assert!(failed[0].2.starts_with("executor"));
    chain.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_brings_code_and_small_storage_along_if_asked() {
    let chain = Chain::start().await;
    let mut blocks: Vec<Bytes> = Vec::new();
    for value in 1..3 {
        let round = chain.open().await;
        let proposal = shard(0, value, value);
        chain.submit(0, submission(round, "r", &proposal)).await;
        blocks.push(chain.seal(round).await.round.unwrap().block_hash);
    }
    let key = |address: Address| v1::StateKey {
        address: Bytes::copy_from_slice(address.as_slice()),
        slot: Bytes::new(),
    };
    let request = v1::ReadRequest {
        keys: vec![key(contract()), key(crowded()), key(Address::ZERO)],
        ahead_bytes: 1 << 20,
        ..Default::default()
    };
    for (block, slots) in blocks.iter().zip([[(1, 1), (2, 0)], [(1, 1), (2, 2)]]) {
        let mut request = request.clone();
        request.block = block.clone();
        let read = chain.state(0).read(request).await.unwrap().into_inner();
        let ahead = read.ahead;
        assert_eq!(ahead.len(), 2, "those with code");
        assert_eq!((&*ahead[0].code, &*ahead[1].code), (&CODE[..], &[][..]));
        let hashes = ahead.iter().map(|a| &a.account.as_ref().unwrap().code_hash);
        assert_eq!(hashes.collect::<std::collections::BTreeSet<_>>().len(), 1);
        assert!(ahead[1].slots.is_empty(), "they are many");
        let found = ahead[0].slots.iter().map(|slot| {
            let number = |bytes: &[u8]| U256::from_be_slice(bytes).to::<u64>();
            (number(&slot.slot), number(&slot.value))
        });
        assert_eq!(found.collect::<Vec<_>>(), slots);
    }
    let plain = v1::ReadRequest {
        ahead_bytes: 0,
        ..request
    };
    let read = chain.state(0).read(plain).await.unwrap().into_inner();
    assert!(read.ahead.is_empty());
    chain.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_see_their_block_and_honour_revision_and_deadline() {
    let chain = Chain::start().await;
    let mut blocks: Vec<Bytes> = Vec::new();
    for value in 1..3 {
        let round = chain.open().await;
        chain
            .submit(0, submission(round, "r", &shard(0, 1, value)))
            .await;
        let sealed = chain.seal(round).await;
        assert_eq!(sealed.refusal, None);
        blocks.push(sealed.round.unwrap().block_hash);
        let again = chain.seal(round).await;
        assert_eq!(again.round.unwrap().block_hash, blocks[blocks.len() - 1]);
    }
    for member in 0..3 {
        let request = v1::HeadRequest {
            meta: None,
            linearizable: true,
        };
        let response = chain
            .state(member)
            .head(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(response.block_hash, blocks[1]);
        for (i, block) in blocks.iter().enumerate() {
            let key = v1::StateKey {
                address: Bytes::copy_from_slice(contract().as_slice()),
                slot: Bytes::copy_from_slice(&U256::from(1).to_be_bytes::<32>()),
            };
            let request = v1::ReadRequest {
                block: block.clone(),
                keys: vec![key],
                ..Default::default()
            };
            let read = chain
                .state(member)
                .read(request)
                .await
                .unwrap()
                .into_inner();
            assert_eq!(read.values[0].slot, Bytes::from(vec![i as u8 + 1]));
        }
    }
    let request = v1::ReadRequest {
        block: Bytes::copy_from_slice(B256::repeat_byte(5).as_slice()),
        ..Default::default()
    };
    let status = chain.state(0).read(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);

    let transaction = &shard(0, 1, 1).body.transactions[0];
    let request = v1::FindTransactionRequest {
        meta: None,
        hash: Bytes::copy_from_slice(troika_proto::keccak(transaction).as_slice()),
    };
    let found = chain
        .state(1)
        .find_transaction(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(found.places.len(), 1);
    assert_eq!(found.places[0].block_hash, blocks[0]);
    assert!(found.places[0].canonical);

    // A revision that never comes: the deadline ends the wait, and the member says where it stands.
    let mut request = Request::new(v1::HeadRequest {
        meta: Some(v1::RequestMeta {
            cluster_id: Bytes::new(),
            min_revision: 1 << 40,
        }),
        linearizable: false,
    });
    request.set_timeout(Duration::from_millis(300));
    let status = chain.state(0).head(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("min_revision"), "{status}");
    chain.cluster.stop().await;
}

/// The fault suite found answers whose head named an older state than the one that they told of: the head was read where
/// followers of the revision are told, a moment after the state itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_head_of_a_reply_never_names_an_older_state_than_the_reply_tells_of() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let chain = Chain::start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let looks = chain.cluster.members.iter().map(|member| {
        let (handle, stop) = (member.handle.clone(), stop.clone());
        Runtime::spawn(Runtime::spawn_blocking(move || {
            let mut looks = 0;
            while !stop.load(Ordering::Relaxed) {
                let (revision, index) = handle.read(|m| (m.revision(), m.state_hash()));
                let told = handle.position();
                assert!(told.revision >= revision, "{} < {revision}", told.revision);
                let (position, (seen, hash)) = handle.read_at(|m| (m.revision(), m.state_hash()));
                assert_eq!(position.revision, seen);
                // One revision is one state.
                assert!(seen > revision || hash == index);
                looks += 1;
            }
            looks
        }))
    });
    let looks: Vec<_> = looks.collect();
    for _ in 0..100 {
        let round = chain.open().await;
        chain.seal(round).await;
    }
    stop.store(true, Ordering::Relaxed);
    for member in looks {
        assert!(member.await.unwrap() > 100);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generic_clients_find_the_services_by_reflection() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
    let cluster = TestCluster::start(1).await;
    let mut client = ServerReflectionClient::new(cluster.connect(0).await);
    let ask = |message| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    };
    let symbol = "troika.v1.Rounds.Submit".to_owned();
    let asked = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(symbol)),
    ];
    let answers = client
        .server_reflection_info(tokio_stream::iter(asked))
        .await
        .unwrap()
        .into_inner();
    let answers: Vec<ServerReflectionResponse> =
        futures::TryStreamExt::try_collect(answers).await.unwrap();
    match &answers[0].message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            let names: Vec<_> = list.service.iter().map(|s| &*s.name).collect();
            for name in ["troika.v1.Rounds", "troika.v1.State", "troika.v1.Cluster"] {
                assert!(names.contains(&name), "{names:?}");
            }
        }
        other => panic!("{other:?}"),
    }
    match &answers[1].message_response {
        Some(MessageResponse::FileDescriptorResponse(files)) => {
            assert!(!files.file_descriptor_proto.is_empty());
        }
        other => panic!("{other:?}"),
    }
    cluster.stop().await;
}
