//! How rounds end: sealed into a block, or void.

use super::command::RoundKind;
use super::decision::{Decision, Refusal, RoundId};
use super::evidence::{Evidence, VoidReason};
use super::history::{EventKind, SealedEvent};
use super::layers::{Account, Changes, HeldBlock, StateAt};
use super::limits::BLOCK_HASHES;
use super::machine::Machine;
use super::open::{bad, digest_canonical};
use super::records::{Place, RecordKey, Value, block};
use super::round::{Accepted, CompactWinner, Live, NOBODY, RoundStatus, digest_held, sum_round};
use crate::mutant::{self, Mutant};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use troika_proto::v1::RefusalCode;
use troika_proto::{Address, B256, BlockTotals, Diff, Header, ShardHeader, U256, keccak};

impl Machine {
    pub(super) fn seal_round(&mut self, id: RoundId, waited_ms: u64) -> Result<Decision, Refusal> {
        let round = self.find_round(id)?;
        if round.kind != RoundKind::Build {
            let message = "a VERIFY round seals with its last shard, or is given up with void";
            return Err(Refusal::new(RefusalCode::WrongKind, message));
        }
        if !self.live.contains_key(&id) {
            return Ok(Decision::Closed(id));
        }
        self.after_seal_time(id, waited_ms)?;
        let chain = self.chain()?;
        let overtaken = round.parent != chain.head.hash;
        let revision = self.change();
        if overtaken {
            self.close_void(id, VoidReason::Stale, None);
        } else {
            self.fill(id, revision);
            self.complete(id);
        }
        Ok(Decision::Closed(id))
    }

    fn after_seal_time(&self, id: RoundId, waited_ms: u64) -> Result<(), Refusal> {
        let seal_after_ms = self.chain()?.config.seal_after_ms;
        if waited_ms >= seal_after_ms || mutant::on(Mutant::SealedEarly) {
            return Ok(());
        }
        let message =
            format!("round {id} is {waited_ms} ms old, it may end after {seal_after_ms} ms");
        Err(Refusal::new(RefusalCode::TooEarly, message))
    }

    /// Decides what is undecided with the empty shard, which nobody made.
    fn fill(&mut self, id: RoundId, revision: u64) {
        let (Some(chain), Some(live)) = (&self.chain, self.live.get_mut(&id)) else {
            return;
        };
        for (shard, empty) in chain.empty_shards().iter().enumerate() {
            if live.round.winners[shard].revision != 0 {
                continue;
            }
            let winner = CompactWinner {
                hash: empty.hash,
                revision,
                executor: NOBODY,
            };
            live.round.winners[shard] = winner;
            let digest = live.round.digest_winner(shard as u32, &winner);
            self.items.add(digest);
        }
        live.undecided = 0;
    }

    pub(super) fn void_round(
        &mut self,
        id: RoundId,
        reason: VoidReason,
        waited_ms: u64,
    ) -> Result<Decision, Refusal> {
        let round = self.find_round(id)?;
        if round.kind != RoundKind::Verify {
            let message = "nobody can void a BUILD round";
            return Err(Refusal::new(RefusalCode::WrongKind, message));
        }
        if !self.live.contains_key(&id) {
            return Ok(Decision::Closed(id));
        }
        match reason {
            VoidReason::Abandoned => {}
            VoidReason::Unavailable => self.after_seal_time(id, waited_ms)?,
            VoidReason::Stale | VoidReason::Invalid => {
                let message = "a call voids a round as UNAVAILABLE or ABANDONED only";
                return Err(Refusal::new(RefusalCode::WrongKind, message));
            }
        }
        self.change();
        self.close_void(id, reason, None);
        Ok(Decision::Closed(id))
    }

    /// All shards are decided: the block, or the reason why there is none, in the same step.
    pub(super) fn complete(&mut self, id: RoundId) {
        let (Some(chain), Some(live)) = (&self.chain, self.live.get(&id)) else {
            return;
        };
        let round = &live.round;
        let is_head = round.parent == chain.head.hash;
        let hashes: Vec<B256> = round.winners.iter().map(|w| w.hash).collect();
        let totals = BlockTotals::of(shard_headers(chain.empty_shards(), live), &hashes);
        let header = match &round.checked {
            None if !is_head => return self.close_void(id, VoidReason::Stale, None),
            None => Arc::new(build_header(live, &totals)),
            Some(checked) => {
                if let Some(evidence) = check_totals(&checked.header, &totals) {
                    return self.close_void(id, VoidReason::Invalid, Some(evidence));
                }
                checked.header.clone()
            }
        };
        let Some(parent) = chain.layers.at(&round.parent) else {
            return self.close_void(id, VoidReason::Unavailable, None);
        };
        let fees = (chain.config.beneficiary, totals.fees);
        let (changes, codes) = merge(&parent, live.accepted.iter().flatten(), fees);
        self.import(id, header, changes, codes, is_head);
    }

    /// Header, block, state and head move together.
    fn import(
        &mut self,
        id: RoundId,
        header: Arc<Header>,
        changes: Changes,
        codes: Vec<(B256, Bytes)>,
        is_head: bool,
    ) {
        let hash = header.hash();
        let Some(live) = self.close(id, RoundStatus::Sealed, hash) else {
            return;
        };
        let value = Value::Encoded(block::encode(&header, id));
        self.generation.put(RecordKey::Block(hash), value);
        for accepted in live.accepted.iter().flatten() {
            self.index_transactions(accepted, !is_head);
        }
        let Some(chain) = &mut self.chain else { return };
        let (generation, items) = (&mut self.generation, &mut self.items);
        for (code_hash, code) in codes {
            chain.layers.deploy(code_hash, code, generation, items);
        }
        let layers = &mut chain.layers;
        layers.push(header.clone(), hash, id, changes, generation, items);
        if is_head {
            chain.head = HeldBlock {
                hash,
                header: header.clone(),
                round: id,
            };
        }
        let head = chain.head.hash;
        layers.fold(&head, generation, items);
        if is_head {
            self.extend_canonical(header.number, hash, id);
        }
        self.tell(EventKind::RoundSealed(Arc::new(SealedEvent {
            round: id,
            header,
            head: is_head,
        })));
        self.end_orphans();
        self.forget_old_blocks();
    }

    fn index_transactions(&mut self, accepted: &Accepted, beside: bool) {
        let accept = &accepted.accept;
        for (index, hash) in accept.transaction_hashes.iter().enumerate() {
            let key = super::query::transaction_key(accept.round, beside, *hash);
            let place = Place {
                round: accept.round,
                shard: accept.shard,
                index: index as u32,
            };
            self.generation.put(key, Value::Place(place));
        }
    }

    /// Open rounds whose parent's state is gone cannot go on.
    fn end_orphans(&mut self) {
        let Some(chain) = &self.chain else { return };
        let orphans = self.live.values().filter_map(|live| {
            let gone = chain.layers.block(&live.round.parent).is_none();
            gone.then_some((live.round.id, live.round.kind))
        });
        for (id, kind) in orphans.collect::<Vec<_>>() {
            let reason = match kind {
                RoundKind::Build => VoidReason::Stale,
                RoundKind::Verify => VoidReason::Unavailable,
            };
            self.close_void(id, reason, None);
        }
    }

    /// Ends an open round without a block. An invalid block is barred for ever.
    pub(super) fn close_void(
        &mut self,
        id: RoundId,
        reason: VoidReason,
        evidence: Option<Evidence>,
    ) {
        let Some(live) = self.live.get(&id) else {
            return;
        };
        let hash = live.round.block_hash;
        let is_bad = evidence.as_ref().is_none_or(Evidence::is_of_the_block);
        self.close(id, RoundStatus::Void(reason, evidence), hash);
        if reason == VoidReason::Invalid && is_bad {
            self.bar(hash, id);
        }
        self.tell(EventKind::RoundVoided(id));
    }

    /// Moves a round to the closed ones, and gives back what only an open one needs.
    fn close(&mut self, id: RoundId, status: RoundStatus, block_hash: B256) -> Option<Live> {
        let mut live = self.live.remove(&id)?;
        live.round.status = status;
        live.round.closed_at = self.revision;
        live.round.block_hash = block_hash;
        for ((shard, revision), keys) in &live.held {
            self.items.remove(digest_held(id, *shard, *revision, keys));
            self.generation.delete(RecordKey::Held {
                round: id,
                shard: *shard,
                revision: *revision,
            });
        }
        self.items.add(live.round.digest_closed());
        let round = Arc::new(live.round.clone());
        self.generation
            .put(RecordKey::Round(id), Value::Round(round.clone()));
        self.closed.insert(id, round);
        Some(live)
    }

    pub(super) fn prune(&mut self, below: RoundId) -> Result<Decision, Refusal> {
        let head_round = self.chain()?.head.round;
        let oldest_open = self.live.keys().next().copied();
        let below = below
            .min(head_round)
            .min(oldest_open.unwrap_or(RoundId::MAX));
        let from = self.pruned_below.max(1);
        if below <= from {
            return Ok(Decision::Pruned(self.pruned_below));
        }
        self.change();
        self.pruned_below = below;
        let kept = self.closed.split_off(&below);
        let pruned = std::mem::replace(&mut self.closed, kept);
        let newest = pruned.values().map(|round| round.closed_at).max();
        for round in pruned.values() {
            self.forget(round);
        }
        let shards = |round| RecordKey::Shard { round, shard: 0 };
        self.generation.delete_range(shards(from), shards(below));
        let index = |round| super::query::transaction_key(round, false, B256::ZERO);
        if index(from) != index(below) {
            self.generation.delete_range(index(from), index(below));
        }
        let revision = newest.unwrap_or_default();
        self.history
            .trim(revision, &mut self.generation, &mut self.items);
        self.forget_old_blocks();
        self.tell(EventKind::Pruned(below));
        Ok(Decision::Pruned(below))
    }

    fn forget(&mut self, round: &super::round::Round) {
        sum_round(&mut self.items, round, false);
        self.generation.delete(RecordKey::Round(round.id));
        if self.built_on.get(&round.parent) == Some(&round.id) {
            self.built_on.remove(&round.parent);
        }
        let checks = self.checks.get(&round.block_hash);
        if checks.is_none_or(|checks| checks.newest != round.id) {
            return;
        }
        self.checks.remove(&round.block_hash);
        let number = round.environment.number;
        let beside = !self.is_canonical(number, &round.block_hash);
        if round.status == RoundStatus::Sealed && beside {
            self.generation.delete(RecordKey::Block(round.block_hash));
        }
    }

    /// Forgets canonical blocks whose round is pruned and which BLOCKHASH needs no more.
    fn forget_old_blocks(&mut self) {
        let Some(chain) = &self.chain else { return };
        let head = chain.head.header.number;
        while let Some((number, (hash, round))) = self.canonical.first_key_value()
            && number + BLOCK_HASHES < head
            && *round < self.pruned_below
        {
            let (number, hash) = (*number, *hash);
            self.items.remove(digest_canonical(number, &hash, *round));
            self.generation.delete(RecordKey::Canonical(number));
            self.generation.delete(RecordKey::Block(hash));
            self.canonical.remove(&number);
            self.oldest_block = number + 1;
        }
    }
}

/// The shards' headers in index order.
fn shard_headers<'a>(
    empty: &'a [troika_proto::Shard],
    live: &'a Live,
) -> impl Iterator<Item = &'a ShardHeader> {
    let decided = live.accepted.iter().zip(empty);
    decided.map(|(accepted, empty)| match accepted {
        Some(accepted) => &accepted.accept.proposal.header,
        None => &empty.header,
    })
}

fn build_header(live: &Live, totals: &BlockTotals) -> Header {
    let environment = &live.round.environment;
    Header {
        parent_hash: live.round.parent,
        beneficiary: environment.beneficiary,
        state_root: B256::ZERO,
        transactions_root: totals.transactions_root,
        receipts_root: totals.receipts_root,
        logs_bloom: totals.logs_bloom,
        number: environment.number,
        gas_limit: environment.gas_limit,
        gas_used: totals.gas_used,
        timestamp: environment.timestamp,
        shards_root: totals.shards_root,
        prev_randao: environment.prev_randao,
        base_fee: environment.base_fee,
        parent_beacon_root: B256::ZERO,
    }
}

/// What of a header only all its shards together show.
fn check_totals(header: &Header, totals: &BlockTotals) -> Option<Evidence> {
    let found = header.transactions_root;
    bad("transactionsRoot", totals.transactions_root, found)
        .or_else(|| bad("receiptsRoot", totals.receipts_root, header.receipts_root))
        .or_else(|| bad("logsBloom", totals.logs_bloom, header.logs_bloom))
        .or_else(|| bad("gasUsed", totals.gas_used, header.gas_used))
}

/// Rule 7: new = parent + the sum of all shards' deltas, and the fees to their payee. The locks have kept the diffs disjoint,
/// so the order of the shards is free.
fn merge<'a>(
    parent: &StateAt<'_>,
    shards: impl Iterator<Item = &'a Arc<Accepted>>,
    (payee, fees): (Address, U256),
) -> (Changes, Vec<(B256, Bytes)>) {
    let mut accounts: BTreeMap<Address, Account> = BTreeMap::new();
    let mut slots = Vec::new();
    let mut codes = Vec::new();
    for accepted in shards {
        let diff = &accepted.accept.proposal.body.diff;
        add_diff(parent, diff, &mut accounts, &mut slots, &mut codes);
    }
    if !fees.is_zero() {
        let paid = accounts
            .entry(payee)
            .or_insert_with(|| parent.account(&payee).unwrap_or_default());
        paid.balance = paid.balance.saturating_add(fees);
    }
    slots.sort_unstable();
    let accounts = accounts.into_iter();
    let changes = Changes {
        accounts: accounts
            .map(|(address, account)| (address, account.exists().then_some(account)))
            .collect(),
        slots,
    };
    (changes, codes)
}

fn add_diff(
    parent: &StateAt<'_>,
    diff: &Diff,
    accounts: &mut BTreeMap<Address, Account>,
    slots: &mut Vec<(Address, U256, U256)>,
    codes: &mut Vec<(B256, Bytes)>,
) {
    for (address, change) in &diff.accounts {
        slots.extend(
            change
                .slots
                .iter()
                .map(|(key, value)| (*address, *key, *value)),
        );
        let itself = !change.balance.is_zero() || change.nonce.is_some() || change.code.is_some();
        if !itself {
            continue;
        }
        let account = accounts
            .entry(*address)
            .or_insert_with(|| parent.account(address).unwrap_or_default());
        let amount = change.balance.amount();
        // Each shard was checked against the parent and makes no money, so no sum leaves the range.
        account.balance = match change.balance.is_fall() {
            true => account.balance.saturating_sub(amount),
            false => account.balance.saturating_add(amount),
        };
        account.nonce = change.nonce.unwrap_or(account.nonce);
        if let Some(code) = &change.code {
            account.code_hash = (!code.is_empty()).then(|| keccak(code));
            codes.extend(account.code_hash.map(|hash| (hash, code.clone().into())));
        }
    }
}
