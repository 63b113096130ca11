//! The main checker: in the order of the revisions that the replies carry, the history must make sense.
//!
//! 1. **Real time**: an answer that needed the quorum never carries a lower revision than one that was complete before it
//!    was asked.
//! 2. **Replay**: openings, acquisitions, acceptances and sealings, sorted by revision, form a legal run: a shard is
//!    accepted in an open round, its keys are held by no other shard then, and one revision is one change.
//! 3. **Undecided means undecided**: a conflict, or a linearizable read without a winner, at revision R means that the
//!    winner's revision is above R; a read that shows a winner carries a revision not below it.
//! 4. **Conflicts are true**: a named holder wanted the key.

use super::{Facts, Finding, Slot};
use crate::history::{Entry, Held, Key, Kind, Meta, Op, Outcome, RoundSeen, WatchEvent};
use alloy_primitives::B256;
use alloy_primitives::map::{HashMap, HashSet};
use std::collections::BTreeMap;

/// Checks the four rules.
pub fn check<'a>(history: &'a [Entry], facts: &Facts<'a>) -> Vec<Finding> {
    let mut findings = real_time(history, facts);
    findings.extend(replay(history, facts));
    findings.extend(undecided(history, facts));
    findings.extend(true_conflicts(history, facts));
    findings
}

/// The revision of an answer that needed the quorum when it was given, if it did.
pub(super) fn quorum_revision(entry: &Entry) -> Option<u64> {
    let revision = |meta: &Option<Meta>| meta.map(|m| m.revision);
    if entry.kind != Kind::Ok {
        return None;
    }
    match &entry.op {
        Op::Get(g) if g.linearizable => revision(&g.meta),
        Op::Submit(s) => match &s.outcome {
            Some(Outcome::Conflict(_)) => revision(&s.meta),
            _ => None,
        },
        Op::Acquire(a) => match &a.outcome {
            Some(Outcome::Conflict(_) | Outcome::Acquired) => revision(&a.meta),
            _ => None,
        },
        _ => None,
    }
}

/// The newest revision that an entry shows to have happened.
fn shown_revision(entry: &Entry) -> u64 {
    if entry.kind != Kind::Ok {
        return 0;
    }
    let winner = |outcome: &Option<Outcome>| match outcome {
        Some(Outcome::Winner { winner, .. }) => winner.revision,
        _ => 0,
    };
    let seen = |seen: &Option<RoundSeen>| {
        seen.as_ref().map_or(0, |s| {
            let winners = s.winners.iter().map(|(_, w)| w.revision).max();
            s.opened_at.max(s.closed_at).max(winners.unwrap_or(0))
        })
    };
    let shown = match &entry.op {
        Op::Submit(s) => winner(&s.outcome),
        Op::Acquire(a) => winner(&a.outcome),
        Op::Open(o) => o.opened_at.unwrap_or(0),
        Op::Get(g) => seen(&g.seen),
        Op::Seal(s) | Op::Void(s) => seen(&s.seen),
        Op::Watch(w) => w.id.0,
        _ => 0,
    };
    shown.max(quorum_revision(entry).unwrap_or(0))
}

fn real_time(history: &[Entry], facts: &Facts<'_>) -> Vec<Finding> {
    // floors[i]: the newest revision shown by entries before i, and which entry showed it.
    let mut floors = Vec::with_capacity(history.len());
    let mut floor = (0, 0);
    let first = history.first().map_or(0, |e| e.index);
    let mut findings = Vec::new();
    for entry in history {
        floors.push(floor);
        if let Some(revision) = quorum_revision(entry) {
            let invoke = facts.invoked.get(&entry.index).copied();
            let invoke = invoke.unwrap_or(entry.index);
            let (before, shown_by) = floors[(invoke - first) as usize];
            if revision < before {
                findings.push(Finding::new(
                    "revision/real-time",
                    format!(
                        "entry {} answers at revision {revision}, but before it was asked (entry {invoke}) entry \
                         {shown_by} had shown revision {before}: a stale answer",
                        entry.index
                    ),
                    vec![shown_by, invoke, entry.index],
                ));
            }
        }
        let shown = shown_revision(entry);
        if shown > floor.0 {
            floor = (shown, entry.index);
        }
    }
    findings
}

/// A change of the store's state that the history shows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change<'a> {
    Opened {
        round: u64,
    },
    Acquired {
        slot: Slot,
        keys: &'a [Key],
    },
    Accepted {
        slot: Slot,
        hash: B256,
        filled: bool,
    },
    Closed {
        round: u64,
        void: bool,
    },
}

impl Change<'_> {
    fn round(&self) -> u64 {
        match self {
            Self::Opened { round } | Self::Closed { round, .. } => *round,
            Self::Acquired { slot, .. } | Self::Accepted { slot, .. } => slot.0,
        }
    }
}

/// All changes, by (revision, kind) so that within one revision acceptances come before the sealing.
fn changes<'a>(history: &'a [Entry], facts: &Facts<'_>) -> BTreeMap<(u64, Change<'a>), u64> {
    let mut changes = BTreeMap::new();
    let mut add = |revision: u64, change: Change<'a>, entry: u64| {
        changes.entry((revision, change)).or_insert(entry);
    };
    for (slot, claims) in &facts.claims {
        for claim in claims {
            if let Some(winner) = claim.winner {
                let change = Change::Accepted {
                    slot: *slot,
                    hash: winner.hash,
                    filled: winner.executor.is_empty(),
                };
                add(winner.revision, change, claim.entry);
                break;
            }
        }
    }
    for entry in history.iter().filter(|e| e.kind == Kind::Ok) {
        let mut seen = |round: u64, seen: &Option<RoundSeen>| {
            let Some(seen) = seen else { return };
            add(seen.opened_at, Change::Opened { round }, entry.index);
            if seen.closed_at > 0 {
                let void = seen.status == "void";
                add(seen.closed_at, Change::Closed { round, void }, entry.index);
            }
        };
        match &entry.op {
            Op::Get(g) => seen(g.round, &g.seen),
            Op::Seal(s) | Op::Void(s) => seen(s.round, &s.seen),
            Op::Open(o) => {
                if let (Some(round), Some(at)) = (o.round, o.opened_at) {
                    add(at, Change::Opened { round }, entry.index);
                }
            }
            Op::Acquire(a) if a.outcome == Some(Outcome::Acquired) => {
                if let Some(meta) = a.meta {
                    let change = Change::Acquired {
                        slot: (a.round, a.shard),
                        keys: &a.keys,
                    };
                    add(meta.revision, change, entry.index);
                }
            }
            Op::Watch(w) => match &w.event {
                WatchEvent::Opened { round } => {
                    add(w.id.0, Change::Opened { round: *round }, entry.index);
                }
                WatchEvent::Sealed { round, .. } | WatchEvent::Voided { round } => {
                    let void = matches!(w.event, WatchEvent::Voided { .. });
                    let round = *round;
                    add(w.id.0, Change::Closed { round, void }, entry.index);
                }
                _ => {}
            },
            _ => {}
        }
    }
    changes
}

#[derive(Default)]
struct RoundState<'a> {
    opened: Option<(u64, u64)>,
    closed: Option<(u64, u64)>,
    locks: HashMap<&'a str, Lock>,
}

/// Who holds a key.
struct Lock {
    shard: u32,
    /// Revision since which, and the entry that shows it.
    since: u64,
    shown: u64,
    /// Taken ahead: an acceptance that does not need it releases it.
    ahead: bool,
}

fn replay<'a>(history: &'a [Entry], facts: &Facts<'a>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut rounds: HashMap<u64, RoundState<'_>> = HashMap::default();
    let mut last: Option<(u64, Change<'_>, u64)> = None;
    for ((revision, change), entry) in changes(history, facts) {
        if let Some((before, other, shown)) = &last
            && *before == revision
            && !same_step(other, &change)
        {
            findings.push(Finding::new(
                "revision/one-change",
                format!("revision {revision} is both {other:?} and {change:?}"),
                vec![*shown, entry],
            ));
        }
        let round = rounds.entry(change.round()).or_default();
        findings.extend(step(round, revision, &change, entry, facts));
        last = Some((revision, change, entry));
    }
    findings
}

/// One command may accept the last shard and seal, or seal and fill many shards. What accepts a proposal
/// accepts nothing else. A seal makes rounds void whose parent is too old by then.
fn same_step(a: &Change<'_>, b: &Change<'_>) -> bool {
    let fills = |c: &Change<'_>| {
        matches!(
            c,
            Change::Accepted { .. } | Change::Closed { .. } | Change::Acquired { .. }
        )
    };
    let two_winners = |a: &Change<'_>, b: &Change<'_>| {
        matches!(a, Change::Accepted { filled: false, .. }) && matches!(b, Change::Accepted { .. })
    };
    let stale = |a: &Change<'_>, b: &Change<'_>| {
        let ends = matches!(b, Change::Accepted { .. } | Change::Closed { .. });
        matches!(a, Change::Closed { void: true, .. }) && ends
    };
    if a.round() != b.round() {
        return stale(a, b) || stale(b, a);
    }
    fills(a) && fills(b) && !two_winners(a, b) && !two_winners(b, a)
}

fn step<'a>(
    round: &mut RoundState<'a>,
    revision: u64,
    change: &Change<'a>,
    entry: u64,
    facts: &Facts<'a>,
) -> Option<Finding> {
    match change {
        Change::Opened { round: n } => {
            if let Some((at, shown)) = round.opened {
                return Some(Finding::new(
                    "revision/opened-twice",
                    format!("round {n} was opened at revision {at} and again at {revision}"),
                    vec![shown, entry],
                ));
            }
            round.opened = Some((revision, entry));
            None
        }
        Change::Closed { round: n, .. } => {
            if let Some((at, shown)) = round.closed {
                return Some(Finding::new(
                    "revision/closed-twice",
                    format!("round {n} was closed at revision {at} and again at {revision}"),
                    vec![shown, entry],
                ));
            }
            round.closed = Some((revision, entry));
            None
        }
        Change::Acquired { slot, keys } => {
            let lock = Lock {
                shard: slot.1,
                since: revision,
                shown: entry,
                ahead: true,
            };
            take(round, slot.0, keys, &lock, facts)
        }
        Change::Accepted { slot, hash, filled } => {
            if let Some((at, shown)) = round.closed
                && at < revision
            {
                return Some(Finding::new(
                    "revision/accepted-late",
                    format!(
                        "round {} shard {}: accepted at revision {revision}, but the round was closed at {at}",
                        slot.0, slot.1
                    ),
                    vec![shown, entry],
                ));
            }
            if *filled {
                return None;
            }
            let keys = facts.proposals.get(&(*slot, *hash));
            let keys = keys.map_or(&[][..], |p| p.keys);
            let lock = Lock {
                shard: slot.1,
                since: revision,
                shown: entry,
                ahead: false,
            };
            let finding = take(round, slot.0, keys, &lock, facts);
            // What the accepted diff does not need is released with the acceptance.
            let needed: HashSet<&str> = keys.iter().map(String::as_str).collect();
            round
                .locks
                .retain(|key, lock| lock.shard != slot.1 || needed.contains(key));
            finding
        }
    }
}

/// Takes keys for a shard of round `number`.
fn take<'a>(
    round: &mut RoundState<'a>,
    number: u64,
    keys: &'a [Key],
    lock: &Lock,
    facts: &Facts<'_>,
) -> Option<Finding> {
    let mut finding = None;
    for key in keys {
        let held = round
            .locks
            .get(key.as_str())
            .filter(|held| held.shard != lock.shard);
        if let Some(held) = held.filter(|held| !perhaps_released(number, held, facts)) {
            finding = Some(Finding::new(
                "locks/exclude",
                format!(
                    "round {number}: shard {} took {key} at revision {}, but shard {} held it since {}",
                    lock.shard, lock.since, held.shard, held.since
                ),
                vec![held.shown, lock.shown],
            ));
            continue;
        }
        let own = round
            .locks
            .get(key.as_str())
            .filter(|held| held.shard == lock.shard);
        let (since, shown) = own.map_or((lock.since, lock.shown), |own| (own.since, own.shown));
        round.locks.insert(
            key,
            Lock {
                since,
                shown,
                ..*lock
            },
        );
    }
    finding
}

/// A key that was taken ahead may have been released by an acceptance that nobody saw: one of unknown outcome.
fn perhaps_released(round: u64, held: &Lock, facts: &Facts<'_>) -> bool {
    let slot = (round, held.shard);
    held.ahead && facts.winner(slot).is_none() && facts.doubtful.contains(&slot)
}

fn undecided(history: &[Entry], facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut against = |slot: Slot, at: u64, entry: u64, what: &str| {
        if let Some(winner) = facts.winner(slot)
            && winner.revision <= at
        {
            findings.push(Finding::new(
                "revision/undecided",
                format!(
                    "round {} shard {}: entry {entry} says {what} at revision {at}, but it was decided at {}",
                    slot.0, slot.1, winner.revision
                ),
                vec![entry],
            ));
        }
    };
    for entry in history.iter().filter(|e| e.kind == Kind::Ok) {
        match &entry.op {
            Op::Submit(s) => {
                if let (Some(Outcome::Conflict(_)), Some(meta)) = (&s.outcome, s.meta) {
                    against((s.round, s.shard), meta.revision, entry.index, "conflict");
                }
            }
            Op::Acquire(a) => {
                let open = matches!(a.outcome, Some(Outcome::Conflict(_) | Outcome::Acquired));
                if let (true, Some(meta)) = (open, a.meta) {
                    against((a.round, a.shard), meta.revision, entry.index, "undecided");
                }
            }
            Op::Get(g) => {
                let (Some(seen), Some(meta)) = (&g.seen, g.meta) else {
                    continue;
                };
                let shown: HashSet<u32> = seen.winners.iter().map(|(shard, _)| *shard).collect();
                let slots = facts.claims.range((g.round, 0)..=(g.round, u32::MAX));
                for (slot, _) in slots.filter(|(slot, _)| !shown.contains(&slot.1)) {
                    against(*slot, meta.revision, entry.index, "undecided");
                }
            }
            _ => {}
        }
    }
    findings
}

fn true_conflicts(history: &[Entry], facts: &Facts<'_>) -> Vec<Finding> {
    if facts.proposals.is_empty() {
        return Vec::new();
    }
    // Keys per slot that anybody ever asked for.
    let mut asked: HashMap<Slot, HashSet<&Key>> = HashMap::default();
    for ((slot, _), proposal) in &facts.proposals {
        asked.entry(*slot).or_default().extend(proposal.keys);
    }
    for (slot, keys) in &facts.wanted {
        asked.entry(*slot).or_default().extend(keys.iter().copied());
    }
    let mut findings = Vec::new();
    for entry in history.iter().filter(|e| e.kind == Kind::Ok) {
        let (round, shard, outcome, meta) = match &entry.op {
            Op::Submit(s) => (s.round, s.shard, &s.outcome, s.meta),
            Op::Acquire(a) => (a.round, a.shard, &a.outcome, a.meta),
            _ => continue,
        };
        let Some(Outcome::Conflict(held)) = outcome else {
            continue;
        };
        for Held { key, shard: by, .. } in held {
            let wanted = asked.get(&(round, *by)).is_some_and(|k| k.contains(key));
            let why = if *by == shard || !wanted {
                "which never asked for it"
            } else if released((round, *by), key, meta, facts) {
                "which was accepted without it"
            } else {
                continue;
            };
            findings.push(Finding::new(
                "locks/holder",
                format!("round {round} shard {shard}: refused {key}, said to be held by shard {by}, {why}"),
                vec![entry.index],
            ));
        }
    }
    findings
}

/// True if a shard had been accepted by the time of an answer, and its diff does not need the key: whatever was taken ahead
/// was released then.
fn released(slot: Slot, key: &Key, answer: Option<Meta>, facts: &Facts<'_>) -> bool {
    let (Some(answer), Some(winner)) = (answer, facts.winner(slot)) else {
        return false;
    };
    let made = facts.proposals.get(&(slot, winner.hash));
    winner.revision <= answer.revision && made.is_some_and(|made| !made.keys.contains(key))
}
