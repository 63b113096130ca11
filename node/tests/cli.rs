//! What the binary itself says to bad input: a clear message, a failing exit code, no panic.

use std::net::TcpListener;
use std::process::{Command, Output};

fn troika_node(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_troika-node"))
        .args(arguments)
        .output()
        .expect("the binary starts")
}

fn assert_refused(arguments: &[&str], expected: &str) {
    let output = troika_node(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{arguments:?} succeeded");
    assert!(error.contains(expected), "{arguments:?}: {error}");
    assert!(!error.contains("panicked"), "{arguments:?}: {error}");
}

#[test]
fn unknown_flags_and_bad_values_are_refused() {
    assert_refused(&["dev", "--bloks", "3"], "--bloks");
    assert_refused(&["dev", "--load", "quick"], "demo");
    assert_refused(&["fly"], "fly");
}

#[test]
fn a_busy_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    assert_refused(
        &["dev", "--blocks", "1", "--load", "none", "--rpc", &address],
        &address,
    );
}

#[test]
fn a_file_that_is_not_a_block_is_named() {
    let output = troika_node(&["replay", "/nonexistent/block.json.gz"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success());
    assert!(said.contains("/nonexistent/block.json.gz"), "{said}");
}

#[test]
fn a_data_folder_of_another_chain_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().to_str().expect("a path");
    let dev = |shards| {
        let fixed = [
            "dev",
            "--blocks",
            "1",
            "--load",
            "none",
            "--block-time",
            "50ms",
        ];
        let rest = ["--rpc", "127.0.0.1:0", "--data", data, "--shards", shards];
        troika_node(&[&fixed[..], &rest[..]].concat())
    };
    let first = dev("1");
    let said = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(first.status.success(), "{said}");
    let second = dev("2");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success());
    assert!(said.contains("another chain"), "{said}");
}
