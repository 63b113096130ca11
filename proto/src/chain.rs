//! The rules of one chain: config, genesis, and the environment of a round.

use crate::hash::keccak;
use crate::header::Header;
use crate::lock::LockRule;
use crate::trie::EMPTY_ROOT;
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_rlp::{BufMut, Encodable, RlpEncodable};
use std::collections::BTreeMap;

/// The EVM's rules. All but Osaka only where the environment is fixed, for replaying old blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Spec {
    Berlin,
    London,
    Paris,
    Shanghai,
    Cancun,
    Prague,
    #[default]
    Osaka,
}

impl Spec {
    /// All of them, oldest first.
    pub const ALL: [Self; 7] = [
        Self::Berlin,
        Self::London,
        Self::Paris,
        Self::Shanghai,
        Self::Cancun,
        Self::Prague,
        Self::Osaka,
    ];

    /// The name in the chain config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Berlin => "berlin",
            Self::London => "london",
            Self::Paris => "paris",
            Self::Shanghai => "shanghai",
            Self::Cancun => "cancun",
            Self::Prague => "prague",
            Self::Osaka => "osaka",
        }
    }

    /// The spec of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }
}

/// Block hashes that BLOCKHASH answers: number -> hash.
pub type BlockHashes = BTreeMap<u64, B256>;

/// The environment of a replayed block: every round of the chain runs in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedEnvironment {
    /// What transactions see.
    pub environment: Environment,
    /// What BLOCKHASH answers; any other number is zero.
    pub block_hashes: BlockHashes,
}

/// The rules of one chain. Fixed for ever by genesis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainConfig {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Number of shards of every block.
    pub shards: u32,
    /// Gas of one shard.
    pub shard_gas_limit: u64,
    /// Whether credits lock.
    pub lock_rule: LockRule,
    /// Gas target of a block = gas limit / elasticity. With 1 the base fee never rises.
    pub elasticity: u64,
    /// Receives the fees.
    pub beneficiary: Address,
    /// Before this long after hearing of a round only a full shard is proposed, milliseconds.
    pub propose_after_ms: u64,
    /// After this long the round may be sealed with what there is, milliseconds.
    pub seal_after_ms: u64,
    /// 0: no slots.
    pub seconds_per_slot: u64,
    /// The EVM's rules.
    pub spec: Spec,
    /// The genesis header's base fee, wei per gas.
    pub genesis_base_fee: u64,
    /// Seconds since 1970.
    pub genesis_timestamp: u64,
    /// For later; zero until then.
    pub registry: Address,
    /// For later; zero until then.
    pub epoch_length: u64,
    /// For later; zero until then.
    pub share_cap: u32,
    /// Every round runs in this one environment.
    pub fixed: Option<FixedEnvironment>,
}

impl ChainConfig {
    /// The only version there is.
    pub const VERSION: u32 = 1;
    /// The base fee changes by at most one part in this many per block (EIP-1559).
    pub const BASE_FEE_DENOMINATOR: u64 = 8;

    /// The header's gas limit: shards times the shard gas limit.
    pub fn gas_limit(&self) -> u64 {
        u64::from(self.shards).saturating_mul(self.shard_gas_limit)
    }

    /// The base fee of the block after `parent` (EIP-1559, saturating).
    pub fn next_base_fee(&self, parent: &Header) -> u64 {
        let target = (parent.gas_limit / self.elasticity.max(1)).max(1);
        let base = u128::from(parent.base_fee);
        let step = |gap: u64| {
            base * u128::from(gap) / u128::from(target) / u128::from(Self::BASE_FEE_DENOMINATOR)
        };
        let next = if parent.gas_used > target {
            base.saturating_add(step(parent.gas_used - target).max(1))
        } else {
            base.saturating_sub(step(target - parent.gas_used))
        };
        u64::try_from(next).unwrap_or(u64::MAX)
    }

    /// The environment of a round on `parent`, opened at `clock_ms` (milliseconds since 1970): rule 9.
    pub fn environment(&self, parent: &Header, parent_hash: B256, clock_ms: u64) -> Environment {
        let number = parent.number + 1;
        let gas_limit = self.gas_limit();
        if let Some(fixed) = &self.fixed {
            return Environment {
                number,
                gas_limit,
                ..fixed.environment.clone()
            };
        }
        let since_genesis = |seconds: u64| seconds.saturating_sub(self.genesis_timestamp);
        let slot_of = |seconds: u64| since_genesis(seconds).checked_div(self.seconds_per_slot);
        let timestamp = match (slot_of(clock_ms / 1000), slot_of(parent.timestamp)) {
            // Slots: the slot in which the clock stands, but always above the parent's.
            (Some(now), Some(parents)) => {
                let slot = now.max(parents.saturating_add(1));
                let seconds = slot.saturating_mul(self.seconds_per_slot);
                self.genesis_timestamp.saturating_add(seconds)
            }
            _ => parent.timestamp.max(clock_ms / 1000),
        };
        Environment {
            number,
            timestamp,
            base_fee: self.next_base_fee(parent),
            prev_randao: prev_randao(parent_hash, number),
            gas_limit,
            beneficiary: self.beneficiary,
        }
    }

    /// What transactions see in a round whose header has `environment`: the same, but in a replay the replayed block's.
    pub fn execution_environment(&self, environment: &Environment) -> Environment {
        match &self.fixed {
            Some(fixed) => fixed.environment.clone(),
            None => environment.clone(),
        }
    }
}

/// keccak(parent hash, number as 8 big-endian bytes). A producer can grind it; documented as such.
pub fn prev_randao(parent_hash: B256, number: u64) -> B256 {
    let mut bytes = [0; 40];
    bytes[..32].copy_from_slice(parent_hash.as_slice());
    bytes[32..].copy_from_slice(&number.to_be_bytes());
    keccak(bytes)
}

/// What the transactions of a round see, fixed when the opening is logged.
#[derive(Clone, Debug, Default, PartialEq, Eq, RlpEncodable)]
pub struct Environment {
    /// Block number.
    pub number: u64,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// Wei per gas.
    pub base_fee: u64,
    /// PREVRANDAO.
    pub prev_randao: B256,
    /// GASLIMIT: the header's.
    pub gas_limit: u64,
    /// COINBASE.
    pub beneficiary: Address,
}

/// An account that exists from the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenesisAccount {
    /// Wei.
    pub balance: U256,
    /// Transactions sent before.
    pub nonce: u64,
    /// Empty for none.
    pub code: Bytes,
    /// No zero values.
    pub storage: BTreeMap<U256, U256>,
}

/// A chain's beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// The rules.
    pub config: ChainConfig,
    /// The accounts. Each exists (nonce, balance or code), and all balances together fit 256 bits.
    pub accounts: BTreeMap<Address, GenesisAccount>,
}

impl Genesis {
    /// Keccak-256 of the RLP of `[config, accounts]`: what the genesis header's `extraData` carries.
    pub fn commitment(&self) -> B256 {
        let mut out = Vec::new();
        encode_list(&mut out, |out| {
            encode_config(&self.config, out);
            encode_list(out, |out| {
                for (address, account) in &self.accounts {
                    encode_account(address, account, out);
                }
            });
        });
        keccak(out)
    }

    /// The header of block 0.
    pub fn header(&self) -> Header {
        let config = &self.config;
        Header {
            beneficiary: config.beneficiary,
            transactions_root: EMPTY_ROOT,
            receipts_root: EMPTY_ROOT,
            gas_limit: config.gas_limit(),
            timestamp: config.genesis_timestamp,
            shards_root: self.commitment(),
            base_fee: config.genesis_base_fee,
            ..Header::default()
        }
    }
}

fn encode_list(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut payload = Vec::new();
    fill(&mut payload);
    alloy_rlp::Header {
        list: true,
        payload_length: payload.len(),
    }
    .encode(out);
    out.put_slice(&payload);
}

fn encode_config(config: &ChainConfig, out: &mut Vec<u8>) {
    encode_list(out, |out| {
        ChainConfig::VERSION.encode(out);
        config.chain_id.encode(out);
        config.shards.encode(out);
        config.shard_gas_limit.encode(out);
        u8::from(config.lock_rule == LockRule::Strict).encode(out);
        config.elasticity.encode(out);
        config.beneficiary.encode(out);
        config.propose_after_ms.encode(out);
        config.seal_after_ms.encode(out);
        config.seconds_per_slot.encode(out);
        config.spec.name().encode(out);
        config.genesis_base_fee.encode(out);
        config.genesis_timestamp.encode(out);
        config.registry.encode(out);
        config.epoch_length.encode(out);
        config.share_cap.encode(out);
        encode_list(out, |out| {
            if let Some(fixed) = &config.fixed {
                fixed.environment.encode(out);
                encode_list(out, |out| {
                    for (number, hash) in &fixed.block_hashes {
                        encode_list(out, |out| {
                            number.encode(out);
                            hash.encode(out);
                        });
                    }
                });
            }
        });
    });
}

fn encode_account(address: &Address, account: &GenesisAccount, out: &mut Vec<u8>) {
    encode_list(out, |out| {
        address.encode(out);
        account.balance.encode(out);
        account.nonce.encode(out);
        keccak(&account.code).encode(out);
        encode_list(out, |out| {
            for (key, value) in &account.storage {
                encode_list(out, |out| {
                    key.encode(out);
                    value.encode(out);
                });
            }
        });
    });
}
