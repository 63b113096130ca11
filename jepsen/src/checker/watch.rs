//! Watches: no gap, no repeat, no reorder, also over reconnects and members.

use super::Finding;
use crate::history::{Entry, Op, WatchEvent};
use std::collections::{BTreeMap, HashMap};

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

/// Checks every watcher alone, and what one missed against what the others saw.
pub fn check(history: &[Entry]) -> Vec<Finding> {
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
