//! Real Ethereum blocks with the state that they ran on, for `replay` and the benchmarks.
//!
//! A file is one gzipped JSON object: `block` as `eth_getBlockByNumber(n, true)` returns it, `pre_state` (address ->
//! balance, nonce, code hash, storage: every account and slot that the block touches, before the block), `codes`
//! (code hash -> byte code) and `block_hashes` (number -> hash, where BLOCKHASH asks for one). Each block is a chain
//! of its own with `pre_state` as its genesis.

use super::cache::recover_all;
use super::rules::Rules;
use super::transaction::Transaction;
use super::view::MemoryView;
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, U256};
use flate2::read::GzDecoder;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use troika_proto::limits::{MAX_SHARD_GAS, MIN_SHARD_GAS};
use troika_proto::{
    BlockHashes, ChainConfig, Environment, FixedEnvironment, Genesis, GenesisAccount, LockRule,
    Spec,
};

/// Most bytes of JSON in one file.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;
/// Seconds between two blocks of mainnet.
const SECONDS_PER_BLOCK: u64 = 12;

/// Ethereum mainnet's forks: first block number, or first timestamp, newest first.
const FORKS: [(Spec, Start); 7] = [
    (Spec::Osaka, Start::Timestamp(1_764_798_551)),
    (Spec::Prague, Start::Timestamp(1_746_612_311)),
    (Spec::Cancun, Start::Timestamp(1_710_338_135)),
    (Spec::Shanghai, Start::Timestamp(1_681_338_455)),
    (Spec::Paris, Start::Block(15_537_394)),
    (Spec::London, Start::Block(12_965_000)),
    (Spec::Berlin, Start::Block(12_244_000)),
];

#[derive(Clone, Copy)]
enum Start {
    Block(u64),
    Timestamp(u64),
}

/// The spec of a mainnet block; `None` before Berlin.
pub fn spec_of(number: u64, timestamp: u64) -> Option<Spec> {
    let begun = |start: &Start| match *start {
        Start::Block(first) => number >= first,
        Start::Timestamp(first) => timestamp >= first,
    };
    let fork = FORKS.iter().find(|(_, start)| begun(start));
    fork.map(|(spec, _)| *spec)
}

/// A block of Ethereum mainnet.
#[derive(Clone, Debug)]
pub struct MainnetBlock {
    /// Its hash on mainnet.
    pub hash: B256,
    /// What its header says.
    pub gas_used: u64,
    /// What its transactions see.
    pub environment: Environment,
    /// The EVM's rules at that time.
    pub spec: Spec,
    /// In order.
    pub transactions: Vec<Arc<Transaction>>,
    /// The state before it. Accounts that do not exist are left out.
    pub accounts: BTreeMap<Address, GenesisAccount>,
    /// What BLOCKHASH answers.
    pub block_hashes: BlockHashes,
}

/// Why a file cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum MainnetError {
    /// Not there, or not gzip.
    #[error("block file: {0}")]
    Io(#[from] std::io::Error),
    /// Not the form that the module page describes.
    #[error("block file: {0}")]
    Json(#[from] serde_json::Error),
    /// A transaction that is not what the file says.
    #[error("block file: block.transactions[{index}]: {reason}")]
    Transaction {
        /// Its place in the block.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// An account whose code is not in the file.
    #[error("block file: pre_state[{address}].code_hash: {hash} is not in `codes`")]
    Code {
        /// The account.
        address: Address,
        /// The missing code's hash.
        hash: B256,
    },
    /// Too old for any spec that there is.
    #[error("block file: block {0} is older than Berlin (block 12244000)")]
    TooOld(u64),
}

#[derive(Deserialize)]
struct File {
    block: Block,
    pre_state: BTreeMap<Address, PreAccount>,
    #[serde(default)]
    codes: BTreeMap<B256, Bytes>,
    #[serde(default)]
    block_hashes: BlockHashes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Block {
    hash: B256,
    miner: Address,
    number: U256,
    gas_limit: U256,
    gas_used: U256,
    timestamp: U256,
    #[serde(default)]
    difficulty: U256,
    mix_hash: B256,
    #[serde(default)]
    base_fee_per_gas: U256,
    transactions: Vec<alloy_rpc_types_eth::Transaction>,
}

#[derive(Deserialize)]
struct PreAccount {
    #[serde(default)]
    balance: U256,
    #[serde(default)]
    nonce: U256,
    code_hash: Option<B256>,
    #[serde(default)]
    storage: BTreeMap<U256, U256>,
}

impl MainnetBlock {
    /// Reads a file.
    ///
    /// # Errors
    /// [`MainnetError`].
    pub fn read(path: &Path) -> Result<Self, MainnetError> {
        Self::parse(std::fs::File::open(path)?)
    }

    /// Reads the gzipped JSON.
    ///
    /// # Errors
    /// [`MainnetError`].
    pub fn parse(gzip: impl Read) -> Result<Self, MainnetError> {
        let mut json = Vec::new();
        GzDecoder::new(gzip)
            .take(MAX_FILE_BYTES)
            .read_to_end(&mut json)?;
        let file: File = serde_json::from_slice(&json)?;
        let block = file.block;
        let number = block.number.saturating_to();
        let timestamp = block.timestamp.saturating_to();
        let spec = spec_of(number, timestamp).ok_or(MainnetError::TooOld(number))?;
        let prev_randao = if spec == Spec::Berlin || spec == Spec::London {
            B256::from(block.difficulty)
        } else {
            block.mix_hash
        };
        Ok(Self {
            hash: block.hash,
            gas_used: block.gas_used.saturating_to(),
            environment: Environment {
                number,
                timestamp,
                base_fee: block.base_fee_per_gas.saturating_to(),
                prev_randao,
                gas_limit: block.gas_limit.saturating_to(),
                beneficiary: block.miner,
            },
            spec,
            transactions: transactions(&block.transactions)?,
            accounts: accounts(file.pre_state, &file.codes)?,
            block_hashes: file.block_hashes,
        })
    }

    /// The chain that replays this block: every round runs in the block's environment, and one shard may take the
    /// whole block's gas.
    pub fn genesis(&self, shards: u32, lock_rule: LockRule) -> Genesis {
        Genesis {
            config: ChainConfig {
                chain_id: 1,
                shards,
                shard_gas_limit: self.shard_gas_limit(),
                lock_rule,
                elasticity: 2,
                beneficiary: self.environment.beneficiary,
                propose_after_ms: 0,
                seal_after_ms: 60_000,
                seconds_per_slot: 0,
                spec: self.spec,
                genesis_base_fee: self.environment.base_fee,
                genesis_timestamp: self.environment.timestamp.saturating_sub(SECONDS_PER_BLOCK),
                registry: Address::ZERO,
                epoch_length: 0,
                share_cap: 0,
                fixed: Some(FixedEnvironment {
                    environment: self.environment.clone(),
                    block_hashes: self.block_hashes.clone(),
                }),
            },
            accounts: self.accounts.clone(),
        }
    }

    /// The rules of that chain.
    pub fn rules(&self, lock_rule: LockRule) -> Rules {
        Rules {
            chain_id: 1,
            spec: self.spec,
            lock_rule,
            shard_gas_limit: self.shard_gas_limit(),
            allow_blobs: true,
        }
    }

    /// The state before the block.
    pub fn view(&self) -> MemoryView {
        MemoryView::of(&self.genesis(1, LockRule::Commuting))
    }

    /// The block's own gas limit, as far as a chain may have it.
    fn shard_gas_limit(&self) -> u64 {
        let limit = self.environment.gas_limit;
        limit.clamp(MIN_SHARD_GAS, MAX_SHARD_GAS)
    }
}

fn transactions(
    all: &[alloy_rpc_types_eth::Transaction],
) -> Result<Vec<Arc<Transaction>>, MainnetError> {
    let encode = |t: &alloy_rpc_types_eth::Transaction| Bytes::from(t.inner.encoded_2718());
    let raw: Vec<Bytes> = all.iter().map(encode).collect();
    let check = |(index, recovered)| {
        let recovered: Result<Transaction, super::TxError> = recovered;
        let wrong = |reason: String| MainnetError::Transaction { index, reason };
        let transaction = recovered.map_err(|e| wrong(e.to_string()))?;
        let (hash, from) = (*all[index].inner.tx_hash(), all[index].inner.signer());
        if transaction.hash != hash {
            return Err(wrong(format!("hashes to {}, not {hash}", transaction.hash)));
        }
        if transaction.sender != from {
            return Err(wrong(format!(
                "signed by {}, not {from}",
                transaction.sender
            )));
        }
        Ok(Arc::new(transaction))
    };
    recover_all(&raw)
        .into_iter()
        .enumerate()
        .map(check)
        .collect()
}

/// Leaves out accounts that do not exist, zero slots, and the storage of addresses where nothing was ever sent from
/// or created: no code can read that, and a contract created there starts without it.
fn accounts(
    pre_state: BTreeMap<Address, PreAccount>,
    codes: &BTreeMap<B256, Bytes>,
) -> Result<BTreeMap<Address, GenesisAccount>, MainnetError> {
    let mut accounts = BTreeMap::new();
    for (address, pre) in pre_state {
        let code = match pre.code_hash {
            Some(hash) if hash != alloy_primitives::KECCAK256_EMPTY => codes
                .get(&hash)
                .cloned()
                .ok_or(MainnetError::Code { address, hash })?,
            _ => Bytes::new(),
        };
        let nonce = pre.nonce.saturating_to();
        let mut storage = pre.storage;
        if nonce == 0 && code.is_empty() {
            if pre.balance.is_zero() {
                continue;
            }
            storage.clear();
        }
        storage.retain(|_, value| !value.is_zero());
        accounts.insert(
            address,
            GenesisAccount {
                balance: pre.balance,
                nonce,
                code,
                storage,
            },
        );
    }
    Ok(accounts)
}
