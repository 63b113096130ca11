//! Chains, proposals and drivers for tests of the machine.

use super::command::{AcceptShard, Command, OpenRound, OpenTarget};
use super::decision::{Decision, Holder, RoundId, Winner};
use super::generation::Change;
use super::load::LoadError;
use super::machine::Machine;
use super::records::RecordKey;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use troika_proto::v1::RefusalCode;
use troika_proto::{
    AccountDiff, Address, B256, ChainConfig, Delta, Diff, Genesis, GenesisAccount, Header, LockKey,
    LockRule, Receipt, Shard, ShardBody, Spec, U256,
};

pub(crate) const SEAL_AFTER_MS: u64 = 500;
/// Each test account's balance at genesis, wei.
pub(crate) const RICH: u64 = 1_000_000_000_000_000;

/// The test account with a number. 0 to 31 are rich; 100 is a contract with storage.
pub(crate) fn address(number: u8) -> Address {
    Address::repeat_byte(number + 1)
}

pub(crate) fn genesis(shards: u32) -> Genesis {
    let rich = (0..32).map(|n| {
        let account = GenesisAccount {
            balance: U256::from(RICH),
            ..GenesisAccount::default()
        };
        (address(n), account)
    });
    let contract = GenesisAccount {
        nonce: 1,
        code: vec![0x60, 0x00].into(),
        storage: BTreeMap::from([(U256::from(1), U256::from(7))]),
        ..GenesisAccount::default()
    };
    Genesis {
        config: ChainConfig {
            chain_id: 1337,
            shards,
            shard_gas_limit: 1 << 24,
            lock_rule: LockRule::Commuting,
            elasticity: 2,
            beneficiary: Address::repeat_byte(0xfe),
            propose_after_ms: 100,
            seal_after_ms: SEAL_AFTER_MS,
            seconds_per_slot: 0,
            spec: Spec::Osaka,
            genesis_base_fee: 7,
            genesis_timestamp: 1_700_000_000,
            registry: Address::ZERO,
            epoch_length: 0,
            share_cap: 0,
            fixed: None,
        },
        accounts: rich.chain([(address(100), contract)]).collect(),
    }
}

/// A shard whose only transaction uses 21,000 gas, pays `fees`, and has this diff.
pub(crate) fn shard(index: u32, diff: Diff, fees: u64, salt: u64) -> Arc<Shard> {
    let body = ShardBody {
        transactions: vec![salt.to_be_bytes().to_vec().into()],
        receipts: vec![Receipt {
            tx_type: 2,
            success: true,
            cumulative_gas: 21_000,
            logs: Vec::new(),
        }],
        diff,
    };
    let rule = LockRule::Commuting;
    Arc::new(Shard::new(index, body, U256::from(fees), rule))
}

/// Wei that a shard of [`shard`] must burn and pay at least: its gas at any base fee of these tests.
pub(crate) const COST: u64 = 21_000 * 1_000;

/// `from` pays `amount` to `to` in its transaction number `nonce`.
pub(crate) fn payment(from: u8, to: u8, amount: u64, nonce: u64) -> Diff {
    let paid = AccountDiff {
        balance: Delta::fall(U256::from(amount + COST)),
        nonce: Some(nonce),
        ..AccountDiff::default()
    };
    let credit = AccountDiff {
        balance: Delta::rise(U256::from(amount)),
        ..AccountDiff::default()
    };
    Diff {
        accounts: BTreeMap::from([(address(from), paid), (address(to), credit)]),
    }
}

pub(crate) fn proposal(round: RoundId, executor: &str, shard: Arc<Shard>) -> AcceptShard {
    AcceptShard::new(round, executor.into(), shard)
}

/// A proposal in which `from` pays 1,000 wei to `to`.
pub(crate) fn transfer(
    round: RoundId,
    index: u32,
    executor: &str,
    from: u8,
    to: u8,
    nonce: u64,
) -> AcceptShard {
    let diff = payment(from, to, 1_000, nonce);
    proposal(round, executor, shard(index, diff, 5, u64::from(from)))
}

/// The contract's storage slot gets a value.
pub(crate) fn store(slot: u64, value: u64) -> Diff {
    let diff = AccountDiff {
        slots: BTreeMap::from([(U256::from(slot), U256::from(value))]),
        ..AccountDiff::default()
    };
    Diff {
        accounts: BTreeMap::from([(address(100), diff)]),
    }
}

pub(crate) fn any_lock_key() -> impl Strategy<Value = LockKey> {
    (any::<[u8; 20]>(), any::<Option<[u8; 32]>>()).prop_map(|(address, slot)| LockKey {
        address: Address::from(address),
        slot: slot.map(U256::from_be_bytes),
    })
}

pub(crate) fn build(opener: &str, parent: Option<B256>) -> Command {
    Command::OpenRound(Arc::new(OpenRound {
        opener: opener.into(),
        clock_ms: 1_700_000_001_000,
        target: OpenTarget::Build {
            parent,
            reservations: Vec::new(),
        },
    }))
}

pub(crate) fn verify(header: &Header, hashes: &[B256]) -> Command {
    Command::OpenRound(Arc::new(OpenRound {
        opener: "checker".into(),
        clock_ms: 1_700_000_001_000,
        target: OpenTarget::Verify {
            header: Arc::new(header.clone()),
            shard_hashes: hashes.into(),
        },
    }))
}

pub(crate) fn seal(round: RoundId) -> Command {
    Command::SealRound {
        round,
        waited_ms: SEAL_AFTER_MS,
    }
}

/// A machine with a chain of that many shards, and asking it.
pub(crate) fn started(shards: u32) -> Machine {
    started_with(genesis(shards))
}

pub(crate) fn started_with(genesis: Genesis) -> Machine {
    let mut machine = Machine::new();
    machine.ask(&Command::InitChain(Arc::new(genesis)));
    machine
}

impl Machine {
    /// Applies one command of a test.
    pub(crate) fn ask(&mut self, command: &Command) -> Decision {
        self.apply(command).unwrap().decision
    }

    pub(crate) fn submit(&mut self, accept: AcceptShard) -> Decision {
        self.ask(&Command::AcceptShard(accept))
    }

    /// Opens a BUILD round on the head.
    pub(crate) fn open(&mut self) -> RoundId {
        match self.ask(&build("opener", None)) {
            Decision::Opened { round, .. } => round,
            other => panic!("not opened: {other:?}"),
        }
    }

    pub(crate) fn head_header(&self) -> Header {
        (*self.chain.as_ref().unwrap().head.header).clone()
    }

    pub(crate) fn head_hash(&self) -> B256 {
        self.chain.as_ref().unwrap().head.hash
    }

    pub(crate) fn balance(&self, number: u8) -> U256 {
        let state = self.state_at(&self.head_hash()).unwrap();
        let account = state.account(&address(number));
        account.map(|a| a.balance).unwrap_or_default()
    }

    pub(crate) fn total_balance(&self) -> U256 {
        let state = self.state_at(&self.head_hash()).unwrap();
        let known = (0..=255).map(Address::repeat_byte);
        known
            .filter_map(|a| state.account(&a))
            .map(|a| a.balance)
            .sum()
    }
}

#[track_caller]
pub(crate) fn refused(decision: Decision) -> RefusalCode {
    match decision {
        Decision::Refused(refusal) => {
            assert!(!refusal.message.is_empty());
            refusal.code
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[track_caller]
pub(crate) fn won(decision: Decision) -> Winner {
    match decision {
        Decision::Winner(winner) => winner,
        other => panic!("no winner: {other:?}"),
    }
}

#[track_caller]
pub(crate) fn conflict(decision: Decision) -> Vec<Holder> {
    match decision {
        Decision::Conflict(held) => held,
        other => panic!("no conflict: {other:?}"),
    }
}

/// The records of a member's checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Disk(pub(crate) BTreeMap<Vec<u8>, Bytes>);

impl Disk {
    /// Writes a checkpoint of the machine.
    pub(crate) fn checkpoint(&mut self, machine: &mut Machine) {
        for change in machine.take_generation().changes() {
            match change {
                Change::Put(key, value) | Change::Append(key, value) => {
                    self.0.insert(key, value);
                }
                Change::Delete(key) => {
                    self.0.remove(&key);
                }
                Change::DeleteRange(from, to) => {
                    self.0.retain(|key, _| !(from <= *key && *key < to));
                }
            }
        }
    }

    pub(crate) fn load(&self) -> Result<Machine, LoadError<Infallible>> {
        let hot = self.0.range(..RecordKey::cold_from());
        let hot = hot.map(|(key, value)| Ok((Bytes::from(key.clone()), value.clone())));
        Machine::load(hot, |key| Ok(self.0.get(&key.to_bytes()).cloned()))
    }
}
