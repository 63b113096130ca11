//! Chain config, genesis, environment, names.

use super::diff::{slots, slots_to_wire};
use super::{
    Arena, Malformed, address, address_bytes, ascending, at_most, hash, hash_bytes, number,
    number_bytes, required,
};
use crate::chain::{
    BlockHashes, ChainConfig, Environment, FixedEnvironment, Genesis, GenesisAccount, Spec,
};
use crate::limits::{
    MAX_BLOCK_HASHES, MAX_CODE_BYTES, MAX_GENESIS_ACCOUNTS, MAX_NAME_CHARS, MAX_SEAL_AFTER_MS,
    MAX_SHARD_GAS, MAX_SHARDS, MIN_SHARD_GAS,
};
use crate::lock::LockRule;
use crate::v1;
use alloy_primitives::U256;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Most elasticity that a chain may have.
const MAX_ELASTICITY: u64 = 1_000_000;

/// A name of an executor, opener or gateway: 1 to 64 characters of `[A-Za-z0-9._:-]`.
///
/// # Errors
/// [`Malformed`] naming `field`.
pub fn check_name(field: &str, name: &str) -> Result<(), Malformed> {
    let fits = (1..=MAX_NAME_CHARS).contains(&name.len());
    let plain = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    if fits && name.chars().all(plain) {
        return Ok(());
    }
    Err(Malformed::new(
        field,
        format!("is not 1 to {MAX_NAME_CHARS} characters of [A-Za-z0-9._:-]"),
    ))
}

fn in_range(field: &str, value: u64, range: RangeInclusive<u64>) -> Result<u64, Malformed> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(Malformed::new(
        field,
        format!("is {value}, expected {} to {}", range.start(), range.end()),
    ))
}

impl TryFrom<i32> for LockRule {
    type Error = Malformed;

    fn try_from(wire: i32) -> Result<Self, Malformed> {
        match v1::LockRule::try_from(wire) {
            Ok(v1::LockRule::Commuting) => Ok(Self::Commuting),
            Ok(v1::LockRule::Strict) => Ok(Self::Strict),
            _ => Err(Malformed::new("lock_rule", "is not a known rule")),
        }
    }
}

impl From<LockRule> for v1::LockRule {
    fn from(rule: LockRule) -> Self {
        match rule {
            LockRule::Commuting => Self::Commuting,
            LockRule::Strict => Self::Strict,
        }
    }
}

impl TryFrom<&v1::ChainConfig> for ChainConfig {
    type Error = Malformed;

    fn try_from(wire: &v1::ChainConfig) -> Result<Self, Malformed> {
        in_range("version", wire.version.into(), 1..=Self::VERSION.into())?;
        let spec = Spec::from_name(&wire.spec).ok_or_else(|| {
            Malformed::new("spec", format!("{:?} is not a known fork", wire.spec))
        })?;
        if spec != Spec::Osaka && wire.fixed.is_none() {
            return Err(Malformed::new(
                "spec",
                "must be \"osaka\" unless the environment is fixed",
            ));
        }
        let fixed = wire.fixed.as_ref().map(FixedEnvironment::try_from);
        let later = [
            ("registry", wire.registry.iter().any(|byte| *byte != 0)),
            ("epoch_length", wire.epoch_length != 0),
            ("share_cap", wire.share_cap != 0),
        ];
        if let Some((field, _)) = later.iter().find(|(_, is_set)| *is_set) {
            return Err(Malformed::new(*field, "is kept for later and must be zero"));
        }
        Ok(Self {
            chain_id: in_range("chain_id", wire.chain_id, 1..=u64::MAX / 2 - 36)?,
            shards: in_range("shards", wire.shards.into(), 1..=MAX_SHARDS.into())? as u32,
            shard_gas_limit: in_range(
                "shard_gas_limit",
                wire.shard_gas_limit,
                MIN_SHARD_GAS..=MAX_SHARD_GAS,
            )?,
            lock_rule: LockRule::try_from(wire.lock_rule)?,
            elasticity: in_range("elasticity", wire.elasticity, 1..=MAX_ELASTICITY)?,
            beneficiary: address("beneficiary", &wire.beneficiary)?,
            propose_after_ms: in_range(
                "propose_after_ms",
                wire.propose_after_ms,
                0..=MAX_SEAL_AFTER_MS,
            )?,
            seal_after_ms: in_range(
                "seal_after_ms",
                wire.seal_after_ms,
                wire.propose_after_ms..=MAX_SEAL_AFTER_MS,
            )?,
            seconds_per_slot: in_range("seconds_per_slot", wire.seconds_per_slot, 0..=86_400)?,
            spec,
            genesis_base_fee: wire.genesis_base_fee,
            genesis_timestamp: wire.genesis_timestamp,
            registry: address("registry", &wire.registry)?,
            epoch_length: wire.epoch_length,
            share_cap: wire.share_cap,
            fixed: fixed.transpose().map_err(|e| e.within("fixed"))?,
        })
    }
}

impl From<&ChainConfig> for v1::ChainConfig {
    fn from(config: &ChainConfig) -> Self {
        Self {
            version: ChainConfig::VERSION,
            chain_id: config.chain_id,
            shards: config.shards,
            shard_gas_limit: config.shard_gas_limit,
            lock_rule: v1::LockRule::from(config.lock_rule).into(),
            elasticity: config.elasticity,
            beneficiary: address_bytes(config.beneficiary),
            propose_after_ms: config.propose_after_ms,
            seal_after_ms: config.seal_after_ms,
            seconds_per_slot: config.seconds_per_slot,
            spec: config.spec.name().to_owned(),
            genesis_base_fee: config.genesis_base_fee,
            genesis_timestamp: config.genesis_timestamp,
            registry: address_bytes(config.registry),
            epoch_length: config.epoch_length,
            share_cap: config.share_cap,
            fixed: config.fixed.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<&v1::FixedEnvironment> for FixedEnvironment {
    type Error = Malformed;

    fn try_from(wire: &v1::FixedEnvironment) -> Result<Self, Malformed> {
        at_most("block_hashes", wire.block_hashes.len(), MAX_BLOCK_HASHES)?;
        let mut block_hashes = BlockHashes::new();
        let mut last = None;
        for (i, entry) in wire.block_hashes.iter().enumerate() {
            ascending(&format!("block_hashes[{i}]"), &mut last, entry.number)?;
            block_hashes.insert(entry.number, hash("block_hashes.hash", &entry.hash)?);
        }
        Ok(Self {
            environment: Environment {
                number: wire.number,
                timestamp: wire.timestamp,
                base_fee: wire.base_fee,
                prev_randao: hash("prev_randao", &wire.prev_randao)?,
                gas_limit: wire.gas_limit,
                beneficiary: address("beneficiary", &wire.beneficiary)?,
            },
            block_hashes,
        })
    }
}

impl From<&FixedEnvironment> for v1::FixedEnvironment {
    fn from(fixed: &FixedEnvironment) -> Self {
        let environment = &fixed.environment;
        let hashes = fixed.block_hashes.iter();
        Self {
            number: environment.number,
            timestamp: environment.timestamp,
            base_fee: environment.base_fee,
            prev_randao: hash_bytes(environment.prev_randao),
            gas_limit: environment.gas_limit,
            beneficiary: address_bytes(environment.beneficiary),
            block_hashes: hashes
                .map(|(number, hash)| v1::NumberedHash {
                    number: *number,
                    hash: hash_bytes(*hash),
                })
                .collect(),
        }
    }
}

impl TryFrom<&v1::Environment> for Environment {
    type Error = Malformed;

    fn try_from(wire: &v1::Environment) -> Result<Self, Malformed> {
        Ok(Self {
            number: wire.number,
            timestamp: wire.timestamp,
            base_fee: wire.base_fee,
            prev_randao: hash("prev_randao", &wire.prev_randao)?,
            gas_limit: wire.gas_limit,
            beneficiary: address("beneficiary", &wire.beneficiary)?,
        })
    }
}

impl From<&Environment> for v1::Environment {
    fn from(environment: &Environment) -> Self {
        Self {
            number: environment.number,
            timestamp: environment.timestamp,
            base_fee: environment.base_fee,
            prev_randao: hash_bytes(environment.prev_randao),
            gas_limit: environment.gas_limit,
            beneficiary: address_bytes(environment.beneficiary),
        }
    }
}

impl TryFrom<&v1::GenesisAccount> for GenesisAccount {
    type Error = Malformed;

    fn try_from(wire: &v1::GenesisAccount) -> Result<Self, Malformed> {
        let account = Self {
            balance: number("balance", &wire.balance)?,
            nonce: wire.nonce,
            code: wire.code.clone().into(),
            storage: slots(&wire.storage)?,
        };
        at_most("code", account.code.len(), MAX_CODE_BYTES)?;
        if account.storage.values().any(U256::is_zero) {
            return Err(Malformed::new("storage", "holds a zero value"));
        }
        if account.nonce == 0 && account.balance.is_zero() && account.code.is_empty() {
            return Err(Malformed::new(
                "address",
                "has nonce 0, balance 0 and no code: such an account does not exist",
            ));
        }
        Ok(account)
    }
}

impl TryFrom<&v1::Genesis> for Genesis {
    type Error = Malformed;

    fn try_from(wire: &v1::Genesis) -> Result<Self, Malformed> {
        let config = required("config", wire.config.as_ref())?;
        at_most("accounts", wire.accounts.len(), MAX_GENESIS_ACCOUNTS)?;
        let mut accounts = BTreeMap::new();
        let mut last = None;
        let mut total = U256::ZERO;
        for (i, account) in wire.accounts.iter().enumerate() {
            let field = || format!("accounts[{i}]");
            let address = address("address", &account.address).map_err(|e| e.within(field()))?;
            ascending("address", &mut last, address).map_err(|e| e.within(field()))?;
            let account = GenesisAccount::try_from(account).map_err(|e| e.within(field()))?;
            total = total.checked_add(account.balance).ok_or_else(|| {
                Malformed::new("accounts", "have balances that together exceed 256 bits")
            })?;
            accounts.insert(address, account);
        }
        Ok(Self {
            config: ChainConfig::try_from(config).map_err(|e| e.within("config"))?,
            accounts,
        })
    }
}

impl From<&Genesis> for v1::Genesis {
    fn from(genesis: &Genesis) -> Self {
        let accounts = genesis.accounts.iter();
        Self {
            config: Some((&genesis.config).into()),
            accounts: accounts
                .map(|(address, account)| v1::GenesisAccount {
                    address: address_bytes(*address),
                    balance: number_bytes(account.balance),
                    nonce: account.nonce,
                    code: account.code.clone().into(),
                    storage: slots_to_wire(
                        &account.storage,
                        &mut Arena::new(account.storage.len() * 64),
                    ),
                })
                .collect(),
        }
    }
}
