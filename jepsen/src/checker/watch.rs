//! Watches: no gap, no repeat, no reorder, also over reconnects and members.

use super::{Facts, Finding, Slot};
use crate::history::{Entry, Kind, Op, WatchEvent};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// One watcher's stream.
#[derive(Default)]
struct Stream {
    /// Events by id, with their entry.
    seen: BTreeMap<(u64, u32), (WatchEvent, u64)>,
    first: Option<(u64, u32)>,
    /// All up to here has been sent.
    progress: (u64, u32),
    last_entry: u64,
}

/// Checks every watcher alone, and what one missed against what the others saw and what replies told.
pub fn check(history: &[Entry], facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut streams: BTreeMap<u64, Stream> = BTreeMap::new();
    for entry in history {
        let Op::Watch(watch) = &entry.op else {
            continue;
        };
        let stream = streams.entry(watch.watcher).or_default();
        if watch.event == WatchEvent::Progress {
            stream.first.get_or_insert(watch.id);
            stream.progress = stream.progress.max(watch.id);
            stream.last_entry = entry.index;
            continue;
        }
        if stream.first.is_some() && watch.id <= stream.progress {
            findings.push(Finding::new(
                "watch/order",
                format!(
                    "watcher {}: {:?} came after {:?}: a repeat or out of order",
                    watch.watcher, watch.id, stream.progress
                ),
                vec![stream.last_entry, entry.index],
            ));
        }
        stream.first.get_or_insert(watch.id);
        stream.progress = stream.progress.max(watch.id);
        stream.last_entry = entry.index;
        stream
            .seen
            .insert(watch.id, (watch.event.clone(), entry.index));
    }
    findings.extend(gaps(&streams));
    findings.extend(untold(&streams, &told(history, facts)));
    findings
}

/// A change that somebody was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Opened(u64),
    Accepted(Slot),
}

/// What replies told, by revision, with the entry that tells it.
fn told(history: &[Entry], facts: &Facts<'_>) -> BTreeMap<(u64, Told), u64> {
    let mut told = BTreeMap::new();
    for (slot, claims) in &facts.claims {
        for claim in claims {
            // What a seal has filled is the seal's event.
            if let Some(winner) = claim.winner.filter(|w| !w.executor.is_empty()) {
                let key = (winner.revision, Told::Accepted(*slot));
                told.entry(key).or_insert(claim.entry);
            }
        }
    }
    for entry in history.iter().filter(|e| e.kind == Kind::Ok) {
        if let Op::Open(open) = &entry.op
            && let (Some(round), Some(at)) = (open.round, open.opened_at)
        {
            told.entry((at, Told::Opened(round))).or_insert(entry.index);
        }
    }
    told
}

/// A change that a reply told of and a watcher, which is past its revision, never saw: perhaps no watcher did.
fn untold(streams: &BTreeMap<u64, Stream>, told: &BTreeMap<(u64, Told), u64>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (watcher, stream) in streams {
        let Some(first) = stream.first else { continue };
        // A revision of which only the last events were sent, or the first so far, says nothing of the others.
        if first.0 + 1 >= stream.progress.0 {
            continue;
        }
        let seen = stream.seen.iter();
        let seen: BTreeSet<(u64, Told)> = seen
            .filter_map(|((revision, _), (event, _))| match event {
                WatchEvent::Opened { round } => Some((*revision, Told::Opened(*round))),
                WatchEvent::Accepted { round, shard, .. } => {
                    Some((*revision, Told::Accepted((*round, *shard))))
                }
                _ => None,
            })
            .collect();
        let within = (first.0 + 1, Told::Opened(0))..(stream.progress.0, Told::Opened(0));
        let missed = told
            .range(within)
            .find(|(change, _)| !seen.contains(change));
        if let Some(((revision, change), shown)) = missed {
            findings.push(Finding::new(
                "watch/gap",
                format!(
                    "watcher {watcher} is past revision {revision} but never saw {change:?}, which a reply told of"
                ),
                vec![*shown, stream.last_entry],
            ));
        }
    }
    findings
}

/// An event that one watcher saw and another, which was past it, did not; or saw otherwise.
fn gaps(streams: &BTreeMap<u64, Stream>) -> Vec<Finding> {
    let mut all: BTreeMap<(u64, u32), (&WatchEvent, u64, u64)> = BTreeMap::new();
    let mut findings = Vec::new();
    for (watcher, stream) in streams {
        for (id, (event, entry)) in &stream.seen {
            match all.get(id) {
                Some((other, shown, by)) if *other != event => findings.push(Finding::new(
                    "watch/differs",
                    format!(
                        "event {id:?}: watcher {by} saw {other:?}, watcher {watcher} saw {event:?}"
                    ),
                    vec![*shown, *entry],
                )),
                Some(_) => {}
                None => {
                    all.insert(*id, (event, *entry, *watcher));
                }
            }
        }
    }
    let mut missed: HashMap<u64, u32> = HashMap::new();
    for (watcher, stream) in streams {
        let Some(first) = stream.first else { continue };
        for (id, (event, entry, by)) in all.range(first..=stream.progress) {
            if !stream.seen.contains_key(id) {
                let count = missed.entry(*watcher).or_default();
                *count += 1;
                if *count == 1 {
                    findings.push(Finding::new(
                        "watch/gap",
                        format!(
                            "watcher {watcher} is past {id:?} but never saw {event:?}, which watcher {by} saw"
                        ),
                        vec![*entry, stream.last_entry],
                    ));
                }
            }
        }
    }
    findings
}
