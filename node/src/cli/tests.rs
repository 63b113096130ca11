//! What the command line takes and refuses.

use super::values::duration;
use super::{Cli, Command, ShardRange};
use crate::load::Load;
use clap::{CommandFactory, Parser};
use std::time::Duration;

fn parse(line: &str) -> Result<Cli, String> {
    Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())
}

#[test]
fn the_definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn dev_has_the_defaults_that_the_readme_relies_on() {
    let Ok(Cli {
        command: Command::Dev(args),
        ..
    }) = parse("troika-node dev --blocks 20")
    else {
        panic!("not parsed");
    };
    assert_eq!((args.shards, args.executors, args.members), (4, 3, 3));
    assert_eq!(args.block_time, Duration::from_secs(1));
    assert_eq!(args.blocks, Some(20));
    assert_eq!(args.load, Load::Demo);
    assert_eq!(args.rpc.to_string(), "127.0.0.1:8545");
}

#[test]
fn bad_arguments_are_refused_with_what_was_expected() {
    for (line, expected) in [
        ("troika-node dev --bloks 3", "--bloks"),
        ("troika-node dev --shards 0", "1..="),
        ("troika-node dev --members 2", "3 or 5"),
        ("troika-node dev --executors 6", "1..=5"),
        ("troika-node dev --block-time 5", "unit"),
        ("troika-node dev --block-time 2h", "unit"),
        ("troika-node dev --block-time 100m", "limit"),
        ("troika-node dev --load quick", "demo"),
        ("troika-node dev --blocks 0", "blocks"),
        ("troika-node replay", "<FILE>"),
        ("troika-node replay x --locks loose", "commuting"),
        (
            "troika-node executor --store 127.0.0.1 --shards 0 --listen 127.0.0.1:1",
            "port",
        ),
        (
            "troika-node executor --store 127.0.0.1:1 --shards 3-1 --listen 127.0.0.1:1",
            "above the last",
        ),
        (
            "troika-node executor --store 127.0.0.1:1 --shards 0-20000 --listen 127.0.0.1:1",
            "16383",
        ),
        ("troika-node gateway --store 127.0.0.1:1", "--executors"),
        ("troika-node follow --from 127.0.0.1:1", "--shards"),
        ("troika-node verify", "FILE"),
        ("troika-node verify f --from 127.0.0.1:1", "--from"),
        (
            "troika-node verify f --store 127.0.0.1:1 --data d",
            "--data",
        ),
        ("troika-node export f", "--store"),
    ] {
        let error = parse(line).expect_err(line);
        assert!(error.contains(expected), "{line}: {error}");
    }
}

#[test]
fn urls_may_leave_out_the_scheme() {
    let line = "troika-node executor --store 127.0.0.1:1,http://127.0.0.1:2 --shards 2 --listen 127.0.0.1:3";
    let Ok(Cli {
        command: Command::Executor(args),
        ..
    }) = parse(line)
    else {
        panic!("not parsed");
    };
    assert_eq!(args.store.store, ["127.0.0.1:1", "http://127.0.0.1:2"]);
    assert_eq!(args.shards, ShardRange { first: 2, last: 2 });
}

#[test]
fn durations_carry_their_unit() {
    assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
    assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
    assert_eq!(duration("0s"), Ok(Duration::ZERO));
    assert!(duration("-1s").is_err());
}
