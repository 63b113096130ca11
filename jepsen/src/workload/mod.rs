//! What loads the cluster, and what watches it.
//!
//! [`scripted`] clients submit, lock, read, seal and prune over gRPC as [`crate::plan`] says; [`transfer`] pays between
//! accounts through the gateway; [`observe`] follows watches, feeds and state hashes; [`settle`] asks everybody about
//! everything once the faults are lifted.

pub mod observe;
pub mod scripted;
pub mod settle;
pub mod transfer;

use crate::checker::Finding;
use crate::checker::early::SCRIPTED_SEAL_AFTER_MS;
use crate::client::Failure;
use crate::history::{Kind, Op, StateHash};
use crate::plan::CONTRACTS;
use crate::recorder::Recorder;
use alloy_primitives::{Address, B256};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use troika_proto::v1;
use troika_proto::v1::cluster_client::ClusterClient;
use troika_proto::{ChainConfig, Genesis, GenesisAccount, LockRule, Spec};

/// How long a client waits for an answer.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// What all tasks of a run share.
pub struct Shared {
    /// The history.
    pub recorder: Recorder,
    /// Decides the schedule.
    pub seed: u64,
    /// Client addresses of the members now, by id.
    members: Mutex<BTreeMap<u32, String>>,
    /// Feeds of the executors: name, address.
    pub feeds: Vec<(String, String)>,
    /// The gateway's address, where there is one.
    pub gateway: Option<String>,
    /// Shards of a round.
    pub shards: u32,
    /// The newest round that anybody heard of.
    pub round: AtomicU64,
    /// Set when the load ends.
    pub stop: AtomicBool,
    /// Set when everything ends: the watchers stop too.
    pub end: AtomicBool,
    /// Calls that were answered, for the progress line.
    pub answered: AtomicU64,
    /// What is in force now, for the progress line.
    pub fault: Mutex<String>,
    /// Findings that are not in the history.
    findings: Mutex<Vec<Finding>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// At the start of a run.
    pub fn new(recorder: Recorder, seed: u64, shards: u32, members: BTreeMap<u32, String>) -> Self {
        Self {
            recorder,
            seed,
            members: Mutex::new(members),
            feeds: Vec::new(),
            gateway: None,
            shards,
            round: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            end: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            fault: Mutex::new(String::new()),
            findings: Mutex::new(Vec::new()),
        }
    }

    /// The members now: id and client address.
    pub fn members(&self) -> Vec<(u32, String)> {
        let members = lock(&self.members);
        members.iter().map(|(id, a)| (*id, a.clone())).collect()
    }

    /// The members have changed.
    pub fn set_members(&self, members: BTreeMap<u32, String>) {
        *lock(&self.members) = members;
    }

    /// True once the load has ended.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// True once everything ends.
    pub fn ended(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }

    /// Somebody heard of a round.
    pub fn heard_of(&self, round: u64) {
        self.round.fetch_max(round, Ordering::Relaxed);
    }

    /// Notes something that must not be and is not in the history.
    pub fn found(&self, finding: Finding) {
        lock(&self.findings).push(finding);
    }

    /// All that was noted.
    pub fn findings(&self) -> Vec<Finding> {
        lock(&self.findings).clone()
    }

    /// Says what is in force now.
    pub fn show_fault(&self, fault: &str) {
        *lock(&self.fault) = fault.to_owned();
    }

    /// Records a completion. False if the outcome is unknown.
    pub fn complete(&self, process: u64, asked: Op, answer: Result<Op, Failure>) -> bool {
        match answer {
            Ok(op) => {
                self.recorder.record(process, Kind::Ok, op, "");
                self.answered.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(Failure::Not(why)) => {
                self.recorder.record(process, Kind::Fail, asked, why);
                true
            }
            Err(Failure::Unknown(why)) => {
                self.recorder.record(process, Kind::Info, asked, why);
                false
            }
        }
    }

    /// Records something that was seen without being asked for.
    pub fn saw(&self, process: u64, op: Op) {
        self.recorder.record(process, Kind::Ok, op, "");
    }
}

/// The chain of a run. Scripted workloads have contracts without meaning; real ones accounts with money.
pub fn genesis(shards: u32, real: bool) -> Genesis {
    let accounts = if real {
        transfer::genesis_accounts()
    } else {
        (0..CONTRACTS).map(contract).collect()
    };
    Genesis {
        config: ChainConfig {
            chain_id: 1337,
            shards,
            shard_gas_limit: 1 << 24,
            lock_rule: LockRule::Commuting,
            elasticity: 2,
            beneficiary: transfer::BENEFICIARY,
            propose_after_ms: if real { 200 } else { 0 },
            seal_after_ms: if real { 2_000 } else { SCRIPTED_SEAL_AFTER_MS },
            seconds_per_slot: 0,
            spec: Spec::Osaka,
            genesis_base_fee: if real { 1_000_000_000 } else { 0 },
            genesis_timestamp: 1_700_000_000,
            registry: Address::ZERO,
            epoch_length: 0,
            share_cap: 0,
            fixed: None,
        },
        accounts,
    }
}

fn contract(n: u64) -> (Address, GenesisAccount) {
    let account = GenesisAccount {
        nonce: 1,
        code: vec![0xfe].into(),
        ..GenesisAccount::default()
    };
    (contract_address(n), account)
}

/// Address of a scripted contract.
pub fn contract_address(n: u64) -> Address {
    Address::left_padding_from(&(0xc0de_0000 + n).to_be_bytes())
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
        from_disk: false,
        meta: crate::client::meta(status.meta),
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
