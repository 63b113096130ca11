//! Making a machine of a checkpoint's records.

use super::history::EventId;
use super::layers::{HeldBlock, Layers};
use super::machine::{Chain, Machine};
use super::open::{digest_canonical, digest_chain};
use super::records::{
    Corrupt, RecordKey, account, barred, canonical, chain, code, events, executor, held, layer,
    meta, round, shard, slot,
};
use super::round::{CompactWinner, Live, Round, RoundStatus, digest_held, sum_round};
use super::state_hash::{Digest, Item, StateHash};
use crate::mutant::{self, Mutant};
use bytes::Bytes;
use std::sync::Arc;
use troika_proto::B256;

/// Why records make no machine.
#[derive(Debug, thiserror::Error)]
pub enum LoadError<E> {
    /// Reading them failed.
    #[error("cannot read the checkpoint: {0}")]
    Storage(E),
    /// A record is not what was written.
    #[error("the checkpoint is damaged: {0}")]
    Corrupt(#[from] Corrupt),
    /// Each record is readable, but together they are not what was written.
    #[error("the checkpoint is damaged: its records hash to {found}, expected {expected}")]
    StateHash {
        /// As written.
        expected: StateHash,
        /// As read.
        found: StateHash,
    },
}

impl Machine {
    /// Makes a machine equal to the one whose generations were written: same state hash, same later decisions.
    ///
    /// `hot` gives all records below [`RecordKey::cold_from`], ascending; `cold` reads one record of the others. Without any
    /// record the machine is new.
    ///
    /// # Errors
    /// [`LoadError`]: the member must not start.
    pub fn load<E>(
        hot: impl IntoIterator<Item = Result<(Bytes, Bytes), E>>,
        mut cold: impl FnMut(&RecordKey) -> Result<Option<Bytes>, E>,
    ) -> Result<Self, LoadError<E>> {
        let mut loading = Loading::default();
        for record in hot {
            let (key, value) = record.map_err(LoadError::Storage)?;
            loading.take(RecordKey::from_bytes(&key)?, value)?;
        }
        let mut machine = loading.machine;
        for id in loading.open {
            for shard in 0..machine.live.get(&id).map_or(0, |l| l.round.shards()) {
                let key = RecordKey::Shard { round: id, shard };
                if let Some(bytes) = cold(&key).map_err(LoadError::Storage)? {
                    machine.load_accepted(id, bytes)?;
                }
            }
        }
        let found = machine.state_hash();
        match loading.meta {
            Some(meta) if meta.state_hash != found => Err(LoadError::StateHash {
                expected: meta.state_hash,
                found,
            }),
            _ => {
                if mutant::on(Mutant::RevisionReused) {
                    machine.revision = machine.revision.saturating_sub(1);
                }
                Ok(machine)
            }
        }
    }

    fn load_accepted(&mut self, id: u64, bytes: Bytes) -> Result<(), Corrupt> {
        let mut accepted = shard::decode(bytes)?;
        if mutant::on(Mutant::DeltaAppliedTwice) {
            let proposal = Arc::make_mut(&mut accepted.accept.proposal);
            for account in proposal.body.diff.accounts.values_mut() {
                account.balance = account
                    .balance
                    .checked_add(account.balance)
                    .unwrap_or_default();
            }
        }
        let accepted = Arc::new(accepted);
        let missing = || Corrupt::new("shard", "belongs to no chain");
        let rule = self.chain.as_ref().ok_or_else(missing)?.config.lock_rule;
        let accept = &accepted.accept;
        let name = self.executors.iter().position(|n| *n == accept.executor);
        let winner = CompactWinner {
            hash: accept.proposal.hash,
            revision: accepted.revision,
            executor: name.ok_or_else(missing)? as u32,
        };
        let live = self.live.get_mut(&id).ok_or_else(missing)?;
        if accept.shard >= live.round.shards() {
            return Err(Corrupt::new("shard", "index is out of range"));
        }
        let shard = accept.shard;
        live.release_ahead(shard);
        if !mutant::on(Mutant::DecidedOverwritten) {
            live.accept(accepted, winner, rule);
        }
        self.items.add(live.round.digest_winner(shard, &winner));
        Ok(())
    }

    fn load_round(&mut self, round: Round) -> bool {
        let id = round.id;
        sum_round(&mut self.items, &round, true);
        match &round.checked {
            None => {
                self.built_on.insert(round.parent, id);
            }
            Some(checked) => {
                let checks = self.checks.entry(round.block_hash).or_default();
                checks.attempts = checks.attempts.max(checked.attempt);
                checks.newest = checks.newest.max(id);
            }
        }
        let open = round.status == RoundStatus::Open;
        if open {
            self.live.insert(id, Live::new(round));
        } else {
            self.closed.insert(id, Arc::new(round));
        }
        open
    }

    fn load_held(
        &mut self,
        id: u64,
        shard: u32,
        revision: u64,
        value: &[u8],
    ) -> Result<(), Corrupt> {
        let keys = held::decode(value)?;
        self.items.add(digest_held(id, shard, revision, &keys));
        let live = self.live.get_mut(&id);
        let live = live.ok_or_else(|| Corrupt::new("held", "belongs to no open round"))?;
        if !mutant::on(Mutant::SnapshotWithoutLocks) {
            live.take_ahead(shard, revision, &keys);
        }
        Ok(())
    }

    /// Bars a block for ever.
    pub(super) fn load_barred(&mut self, hash: B256, round: u64) {
        self.items
            .add(Digest::new(Item::Barred).hash(&hash).word(round));
        self.barred.insert(hash, round);
    }

    pub(super) fn bar(&mut self, hash: B256, round: u64) {
        let value = super::records::Value::Encoded(barred::encode(round));
        self.generation.put(RecordKey::Barred(hash), value);
        self.load_barred(hash, round);
    }
}

/// A machine in the making.
#[derive(Default)]
struct Loading {
    machine: Machine,
    meta: Option<meta::Meta>,
    open: Vec<u64>,
}

impl Loading {
    fn take(&mut self, key: RecordKey, value: Bytes) -> Result<(), Corrupt> {
        if key != RecordKey::Meta && self.meta.is_none() {
            return Err(Corrupt::new("meta", "is missing"));
        }
        let floor = self.meta.as_ref().map(|meta| meta.history_floor);
        let machine = &mut self.machine;
        match key {
            RecordKey::Meta => self.meta = Some(counters(machine, &value)?),
            RecordKey::Chain => self.take_chain(&value)?,
            RecordKey::Executor(_) => machine.load_executor(executor::decode(&value)?),
            RecordKey::Barred(hash) => machine.load_barred(hash, barred::decode(&value)?),
            RecordKey::Round(id) => {
                if machine.load_round(round::decode(id, &value)?) {
                    self.open.push(id);
                }
            }
            RecordKey::Held {
                round,
                shard,
                revision,
            } => machine.load_held(round, shard, revision, &value)?,
            RecordKey::Canonical(number) => {
                let (hash, round) = canonical::decode(&value)?;
                machine.canonical.insert(number, (hash, round));
                machine.items.add(digest_canonical(number, &hash, round));
            }
            RecordKey::Events(..) => {
                let events = events::decode(&value)?;
                let floor = floor.unwrap_or_default();
                machine.history.load(floor, events, &mut machine.items);
            }
            RecordKey::Layer(_)
            | RecordKey::Code(_)
            | RecordKey::Account(_)
            | RecordKey::Slot(..) => self.take_state(key, value)?,
            RecordKey::Shard { .. } | RecordKey::Block(_) | RecordKey::Transaction { .. } => {}
        }
        Ok(())
    }

    fn take_chain(&mut self, value: &[u8]) -> Result<(), Corrupt> {
        let (config, genesis_hash) = chain::decode(value)?;
        let blocks = self.meta.as_ref().and_then(|meta| meta.chain.clone());
        let (_, base, round) = blocks.ok_or_else(|| Corrupt::new("meta", "names no head"))?;
        let base = HeldBlock {
            hash: base.hash(),
            header: Arc::new(base),
            round,
        };
        let next_layer = self.meta.as_ref().map_or(1, |meta| meta.next_layer);
        let layers = Layers::new(base.clone(), next_layer);
        self.machine.items.add(digest_chain(&genesis_hash));
        self.machine.chain = Some(Chain::new(config, genesis_hash, base, layers));
        Ok(())
    }

    fn take_state(&mut self, key: RecordKey, value: Bytes) -> Result<(), Corrupt> {
        let (machine, meta) = (&mut self.machine, &self.meta);
        let items = &mut machine.items;
        let missing = || Corrupt::new("chain", "is missing");
        let chain = machine.chain.as_mut().ok_or_else(missing)?;
        match key {
            RecordKey::Layer(seq) => {
                let layer = Arc::new(layer::decode(seq, &value)?);
                let head = meta.as_ref().and_then(|meta| meta.chain.as_ref());
                if head.is_some_and(|(head, ..)| *head == layer.hash) {
                    chain.head = HeldBlock {
                        hash: layer.hash,
                        header: layer.header.clone(),
                        round: layer.round,
                    };
                }
                chain.layers.load(layer, items);
            }
            RecordKey::Code(hash) => {
                let code = code::decode(&hash, value)?;
                chain.layers.add_code(hash, code, items);
            }
            RecordKey::Account(address) => {
                let account = account::decode(&value)?;
                chain.layers.set_base_account(address, Some(account), items);
            }
            RecordKey::Slot(address, slot) => {
                let value = slot::decode(&value)?;
                chain.layers.set_base_slot(address, slot, value, items);
            }
            _ => {}
        }
        Ok(())
    }
}

fn counters(machine: &mut Machine, value: &[u8]) -> Result<meta::Meta, Corrupt> {
    let meta = meta::decode(value)?;
    machine.revision = meta.revision;
    machine.next_round = meta.next_round;
    machine.pruned_below = meta.pruned_below;
    machine.feature_level = meta.feature_level;
    machine.clock_ms = meta.clock_ms;
    machine.oldest_block = meta.oldest_block;
    machine.history.set_floor(EventId {
        ..meta.history_floor
    });
    Ok(meta)
}
