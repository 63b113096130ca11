//! Proposals for the race, prepared before the clock starts.
//!
//! Making proposals is the executors' work, not the store's, so what is costly in it (tries and hashes) is done ahead.
//! Every submission carries other transactions; diffs are shared: a shard writes the same four slots in every round, so
//! that the state does not grow, with values that differ from the block before.

use super::account;
use alloy_primitives::{B256, U256};
use bytes::{BufMut, Bytes, BytesMut};
use troika_proto::limits::MAX_TRANSACTION_BYTES;
use troika_proto::wire::hash_bytes;
use troika_proto::{
    AccountDiff, Diff, LockRule, Receipt, ShardBody, ShardHeader, ordered_root, v1,
};

/// Lock keys of every proposal: slots of the shard's account.
const LOCK_KEYS: u64 = 4;
/// Values cycle with this period in rounds. Of four rounds in a row at most two are left partial (the last ones of a
/// warm-up and of a run), so a slot's value always differs from the parent's.
const ROUND_CYCLE: u64 = 4;
/// What each transaction starts with: run, slot, racer and part, so that no two are equal.
const STAMP_BYTES: usize = 24;
/// Gas of each transaction.
const GAS: u64 = 21_000;

/// All that is needed to make any proposal of a run cheaply.
pub(super) struct Pool {
    run: u64,
    racers: u64,
    shards: u64,
    /// Sizes of a proposal's transactions, bytes.
    part_bytes: Vec<usize>,
    receipts: Vec<v1::Receipt>,
    receipts_root: Bytes,
    bloom: Bytes,
    /// By slot and racer.
    transaction_roots: Vec<B256>,
    /// By round in its cycle, shard and racer: the diff and its root.
    diffs: Vec<(v1::Diff, Bytes)>,
    names: Vec<String>,
}

impl Pool {
    /// Prepares proposals of `bytes` bytes of transactions for `slots` slots.
    pub(super) fn new(run: u64, shards: u32, slots: u64, racers: u32, bytes: usize) -> Self {
        let parts = bytes.div_ceil(MAX_TRANSACTION_BYTES).max(1);
        let part_bytes = (0..parts)
            .map(|i| bytes / parts + usize::from(i < bytes % parts))
            .collect::<Vec<_>>();
        let receipts: Vec<Receipt> = (0..parts as u64)
            .map(|i| Receipt {
                success: true,
                cumulative_gas: GAS * (i + 1),
                ..Receipt::default()
            })
            .collect();
        let body = ShardBody {
            receipts: receipts.clone(),
            ..ShardBody::default()
        };
        let header = ShardHeader::of(0, &body, U256::ZERO, LockRule::Commuting);
        let mut pool = Self {
            run,
            racers: racers.into(),
            shards: shards.into(),
            part_bytes,
            receipts: receipts.iter().map(Into::into).collect(),
            receipts_root: hash_bytes(header.receipts_root),
            bloom: Bytes::from_static(&[0; 256]),
            transaction_roots: Vec::new(),
            diffs: Vec::new(),
            names: (0..racers).map(|r| format!("bench-{r}")).collect(),
        };
        let used_shards = slots.min(shards.into());
        pool.diffs = parallel(ROUND_CYCLE * used_shards * pool.racers, |i| {
            let racer = i % pool.racers;
            let shard = i / pool.racers % used_shards;
            let cycle = i / pool.racers / used_shards;
            diff(shard as u32, 1 + cycle * pool.racers + racer)
        });
        pool.transaction_roots = parallel(slots * pool.racers, |n| {
            ordered_root(&pool.transactions(n / pool.racers, n % pool.racers))
        });
        pool
    }

    /// The transactions of a racer for a slot.
    fn transactions(&self, slot: u64, racer: u64) -> Vec<Bytes> {
        let total = self.part_bytes.iter().sum();
        let mut buffer = BytesMut::with_capacity(total);
        let mut parts = Vec::with_capacity(self.part_bytes.len());
        for (i, bytes) in self.part_bytes.iter().enumerate() {
            // 0x7f: no EIP-2718 envelope starts so.
            buffer.put_u64(0x7f << 56 | (self.run & ((1 << 56) - 1)));
            buffer.put_u64(slot);
            buffer.put_u64(racer << 32 | i as u64);
            buffer.put_bytes(racer as u8, bytes - STAMP_BYTES);
            parts.push(buffer.split().freeze());
        }
        parts
    }

    /// A racer's submission for a slot, in the round with number `round`.
    pub(super) fn request(&self, slot: u64, racer: u64, round: u64) -> v1::SubmitRequest {
        let shard = slot % self.shards;
        let used_shards = (self.diffs.len() as u64) / ROUND_CYCLE / self.racers;
        let cycle = round % ROUND_CYCLE;
        let (diff, diff_root) =
            &self.diffs[((cycle * used_shards + shard) * self.racers + racer) as usize];
        let transactions_root = self.transaction_roots[(slot * self.racers + racer) as usize];
        v1::SubmitRequest {
            meta: None,
            id: 0,
            round,
            shard: shard as u32,
            executor: self.names[racer as usize].clone(),
            header: Some(v1::ShardHeader {
                version: ShardHeader::VERSION,
                index: shard as u32,
                transactions_root: hash_bytes(transactions_root),
                receipts_root: self.receipts_root.clone(),
                transaction_count: self.part_bytes.len() as u32,
                log_count: 0,
                logs_bloom: self.bloom.clone(),
                diff_root: diff_root.clone(),
                gas_used: GAS * self.part_bytes.len() as u64,
                fees: Bytes::new(),
            }),
            body: Some(v1::ShardBody {
                transactions: self.transactions(slot, racer),
                receipts: self.receipts.clone(),
                diff: Some(diff.clone()),
            }),
            ..v1::SubmitRequest::default()
        }
    }
}

fn diff(shard: u32, value: u64) -> (v1::Diff, Bytes) {
    let slots = (0..LOCK_KEYS).map(|slot| (U256::from(slot), U256::from(value)));
    let account_diff = AccountDiff {
        slots: slots.collect(),
        ..AccountDiff::default()
    };
    let diff = Diff {
        accounts: [(account(shard), account_diff)].into(),
    };
    ((&diff).into(), hash_bytes(diff.root(LockRule::Commuting)))
}

/// `make(0), make(1), ...` on all cores.
fn parallel<T: Send>(count: u64, make: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let share = count.div_ceil(threads).max(1);
    let make = &make;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|t| {
                let range = (t * share).min(count)..((t + 1) * share).min(count);
                scope.spawn(move || range.map(make).collect::<Vec<T>>())
            })
            .collect();
        let parts = workers.into_iter().map(|worker| match worker.join() {
            Ok(part) => part,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        parts.flatten().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use troika_proto::Shard;

    #[test]
    fn every_prepared_proposal_passes_the_stores_check_and_differs() {
        for bytes in [24, 256, 300_000] {
            let pool = Pool::new(9, 4, 10, 3, bytes);
            let mut hashes = std::collections::BTreeSet::new();
            for slot in 0..10 {
                for racer in 0..3 {
                    let request = pool.request(slot, racer, 1 + slot / 4);
                    let header = ShardHeader::try_from(&request.header.unwrap()).unwrap();
                    let body = ShardBody::try_from(&request.body.unwrap()).unwrap();
                    assert_eq!(
                        body.transactions.iter().map(|t| t.len()).sum::<usize>(),
                        bytes
                    );
                    assert_eq!(body.diff.lock_keys(LockRule::Commuting).len(), 4);
                    let shard = Shard::check(header, body, LockRule::Commuting).unwrap();
                    assert!(hashes.insert(shard.hash), "slot {slot} racer {racer}");
                }
            }
        }
    }

    #[test]
    fn a_slot_gets_another_value_in_the_next_three_rounds() {
        let pool = Pool::new(9, 2, 2, 3, 24);
        let values = |round: u64| (0..3).map(move |racer| (round, racer)).collect::<Vec<_>>();
        let root = |(round, racer)| pool.request(0, racer, round).header.unwrap().diff_root;
        for later in 1..ROUND_CYCLE {
            for first in values(5) {
                for second in values(5 + later) {
                    assert_ne!(root(first), root(second));
                }
            }
        }
    }
}
