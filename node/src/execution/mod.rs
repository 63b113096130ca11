//! Execution: from transactions, an environment and a view of the parent's state to a shard.
//!
//! Everything here is pure: no clock, no network, no async. The one thing that may fail for a reason outside the
//! arguments is the [`StateView`], which answers [`Unavailable`] where it cannot read; nothing is lost then, the same
//! transaction can be tried again.
//!
//! The way through the module, in the order in which a proposal takes it:
//! 1. [`Transaction::recover`] decodes an EIP-2718 envelope and recovers its sender, once; [`recover_all`] does many
//!    on several threads; [`Rules::check`] says what no state could make valid.
//! 2. [`Builder::push`] executes a transaction on the parent's state plus what the same shard wrote before (rule 4),
//!    and either includes it or says why not. Fees stay out of the state (rule 5), gas is admitted by limit (rule 8).
//! 3. [`Builder::finish`] gives the [`Shard`](troika_proto::Shard): header, hash, transactions, receipts and the net
//!    diff against the parent.
//! 4. On a conflict [`Builder::bar`] leaves out whatever writes the keys that another shard holds, and executes again
//!    what came after.
//! 5. [`execute_shard`] runs somebody's shard in its exact order: for checking, and for the losers' second execution.
//!
//! Beside that: [`call`], [`estimate_gas`], [`create_access_list`] and [`trace()`] for JSON-RPC; [`mainnet`] reads real
//! blocks; [`sequential`] executes them as Ethereum does, for comparison; [`groups`] says how far they can be cut into
//! shards; [`bench`](mod@bench) measures.
//!
//! This module never knows who asks: no rounds, no store, no locks held, no peers.

pub mod bench;
mod builder;
mod cache;
mod evm;
mod explore;
pub mod groups;
mod header;
mod invalid;
pub mod mainnet;
mod overlay;
mod request;
mod rules;
pub mod sequential;
mod simulate;
mod trace;
mod transaction;
mod verify;
mod view;

pub use builder::{Builder, Push, Removed};
pub use cache::{MAX_RECOVERY_THREADS, RecoveryCache, recover_all};
pub use explore::explore;
pub use invalid::Invalid;
pub use rules::Rules;
pub use simulate::{
    AccessListOutcome, CALL_GAS_CAP, CallError, CallOutcome, call, create_access_list, estimate_gas,
};
pub use trace::{
    GethDebugTracingOptions, GethTrace, MAX_TRACE_BYTES, Place, TraceBudget, TraceError, trace,
    trace_shard,
};
pub use transaction::{Envelope, Transaction, TxError};
pub use verify::{ExecutionError, execute_rest, execute_shard};
pub use view::{Account, Code, MemoryView, StateView, Unavailable, code_of};

#[cfg(test)]
mod tests;
