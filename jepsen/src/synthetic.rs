//! Histories of a correct store, made without one, and ways to break them: tests for the checkers.
//!
//! A model store decides at one moment between a call's invoke and its completion; calls overlap, time out before or
//! after their effect, and are read back over watches and feeds that lag. The same seed gives the same history.

use crate::history::{
    Acquire, Entry, Feed, Get, Held, Key, Kind, Meta, Op, Open, Outcome, RoundSeen, Seal, Submit,
    Watch, WatchEvent, Winner,
};
use alloy_primitives::B256;
use std::collections::{BTreeMap, VecDeque};

/// A small generator of pseudo-random numbers (SplitMix64), so that a seed means the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is above zero.
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// How large a synthetic history is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Entries, about.
    pub entries: usize,
    /// Concurrent clients.
    pub clients: u64,
    /// Shards of a round.
    pub shards: u32,
}

struct Round {
    opened_at: u64,
    closed_at: u64,
    block: Option<B256>,
    winners: BTreeMap<u32, Winner>,
    locks: BTreeMap<Key, (u32, u64)>,
}

/// The model store and the run around it.
struct Run {
    random: Random,
    size: Size,
    revision: u64,
    rounds: Vec<Round>,
    events: Vec<(u64, u32, WatchEvent)>,
    history: Vec<Entry>,
    /// Client -> its call: the invoke, and the reply once the effect happened.
    calls: BTreeMap<u64, (Op, Option<Op>)>,
    /// Calls that timed out and may still take effect.
    stray: VecDeque<Op>,
    /// Watcher -> how many events it has seen.
    watched: [usize; 3],
    fed: [usize; 3],
    next_process: u64,
    /// Calls so far.
    asked: usize,
}

/// Nanoseconds between two entries: longer than any round must be open, so that the model needs no clock.
const TICK: u64 = 1_000_000_000;
const EXECUTORS: [&str; 3] = ["a", "b", "c"];
const WATCHERS: u64 = 1_000_000;

/// A history of a correct store.
pub fn clean(seed: u64, size: Size) -> Vec<Entry> {
    let mut run = Run::new(seed, size);
    let mut clients: Vec<u64> = (0..size.clients).collect();
    while run.history.len() < size.entries {
        run.turn(&mut clients);
    }
    run.history
}

/// A history of a correct store with exactly so many calls, all of which have completed or timed out.
pub fn clean_calls(seed: u64, calls: usize, clients: u64, shards: u32) -> Vec<Entry> {
    let size = Size {
        entries: calls * 3,
        clients,
        shards,
    };
    let mut run = Run::new(seed, size);
    let mut clients: Vec<u64> = (0..clients).collect();
    while run.asked < calls {
        run.turn(&mut clients);
    }
    // Nobody asks any more; what is under way comes to its end.
    for client in clients {
        let mut process = client;
        while run.calls.contains_key(&process) {
            process = run.step(process);
        }
    }
    run.history
}

impl Run {
    fn new(seed: u64, size: Size) -> Self {
        let mut run = Self {
            random: Random::new(seed),
            size,
            revision: 1,
            rounds: Vec::new(),
            events: Vec::new(),
            history: Vec::with_capacity(size.entries + 64),
            calls: BTreeMap::new(),
            stray: VecDeque::new(),
            watched: [0; 3],
            fed: [0; 3],
            next_process: size.clients,
            asked: 0,
        };
        run.open();
        run
    }

    /// Moves a client on, and perhaps lets a watcher or a peer see something.
    fn turn(&mut self, clients: &mut [u64]) {
        let i = self.random.below(clients.len() as u64) as usize;
        clients[i] = self.step(clients[i]);
        if self.random.one_in(3) {
            self.observe();
        }
    }

    fn push(&mut self, process: u64, kind: Kind, op: Op) {
        let index = self.history.len() as u64;
        self.history.push(Entry {
            index,
            time: index * TICK,
            process,
            kind,
            op,
            error: String::new(),
        });
    }

    /// Moves one client on: invoke, effect, or completion. Returns its process id, a new one after a time-out.
    fn step(&mut self, client: u64) -> u64 {
        if self.random.one_in(20)
            && let Some(op) = self.stray.pop_front()
        {
            self.carry_out(&op);
        }
        let Some((op, reply)) = self.calls.remove(&client) else {
            let op = self.choose();
            self.asked += 1;
            self.push(client, Kind::Invoke, op.clone());
            self.calls.insert(client, (op, None));
            return client;
        };
        if self.random.one_in(50) {
            if reply.is_none() && self.random.one_in(2) {
                self.stray.push_back(op.clone());
            }
            self.push(client, Kind::Info, op);
            self.next_process += 1;
            return self.next_process;
        }
        match reply {
            None => {
                let reply = self.carry_out(&op);
                self.calls.insert(client, (op, Some(reply)));
            }
            Some(reply) => self.push(client, Kind::Ok, reply),
        }
        client
    }

    fn choose(&mut self) -> Op {
        let newest = self.rounds.len() as u64;
        let round = newest - self.random.below(newest.min(3));
        let shard = self.random.below(self.size.shards.into()) as u32;
        match self.random.below(20) {
            0 => Op::Seal(Seal {
                round,
                seen: None,
                refused: None,
                meta: None,
            }),
            1 => Op::Open(Open::default()),
            2..5 => Op::Get(Get {
                round,
                linearizable: true,
                seen: None,
                meta: None,
            }),
            5 | 6 => Op::Acquire(Acquire {
                round,
                shard,
                keys: self.keys(shard),
                outcome: None,
                meta: None,
            }),
            _ => {
                let executor = EXECUTORS[self.random.below(3) as usize].to_owned();
                Op::Submit(Submit {
                    round,
                    shard,
                    hash: B256::from(alloy_primitives::U256::from(self.random.bits())),
                    executor,
                    keys: self.keys(shard),
                    outcome: None,
                    meta: None,
                })
            }
        }
    }

    /// Mostly the shard's own keys, sometimes one that others want too.
    fn keys(&mut self, shard: u32) -> Vec<Key> {
        let mut keys: Vec<Key> = (0..self.random.below(3))
            .map(|i| format!("0x{shard:04x}/{i}"))
            .collect();
        if self.random.one_in(2) {
            keys.push(format!("0xffff/{}", self.random.below(2)));
        }
        keys.sort();
        keys
    }

    fn meta(&self) -> Option<Meta> {
        Some(Meta {
            member: 1,
            leader: 1,
            term: 1,
            log_index: self.revision,
            revision: self.revision,
        })
    }

    fn event(&mut self, ordinal: u32, event: WatchEvent) {
        self.events.push((self.revision, ordinal, event));
    }

    fn open(&mut self) {
        self.revision += 1;
        self.rounds.push(Round {
            opened_at: self.revision,
            closed_at: 0,
            block: None,
            winners: BTreeMap::new(),
            locks: BTreeMap::new(),
        });
        let round = self.rounds.len() as u64;
        self.event(0, WatchEvent::Opened { round });
    }

    fn close(&mut self, number: u64, mut ordinal: u32) {
        let revision = self.revision;
        let shards = self.size.shards;
        for shard in 0..shards {
            let round = &mut self.rounds[number as usize - 1];
            if round.winners.contains_key(&shard) {
                continue;
            }
            let winner = Winner {
                hash: B256::with_last_byte(shard as u8),
                executor: String::new(),
                revision,
            };
            round.winners.insert(shard, winner.clone());
            let event = WatchEvent::Accepted {
                round: number,
                shard,
                winner,
            };
            self.event(ordinal, event);
            ordinal += 1;
        }
        let block = B256::from(alloy_primitives::U256::from(number + (1 << 40)));
        let round = &mut self.rounds[number as usize - 1];
        round.closed_at = revision;
        round.block = Some(block);
        let shards = round.winners.values().map(|w| w.hash).collect();
        let event = WatchEvent::Sealed {
            round: number,
            block,
            shards,
            gas: 0,
        };
        self.event(ordinal, event);
    }

    fn seen(&self, number: u64) -> RoundSeen {
        let round = &self.rounds[number as usize - 1];
        RoundSeen {
            status: if round.closed_at > 0 {
                "sealed"
            } else {
                "open"
            }
            .to_owned(),
            winners: round.winners.iter().map(|(s, w)| (*s, w.clone())).collect(),
            block: round.block,
            opened_at: round.opened_at,
            closed_at: round.closed_at,
        }
    }

    /// The keys that other shards hold.
    fn held(&self, number: u64, shard: u32, keys: &[Key]) -> Vec<Held> {
        let locks = &self.rounds[number as usize - 1].locks;
        let refused = keys.iter().filter_map(|key| {
            let (by, revision) = locks.get(key).copied()?;
            (by != shard).then(|| Held {
                key: key.clone(),
                shard: by,
                revision,
            })
        });
        refused.collect()
    }

    /// Decides, as the store's rules say, and fills in the reply.
    fn carry_out(&mut self, op: &Op) -> Op {
        let mut op = op.clone();
        match &mut op {
            Op::Open(open) => {
                let newest = self.rounds.last().map_or(0, |r| r.closed_at);
                if newest > 0 {
                    self.open();
                }
                open.round = Some(self.rounds.len() as u64);
                open.opened_at = self.rounds.last().map(|r| r.opened_at);
                open.meta = self.meta();
            }
            Op::Submit(submit) => {
                submit.outcome = Some(self.decide(submit));
                submit.meta = self.meta();
            }
            Op::Acquire(acquire) => {
                acquire.outcome = Some(self.acquire(acquire));
                acquire.meta = self.meta();
            }
            Op::Seal(seal) => {
                if self.rounds[seal.round as usize - 1].closed_at == 0 {
                    self.revision += 1;
                    self.close(seal.round, 0);
                }
                seal.seen = Some(self.seen(seal.round));
                seal.meta = self.meta();
            }
            Op::Get(get) => {
                get.seen = Some(self.seen(get.round));
                get.meta = self.meta();
            }
            _ => {}
        }
        op
    }

    fn decide(&mut self, submit: &Submit) -> Outcome {
        let round = &self.rounds[submit.round as usize - 1];
        if let Some(winner) = round.winners.get(&submit.shard) {
            let won = winner.hash == submit.hash && winner.executor == submit.executor;
            return Outcome::Winner {
                winner: winner.clone(),
                won,
            };
        }
        let held = self.held(submit.round, submit.shard, &submit.keys);
        if !held.is_empty() {
            return Outcome::Conflict(held);
        }
        self.revision += 1;
        let winner = Winner {
            hash: submit.hash,
            executor: submit.executor.clone(),
            revision: self.revision,
        };
        let revision = self.revision;
        let round = &mut self.rounds[submit.round as usize - 1];
        round.winners.insert(submit.shard, winner.clone());
        round
            .locks
            .retain(|key, (shard, _)| *shard != submit.shard || submit.keys.contains(key));
        for key in &submit.keys {
            round
                .locks
                .entry(key.clone())
                .or_insert((submit.shard, revision));
        }
        let full = round.winners.len() == self.size.shards as usize;
        let event = WatchEvent::Accepted {
            round: submit.round,
            shard: submit.shard,
            winner: winner.clone(),
        };
        self.event(0, event);
        if full {
            self.close(submit.round, 1);
        }
        Outcome::Winner { winner, won: true }
    }

    fn acquire(&mut self, acquire: &Acquire) -> Outcome {
        let round = &self.rounds[acquire.round as usize - 1];
        if let Some(winner) = round.winners.get(&acquire.shard) {
            return Outcome::Winner {
                winner: winner.clone(),
                won: false,
            };
        }
        let held = self.held(acquire.round, acquire.shard, &acquire.keys);
        if !held.is_empty() {
            return Outcome::Conflict(held);
        }
        self.revision += 1;
        let revision = self.revision;
        let round = &mut self.rounds[acquire.round as usize - 1];
        for key in &acquire.keys {
            round
                .locks
                .entry(key.clone())
                .or_insert((acquire.shard, revision));
        }
        Outcome::Acquired
    }

    /// Lets one watcher or feed see its next event.
    fn observe(&mut self) {
        let who = self.random.below(3) as usize;
        if self.random.one_in(2) {
            let Some((revision, ordinal, event)) = self.events.get(self.watched[who]).cloned()
            else {
                return;
            };
            self.watched[who] += 1;
            let watch = Watch {
                watcher: who as u64,
                member: who as u64 + 1,
                id: (revision, ordinal),
                event,
            };
            self.push(WATCHERS + who as u64, Kind::Ok, Op::Watch(watch));
            return;
        }
        let Some((_, _, event)) = self.events.get(self.fed[who]).cloned() else {
            return;
        };
        self.fed[who] += 1;
        let feed = |round, shard, block| Feed {
            executor: EXECUTORS[who].to_owned(),
            life: 0,
            round,
            shard,
            block,
            complete: None,
        };
        let feed = match event {
            WatchEvent::Accepted {
                round,
                shard,
                winner,
            } => feed(round, Some((shard, winner.hash)), None),
            WatchEvent::Sealed {
                round,
                block,
                shards,
                ..
            } => feed(round, None, Some((block, shards))),
            _ => return,
        };
        self.push(WATCHERS + 10 + who as u64, Kind::Ok, Op::Feed(feed));
    }
}
