//! After the last fault is lifted: does the system make progress again, and does everybody tell the same story to its end?

use super::{CALL_TIMEOUT, Shared, state_hash, status, transfer};
use crate::checker::Finding;
use crate::client::{Client, Failure};
use crate::history::{Balances, BlockSeen, Get, Kind, Op};
use alloy_primitives::{Address, B256, U256, keccak256};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tonic::transport::Channel;
use troika_proto::v1::state_client::StateClient;
use troika_proto::v1::{self, block_request};

/// Pause between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(100);
/// How long one question to a member may take once the faults are gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most blocks whose balances are read.
const MOST_BALANCES: u64 = 40;

/// Seconds until a new decision was made after the heal and every member has it; `None` if not within `limit` seconds.
/// Where no executors run (`real`), rounds are sealed and opened here.
pub async fn recover(shared: &Shared, limit: u64, real: bool) -> Option<f64> {
    let started = Instant::now();
    let before = shared.round.load(Ordering::Relaxed);
    let within = || started.elapsed() < Duration::from_secs(limit);
    let mut opened_at = None;
    while opened_at.is_none() && within() {
        for (_, address) in shared.members() {
            let Ok(client) = Client::new(&address, CALL_TIMEOUT) else {
                continue;
            };
            let round = shared.round.load(Ordering::Relaxed).max(1);
            // A new round is a new decision: seal the newest (again, if need be) and open the next.
            if !real {
                let _: Result<_, Failure> = client.seal(round).await;
            }
            if let Ok(open) = client.open().await
                && let (Some(n), Some(at)) = (open.round, open.opened_at)
                && n > before
            {
                shared.heard_of(n);
                opened_at = Some(at);
                break;
            }
        }
        tokio::time::sleep(POLL).await;
    }
    let target = opened_at?;
    while within() {
        let mut behind = false;
        for (_, address) in shared.members() {
            let status = status(&address).await;
            behind |= status.map_or(true, |s| s.meta.is_none_or(|m| m.revision < target));
        }
        if !behind {
            return Some(started.elapsed().as_secs_f64());
        }
        tokio::time::sleep(POLL).await;
    }
    None
}

/// Every round, read on every member; and every member's state hash. All of them answer now, and know every round that
/// anybody was told of, unless it was forgotten on demand.
pub async fn rounds(shared: &Shared) {
    let newest = shared.round.load(Ordering::Relaxed);
    let process = shared.recorder.new_process();
    for (id, address) in shared.members() {
        let Ok(client) = Client::new(&address, CALL_TIMEOUT) else {
            continue;
        };
        for round in 1..=newest {
            if let Err(why) = ask_for_round(shared, process, &client, round).await {
                let text = format!(
                    "member {id} does not answer for round {round} of {newest} within {PATIENCE:?} after the heal: {why}"
                );
                shared.found(Finding::new("recovery/unreadable", text, vec![]));
                // One is enough: the others would take as long.
                break;
            }
        }
    }
    for (id, address) in shared.members() {
        match state_hash(&address, u64::from(id)).await {
            Ok(state) => shared.saw(process, Op::StateHash(state)),
            Err(e) => {
                let text =
                    format!("member {id} does not tell its state hash after the heal: {e:#}");
                shared.found(Finding::new("recovery/unreadable", text, vec![]));
            }
        }
    }
}

/// Reads a round until it is answered, or was forgotten on demand.
async fn ask_for_round(
    shared: &Shared,
    process: u64,
    client: &Client,
    round: u64,
) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let call = Op::Get(Get {
            round,
            linearizable: false,
            seen: None,
            meta: None,
        });
        shared
            .recorder
            .record(process, Kind::Invoke, call.clone(), "");
        let answer = client.get(round, false).await;
        let failure = answer.as_ref().err().map(|failure| match failure {
            Failure::Not(why) | Failure::Unknown(why) => why.clone(),
        });
        shared.complete(process, call, answer.map(Op::Get));
        match failure {
            None => return Ok(()),
            Some(why) if is_forgotten(&why) => return Ok(()),
            Some(why) if started.elapsed() > PATIENCE => return Err(why),
            Some(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// True if a refusal says that what was asked for has been forgotten on demand, and not that it is unknown.
fn is_forgotten(refusal: &str) -> bool {
    refusal.starts_with(&format!("{:?}:", tonic::Code::OutOfRange))
}

/// A fresh peer of every executor is sent everything from the first round to the newest sealed one.
pub async fn feeds(shared: &Arc<Shared>, limit: u64) {
    let until = shared.round.load(Ordering::Relaxed).saturating_sub(1);
    let peers = shared.feeds.iter().map(|(executor, address)| {
        let (shared, executor, address) = (shared.clone(), executor.clone(), address.clone());
        tokio::spawn(async move {
            let all = super::observe::peer(shared.clone(), executor.clone(), address, Some(until));
            if tokio::time::timeout(Duration::from_secs(limit), all).await.is_err() {
                shared.found(Finding::new(
                    "feed/complete",
                    format!(
                        "executor {executor} did not publish all of rounds 1 to {until} within {limit} s of the heal"
                    ),
                    vec![],
                ));
            }
        })
    });
    for peer in peers.collect::<Vec<_>>() {
        let _ = peer.await;
    }
}

/// All that was sent comes to be included, once it is sent again.
pub async fn transfers(shared: &Shared, sent: &BTreeMap<u32, u64>, limit: u64) -> Result<()> {
    let started = Instant::now();
    let mut again = Instant::now() - PATIENCE;
    loop {
        let nonces = nonces(shared, sent.keys().copied())
            .await
            .unwrap_or_default();
        let waiting: Vec<(u32, u64, u64)> = sent
            .iter()
            .map(|(n, count)| (*n, nonces.get(n).copied().unwrap_or(0), *count))
            .filter(|(_, included, count)| included < count)
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        if started.elapsed() > Duration::from_secs(limit) {
            let (sender, included, count) = waiting[0];
            shared.found(Finding::new(
                "transfer/stuck",
                format!(
                    "{} accounts wait: of account {sender}'s {count} transactions only {included} are included {limit} s \
                     after the heal",
                    waiting.len()
                ),
                vec![],
            ));
            return Ok(());
        }
        if again.elapsed() >= Duration::from_secs(5) {
            again = Instant::now();
            for (sender, included, count) in waiting {
                transfer::send_again(shared, sender, included, count).await?;
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn nonces(shared: &Shared, senders: impl Iterator<Item = u32>) -> Result<BTreeMap<u32, u64>> {
    let senders: Vec<u32> = senders.collect();
    let keys = senders.iter().map(|n| transfer::account_address(*n));
    let (_, address) = shared.members().into_iter().next().context("no members")?;
    let mut state = state(&address)?;
    let values = read(&mut state, &[], keys.map(|a| key(a, None)).collect()).await?;
    let nonces = senders.into_iter().zip(values.iter().map(|v| v.nonce));
    Ok(nonces.collect())
}

fn state(address: &str) -> Result<StateClient<Channel>> {
    let channel = crate::client::channel(address, PATIENCE)?;
    let limit = troika_proto::limits::MAX_MESSAGE_BYTES;
    Ok(StateClient::new(channel).max_decoding_message_size(limit))
}

fn key(address: Address, slot: Option<U256>) -> v1::StateKey {
    v1::StateKey {
        address: address.to_vec().into(),
        slot: slot.map_or_else(Vec::new, |s| s.to_be_bytes_vec()).into(),
    }
}

/// State at a block; an empty hash: at the head, asked of the quorum.
async fn read(
    state: &mut StateClient<Channel>,
    block: &[u8],
    keys: Vec<v1::StateKey>,
) -> Result<Vec<v1::StateValue>> {
    let request = v1::ReadRequest {
        block: block.to_vec().into(),
        keys,
        linearizable: block.is_empty(),
        ..Default::default()
    };
    Ok(state.read(request).await?.into_inner().values)
}

/// Every block of every member; from one member the transactions, and the balances of all accounts at some blocks.
///
/// # Errors
/// A member does not answer, which after the heal it must.
pub async fn chain(shared: &Shared, real: bool) -> Result<()> {
    let process = shared.recorder.new_process();
    for (n, (id, address)) in shared.members().into_iter().enumerate() {
        let mut state = state(&address)?;
        let head = state.head(v1::HeadRequest::default()).await?.into_inner();
        let number = head.header.as_ref().map_or(0, |h| h.number);
        let mut blocks = Vec::new();
        for number in 1..=number {
            let request = v1::BlockRequest {
                meta: None,
                which: Some(block_request::Which::Number(number)),
            };
            match state.block(request).await {
                Ok(block) => blocks.push(block.into_inner()),
                // Forgotten on demand.
                Err(e) if e.code() == tonic::Code::OutOfRange => {}
                // One that is not known at all is below the head, too.
                Err(e) => bail!("member {id}, block {number}: {e}"),
            }
        }
        for block in &blocks {
            let transactions = match real && n == 0 {
                true => Some(transactions(&mut state, block).await?),
                false => None,
            };
            shared.saw(process, Op::Block(seen(id, block, transactions)));
        }
        if real && n == 0 {
            balances(shared, &mut state, &blocks, process).await?;
        }
    }
    Ok(())
}

fn hash(bytes: &[u8]) -> B256 {
    B256::try_from(bytes).unwrap_or(B256::repeat_byte(0xff))
}

fn seen(member: u32, block: &v1::BlockResponse, transactions: Option<Vec<B256>>) -> BlockSeen {
    let header = block.header.as_ref();
    let winner = |s: &v1::BlockShard| {
        s.winner
            .as_ref()
            .map_or(B256::ZERO, |w| hash(&w.shard_hash))
    };
    BlockSeen {
        member: member.into(),
        number: header.map_or(0, |h| h.number),
        hash: hash(&block.hash),
        parent: header.map_or(B256::ZERO, |h| hash(&h.parent_hash)),
        round: block.round,
        shards: block.shards.iter().map(winner).collect(),
        transactions,
    }
}

async fn transactions(
    state: &mut StateClient<Channel>,
    block: &v1::BlockResponse,
) -> Result<Vec<B256>> {
    let mut hashes = Vec::new();
    for shard in &block.shards {
        if shard
            .header
            .as_ref()
            .is_none_or(|h| h.transaction_count == 0)
        {
            continue;
        }
        let request = v1::ShardRequest {
            round: block.round,
            shard: shard.index,
            transactions: true,
            ..Default::default()
        };
        let body = state
            .shard(request)
            .await?
            .into_inner()
            .body
            .unwrap_or_default();
        hashes.extend(body.transactions.iter().map(keccak256));
    }
    Ok(hashes)
}

/// Money at the start less the burned base fees is what all accounts hold; the counter is the number of calls to it.
async fn balances(
    shared: &Shared,
    state: &mut StateClient<Channel>,
    blocks: &[v1::BlockResponse],
    process: u64,
) -> Result<()> {
    let accounts = (0..transfer::ACCOUNTS).map(transfer::account_address);
    let accounts: Vec<Address> = accounts.chain([transfer::BENEFICIARY]).collect();
    let every = (blocks.len() as u64 / MOST_BALANCES).max(1);
    let newest = blocks
        .last()
        .and_then(|b| b.header.as_ref())
        .map_or(0, |h| h.number);
    let mut expected = U256::from(transfer::START_WEI) * U256::from(transfer::ACCOUNTS);
    for block in blocks {
        let Some(header) = &block.header else {
            continue;
        };
        expected -= U256::from(header.gas_used) * U256::from(header.base_fee);
        if header.number % every != 0 && header.number != newest {
            continue;
        }
        let mut keys: Vec<_> = accounts.iter().map(|a| key(*a, None)).collect();
        keys.push(key(transfer::COUNTER, Some(U256::ZERO)));
        if let Some(count) = block_sum(state, &block.hash, header).await? {
            shared.saw(process, Op::Balances(count));
        }
        // Only the newest blocks' states are kept.
        let Ok(values) = read(state, &block.hash, keys).await else {
            continue;
        };
        let total: U256 = values.iter().map(|v| U256::from_be_slice(&v.balance)).sum();
        shared.saw(
            process,
            Op::Balances(Balances {
                what: "money".to_owned(),
                block: header.number,
                total: total.to_string(),
                expected: expected.to_string(),
            }),
        );
        // Nonces say which transactions are in.
        let calls = |(n, v): (usize, &v1::StateValue)| -> u64 {
            let sender = n as u32;
            (0..v.nonce)
                .filter(|nonce| transfer::counts(shared.seed, sender, *nonce))
                .count() as u64
        };
        let paying = values.iter().take(transfer::ACCOUNTS as usize).enumerate();
        let calls: u64 = paying.map(calls).sum();
        let counter = values
            .last()
            .map_or(U256::ZERO, |v| U256::from_be_slice(&v.slot));
        shared.saw(
            process,
            Op::Balances(Balances {
                what: "counter".to_owned(),
                block: header.number,
                total: counter.to_string(),
                expected: calls.to_string(),
            }),
        );
    }
    Ok(())
}

/// What a block's diff gives and takes: all rises, fees and burned base fees are somebody's falls. `None` where the block
/// has been forgotten.
async fn block_sum(
    state: &mut StateClient<Channel>,
    hash: &[u8],
    header: &v1::Header,
) -> Result<Option<Balances>> {
    let request = v1::BlockDiffRequest {
        meta: None,
        block: hash.to_vec().into(),
    };
    let reply = match state.block_diff(request).await {
        Ok(reply) => reply.into_inner(),
        Err(e) if e.code() == tonic::Code::OutOfRange => return Ok(None),
        Err(e) => bail!("diff of block {}: {e}", header.number),
    };
    let burned = U256::from(header.gas_used) * U256::from(header.base_fee);
    let mut given = burned + U256::from_be_slice(&reply.fees);
    let mut taken = U256::ZERO;
    for account in reply.diff.iter().flat_map(|d| &d.accounts) {
        let amount = U256::from_be_slice(&account.amount);
        if account.fell {
            taken += amount;
        } else {
            given += amount;
        }
    }
    Ok(Some(Balances {
        what: "diff".to_owned(),
        block: header.number,
        total: given.to_string(),
        expected: taken.to_string(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;

    #[test]
    fn what_was_forgotten_on_demand_is_told_from_what_is_unknown() {
        let said = |status: Status| match Failure::from(status) {
            Failure::Not(why) | Failure::Unknown(why) => why,
        };
        assert!(is_forgotten(&said(Status::out_of_range(
            "round 3 is pruned"
        ))));
        assert!(!is_forgotten(&said(Status::not_found(
            "there is no round 3"
        ))));
        assert!(!is_forgotten(&said(Status::deadline_exceeded(
            "OutOfRange: late"
        ))));
    }
}
