//! `eth_call`, `eth_estimateGas` and `eth_createAccessList`: runs that leave nothing behind.
//!
//! Without a gas price a call is free, as in geth: the base fee reads zero and only the value must be covered.
//! Contracts may be the sender, and nonces are not looked at.

use super::evm::{Evm, Mode, Runner, evm};
use super::invalid::{Fees, Invalid};
use super::overlay::Overlay;
use super::request::{apply_override, request_env};
use super::rules::{Rules, block_env};
use super::view::{StateView, Unavailable};
use alloy_eips::eip2930::AccessList;
use alloy_primitives::{Bytes, TxKind, U256};
use alloy_rpc_types_eth::TransactionRequest;
use alloy_rpc_types_eth::state::StateOverride;
use revm::context::result::{EVMError, ExecutionResult, HaltReason};
use revm::context::{BlockEnv, CfgEnv, Context, JournalTr, TxEnv};
use revm::handler::Handler;
use revm::inspector::InspectorHandler;
use revm::{Database, MainBuilder, MainContext};
use revm_inspectors::access_list::AccessListInspector;
use troika_proto::Environment;

/// Most gas of one call, whatever it asks for.
pub const CALL_GAS_CAP: u64 = 50_000_000;
/// Least gas of any transaction.
const TRANSFER_GAS: u64 = 21_000;
/// Gas that a value call hands to the callee for nothing: an estimate must leave room for it.
const CALL_STIPEND: u64 = 2_300;
/// An estimate may be too high by this part, in thousandths: geth's trade of precision for runs.
const ESTIMATE_ERROR_MILLIS: u64 = 15;
/// Most runs until an access list must have settled.
const MAX_ACCESS_LIST_RUNS: usize = 16;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// With output.
    Success {
        /// What it returned.
        output: Bytes,
        /// Gas used, after refunds.
        gas: u64,
    },
    /// REVERT, with the reason as ABI-encoded data.
    Revert {
        /// What it returned.
        output: Bytes,
        /// Gas used.
        gas: u64,
    },
    /// Out of gas, or an instruction that cannot be.
    Halt {
        /// In words, as geth has them where tools look for them.
        reason: String,
        /// Gas used: all.
        gas: u64,
    },
}

/// Why a call was not run, or has no estimate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The state could not be read.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// No transaction like this could be executed.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The request contradicts itself or asks for what there is not.
    #[error("{0}")]
    Request(String),
    /// An estimate: the call reverts whatever gas it has.
    #[error("execution reverted")]
    Reverted(Bytes),
    /// An estimate: the call fails whatever gas it may have.
    #[error("{0}")]
    Failed(String),
    /// An estimate: more gas is needed than may be had.
    #[error("gas required exceeds allowance ({0})")]
    Allowance(u64),
}

/// An access list, and what it makes of the gas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessListOutcome {
    /// What the call reads and writes beside sender, recipient and precompiles.
    pub access_list: AccessList,
    /// Gas used with that list.
    pub gas: u64,
    /// Why the call fails, if it does.
    pub error: Option<String>,
}

/// Runs a request on the state that `view` shows, as if it stood alone in a block of `environment`.
///
/// # Errors
/// [`CallError`]; a call that reverts is an outcome.
pub fn call<V: StateView>(
    rules: &Rules,
    environment: &Environment,
    request: &TransactionRequest,
    overrides: Option<&StateOverride>,
    view: V,
) -> Result<CallOutcome, CallError> {
    let mut simulation = Simulation::new(rules, environment, request, overrides, view)?;
    let result = simulation.run(simulation.gas_cap())??;
    Ok(outcome(result))
}

/// The least gas limit with which a request succeeds, found by bisection; at most 1.5% too high.
///
/// # Errors
/// [`CallError`], also where the call fails whatever gas it has.
pub fn estimate_gas<V: StateView>(
    rules: &Rules,
    environment: &Environment,
    request: &TransactionRequest,
    overrides: Option<&StateOverride>,
    view: V,
) -> Result<u64, CallError> {
    let mut simulation = Simulation::new(rules, environment, request, overrides, view)?;
    let mut high = simulation.highest(rules.transaction_gas_cap())?;
    if simulation.is_plain_transfer()? && simulation.suffices(TRANSFER_GAS)? {
        return Ok(TRANSFER_GAS);
    }
    let result = match simulation.run(high)? {
        Ok(result) => result,
        Err(Invalid::IntrinsicGas { .. }) => return Err(CallError::Allowance(high)),
        Err(invalid) => return Err(invalid.into()),
    };
    let (used, refunded) = (result.tx_gas_used(), result.gas().final_refunded());
    match outcome(result) {
        CallOutcome::Success { .. } => {}
        CallOutcome::Revert { output, .. } => return Err(CallError::Reverted(output)),
        CallOutcome::Halt { reason, .. } if reason == OUT_OF_GAS => {
            return Err(CallError::Allowance(high));
        }
        CallOutcome::Halt { reason, .. } => return Err(CallError::Failed(reason)),
    }
    // Nothing below what was used succeeds; a 64th stays behind at every call.
    let mut low = used.saturating_sub(1);
    let likely = used
        .saturating_add(refunded)
        .saturating_add(CALL_STIPEND)
        .saturating_mul(64)
        / 63;
    if likely < high {
        if simulation.suffices(likely)? {
            high = likely;
        } else {
            low = likely;
        }
    }
    while low + 1 < high && (high - low) * 1000 > high * ESTIMATE_ERROR_MILLIS {
        // Most calls need little more than they use: look low first.
        let middle = (low + (high - low) / 2).min(low.saturating_mul(2).max(1));
        if simulation.suffices(middle)? {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(high)
}

/// The accounts and slots that a request touches, with the gas that it uses when it names them.
///
/// # Errors
/// [`CallError`].
pub fn create_access_list<V: StateView>(
    rules: &Rules,
    environment: &Environment,
    request: &TransactionRequest,
    overrides: Option<&StateOverride>,
    view: V,
) -> Result<AccessListOutcome, CallError> {
    let mut simulation = Simulation::new(rules, environment, request, overrides, view)?;
    let gas = simulation.gas_cap();
    let mut list = request.access_list.clone().unwrap_or_default();
    for _ in 0..MAX_ACCESS_LIST_RUNS {
        let (found, result) = simulation.run_listing(gas, &list)?;
        // Naming slots changes what they cost, which may change what the call does.
        if found == list {
            return Ok(listed(list, result));
        }
        list = found;
    }
    let (_, result) = simulation.run_listing(gas, &list)?;
    Ok(listed(list, result))
}

fn listed(access_list: AccessList, result: ExecutionResult) -> AccessListOutcome {
    AccessListOutcome {
        access_list,
        gas: result.tx_gas_used(),
        error: match outcome(result) {
            CallOutcome::Success { .. } => None,
            CallOutcome::Revert { .. } => Some("execution reverted".to_owned()),
            CallOutcome::Halt { reason, .. } => Some(reason),
        },
    }
}

/// What geth calls it.
const OUT_OF_GAS: &str = "out of gas";

fn outcome(result: ExecutionResult) -> CallOutcome {
    let gas = result.tx_gas_used();
    match result {
        ExecutionResult::Success { output, .. } => CallOutcome::Success {
            output: output.into_data(),
            gas,
        },
        ExecutionResult::Revert { output, .. } => CallOutcome::Revert { output, gas },
        ExecutionResult::Halt { reason, .. } => {
            let reason = match reason {
                HaltReason::OutOfGas(_) => OUT_OF_GAS.to_owned(),
                HaltReason::OpcodeNotFound | HaltReason::InvalidFEOpcode => {
                    "invalid opcode".to_owned()
                }
                HaltReason::InvalidJump => "invalid jump destination".to_owned(),
                HaltReason::StackUnderflow => "stack underflow".to_owned(),
                HaltReason::StackOverflow => "stack limit reached 1024".to_owned(),
                HaltReason::CreateCollision => "contract address collision".to_owned(),
                other => other.to_string(),
            };
            CallOutcome::Halt { reason, gas }
        }
    }
}

struct Simulation<V> {
    cfg: CfgEnv,
    block: BlockEnv,
    tx: TxEnv,
    /// What the request asked for.
    gas: Option<u64>,
    overlay: Overlay<V>,
}

impl<V: StateView> Simulation<V> {
    fn new(
        rules: &Rules,
        environment: &Environment,
        request: &TransactionRequest,
        overrides: Option<&StateOverride>,
        view: V,
    ) -> Result<Self, CallError> {
        let mut overlay = Overlay::new(view);
        for (address, change) in overrides.into_iter().flatten() {
            apply_override(&mut overlay, *address, change)?;
        }
        let mut block = block_env(environment);
        let tx = request_env(rules, request)?;
        if tx.gas_price == 0 {
            // geth's way: a call without a price is not held to the base fee, and must not see one above its price.
            block.basefee = 0;
        }
        let mut cfg = rules.cfg();
        cfg.disable_nonce_check = true;
        cfg.tx_gas_limit_cap = Some(u64::MAX);
        Ok(Self {
            cfg,
            block,
            tx,
            gas: request.gas,
            overlay,
        })
    }

    /// Most gas that a call gets: what it asks for, within the cap and the block.
    fn gas_cap(&self) -> u64 {
        let cap = CALL_GAS_CAP.min(self.block.gas_limit);
        self.gas.unwrap_or(cap).min(cap)
    }

    fn run(&mut self, gas: u64) -> Result<Result<ExecutionResult, Invalid>, Unavailable> {
        self.tx.gas_limit = gas;
        let mut evm: Evm<&mut Overlay<V>> =
            evm(self.cfg.clone(), self.block.clone(), &mut self.overlay);
        evm.ctx.tx = self.tx.clone();
        let outcome = Runner::new(Mode::Call).run(&mut evm);
        drop(evm);
        self.settle(outcome)
    }

    fn run_listing(
        &mut self,
        gas: u64,
        list: &AccessList,
    ) -> Result<(AccessList, ExecutionResult), CallError> {
        self.tx.gas_limit = gas;
        self.tx.access_list = list.clone();
        if self.tx.tx_type == 0 {
            self.tx.tx_type = 1;
        }
        let mut inspector = AccessListInspector::new(list.clone());
        let mut evm = Context::mainnet()
            .with_cfg(self.cfg.clone())
            .with_block(self.block.clone())
            .with_db(&mut self.overlay)
            .build_mainnet_with_inspector(&mut inspector);
        evm.ctx.tx = self.tx.clone();
        let outcome = Runner::new(Mode::Call).inspect_run(&mut evm);
        evm.ctx.journaled_state.finalize();
        drop(evm);
        let result = self.settle(outcome)??;
        Ok((inspector.into_access_list(), result))
    }

    fn settle(
        &self,
        outcome: Result<ExecutionResult, EVMError<Unavailable>>,
    ) -> Result<Result<ExecutionResult, Invalid>, Unavailable> {
        match outcome {
            Ok(result) => Ok(Ok(result)),
            Err(EVMError::Database(unavailable)) => Err(unavailable),
            Err(EVMError::Transaction(invalid)) => {
                let fees = Fees {
                    max_fee: self.tx.gas_price,
                    tip: self.tx.gas_priority_fee.unwrap_or(self.tx.gas_price),
                    base_fee: self.block.basefee,
                };
                Ok(Err(Invalid::of(invalid, self.tx.caller, fees)))
            }
            Err(other) => Ok(Err(Invalid::Other(other.to_string()))),
        }
    }

    /// True if the request succeeds with this gas limit.
    fn suffices(&mut self, gas: u64) -> Result<bool, CallError> {
        match self.run(gas)? {
            Ok(result) => Ok(result.is_success()),
            Err(Invalid::IntrinsicGas { .. }) => Ok(false),
            Err(invalid) => Err(invalid.into()),
        }
    }

    /// Where an estimate starts: what is asked for, the caps, and what the sender can pay.
    fn highest(&mut self, cap: u64) -> Result<u64, CallError> {
        let asked = self.gas.filter(|gas| *gas >= TRANSFER_GAS);
        let high = asked
            .unwrap_or(cap)
            .min(cap)
            .min(self.gas_cap_of_estimates());
        if self.tx.gas_price == 0 {
            return Ok(high);
        }
        let sender = self.overlay.basic(self.tx.caller)?.unwrap_or_default();
        let left = sender.balance.checked_sub(self.tx.value);
        let left = left.ok_or(Invalid::Funds {
            address: self.tx.caller,
            have: sender.balance,
            want: self.tx.value,
        })?;
        let allowance = left / U256::from(self.tx.gas_price);
        Ok(high.min(allowance.saturating_to()))
    }

    fn gas_cap_of_estimates(&self) -> u64 {
        CALL_GAS_CAP.min(self.block.gas_limit)
    }

    fn is_plain_transfer(&mut self) -> Result<bool, CallError> {
        let TxKind::Call(to) = self.tx.kind else {
            return Ok(false);
        };
        if !self.tx.data.is_empty() || self.tx.tx_type == 4 || !self.tx.access_list.0.is_empty() {
            return Ok(false);
        }
        let account = self.overlay.basic(to)?;
        Ok(account.is_none_or(|a| a.is_empty_code_hash()))
    }
}
