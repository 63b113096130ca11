//! A slow executor beside quick ones.

use super::cluster::{Gateway, Signed, executor, genesis, transfer};
use crate::testing::FakeStore;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Longest that anything here is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a way to `to` that passes bytes on only while it is open.
async fn valve(to: SocketAddr, open: &watch::Sender<bool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let open = open.subscribe();
    tokio::spawn(async move {
        while let Ok((from, _)) = listener.accept().await {
            let Ok(there) = TcpStream::connect(to).await else {
                continue;
            };
            let ((a, b), (c, d)) = (from.into_split(), there.into_split());
            tokio::spawn(pass(a, d, open.clone()));
            tokio::spawn(pass(c, b, open.clone()));
        }
    });
    address
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut open: watch::Receiver<bool>) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if open.wait_for(|open| *open).await.is_err() {
            return;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_do_not_wait_for_a_slow_executor_and_it_takes_part_again_once_it_is_quick() {
    // Nobody may seal a round: each ends with its last shard.
    let genesis = genesis(2, 20, 600_000);
    let (store, addr) = FakeStore::start(genesis.clone()).await;
    let open = watch::Sender::new(true);
    let through = valve(addr, &open).await;
    let executors = [
        executor("e0", addr, (0, 1)).await,
        executor("e1", addr, (0, 1)).await,
        executor("slow", through, (0, 1)).await,
    ];
    let mut gateways = Vec::new();
    for executor in &executors {
        let mut gateway = Gateway::connect("g", &genesis, executor.addr()).await;
        gateway.synced().await;
        gateways.push(gateway);
    }
    let took_part = |state: &crate::testing::State, since: usize| {
        let submissions = state.submissions[since..].iter();
        submissions.filter(|s| s.2 == "slow").count() > 0
    };
    store
        .until("all three race", |state| took_part(state, 0).then_some(()))
        .await;

    open.send_replace(false);
    let newest = store.state().rounds.keys().last().copied().unwrap();
    // What was on its way may still arrive: from the second round on, nothing of it does.
    let sent: Vec<Signed> = (0..5).map(|nonce| transfer(1, nonce, 0xaa)).collect();
    for gateway in &gateways {
        gateway.add(&sent.iter().collect::<Vec<_>>(), 1, 0).await;
    }
    store
        .until("rounds go on", |state| {
            let sealed = state.rounds.range(newest + 2..);
            let sealed = sealed.filter(|(_, round)| round.block.is_some());
            let all = sent.iter().all(|tx| !state.places(tx.hash).is_empty());
            (sealed.count() >= 10 && all).then_some(())
        })
        .await;
    let since = {
        let state = store.state();
        for (number, round) in state.rounds.range(newest + 2..) {
            let winners = round.winners.values();
            let slow = winners.filter(|winner| winner.executor == "slow").count();
            assert_eq!(slow, 0, "round {number}");
        }
        state.submissions.len()
    };

    open.send_replace(true);
    let deadline = Instant::now() + PATIENCE;
    while !took_part(&store.state(), since) {
        assert!(Instant::now() < deadline, "it never comes back");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(executors.iter().all(|e| e.stats().divergence.is_empty()));
}
