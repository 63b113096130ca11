//! The chain that `troika-node dev` starts.

use crate::load::accounts::{dev_accounts, load_accounts};
use crate::load::contracts;
use crate::load::generate::TRANSFER_SENDERS;
use alloy_primitives::{Address, U256, address};
use serde_json::{Map, Value, json};
use std::time::Duration;
use troika_proto::{ChainConfig, Genesis, GenesisAccount, LockRule, Spec};

/// Chain id of a development chain: what wallets and tools expect of one.
pub const CHAIN_ID: u64 = 31_337;
/// Receives the fees.
pub const BENEFICIARY: Address = address!("00000000000000000000000000000000000fee00");
/// Wei in one ether.
const ETHER: u64 = 1_000_000_000_000_000_000;
/// Ether that every account starts with.
const ETHER_EACH: u64 = 10_000;
/// Gas of one shard: about 2,850 plain transfers. A full shard is proposed at once, so that this bounds the work of one
/// proposal and not the transactions of a second.
const SHARD_GAS_LIMIT: u64 = 60_000_000;
/// With 1 the gas target is the limit, so the base fee never rises: no load prices the ten accounts out.
const ELASTICITY: u64 = 1;
/// Wei per gas.
const GENESIS_BASE_FEE: u64 = 1_000_000_000;
/// Seconds since 1970. Fixed, so that the same options give the same genesis, which `--data` relies on.
const GENESIS_TIMESTAMP: u64 = 1_704_067_200;
/// A round is sealed with what there is once it has taken this many block times ...
const SEAL_AFTER_BLOCK_TIMES: u32 = 2;
/// ... but not before this much longer than one: where all processes share two cores, executors may need it.
const SEAL_AFTER_LEAST: Duration = Duration::from_secs(4);

/// The config of a development chain.
pub fn config(shards: u32, block_time: Duration) -> ChainConfig {
    let seal_after = (block_time * SEAL_AFTER_BLOCK_TIMES).max(block_time + SEAL_AFTER_LEAST);
    ChainConfig {
        chain_id: CHAIN_ID,
        shards,
        shard_gas_limit: SHARD_GAS_LIMIT,
        lock_rule: LockRule::Commuting,
        elasticity: ELASTICITY,
        beneficiary: BENEFICIARY,
        propose_after_ms: block_time.as_millis() as u64,
        seal_after_ms: seal_after.as_millis() as u64,
        seconds_per_slot: 0,
        spec: Spec::Osaka,
        genesis_base_fee: GENESIS_BASE_FEE,
        genesis_timestamp: GENESIS_TIMESTAMP,
        registry: Address::ZERO,
        epoch_length: 0,
        share_cap: 0,
        fixed: None,
    }
}

/// The config and the allocation: the ten accounts, the load's, and the demo's contracts.
pub fn genesis(shards: u32, block_time: Duration) -> Genesis {
    let mut holders: Vec<Address> = dev_accounts().iter().map(|a| a.address).collect();
    holders.extend(load_accounts(TRANSFER_SENDERS).iter().map(|a| a.address));
    let balance = U256::from(ETHER_EACH) * U256::from(ETHER);
    let funded = holders.iter().map(|holder| {
        let account = GenesisAccount {
            balance,
            ..GenesisAccount::default()
        };
        (*holder, account)
    });
    let accounts = funded.chain(contracts::allocation(&holders)).collect();
    Genesis {
        config: config(shards, block_time),
        accounts,
    }
}

/// A genesis in the readable form that `troikactl init` takes.
pub fn readable(genesis: &Genesis) -> Value {
    let config = &genesis.config;
    let account = |account: &GenesisAccount| {
        let storage = account.storage.iter().map(|(slot, value)| {
            let text = |number: &U256| format!("{number:#x}");
            (text(slot), Value::from(text(value)))
        });
        json!({
            "balance": account.balance.to_string(),
            "nonce": account.nonce,
            "code": account.code,
            "storage": storage.collect::<Map<_, _>>(),
        })
    };
    let accounts = genesis.accounts.iter();
    let accounts = accounts.map(|(address, state)| (address.to_string(), account(state)));
    json!({
        "config": {
            "chain_id": config.chain_id,
            "shards": config.shards,
            "shard_gas_limit": config.shard_gas_limit,
            "lock_rule": config.lock_rule,
            "elasticity": config.elasticity,
            "beneficiary": config.beneficiary,
            "propose_after_ms": config.propose_after_ms,
            "seal_after_ms": config.seal_after_ms,
            "seconds_per_slot": config.seconds_per_slot,
            "genesis_base_fee": config.genesis_base_fee,
            "genesis_timestamp": config.genesis_timestamp,
        },
        "accounts": accounts.collect::<Map<_, _>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use troika_proto::v1;

    #[test]
    fn the_same_options_give_the_same_chain() {
        let genesis_of = |shards, ms| genesis(shards, Duration::from_millis(ms)).commitment();
        assert_eq!(genesis_of(4, 1_000), genesis_of(4, 1_000));
        assert_ne!(genesis_of(4, 1_000), genesis_of(8, 1_000));
        assert_ne!(genesis_of(4, 1_000), genesis_of(4, 500));
    }

    #[test]
    fn genesis_is_what_the_wire_accepts() {
        for ms in [0, 50, 1_000, 12_000] {
            let genesis = genesis(4, Duration::from_millis(ms));
            let wire = v1::Genesis::from(&genesis);
            assert_eq!(Genesis::try_from(&wire), Ok(genesis));
        }
    }

    #[test]
    fn the_base_fee_never_rises_on_full_blocks() {
        let config = config(4, Duration::from_secs(1));
        let mut header = genesis(4, Duration::from_secs(1)).header();
        header.gas_used = header.gas_limit;
        assert!(config.next_base_fee(&header) <= header.base_fee);
    }
}
