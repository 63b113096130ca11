//! `debug_trace*`: a transaction runs again on the parent plus the earlier transactions of the same shard (rule 10).

use super::evm::{Engine, Mode, Ran, Runner, tx_env};
use super::invalid::Invalid;
use super::overlay::Overlay;
use super::rules::{Rules, block_env};
use super::transaction::Transaction;
use super::view::{StateView, Unavailable};
use alloy_primitives::B256;
use alloy_rpc_types_trace::geth::GethDefaultTracingOptions;
pub use alloy_rpc_types_trace::geth::{GethDebugTracingOptions, GethTrace};
use revm::context::result::{EVMError, ResultAndState};
use revm::context::{Context, JournalTr};
use revm::database_interface::WrapDatabaseRef;
use revm::inspector::InspectorHandler;
use revm::interpreter::{InstructionResult, Interpreter};
use revm::{Inspector, MainBuilder, MainContext};
use revm_inspectors::tracing::{DebugInspector, TransactionContext};
use std::cell::Cell;
use std::sync::Arc;
use troika_proto::Environment;

/// Bytes that the traces of one request may record of single steps. As text they are some three times as many.
pub const MAX_TRACE_BYTES: usize = 64 * 1024 * 1024;
/// What a recorded step takes beside stack and memory, in bytes.
const STEP_BYTES: usize = 128;

/// Why there is no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// The state could not be read.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The options name no tracer that there is, or with a config that it does not know.
    #[error("tracer: {0}")]
    Options(String),
    /// The shard does not execute: it is not one that was accepted on this parent.
    #[error("transaction {index} of the shard: {reason}")]
    Transaction {
        /// Its place in the shard.
        index: usize,
        /// Why.
        reason: Invalid,
    },
    /// It records more than it may.
    #[error(
        "the trace exceeds {MAX_TRACE_BYTES} bytes (MAX_TRACE_BYTES): ask for less with disableStack and without enableMemory, or for another tracer"
    )]
    TooLarge,
}

/// What the traces of one request may still record: bytes, or `None` once that was too few.
pub type TraceBudget = Cell<Option<usize>>;

/// Ends an execution that is traced step by step as soon as its trace takes more than it may.
struct Bounded<'a> {
    budget: &'a TraceBudget,
    /// Set where each step is recorded.
    steps: Option<GethDefaultTracingOptions>,
}

impl<'a> Bounded<'a> {
    fn new(tracer: &DebugInspector, budget: &'a TraceBudget) -> Self {
        let steps = match tracer {
            DebugInspector::Default(_, options) => Some(*options),
            DebugInspector::Erc7562Tracer(..) => Some(GethDefaultTracingOptions::default()),
            _ => None,
        };
        Self { budget, steps }
    }
}

impl<CTX> Inspector<CTX> for Bounded<'_> {
    fn step(&mut self, interp: &mut Interpreter, _: &mut CTX) {
        let Some(options) = &self.steps else { return };
        let mut bytes = STEP_BYTES;
        if options.disable_stack != Some(true) {
            bytes += interp.stack.len() * 32;
        }
        if options.enable_memory == Some(true) {
            bytes += interp.memory.len();
        }
        let left = self.budget.get().and_then(|left| left.checked_sub(bytes));
        self.budget.set(left);
        if left.is_none() {
            interp.halt(InstructionResult::OutOfGas);
        }
    }
}

/// What a tracer is told of a transaction's place; it stands in some traces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// The block's hash.
    pub block_hash: B256,
    /// Index in the whole block of the shard's first transaction.
    pub first_index: usize,
}

/// Traces the transaction at `target` of a shard, running those before it without a tracer. `budget` falls by what was
/// recorded.
///
/// # Errors
/// [`TraceError`].
///
/// # Panics
/// If the shard has no such transaction.
pub fn trace<V: StateView>(
    rules: &Rules,
    environment: &Environment,
    transactions: &[Arc<Transaction>],
    target: usize,
    place: Place,
    options: (&GethDebugTracingOptions, &TraceBudget),
    view: V,
) -> Result<GethTrace, TraceError> {
    let (options, budget) = options;
    let mut overlay = Overlay::new(view);
    let mut tracer = tracer(options)?;
    run_all(rules, environment, &transactions[..target], 0, &mut overlay)?;
    let session = Session {
        rules,
        environment,
        place,
        budget,
    };
    session.trace(&mut tracer, &overlay, target, &transactions[target])
}

/// Traces every transaction of a shard, in order. `budget` falls by what was recorded.
///
/// # Errors
/// [`TraceError`].
pub fn trace_shard<V: StateView>(
    rules: &Rules,
    environment: &Environment,
    transactions: &[Arc<Transaction>],
    place: Place,
    options: (&GethDebugTracingOptions, &TraceBudget),
    view: V,
) -> Result<Vec<GethTrace>, TraceError> {
    let (options, budget) = options;
    let mut overlay = Overlay::new(view);
    let mut tracer = tracer(options)?;
    let session = Session {
        rules,
        environment,
        place,
        budget,
    };
    let mut traces = Vec::with_capacity(transactions.len());
    for (index, transaction) in transactions.iter().enumerate() {
        traces.push(session.trace(&mut tracer, &overlay, index, transaction)?);
        tracer.fuse().map_err(wrong_options)?;
        let this = &transactions[index..=index];
        run_all(rules, environment, this, index, &mut overlay)?;
    }
    Ok(traces)
}

fn tracer(options: &GethDebugTracingOptions) -> Result<DebugInspector, TraceError> {
    DebugInspector::new(options.clone()).map_err(wrong_options)
}

fn wrong_options(error: revm_inspectors::tracing::DebugInspectorError) -> TraceError {
    TraceError::Options(error.to_string())
}

fn run_all<V: StateView>(
    rules: &Rules,
    environment: &Environment,
    transactions: &[Arc<Transaction>],
    first: usize,
    overlay: &mut Overlay<V>,
) -> Result<(), TraceError> {
    let mut engine = Engine::new(rules, environment, Mode::Shard, overlay);
    for (i, transaction) in transactions.iter().enumerate() {
        if let Ran::Invalid(reason) = engine.run(transaction)? {
            let index = first + i;
            return Err(TraceError::Transaction { index, reason });
        }
    }
    Ok(())
}

struct Session<'a> {
    rules: &'a Rules,
    environment: &'a Environment,
    place: Place,
    budget: &'a TraceBudget,
}

impl Session<'_> {
    /// Runs one transaction under the tracer, on the overlay as it stands, which stays as it is.
    fn trace<V: StateView>(
        &self,
        tracer: &mut DebugInspector,
        overlay: &Overlay<V>,
        index: usize,
        transaction: &Transaction,
    ) -> Result<GethTrace, TraceError> {
        let block = block_env(self.environment);
        let env = tx_env(transaction);
        let mut evm = Context::mainnet()
            .with_cfg(self.rules.cfg())
            .with_block(block.clone())
            .with_db(WrapDatabaseRef(overlay))
            .build_mainnet_with_inspector((Bounded::new(tracer, self.budget), &mut *tracer));
        evm.ctx.tx = env.clone();
        let outcome = Runner::new(Mode::Shard).inspect_run(&mut evm);
        let state = evm.ctx.journaled_state.finalize();
        drop(evm);
        if self.budget.get().is_none() {
            return Err(TraceError::TooLarge);
        }
        let result = outcome.map_err(|error| match error {
            EVMError::Database(unavailable) => TraceError::Unavailable(unavailable),
            other => TraceError::Transaction {
                index,
                reason: Invalid::Other(other.to_string()),
            },
        })?;
        let context = TransactionContext {
            block_hash: Some(self.place.block_hash),
            tx_index: Some(self.place.first_index + index),
            tx_hash: Some(transaction.hash),
        };
        let result = ResultAndState::new(result, state);
        tracer
            .get_result(Some(context), &env, &block, &result, &mut &*overlay)
            .map_err(|error| TraceError::Unavailable(Unavailable(error.to_string())))
    }
}
