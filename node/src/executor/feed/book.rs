//! The outline of recent rounds: who won what, and how they ended.

use super::super::limits::FEED_ROUNDS;
use crate::store_client::{Round, RoundKind, Winner};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use troika_proto::wire::hash_bytes;
use troika_proto::{B256, Header, Shard, v1};
use troika_store::mutant::{self, Mutant};

/// How a round ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Close {
    /// Its block is final.
    Sealed {
        /// The block.
        hash: B256,
        /// Its header.
        header: Box<Header>,
        /// Its shards.
        shard_hashes: Vec<B256>,
        /// Whether it became the head.
        head: bool,
    },
    /// It came to nothing.
    Void(v1::VoidReason),
}

/// What the feed says about a round, without the shards' bodies.
#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    /// Making or checking.
    pub kind: RoundKind,
    /// Decided shards; of the executor's own range, at least.
    pub winners: BTreeMap<u32, Winner>,
    /// `None` while it is open.
    pub close: Option<Close>,
}

#[derive(Default)]
struct State {
    rounds: BTreeMap<u64, Arc<Outline>>,
    /// Highest round number heard of.
    newest: u64,
    /// Rounds below it are forgotten by the store.
    pruned_below: u64,
}

/// Outlines of recent rounds, shared.
#[derive(Default)]
pub struct RoundBook {
    state: Mutex<State>,
    version: watch::Sender<u64>,
    /// This executor's own proposals, which only a planted bug looks at.
    own: Mutex<BTreeMap<(u64, u32), Arc<v1::FeedShard>>>,
}

impl RoundBook {
    /// Nothing, unless a bug of the feed is planted.
    pub fn proposing(&self, round: u64, executor: &str, shard: &Arc<Shard>) {
        let early = mutant::on(Mutant::FeedBeforeCommit);
        if !early && !mutant::on(Mutant::FeedOwnProposal) {
            return;
        }
        let winner = Winner {
            shard_hash: shard.hash,
            executor: executor.into(),
            revision: 0,
        };
        let index = shard.header.index;
        let item = v1::FeedShard {
            index,
            winner: Some(v1::Winner {
                shard_hash: hash_bytes(shard.hash),
                executor: executor.to_owned(),
                revision: 0,
            }),
            header: Some((&shard.header).into()),
            body: Some((&shard.body).into()),
        };
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.insert((round, index), Arc::new(item));
        drop(own);
        if early {
            self.decided(round, index, &winner);
        }
    }

    /// What the feed sends instead of the accepted shard: nothing, unless a bug of the feed is planted.
    pub fn own(&self, round: u64, shard: u32) -> Option<Arc<v1::FeedShard>> {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.get(&(round, shard)).cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Notified after each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Starts anew: of rounds up to `newest` the store knows more than the book.
    pub fn reset(&self, newest: u64, pruned_below: u64) {
        {
            let mut state = self.state();
            state.rounds.clear();
            state.newest = state.newest.max(newest);
            state.pruned_below = pruned_below;
        }
        self.announce();
    }

    /// A round was opened; `false` if that was known.
    pub fn opened(&self, round: &Round) -> bool {
        let fresh = {
            let mut state = self.state();
            state.newest = state.newest.max(round.number);
            let fresh = !state.rounds.contains_key(&round.number);
            if fresh {
                let outline = Outline {
                    kind: round.kind,
                    winners: round.winners.clone(),
                    close: None,
                };
                state.rounds.insert(round.number, Arc::new(outline));
                state.forget();
            }
            fresh
        };
        self.announce();
        fresh
    }

    /// A shard was decided.
    pub fn decided(&self, round: u64, shard: u32, winner: &Winner) {
        self.change(round, |outline| {
            outline.winners.insert(shard, winner.clone());
        });
    }

    /// A round ended.
    pub fn closed(&self, round: u64, close: Close) {
        self.change(round, |outline| outline.close = Some(close));
    }

    /// The store has forgotten rounds below that number.
    pub fn pruned(&self, below: u64) {
        self.state().pruned_below = below;
        self.announce();
    }

    fn change(&self, round: u64, change: impl FnOnce(&mut Outline)) {
        {
            let mut state = self.state();
            state.newest = state.newest.max(round);
            if let Some(outline) = state.rounds.get_mut(&round) {
                change(Arc::make_mut(outline));
            }
        }
        self.announce();
    }

    /// The outline of a round, if the book has it.
    pub fn get(&self, round: u64) -> Option<Arc<Outline>> {
        self.state().rounds.get(&round).cloned()
    }

    /// Highest round number heard of.
    pub fn newest(&self) -> u64 {
        self.state().newest
    }

    /// Rounds below it are forgotten by the store.
    pub fn pruned_below(&self) -> u64 {
        self.state().pruned_below
    }
}

impl State {
    /// Forgets the oldest that are closed; the open ones are few and stay.
    fn forget(&mut self) {
        while self.rounds.len() > FEED_ROUNDS {
            let closed = self.rounds.iter().find(|(_, o)| o.close.is_some());
            let Some(oldest) = closed.map(|(number, _)| *number) else {
                return;
            };
            self.rounds.remove(&oldest);
        }
    }
}
