//! revm, set up for shards: the fee stays out of the state.

use super::invalid::{Fees, Invalid};
use super::overlay::{Change, Overlay};
use super::rules::{Rules, block_env};
use super::transaction::Transaction;
use super::view::{StateView, Unavailable};
use alloy_consensus::Transaction as _;
use alloy_eips::eip7702::RecoveredAuthorization;
use alloy_primitives::U256;
use revm::context::either::Either;
use revm::context::journaled_state::account::JournaledAccountTr;
use revm::context::result::{EVMError, ExecutionResult, HaltReason};
use revm::context::{BlockEnv, CfgEnv, Context, ContextTr, JournalTr, TxEnv};
use revm::handler::{
    EvmTr, FrameResult, Handler, MainnetContext, MainnetEvm, post_execution, pre_execution,
};
use revm::inspector::{Inspector, InspectorHandler};
use revm::interpreter::InitialAndFloorGas;
use revm::interpreter::interpreter::EthInterpreter;
use revm::{Database, MainBuilder, MainContext};
use std::marker::PhantomData;
use troika_proto::{Environment, LockRule};

/// The EVM over a database of ours.
pub(super) type Evm<DB, I = ()> = MainnetEvm<MainnetContext<DB>, I>;

/// What differs between the ways to run a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// In a shard: the beneficiary's fee is no part of the transaction's state.
    Shard,
    /// As Ethereum does: the beneficiary is paid at once.
    Sequential,
    /// A question, not a transaction: no nonce, and contracts may ask too.
    Call,
}

/// revm's mainnet rules but for what [`Mode`] says.
pub(super) struct Runner<DB, I> {
    mode: Mode,
    evm: PhantomData<fn() -> (DB, I)>,
}

impl<DB, I> Runner<DB, I> {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            mode,
            evm: PhantomData,
        }
    }
}

impl<DB: Database<Error = Unavailable>, I> Handler for Runner<DB, I> {
    type Evm = Evm<DB, I>;
    type Error = EVMError<Unavailable>;
    type HaltReason = HaltReason;

    fn reward_beneficiary(
        &self,
        evm: &mut Self::Evm,
        result: &mut FrameResult,
    ) -> Result<(), Self::Error> {
        if self.mode == Mode::Sequential {
            post_execution::reward_beneficiary(evm.ctx(), result.gas())?;
        }
        Ok(())
    }

    fn validate_against_state_and_deduct_caller(
        &self,
        evm: &mut Self::Evm,
        _gas: &mut InitialAndFloorGas,
    ) -> Result<(), Self::Error> {
        if self.mode != Mode::Call {
            return pre_execution::validate_against_state_and_deduct_caller(evm.ctx());
        }
        let (block, tx, cfg, journal, _, _) = evm.ctx().all_mut();
        let mut caller = journal.load_account_with_code_mut(tx.caller)?.data;
        let balance = pre_execution::calculate_caller_fee(*caller.balance(), tx, block, cfg)?;
        caller.set_balance(balance);
        if tx.kind.is_call() {
            caller.bump_nonce();
        }
        Ok(())
    }
}

impl<DB, I> InspectorHandler for Runner<DB, I>
where
    DB: Database<Error = Unavailable>,
    I: Inspector<MainnetContext<DB>, EthInterpreter>,
{
    type IT = EthInterpreter;
}

/// An EVM over `db`.
pub(super) fn evm<DB: Database>(cfg: CfgEnv, block: BlockEnv, db: DB) -> Evm<DB> {
    Context::mainnet()
        .with_cfg(cfg)
        .with_block(block)
        .with_db(db)
        .build_mainnet()
}

/// What an executed transaction leaves.
#[derive(Debug)]
pub(super) struct Executed {
    pub(super) result: ExecutionResult,
    pub(super) changes: Vec<Change>,
    /// Priority fee, wei.
    pub(super) fee: U256,
    /// Base fee and blob fee, wei.
    pub(super) burned: U256,
}

/// How a transaction ended.
#[derive(Debug)]
pub(super) enum Ran {
    /// It stands in the overlay now.
    Executed(Executed),
    /// It left no trace.
    Invalid(Invalid),
}

/// One EVM for many transactions: making one costs about as much as a transfer.
pub(super) struct Engine<'a, V: StateView> {
    evm: Evm<&'a mut Overlay<V>>,
    mode: Mode,
    rule: LockRule,
    base_fee: u64,
}

impl<'a, V: StateView> Engine<'a, V> {
    pub(super) fn new(
        rules: &Rules,
        environment: &Environment,
        mode: Mode,
        overlay: &'a mut Overlay<V>,
    ) -> Self {
        Self {
            evm: evm(rules.cfg(), block_env(environment), overlay),
            mode,
            rule: rules.lock_rule,
            base_fee: environment.base_fee,
        }
    }

    pub(super) fn overlay(&mut self) -> &mut Overlay<V> {
        self.evm.ctx().db_mut()
    }

    /// Executes `tx` and commits what it left.
    pub(super) fn run(&mut self, tx: &Transaction) -> Result<Ran, Unavailable> {
        self.evm.ctx.tx = tx_env(tx);
        let outcome = Runner::new(self.mode).run(&mut self.evm);
        // Also on an error: what the transaction loaded must not leak into the next one.
        let state = self.evm.ctx.journal_mut().finalize();
        let result = match outcome {
            Ok(result) => result,
            Err(error) => return refused(error, tx, self.base_fee).map(Ran::Invalid),
        };
        let rule = self.rule;
        match self.overlay().commit(state, rule) {
            Err(invalid) => Ok(Ran::Invalid(invalid)),
            Ok(changes) => {
                let gas = U256::from(result.tx_gas_used());
                let tip = tx.effective_price(self.base_fee) - u128::from(self.base_fee);
                Ok(Ran::Executed(Executed {
                    result,
                    changes,
                    fee: gas * U256::from(tip),
                    burned: gas * U256::from(self.base_fee)
                        + U256::from(tx.envelope.blob_gas_used().unwrap_or(0)),
                }))
            }
        }
    }
}

/// Tells a transaction that cannot be executed from a state that cannot be read.
fn refused(
    error: EVMError<Unavailable>,
    tx: &Transaction,
    base_fee: u64,
) -> Result<Invalid, Unavailable> {
    match error {
        EVMError::Database(unavailable) => Err(unavailable),
        EVMError::Transaction(invalid) => Ok(Invalid::of(invalid, tx.sender, fees(tx, base_fee))),
        other => Ok(Invalid::Other(other.to_string())),
    }
}

pub(super) fn fees(tx: &Transaction, base_fee: u64) -> Fees {
    Fees {
        max_fee: tx.max_fee(),
        tip: tx.max_tip(),
        base_fee,
    }
}

/// The transaction as revm wants it.
pub(super) fn tx_env(tx: &Transaction) -> TxEnv {
    let envelope = &tx.envelope;
    let authorization = |a: &RecoveredAuthorization| Either::Right(a.clone());
    TxEnv {
        tx_type: tx.tx_type(),
        caller: tx.sender,
        gas_limit: envelope.gas_limit(),
        gas_price: envelope.max_fee_per_gas(),
        kind: envelope.kind(),
        value: envelope.value(),
        data: envelope.input().clone(),
        nonce: envelope.nonce(),
        chain_id: envelope.chain_id(),
        access_list: envelope.access_list().cloned().unwrap_or_default(),
        gas_priority_fee: envelope.max_priority_fee_per_gas(),
        blob_hashes: envelope.blob_versioned_hashes().unwrap_or(&[]).to_vec(),
        max_fee_per_blob_gas: envelope.max_fee_per_blob_gas().unwrap_or(0),
        authorization_list: tx.authorizations.iter().map(authorization).collect(),
    }
}
