//! The script of `docs/examples/race.sh`, run as written against a cluster in this process.

use std::path::PathBuf;
use std::process::Command;
use troika_store::runtime::Runtime;
use troika_store::testing::TestCluster;

/// What every line of the golden text must be followed by, in this order, somewhere in the script's output.
const GOLDEN: &[&str] = &[
    "started",
    "round 1",
    "# executor a proposes",
    "won true",
    "winner.executor a",
    "# executor b proposes",
    "won false",
    "winner.executor a",
    "# executor a lost the answer",
    "won true",
    "# executor c wants the same slot",
    "won false",
    "conflict:",
    "0x00000000000000000000000000000000000000cc/0x0 0 3",
    "# shard 1 takes a lock ahead",
    "acquired true",
    "acquired false",
    "0x00000000000000000000000000000000000000cc/0x1 1 4",
    "# a proposal from a file",
    "won true",
    "# seal",
    "status SEALED",
    "# the round, and the newest ones",
    "round 1",
    "status SEALED",
    "winners:",
    "0 a",
    "1 -",
    "2 c",
    "ROUND KIND STATUS BLOCK OPENER PARENT BLOCK HASH",
    "1 BUILD SEALED 1 script 0x",
    "# the block, and what it changed",
    "canonical true",
    "0x00000000000000000000000000000000000000cc/0x0 - - - - 1",
    "0x00000000000000000000000000000000000000cc/0x5 - - - - 42",
    "0x00000000000000000000000000000000000000bb true 1000 0 -",
    "diff.0x00000000000000000000000000000000000000cc.slots.0x0 0x1",
    "diff.0x00000000000000000000000000000000000000cc.slots.0x5 0x2a",
    "# what executor a won with",
    "transactions 0x7f00",
    "# where that transaction stands",
    "BLOCK NUMBER BLOCK HASH ROUND SHARD INDEX CANONICAL",
    "1 0 0 true",
    "# what the watcher saw",
    "round 1 opened by script",
    "round 1 shard 0 won by a",
    "round 1 shard 1 locked 0x00000000000000000000000000000000000000cc/0x1",
    "round 1 shard 2 won by c",
    "round 1 sealed as block 1",
    "# the same, of shard 2 alone",
    "round 1 opened by script",
    "round 1 shard 2 won by c",
    "round 1 sealed as block 1",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_race_runs_by_hand_as_documented() {
    let cluster = TestCluster::start(3).await;
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/race.sh");
    let urls = cluster.urls().join(",");
    let run = move || {
        Command::new("sh")
            .arg(script)
            .env("TROIKACTL", env!("CARGO_BIN_EXE_troikactl"))
            .env("TROIKA_ENDPOINTS", urls)
            .env("TROIKA_TIMEOUT", "20s")
            .output()
            .unwrap()
    };
    let output = Runtime::spawn_blocking(run).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}\n--- errors:\n{errors}");

    let mut lines = text.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.join(" ")
    });
    for expected in GOLDEN {
        assert!(
            lines.any(|line| line.contains(expected)),
            "after the lines before it, {expected:?} is missing in:\n{text}"
        );
    }
    let filtered = text.split("# the same, of shard 2 alone").nth(1).unwrap();
    assert!(!filtered.contains("shard 0"), "{filtered}");
    assert!(!filtered.contains("shard 1"), "{filtered}");
    assert!(errors.contains("no block holds 0x00"), "{errors}");
    cluster.stop().await;
}

/// A client alone comes to a round's last slot again after the round is sealed: the losers must still hear of its winner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_benchmark_of_the_race_checks_every_slot_over_several_rounds() {
    let cluster = TestCluster::start(3).await;
    let urls = cluster.urls().join(",");
    let shape = "bench race --slots 20 --shards 8 --racers 3 --bytes 64 --json";
    for (more, rounds) in [
        ("--clients 1 --warmup 3", 3),
        ("--clients 5 --window 4 --stream --warmup 0", 3),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_troikactl"));
        command
            .args(shape.split(' ').chain(more.split(' ')))
            .env("TROIKA_ENDPOINTS", &urls);
        let output = Runtime::spawn_blocking(move || command.output().unwrap()).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{more}: {errors}");
        let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(line["slots"], 20, "{line}");
        assert_eq!(line["rounds"], rounds, "{line}");
    }
    cluster.stop().await;
}
