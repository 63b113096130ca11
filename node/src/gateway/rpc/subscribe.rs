//! `eth_subscribe` over WebSocket: new heads, logs, new pending transactions.

use super::error::invalid_params;
use super::{logs, shapes};
use crate::execution::Transaction;
use crate::gateway::Gateway;
use alloy_primitives::B256;
use alloy_rpc_types_eth::Filter;
use jsonrpsee::RpcModule;
use jsonrpsee::core::SubscriptionError;
use jsonrpsee::server::{PendingSubscriptionSink, SubscriptionSink};
use jsonrpsee::types::{ErrorObjectOwned, Params};
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::broadcast::{self, error::RecvError};

/// What a client wants to hear of.
enum Kind {
    NewHeads,
    Logs(Box<Filter>),
    /// True: with the whole transaction.
    NewPendingTransactions(bool),
    /// There is never anything to say.
    Syncing,
}

pub(super) fn register(module: &mut RpcModule<Gateway>) {
    let registered = module.register_subscription(
        "eth_subscribe",
        "eth_subscription",
        "eth_unsubscribe",
        |params, pending, gateway, _| serve(params, pending, gateway),
    );
    registered.expect("each method is registered once");
}

fn kind(params: &Params<'_>) -> Result<Kind, ErrorObjectOwned> {
    let mut params = params.sequence();
    let name: String = params.next()?;
    match name.as_str() {
        "newHeads" => Ok(Kind::NewHeads),
        "logs" => {
            let filter: Option<Filter> = params.optional_next()?;
            Ok(Kind::Logs(Box::new(filter.unwrap_or_default())))
        }
        "newPendingTransactions" => {
            let full: Option<bool> = params.optional_next()?;
            Ok(Kind::NewPendingTransactions(full.unwrap_or(false)))
        }
        "syncing" => Ok(Kind::Syncing),
        other => Err(invalid_params(format!(
            "no \"{other}\" subscription in eth namespace"
        ))),
    }
}

async fn serve(
    params: Params<'static>,
    pending: PendingSubscriptionSink,
    gateway: Arc<Gateway>,
) -> Result<(), SubscriptionError> {
    let kind = match kind(&params) {
        Ok(kind) => kind,
        Err(error) => {
            pending.reject(error).await;
            return Ok(());
        }
    };
    // Listen first, accept then: what happens in between is heard.
    let (heads, entered) = (gateway.heads(), gateway.entered.subscribe());
    let sink = pending.accept().await?;
    match kind {
        Kind::NewHeads => forward(&sink, heads, |block| vec![shapes::header(&block)]).await,
        Kind::Logs(filter) => forward(&sink, heads, |block| logs::matching(&block, &filter)).await,
        Kind::NewPendingTransactions(false) => forward(&sink, entered, |hash| vec![hash]).await,
        Kind::NewPendingTransactions(true) => {
            forward(&sink, entered, |hash| gateway.pending_transaction(hash)).await
        }
        Kind::Syncing => {
            sink.closed().await;
            Ok(())
        }
    }
}

/// Sends what `shape` makes of each item. A subscriber that falls too far behind is closed, rather than fed with gaps.
async fn forward<T: Clone, R: Serialize>(
    sink: &SubscriptionSink,
    mut items: broadcast::Receiver<T>,
    shape: impl Fn(T) -> Vec<R>,
) -> Result<(), SubscriptionError> {
    loop {
        let item = tokio::select! {
            () = sink.closed() => return Ok(()),
            item = items.recv() => item,
        };
        let item = match item {
            Ok(item) => item,
            Err(RecvError::Lagged(missed)) => {
                return Err(format!("the subscriber is {missed} notifications behind").into());
            }
            Err(RecvError::Closed) => return Ok(()),
        };
        for value in shape(item) {
            let json = serde_json::value::to_raw_value(&value)?;
            if sink.send(json).await.is_err() {
                return Ok(());
            }
        }
    }
}

impl Gateway {
    fn pending_transaction(&self, hash: B256) -> Vec<shapes::RpcTransaction> {
        let pooled = self.pool(|pool| pool.mempool().get(&hash).map(|p| (p.raw.clone(), p.sender)));
        let tx = pooled.and_then(|(raw, sender)| Transaction::with_sender(raw, sender).ok());
        tx.iter().map(|tx| shapes::transaction(tx, None)).collect()
    }
}
