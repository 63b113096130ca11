//! `txpool_*`: what waits, in Geth's form. `pending` is what can be executed now, `queued` what stands behind a gap or below
//! the base fee; each by sender and nonce.

use super::error::{internal, limit};
use super::{Answer, method, shapes};
use crate::execution::Transaction;
use crate::gateway::Gateway;
use crate::gateway::limits::MAX_POOL_CONTENT;
use alloy_primitives::{Address, Bytes, U64};
use jsonrpsee::RpcModule;
use serde_json::{Map, Value, json};

pub(super) fn register(module: &mut RpcModule<Gateway>) {
    method(module, "txpool_status", |gateway, _| async move {
        let counts = gateway.pool(|pool| pool.mempool().counts());
        Ok(json!({
            "pending": U64::from(counts.ready),
            "queued": U64::from(counts.queued),
        }))
    });
    method(module, "txpool_content", |gateway, _| async move {
        let waiting = gateway.waiting(None)?;
        shaped(waiting, whole, by_sender).await
    });
    method(module, "txpool_contentFrom", |gateway, params| async move {
        let waiting = gateway.waiting(Some(params.one()?))?;
        shaped(waiting, whole, by_nonce).await
    });
    method(module, "txpool_inspect", |gateway, _| async move {
        let waiting = gateway.waiting(None)?;
        shaped(waiting, summary, by_sender).await
    });
}

/// A transaction that waits.
struct Waiting {
    sender: Address,
    nonce: u64,
    raw: Bytes,
    /// Whether it can be executed now.
    ready: bool,
}

impl Gateway {
    /// What waits, of all senders or of one, by sender and nonce.
    fn waiting(&self, only: Option<Address>) -> Answer<Vec<Waiting>> {
        self.pool(|pool| {
            let mempool = pool.mempool();
            if only.is_none() && mempool.len() > MAX_POOL_CONTENT {
                return Err(limit(format!(
                    "{} transactions wait, more than {MAX_POOL_CONTENT} (MAX_POOL_CONTENT): ask with txpool_contentFrom",
                    mempool.len()
                )));
            }
            let senders = only.map_or_else(|| mempool.senders(), |sender| vec![sender]);
            let of_sender = |sender: Address| {
                let ready = mempool.ready(sender).count();
                let queue = mempool.queue(sender).enumerate();
                queue.map(move |(place, pooled)| Waiting {
                    sender,
                    nonce: pooled.nonce,
                    raw: pooled.raw.clone(),
                    ready: place < ready,
                })
            };
            Ok(senders.into_iter().flat_map(of_sender).collect())
        })
    }
}

/// Decodes and shows each, on a blocking thread, and arranges them.
async fn shaped(
    waiting: Vec<Waiting>,
    show: fn(&Transaction) -> Value,
    arrange: fn(&mut Map<String, Value>, &Waiting, Value),
) -> Answer<Value> {
    let work = tokio::task::spawn_blocking(move || {
        let (mut pending, mut queued) = (Map::new(), Map::new());
        for one in waiting {
            let tx = Transaction::with_sender(one.raw.clone(), one.sender).map_err(internal)?;
            let into = if one.ready { &mut pending } else { &mut queued };
            arrange(into, &one, show(&tx));
        }
        Ok(json!({ "pending": pending, "queued": queued }))
    });
    work.await.map_err(internal)?
}

fn by_nonce(into: &mut Map<String, Value>, waiting: &Waiting, shown: Value) {
    into.insert(waiting.nonce.to_string(), shown);
}

fn by_sender(into: &mut Map<String, Value>, waiting: &Waiting, shown: Value) {
    let sender = waiting.sender.to_string();
    let of_sender = into.entry(sender).or_insert_with(|| json!({}));
    if let Value::Object(of_sender) = of_sender {
        by_nonce(of_sender, waiting, shown);
    }
}

fn whole(tx: &Transaction) -> Value {
    json!(shapes::transaction(tx, None))
}

/// Geth's words.
fn summary(tx: &Transaction) -> Value {
    let to = tx.to().map(|to| to.to_string());
    let to = to.as_deref().unwrap_or("contract creation");
    let (value, gas, price) = (tx.value(), tx.gas_limit(), tx.max_fee());
    format!("{to}: {value} wei + {gas} gas × {price} wei").into()
}
