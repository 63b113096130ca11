//! Following the head: each sealed block updates the pool, then becomes what readers see.

use super::chain::Sealed;
use super::limits::{RECONNECT_MAX, RECONNECT_MIN};
use super::pool::{SealedBlock, next_base_fee};
use super::routing::call_of;
use super::{Gateway, HeadView};
use crate::store_client::{EventId, EventKind, Head, RoundKind, ShardFilter, StoreError};
use alloy_primitives::{B256, Bytes};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::time::sleep;

/// Why following starts anew.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Watch(#[from] crate::store_client::WatchError),
    #[error("block {0} is no longer kept")]
    Gone(B256),
}

/// Follows the head for ever, from `head` on. Where history is gone it starts anew from the head.
pub(super) async fn follow(gateway: Arc<Gateway>, head: Head) {
    let mut pause = RECONNECT_MIN;
    let mut next = Some(head);
    loop {
        let head = match next.take() {
            Some(head) => Ok(head),
            None => gateway.chain.client().head().await,
        };
        let interrupted = match head {
            Ok(head) => {
                let from = gateway.head().hash;
                let interrupted = gateway.follow_from(&head).await;
                if gateway.head().hash != from {
                    pause = RECONNECT_MIN;
                }
                interrupted
            }
            Err(error) => error.into(),
        };
        tracing::warn!(%interrupted, "following the head starts anew");
        sleep(pause).await;
        pause = (pause * 2).min(RECONNECT_MAX);
    }
}

impl Gateway {
    /// Returns only where it cannot go on.
    async fn follow_from(&self, head: &Head) -> Interrupted {
        if let Err(error) = self.restart(head).await {
            return error.into();
        }
        let after = EventId::end_of(head.revision);
        let client = self.chain.client();
        let mut watch = client.watch(Some(after), ShardFilter::None);
        loop {
            let batch = match watch.next().await {
                Ok(batch) => batch,
                Err(error) => return error.into(),
            };
            for event in batch.events {
                if let Err(interrupted) = self.take_event(event.kind).await {
                    return interrupted;
                }
            }
        }
    }

    /// Takes over a head without the blocks before it.
    async fn restart(&self, head: &Head) -> Result<(), StoreError> {
        let base_fee = next_base_fee(&self.config, &head.header);
        let round = head.open_round.unwrap_or_default();
        let senders = self.pool(|pool| pool.restart(head.hash, base_fee, round));
        let states = self.read_accounts(head.hash, &senders).await?;
        self.pool(|pool| {
            for (sender, state) in states {
                pool.catch_up(sender, state);
            }
        });
        self.head.store(Arc::new(HeadView {
            hash: head.hash,
            header: head.header.clone(),
        }));
        self.dirty.notify_one();
        Ok(())
    }

    async fn take_event(&self, event: EventKind) -> Result<(), Interrupted> {
        match event {
            EventKind::RoundOpened(round) if round.kind == RoundKind::Build => {
                self.pool(|pool| pool.round_opened(round.number));
            }
            EventKind::RoundSealed {
                block_hash,
                head: true,
                ..
            } => {
                let sealed = self.chain.sealed(block_hash).await?;
                self.take_block(&sealed.ok_or(Interrupted::Gone(block_hash))?);
            }
            _ => {}
        }
        Ok(())
    }

    fn take_block(&self, sealed: &Sealed) {
        let block = &sealed.block;
        let included: HashSet<B256> = block.transactions.iter().map(|t| t.hash).collect();
        let of_head = (block.hash, &block.header);
        let (diff, fees) = (&sealed.merged, sealed.fees);
        self.pool(|pool| {
            learn(pool.history_mut(), sealed);
            let config = &self.config;
            pool.sealed(&SealedBlock::new(
                config,
                of_head,
                block.round,
                (diff, fees),
                &included,
            ));
        });
        self.head.store(Arc::new(HeadView {
            hash: block.hash,
            header: block.header.clone(),
        }));
        self.dirty.notify_one();
        // Nobody may be listening.
        let _ = self.heads.send(block.clone());
    }
}

/// Teaches the history what the calls of each shard wrote.
fn learn(history: &mut super::routing::History, sealed: &Sealed) {
    let mut rest = sealed.block.transactions.as_slice();
    for (shard, diff) in sealed.block.shards.iter().zip(&sealed.diffs) {
        let count = rest.len().min(shard.header.transaction_count as usize);
        let (of_shard, after) = rest.split_at(count);
        rest = after;
        let calls = of_shard
            .iter()
            .filter(|t| !t.receipt.logs.is_empty() || t.gas_used > 21_000);
        history.learn(calls.map(|t| (call_in(&t.raw), &t.receipt)), diff);
    }
}

/// The call that an envelope makes, without recovering its sender.
fn call_in(raw: &Bytes) -> Option<super::routing::Call> {
    use alloy_consensus::Transaction as _;
    use alloy_eips::eip2718::Decodable2718 as _;
    let envelope = crate::execution::Envelope::decode_2718_exact(raw).ok()?;
    call_of(envelope.to(), envelope.input())
}
