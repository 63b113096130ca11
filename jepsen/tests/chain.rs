//! The checkers of chains, transfers, feeds and coverage, each on a small story with a mistake in it and on one without.

use alloy_primitives::B256;
use clap::Parser;
use troika_jepsen::checker::{self, Finding};
use troika_jepsen::history::{
    Balances, BlockSeen, Entry, Feed, Kind, NEMESIS, Nemesis, Op, Open, Receipt, StateHash,
    Transfer, Watch, WatchEvent,
};
use troika_jepsen::options::{Cli, Command};
use troika_jepsen::verdict::{self, Beside, Options, Verdict, judge};

const SECOND: u64 = 1_000_000_000;

#[derive(Default)]
struct Story(Vec<Entry>);

fn b(n: u8) -> B256 {
    B256::repeat_byte(n)
}

impl Story {
    fn add(&mut self, seconds: u64, process: u64, kind: Kind, op: Op) -> &mut Self {
        self.0.push(Entry {
            index: self.0.len() as u64,
            time: seconds * SECOND,
            process,
            kind,
            op,
            error: String::new(),
        });
        self
    }

    /// A transaction that the gateway took.
    fn sent(&mut self, seconds: u64, tx: u8, nonce: u64) -> &mut Self {
        let op = Op::Transfer(Transfer {
            tx: b(tx),
            sender: 0,
            nonce,
        });
        self.add(seconds, 1, Kind::Invoke, op.clone());
        self.add(seconds, 1, Kind::Ok, op)
    }

    fn receipt(&mut self, tx: u8, block: u64) -> &mut Self {
        let hash = hash_of(block);
        self.add(
            50,
            1,
            Kind::Ok,
            Op::Receipt(Receipt {
                tx: b(tx),
                block,
                hash,
            }),
        )
    }

    fn block(&mut self, member: u64, number: u64, transactions: &[u8]) -> &mut Self {
        let block = BlockSeen {
            member,
            number,
            hash: hash_of(number),
            parent: hash_of(number - 1),
            round: number,
            shards: vec![b(0x50 + number as u8)],
            transactions: Some(transactions.iter().map(|t| b(*t)).collect()),
        };
        self.add(60, 2, Kind::Ok, Op::Block(block))
    }

    /// Round `number`, from opening to sealing.
    fn round(&mut self, opened: u64, sealed: u64, number: u64, gas: u64) -> &mut Self {
        let watch = |revision, event| {
            Op::Watch(Watch {
                watcher: 0,
                member: 1,
                id: (revision, 0),
                event,
            })
        };
        let shards = vec![b(0x50 + number as u8)];
        self.add(
            opened,
            3,
            Kind::Ok,
            watch(2 * number, WatchEvent::Opened { round: number }),
        );
        let seal = WatchEvent::Sealed {
            round: number,
            block: hash_of(number),
            shards,
            gas,
        };
        self.add(sealed, 3, Kind::Ok, watch(2 * number + 1, seal))
    }

    /// What came of a fault: `result` is "installed", "lifted", "skipped" or "failed".
    fn fault(&mut self, seconds: u64, fault: &str, result: &str) -> &mut Self {
        self.fault_that_did(seconds, fault, result, &[])
    }

    fn fault_that_did(
        &mut self,
        seconds: u64,
        fault: &str,
        result: &str,
        effects: &[(&str, u64)],
    ) -> &mut Self {
        let action = if result == "lifted" {
            "lift"
        } else {
            "install"
        };
        let effects = effects.iter().map(|(what, n)| ((*what).to_owned(), *n));
        let op = Op::Nemesis(Nemesis {
            fault: fault.to_owned(),
            action: action.to_owned(),
            result: result.to_owned(),
            effects: effects.collect(),
            ..Nemesis::default()
        });
        self.add(seconds, NEMESIS, Kind::Info, op)
    }

    fn feed(
        &mut self,
        round: u64,
        shard: Option<u32>,
        block: bool,
        complete: Option<(u64, u64)>,
    ) -> &mut Self {
        let hash = b(0x50 + round as u8);
        let feed = Feed {
            executor: "a".to_owned(),
            life: 0,
            round,
            shard: shard.map(|s| (s, hash)),
            block: block.then(|| (hash_of(round), vec![hash])),
            complete,
        };
        self.add(55, 4, Kind::Ok, Op::Feed(feed))
    }

    fn rules(&self) -> Vec<String> {
        let mut rules: Vec<String> = checker::safety(&self.0)
            .into_iter()
            .map(|f| f.rule)
            .collect();
        rules.dedup();
        rules
    }
}

fn hash_of(block: u64) -> B256 {
    b(0xb0 + block as u8)
}

/// Two blocks, two transactions, receipts for both.
fn fine() -> Story {
    let mut story = Story::default();
    story.sent(1, 1, 0).sent(1, 2, 1);
    story.round(1, 2, 1, 21_000).round(3, 4, 2, 21_000);
    story.receipt(1, 1).receipt(2, 2);
    story
        .block(1, 1, &[1])
        .block(1, 2, &[2])
        .block(2, 1, &[1])
        .block(2, 2, &[2]);
    story
}

#[test]
fn a_good_chain_gives_no_alarm() {
    assert_eq!(fine().rules(), Vec::<String>::new());
}

#[test]
fn a_transaction_that_a_receipt_was_given_for_and_is_gone_is_caught() {
    let mut story = fine();
    story.sent(5, 3, 2).receipt(3, 2);
    assert_eq!(story.rules(), ["transfer/lost"]);
}

#[test]
fn a_transaction_that_is_included_twice_is_caught() {
    let mut story = fine();
    story.round(5, 6, 3, 21_000).block(1, 3, &[1]);
    assert_eq!(story.rules(), ["transfer/twice"]);
}

#[test]
fn a_transaction_that_nobody_sent_is_caught() {
    let mut story = fine();
    story.round(5, 6, 3, 21_000).block(1, 3, &[9]);
    assert_eq!(story.rules(), ["transfer/invented"]);
}

#[test]
fn members_with_different_chains_are_caught() {
    let mut story = fine();
    story.block(3, 2, &[2]);
    if let Some(Entry {
        op: Op::Block(block),
        ..
    }) = story.0.last_mut()
    {
        block.hash = b(0x77);
    }
    assert_eq!(story.rules(), ["chain/fork"]);
}

#[test]
fn a_block_on_another_parent_is_caught() {
    let mut story = fine();
    story.round(5, 6, 3, 0).block(1, 3, &[]);
    if let Some(Entry {
        op: Op::Block(block),
        ..
    }) = story.0.last_mut()
    {
        block.parent = b(0x77);
    }
    assert_eq!(story.rules(), ["chain/broken"]);
}

#[test]
fn money_from_nothing_and_lost_updates_are_caught() {
    for (what, rule) in [
        ("money", "money/conserved"),
        ("diff", "money/made"),
        ("counter", "counter/lost-update"),
    ] {
        let mut story = fine();
        let mut count = Balances {
            what: what.to_owned(),
            block: 2,
            total: "41".to_owned(),
            expected: "41".to_owned(),
        };
        story.add(61, 2, Kind::Ok, Op::Balances(count.clone()));
        assert_eq!(story.rules(), Vec::<String>::new());
        count.total = "42".to_owned();
        story.add(61, 2, Kind::Ok, Op::Balances(count));
        assert_eq!(story.rules(), [rule]);
    }
}

#[test]
fn a_member_whose_disk_holds_another_state_is_caught() {
    let mut story = fine();
    for (member, hash) in [(1, 7), (2, 7), (3, 8)] {
        let state = StateHash {
            member,
            log_index: 40,
            hash: b(hash),
            from_disk: true,
            meta: None,
        };
        story.add(62, NEMESIS, Kind::Ok, Op::StateHash(state));
    }
    assert_eq!(story.rules(), ["state/divergence"]);
}

/// A transaction is taken at 1 s; the round of 10 s to 12 s seals empty; the next includes it.
fn empty_while_waiting(faults: &[(u64, &str, &str)]) -> Story {
    let mut story = Story::default();
    story.sent(1, 1, 0);
    let mut faults = faults.to_vec();
    let mut until = |story: &mut Story, seconds: u64| {
        while let Some((at, fault, result)) = faults.first().copied().filter(|f| f.0 <= seconds) {
            faults.remove(0);
            story.fault(at, fault, result);
        }
    };
    until(&mut story, 10);
    story.round(10, 12, 1, 0);
    until(&mut story, 40);
    story.round(40, 41, 2, 21_000);
    story.block(1, 1, &[]).block(1, 2, &[1]);
    story
}

#[test]
fn an_empty_block_while_a_transaction_waits_is_caught() {
    assert_eq!(empty_while_waiting(&[]).rules(), ["empty/waiting"]);
}

#[test]
fn the_loss_of_some_executors_excuses_no_empty_block_and_the_loss_of_the_leader_does() {
    let during = |fault| [(9, fault, "installed"), (13, fault, "lifted")];
    assert_eq!(
        empty_while_waiting(&during("kill-executor")).rules(),
        ["empty/waiting"]
    );
    assert_eq!(
        empty_while_waiting(&during("kill-leader")).rules(),
        Vec::<String>::new()
    );
    let skipped = [(9, "kill-leader", "skipped")];
    assert_eq!(
        empty_while_waiting(&skipped).rules(),
        ["empty/waiting"],
        "a fault that this machine cannot have excuses nothing"
    );
    let long_before = [
        (1, "kill-leader", "installed"),
        (1, "kill-leader", "lifted"),
    ];
    assert_eq!(empty_while_waiting(&long_before).rules(), ["empty/waiting"]);
}

#[test]
fn an_empty_block_is_fine_where_nothing_waited() {
    let mut story = Story::default();
    // Taken after the opening, and one whose turn had not come.
    story.round(10, 12, 1, 0).sent(11, 1, 0).sent(11, 2, 1);
    story.round(12, 13, 2, 21_000).round(30, 31, 3, 21_000);
    story.block(1, 1, &[]).block(1, 2, &[1]).block(1, 3, &[2]);
    assert_eq!(story.rules(), Vec::<String>::new());
}

#[test]
fn a_feed_that_leaves_something_out_is_caught() {
    let complete = |shard: bool, block: bool| {
        let mut story = fine();
        story
            .feed(1, Some(0), false, None)
            .feed(1, None, true, None)
            .feed(1, None, false, Some((1, 1)));
        if shard {
            story.feed(2, Some(0), false, None);
        }
        if block {
            story.feed(2, None, true, None);
        }
        story.feed(2, None, false, Some((1, 2)));
        story.rules()
    };
    assert_eq!(complete(true, true), Vec::<String>::new());
    assert_eq!(complete(false, true), ["feed/gap"]);
    assert_eq!(complete(true, false), ["feed/gap"]);
    assert_eq!(complete(false, false), ["feed/gap"]);
}

#[test]
fn a_feed_that_says_it_is_complete_and_has_sent_nothing_is_caught() {
    let mut story = fine();
    story.feed(2, None, false, Some((1, 2)));
    assert_eq!(story.rules(), ["feed/gap"]);
    // One that is asked for what comes later owes nothing of what was before.
    let mut story = fine();
    story
        .feed(2, Some(0), false, None)
        .feed(2, None, true, None)
        .feed(2, None, false, Some((2, 2)));
    assert_eq!(story.rules(), Vec::<String>::new());
}

#[test]
fn a_feed_with_another_shard_than_the_chains_is_caught() {
    let mut story = fine();
    story.feed(1, Some(0), false, None);
    if let Some(Entry {
        op: Op::Feed(feed), ..
    }) = story.0.last_mut()
    {
        feed.shard = Some((0, b(0x77)));
    }
    assert_eq!(story.rules(), ["agreement/flip"]);
}

/// A run in which something was decided and a call was answered.
fn decided() -> Story {
    let mut story = fine();
    // Accepted events count as decisions; a story without them decided nothing.
    let accepted = WatchEvent::Accepted {
        round: 1,
        shard: 0,
        winner: troika_jepsen::history::Winner {
            hash: b(0x51),
            executor: "a".to_owned(),
            revision: 1,
        },
    };
    let watch = Watch {
        watcher: 7,
        member: 1,
        id: (1, 0),
        event: accepted,
    };
    story.0.retain(|e| !matches!(e.op, Op::Watch(_)));
    story.add(63, 3, Kind::Ok, Op::Watch(watch));
    for (i, entry) in story.0.iter_mut().enumerate() {
        entry.index = i as u64;
    }
    story
}

fn verdict(story: &Story, faults: &[&str]) -> Verdict {
    let faults: Vec<String> = faults.iter().map(|f| (*f).to_owned()).collect();
    judge(&story.0, Beside::default(), &faults).verdict
}

#[test]
fn a_run_whose_faults_did_not_bite_is_unknown() {
    assert_eq!(
        verdict(&Story::default(), &[]),
        Verdict::Unknown,
        "nothing happened"
    );
    let mut story = decided();
    assert_eq!(verdict(&story, &[]), Verdict::Valid);
    assert_eq!(
        verdict(&story, &["pause"]),
        Verdict::Unknown,
        "asked for, never installed"
    );
    story
        .fault(64, "pause", "installed")
        .fault(65, "pause", "lifted");
    // A call that failed for whatever reason shows nothing.
    story.add(65, 9, Kind::Invoke, Op::Open(Open::default()));
    story.add(66, 9, Kind::Fail, Op::Open(Open::default()));
    assert_eq!(
        verdict(&story, &["pause"]),
        Verdict::Unknown,
        "installed, and nothing stood still"
    );
    story
        .fault(67, "pause", "installed")
        .fault_that_did(68, "pause", "lifted", &[("stood", 1)]);
    assert_eq!(verdict(&story, &["pause"]), Verdict::Valid);
}

#[test]
fn every_fault_is_judged_by_its_own_effect() {
    let mut story = decided();
    let both = ["kill", "loss"];
    story
        .fault(64, "kill", "installed")
        .fault_that_did(65, "kill", "lifted", &[("starts", 1)])
        .fault(66, "loss", "installed")
        .fault_that_did(67, "loss", "lifted", &[("starts", 1)]);
    assert_eq!(
        verdict(&story, &both),
        Verdict::Unknown,
        "no packet was lost"
    );
    story.fault_that_did(68, "loss", "lifted", &[("dropped", 40)]);
    assert_eq!(verdict(&story, &both), Verdict::Valid);
    // That it worked once is no excuse for failing later.
    story.fault(69, "kill", "failed");
    assert_eq!(verdict(&story, &both), Verdict::Unknown);
}

#[test]
fn what_was_seen_without_being_asked_for_is_no_call_that_succeeded() {
    let mut story = decided();
    let asked: Vec<u64> = story
        .0
        .iter()
        .filter(|e| e.kind == Kind::Invoke)
        .map(|e| e.process)
        .collect();
    assert!(!asked.is_empty());
    story.0.retain(|e| !asked.contains(&e.process));
    for (i, entry) in story.0.iter_mut().enumerate() {
        entry.index = i as u64;
    }
    assert_eq!(verdict(&story, &[]), Verdict::Unknown);
}

#[test]
fn a_stored_run_is_judged_again_as_it_was_judged() {
    let stored = |story: &Story, beside: Option<Beside>| {
        let dir = tempfile::tempdir().unwrap();
        let mut lines = Vec::new();
        for entry in &story.0 {
            troika_jepsen::history::write(entry, &mut lines).unwrap();
        }
        std::fs::write(dir.path().join("history.jsonl"), lines).unwrap();
        let cli = Cli::parse_from(["troika-jepsen", "test", "--nemesis", "kill"]);
        let Command::Test(args) = cli.command else {
            unreachable!("asked for a test");
        };
        let options = Options {
            args,
            seed: 1,
            version: String::new(),
            commit: "unknown".to_owned(),
            binaries: vec![],
            skipped: vec![],
            command: String::new(),
        };
        verdict::write_json(&dir.path().join("options.json"), &options).unwrap();
        let own = beside.map(|beside| {
            let results = judge(&story.0, beside, &["kill".to_owned()]);
            verdict::write_json(&dir.path().join("results.json"), &results).unwrap();
            results.verdict
        });
        // Twice: what the first writes must not change what the second says.
        let again = [(); 2].map(|()| verdict::analyze(dir.path()).unwrap());
        assert_eq!(again[0], again[1]);
        (own, again[0])
    };
    let mut story = decided();
    story
        .fault(64, "kill", "installed")
        .fault_that_did(65, "kill", "lifted", &[("starts", 1)]);
    let well = Beside {
        recovery_s: Some(1.0),
        ..Beside::default()
    };
    let crashed = Beside {
        findings: vec![Finding::new("process/ended", "member-1".to_owned(), vec![])],
        ..well.clone()
    };
    let uncompared = Beside {
        unasked: vec!["the states on disk".to_owned()],
        ..well.clone()
    };
    for (beside, wanted) in [
        (well, Verdict::Valid),
        (crashed, Verdict::Invalid),
        (uncompared, Verdict::Unknown),
    ] {
        assert_eq!(stored(&story, Some(beside)), (Some(wanted), wanted));
    }
    // Killed before it wrote results.
    assert_eq!(stored(&story, None), (None, Verdict::Unknown));
    let mut broken = fine();
    broken.sent(5, 3, 2).receipt(3, 2);
    assert_eq!(stored(&broken, None), (None, Verdict::Invalid));
}
