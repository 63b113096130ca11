//! The readable genesis: JSON that people write, into a checked [`Genesis`].
//!
//! ```json
//! {
//!   "config": {
//!     "chain_id": 1337, "shards": 4, "shard_gas_limit": 30000000, "lock_rule": "commuting",
//!     "elasticity": 2, "beneficiary": "0x00…c0", "propose_after_ms": 200, "seal_after_ms": 1000,
//!     "genesis_base_fee": 1000000000, "genesis_timestamp": 1700000000
//!   },
//!   "accounts": {
//!     "0x00…aa": { "balance": "1000000000000000000" },
//!     "0x00…cc": { "nonce": 1, "code": "0x6001", "storage": { "0x0": "0x2a" } }
//!   }
//! }
//! ```
//!
//! Amounts, slots and values are JSON numbers, or strings in decimal or `0x` hex. Only `chain_id` and `shards` must be
//! given in the config.

use super::exit::CtlError;
use super::parse;
use alloy_primitives::{Address, Bytes, U256};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::Path;
use troika_proto::limits::MAX_GENESIS_BYTES;
use troika_proto::{ChainConfig, Genesis, GenesisAccount, LockRule, v1};

/// What one hex digit pair, quotes and names of the JSON form cost at most, beside one byte of the wire form.
const JSON_BYTES_PER_WIRE_BYTE: u64 = 8;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GenesisFile {
    config: ConfigFile,
    #[serde(default)]
    accounts: BTreeMap<Address, AccountFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    chain_id: u64,
    shards: u32,
    #[serde(default = "thirty_million")]
    shard_gas_limit: u64,
    #[serde(default)]
    lock_rule: LockRule,
    #[serde(default = "two")]
    elasticity: u64,
    #[serde(default)]
    beneficiary: Address,
    #[serde(default = "propose_after")]
    propose_after_ms: u64,
    #[serde(default = "seal_after")]
    seal_after_ms: u64,
    #[serde(default)]
    seconds_per_slot: u64,
    #[serde(default = "gwei")]
    genesis_base_fee: u64,
    #[serde(default)]
    genesis_timestamp: u64,
}

fn thirty_million() -> u64 {
    30_000_000
}

fn two() -> u64 {
    2
}

fn propose_after() -> u64 {
    200
}

fn seal_after() -> u64 {
    1_000
}

fn gwei() -> u64 {
    1_000_000_000
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AccountFile {
    balance: Number,
    nonce: u64,
    code: Bytes,
    storage: BTreeMap<Number, Number>,
}

/// A JSON number, or a string in decimal or `0x` hex.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number(pub(super) U256);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Number;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number, or a string in decimal or 0x-hex")
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Number, E> {
                Ok(Number(U256::from(value)))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Number, E> {
                parse::number(text).map(Number).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Reads a file of JSON, at most `limit` bytes of it.
pub(super) fn read_json<T: for<'de> Deserialize<'de>>(
    path: &Path,
    limit: u64,
) -> Result<T, CtlError> {
    let shown = path.display();
    let text = std::fs::metadata(path)
        .and_then(|meta| {
            if meta.len() > limit {
                let message = format!("is {} bytes, the limit is {limit}", meta.len());
                return Err(std::io::Error::other(message));
            }
            std::fs::read(path)
        })
        .map_err(|e| CtlError::Usage(format!("cannot read {shown}: {e}")))?;
    serde_json::from_slice(&text)
        .map_err(|e| CtlError::Usage(format!("{shown} is not the JSON that is expected: {e}")))
}

/// Reads a genesis file and checks everything in it.
///
/// # Errors
/// [`CtlError::Usage`] naming the field.
pub fn read_genesis(path: &Path) -> Result<Genesis, CtlError> {
    let limit = MAX_GENESIS_BYTES as u64 * JSON_BYTES_PER_WIRE_BYTE;
    checked(read_json(path, limit)?)
        .map_err(|e| CtlError::Usage(format!("{}: {e}", path.display())))
}

fn checked(file: GenesisFile) -> Result<Genesis, troika_proto::Malformed> {
    let config = file.config;
    let genesis = Genesis {
        config: ChainConfig {
            chain_id: config.chain_id,
            shards: config.shards,
            shard_gas_limit: config.shard_gas_limit,
            lock_rule: config.lock_rule,
            elasticity: config.elasticity,
            beneficiary: config.beneficiary,
            propose_after_ms: config.propose_after_ms,
            seal_after_ms: config.seal_after_ms,
            seconds_per_slot: config.seconds_per_slot,
            spec: troika_proto::Spec::Osaka,
            genesis_base_fee: config.genesis_base_fee,
            genesis_timestamp: config.genesis_timestamp,
            registry: Address::ZERO,
            epoch_length: 0,
            share_cap: 0,
            fixed: None,
        },
        accounts: file.accounts.into_iter().map(account).collect(),
    };
    // The wire's own checks are the rules: no second copy of them here.
    Genesis::try_from(&v1::Genesis::from(&genesis))
}

fn account((address, file): (Address, AccountFile)) -> (Address, GenesisAccount) {
    let slots = file.storage.into_iter();
    let account = GenesisAccount {
        balance: file.balance.0,
        nonce: file.nonce,
        code: file.code,
        storage: slots.map(|(key, value)| (key.0, value.0)).collect(),
    };
    (address, account)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Genesis, String> {
        let file = serde_json::from_str(text).map_err(|e| e.to_string())?;
        checked(file).map_err(|e| e.to_string())
    }

    #[test]
    fn numbers_may_be_written_in_three_ways() {
        let genesis = read(
            r#"{"config": {"chain_id": 7, "shards": 2},
                "accounts": {
                  "0x00000000000000000000000000000000000000aa": {"balance": "0xff", "storage": {"0x1": 2}},
                  "0x00000000000000000000000000000000000000ab": {"balance": 255},
                  "0x00000000000000000000000000000000000000ac": {"balance": "255"}}}"#,
        )
        .unwrap();
        assert_eq!(genesis.config.shards, 2);
        for account in genesis.accounts.values() {
            assert_eq!(account.balance, U256::from(255));
        }
        let first = genesis.accounts.values().next().unwrap();
        assert_eq!(first.storage[&U256::from(1)], U256::from(2));
    }

    #[test]
    fn a_bad_genesis_is_refused_with_the_name_of_the_field() {
        let cases = [
            (r#"{"config": {"chain_id": 7}}"#, "shards"),
            (
                r#"{"config": {"chain_id": 7, "shards": 0}}"#,
                "config.shards",
            ),
            (
                r#"{"config": {"chain_id": 7, "shards": 1, "shard": 1}}"#,
                "shard",
            ),
            (
                r#"{"config": {"chain_id": 7, "shards": 1}, "accounts": {"0x00000000000000000000000000000000000000aa": {}}}"#,
                "accounts[0].address",
            ),
            (
                r#"{"config": {"chain_id": 7, "shards": 1}, "accounts": {"0x00000000000000000000000000000000000000aa": {"balance": "x"}}}"#,
                "0x-hex",
            ),
        ];
        for (text, named) in cases {
            let error = read(text).unwrap_err();
            assert!(error.contains(named), "{error} names {named}");
        }
    }
}
