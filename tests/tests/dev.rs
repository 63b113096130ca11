//! `troika-node dev` as its users run it.

use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
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

#[test]
fn an_interrupted_run_ends_in_order_and_its_chain_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().to_str().expect("a path");
    let mut dev_process = Command::new(binary("troika-node"))
        .args(["dev", "--json", "--rpc", "127.0.0.1:0"])
        .args(["--block-time", "200ms", "--data", data])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut lines = BufReader::new(dev_process.stdout.take().expect("piped")).lines();
    let mut blocks: Vec<Value> = Vec::new();
    let mut line = || -> Option<Value> {
        let line = lines.next()?.expect("text");
        Some(serde_json::from_str(&line).expect("JSON"))
    };
    while blocks.len() < 3 {
        blocks.push(line().expect("it goes on"));
    }
    let pid = dev_process.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status();
    assert!(sent.expect("kill runs").success());
    // The end of its output is the end of the process. Its last word is the summary.
    let rest: Vec<Value> = std::iter::from_fn(line).collect();
    let status = dev_process.wait().expect("it ends");
    let mut said = String::new();
    let mut stderr = dev_process.stderr.take().expect("piped");
    stderr.read_to_string(&mut said).expect("text");
    assert!(status.success(), "{status}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    let (summary, after) = rest.split_last().expect("a summary");
    assert!(summary["summary"].is_object(), "{summary}");
    blocks.extend(after.iter().cloned());
    let last = *numbers(&blocks).last().expect("blocks");
    let (next, _) = dev(&["--blocks", "2", "--data", data]);
    assert!(numbers(&next)[0] > last, "{last} then {next:?}");
}
