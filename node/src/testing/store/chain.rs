//! The rules: what is opened, accepted and sealed.

use super::{BlockRecord, RoundRecord, State};
use std::collections::{BTreeMap, HashMap};
use tokio::time::Instant;
use tonic::Status;
use troika_proto::wire::hash_bytes;
use troika_proto::{B256, BlockTotals, Diff, Header, LockKey, Shard, v1};
use v1::event::Kind;

impl State {
    pub(super) fn meta(&self) -> Option<v1::ReplyMeta> {
        Some(v1::ReplyMeta {
            revision: self.revision,
            ..v1::ReplyMeta::default()
        })
    }

    pub(super) fn happened(&mut self, kinds: Vec<Kind>) {
        self.revision += 1;
        for (ordinal, kind) in kinds.into_iter().enumerate() {
            self.events.push(v1::Event {
                id: Some(v1::EventId {
                    revision: self.revision,
                    ordinal: ordinal as u32,
                }),
                kind: Some(kind),
            });
        }
    }

    pub(super) fn wire_round(&self, number: u64) -> Option<v1::Round> {
        let round = self.rounds.get(&number)?;
        let config = &self.genesis.config;
        let winners = round.winners.iter().map(|(shard, winner)| v1::ShardStatus {
            shard: *shard,
            winner: Some(winner.clone()),
        });
        Some(v1::Round {
            round: number,
            kind: v1::RoundKind::Build.into(),
            status: match round.block {
                Some(_) => v1::RoundStatus::Sealed.into(),
                None => v1::RoundStatus::Open.into(),
            },
            parent: hash_bytes(round.parent),
            environment: Some((&round.environment).into()),
            opener: round.opener.clone(),
            winners: winners.collect(),
            block_hash: round.block.map(hash_bytes).unwrap_or_default(),
            propose_after_ms: config.propose_after_ms,
            seal_after_ms: config.seal_after_ms,
            shards: config.shards,
            ..v1::Round::default()
        })
    }

    pub fn open_round(&self) -> Option<u64> {
        let open = self.rounds.iter().rev().find(|(_, r)| r.block.is_none());
        open.map(|(number, _)| *number)
    }

    /// Transactions of a round's accepted shards: (shard, hash).
    pub fn included(&self, round: u64) -> Vec<(u32, B256)> {
        let shards = self.rounds.get(&round).into_iter().flat_map(|r| &r.shards);
        shards
            .flat_map(|(index, shard)| {
                let hash = |raw| alloy_primitives::keccak256(raw);
                let hashes = shard.body.transactions.iter().map(hash);
                hashes.map(|hash| (*index, hash)).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Rounds that include the transaction, and where.
    pub fn places(&self, hash: B256) -> Vec<(u64, u32)> {
        let rounds = self.rounds.keys().flat_map(|round| {
            let included = self.included(*round).into_iter();
            let here = included.filter(|(_, h)| *h == hash);
            here.map(|(shard, _)| (*round, shard)).collect::<Vec<_>>()
        });
        rounds.collect()
    }

    /// Opens a round on the head.
    pub(super) fn open(&mut self, opener: &str, clock_ms: u64) -> u64 {
        let number = self.rounds.keys().last().copied().unwrap_or(0) + 1;
        let (head, config) = (self.head, &self.genesis.config);
        let environment = config.environment(&self.blocks[&head].header, head, clock_ms);
        let round = RoundRecord {
            opened: Instant::now(),
            environment,
            parent: head,
            winners: BTreeMap::new(),
            shards: BTreeMap::new(),
            locks: HashMap::new(),
            block: None,
            opener: opener.to_owned(),
            reservations: Vec::new(),
        };
        self.rounds.insert(number, round);
        let round = self.wire_round(number).unwrap();
        self.happened(vec![Kind::RoundOpened(round)]);
        number
    }

    pub(super) fn reserve(&mut self, number: u64, asked: &[v1::Reservation]) -> Result<(), Status> {
        let revision = self.revision;
        let round = self.rounds.get_mut(&number).unwrap();
        for one in asked {
            let key = one.key.as_ref().map(LockKey::try_from);
            let key = key.ok_or_else(|| Status::invalid_argument("key"))?;
            let key = key.map_err(|e| Status::invalid_argument(e.to_string()))?;
            round.reservations.push((key, one.shard));
            round.locks.insert(key, (one.shard, revision));
        }
        Ok(())
    }

    pub(super) fn accept(
        &mut self,
        number: u64,
        index: u32,
        executor: &str,
        shard: Shard,
    ) -> Vec<Kind> {
        let revision = self.revision + 1;
        let rule = self.genesis.config.lock_rule;
        let round = self.rounds.get_mut(&number).unwrap();
        // What was reserved and is not needed goes.
        round.locks.retain(|_, (holder, _)| *holder != index);
        for key in shard.body.diff.lock_keys(rule) {
            round.locks.insert(key, (index, revision));
        }
        let winner = v1::Winner {
            shard_hash: hash_bytes(shard.hash),
            executor: executor.to_owned(),
            revision,
        };
        round.winners.insert(index, winner.clone());
        round.shards.insert(index, shard);
        vec![Kind::ShardAccepted(v1::ShardAccepted {
            round: number,
            shard: index,
            winner: Some(winner),
        })]
    }

    pub(super) fn seal_if_complete(&mut self, number: u64) -> Option<Kind> {
        let round = &self.rounds[&number];
        if round.shards.len() < self.genesis.config.shards as usize {
            return None;
        }
        let parent = &self.blocks[&round.parent];
        let hashes: Vec<B256> = round.shards.values().map(|s| s.hash).collect();
        let totals = BlockTotals::of(round.shards.values().map(|s| &s.header), &hashes);
        let mut diff = Diff::default();
        for shard in round.shards.values() {
            diff.merge(&shard.body.diff)
                .expect("accepted shards are disjoint");
        }
        let environment = &round.environment;
        let header = Header {
            parent_hash: round.parent,
            beneficiary: environment.beneficiary,
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
            ..Header::default()
        };
        let mut state = parent.state.clone();
        state.apply(&diff).expect("no overdraft");
        let payee = self.genesis.config.beneficiary;
        state.credit(payee, totals.fees).expect("fees fit");
        let hash = header.hash();
        let sealed = Kind::RoundSealed(v1::RoundSealed {
            round: number,
            block_hash: hash_bytes(hash),
            header: Some((&header).into()),
            shard_hashes: hashes.iter().map(|h| hash_bytes(*h)).collect(),
            head: true,
        });
        let block = BlockRecord {
            header,
            round: number,
            state,
            diff,
            fees: totals.fees,
        };
        self.blocks.insert(hash, block);
        self.head = hash;
        if let Some(round) = self.rounds.get_mut(&number) {
            round.block = Some(hash);
        }
        Some(sealed)
    }
}
