//! Benchmarks against a live cluster. Each starts a chain of its own, so it wants a fresh cluster (or one that the same
//! benchmark has used before with as many shards).
//!
//! - [`race`]: the shard race, the store's reason to be;
//! - [`load`]: locks and reads.

mod load;
mod pool;
mod race;
mod report;

use super::args::{BenchCommand, Global};
use super::client::{Attempt, Client, endpoints};
use super::cluster::start_chain;
use super::exit::{CtlError, Outcome};
use alloy_primitives::{Address, U256};
use tonic::transport::Channel;
use troika_proto::limits::{MAX_MESSAGE_BYTES, MIN_SHARD_GAS};
use troika_proto::v1::rounds_client::RoundsClient;
use troika_proto::whole::Whole;
use troika_proto::{ChainConfig, Genesis, GenesisAccount, LockRule, Spec, v1};

/// Who opens the rounds of a benchmark.
const OPENER: &str = "bench";

pub(super) async fn run(global: &Global, command: BenchCommand) -> Result<Outcome, CtlError> {
    match command {
        BenchCommand::Race(args) => race::run(global, args).await,
        BenchCommand::Locks(args) => load::locks(global, args).await,
        BenchCommand::Read(args) => load::reads(global, args).await,
    }
}

/// The account that a shard writes in a benchmark.
fn account(shard: u32) -> Address {
    let mut bytes = [0xbe; 20];
    bytes[16..].copy_from_slice(&shard.to_be_bytes());
    Address::from(bytes)
}

/// A chain with an account for every shard. Nothing is paid for gas, and a round may be sealed at any time.
fn genesis(shards: u32) -> Genesis {
    let config = ChainConfig {
        chain_id: 1337,
        shards,
        shard_gas_limit: MIN_SHARD_GAS,
        lock_rule: LockRule::Commuting,
        elasticity: 1,
        beneficiary: Address::ZERO,
        propose_after_ms: 0,
        seal_after_ms: 0,
        seconds_per_slot: 0,
        spec: Spec::Osaka,
        genesis_base_fee: 0,
        genesis_timestamp: 0,
        registry: Address::ZERO,
        epoch_length: 0,
        share_cap: 0,
        fixed: None,
    };
    let one = GenesisAccount {
        balance: U256::from(1),
        ..GenesisAccount::default()
    };
    Genesis {
        config,
        accounts: (0..shards).map(|s| (account(s), one.clone())).collect(),
    }
}

/// Starts the benchmark's chain, or finds it there.
async fn prepare_chain(client: &Client, shards: u32) -> Result<(), CtlError> {
    let answer = start_chain(client, v1::Genesis::from(&genesis(shards))).await?;
    match answer.refusal {
        None => Ok(()),
        Some(refusal) => Err(CtlError::Refused(format!(
            "the cluster has another chain ({}): a benchmark needs a fresh cluster, or one that it has used before with \
             as many --shards",
            refusal.message
        ))),
    }
}

/// One connection for each client, spread over the endpoints.
async fn connect(global: &Global, clients: u32) -> Result<Vec<Channel>, CtlError> {
    let endpoints = endpoints(global)?;
    let mut channels = Vec::with_capacity(clients as usize);
    for client in 0..clients as usize {
        let endpoint = &endpoints[client % endpoints.len()];
        let channel = endpoint
            .connect()
            .await
            .map_err(|e| CtlError::Unavailable(format!("{}: {e}", endpoint.uri())))?;
        channels.push(channel);
    }
    Ok(channels)
}

fn rounds_of(channel: &Channel) -> RoundsClient<Whole<Channel>> {
    RoundsClient::new(Whole(channel.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// Opens the next round on the head and gives its number.
async fn open_round(client: &Client) -> Result<u64, CtlError> {
    let request = v1::OpenRoundRequest {
        kind: v1::RoundKind::Build.into(),
        opener: OPENER.to_owned(),
        ..Default::default()
    };
    let answer = client
        .afresh()
        .call(|a: Attempt| {
            let request = a.request(request.clone());
            async move { a.rounds().open(request).await }
        })
        .await?;
    match (answer.round, answer.refusal) {
        (Some(round), None) => Ok(round.round),
        (_, refusal) => Err(CtlError::Failed(format!(
            "no round was opened: {}",
            refusal.map_or_else(String::new, |r| r.message)
        ))),
    }
}

/// Seals a round, filling what is undecided.
async fn seal_round(client: &Client, round: u64) -> Result<(), CtlError> {
    let request = v1::SealRoundRequest { meta: None, round };
    let answer = client
        .afresh()
        .call(|a: Attempt| {
            let request = a.request(request.clone());
            async move { a.rounds().seal(request).await }
        })
        .await?;
    match answer.refusal {
        None => Ok(()),
        Some(refusal) => Err(CtlError::Failed(format!(
            "round {round} was not sealed: {}",
            refusal.message
        ))),
    }
}
