//! Checkers: pure functions from a history to findings.
//!
//! The main one is [`revision`]: every reply carries the revision at which it was true, so in revision order the history
//! must simply make sense, in O(n log n). The others look at what revisions do not show. A checker never guesses: what
//! timed out (`info`) may or may not have happened, and counts for neither.

pub mod agreement;
pub mod chain;
pub mod coverage;
pub mod early;
pub mod empty;
pub mod feed;
pub mod linear;
pub mod revision;
pub mod watch;

use crate::history::{Entry, Key, Kind, Op, Outcome, Submit, WatchEvent, Winner};
use alloy_primitives::B256;
use alloy_primitives::map::{HashMap, HashSet};
use linear::Searched;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which checker, and which of its rules: `agreement/flip`.
    pub rule: String,
    /// What was seen and what was promised, for people.
    pub text: String,
    /// Entries that show it, the fewest that do, ascending.
    pub entries: Vec<u64>,
}

impl Finding {
    /// A finding that the entries `entries` show.
    pub fn new(rule: &str, text: String, mut entries: Vec<u64>) -> Self {
        entries.sort_unstable();
        entries.dedup();
        Self {
            rule: rule.to_owned(),
            text,
            entries,
        }
    }
}

/// A shard of a round.
pub type Slot = (u64, u32);

/// One claim that a slot has a winner, and the entry that makes it.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The winner's hash.
    pub hash: B256,
    /// Who made it and when; feeds and block lists know the hash alone.
    pub winner: Option<&'a Winner>,
    /// The entry.
    pub entry: u64,
}

/// What several checkers need to know of a history.
#[derive(Default)]
pub struct Facts<'a> {
    /// Every claim about every slot's winner, in history order.
    pub claims: BTreeMap<Slot, Vec<Claim<'a>>>,
    /// Proposals that were submitted: (slot, hash) -> executors, keys, first invoke.
    pub proposals: HashMap<(Slot, B256), Proposal<'a>>,
    /// Keys that somebody tried to acquire for a slot.
    pub wanted: HashMap<Slot, Vec<&'a Key>>,
    /// Slots with submissions of which nobody knows what became.
    pub doubtful: HashSet<Slot>,
    /// Completed entry -> its invoke.
    pub invoked: HashMap<u64, u64>,
}

/// A proposal that was submitted, perhaps several times.
pub struct Proposal<'a> {
    /// By whom.
    pub executors: Vec<&'a str>,
    /// Lock keys of its diff.
    pub keys: &'a [Key],
    /// First entry that submits it.
    pub first: u64,
}

impl<'a> Facts<'a> {
    /// Collects the facts of a history.
    pub fn of(history: &'a [Entry]) -> Self {
        let mut facts = Self::default();
        let mut pending: HashMap<u64, u64> = HashMap::default();
        let mut open: HashMap<u64, Slot> = HashMap::default();
        for entry in history {
            if let Op::Submit(s) = &entry.op {
                match entry.kind {
                    Kind::Invoke => drop(open.insert(entry.process, (s.round, s.shard))),
                    Kind::Ok | Kind::Fail => drop(open.remove(&entry.process)),
                    Kind::Info => {}
                }
            }
            match entry.kind {
                Kind::Invoke => {
                    pending.insert(entry.process, entry.index);
                    facts.note_invoke(entry);
                }
                _ => {
                    if let Some(invoke) = pending.remove(&entry.process) {
                        facts.invoked.insert(entry.index, invoke);
                    }
                }
            }
            if entry.kind == Kind::Ok {
                facts.note_claims(entry);
            }
        }
        facts.doubtful = open.into_values().collect();
        facts
    }

    fn note_invoke(&mut self, entry: &'a Entry) {
        match &entry.op {
            Op::Submit(Submit {
                round,
                shard,
                executor,
                hash,
                keys,
                ..
            }) => {
                let proposal = self
                    .proposals
                    .entry(((*round, *shard), *hash))
                    .or_insert_with(|| Proposal {
                        executors: Vec::new(),
                        keys,
                        first: entry.index,
                    });
                if !proposal.executors.contains(&executor.as_str()) {
                    proposal.executors.push(executor);
                }
            }
            Op::Acquire(acquire) => {
                let wanted = self.wanted.entry((acquire.round, acquire.shard));
                wanted.or_default().extend(&acquire.keys);
            }
            _ => {}
        }
    }

    fn claim(&mut self, slot: Slot, winner: &'a Winner, entry: u64) {
        self.claims.entry(slot).or_default().push(Claim {
            hash: winner.hash,
            winner: Some(winner),
            entry,
        });
    }

    fn claim_hash(&mut self, slot: Slot, hash: B256, entry: u64) {
        self.claims.entry(slot).or_default().push(Claim {
            hash,
            winner: None,
            entry,
        });
    }

    fn note_claims(&mut self, entry: &'a Entry) {
        let at = entry.index;
        match &entry.op {
            Op::Submit(s) => {
                if let Some(Outcome::Winner { winner, .. }) = &s.outcome {
                    self.claim((s.round, s.shard), winner, at);
                }
            }
            Op::Acquire(a) => {
                if let Some(Outcome::Winner { winner, .. }) = &a.outcome {
                    self.claim((a.round, a.shard), winner, at);
                }
            }
            Op::Get(g) => {
                for (shard, winner) in g.seen.iter().flat_map(|s| &s.winners) {
                    self.claim((g.round, *shard), winner, at);
                }
            }
            Op::Seal(s) => {
                for (shard, winner) in s.seen.iter().flat_map(|s| &s.winners) {
                    self.claim((s.round, *shard), winner, at);
                }
            }
            Op::Watch(w) => match &w.event {
                WatchEvent::Accepted {
                    round,
                    shard,
                    winner,
                } => self.claim((*round, *shard), winner, at),
                WatchEvent::Sealed { round, shards, .. } => {
                    for (shard, hash) in shards.iter().enumerate() {
                        self.claim_hash((*round, shard as u32), *hash, at);
                    }
                }
                _ => {}
            },
            Op::Block(b) => {
                for (shard, hash) in b.shards.iter().enumerate() {
                    self.claim_hash((b.round, shard as u32), *hash, at);
                }
            }
            Op::Feed(f) => {
                if let Some((shard, hash)) = f.shard {
                    self.claim_hash((f.round, shard), hash, at);
                }
                for (shard, hash) in f.block.iter().flat_map(|(_, s)| s.iter().enumerate()) {
                    self.claim_hash((f.round, shard as u32), *hash, at);
                }
            }
            _ => {}
        }
    }

    /// The winner of a slot, if any claim names it whole.
    pub fn winner(&self, slot: Slot) -> Option<&'a Winner> {
        self.claims.get(&slot)?.iter().find_map(|c| c.winner)
    }
}

/// All safety checkers, in the order in which the report shows them; and what the search for an order left out.
pub fn check(history: &[Entry]) -> (Vec<Finding>, Searched) {
    let facts = Facts::of(history);
    let mut findings = agreement::check(history, &facts);
    findings.extend(revision::check(history, &facts));
    findings.extend(early::check(history, &facts));
    let (unordered, searched) = linear::check(history, &facts);
    findings.extend(unordered);
    findings.extend(watch::check(history, &facts));
    findings.extend(feed::check(history));
    findings.extend(chain::check(history));
    findings.extend(empty::check(history));
    (findings, searched)
}

/// What all safety checkers find.
pub fn safety(history: &[Entry]) -> Vec<Finding> {
    check(history).0
}
