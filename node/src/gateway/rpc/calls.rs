//! Calls, estimates, access lists and traces: on the state of a block, on blocking threads, bounded in number and time.

use super::error::{self, internal, invalid_params, no_block, server};
use super::{Answer, method};
use crate::execution::{
    self, CallError, CallOutcome, GethDebugTracingOptions, GethTrace, MAX_TRACE_BYTES, Place,
    Rules, TraceBudget,
};
use crate::gateway::Gateway;
use crate::gateway::chain::{Block, StoreView};
use crate::gateway::limits::{CALL_TIMEOUT, MAX_CALLS};
use alloy_eips::BlockId;
use alloy_primitives::{B256, U64, U256};
use alloy_rpc_types_eth::TransactionRequest;
use alloy_rpc_types_eth::state::StateOverride;
use jsonrpsee::RpcModule;
use jsonrpsee::types::{ErrorObjectOwned, Params};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use troika_proto::{Environment, Header};

pub(super) fn register(module: &mut RpcModule<Gateway>) {
    method(module, "eth_call", |gateway, params| async move {
        let (request, block, overrides) = call_params(&params)?;
        let run = move |site: &Site| {
            let overrides = overrides.as_ref();
            execution::call(
                &site.rules,
                &site.environment,
                &request,
                overrides,
                site.view.clone(),
            )
        };
        match gateway.on_block(block, run).await?.map_err(error::call)? {
            CallOutcome::Success { output, .. } => Ok(output),
            CallOutcome::Revert { output, .. } => Err(error::reverted(&output)),
            CallOutcome::Halt { reason, .. } => Err(server(reason)),
        }
    });
    method(module, "eth_estimateGas", |gateway, params| async move {
        let (request, block, overrides) = call_params(&params)?;
        let run = move |site: &Site| {
            let overrides = overrides.as_ref();
            execution::estimate_gas(
                &site.rules,
                &site.environment,
                &request,
                overrides,
                site.view.clone(),
            )
        };
        let gas = gateway.on_block(block, run).await?.map_err(error::call)?;
        Ok(U256::from(gas))
    });
    method(
        module,
        "eth_createAccessList",
        |gateway, params| async move {
            let (request, block, overrides) = call_params(&params)?;
            let run = move |site: &Site| {
                let overrides = overrides.as_ref();
                let (rules, environment) = (&site.rules, &site.environment);
                execution::create_access_list(
                    rules,
                    environment,
                    &request,
                    overrides,
                    site.view.clone(),
                )
            };
            let found = gateway.on_block(block, run).await?.map_err(error::call)?;
            let mut answer = json!({
                "accessList": found.access_list,
                "gasUsed": U64::from(found.gas),
            });
            if let Some(error) = found.error {
                answer["error"] = error.into();
            }
            Ok(answer)
        },
    );
    method(
        module,
        "debug_traceTransaction",
        |gateway, params| async move {
            let mut params = params.sequence();
            let hash: B256 = params.next()?;
            let options: Option<GethDebugTracingOptions> = params.optional_next()?;
            gateway
                .trace_transaction(hash, options.unwrap_or_default())
                .await
        },
    );
    for name in ["debug_traceBlockByNumber", "debug_traceBlockByHash"] {
        method(module, name, |gateway, params| async move {
            let mut params = params.sequence();
            let block: BlockId = params.next()?;
            let options: Option<GethDebugTracingOptions> = params.optional_next()?;
            gateway
                .trace_block(block, options.unwrap_or_default())
                .await
        });
    }
}

fn call_params(
    params: &Params<'_>,
) -> Answer<(TransactionRequest, BlockId, Option<StateOverride>)> {
    let mut params = params.sequence();
    let request: TransactionRequest = params.next()?;
    let block: Option<BlockId> = params.optional_next()?;
    let overrides: Option<StateOverride> = params.optional_next()?;
    if let (Some(input), Some(data)) = (&request.input.input, &request.input.data)
        && input != data
    {
        return Err(invalid_params(
            "both \"data\" and \"input\" are set and not equal. Please use \"input\" to pass transaction call data",
        ));
    }
    Ok((request, block.unwrap_or_default(), overrides))
}

/// Where a call runs.
struct Site {
    rules: Rules,
    environment: Environment,
    view: Arc<StoreView>,
}

impl Gateway {
    /// What transactions of the block with this header saw.
    fn environment(&self, header: &Header) -> Environment {
        self.config.execution_environment(&Environment {
            number: header.number,
            timestamp: header.timestamp,
            base_fee: header.base_fee,
            prev_randao: header.prev_randao,
            gas_limit: header.gas_limit,
            beneficiary: header.beneficiary,
        })
    }

    /// Runs on the state after a block, in that block's environment.
    async fn on_block<R: Send + 'static>(
        &self,
        block: BlockId,
        run: impl Fn(&Site) -> Result<R, CallError> + Send + 'static,
    ) -> Answer<Result<R, CallError>> {
        let head = self.head();
        let (hash, header) =
            if block.is_number() && block.as_u64().is_none() && !block.is_earliest() {
                (head.hash, head.header.clone())
            } else {
                let found = self.find_block(block).await?.ok_or_else(no_block)?;
                (found.hash, found.header.clone())
            };
        let site = Site {
            rules: self.rules.clone(),
            environment: self.environment(&header),
            view: self.call_view(hash),
        };
        let unavailable =
            |result: &Result<R, CallError>| matches!(result, Err(CallError::Unavailable(_)));
        self.bounded(move || site.view.batched(unavailable, || run(&site)))
            .await
    }

    /// The state after a block for as long as anybody waits for a call: what runs on reads nothing more.
    fn call_view(&self, block: B256) -> Arc<StoreView> {
        Arc::new(self.view(block).until(Instant::now() + CALL_TIMEOUT))
    }

    /// Runs on a blocking thread, when there is room, and gives up waiting after [`CALL_TIMEOUT`].
    async fn bounded<R: Send + 'static>(
        &self,
        run: impl FnOnce() -> R + Send + 'static,
    ) -> Answer<R> {
        let room = self.calls.clone();
        let running = async move {
            let permit = room.acquire_owned().await.map_err(internal)?;
            let work = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                run()
            });
            work.await.map_err(internal)
        };
        let answer = timeout(CALL_TIMEOUT, running).await;
        answer.unwrap_or_else(|_| Err(no_time()))
    }

    /// Room for something that reads much, when there is some.
    pub(super) async fn room(&self) -> Answer<OwnedSemaphorePermit> {
        let room = timeout(CALL_TIMEOUT, self.calls.clone().acquire_owned()).await;
        room.map_err(|_| no_time())?.map_err(internal)
    }

    async fn trace_transaction(
        &self,
        hash: B256,
        options: GethDebugTracingOptions,
    ) -> Answer<GethTrace> {
        let found = self.find_transaction(hash).await?;
        let (block, at) = found.ok_or_else(|| server("transaction not found"))?;
        let shard = block.transactions[at].shard;
        let first = block.shards[shard].first_transaction;
        let (rules, environment) = (self.rules.clone(), self.environment(&block.header));
        let view = self.call_view(block.header.parent_hash);
        let cache = self.recovered.clone();
        let traced = self.bounded(move || {
            let txs = block.recovered(&cache).map_err(internal)?;
            let txs = &txs[first..=at];
            let place = place(&block, first);
            let traced = view.batched(TraceResult::is_unavailable, || {
                let (view, budget) = (view.clone(), TraceBudget::new(Some(MAX_TRACE_BYTES)));
                let options = (&options, &budget);
                execution::trace(&rules, &environment, txs, at - first, place, options, view)
            });
            traced.map_err(trace_error)
        });
        traced.await?
    }

    async fn trace_block(
        &self,
        id: BlockId,
        options: GethDebugTracingOptions,
    ) -> Answer<Vec<Value>> {
        let block = self.find_block(id).await?.ok_or_else(no_block)?;
        let (rules, environment) = (self.rules.clone(), self.environment(&block.header));
        let cache = self.recovered.clone();
        let views: Vec<Arc<StoreView>> = block
            .shards
            .iter()
            .map(|_| self.call_view(block.header.parent_hash))
            .collect();
        let traced = self.bounded(move || {
            let txs = block.recovered(&cache).map_err(internal)?;
            let mut traces = Vec::with_capacity(txs.len());
            let budget = TraceBudget::new(Some(MAX_TRACE_BYTES));
            for (shard, view) in block.shards.iter().zip(views) {
                let first = shard.first_transaction;
                let of_shard = &txs[first..first + shard.header.transaction_count as usize];
                let place = place(&block, first);
                let left = budget.get();
                let traced = view.batched(TraceResult::is_unavailable, || {
                    // What an attempt has recorded that comes to nothing is gone.
                    budget.set(left);
                    let (view, options) = (view.clone(), (&options, &budget));
                    execution::trace_shard(&rules, &environment, of_shard, place, options, view)
                });
                for (tx, trace) in of_shard.iter().zip(traced.map_err(trace_error)?) {
                    traces.push(json!({ "txHash": tx.hash, "result": trace }));
                }
            }
            Ok(traces)
        });
        traced.await?
    }
}

fn no_time() -> ErrorObjectOwned {
    server(format!(
        "execution timeout: {} s (CALL_TIMEOUT), with at most {MAX_CALLS} calls at one time (MAX_CALLS)",
        CALL_TIMEOUT.as_secs()
    ))
}

/// Tells a trace that could not be read from one that there is none of.
trait TraceResult {
    fn is_unavailable(&self) -> bool;
}

impl<T> TraceResult for Result<T, execution::TraceError> {
    fn is_unavailable(&self) -> bool {
        matches!(self, Err(execution::TraceError::Unavailable(_)))
    }
}

fn place(block: &Block, first_index: usize) -> Place {
    Place {
        block_hash: block.hash,
        first_index,
    }
}

fn trace_error(fault: execution::TraceError) -> ErrorObjectOwned {
    match fault {
        execution::TraceError::Options(_) => invalid_params(fault.to_string()),
        execution::TraceError::Unavailable(_) => internal(fault),
        execution::TraceError::TooLarge => error::limit(fault.to_string()),
        other => server(other.to_string()),
    }
}
