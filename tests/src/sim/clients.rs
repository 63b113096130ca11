//! Clients: makers of blocks that race and retry, readers on every member, followers of the events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use troika_proto::{
    AccountDiff, Address, ChainConfig, Delta, Diff, Genesis, GenesisAccount, LockKey, LockRule,
    Receipt, Shard, ShardBody, Spec, U256, v1,
};
use troika_store::raft::Handle;
use troika_store::runtime::Runtime;
use troika_store::state::{
    AcceptShard, AcquireLocks, Answer, Command, Decision, EventId, Machine, OpenRound, OpenTarget,
};

use super::cluster::Cluster;
use super::random::Random;
use super::trace::digest;
use super::world::{World, lock};

/// How long a client waits for one answer before it asks somebody else.
const PATIENCE: Duration = Duration::from_secs(3);
/// Wei of every account at genesis.
const RICH: u64 = 1_000_000_000_000_000;
/// Wei that a transaction burns and pays at most.
const COST: u64 = 21_000 * 1_000;
/// Rounds that are kept when old ones are pruned.
const KEPT_ROUNDS: u64 = 12;
/// Bytes of events that a follower asks for at once.
const EVENT_BYTES: usize = 4_096;

/// A client.
pub struct Client {
    /// Its name, which is its executor's.
    pub name: Arc<str>,
    /// Where it lives.
    pub world: Arc<World>,
    /// Whom it asks.
    pub cluster: Cluster,
    /// Its randomness.
    pub random: Random,
    /// Makers stop when this is set.
    pub quiet: Arc<AtomicBool>,
}

/// The chain of a run.
pub fn genesis(shards: u32, seal_after_ms: u32) -> Genesis {
    let rich = |number| {
        let account = GenesisAccount {
            balance: U256::from(RICH),
            ..GenesisAccount::default()
        };
        (payer(number), account)
    };
    Genesis {
        config: ChainConfig {
            chain_id: 1337,
            shards,
            shard_gas_limit: 1 << 24,
            lock_rule: LockRule::Commuting,
            elasticity: 2,
            beneficiary: Address::repeat_byte(0xfe),
            propose_after_ms: 50,
            seal_after_ms: seal_after_ms.into(),
            seconds_per_slot: 0,
            spec: Spec::Osaka,
            genesis_base_fee: 7,
            genesis_timestamp: 1_700_000_000,
            registry: Address::ZERO,
            epoch_length: 0,
            share_cap: 0,
            fixed: None,
        },
        accounts: (0..shards * 2).map(rich).collect(),
    }
}

fn payer(number: u32) -> Address {
    let mut bytes = [0x11; 20];
    bytes[16..].copy_from_slice(&(number + 1).to_be_bytes());
    bytes.into()
}

/// One payment, made by `executor`; and the keys that it writes.
fn proposal(
    round: u64,
    shard: u32,
    from: u32,
    to: u32,
    executor: &str,
    salt: u64,
) -> (Arc<Shard>, Vec<LockKey>) {
    let paid = AccountDiff {
        balance: Delta::fall(U256::from(1_000 + COST)),
        nonce: Some(round),
        ..AccountDiff::default()
    };
    let credit = AccountDiff {
        balance: Delta::rise(U256::from(1_000)),
        ..AccountDiff::default()
    };
    let diff = Diff {
        accounts: BTreeMap::from([(payer(to), credit), (payer(from), paid)]),
    };
    let body = ShardBody {
        transactions: vec![
            format!("{executor} {round} {shard} {salt}")
                .into_bytes()
                .into(),
        ],
        receipts: vec![Receipt {
            tx_type: 2,
            success: true,
            cumulative_gas: 21_000,
            logs: Vec::new(),
        }],
        diff,
    };
    let made = Shard::new(shard, body, U256::from(5), LockRule::Commuting);
    (
        Arc::new(made),
        vec![LockKey {
            address: payer(from),
            slot: None,
        }],
    )
}

impl Client {
    fn note(&self, what: u64, number: u64, tell: impl FnOnce() -> String) {
        let name = digest(self.name.as_bytes());
        self.world.note(&[6, name, what, number], || {
            format!("{}: {}", self.name, tell())
        });
    }

    async fn pause(&mut self, low: u64, high: u64) {
        let pause = self.random.millis(low, high);
        Runtime::sleep(pause).await;
    }

    fn member(&mut self) -> Option<(u64, Handle)> {
        let running = self.cluster.running();
        self.random.pick(&running).cloned()
    }

    /// Asks until there is an answer, each time somebody else.
    async fn ask(&self, random: &mut Random, command: Command) -> Answer {
        loop {
            let running = self.cluster.running();
            if let Some((id, handle)) = random.pick(&running).cloned() {
                let again = command.clone();
                let call = async move { handle.propose_by(again, Runtime::now() + PATIENCE).await };
                match self.cluster.on(id, call).await {
                    Some(Ok(proposed)) => {
                        let answer = proposed.answer;
                        self.note(1, answer.revision, || {
                            format!("member {id} answers {:?}", answer.decision)
                        });
                        lock(&self.world.oracle).replied(answer.revision);
                        return answer;
                    }
                    Some(Err(error)) => {
                        self.note(2, id, || format!("member {id} answers: {error}"));
                    }
                    None => self.note(3, id, || format!("member {id} died under the call")),
                }
            }
            let pause = random.millis(10, 200);
            Runtime::sleep(pause).await;
        }
    }

    /// Makes blocks until it is quiet.
    pub async fn make_blocks(mut self) {
        let mut random = self.random.fork();
        let plan = self.world.plan.clone();
        let genesis = Arc::new(genesis(plan.shards, plan.seal_after_ms));
        self.ask(&mut random, Command::InitChain(genesis)).await;
        while !self.quiet.load(Ordering::Relaxed) {
            let open = OpenRound {
                opener: self.name.clone(),
                clock_ms: 0,
                target: OpenTarget::Build {
                    parent: None,
                    reservations: Vec::new(),
                },
            };
            let opened = self
                .ask(&mut random, Command::OpenRound(Arc::new(open)))
                .await;
            let Decision::Opened { round, .. } = opened.decision else {
                self.pause(10, 100).await;
                continue;
            };
            let began = Runtime::now();
            let shards = (0..plan.shards).map(|shard| (shard, random.fork()));
            let racing: Vec<_> = shards
                .map(|(shard, random)| self.race(round, shard, random))
                .collect();
            join_all(racing).await;
            let seal_at = began + Duration::from_millis(u64::from(plan.seal_after_ms) + 20);
            Runtime::sleep_until(seal_at).await;
            let seal = Command::SealRound {
                round,
                waited_ms: 0,
            };
            self.ask(&mut random, seal).await;
            if random.chance(plan.prune_per_million) && round > KEPT_ROUNDS {
                let below_round = round - KEPT_ROUNDS;
                lock(&self.world.oracle).prunes(below_round);
                self.ask(&mut random, Command::Prune { below_round }).await;
            }
            self.pause(0, 100).await;
        }
    }

    /// Races for one shard of a round; sometimes leaves it to others.
    async fn race(&self, round: u64, shard: u32, mut random: Random) {
        let accounts = self.world.plan.shards * 2;
        let pause = random.millis(0, 80);
        Runtime::sleep(pause).await;
        if random.chance(80_000) {
            return;
        }
        if random.chance(100_000) {
            self.acquire(round, shard, &mut random).await;
        }
        for _ in 0..4 {
            let from = match random.chance(700_000) {
                true => shard,
                false => random.below(accounts.into()) as u32,
            };
            let to = (from + 1) % accounts;
            let (made, keys) = proposal(round, shard, from, to, &self.name, random.draw());
            lock(&self.world.oracle).proposes(made.hash, keys);
            let accept = AcceptShard::new(round, self.name.clone(), made);
            match self
                .ask(&mut random, Command::AcceptShard(accept))
                .await
                .decision
            {
                Decision::Winner(winner) => {
                    self.world
                        .check(|oracle| oracle.acknowledged(&self.name, (round, shard), &winner));
                    return;
                }
                Decision::Conflict(_) => {}
                Decision::Refused(_) => return,
                other => {
                    return self
                        .world
                        .violate(format!("a proposal is answered {other:?}"));
                }
            }
        }
    }

    async fn acquire(&self, round: u64, shard: u32, random: &mut Random) {
        let accounts = u64::from(self.world.plan.shards) * 2;
        let key = LockKey {
            address: payer(random.below(accounts) as u32),
            slot: None,
        };
        let command = Command::AcquireLocks(AcquireLocks {
            round,
            shard,
            keys: [key].into(),
        });
        let answer = self.ask(random, command).await;
        match answer.decision {
            Decision::Acquired => {
                lock(&self.world.oracle).holds(round, shard, key, answer.revision);
            }
            Decision::Winner(winner) => {
                self.world
                    .check(|oracle| oracle.acknowledged(&self.name, (round, shard), &winner));
            }
            Decision::Conflict(_) | Decision::Refused(_) => {}
            other => self
                .world
                .violate(format!("an acquisition is answered {other:?}")),
        }
    }

    /// Reads for ever, now and then without asking the quorum.
    pub async fn read(mut self) {
        let account = payer(0);
        loop {
            self.pause(20, 400).await;
            let Some((id, handle)) = self.member() else {
                continue;
            };
            let linearizable = self.random.chance(800_000);
            let newest = lock(&self.world.oracle).newest();
            let call = async move {
                if linearizable && handle.linearize(Runtime::now() + PATIENCE).await.is_err() {
                    return None;
                }
                Some(handle.read(|machine| look(machine, account)))
            };
            let Some(Some(seen)) = self.cluster.on(id, call).await else {
                self.note(4, id, || format!("member {id}: no read"));
                continue;
            };
            self.note(5, seen.revision, || {
                format!("member {id} reads revision {}", seen.revision)
            });
            let who = format!("member {id}");
            if linearizable {
                self.world
                    .check(|oracle| oracle.read(&who, newest, seen.revision));
            }
            self.world.check(|oracle| seen.check(&who, account, oracle));
        }
    }

    /// Follows the events for ever, on one member and then on another.
    pub async fn follow(mut self) {
        let mut after: Option<EventId> = None;
        let mut at = None;
        loop {
            if at.is_none() || self.random.chance(50_000) {
                at = self.member();
            }
            let Some((id, handle)) = at.clone() else {
                self.pause(50, 300).await;
                continue;
            };
            let call = async move {
                let mut revisions = handle.revisions();
                let events = handle.read(|machine| next_events(machine, after));
                if matches!(&events, Next::Events(events) if events.is_empty()) {
                    // Nothing new: wait, but not for ever.
                    let _ = Runtime::timeout(Duration::from_millis(300), revisions.changed()).await;
                }
                events
            };
            match self.cluster.on(id, call).await {
                None => at = None,
                Some(Next::Gone(oldest)) => {
                    self.note(6, oldest.revision, || {
                        format!("events up to {oldest:?} are gone at member {id}")
                    });
                    after = Some(oldest);
                }
                Some(Next::Events(events)) => {
                    let who = format!("member {id}");
                    for event in events {
                        let seen = lock(&self.world.oracle).event(&who, after, &event);
                        match seen {
                            Ok(place) => after = Some(place),
                            Err(what) => return self.world.violate(what),
                        }
                    }
                    self.note(7, after.map_or(0, |place| place.revision), || {
                        format!("follows {id} up to {after:?}")
                    });
                }
            }
        }
    }
}

enum Next {
    Events(Vec<v1::Event>),
    Gone(EventId),
}

fn next_events(machine: &Machine, after: Option<EventId>) -> Next {
    if after.is_some_and(|after| machine.newest_event() < after) {
        // This member is behind what was seen elsewhere.
        return Next::Events(Vec::new());
    }
    match machine.events_after(after.unwrap_or_default(), EVENT_BYTES) {
        Ok(events) => Next::Events(events),
        Err(gone) => Next::Gone(gone.oldest),
    }
}

/// A head's number and hash, and an account's nonce and balance there.
type SeenHead = (u64, troika_proto::B256, Option<(u64, U256)>);

/// What one read saw.
struct Seen {
    revision: u64,
    head: Option<SeenHead>,
    winners: Vec<((u64, u32), troika_store::state::Winner)>,
}

/// Rounds back from the newest whose winners a read looks at.
const LOOK_BACK: u64 = 6;

fn look(machine: &Machine, account: Address) -> Seen {
    let head = machine.current_chain().map(|chain| {
        let (number, hash) = (chain.head.header.number, chain.head.hash);
        let state = machine
            .state_at(&hash)
            .and_then(|state| state.account(&account));
        (
            number,
            hash,
            state.map(|account| (account.nonce, account.balance)),
        )
    });
    let from = machine.next_round().saturating_sub(LOOK_BACK);
    let shards = machine
        .current_chain()
        .map_or(0, |chain| chain.config.shards);
    let slots = machine
        .rounds(from)
        .flat_map(|round| (0..shards).map(move |shard| (round, shard)));
    let winners = slots.filter_map(|slot| Some((slot, machine.winner_of(slot.0, slot.1)?)));
    Seen {
        revision: machine.revision(),
        head,
        winners: winners.collect(),
    }
}

impl Seen {
    fn check(
        &self,
        who: &str,
        account: Address,
        oracle: &mut super::oracle::Oracle,
    ) -> Result<(), String> {
        for (slot, winner) in &self.winners {
            oracle.winner(who, *slot, winner)?;
        }
        if let Some((number, hash, seen)) = self.head {
            oracle.block(who, number, hash)?;
            oracle.account(who, hash, account, seen)?;
        }
        Ok(())
    }
}
