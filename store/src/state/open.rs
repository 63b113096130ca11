//! Starting the chain, and opening rounds.

use super::command::{OpenRound, OpenTarget, RoundKind};
use super::decision::{Decision, Refusal, RoundId};
use super::evidence::{EXTRA_DATA, Evidence, SHARD_HASHES, VoidReason};
use super::history::EventKind;
use super::layers::{Account, HeldBlock, Layers};
use super::limits::{MAX_FUTURE_SECONDS, MAX_OPEN_CHECKS};
use super::machine::{Chain, Machine};
use super::records::{RecordKey, Value, block, canonical, chain, round as record};
use super::round::{Checked, CompactWinner, Live, Round, RoundStatus};
use super::state_hash::{Digest, Item};
use std::collections::BTreeSet;
use std::sync::Arc;
use troika_proto::v1::RefusalCode;
use troika_proto::{B256, ChainConfig, Environment, Genesis, Header, LockKey, keccak, shards_root};

impl Machine {
    pub(super) fn init_chain(&mut self, genesis: &Genesis) -> Result<Decision, Refusal> {
        let header = genesis.header();
        let genesis_hash = header.hash();
        if let Some(chain) = &self.chain {
            if chain.genesis_hash == genesis_hash {
                return Ok(Decision::ChainStarted {
                    genesis_hash,
                    started: false,
                });
            }
            let message = format!(
                "this store holds the chain with genesis {}, not {genesis_hash}",
                chain.genesis_hash
            );
            return Err(Refusal::new(RefusalCode::OtherChain, message));
        }
        self.change();
        let head = HeldBlock {
            hash: genesis_hash,
            header: Arc::new(header),
            round: 0,
        };
        let layers = self.allocate(genesis, head.clone());
        let config = Value::Encoded(chain::encode(&genesis.config, &genesis_hash));
        self.generation.put(RecordKey::Chain, config);
        self.items.add(digest_chain(&genesis_hash));
        let value = Value::Encoded(block::encode(&head.header, 0));
        self.generation.put(RecordKey::Block(genesis_hash), value);
        self.chain = Some(Chain::new(
            genesis.config.clone(),
            genesis_hash,
            head,
            layers,
        ));
        self.extend_canonical(0, genesis_hash, 0);
        self.tell(EventKind::ChainStarted(genesis_hash));
        Ok(Decision::ChainStarted {
            genesis_hash,
            started: true,
        })
    }

    /// The base that genesis' accounts are.
    fn allocate(&mut self, genesis: &Genesis, block: HeldBlock) -> Layers {
        let mut layers = Layers::new(block, 1);
        for (address, given) in &genesis.accounts {
            let code_hash = (!given.code.is_empty()).then(|| keccak(&given.code));
            if let Some(code_hash) = code_hash {
                let code = given.code.clone().into();
                layers.deploy(code_hash, code, &mut self.generation, &mut self.items);
            }
            let account = Some(Account {
                balance: given.balance,
                nonce: given.nonce,
                code_hash,
            });
            layers.set_base_account(*address, account, &mut self.items);
            self.generation.put(
                RecordKey::Account(*address),
                Value::Account(account.map(Box::new)),
            );
            for (key, value) in &given.storage {
                layers.set_base_slot(*address, *key, *value, &mut self.items);
                self.generation
                    .put(RecordKey::Slot(*address, *key), Value::Slot(*value));
            }
        }
        layers
    }

    /// Says that a block is on the head's chain.
    pub(super) fn extend_canonical(&mut self, number: u64, hash: B256, round: RoundId) {
        self.canonical.insert(number, (hash, round));
        self.items.add(digest_canonical(number, &hash, round));
        let value = Value::Encoded(canonical::encode(&hash, round));
        self.generation.put(RecordKey::Canonical(number), value);
    }

    pub(super) fn open_round(&mut self, open: &OpenRound) -> Result<Decision, Refusal> {
        match &open.target {
            OpenTarget::Build {
                parent,
                reservations,
            } => self.open_build(open, *parent, reservations),
            OpenTarget::Verify {
                header,
                shard_hashes,
            } => self.open_verify(open, header, shard_hashes),
        }
    }

    fn open_build(
        &mut self,
        open: &OpenRound,
        parent: Option<B256>,
        reservations: &[(LockKey, u32)],
    ) -> Result<Decision, Refusal> {
        let chain = self.chain()?;
        let head = chain.head.clone();
        let parent = parent.unwrap_or(head.hash);
        if let Some(round) = self.build_round_on(&parent) {
            return Ok(Decision::Opened {
                round,
                opened: false,
            });
        }
        if parent != head.hash {
            let message = format!("{parent} is not the head, which is {}", head.hash);
            return Err(Refusal::new(RefusalCode::WrongParent, message));
        }
        let config = chain.config.clone();
        if let Some((_, shard)) = reservations.iter().find(|(_, s)| *s >= config.shards) {
            let message = format!(
                "reservation for shard {shard} of a block with {} shards",
                config.shards
            );
            return Err(Refusal::new(RefusalCode::ShardOutOfRange, message));
        }
        let environment = config.environment(&head.header, parent, open.clock_ms);
        let mut mentioned = BTreeSet::new();
        let reserved = reservations
            .iter()
            .filter(|(key, _)| mentioned.insert(*key));
        let reserved: Arc<[_]> = reserved.copied().collect();
        let round = self.start(open, parent, environment, None, reserved);
        self.built_on.insert(parent, round);
        Ok(Decision::Opened {
            round,
            opened: true,
        })
    }

    /// The BUILD round on a parent, unless it became void.
    pub(super) fn build_round_on(&self, parent: &B256) -> Option<RoundId> {
        let id = *self.built_on.get(parent)?;
        let round = self.round(id)?;
        (!matches!(round.status, RoundStatus::Void(..))).then_some(id)
    }

    /// Bounds the rounds that check blocks, of which anybody may open many. BUILD has one a head: it is never kept out.
    fn room_to_check(&self) -> Result<(), Refusal> {
        let open = self
            .live
            .values()
            .filter(|live| live.round.checked.is_some());
        if open.count() < MAX_OPEN_CHECKS {
            return Ok(());
        }
        let message =
            format!("MAX_OPEN_CHECKS: {MAX_OPEN_CHECKS} VERIFY rounds are open, void some");
        Err(Refusal::new(RefusalCode::Limit, message))
    }

    fn open_verify(
        &mut self,
        open: &OpenRound,
        header: &Arc<Header>,
        shard_hashes: &Arc<[B256]>,
    ) -> Result<Decision, Refusal> {
        let chain = self.chain()?;
        let hash = header.hash();
        if let Some(round) = self.barred.get(&hash) {
            let message = format!("block {hash} was found invalid in round {round}");
            return Err(Refusal::new(RefusalCode::Barred, message));
        }
        let numbered = self.canonical.get(&header.number);
        if chain.layers.block(&hash).is_some() || numbered.is_some_and(|(h, _)| *h == hash) {
            let message = format!("block {hash} is imported already");
            return Err(Refusal::new(RefusalCode::KnownBlock, message));
        }
        let checks = self.checks.get(&hash).copied().unwrap_or_default();
        if self.live.contains_key(&checks.newest) {
            return Ok(Decision::Opened {
                round: checks.newest,
                opened: false,
            });
        }
        let Some(parent) = chain.layers.block(&header.parent_hash) else {
            let message = format!("the parent {} is not held", header.parent_hash);
            return Err(Refusal::new(RefusalCode::WrongParent, message));
        };
        let latest = open.clock_ms / 1000 + MAX_FUTURE_SECONDS;
        if chain.config.fixed.is_none() && header.timestamp > latest {
            let message = format!(
                "MAX_FUTURE_SECONDS: the block is of {}, and now it is {}",
                header.timestamp,
                open.clock_ms / 1000
            );
            return Err(Refusal::new(RefusalCode::TooEarly, message));
        }
        self.room_to_check()?;
        let evidence = check_header(&chain.config, &parent, header, shard_hashes);
        // Rule 9 with the header's own time stamp as the clock: what is checked runs in what the header says.
        let clock_ms = header.timestamp.saturating_mul(1000);
        let environment = chain
            .config
            .environment(&parent.header, parent.hash, clock_ms);
        let checked = Checked {
            header: header.clone(),
            shard_hashes: shard_hashes.clone(),
            attempt: checks.attempts + 1,
        };
        let round = self.start(open, parent.hash, environment, Some(checked), [].into());
        let entry = self.checks.entry(hash).or_default();
        entry.attempts += 1;
        entry.newest = round;
        if let Some(evidence) = evidence {
            self.close_void(round, VoidReason::Invalid, Some(evidence));
        }
        Ok(Decision::Opened {
            round,
            opened: true,
        })
    }

    /// Opens a round that all checks let pass.
    fn start(
        &mut self,
        open: &OpenRound,
        parent: B256,
        environment: Environment,
        checked: Option<Checked>,
        reserved: Arc<[(LockKey, u32)]>,
    ) -> RoundId {
        let revision = self.change();
        let shards = self.chain.as_ref().map_or(0, |chain| chain.config.shards);
        let id = self.next_round;
        self.next_round += 1;
        self.clock_ms = self.clock_ms.max(open.clock_ms);
        let round = Round {
            id,
            kind: match &checked {
                None => RoundKind::Build,
                Some(_) => RoundKind::Verify,
            },
            status: RoundStatus::Open,
            parent,
            environment,
            opener: open.opener.clone(),
            opened_at: revision,
            closed_at: 0,
            block_hash: checked.as_ref().map_or(B256::ZERO, |c| c.header.hash()),
            checked,
            reserved,
            dissent: Vec::new(),
            winners: vec![CompactWinner::default(); shards as usize],
        };
        self.items.add(round.digest_opened());
        let value = Value::Encoded(record::encode(&round));
        self.generation.put(RecordKey::Round(id), value);
        self.live.insert(id, Live::new(round));
        self.tell(EventKind::RoundOpened(id));
        id
    }
}

pub(super) fn digest_chain(genesis_hash: &B256) -> Digest {
    Digest::new(Item::Chain).hash(genesis_hash)
}

pub(super) fn digest_canonical(number: u64, hash: &B256, round: RoundId) -> Digest {
    let digest = Digest::new(Item::Canonical).word(number);
    digest.hash(hash).word(round)
}

/// What of a header can be judged without executing anything: its environment, its constants and its shard list.
fn check_header(
    config: &ChainConfig,
    parent: &HeldBlock,
    header: &Header,
    shard_hashes: &[B256],
) -> Option<Evidence> {
    let clock_ms = header.timestamp.saturating_mul(1000);
    let expected = config.environment(&parent.header, parent.hash, clock_ms);
    let count = config.shards as usize;
    if shard_hashes.len() != count {
        return bad(SHARD_HASHES, count, shard_hashes.len());
    }
    None.or_else(|| bad("number", expected.number, header.number))
        .or_else(|| bad("timestamp", expected.timestamp, header.timestamp))
        .or_else(|| bad("baseFeePerGas", expected.base_fee, header.base_fee))
        .or_else(|| bad("mixHash", expected.prev_randao, header.prev_randao))
        .or_else(|| bad("gasLimit", expected.gas_limit, header.gas_limit))
        .or_else(|| bad("miner", expected.beneficiary, header.beneficiary))
        .or_else(|| bad("stateRoot", B256::ZERO, header.state_root))
        .or_else(|| {
            let found = header.parent_beacon_root;
            bad("parentBeaconBlockRoot", B256::ZERO, found)
        })
        .or_else(|| bad(EXTRA_DATA, shards_root(shard_hashes), header.shards_root))
}

/// Evidence, if a field is not what it must be.
pub(super) fn bad<T: PartialEq + ToString>(
    field: &'static str,
    expected: T,
    found: T,
) -> Option<Evidence> {
    (expected != found).then(|| Evidence::BadHeader {
        field,
        expected: expected.to_string(),
        found: found.to_string(),
    })
}
