//! What the services hold is bounded, and what they wait for ends.

mod support;

use bytes::Bytes;
use std::time::Duration;
use support::chain::*;
use tonic::{Code, Request};
use troika_proto::v1;
use troika_proto::v1::rounds_client::RoundsClient;
use troika_store::runtime::Runtime;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_or_too_many_is_refused_at_once_with_the_limit() {
    let chain = Chain::start().await;
    let round = chain.open().await;
    // A message above the limit of its service is not even read.
    let mut large = submission(round, "a", &shard(0, 1, 1));
    let junk = Bytes::from(vec![7; 17 * 1024 * 1024]);
    large.body.as_mut().unwrap().transactions.push(junk);
    let status = chain.rounds(0).submit(large.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("the limit is"), "{status}");
    let mut stream = chain
        .rounds(0)
        .submit_stream(tokio_stream::iter([large]))
        .await
        .unwrap()
        .into_inner();
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    // One above what a submission may have, which the service can name, names it.
    let mut large = submission(round, "a", &shard(0, 1, 1));
    let junk = Bytes::from(vec![7; 16 * 1024 * 1024]);
    large.body.as_mut().unwrap().transactions = vec![junk];
    let status = chain.rounds(0).submit(large).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let keys = vec![v1::StateKey::default(); 16_385];
    let request = v1::ReadRequest {
        keys,
        ..Default::default()
    };
    let status = chain.state(0).read(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");

    // Watches: as many as there may be, and one more. Those that end give their place back.
    let request = v1::WatchRequest {
        after: Some(v1::EventId::default()),
        all_shards: true,
        ..Default::default()
    };
    let most = troika_store::service::limits::WATCHERS;
    let mut watches = Vec::with_capacity(most);
    let one = chain.cluster.connect(0).await;
    let other = chain.cluster.connect(0).await;
    let mut clients = [RoundsClient::new(one), RoundsClient::new(other)];
    for number in 0..most {
        let watch = clients[number % 2].watch(request.clone()).await;
        watches.push(watch.unwrap().into_inner());
    }
    let status = clients[0].watch(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("WATCHERS"), "{status}");
    // None of them reads, and nobody is held up by that.
    chain
        .submit(1, submission(round, "a", &shard(0, 1, 1)))
        .await;
    assert_eq!(chain.seal(round).await.refusal, None);
    drop(watches);
    let deadline = Runtime::now() + Duration::from_secs(20);
    while let Err(status) = clients[0].watch(request.clone()).await {
        assert!(Runtime::now() < deadline, "{status}");
        Runtime::sleep(Duration::from_millis(50)).await;
    }
    chain.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_with_its_deadline_where_nothing_can_be_decided() {
    let chain = Chain::start().await;
    let round = chain.open().await;
    let leader = chain.cluster.leader();
    let mut rest: Vec<_> = chain.cluster.members.iter().collect();
    rest.remove(leader);
    for member in rest {
        member.handle.shutdown().await;
    }
    // Without a majority nothing is decided: calls wait for as long as their callers do, and no longer.
    let call = |index: u32, name: String| {
        let mut rounds = chain.rounds(leader);
        async move {
            let proposal = shard(index, index.into(), 1);
            let mut request = Request::new(submission(round, &name, &proposal));
            request.set_timeout(Duration::from_millis(1_500));
            rounds.submit(request).await.unwrap_err().code()
        }
    };
    let first = (0..SHARDS).map(|index| call(index, "a".to_owned()));
    for code in futures::future::join_all(first).await {
        let late = [Code::DeadlineExceeded, Code::Unavailable, Code::Cancelled];
        assert!(late.contains(&code), "{code:?}");
    }
    chain.cluster.stop().await;
}

/// Submissions that wait for something are held, so they are counted from the first wait on: not only once they are checked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submissions_that_wait_are_counted_and_one_that_is_decided_waits_for_nothing() {
    const BYTES: usize = 15 * 1024 * 1024;
    let chain = Chain::start().await;
    let round = chain.open().await;
    let decided = submission(round, "a", &shard(0, 1, 1));
    assert!(chain.submit(0, decided.clone()).await.won);
    // They wait for a revision that never comes.
    let mut large = submission(round, "a", &shard(1, 2, 1));
    large.body.as_mut().unwrap().transactions = vec![Bytes::from(vec![7; BYTES])];
    large.meta = Some(v1::RequestMeta {
        cluster_id: Bytes::new(),
        min_revision: 1 << 40,
    });
    let fit = troika_store::service::limits::SUBMIT_BYTES / BYTES;
    let waiting = (0..fit).map(|_| {
        let (mut rounds, large) = (chain.rounds(0), large.clone());
        Runtime::spawn(async move {
            loop {
                let mut request = Request::new(large.clone());
                request.set_timeout(Duration::from_secs(100));
                let status = rounds.submit(request).await.unwrap_err();
                // The last question of below was there first.
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            }
        })
    });
    let waiting: Vec<_> = waiting.collect();
    let deadline = Runtime::now() + Duration::from_secs(60);
    let refused = loop {
        let mut request = Request::new(large.clone());
        request.set_timeout(Duration::from_secs(1));
        let status = chain.rounds(0).submit(request).await.unwrap_err();
        if status.code() == Code::ResourceExhausted {
            break status;
        }
        assert!(Runtime::now() < deadline, "{status}");
    };
    assert!(refused.message().contains("SUBMIT_BYTES"), "{refused}");
    // The same on a stream, whose messages are refused one by one.
    let mut stream = chain
        .rounds(0)
        .submit_stream(tokio_stream::iter([large]))
        .await
        .unwrap()
        .into_inner();
    let answer = stream.message().await.unwrap().unwrap();
    assert_eq!(
        answer.code,
        i32::from(Code::ResourceExhausted),
        "{answer:?}"
    );
    // However full the member is, a racer that has lost already hears of the winner.
    assert!(chain.submit(0, decided).await.won);
    for call in waiting {
        call.abort();
    }
    chain.cluster.stop().await;
}
