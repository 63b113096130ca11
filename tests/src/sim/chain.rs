//! The chain that is simulated: its genesis, and what its clients propose.

use std::collections::BTreeMap;
use std::sync::Arc;

use troika_proto::{
    AccountDiff, Address, ChainConfig, Delta, Diff, Genesis, GenesisAccount, LockKey, LockRule,
    Receipt, Shard, ShardBody, Spec, U256,
};

/// Wei of every payer at genesis.
const RICH: u64 = 1_000_000_000_000_000;
/// Wei that a transaction pays to somebody.
const PAID: u64 = 1_000;
/// Wei that a transaction burns and pays at most.
const COST: u64 = 21_000 * 1_000;
/// Wei of priority fees in a shard.
const FEES: u64 = 5;
/// Whom the fees go to.
pub const BENEFICIARY: Address = Address::repeat_byte(0xfe);
/// An account of which every payment may write a slot.
pub const CONTRACT: Address = Address::repeat_byte(0x22);
/// Slots that payments write.
pub const SLOTS: u64 = 4;

/// The chain of a run.
pub fn genesis(shards: u32, seal_after_ms: u32) -> Genesis {
    let rich = |number| {
        let account = GenesisAccount {
            balance: U256::from(RICH),
            ..GenesisAccount::default()
        };
        (payer(number), account)
    };
    let contract = GenesisAccount {
        nonce: 1,
        ..GenesisAccount::default()
    };
    let payers = (0..payers(shards)).map(rich);
    Genesis {
        config: ChainConfig {
            chain_id: 1337,
            shards,
            shard_gas_limit: 1 << 24,
            lock_rule: LockRule::Commuting,
            elasticity: 2,
            beneficiary: BENEFICIARY,
            propose_after_ms: 50,
            seal_after_ms: seal_after_ms.into(),
            seconds_per_slot: 0,
            spec: Spec::Osaka,
            genesis_base_fee: 7,
            genesis_timestamp: 1_700_000_000,
            registry: Address::ZERO,
            epoch_length: 0,
            share_cap: 0,
            fixed: None,
        },
        accounts: payers.chain([(CONTRACT, contract)]).collect(),
    }
}

/// How many accounts pay.
pub fn payers(shards: u32) -> u32 {
    shards * 2
}

/// An account that pays.
pub fn payer(number: u32) -> Address {
    let mut bytes = [0x11; 20];
    bytes[16..].copy_from_slice(&(number + 1).to_be_bytes());
    bytes.into()
}

/// The lock of a payer.
pub fn payer_key(number: u32) -> LockKey {
    LockKey::account(payer(number))
}

/// What a payment says.
#[derive(Clone, Debug)]
pub struct Payment<'a> {
    /// The round, which is also the payer's new nonce.
    pub round: u64,
    /// The shard.
    pub shard: u32,
    /// Who pays.
    pub from: u32,
    /// Who is paid.
    pub to: u32,
    /// The slot of the contract that it writes.
    pub slot: Option<u64>,
    /// Who proposes.
    pub executor: &'a str,
    /// Makes it unlike all others.
    pub salt: u64,
}

impl Payment<'_> {
    /// A shard of one transaction.
    pub fn shard(&self) -> Arc<Shard> {
        let paid = AccountDiff {
            balance: Delta::fall(U256::from(PAID + COST)),
            nonce: Some(self.round),
            ..AccountDiff::default()
        };
        let credit = AccountDiff {
            balance: Delta::rise(U256::from(PAID)),
            ..AccountDiff::default()
        };
        let mut accounts = BTreeMap::from([(payer(self.to), credit), (payer(self.from), paid)]);
        if let Some(slot) = self.slot {
            let written = AccountDiff {
                slots: BTreeMap::from([(U256::from(slot), U256::from(self.salt | 1))]),
                ..AccountDiff::default()
            };
            accounts.insert(CONTRACT, written);
        }
        let (executor, round, shard, salt) = (self.executor, self.round, self.shard, self.salt);
        let transaction = format!("{executor} {round} {shard} {salt}").into_bytes();
        let body = ShardBody {
            transactions: vec![transaction.into()],
            receipts: vec![Receipt {
                tx_type: 2,
                success: true,
                cumulative_gas: 21_000,
                logs: Vec::new(),
            }],
            diff: Diff { accounts },
        };
        Arc::new(Shard::new(
            shard,
            body,
            U256::from(FEES),
            LockRule::Commuting,
        ))
    }
}
