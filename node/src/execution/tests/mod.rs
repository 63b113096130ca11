//! The rules of the chain as far as execution keeps them, each a test; and what the tests share.
//!
//! The contracts are so small that their byte code is written as instructions below.

mod builder;
mod conflicts;
mod lifecycle;
mod mainnet;
mod properties;
mod simulation;
mod transaction;

use super::*;
use alloy_consensus::{SignableTransaction, Signed, TxEip1559};
use alloy_eips::eip2718::Encodable2718;
use alloy_network::TxSignerSync;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, address};
use alloy_signer_local::PrivateKeySigner;
use revm::bytecode::opcode as op;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use troika_proto::{ChainConfig, Environment, Genesis, GenesisAccount, LockRule, Spec};

pub(super) const CHAIN_ID: u64 = 1947;
pub(super) const BASE_FEE: u64 = 1_000_000_000;
pub(super) const TIP: u128 = 2_000_000_000;
pub(super) const BENEFICIARY: Address = address!("00000000000000000000000000000000000000fe");
pub(super) const ETHER: u64 = 1_000_000_000_000_000_000;

pub(super) fn rules() -> Rules {
    Rules {
        chain_id: CHAIN_ID,
        spec: Spec::Osaka,
        lock_rule: LockRule::Commuting,
        shard_gas_limit: 30_000_000,
        allow_blobs: false,
    }
}

pub(super) fn strict() -> Rules {
    Rules {
        lock_rule: LockRule::Strict,
        ..rules()
    }
}

pub(super) fn environment() -> Environment {
    Environment {
        number: 7,
        timestamp: 1_700_000_000,
        base_fee: BASE_FEE,
        prev_randao: B256::repeat_byte(0x5a),
        gas_limit: 120_000_000,
        beneficiary: BENEFICIARY,
    }
}

/// An address without code or key.
pub(super) fn somebody(n: u8) -> Address {
    Address::repeat_byte(n)
}

pub(super) fn signer(n: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(n)).expect("a key")
}

pub(super) fn sender(n: u8) -> Address {
    signer(n).address()
}

/// A state in which `senders` own a thousand ether each, and `contracts` stand with their code.
pub(super) fn view(senders: &[u8], contracts: &[(Address, Vec<u8>)]) -> MemoryView {
    let mut accounts = BTreeMap::new();
    for n in senders {
        accounts.insert(sender(*n), funded(1000));
    }
    for (at, code) in contracts {
        accounts.insert(*at, contract(code));
    }
    view_of(accounts)
}

pub(super) fn funded(ether: u64) -> GenesisAccount {
    GenesisAccount {
        balance: U256::from(ether) * U256::from(ETHER),
        ..GenesisAccount::default()
    }
}

pub(super) fn contract(code: &[u8]) -> GenesisAccount {
    GenesisAccount {
        nonce: 1,
        code: Bytes::copy_from_slice(code),
        ..GenesisAccount::default()
    }
}

pub(super) fn view_of(accounts: BTreeMap<Address, GenesisAccount>) -> MemoryView {
    MemoryView::of(&Genesis {
        config: config(),
        accounts,
    })
}

fn config() -> ChainConfig {
    ChainConfig {
        chain_id: CHAIN_ID,
        shards: 4,
        shard_gas_limit: 30_000_000,
        lock_rule: LockRule::Commuting,
        elasticity: 2,
        beneficiary: BENEFICIARY,
        propose_after_ms: 0,
        seal_after_ms: 1000,
        seconds_per_slot: 0,
        spec: Spec::Osaka,
        genesis_base_fee: BASE_FEE,
        genesis_timestamp: 0,
        registry: Address::ZERO,
        epoch_length: 0,
        share_cap: 0,
        fixed: None,
    }
}

/// A transaction before it is signed.
pub(super) fn plain(nonce: u64, to: impl Into<TxKind>, value: u64, input: Vec<u8>) -> TxEip1559 {
    TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 200_000,
        max_fee_per_gas: u128::from(BASE_FEE) + TIP,
        max_priority_fee_per_gas: TIP,
        to: to.into(),
        value: U256::from(value),
        access_list: Default::default(),
        input: input.into(),
    }
}

/// Signed by the key of `n`, encoded, and recovered again.
pub(super) fn sign<T>(n: u8, mut tx: T) -> Arc<Transaction>
where
    T: SignableTransaction<Signature>,
    Envelope: From<Signed<T>>,
{
    let signature = signer(n)
        .sign_transaction_sync(&mut tx)
        .expect("a signature");
    let envelope = Envelope::from(tx.into_signed(signature));
    let raw = Bytes::from(envelope.encoded_2718());
    Arc::new(Transaction::recover(raw).expect("a transaction"))
}

/// `value` wei from `n` to `to`.
pub(super) fn transfer(n: u8, nonce: u64, to: Address, value: u64) -> Arc<Transaction> {
    sign(n, plain(nonce, TxKind::Call(to), value, Vec::new()))
}

/// A call of `to` by `n` with words as call data.
pub(super) fn invoke(n: u8, nonce: u64, to: Address, words: &[U256]) -> Arc<Transaction> {
    let input = words.iter().flat_map(|w| w.to_be_bytes::<32>()).collect();
    sign(n, plain(nonce, TxKind::Call(to), 0, input))
}

/// A contract creation by `n`.
pub(super) fn create(n: u8, nonce: u64, init: Vec<u8>) -> Arc<Transaction> {
    sign(n, plain(nonce, TxKind::Create, 0, init))
}

/// Pushes, and expects inclusion with that success.
pub(super) fn include<V: StateView>(
    builder: &mut Builder<V>,
    transaction: &Arc<Transaction>,
    success: bool,
) -> u64 {
    match builder.push(transaction).expect("a readable state") {
        Push::Included { gas, success: was } => {
            assert_eq!(was, success, "success of {}", transaction.hash);
            gas
        }
        other => panic!("not included: {other:?}"),
    }
}

pub(super) fn word(address: Address) -> U256 {
    U256::from_be_bytes(address.into_word().0)
}

/// Init code that deploys `code` (at most 255 bytes).
pub(super) fn deploy(code: &[u8]) -> Vec<u8> {
    let length = u8::try_from(code.len()).expect("short code");
    let mut init = vec![op::PUSH1, length, op::DUP1, op::PUSH1, 11, op::PUSH1, 0];
    init.extend([op::CODECOPY, op::PUSH1, 0, op::RETURN]);
    init.extend_from_slice(code);
    init
}

/// `SSTORE(calldata[0], calldata[32])`.
#[rustfmt::skip]
pub(super) fn setter() -> Vec<u8> {
    vec![
        op::PUSH1, 32, op::CALLDATALOAD, // value
        op::PUSH1, 0, op::CALLDATALOAD, // key
        op::SSTORE,
    ]
}

/// Writes slot 0 and reverts.
#[rustfmt::skip]
pub(super) fn regretter() -> Vec<u8> {
    vec![
        op::PUSH1, 1, op::PUSH1, 0, op::SSTORE, //
        op::PUSH1, 0, op::PUSH1, 0, op::REVERT,
    ]
}

/// Sends `calldata[32]` wei of its own to the address `calldata[0]`; reverts if it cannot.
#[rustfmt::skip]
pub(super) fn payer() -> Vec<u8> {
    vec![
        op::PUSH1, 0, op::PUSH1, 0, op::PUSH1, 0, op::PUSH1, 0, // no output, no input
        op::PUSH1, 32, op::CALLDATALOAD, // value
        op::PUSH1, 0, op::CALLDATALOAD, // to
        op::GAS, op::CALL, //
        op::PUSH1, 25, op::JUMPI, //
        op::PUSH1, 0, op::PUSH1, 0, op::REVERT, //
        op::STOP, op::JUMPDEST,
    ]
}

/// A token: `calldata[32]` from the caller's slot to the slot of `calldata[0]`, with a log; reverts if the caller has
/// too little. The slot of an owner is its address.
#[rustfmt::skip]
pub(super) fn token() -> Vec<u8> {
    vec![
        op::PUSH1, 32, op::CALLDATALOAD, // amount
        op::CALLER, op::SLOAD, // amount, balance
        op::DUP2, op::DUP2, op::LT, // balance < amount
        op::PUSH1, 44, op::JUMPI, //
        op::DUP2, op::SWAP1, op::SUB, op::CALLER, op::SSTORE, // amount
        op::PUSH1, 0, op::CALLDATALOAD, // amount, to
        op::DUP1, op::SLOAD, op::DUP3, op::ADD, op::SWAP1, op::SSTORE, // amount
        op::PUSH1, 0, op::MSTORE, //
        op::PUSH1, 0, op::CALLDATALOAD, op::PUSH1, 32, op::PUSH1, 0, op::LOG1, //
        op::STOP, op::STOP, op::STOP, op::STOP, op::STOP, op::STOP, //
        op::JUMPDEST, op::PUSH1, 0, op::PUSH1, 0, op::REVERT,
    ]
}

/// Destroys itself in favour of the caller.
pub(super) fn suicidal() -> Vec<u8> {
    vec![op::CALLER, op::SELFDESTRUCT]
}

/// Stores what `instructions` leave on the stack in slot 0.
pub(super) fn keeps(instructions: &[u8]) -> Vec<u8> {
    let mut code = instructions.to_vec();
    code.extend([op::PUSH1, 0, op::SSTORE]);
    code
}

/// A state that answers only while it is told to.
pub(super) struct Flaky {
    pub(super) inner: MemoryView,
    /// Reads that succeed from now on.
    pub(super) reads_left: AtomicUsize,
}

impl Flaky {
    fn read(&self) -> Result<(), Unavailable> {
        let down = |left: usize| left.checked_sub(1);
        self.reads_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, down)
            .map(|_| ())
            .map_err(|_| Unavailable("told to fail".to_owned()))
    }
}

impl StateView for Flaky {
    fn account(&self, address: Address) -> Result<Option<Account>, Unavailable> {
        self.read()?;
        self.inner.account(address)
    }
    fn slot(&self, address: Address, key: U256) -> Result<U256, Unavailable> {
        self.read()?;
        self.inner.slot(address, key)
    }
    fn code(&self, hash: B256) -> Result<Code, Unavailable> {
        self.read()?;
        self.inner.code(hash)
    }
    fn block_hash(&self, number: u64) -> Result<B256, Unavailable> {
        self.read()?;
        self.inner.block_hash(number)
    }
}
