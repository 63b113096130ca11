//! Three real processes on real disks, killed without a word, again and again, while they work.

mod support;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::until;
use tonic::transport::{Channel, Endpoint};
use troika_proto::v1::cluster_client::ClusterClient;
use troika_proto::v1::rounds_client::RoundsClient;
use troika_proto::v1::{self, submit_response::Outcome};
use troika_store::runtime::Runtime;
use troika_store::state;

const LONG: Duration = Duration::from_secs(40);

/// Ports that were free a moment ago.
fn ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

struct Processes {
    data: tempfile::TempDir,
    clients: [u16; 3],
    peers: [u16; 3],
    running: [Option<Child>; 3],
}

impl Drop for Processes {
    fn drop(&mut self) {
        (0..3).for_each(|member| self.kill(member));
    }
}

impl Processes {
    fn new() -> Self {
        let [a, b, c, d, e, f] = ports();
        let mut processes = Self {
            data: tempfile::tempdir().unwrap(),
            clients: [a, b, c],
            peers: [d, e, f],
            running: [None, None, None],
        };
        (0..3).for_each(|member| processes.start(member));
        processes
    }

    fn command(&self, member: usize, data: &Path) -> Command {
        let members: Vec<_> = (0..3)
            .map(|id| format!("{}=127.0.0.1:{}", id + 1, self.peers[id]))
            .collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_troika-store"));
        command
            .args(["serve", "--id", &(member + 1).to_string()])
            .args(["--listen", &format!("127.0.0.1:{}", self.clients[member])])
            .args([
                "--peer-listen",
                &format!("127.0.0.1:{}", self.peers[member]),
            ])
            .args(["--members", &members.join(",")])
            .args([
                "--heartbeat-ms",
                "100",
                "--election-ms",
                "1500",
                "--reserve-bytes",
                "0",
            ])
            .arg("--data")
            .arg(data)
            .env("TROIKA_LOG", "off")
            .stdin(Stdio::null());
        command
    }

    fn start(&mut self, member: usize) {
        let data = self.data.path().join((member + 1).to_string());
        self.running[member] = Some(self.command(member, &data).spawn().unwrap());
    }

    /// SIGKILL.
    fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.running[member].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn channel(&self, member: usize) -> Channel {
        let address = format!("http://127.0.0.1:{}", self.clients[member]);
        let endpoint = Endpoint::from_shared(address).unwrap();
        endpoint
            .connect_timeout(Duration::from_secs(1))
            .timeout(Duration::from_secs(5))
            .connect_lazy()
    }
}

/// Repeats a call, on one member after the other, until it is answered.
async fn answered<T, F>(channels: &[Channel; 3], mut call: impl FnMut(Channel) -> F) -> T
where
    F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
{
    let deadline = Runtime::now() + LONG;
    for turn in 0.. {
        match call(channels[turn % 3].clone()).await {
            Ok(answer) => return answer.into_inner(),
            Err(status) => assert!(Runtime::now() < deadline, "not answered: {status}"),
        }
        Runtime::sleep(Duration::from_millis(30)).await;
    }
    unreachable!()
}

type Winners = BTreeMap<(u64, u32), v1::Winner>;

/// One block: opens a round and submits all its shards; what was acknowledged.
async fn block(channels: &[Channel; 3], nonce: u64) -> Winners {
    let request = v1::OpenRoundRequest {
        kind: v1::RoundKind::Build.into(),
        opener: "test".into(),
        ..Default::default()
    };
    let opened = answered(channels, |channel| {
        let request = request.clone();
        async move { RoundsClient::new(channel).open(request).await }
    })
    .await;
    let round = opened.round.expect("a round").round;
    let submits = (0..support::SHARDS).map(|shard| async move {
        let command = support::proposal(round, shard, shard, nonce, "a");
        let state::Command::AcceptShard(accept) = command else {
            unreachable!()
        };
        let request = v1::SubmitRequest {
            round,
            shard,
            executor: "a".into(),
            header: Some((&accept.proposal.header).into()),
            body: Some((&accept.proposal.body).into()),
            ..Default::default()
        };
        let reply = answered(channels, |channel| {
            let request = request.clone();
            async move { RoundsClient::new(channel).submit(request).await }
        })
        .await;
        match reply.outcome {
            Some(Outcome::Winner(winner)) => ((round, shard), winner),
            other => panic!("round {round} shard {shard}: {other:?}"),
        }
    });
    futures::future::join_all(submits)
        .await
        .into_iter()
        .collect()
}

async fn init(channels: &[Channel; 3]) {
    let request = v1::InitChainRequest {
        genesis: Some((&support::genesis()).into()),
        ..Default::default()
    };
    let started = answered(channels, |channel| {
        let request = request.clone();
        async move { ClusterClient::new(channel).init_chain(request).await }
    })
    .await;
    assert!(started.refusal.is_none(), "{started:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_decision_is_missing_after_kill_in_a_loop() {
    let mut processes = Processes::new();
    let channels = [0, 1, 2].map(|member| processes.channel(member));
    init(&channels).await;
    let load = Runtime::spawn({
        let channels = channels.clone();
        async move {
            let mut winners = Winners::new();
            for nonce in 1..=25 {
                winners.extend(block(&channels, nonce).await);
                // Long enough for the kills to hit it.
                Runtime::sleep(Duration::from_millis(150)).await;
            }
            winners
        }
    });
    for turn in 0..6 {
        Runtime::sleep(Duration::from_millis(400)).await;
        if turn == 5 {
            (0..3).for_each(|member| processes.kill(member));
            (0..3).for_each(|member| processes.start(member));
        } else {
            processes.kill(turn % 3);
            Runtime::sleep(Duration::from_millis(200)).await;
            processes.start(turn % 3);
        }
    }
    let winners = load.await.unwrap();
    assert_eq!(winners.len(), 25 * support::SHARDS as usize);
    for channel in &channels {
        let only = [0, 1, 2].map(|_| channel.clone());
        for round in winners
            .keys()
            .map(|(round, _)| *round)
            .collect::<std::collections::BTreeSet<_>>()
        {
            let request = v1::GetRoundRequest {
                round,
                linearizable: true,
                ..Default::default()
            };
            let got = answered(&only, |channel| {
                let request = request.clone();
                async move { RoundsClient::new(channel).get(request).await }
            });
            let got = got.await.round.expect("the round");
            for status in got.winners {
                assert_eq!(status.winner.as_ref(), winners.get(&(round, status.shard)));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_process_exits_and_says_what_to_do() {
    let mut processes = Processes::new();
    let channels = [0, 1, 2].map(|member| processes.channel(member));
    init(&channels).await;
    block(&channels, 1).await;
    processes.kill(2);
    let fresh = processes.data.path().join("wiped");
    let mut wiped = processes.command(2, &fresh);
    let mut child = wiped.stderr(Stdio::piped()).spawn().unwrap();
    let status = until("the wiped member's end", || child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(3));
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    assert!(
        said.contains("--join") && said.contains("troikactl member remove 3"),
        "{said}"
    );
    block(&channels, 2).await;
}
