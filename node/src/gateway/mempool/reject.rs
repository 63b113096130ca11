//! Why a transaction does not enter the pool, or leaves it without being included.

use crate::gateway::limits::{
    MAX_NONCES_AHEAD, MAX_POOL_BYTES, MAX_REFUSALS, MAX_SENDER_BYTES, REPLACEMENT_BUMP_PERCENT,
};
use alloy_primitives::U256;

/// Why the pool does not take a transaction. Where tools match on Geth's words, the words are Geth's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// The very same transaction is pending.
    #[error("already known")]
    AlreadyKnown,
    /// The account has used this nonce.
    #[error("nonce too low: next nonce {next}, tx nonce {found}")]
    NonceTooLow {
        /// The account's nonce at the head.
        next: u64,
        /// The transaction's.
        found: u64,
    },
    /// Too far ahead to be queued.
    #[error(
        "nonce too high: tx nonce {found}, next nonce {next}, at most {MAX_NONCES_AHEAD} ahead are queued"
    )]
    NonceTooHigh {
        /// The account's nonce at the head.
        next: u64,
        /// The transaction's.
        found: u64,
    },
    /// The balance at the head does not cover the worst case.
    #[error("insufficient funds for gas * price + value: balance {balance}, tx cost {cost}, overshot {}", cost.saturating_sub(*balance))]
    InsufficientFunds {
        /// Wei.
        balance: U256,
        /// Wei: gas limit times fee cap, plus value.
        cost: U256,
    },
    /// Another transaction with this nonce is pending and this one does not pay enough more.
    #[error(
        "replacement transaction underpriced: needs a fee cap of {fee_cap} and a tip cap of {tip_cap}, {REPLACEMENT_BUMP_PERCENT}% above the pending one's"
    )]
    ReplacementUnderpriced {
        /// Least fee cap that replaces, wei per gas.
        fee_cap: u128,
        /// Least tip cap that replaces, wei per gas.
        tip_cap: u128,
    },
    /// One sender holds too much.
    #[error("the sender's pending transactions would exceed the limit of {MAX_SENDER_BYTES} bytes")]
    SenderFull,
    /// The pool is full and this transaction pays no more than what is in it.
    #[error(
        "txpool is full: the limit is {MAX_POOL_BYTES} bytes, and the transaction pays no more than what is pending"
    )]
    PoolFull,
}

/// Why a transaction left the pool without being included.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DropReason {
    /// The sender replaced it.
    #[error("replaced by {0}")]
    Replaced(alloy_primitives::B256),
    /// Another transaction with its nonce was included.
    #[error("another transaction with nonce {0} was included")]
    Stale(u64),
    /// Transactions that pay more took its place.
    #[error("evicted: the pool is full and others pay more")]
    Evicted,
    /// It can never be executed.
    #[error("cannot be executed: {0}")]
    Invalid(String),
    /// It was left out again and again.
    #[error("left out of {MAX_REFUSALS} rounds, at last because: {0}")]
    RefusedTooOften(String),
}
