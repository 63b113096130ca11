//! The machine: its memory, and how a command reaches the code that decides it.

use super::Fault;
use super::batch::Batch;
use super::command::Command;
use super::decision::{Answer, Decision, Refusal, Revision, RoundId, Winner};
use super::generation::Generation;
use super::history::{EventId, EventKind, History, StoredEvent};
use super::layers::{HeldBlock, Layers};
use super::limits::MAX_FEATURE_LEVEL;
use super::records::{RecordKey, Value, executor, meta};
use super::round::{CompactWinner, Live, NOBODY, Round};
use super::state_hash::{Digest, Item, StateHash};
use crate::mutant::{self, Mutant};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use troika_proto::v1::RefusalCode;
use troika_proto::{B256, ChainConfig, Shard};

/// The chain: its rules and where it stands.
#[derive(Debug)]
pub struct Chain {
    /// The rules.
    pub config: Arc<ChainConfig>,
    /// Hash of block 0.
    pub genesis_hash: B256,
    /// The newest block of the chain.
    pub head: HeldBlock,
    pub(super) layers: Layers,
    empty_shards: OnceLock<Vec<Shard>>,
}

impl Chain {
    pub(super) fn new(
        config: ChainConfig,
        genesis_hash: B256,
        head: HeldBlock,
        layers: Layers,
    ) -> Self {
        Self {
            config: Arc::new(config),
            genesis_hash,
            head,
            layers,
            empty_shards: OnceLock::new(),
        }
    }

    /// The empty shard of every index.
    pub(super) fn empty_shards(&self) -> &[Shard] {
        self.empty_shards
            .get_or_init(|| (0..self.config.shards).map(Shard::empty).collect())
    }
}

/// The rounds about one checked block.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Checks {
    pub(super) attempts: u32,
    pub(super) newest: RoundId,
}

/// The deciding machine. See the module's page.
#[derive(Debug)]
pub struct Machine {
    pub(super) chain: Option<Chain>,
    pub(super) revision: Revision,
    pub(super) next_ordinal: u32,
    pub(super) next_round: RoundId,
    pub(super) pruned_below: RoundId,
    pub(super) feature_level: u32,
    /// Highest level that may come into force here: what the program understands, or less. No part of the state.
    understands: u32,
    pub(super) clock_ms: u64,
    /// Lowest number in `canonical`.
    pub(super) oldest_block: u64,
    /// Open rounds.
    pub(super) live: BTreeMap<RoundId, Live>,
    /// Closed rounds that are not pruned.
    pub(super) closed: BTreeMap<RoundId, Arc<Round>>,
    /// The newest BUILD round on each parent.
    pub(super) built_on: BTreeMap<B256, RoundId>,
    /// VERIFY rounds by block.
    pub(super) checks: BTreeMap<B256, Checks>,
    /// Blocks found invalid, with the round that did.
    pub(super) barred: BTreeMap<B256, RoundId>,
    /// The head's chain: number -> block hash and round.
    pub(super) canonical: BTreeMap<u64, (B256, RoundId)>,
    pub(super) executors: Vec<Arc<str>>,
    executor_numbers: BTreeMap<Arc<str>, u32>,
    pub(super) history: History,
    pub(super) generation: Generation,
    /// Over everything but the counters.
    pub(super) items: StateHash,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// A machine that has seen nothing.
    pub fn new() -> Self {
        Self {
            chain: None,
            revision: 0,
            next_ordinal: 0,
            next_round: 1,
            pruned_below: 0,
            feature_level: 1,
            understands: MAX_FEATURE_LEVEL,
            clock_ms: 0,
            oldest_block: 0,
            live: BTreeMap::new(),
            closed: BTreeMap::new(),
            built_on: BTreeMap::new(),
            checks: BTreeMap::new(),
            barred: BTreeMap::new(),
            canonical: BTreeMap::new(),
            executors: Vec::new(),
            executor_numbers: BTreeMap::new(),
            history: History::default(),
            generation: Generation::default(),
            items: StateHash::default(),
        }
    }

    /// Says up to which feature level this member goes along.
    ///
    /// # Errors
    /// [`Fault::FeatureLevel`]: a higher one is in force already.
    pub fn understand(&mut self, level: u32) -> Result<(), Fault> {
        self.understands = level;
        if self.feature_level > level {
            return Err(Fault::FeatureLevel {
                needed: self.feature_level,
                understood: level,
            });
        }
        Ok(())
    }

    /// Applies an entry: one answer a command, in order.
    ///
    /// # Errors
    /// [`Fault`]: this member must stop. Nothing of the batch was applied, unless a counter ran out on the way.
    pub fn apply_batch(&mut self, batch: &Batch) -> Result<Vec<Answer>, Fault> {
        if batch.feature_level() > MAX_FEATURE_LEVEL {
            return Err(Fault::FeatureLevel {
                needed: batch.feature_level(),
                understood: MAX_FEATURE_LEVEL,
            });
        }
        if mutant::on(Mutant::ApplyReordered) {
            let backwards = batch.commands().iter().rev().map(|c| self.apply(c));
            let mut answers = backwards.collect::<Result<Vec<_>, _>>()?;
            answers.reverse();
            return Ok(answers);
        }
        batch.commands().iter().map(|c| self.apply(c)).collect()
    }

    /// Applies one command.
    ///
    /// # Errors
    /// [`Fault`]: this member must stop.
    pub fn apply(&mut self, command: &Command) -> Result<Answer, Fault> {
        if self.revision == Revision::MAX {
            return Err(Fault::RevisionExhausted);
        }
        let decided = match command {
            Command::InitChain(genesis) => self.init_chain(genesis),
            Command::OpenRound(open) => self.open_round(open),
            Command::AcquireLocks(acquire) => self.acquire_locks(acquire),
            Command::AcceptShard(accept) => self.accept_shard(accept),
            Command::SealRound { round, waited_ms } => self.seal_round(*round, *waited_ms),
            Command::VoidRound {
                round,
                reason,
                waited_ms,
            } => self.void_round(*round, *reason, *waited_ms),
            Command::Prune { below_round } => self.prune(*below_round),
            Command::SetFeatureLevel { level } => return self.set_feature_level(*level),
            Command::ReportDissent(report) => self.report_dissent(report),
            Command::RaiseRevision { by } => return self.raise_revision(*by),
        };
        Ok(self.answer(decided.unwrap_or_else(Decision::Refused)))
    }

    fn answer(&self, decision: Decision) -> Answer {
        Answer {
            revision: self.revision,
            decision,
        }
    }

    fn set_feature_level(&mut self, level: u32) -> Result<Answer, Fault> {
        if level > self.understands {
            return Err(Fault::FeatureLevel {
                needed: level,
                understood: self.understands,
            });
        }
        if level > self.feature_level {
            self.change();
            self.feature_level = level;
            self.tell(EventKind::FeatureLevelRaised(level));
        }
        Ok(self.answer(Decision::FeatureLevel(self.feature_level)))
    }

    fn raise_revision(&mut self, by: Revision) -> Result<Answer, Fault> {
        let raised = self.revision.checked_add(by);
        self.revision = raised.ok_or(Fault::RevisionExhausted)?;
        Ok(self.answer(Decision::RevisionRaised))
    }

    /// Counts this command: called once, by a command that is going to change something. Returns the fence.
    pub(super) fn change(&mut self) -> Revision {
        self.revision += 1;
        self.next_ordinal = 0;
        self.revision
    }

    /// Adds an event of this command.
    pub(super) fn tell(&mut self, kind: EventKind) {
        let id = EventId {
            revision: self.revision,
            ordinal: self.next_ordinal,
        };
        self.next_ordinal += 1;
        let event = StoredEvent { id, kind };
        self.history
            .push(event, &mut self.generation, &mut self.items);
    }

    pub(super) fn chain(&self) -> Result<&Chain, Refusal> {
        self.chain.as_ref().ok_or_else(no_chain)
    }

    /// The first checks of every command about a shard, in their order: pruned, unknown, decided, closed.
    ///
    /// # Errors
    /// [`Refusal`] where the round is pruned, unknown or closed, or the shard out of range.
    pub fn decided(&self, round: RoundId, shard: u32) -> Result<Option<Winner>, Refusal> {
        let found = self.find_round(round)?;
        if shard >= found.shards() {
            let message = format!("shard {shard} of a block with {} shards", found.shards());
            return Err(Refusal::new(RefusalCode::ShardOutOfRange, message));
        }
        if let Some(winner) = found.winner(shard) {
            return Ok(Some(self.winner(winner)));
        }
        if !self.live.contains_key(&round) {
            let message = format!("round {round} closed before shard {shard} was decided");
            return Err(Refusal::new(RefusalCode::RoundClosed, message));
        }
        Ok(None)
    }

    pub(super) fn find_round(&self, round: RoundId) -> Result<&Round, Refusal> {
        self.chain()?;
        if round < self.pruned_below {
            let message = format!("round {round}: kept are {} and later", self.pruned_below);
            return Err(Refusal::new(RefusalCode::Pruned, message));
        }
        self.round(round).ok_or_else(|| {
            let message = format!("there is no round {round}; the next is {}", self.next_round);
            Refusal::new(RefusalCode::UnknownRound, message)
        })
    }

    pub(super) fn winner(&self, winner: &CompactWinner) -> Winner {
        let name = self.executors.get(winner.executor as usize);
        Winner {
            shard_hash: winner.hash,
            executor: match winner.executor {
                NOBODY => "".into(),
                _ => name.cloned().unwrap_or_default(),
            },
            revision: winner.revision,
        }
    }

    /// The number of an executor's name, new or old.
    pub(super) fn executor_number(&mut self, name: &Arc<str>) -> u32 {
        if let Some(number) = self.executor_numbers.get(name) {
            return *number;
        }
        let number = self.executors.len() as u32;
        let value = Value::Encoded(executor::encode(name));
        self.generation.put(RecordKey::Executor(number), value);
        self.load_executor(name.clone());
        number
    }

    pub(super) fn load_executor(&mut self, name: Arc<str>) {
        let number = self.executors.len() as u32;
        let digest = Digest::new(Item::Executor).word(number.into());
        self.items.add(digest.bytes(name.as_bytes()));
        self.executor_numbers.insert(name.clone(), number);
        self.executors.push(name);
    }

    /// The mistake of [`Mutant::LocksDroppedAtLeaderChange`].
    pub(crate) fn forget_locks(&mut self) {
        for live in self.live.values_mut() {
            for key in live.held.values().flat_map(|keys| keys.iter()) {
                live.locks.remove(key);
            }
        }
    }

    /// Hash of the whole state: equal on all members that applied the same entries.
    pub fn state_hash(&self) -> StateHash {
        let floor = self.history.floor();
        let mut digest = Digest::new(Item::Counters)
            .word(self.revision)
            .word(self.next_round)
            .word(self.pruned_below)
            .word(self.feature_level.into())
            .word(self.clock_ms)
            .word(self.oldest_block)
            .word(floor.revision)
            .word(floor.ordinal.into());
        if let Some(chain) = &self.chain {
            digest = digest
                .hash(&chain.genesis_hash)
                .hash(&chain.head.hash)
                .hash(&chain.layers.base().hash)
                .word(chain.layers.next_seq());
        }
        let mut hash = self.items;
        hash.add(digest);
        hash
    }

    /// Bytes that the next checkpoint will write, nearly.
    pub fn unwritten_bytes(&self) -> usize {
        self.generation.bytes()
    }

    /// A cold record that no checkpoint has yet: `None` if it is not here, `Some(None)` if it is gone.
    pub fn unwritten(&self, key: &RecordKey) -> Option<Option<Bytes>> {
        self.generation.cold(key)
    }

    /// Hands over everything that changed since the last call.
    pub fn take_generation(&mut self) -> Generation {
        self.history.write(&mut self.generation);
        let value = Value::Encoded(meta::encode(&self.meta()));
        self.generation.put(RecordKey::Meta, value);
        std::mem::take(&mut self.generation)
    }

    fn meta(&self) -> meta::Meta {
        let chain = self.chain.as_ref();
        meta::Meta {
            revision: self.revision,
            next_round: self.next_round,
            pruned_below: self.pruned_below,
            feature_level: self.feature_level,
            clock_ms: self.clock_ms,
            next_layer: chain.map_or(0, |chain| chain.layers.next_seq()),
            oldest_block: self.oldest_block,
            history_floor: self.history.floor(),
            chain: chain.map(|chain| {
                let base = chain.layers.base();
                (chain.head.hash, (*base.header).clone(), base.round)
            }),
            state_hash: self.state_hash(),
        }
    }
}

pub(super) fn no_chain() -> Refusal {
    Refusal::new(
        RefusalCode::NoChain,
        "there is no chain yet: send InitChain",
    )
}
