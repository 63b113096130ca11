//! `troika-node dev` as its users run it.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use troika_tests::processes::binary;

/// Runs `troika-node dev` with these arguments beside short blocks and JSON; answers the blocks and the summary.
fn dev(arguments: &[&str]) -> (Vec<Value>, Value) {
    let output = Command::new(binary("troika-node"))
        .args([
            "dev",
            "--json",
            "--rpc",
            "127.0.0.1:0",
            "--block-time",
            "200ms",
        ])
        .args(arguments)
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    let printed = String::from_utf8(output.stdout).expect("text");
    let lines = printed
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let mut lines: Vec<Value> = lines.collect();
    let summary = lines.pop().expect("a summary")["summary"].take();
    (lines, summary)
}

fn numbers(blocks: &[Value]) -> Vec<u64> {
    let number = |block: &Value| block["block"].as_u64().expect("a number");
    blocks.iter().map(number).collect()
}

#[test]
fn a_run_includes_its_whole_load_and_more_than_one_executor_wins() {
    let (blocks, summary) = dev(&["--blocks", "10"]);
    assert_eq!(numbers(&blocks), (1..=10).collect::<Vec<_>>());
    let winners: BTreeSet<_> = blocks
        .iter()
        .flat_map(|block| block["winners"].as_array().expect("winners"))
        .filter_map(Value::as_str)
        .filter(|name| !name.is_empty())
        .collect();
    assert!(winners.len() > 1, "only {winners:?} won");
    let load = &summary["load"];
    assert!(load["sent"].as_u64() > Some(0), "{load}");
    assert_eq!(load["sent"], load["included"], "{load}");
    assert_eq!(load["refused"], 0, "{load}");
    let transactions: u64 = blocks
        .iter()
        .filter_map(|block| block["transactions"].as_u64())
        .sum();
    assert_eq!(Some(transactions), load["sent"].as_u64());
}

#[test]
fn a_kept_chain_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let data: &Path = folder.path();
    let arguments = ["--blocks", "3", "--data", data.to_str().expect("a path")];
    let (first, _) = dev(&arguments);
    let (second, summary) = dev(&arguments);
    let last = numbers(&first).pop().expect("blocks");
    // Blocks that were sealed while the first run was stopping are there too.
    assert!(numbers(&second)[0] > last, "{first:?} then {second:?}");
    assert_eq!(summary["load"]["sent"], summary["load"]["included"]);
}
