//! What an operator does to real processes, and what happens to them: restarts under load, numbers and log lines, health.

#![allow(
    clippy::disallowed_methods,
    reason = "watches processes from outside: no simulation runs it"
)]

mod support;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use support::blocks::*;
use support::group::{Group, LONG, get, ports, run, wait};
use troika_store::runtime::{Instant, Runtime};

#[test]
fn all_members_are_restarted_under_load_and_no_repeated_call_fails() {
    let mut group = started(3);
    // Each call goes to all members in turn until one answers: a client that retries. It must never run out of time.
    let stop = Arc::new(AtomicBool::new(false));
    let (done, urls) = (stop.clone(), group.urls());
    let load = std::thread::spawn(move || {
        let mut longest = Duration::ZERO;
        let mut winners = Vec::new();
        let ctl = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_troikactl"));
            command.args(["-o", "json", "--timeout", "30s", "--endpoints", &urls]);
            run(command.args(arguments)).ended(0).json()
        };
        while !done.load(Ordering::Relaxed) {
            let started = Runtime::now();
            let round = ctl(&["round", "open"])["round"].as_u64().unwrap();
            let number = round.to_string();
            let write = format!("{CONTRACT}/1={round}");
            let won = ctl(&[
                "submit",
                "--round",
                &number,
                "--shard",
                "0",
                "--executor",
                "a",
                "--write",
                &write,
            ]);
            winners.push((round, won["winner"]["shard_hash"].clone()));
            ctl(&["round", "seal", &number, "--wait"]);
            longest = longest.max(Runtime::now() - started);
        }
        (winners, longest)
    });
    for member in 0..3 {
        assert_eq!(group.members[member].stop(), 0);
        group.start_member(member);
        group.ready();
    }
    // And whoever leads now once more, so that a leader is stopped in any case.
    let leader = group.leader();
    assert_eq!(group.members[leader].stop(), 0);
    assert!(
        group.members[leader]
            .logged()
            .contains("leadership is handed over first"),
        "it says what it does"
    );
    group.start_member(leader);
    group.ready();
    stop.store(true, Ordering::Relaxed);
    let (winners, longest) = load.join().unwrap();
    println!("{} blocks, the slowest took {longest:?}", winners.len());
    assert!(!winners.is_empty());
    for (round, hash) in &winners {
        let got = group
            .ctl(&["round", "get", &round.to_string()])
            .ended(0)
            .json();
        assert_eq!(&got["winners"][0]["shard_hash"], hash, "round {round}");
    }
    // An orderly end is no error.
    for member in &group.members {
        let log = member.logged();
        assert!(!log.contains("ERROR"), "member {}:\n{log}", member.id);
    }
}

#[test]
fn a_dead_leader_is_replaced_soon_and_the_decisions_are_there() {
    let mut group = started(3);
    block(&group, 1, 7);
    let leader = group.leader();
    group.members[leader].kill();
    let killed = Runtime::now();
    block(&group, 2, 8);
    println!(
        "a block {:?} after the leader was killed",
        Runtime::now() - killed
    );
    assert_eq!((slot(&group, 1), slot(&group, 2)), (7, 8));
}

#[test]
fn the_numbers_of_a_running_member_are_all_there() {
    let port = ports(1)[0];
    let mut group = Group::new(3);
    group.members[0].extra = ["--metrics".to_owned(), format!("127.0.0.1:{port}")].to_vec();
    group.start_all();
    group.ready();
    init(&group);
    for value in 1..4 {
        let round = block(&group, 1, value).to_string();
        // Too late, and won by another: both are counted.
        let write = format!("{CONTRACT}/1=5");
        group
            .ctl(&[
                "submit",
                "--round",
                &round,
                "--shard",
                "0",
                "--executor",
                "b",
                "--write",
                &write,
            ])
            .ended(1);
    }
    // On the first member, so that it has something to count.
    let one = group.url(0);
    group
        .ctl(&["watch", "--after", "0", "--count", "2", "--endpoints", &one])
        .ended(0);
    group.ctl(&["leader", "transfer", "1"]).ended(0);
    let open = ["round", "open", "--endpoints", &one];
    let round = group.ctl(&open).ended(0).json()["round"].to_string();
    let write = format!("{CONTRACT}/2=5");
    let submit = [
        "submit",
        "--round",
        &round,
        "--shard",
        "1",
        "--executor",
        "c",
        "--write",
        &write,
        "--endpoints",
        &one,
    ];
    group.ctl(&submit).ended(0);
    let backup = group.folder().join("b");
    group
        .ctl(&["backup", backup.to_str().unwrap(), "--endpoints", &one])
        .ended(0);
    let value = |text: &str, name: &str| -> Option<f64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    let text = wait("the gauges", || {
        let text = get(port, "/metrics");
        let leads = value(&text, "troika_is_leader") == Some(1.0);
        // The numbers are looked at one after the other, and may be asked for in between.
        let new = value(&text, "troika_head_number") >= Some(3.0);
        (leads && new).then_some(text)
    });
    // What happens only when a snapshot is sent has no sample here.
    let rare = ["troika_snapshot_seconds"];
    for (name, _, _) in troika_store::server::prometheus::METRICS {
        let there = text.contains(&format!("\n{name}{{"))
            || text.contains(&format!("\n{name} "))
            || text.contains(&format!("\n{name}_bucket"));
        assert!(there || rare.contains(name), "{name} is missing in\n{text}");
    }
    assert_eq!(value(&text, "troika_voters"), Some(3.0));
    assert!(text.contains("troika_follower_lag{"), "{text}");
    assert!(value(&text, "troika_submissions_total{outcome=\"won\"}").unwrap() >= 1.0);
    assert!(
        text.contains("troika_log_commit_seconds_bucket{le=\"0.001\"}"),
        "{text}"
    );
}

/// What an alarm rings for must go away with what it rang for.
#[test]
fn a_lag_is_told_by_the_leader_alone() {
    let metrics = ports(3);
    let mut group = Group::new(3);
    for (member, port) in group.members.iter_mut().zip(&metrics) {
        member.extra = ["--metrics".to_owned(), format!("127.0.0.1:{port}")].to_vec();
    }
    group.start_all();
    group.ready();
    init(&group);
    let leader = group.leader();
    let (down, other) = ((leader + 1) % 3, (leader + 2) % 3);
    group.members[down].kill();
    for value in 1..4 {
        block(&group, 1, value);
    }
    let told = format!(
        "troika_follower_lag{{member=\"{}\",follower=\"{}\"}} ",
        group.members[leader].id, group.members[down].id
    );
    let lag = || -> Option<f64> {
        let text = get(metrics[leader], "/metrics");
        let line = text.lines().find(|line| line.starts_with(&told))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    wait("a lag", || lag().filter(|lag| *lag > 0.0));
    let to = group.members[other].id.to_string();
    group.ctl(&["leader", "transfer", &to]).ended(0);
    wait("the end of the lag", || lag().filter(|lag| *lag == 0.0));
}

#[test]
fn a_member_whose_log_nobody_reads_any_more_works_on_and_ends_well() {
    let folder = tempfile::tempdir().unwrap();
    let [client, peer] = [0, 1].map(|_| format!("127.0.0.1:{}", ports(1)[0]));
    let mut member = Command::new(env!("CARGO_BIN_EXE_troika-store"))
        .args(["serve", "--id", "1", "--reserve-bytes", "0"])
        .args(["--listen", &client, "--peer-listen", &peer])
        .args(["--members", &format!("1={peer}"), "--data"])
        .arg(folder.path().join("m1"))
        .env("TROIKA_LOG", "debug")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(member.stderr.take());
    wait("a member that is ready", || {
        let mut health = Command::new(env!("CARGO_BIN_EXE_troikactl"));
        let health = run(health.args(["health", "--endpoints", &client]));
        assert!(member.try_wait().unwrap().is_none(), "it has ended");
        (health.code == 0).then_some(())
    });
    let id = member.id().to_string();
    assert_eq!(run(Command::new("kill").args(["-TERM", &id])).code, 0);
    let status = wait("its end", || member.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn log_lines_tell_round_shard_and_log_index() {
    let mut group = Group::new(1);
    group.members[0].extra = ["--log", "json"].map(str::to_owned).to_vec();
    group.members[0].environment = vec![("TROIKA_LOG".to_owned(), "debug".to_owned())];
    group.start_all();
    group.ready();
    init(&group);
    let round = block(&group, 1, 1);
    assert_eq!(group.members[0].stop(), 0);
    let log = group.members[0].logged();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let told = |message: &str| {
        let line = lines
            .iter()
            .find(|line| line["fields"]["message"] == message);
        line.unwrap_or_else(|| panic!("{message:?} is not told in\n{log}"))["fields"].clone()
    };
    assert!(told("chain started")["log_index"].is_u64());
    for event in ["round opened", "shard accepted", "round closed"] {
        let fields = told(event);
        assert_eq!(fields["round"].as_u64(), Some(round), "{fields}");
        assert!(
            fields["log_index"].is_u64() && fields["revision"].is_u64(),
            "{fields}"
        );
    }
    let accepted = told("shard accepted");
    assert_eq!(
        (accepted["shard"].as_u64(), &accepted["executor"]),
        (Some(0), &"a".into())
    );
}

#[test]
fn health_tells_a_process_that_is_up_from_a_member_that_is_ready() {
    let mut group = started(3);
    let health = |group: &Group, member: usize| {
        let url = group.url(member);
        group.ctl(&["health", "--endpoints", &url]).json()[0].clone()
    };
    let leader = group.leader();
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    group.members[leader].kill();
    group.members[one].kill();
    // Alone it is up, but serves nobody.
    let deadline: Instant = Runtime::now() + LONG;
    loop {
        let row = health(&group, other);
        assert_eq!(row["up"], true, "{row}");
        if row["ready"] == false {
            break;
        }
        assert!(Runtime::now() < deadline, "{row}");
        std::thread::sleep(Duration::from_millis(50));
    }
    group.start_member(one);
    wait("a majority", || {
        (health(&group, other)["ready"] == true).then_some(())
    });
    group
        .ctl(&["health", "--wait", "--endpoints", &group.url(one)])
        .ended(0);
}
