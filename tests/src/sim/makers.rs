//! Makers of blocks: they race for shards, retry, take locks ahead, seal, prune.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use troika_proto::{LockKey, Shard, v1};
use troika_store::runtime::{Instant, Runtime};
use troika_store::service;
use troika_store::state::Winner;
use v1::cluster_server::Cluster as _;
use v1::rounds_server::Rounds as _;

use super::chain::{CONTRACT, Payment, SLOTS, genesis, payer_key, payers};
use super::clients::{Client, patient};
use super::random::Random;
use super::world::lock;

/// Rounds that are kept when old ones are pruned.
const KEPT_ROUNDS: u64 = 12;
/// Proposals that a maker tries for one shard.
const TRIES: usize = 4;

impl Client {
    /// Makes blocks until it is quiet.
    pub async fn make_blocks(mut self) {
        let mut random = self.random.fork();
        let plan = self.world.plan.clone();
        let genesis = v1::Genesis::from(&genesis(plan.shards, plan.seal_after_ms));
        let started = self.ask(&mut random, move |member| {
            let request = v1::InitChainRequest {
                genesis: Some(genesis.clone()),
                ..Default::default()
            };
            async move { service::cluster(member).init_chain(patient(request)).await }
        });
        started.await;
        while !self.is_quiet() {
            let asked = Runtime::now();
            let Some((round, ours)) = self.open(&mut random).await else {
                self.pause(10, 100).await;
                continue;
            };
            let began = Runtime::now();
            let shards = (0..plan.shards).map(|shard| (shard, random.fork()));
            let racing: Vec<_> = shards
                .map(|(shard, random)| self.race(round, shard, random))
                .collect();
            join_all(racing).await;
            let seal_after = Duration::from_millis(plan.seal_after_ms.into());
            if ours && random.chance(50_000) {
                self.seal_too_early(&mut random, round, asked + seal_after)
                    .await;
            }
            Runtime::sleep_until(began + seal_after + Duration::from_millis(20)).await;
            self.seal(&mut random, round).await;
            if random.chance(plan.prune_per_million) && round > KEPT_ROUNDS {
                self.prune(&mut random, round - KEPT_ROUNDS).await;
            }
            self.pause(0, 100).await;
        }
    }

    /// The open round on the head, and whether this call has opened it; sometimes with keys reserved.
    async fn open(&self, random: &mut Random) -> Option<(u64, bool)> {
        let shards = self.world.plan.shards;
        let reservations = match random.chance(100_000) {
            true => {
                let payer = random.below(payers(shards).into()) as u32;
                vec![v1::Reservation {
                    key: Some(payer_key(payer).into()),
                    shard: random.below(shards.into()) as u32,
                }]
            }
            false => Vec::new(),
        };
        let opener = self.name.to_string();
        let clock_ms = 1_700_000_000_000 + random.below(1 << 20);
        let opened = self.ask(random, move |member| {
            let request = v1::OpenRoundRequest {
                kind: v1::RoundKind::Build.into(),
                opener: opener.clone(),
                clock_ms,
                reservations: reservations.clone(),
                ..Default::default()
            };
            async move { service::rounds(member).open(patient(request)).await }
        });
        let answer = opened.await?;
        let round = answer.round?;
        for reserved in &round.reserved {
            let key = reserved.key.as_ref().map(LockKey::try_from);
            let Some(Ok(key)) = key else {
                self.world.violate("a reservation names no key".into());
                continue;
            };
            lock(&self.world.oracle).holds(round.round, reserved.shard, key, reserved.revision);
        }
        Some((round.round, answer.opened))
    }

    /// Races for one shard of a round; sometimes leaves it to others.
    async fn race(&self, round: u64, shard: u32, mut random: Random) {
        let accounts = payers(self.world.plan.shards);
        let pause = random.millis(0, 80);
        Runtime::sleep(pause).await;
        if random.chance(80_000) {
            return;
        }
        if random.chance(150_000) {
            self.acquire(round, shard, &mut random).await;
            let pause = random.millis(0, 300);
            Runtime::sleep(pause).await;
        }
        for _ in 0..TRIES {
            let from = self.choose_payer(round, shard, &mut random);
            let writes = random.chance(200_000);
            let payment = Payment {
                round,
                shard,
                from,
                to: (from + 1) % accounts,
                slot: writes.then(|| random.below(SLOTS)),
                executor: &self.name,
                salt: random.draw(),
            };
            if self.propose(&payment.shard(), &payment, &mut random).await {
                return;
            }
        }
    }

    /// Mostly the shard's own payer; sometimes another's, best of all one that somebody holds.
    fn choose_payer(&self, round: u64, shard: u32, random: &mut Random) -> u32 {
        let accounts = payers(self.world.plan.shards);
        match random.below(10) {
            0..6 => shard,
            6..8 => {
                let held = lock(&self.world.oracle).held_in(round);
                let named = (0..accounts).filter(|number| held.contains(&payer_key(*number)));
                let named: Vec<u32> = named.collect();
                random.pick(&named).copied().unwrap_or(shard)
            }
            _ => random.below(accounts.into()) as u32,
        }
    }

    /// Proposes a shard; true if the shard is decided, or nothing can be decided any more.
    async fn propose(&self, made: &Arc<Shard>, payment: &Payment<'_>, random: &mut Random) -> bool {
        use v1::submit_response::Outcome;
        let (round, shard) = (payment.round, payment.shard);
        lock(&self.world.oracle).proposes(made);
        let request = v1::SubmitRequest {
            round,
            shard,
            executor: self.name.to_string(),
            header: Some((&made.header).into()),
            body: Some((&made.body).into()),
            owners: self.world.plan.makers,
            ..Default::default()
        };
        let answer = self.ask(random, move |member| {
            let request = request.clone();
            async move { service::rounds(member).submit(patient(request)).await }
        });
        let Some(answer) = answer.await else {
            return true;
        };
        let revision = answer.meta.unwrap_or_default().revision;
        match &answer.outcome {
            Some(Outcome::Winner(winner)) => {
                self.told_winner((round, shard), winner);
                let ours = winner.shard_hash[..] == made.hash[..] && winner.executor == *self.name;
                if ours != answer.won {
                    self.world.violate(format!(
                        "{} is told won: {} for round {round} shard {shard}, which {} won",
                        self.name, answer.won, winner.executor
                    ));
                }
                true
            }
            Some(Outcome::Conflict(conflict)) => {
                self.told_conflict((round, shard), conflict, revision);
                false
            }
            Some(Outcome::Refusal(refusal)) => {
                use v1::RefusalCode::{Pruned, RoundClosed};
                if ![RoundClosed, Pruned].contains(&refusal.code()) {
                    self.world
                        .violate(format!("a proposal is refused: {refusal:?}"));
                }
                true
            }
            other => {
                self.world
                    .violate(format!("a proposal is answered {other:?}"));
                true
            }
        }
    }

    fn told_winner(&self, slot: (u64, u32), winner: &v1::Winner) {
        match Winner::try_from(winner) {
            Ok(winner) => self
                .world
                .check(|oracle| oracle.acknowledged(&self.name, slot, &winner)),
            Err(error) => self
                .world
                .violate(format!("a winner is malformed: {error}")),
        }
    }

    fn told_conflict(&self, (round, shard): (u64, u32), conflict: &v1::Conflict, revision: u64) {
        for held in &conflict.held {
            match held.key.as_ref().map(LockKey::try_from) {
                Some(Ok(key)) if held.shard != shard => {
                    lock(&self.world.oracle).conflicts(round, held.shard, key, revision);
                }
                _ => self.world.violate(format!(
                    "a conflict with oneself, or about nothing: {held:?}"
                )),
            }
        }
    }

    async fn acquire(&self, round: u64, shard: u32, random: &mut Random) {
        use v1::acquire_locks_response::Outcome;
        let accounts = u64::from(payers(self.world.plan.shards));
        let key = match random.chance(700_000) {
            true => payer_key(random.below(accounts) as u32),
            false => LockKey::slot(CONTRACT, troika_proto::U256::from(random.below(SLOTS))),
        };
        lock(&self.world.oracle).acquires(round, shard, key);
        let answer = self.ask(random, move |member| {
            let request = v1::AcquireLocksRequest {
                round,
                shard,
                keys: vec![key.into()],
                ..Default::default()
            };
            async move {
                service::rounds(member)
                    .acquire_locks(patient(request))
                    .await
            }
        });
        let Some(answer) = answer.await else {
            return;
        };
        let revision = answer.meta.unwrap_or_default().revision;
        match &answer.outcome {
            Some(Outcome::Acquired(_)) => {
                lock(&self.world.oracle).holds(round, shard, key, revision);
            }
            Some(Outcome::Winner(winner)) => self.told_winner((round, shard), winner),
            Some(Outcome::Conflict(conflict)) => {
                self.told_conflict((round, shard), conflict, revision);
            }
            Some(Outcome::Refusal(_)) => {}
            None => self
                .world
                .violate("an acquisition is answered nothing".into()),
        }
    }

    async fn seal(&self, random: &mut Random, round: u64) -> Option<v1::SealRoundResponse> {
        let sealed = self.ask(random, move |member| {
            let request = v1::SealRoundRequest {
                round,
                ..Default::default()
            };
            async move { service::rounds(member).seal(patient(request)).await }
        });
        sealed.await
    }

    /// A round may end before its time only with all its shards decided by proposals.
    async fn seal_too_early(&self, random: &mut Random, round: u64, earliest: Instant) {
        let Some(answer) = self.seal(random, round).await else {
            return;
        };
        let Some(round) = answer.round else {
            return;
        };
        let filled = round.winners.iter().any(|shard| {
            let winner = shard.winner.as_ref();
            winner.is_none_or(|winner| winner.executor.is_empty())
        });
        let sealed = round.status() == v1::RoundStatus::Sealed;
        if sealed && filled && Runtime::now() < earliest {
            self.world
                .violate(format!("round {} was sealed before its time", round.round));
        }
    }

    async fn prune(&self, random: &mut Random, below_round: u64) {
        lock(&self.world.oracle).prunes(below_round);
        let pruned = self.ask(random, move |member| {
            let request = v1::PruneRequest {
                below_round,
                ..Default::default()
            };
            async move { service::cluster(member).prune(patient(request)).await }
        });
        pruned.await;
    }
}
