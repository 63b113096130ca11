//! What was promised, and what was seen of it.

use super::escape;
use crate::checker::Facts;
use crate::history::{Entry, Kind, Op, Outcome};
use crate::verdict::Results;
use std::collections::BTreeSet;
use std::fmt::Write;

/// What a run looked at, in numbers.
#[derive(Default)]
struct Seen {
    slots: usize,
    claims: usize,
    quorum: usize,
    locks: usize,
    reads: usize,
    events: usize,
    watchers: BTreeSet<u64>,
    feed: usize,
    feeds: BTreeSet<String>,
    states: usize,
    from_disk: usize,
    balances: usize,
    transfers: usize,
    receipts: usize,
    blocks: usize,
}

impl Seen {
    fn of(history: &[Entry]) -> Self {
        let facts = Facts::of(history);
        let mut seen = Self {
            slots: facts.claims.len(),
            claims: facts.claims.values().map(Vec::len).sum(),
            ..Self::default()
        };
        for entry in history.iter().filter(|e| e.kind == Kind::Ok) {
            match &entry.op {
                Op::Submit(s) => {
                    seen.quorum += 1;
                    seen.locks += usize::from(matches!(s.outcome, Some(Outcome::Conflict(_))));
                }
                Op::Acquire(_) => seen.locks += 1,
                Op::Get(g) if g.linearizable => seen.reads += 1,
                Op::Watch(w) => {
                    seen.events += 1;
                    seen.watchers.insert(w.watcher);
                }
                Op::Feed(f) => {
                    seen.feed += 1;
                    seen.feeds.insert(f.executor.clone());
                }
                Op::StateHash(s) => {
                    seen.states += 1;
                    seen.from_disk += usize::from(s.from_disk);
                }
                Op::Balances(_) => seen.balances += 1,
                Op::Transfer(_) => seen.transfers += 1,
                Op::Receipt(_) => seen.receipts += 1,
                Op::Block(_) => seen.blocks += 1,
                _ => {}
            }
        }
        seen
    }
}

/// A promise: its words, the rules that test it, and what was looked at.
struct Promise {
    name: &'static str,
    words: &'static str,
    rules: &'static [&'static str],
    seen: String,
    tested: bool,
}

fn promises(seen: &Seen, results: &Results) -> Vec<Promise> {
    let promise = |name, words, rules, seen: String, tested| Promise {
        name,
        words,
        rules,
        seen,
        tested,
    };
    vec![
        promise(
            "One winner",
            "Whoever is asked, before and after any fault, names the same winner of a shard, and it was really submitted.",
            &["agreement/"],
            format!("{} claims about {} shards", seen.claims, seen.slots),
            seen.claims > 0,
        ),
        promise(
            "Nothing acknowledged is lost",
            "In the order of the revisions that replies carry, the history makes sense.",
            &["revision/", "identity/", "damage/"],
            format!(
                "{} submissions, {} restarts",
                seen.quorum, results.coverage.restarts
            ),
            seen.quorum + seen.events > 0,
        ),
        promise(
            "Locks exclude",
            "No two accepted shards of a round hold one key; a refused key is held by whom it is said to be.",
            &["locks/"],
            format!("{} acquisitions and conflicts", seen.locks),
            seen.locks > 0,
        ),
        promise(
            "Reads are linearizable",
            "Every shard is a write-once register.",
            &["linear/"],
            match results.searched.left_out() {
                0 => format!("{} linearizable reads", seen.reads),
                _ => format!("{} linearizable reads; {}", seen.reads, results.searched),
            },
            seen.reads > 0,
        ),
        promise(
            "Watches are whole",
            "No gap, no repeat, no reorder, over reconnects, restarts and members.",
            &["watch/"],
            format!("{} events at {} watchers", seen.events, seen.watchers.len()),
            seen.events > 0,
        ),
        promise(
            "Feeds tell the same story, to the end",
            "Every live executor publishes every accepted shard, and nothing else.",
            &["feed/"],
            format!("{} items from {} executors", seen.feed, seen.feeds.len()),
            seen.feed > 0,
        ),
        promise(
            "Progress",
            "The system goes on within the stated time once faults are lifted; no block is empty while transactions wait.",
            &["recovery/", "empty/", "operator/", "transfer/stuck"],
            results
                .recovery_s
                .map_or("none in time".to_owned(), |s| format!("after {s:.1} s")),
            true,
        ),
        promise(
            "Money is conserved",
            "What the accounts hold is what was there less the burned fees; a counter has counted every call.",
            &["money/", "counter/"],
            format!("{} counts", seen.balances),
            seen.balances > 0,
        ),
        promise(
            "Transactions are included once, for good",
            "One chain; nothing twice, nothing lost that a receipt was given for, nothing that nobody sent.",
            &["transfer/", "chain/"],
            format!(
                "{} sent, {} receipts, {} blocks read",
                seen.transfers, seen.receipts, seen.blocks
            ),
            seen.blocks > 0,
        ),
        promise(
            "Determinism",
            "Members at one log index have one state hash, in memory and on disk.",
            &["state/"],
            format!(
                "{} state hashes, {} of them from stopped members' disks",
                seen.states, seen.from_disk
            ),
            seen.states > 0,
        ),
        promise(
            "Processes behave",
            "No panic, no unexplained error in a log, no process that ends by itself.",
            &["process/"],
            "all logs".to_owned(),
            true,
        ),
    ]
}

/// Writes the table.
pub fn table(out: &mut String, history: &[Entry], results: &Results) {
    let seen = Seen::of(history);
    out.push_str(
        "<h2>What was promised, and what was seen</h2><table><tr><th>promise<th><th>looked at<th>",
    );
    for promise in promises(&seen, results) {
        // `transfer/stuck` is about progress, the other rules of transfers are not.
        let mine = |rule: &str| {
            let stuck = rule == "transfer/stuck";
            let named = promise.rules.contains(&"transfer/stuck");
            promise.rules.iter().any(|r| rule.starts_with(r)) && (stuck == named || !stuck)
        };
        let broken = results.findings.iter().filter(|f| mine(&f.rule)).count();
        let (class, text) = match (broken, promise.tested) {
            (0, true) => ("kept", "kept".to_owned()),
            (0, false) => ("untested", "not tested".to_owned()),
            (n, _) => ("broken", format!("broken ({n})")),
        };
        let _ = write!(
            out,
            "<tr><td><b>{}</b><td>{}<td>{}<td class={class}><b>{text}</b>",
            promise.name,
            promise.words,
            escape(&promise.seen)
        );
    }
    out.push_str("</table>");
}
