//! What the clients do. Which operations come next is decided by the seed; when they come, by the rate.

use crate::client::{Client, Failure, key_text, proposal};
use crate::history::{
    Acquire, Get, Kind, Op, Open, Outcome, Seal, StateHash, Submit, Watch, WatchEvent,
};
use crate::options::Workload;
use crate::recorder::Recorder;
use crate::synthetic::Random;
use alloy_primitives::{Address, B256, U256};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use troika_proto::v1::cluster_client::ClusterClient;
use troika_proto::v1::rounds_client::RoundsClient;
use troika_proto::v1::{self, event};
use troika_proto::{ChainConfig, Genesis, GenesisAccount, LockKey, LockRule, Shard, Spec};

/// How long a client waits for an answer.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Contracts whose slots are written.
const CONTRACTS: u64 = 4;
/// Names that scripted clients submit under.
const EXECUTORS: [&str; 3] = ["a", "b", "c"];

/// What all clients of a run share.
pub struct Shared {
    /// The history.
    pub recorder: Recorder,
    /// Client addresses of the members.
    pub members: Vec<String>,
    /// Shards of a round.
    pub shards: u32,
    /// The newest round that anybody heard of.
    pub round: AtomicU64,
    /// Makes proposals differ.
    pub nonce: AtomicU64,
    /// Set when the load ends.
    pub stop: AtomicBool,
    /// Calls that were answered, for the progress line.
    pub answered: AtomicU64,
    /// The newest log index at which a call succeeded: progress.
    pub progress: AtomicU64,
}

/// The chain of the scripted workloads: no executors, so no gas price and short timings.
pub fn scripted_genesis(shards: u32) -> Genesis {
    let contract = |n: u64| {
        let account = GenesisAccount {
            nonce: 1,
            code: vec![0xfe].into(),
            ..GenesisAccount::default()
        };
        (contract_address(n), account)
    };
    Genesis {
        config: ChainConfig {
            chain_id: 1337,
            shards,
            shard_gas_limit: 1 << 24,
            lock_rule: LockRule::Commuting,
            elasticity: 2,
            beneficiary: Address::repeat_byte(0xbe),
            propose_after_ms: 0,
            seal_after_ms: 300,
            seconds_per_slot: 0,
            spec: Spec::Osaka,
            genesis_base_fee: 0,
            genesis_timestamp: 1_700_000_000,
            registry: Address::ZERO,
            epoch_length: 0,
            share_cap: 0,
            fixed: None,
        },
        accounts: (0..CONTRACTS).map(contract).collect(),
    }
}

fn contract_address(n: u64) -> Address {
    Address::left_padding_from(&(0xc0de_0000 + n).to_be_bytes())
}

/// A call that the seed chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Submit,
    Resubmit,
    Acquire,
    Get,
    Seal,
    Open,
}

fn choose(workload: Workload, random: &mut Random) -> Choice {
    let weights: [(Choice, u64); 6] = match workload {
        Workload::Locks => [
            (Choice::Submit, 35),
            (Choice::Resubmit, 5),
            (Choice::Acquire, 40),
            (Choice::Get, 10),
            (Choice::Seal, 6),
            (Choice::Open, 4),
        ],
        Workload::Read => [
            (Choice::Submit, 30),
            (Choice::Resubmit, 5),
            (Choice::Acquire, 0),
            (Choice::Get, 55),
            (Choice::Seal, 6),
            (Choice::Open, 4),
        ],
        Workload::Race | Workload::Broadcast => [
            (Choice::Submit, 60),
            (Choice::Resubmit, 10),
            (Choice::Acquire, 5),
            (Choice::Get, 15),
            (Choice::Seal, 6),
            (Choice::Open, 4),
        ],
    };
    let mut at = random.below(weights.iter().map(|(_, w)| w).sum());
    for (choice, weight) in weights {
        if at < weight {
            return choice;
        }
        at -= weight;
    }
    Choice::Get
}

/// One client: calls one after the other until told to stop. Each time-out retires its process id.
pub async fn client(
    shared: Arc<Shared>,
    workload: Workload,
    seed: u64,
    pause: Duration,
) -> anyhow::Result<()> {
    let mut random = Random::new(seed);
    let mut process = shared.recorder.new_process();
    let mut last: Option<(Submit, Arc<Shard>)> = None;
    let clients = shared
        .members
        .iter()
        .map(|address| Client::new(address, CALL_TIMEOUT))
        .collect::<anyhow::Result<Vec<_>>>()?;
    while !shared.stop.load(Ordering::Relaxed) {
        let target = &clients[random.below(clients.len() as u64) as usize];
        let choice = choose(workload, &mut random);
        let known = one_call(&shared, target, process, choice, &mut random, &mut last).await;
        if !known {
            process = shared.recorder.new_process();
        }
        // Between half and one and a half of the pause, so that clients do not march in step.
        let share = 500 + random.below(1_000);
        tokio::time::sleep(pause.mul_f64(share as f64 / 1_000.0)).await;
    }
    Ok(())
}

/// Records a completion. False if the outcome is unknown.
fn complete(shared: &Shared, process: u64, asked: Op, answer: Result<Op, Failure>) -> bool {
    let recorder = &shared.recorder;
    match answer {
        Ok(op) => {
            recorder.record(process, Kind::Ok, op, "");
            shared.answered.fetch_add(1, Ordering::Relaxed);
            true
        }
        Err(Failure::Not(why)) => {
            recorder.record(process, Kind::Fail, asked, why);
            true
        }
        Err(Failure::Unknown(why)) => {
            recorder.record(process, Kind::Info, asked, why);
            false
        }
    }
}

async fn one_call(
    shared: &Shared,
    client: &Client,
    process: u64,
    choice: Choice,
    random: &mut Random,
    last: &mut Option<(Submit, Arc<Shard>)>,
) -> bool {
    let newest = shared.round.load(Ordering::Relaxed).max(1);
    let back = if random.one_in(6) { random.below(4) } else { 0 };
    let round = newest.saturating_sub(back).max(1);
    let index = random.below(shared.shards.into()) as u32;
    let invoke = |op: Op| {
        shared
            .recorder
            .record(process, Kind::Invoke, op.clone(), "");
        op
    };
    match choice {
        Choice::Open => {
            let asked = invoke(Op::Open(Open::default()));
            let answer = client.open().await;
            if let Ok(Open { round: Some(n), .. }) = &answer {
                shared.round.fetch_max(*n, Ordering::Relaxed);
            }
            complete(shared, process, asked, answer.map(Op::Open))
        }
        Choice::Seal => {
            let call = Seal {
                round: newest,
                seen: None,
                refused: None,
                meta: None,
            };
            let asked = invoke(Op::Seal(call));
            let answer = client.seal(newest).await;
            complete(shared, process, asked, answer.map(Op::Seal))
        }
        Choice::Get => {
            let call = Get {
                round,
                linearizable: !random.one_in(4),
                seen: None,
                meta: None,
            };
            let linearizable = call.linearizable;
            let asked = invoke(Op::Get(call));
            let answer = client.get(round, linearizable).await;
            complete(shared, process, asked, answer.map(Op::Get))
        }
        Choice::Acquire => {
            let keys = lock_keys(index, random);
            let call = Acquire {
                round,
                shard: index,
                keys: keys.iter().map(key_text).collect(),
                outcome: None,
                meta: None,
            };
            let asked = invoke(Op::Acquire(call.clone()));
            let answer = client.acquire(&call, &keys).await;
            complete(shared, process, asked, answer.map(Op::Acquire))
        }
        Choice::Submit | Choice::Resubmit => {
            let (call, shard) = match last.take().filter(|_| choice == Choice::Resubmit) {
                Some(again) => again,
                None => new_submit(shared, round, index, random),
            };
            let asked = invoke(Op::Submit(call.clone()));
            let answer = client.submit(&call, &shard).await;
            let closed = matches!(
                &answer,
                Ok(s) if matches!(&s.outcome, Some(Outcome::Refused(code)) if code.contains("CLOSED"))
            );
            if closed && random.one_in(4) {
                // The round ended without this client hearing of the next one.
                if let Ok(Open { round: Some(n), .. }) = client.open().await {
                    shared.round.fetch_max(n, Ordering::Relaxed);
                }
            }
            *last = Some((call, shard));
            complete(shared, process, asked, answer.map(Op::Submit))
        }
    }
}

fn lock_keys(index: u32, random: &mut Random) -> Vec<LockKey> {
    let mut keys: Vec<LockKey> = slots(index, random)
        .into_iter()
        .map(|(contract, key, _)| LockKey::slot(contract, key))
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Mostly slots of the shard's own, sometimes ones that other shards want too.
fn slots(index: u32, random: &mut Random) -> Vec<(Address, U256, U256)> {
    let mut slots = Vec::new();
    for _ in 0..1 + random.below(3) {
        let contract = contract_address(random.below(CONTRACTS));
        let shared = random.one_in(4);
        let owner = if shared { 1 << 20 } else { u64::from(index) };
        let key = U256::from(owner * 16 + random.below(3));
        slots.push((contract, key, U256::from(random.bits() | 1)));
    }
    slots
}

fn new_submit(
    shared: &Shared,
    round: u64,
    index: u32,
    random: &mut Random,
) -> (Submit, Arc<Shard>) {
    let nonce = shared.nonce.fetch_add(1, Ordering::Relaxed);
    let shard = proposal(index, nonce, &slots(index, random));
    let keys = shard.body.diff.lock_keys(LockRule::Commuting);
    let executor = EXECUTORS[random.below(3) as usize];
    let call = Submit {
        round,
        shard: index,
        executor: executor.to_owned(),
        hash: shard.hash,
        keys: keys.iter().map(key_text).collect(),
        outcome: None,
        meta: None,
    };
    (call, Arc::new(shard))
}

/// A watcher: follows one member after the other, resuming where it was.
pub async fn watcher(shared: Arc<Shared>, watcher: u64) {
    let process = shared.recorder.new_process();
    let mut after: Option<v1::EventId> = Some(v1::EventId::default());
    let mut member = watcher as usize;
    while !shared.stop.load(Ordering::Relaxed) {
        member = (member + 1) % shared.members.len();
        let lasted = watch_once(&shared, watcher, process, member, &mut after).await;
        if let Err(e) = lasted
            && e.code() == tonic::Code::OutOfRange
        {
            return; // The history is gone: this watcher has nothing more to say.
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn watch_once(
    shared: &Shared,
    watcher: u64,
    process: u64,
    member: usize,
    after: &mut Option<v1::EventId>,
) -> Result<(), tonic::Status> {
    let unavailable = |e: anyhow::Error| tonic::Status::unavailable(e.to_string());
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{}", shared.members[member]))
            .map_err(|e| unavailable(e.into()))?
            .connect_timeout(Duration::from_secs(1));
    let channel = endpoint
        .connect()
        .await
        .map_err(|e| unavailable(e.into()))?;
    let request = v1::WatchRequest {
        after: *after,
        all_shards: true,
        ..Default::default()
    };
    let mut rounds = RoundsClient::new(channel);
    let mut stream = tokio::time::timeout(CALL_TIMEOUT, rounds.watch(request))
        .await
        .map_err(|_| tonic::Status::deadline_exceeded("watch"))??
        .into_inner();
    while !shared.stop.load(Ordering::Relaxed) {
        let next = tokio::time::timeout(Duration::from_secs(3), stream.message()).await;
        let Ok(next) = next else {
            return Ok(()); // Quiet for long: perhaps cut off. Another member.
        };
        let Some(response) = next? else {
            return Ok(());
        };
        for event in &response.events {
            record_event(shared, watcher, process, member as u64 + 1, event);
            *after = event.id.or(*after);
        }
        if let Some(progress) = response.progress {
            let at = after.map_or((0, 0), |a| (a.revision, a.ordinal));
            if (progress.revision, progress.ordinal) > at {
                let watch = Watch {
                    watcher,
                    member: member as u64 + 1,
                    id: (progress.revision, progress.ordinal),
                    event: WatchEvent::Progress,
                };
                shared
                    .recorder
                    .record(process, Kind::Ok, Op::Watch(watch), "");
                *after = Some(progress);
            }
        }
    }
    Ok(())
}

fn record_event(shared: &Shared, watcher: u64, process: u64, member: u64, event: &v1::Event) {
    let b256 = |bytes: &[u8]| B256::try_from(bytes).unwrap_or(B256::repeat_byte(0xff));
    let seen = match event.kind.clone() {
        Some(event::Kind::RoundOpened(r)) => {
            shared.round.fetch_max(r.round, Ordering::Relaxed);
            WatchEvent::Opened { round: r.round }
        }
        Some(event::Kind::ShardAccepted(a)) => WatchEvent::Accepted {
            round: a.round,
            shard: a.shard,
            winner: crate::client::winner(a.winner.unwrap_or_default()),
        },
        Some(event::Kind::RoundSealed(s)) => WatchEvent::Sealed {
            round: s.round,
            block: b256(&s.block_hash),
            shards: s.shard_hashes.iter().map(|h| b256(h)).collect(),
        },
        Some(event::Kind::RoundVoided(v)) => WatchEvent::Voided { round: v.round },
        other => WatchEvent::Other(format!("{other:?}").chars().take(60).collect()),
    };
    let id = event.id.unwrap_or_default();
    let watch = Watch {
        watcher,
        member,
        id: (id.revision, id.ordinal),
        event: seen,
    };
    shared
        .recorder
        .record(process, Kind::Ok, Op::Watch(watch), "");
}

/// Asks every member for its state hash, over and over.
pub async fn state_hashes(shared: Arc<Shared>) {
    let process = shared.recorder.new_process();
    while !shared.stop.load(Ordering::Relaxed) {
        for (i, address) in shared.members.iter().enumerate() {
            if let Ok(state) = state_hash(address, i as u64 + 1).await {
                shared
                    .progress
                    .fetch_max(state.log_index, Ordering::Relaxed);
                shared
                    .recorder
                    .record(process, Kind::Ok, Op::StateHash(state), "");
            }
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// One member's state hash.
///
/// # Errors
/// It does not answer.
pub async fn state_hash(address: &str, member: u64) -> anyhow::Result<StateHash> {
    let status = status(address).await?;
    Ok(StateHash {
        member,
        log_index: status.state_hash_index,
        hash: B256::try_from(&status.state_hash[..])?,
    })
}

/// One member's status.
///
/// # Errors
/// It does not answer.
pub async fn status(address: &str) -> anyhow::Result<v1::StatusResponse> {
    let channel = crate::client::channel(address, CALL_TIMEOUT)?;
    let reply = ClusterClient::new(channel)
        .status(v1::StatusRequest::default())
        .await?;
    Ok(reply.into_inner())
}
