//! Filters that are polled: for clients over HTTP, who cannot subscribe.
//!
//! [`Filters`] is a bounded table; one that nobody asks for expires. It lives in this gateway's memory alone: a client that
//! is told that its filter is not found makes a new one, as with any Ethereum node.

use super::error::{invalid_params, limit, pruned, server, store};
use super::{Answer, method};
use crate::gateway::Gateway;
use crate::gateway::limits::{FILTER_EXPIRY, MAX_FILTERS, READ_AHEAD};
use crate::store_client::BlockId;
use alloy_primitives::B256;
use alloy_rpc_types_eth::{Filter, FilterBlockOption};
use futures::{StreamExt, TryStreamExt, stream};
use jsonrpsee::RpcModule;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::PoisonError;
use std::time::Instant;
use tokio::sync::broadcast::{self, error::TryRecvError};

pub(super) fn register(module: &mut RpcModule<Gateway>) {
    method(module, "eth_newFilter", |gateway, params| async move {
        let filter: Filter = params.one()?;
        if matches!(filter.block_option, FilterBlockOption::AtBlockHash(_)) {
            return Err(invalid_params(
                "a filter is of a range, not of one block: ask eth_getLogs",
            ));
        }
        let next = gateway.head().header.number + 1;
        gateway.new_filter(Kind::Logs(Box::new(filter), next))
    });
    method(module, "eth_newBlockFilter", |gateway, _| async move {
        let next = gateway.head().header.number + 1;
        gateway.new_filter(Kind::Blocks(next))
    });
    method(
        module,
        "eth_newPendingTransactionFilter",
        |gateway, _| async move {
            let entered = gateway.entered.subscribe();
            gateway.new_filter(Kind::Pending(entered))
        },
    );
    method(
        module,
        "eth_uninstallFilter",
        |gateway, params| async move {
            let id: String = params.one()?;
            Ok(gateway.filters(|filters| filters.remove(&id)))
        },
    );
    method(
        module,
        "eth_getFilterChanges",
        |gateway, params| async move {
            let id: String = params.one()?;
            gateway.filter_changes(&id).await
        },
    );
    method(module, "eth_getFilterLogs", |gateway, params| async move {
        let id: String = params.one()?;
        let filter = gateway.filters(|filters| match &filters.poll(&id, Instant::now())?.kind {
            Kind::Logs(filter, _) => Some(filter.clone()),
            Kind::Blocks(_) | Kind::Pending(_) => None,
        });
        let filter = filter.ok_or_else(not_found)?;
        gateway.logs(&filter).await
    });
}

fn not_found() -> jsonrpsee::types::ErrorObjectOwned {
    server("filter not found")
}

/// What a filter lets through, and where the next poll begins: a block's number, or a place in the stream.
enum Kind {
    Logs(Box<Filter>, u64),
    Blocks(u64),
    Pending(broadcast::Receiver<B256>),
}

struct Held {
    kind: Kind,
    polled: Instant,
}

/// The filters of all clients, at most [`MAX_FILTERS`].
#[derive(Default)]
pub struct Filters {
    held: HashMap<String, Held>,
    made: u64,
    random: RandomState,
}

impl Filters {
    /// `None`: there is no room, also not by what has expired.
    fn insert(&mut self, kind: Kind, now: Instant) -> Option<String> {
        self.held.retain(|_, held| !held.is_expired(now));
        if self.held.len() >= MAX_FILTERS {
            return None;
        }
        self.made += 1;
        let id = format!("{:#x}", self.random.hash_one(self.made));
        self.held.insert(id.clone(), Held { kind, polled: now });
        Some(id)
    }

    fn poll(&mut self, id: &str, now: Instant) -> Option<&mut Held> {
        let held = self.held.get_mut(id).filter(|held| !held.is_expired(now))?;
        held.polled = now;
        Some(held)
    }

    fn remove(&mut self, id: &str) -> bool {
        self.held.remove(id).is_some()
    }
}

impl Held {
    fn is_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.polled) > FILTER_EXPIRY
    }
}

/// What a poll has to read.
enum Wanted {
    Logs(Box<Filter>, u64),
    Blocks(u64),
    Hashes(Vec<B256>),
}

impl Gateway {
    /// Works on the filters; never across an await.
    fn filters<R>(&self, f: impl FnOnce(&mut Filters) -> R) -> R {
        f(&mut self.filters.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn new_filter(&self, kind: Kind) -> Answer<String> {
        let id = self.filters(|filters| filters.insert(kind, Instant::now()));
        id.ok_or_else(|| {
            limit(format!(
                "{MAX_FILTERS} filters (MAX_FILTERS) are in use: remove some, or wait"
            ))
        })
    }

    async fn filter_changes(&self, id: &str) -> Answer<Value> {
        let wanted = self.filters(|filters| {
            let held = filters.poll(id, Instant::now())?;
            Some(match &mut held.kind {
                Kind::Logs(filter, next) => Wanted::Logs(filter.clone(), *next),
                Kind::Blocks(next) => Wanted::Blocks(*next),
                Kind::Pending(entered) => Wanted::Hashes(drain(entered)),
            })
        });
        let head = self.head().header.number;
        let (changes, next) = match wanted.ok_or_else(not_found)? {
            Wanted::Hashes(hashes) => return Ok(json!(hashes)),
            Wanted::Logs(filter, next) => {
                (json!(self.new_logs(&filter, next, head).await?), head + 1)
            }
            Wanted::Blocks(next) => (json!(self.hashes(next, head).await?), head + 1),
        };
        // Only what is answered is done with: a poll that failed is repeated.
        self.filters(
            |filters| match filters.held.get_mut(id).map(|held| &mut held.kind) {
                Some(Kind::Logs(_, at) | Kind::Blocks(at)) => *at = next.max(*at),
                Some(Kind::Pending(_)) | None => {}
            },
        );
        Ok(changes)
    }

    /// Those of new blocks that are within the filter's range.
    async fn new_logs(
        &self,
        filter: &Filter,
        next: u64,
        head: u64,
    ) -> Answer<Vec<alloy_rpc_types_eth::Log>> {
        let first = filter.get_from_block().unwrap_or(0).max(next);
        let last = filter.get_to_block().unwrap_or(head).min(head);
        if first > last {
            return Ok(Vec::new());
        }
        self.logs_between(first, last, filter).await
    }

    async fn hashes(&self, next: u64, head: u64) -> Answer<Vec<B256>> {
        if next > head {
            return Ok(Vec::new());
        }
        super::logs::bounded(next, head)?;
        let read = |number| async move {
            let block = self.chain.block(BlockId::Number(number)).await;
            let block = block.map_err(store)?.ok_or_else(|| pruned(number))?;
            Ok(block.hash)
        };
        let reads = stream::iter((next..=head).map(read));
        reads.buffered(READ_AHEAD).try_collect().await
    }
}

/// What has come; where too much has, the oldest of it is missing.
fn drain(entered: &mut broadcast::Receiver<B256>) -> Vec<B256> {
    let mut hashes = Vec::new();
    loop {
        match entered.try_recv() {
            Ok(hash) => hashes.push(hash),
            Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return hashes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn filters_are_bounded_in_number_and_expire_when_nobody_polls() {
        let mut filters = Filters::default();
        let start = Instant::now();
        let first = filters.insert(Kind::Blocks(1), start).expect("room");
        let polled = filters.insert(Kind::Blocks(1), start).expect("room");
        assert_ne!(first, polled);
        for _ in 2..MAX_FILTERS {
            assert!(filters.insert(Kind::Blocks(1), start).is_some());
        }
        assert_eq!(filters.insert(Kind::Blocks(1), start), None);
        assert!(filters.poll(&polled, start + FILTER_EXPIRY).is_some());
        let later = start + FILTER_EXPIRY + Duration::from_secs(1);
        assert!(filters.poll(&first, later).is_none());
        assert!(filters.poll(&polled, later).is_some());
        assert!(filters.insert(Kind::Blocks(1), later).is_some());
        assert_eq!(filters.held.len(), 2);
        assert!(filters.remove(&polled) && !filters.remove(&polled));
    }
}
