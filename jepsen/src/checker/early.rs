//! No round is sealed with undecided shards before its seal time.
//!
//! When a round was opened is not seen, but bounded: later than every answer of the quorum that shows an older revision was
//! asked for. It was sealed before anybody was told so. Where less lies between the two than the seal time, nobody waited.

use super::revision::quorum_revision;
use super::{Facts, Finding};
use crate::history::{Entry, Kind, Op, RoundSeen, WatchEvent};
use std::collections::BTreeMap;

/// Seal time of the chain that scripted clients load, milliseconds.
pub const SCRIPTED_SEAL_AFTER_MS: u64 = 300;
/// How much of it clocks may disagree about, nanoseconds.
const SLACK: u64 = 50_000_000;

/// A round that was sealed with undecided shards.
struct Sealed {
    opened_at: u64,
    /// When it was first told, and by which entry.
    told: u64,
    entry: u64,
}

/// Checks every round of a scripted run that was sealed with undecided shards.
pub fn check(history: &[Entry], facts: &Facts<'_>) -> Vec<Finding> {
    if facts.proposals.is_empty() {
        return Vec::new(); // Real executors propose in this run: its chain has another seal time.
    }
    let floors = floors(history, facts);
    let mut findings = Vec::new();
    for (round, sealed) in sealed(history, facts) {
        // The newest moment at which the store still was at an older revision.
        let Some((_, (after, shown))) = floors.range(..sealed.opened_at).next_back() else {
            continue;
        };
        let most = sealed.told.saturating_sub(*after);
        if most + SLACK < SCRIPTED_SEAL_AFTER_MS * 1_000_000 {
            findings.push(Finding::new(
                "revision/sealed-early",
                format!(
                    "round {round} was sealed with undecided shards {:.0} ms after its opening at the most: its seal time is \
                     {SCRIPTED_SEAL_AFTER_MS} ms",
                    most as f64 / 1e6
                ),
                vec![*shown, sealed.entry],
            ));
        }
    }
    findings
}

/// Revision of an answer of the quorum -> the latest time that an answer of it or of an older one was asked for, with the
/// answer.
fn floors(history: &[Entry], facts: &Facts<'_>) -> BTreeMap<u64, (u64, u64)> {
    let first = history.first().map_or(0, |e| e.index);
    let mut asked: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for entry in history {
        let (Some(revision), Some(invoke)) =
            (quorum_revision(entry), facts.invoked.get(&entry.index))
        else {
            continue;
        };
        let time = history[(invoke - first) as usize].time;
        let known = asked.entry(revision).or_insert((time, entry.index));
        *known = (*known).max((time, entry.index));
    }
    let mut latest = (0, 0);
    for known in asked.values_mut() {
        latest = latest.max(*known);
        *known = latest;
    }
    asked
}

fn sealed(history: &[Entry], facts: &Facts<'_>) -> BTreeMap<u64, Sealed> {
    let mut opened: BTreeMap<u64, u64> = BTreeMap::new();
    let mut closed: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for entry in history.iter().filter(|e| e.kind == Kind::Ok) {
        let mut note = |round: u64, opened_at: u64, is_sealed: bool| {
            if opened_at > 0 {
                opened.entry(round).or_insert(opened_at);
            }
            if is_sealed {
                closed.entry(round).or_insert((entry.time, entry.index));
            }
        };
        let mut seen = |round: u64, seen: &Option<RoundSeen>| {
            if let Some(seen) = seen {
                note(round, seen.opened_at, seen.status == "sealed");
            }
        };
        match &entry.op {
            Op::Get(g) => seen(g.round, &g.seen),
            Op::Seal(s) => seen(s.round, &s.seen),
            Op::Watch(w) => match &w.event {
                WatchEvent::Opened { round } => note(*round, w.id.0, false),
                WatchEvent::Sealed { round, .. } => note(*round, 0, true),
                _ => {}
            },
            _ => {}
        }
    }
    let filled = |round: u64| {
        let mut claims = facts.claims.range((round, 0)..=(round, u32::MAX));
        claims.any(|(slot, _)| facts.winner(*slot).is_some_and(|w| w.executor.is_empty()))
    };
    let rounds = closed.into_iter().filter(|(round, _)| filled(*round));
    let known = rounds.filter_map(|(round, (told, entry))| {
        let opened_at = *opened.get(&round)?;
        let sealed = Sealed {
            opened_at,
            told,
            entry,
        };
        Some((round, sealed))
    });
    known.collect()
}
