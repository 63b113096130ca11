//! What a person does with `troikactl` about blocks that somebody else made: opens a round to check one, reports what
//! comes out, gives up, and reads why a block is invalid. And the commands for scripts and for old rounds.

mod support;

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use support::group::{Group, Ran, run};
use troika_proto::{B256, shards_root};

const CONTRACT: &str = "0x00000000000000000000000000000000000000cc";

/// One member with a chain of one block, made in round 1.
struct Chain {
    group: Group,
    block: Value,
}

impl Chain {
    fn start() -> Self {
        let mut group = Group::start(1);
        group.ready();
        let genesis = group.genesis();
        group.ctl(&["init", genesis.to_str().unwrap()]).ended(0);
        group.ctl(&["round", "open"]).ended(0);
        let write = format!("{CONTRACT}/1=7");
        let submit = "submit --round 1 --shard 0 --executor a --write";
        let submit: Vec<&str> = submit.split(' ').chain([write.as_str()]).collect();
        group.ctl(&submit).ended(0);
        group.ctl(&["round", "seal", "1", "--wait"]).ended(0);
        let block = group.ctl(&["block", "1"]).ended(0).json();
        Self { group, block }
    }

    /// A command as scripts give it.
    fn ask(&self, command: &str) -> Ran {
        self.group.ctl(&command.split(' ').collect::<Vec<_>>())
    }

    /// What a person sees: lines of words.
    fn seen(&self, command: &str) -> Vec<String> {
        let text = self.ask(&format!("{command} -o table")).ended(0).out;
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().map(words).collect()
    }

    fn file(&self, block: &Value) -> PathBuf {
        let path = self.group.folder().join("block.json");
        std::fs::write(&path, block.to_string()).unwrap();
        path
    }

    /// Opens a round that checks this block.
    fn check(&self, block: &Value) -> Ran {
        let file = self.file(block);
        let command = ["round", "open", "--opener", "somebody", "--verify"];
        let command = command.into_iter().chain([file.to_str().unwrap()]);
        self.group.ctl(&command.collect::<Vec<_>>())
    }

    /// The block with another hash for its last shard, of which only an execution can tell that it is wrong.
    fn with_a_bad_shard(&self) -> Value {
        let mut block = self.block.clone();
        let hashes: Vec<B256> = serde_json::from_value(block["shard_hashes"].clone()).unwrap();
        let (_, good) = hashes.split_last().unwrap();
        let hashes = [good, &[B256::repeat_byte(0xbb)]].concat();
        block["header"]["shards_root"] = json!(shards_root(&hashes));
        block["shard_hashes"] = json!(hashes);
        block
    }

    fn status(&self) -> Value {
        self.ask("status").ended(0).json()[0].clone()
    }
}

#[track_caller]
fn has(lines: &[String], expected: &str) {
    let found = lines.iter().any(|line| line.contains(expected));
    assert!(found, "{expected:?} is missing in {lines:#?}");
}

#[test]
fn a_header_that_contradicts_its_parent_is_shown_with_what_it_must_be() {
    let chain = Chain::start();
    let mut bad = chain.block.clone();
    bad["header"]["gas_limit"] = json!(5);
    let opened = chain.check(&bad).ended(0).json();
    assert_eq!(opened["opened"], true);
    assert_eq!(opened["status"], "VOID");
    let round = chain.ask("round get 2").ended(0).json();
    assert_eq!(round["kind"], "VERIFY");
    assert_eq!(round["attempt"], 1);
    assert_eq!(round["opener"], "somebody");
    assert_eq!(round["void_reason"], "INVALID");
    let evidence = &round["evidence"];
    let limit = chain.block["header"]["gas_limit"].to_string();
    let says = format!("the header's gasLimit is 5, but must be {limit}");
    let shown = json!({
        "kind": "bad_header", "field": "gasLimit", "expected": limit, "found": "5", "says": says,
    });
    assert_eq!(*evidence, shown);
    let seen = chain.seen("round get 2");
    has(&seen, "status VOID");
    has(&seen, "void_reason INVALID");
    has(&seen, &format!("evidence.says {says}"));
    // A watcher is told the same.
    let watched = chain.seen("watch --after 0 --until-closed 2");
    has(&watched, &format!("round 2 void: INVALID ({says})"));
    // It is barred for ever, and what is known is not checked again.
    for (block, code) in [(&bad, "BARRED"), (&chain.block, "KNOWN_BLOCK")] {
        let refused = chain.check(block).ended(1).json();
        assert_eq!(refused["refused"]["code"], code);
    }
}

#[test]
fn a_shard_that_comes_out_differently_raises_the_alarm_and_then_voids_the_block() {
    let chain = Chain::start();
    let bad = chain.with_a_bad_shard();
    let opened = chain.check(&bad).ended(0).json();
    assert_eq!(opened["status"], "OPEN");
    assert_eq!(chain.status()["divergence"], json!([]));
    // One voice alone is an alarm: either of the two may be wrong.
    let failed = |executor: &str| {
        let command = "submit --round 2 --shard 2 --failure out-of-gas --executor";
        chain.ask(&format!("{command} {executor}"))
    };
    assert_eq!(failed("x").ended(0).json()["noted"], true);
    let line = "round 2 shard 2: x computes none (out-of-gas), not the header's";
    let status = chain.status();
    assert_eq!(status["divergence"], json!([line]));
    assert_eq!(status["error"], format!("divergence: {line}"));
    has(&chain.seen("status"), &format!("divergence: {line}"));
    let round = chain.ask("round get 2").ended(0).json();
    assert_eq!(round["status"], "OPEN");
    assert_eq!(round["dissent"][0]["reason"], "out-of-gas");
    // Two that agree are evidence.
    assert_eq!(failed("y").ended(0).json()["noted"], true);
    let round = chain.ask("round get 2").ended(0).json();
    assert_eq!(round["void_reason"], "INVALID");
    let says = "shard 2 cannot be executed (out-of-gas), say x, y";
    let shown = json!({
        "kind": "bad_shard", "shard": 2, "expected": B256::repeat_byte(0xbb), "computed": null,
        "executors": ["x", "y"], "reason": "out-of-gas", "says": says,
    });
    assert_eq!(round["evidence"], shown);
    let seen = chain.seen("round get 2");
    has(&seen, "status VOID");
    has(&seen, &format!("evidence.says {says}"));
}

#[test]
fn a_check_that_is_given_up_says_why_and_leaves_another_attempt() {
    let chain = Chain::start();
    let bad = chain.with_a_bad_shard();
    // Nobody gives up a round that makes a block.
    chain.ask("round open").ended(0);
    let refused = chain.ask("round void 2").ended(1).json();
    assert_eq!(refused["refused"]["code"], "WRONG_KIND");
    for (round, attempt, reason) in [(3, 1, "ABANDONED"), (4, 2, "UNAVAILABLE")] {
        let opened = chain.check(&bad).ended(0).json();
        assert_eq!(opened["round"], round);
        assert_eq!(opened["attempt"], attempt);
        let flag = reason.to_lowercase();
        let void = format!("round void {round} --reason {flag}");
        let voided = chain.ask(&void).ended(0).json();
        assert_eq!(voided["status"], "VOID");
        assert_eq!(voided["void_reason"], reason);
        let watch = format!("watch --after 0 --until-closed {round}");
        has(
            &chain.seen(&watch),
            &format!("round {round} void: {reason}"),
        );
    }
    let hash = chain.check(&bad).ended(0).json()["block_hash"].clone();
    let hash = hash.as_str().unwrap();
    let seen = chain.seen("round list");
    assert_eq!(seen[0], "ROUND KIND STATUS BLOCK OPENER PARENT BLOCK HASH");
    assert!(seen[1].starts_with("1 BUILD SEALED 1 troikactl 0x"));
    assert!(seen[2].starts_with("2 BUILD OPEN 2 troikactl 0x"));
    assert!(seen[3].starts_with("3 VERIFY VOID 1 somebody 0x"));
    assert!(seen[5].starts_with("5 VERIFY OPEN 1 somebody 0x"));
    assert!(seen[5].ends_with(hash), "{seen:?}");
    let rounds = |flags: &str| -> Vec<u64> {
        let rows = chain.ask(&format!("round list {flags}")).ended(0).json();
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| row["round"].as_u64().unwrap()).collect()
    };
    assert_eq!(rounds("--open"), [2, 5]);
    assert_eq!(rounds("--from 3 --limit 2"), [3, 4]);
}

#[test]
fn a_round_that_ended_otherwise_is_shown_and_the_exit_code_says_no() {
    let chain = Chain::start();
    let sealed = chain.ask("round void 1").ended(1).json();
    assert_eq!(sealed["status"], "SEALED");
    chain.check(&chain.with_a_bad_shard()).ended(0);
    for _ in 0..2 {
        chain.ask("round void 2").ended(0);
    }
    let void = chain.ask("round seal 2").ended(1).json();
    assert_eq!(void["status"], "VOID");
}

#[test]
fn an_answer_that_cannot_be_written_is_no_success_and_a_reader_that_goes_is_no_failure() {
    let sh = |script: &str| {
        let script = script.replace("troikactl", env!("CARGO_BIN_EXE_troikactl"));
        run(Command::new("sh").args(["-c", &script]))
    };
    let full = sh("troikactl completion bash > /dev/full").ended(7);
    assert!(full.err.contains("cannot write the answer"), "{full:?}");
    let gone = sh("{ troikactl completion bash; echo ended $? >&2; } | true").ended(0);
    assert!(gone.err.contains("ended 0"), "{gone:?}");
    // Nor does it matter that nobody reads what went wrong.
    sh("troikactl status --endpoints , 2> /dev/full").ended(2);
}

#[test]
fn pruned_rounds_are_named_as_such_and_the_newest_block_stays() {
    let chain = Chain::start();
    for round in 2..5 {
        chain.ask("round open").ended(0);
        chain.ask(&format!("round seal {round} --wait")).ended(0);
    }
    let pruned = chain.ask("prune --below 3").ended(0).json();
    assert_eq!(pruned, json!({ "pruned_below": 3 }));
    has(&chain.seen("prune --below 2"), "pruned_below 3");
    // No further than to the round of the head, whatever was asked for.
    let pruned = chain.ask("prune --below 1000").ended(0).json();
    assert_eq!(pruned, json!({ "pruned_below": 4 }));
    let rows = chain.ask("round list").ended(0).json();
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!(rows[0]["round"], 4);
    for gone in ["round get 2", "shard 1 0"] {
        let told = chain.ask(gone).ended(1);
        assert!(
            told.err.contains("kept are 4 and later"),
            "{gone}: {told:?}"
        );
    }
    chain.ask("block head").ended(0);
    assert_eq!(chain.ask("head").ended(0).json()["pruned_below"], 4);
}

#[test]
fn every_shell_gets_a_completion_that_knows_the_commands() {
    let troikactl = env!("CARGO_BIN_EXE_troikactl");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(Command::new(troikactl).args(["completion", shell])).ended(0);
        for word in ["troikactl", "transfer", "until-closed"] {
            assert!(script.out.contains(word), "{shell}: no {word}");
        }
    }
    // The shell takes it.
    let bash = run(Command::new("sh").args(["-c", "command -v bash"]));
    if bash.code == 0 {
        let check = format!("'{troikactl}' completion bash | bash -n");
        run(Command::new("sh").args(["-c", &check])).ended(0);
    }
    run(Command::new(troikactl).args(["completion", "csh"])).ended(2);
}
