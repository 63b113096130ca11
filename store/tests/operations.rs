//! What an operator does to real processes, and what happens to them: restarts under load, a disk that is full, a
//! directory that is damaged or in use, a backup and its restore, numbers and log lines.

#![allow(
    clippy::disallowed_methods,
    reason = "watches processes from outside: no simulation runs it"
)]

mod support;

use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use support::group::{Group, LONG, Ran, ports, run, wait};
use troika_store::runtime::{Instant, Runtime};

const CONTRACT: &str = "0x00000000000000000000000000000000000000cc";

fn store(arguments: &[&str]) -> Ran {
    run(Command::new(env!("CARGO_BIN_EXE_troika-store")).args(arguments))
}

/// A running group with a chain.
fn started(members: u64) -> Group {
    let mut group = Group::start(members);
    group.ready();
    init(&group);
    group
}

fn init(group: &Group) {
    let genesis = group.genesis();
    group.ctl(&["init", genesis.to_str().unwrap()]).ended(0);
}

/// Makes a block in which slot `slot` of the contract becomes `value`; its round.
fn block(group: &Group, slot: u64, value: u64) -> u64 {
    let opened = group.ctl(&["round", "open"]).ended(0).json();
    let round = opened["round"].as_u64().unwrap();
    let number = round.to_string();
    let write = format!("{CONTRACT}/{slot}={value}");
    let submit = [
        "submit",
        "--round",
        &number,
        "--shard",
        "0",
        "--executor",
        "a",
        "--write",
        &write,
    ];
    group.ctl(&submit).ended(0);
    group.ctl(&["round", "seal", &number, "--wait"]).ended(0);
    round
}

fn slot(group: &Group, slot: u64) -> u64 {
    let key = format!("{CONTRACT}/{slot}");
    let read = group
        .ctl(&["state", "get", "--linearizable", &key])
        .ended(0);
    read.json()[0]["value"].as_str().unwrap().parse().unwrap()
}

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
fn a_disk_that_takes_no_more_ends_the_member_with_a_message_and_loses_nothing() {
    let mut group = Group::new(1);
    // No file may become longer than this: what a full disk does to a write, without the disk.
    group.members[0].file_limit_kib = Some(1_536);
    group.start_all();
    group.ready();
    init(&group);
    let mut acknowledged = 0;
    let long = "7f".repeat(24 * 1024);
    let mut end = None;
    for value in 1..200 {
        let opened = group.ctl(&["round", "open"]);
        if opened.code != 0 {
            end = Some(opened);
            break;
        }
        let number = opened.json()["round"].to_string();
        let write = format!("{CONTRACT}/1={value}");
        let submitted = group.ctl(&[
            "submit",
            "--round",
            &number,
            "--shard",
            "0",
            "--executor",
            "a",
            "--write",
            &write,
            "--tx",
            &long,
            "--timeout",
            "3s",
        ]);
        if submitted.code != 0 {
            end = Some(submitted);
            break;
        }
        let sealed = group.ctl(&["round", "seal", &number, "--wait", "--timeout", "3s"]);
        if sealed.code != 0 {
            end = Some(sealed);
            break;
        }
        acknowledged = value;
    }
    let end = end.expect("the limit is reached");
    assert!(
        [3, 4].contains(&end.code),
        "no answer, and none is made up: {end:?}"
    );
    assert_eq!(group.members[0].ended(), 1);
    let said = group.members[0].logged();
    assert!(
        said.contains("Mend the disk and start the member again"),
        "{said}"
    );
    // There is space again.
    group.members[0].file_limit_kib = None;
    group.start_all();
    group.ready();
    assert!(acknowledged > 0);
    let found = slot(&group, 1);
    assert!(
        [acknowledged, acknowledged + 1].contains(&found),
        "{found} of {acknowledged}"
    );
}

#[test]
fn below_the_reserve_writes_are_refused_and_everybody_is_told_why() {
    let mut group = Group::new(1);
    let reserve = (1_u64 << 60).to_string();
    group.members[0].extra = ["--reserve-bytes".to_owned(), reserve].to_vec();
    group.start_all();
    group.ready();
    let told = wait("the refusal", || {
        let status = group.ctl(&["status"]).json();
        status[0]["error"].as_str().map(str::to_owned)
    });
    assert!(
        told.contains("writes are refused") && told.contains("reserve"),
        "{told}"
    );
    let genesis = group.genesis();
    let refused = group.ctl(&["init", genesis.to_str().unwrap()]).ended(6);
    assert!(refused.err.contains("less than its reserve"), "{refused:?}");
    // There is space (for less is asked): it goes on where it was.
    group.members[0].stop();
    group.members[0].extra.clear();
    group.start_all();
    group.ready();
    init(&group);
}

#[test]
fn a_directory_in_use_or_of_another_member_is_refused() {
    let mut group = started(1);
    let second = group.add(9);
    group.members[second].data = group.members[0].data.clone();
    group.start_member(second);
    assert_eq!(group.members[second].ended(), 1);
    let said = group.members[second].logged();
    assert!(
        said.contains("in use") || said.contains("another process"),
        "{said}"
    );
    group.members[0].stop();
    group.start_member(second);
    assert_eq!(group.members[second].ended(), 1);
    let said = group.members[second].logged();
    assert!(said.contains("member 1"), "names whose it is: {said}");
}

#[test]
fn damage_is_named_by_inspect_and_by_the_member() {
    let mut group = started(1);
    for value in 1..6 {
        block(&group, 1, value);
    }
    assert_eq!(group.members[0].stop(), 0);
    let data = group.members[0].data.clone();
    let directory = data.to_str().unwrap();
    store(&["inspect", "--data", directory]).ended(0);
    // A byte in the middle of every page of the log: some record is hit.
    let log = data.join("log.redb");
    let length = std::fs::metadata(&log).unwrap().len();
    let mut file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&log)
        .unwrap();
    for page in 8..length / 4096 {
        file.seek(SeekFrom::Start(page * 4096 + 100)).unwrap();
        let mut byte = [0];
        file.read_exact(&mut byte).unwrap();
        file.seek(SeekFrom::Current(-1)).unwrap();
        file.write_all(&[!byte[0]]).unwrap();
    }
    file.sync_all().unwrap();
    let found = store(&["inspect", "--data", directory]).ended(1);
    assert!(found.err.contains("log.redb"), "{found:?}");
    group.start_member(0);
    assert_eq!(group.members[0].ended(), 1);
    let said = group.members[0].logged();
    assert!(said.contains("log.redb"), "{said}");
}

#[test]
fn inspect_gives_the_state_hash_that_the_member_gave_at_an_index() {
    let mut group = started(1);
    let mut hashes = Vec::new();
    for value in 1..4 {
        block(&group, 1, value);
        let status = group.ctl(&["status"]).json();
        let hash = status[0]["state_hash"]
            .as_str()
            .unwrap()
            .trim_start_matches("0x")
            .to_owned();
        hashes.push((status[0]["state_hash_index"].as_u64().unwrap(), hash));
    }
    assert_eq!(group.members[0].stop(), 0);
    let data = group.members[0].data.clone();
    for (index, hash) in hashes {
        let at = [
            "inspect",
            "--data",
            data.to_str().unwrap(),
            "--at",
            &index.to_string(),
        ];
        let found = store(&at).ended(0);
        assert!(found.out.contains(&hash), "{index}: {hash}\n{}", found.out);
        assert!(
            found.out.contains(&format!("index {index}")),
            "{}",
            found.out
        );
    }
}

/// What the first member of a new cluster needs to start from a directory.
fn restore(file: &Path, group: &Group, member: usize) -> Ran {
    let process = &group.members[member];
    let (client, peer) = (process.client_port, process.peer_port);
    store(&[
        "restore",
        file.to_str().unwrap(),
        "--data",
        process.data.to_str().unwrap(),
        "--id",
        "1",
        "--listen",
        &format!("127.0.0.1:{client}"),
        "--peer-listen",
        &format!("127.0.0.1:{peer}"),
    ])
}

#[test]
fn a_backup_of_any_member_makes_a_new_cluster_that_old_members_cannot_join() {
    let mut old = started(3);
    for value in 1..4 {
        block(&old, 1, value);
    }
    let revision = old.ctl(&["head"]).json()["revision"].as_u64().unwrap();
    let follower = (old.leader() + 1) % 3;
    let file = old.folder().join("backup");
    let name = file.to_str().unwrap().to_owned();
    let url = old.url(follower);
    old.ctl(&["backup", &name, "--endpoints", &url]).ended(0);
    // It is not overwritten.
    old.ctl(&["backup", &name]).ended(2);
    block(&old, 1, 99);

    let mut new = Group::new(1);
    let restored = restore(&file, &new, 0).ended(0);
    assert!(restored.out.contains("new cluster"), "{restored:?}");
    restore(&file, &new, 0).ended(1);
    new.start_all();
    new.ready();
    assert_eq!(slot(&new, 1), 3, "the state at the backup, not later");
    let head = new.ctl(&["head"]).json();
    assert!(
        head["revision"].as_u64().unwrap() >= revision + (1 << 32),
        "fences lie ahead"
    );
    let cluster = |group: &Group| group.ctl(&["head"]).json()["cluster_id"].clone();
    assert_ne!(cluster(&new), cluster(&old));
    block(&new, 1, 4);
    assert_eq!(slot(&new, 1), 4);

    // A member of the old cluster comes along with its directory: it is not taken in.
    assert_eq!(old.members[2].stop(), 0);
    let third = new.add(3);
    new.members[third].data = old.members[2].data.clone();
    new.start_member(third);
    let peer = format!("127.0.0.1:{}", new.members[third].peer_port);
    let client = format!("127.0.0.1:{}", new.members[third].client_port);
    let first = new.url(0);
    let add = [
        "member",
        "add",
        "3",
        "--peer",
        &peer,
        "--client",
        &client,
        "--endpoints",
        &first,
    ];
    let refused = wait("an answer of the old member", || {
        let refused = new.ctl(&add);
        (!refused.err.contains("must be up")).then_some(refused)
    });
    let refused = refused.ended(1);
    assert!(refused.err.contains("belongs to cluster"), "{refused:?}");
}

#[test]
fn a_damaged_or_foreign_backup_is_refused_with_the_reason() {
    let group = started(1);
    block(&group, 1, 1);
    let file = group.folder().join("backup");
    group.ctl(&["backup", file.to_str().unwrap()]).ended(0);
    let whole = std::fs::read(&file).unwrap();
    let fresh = Group::new(1);
    let refused = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let refused = restore(&file, &fresh, 0).ended(1);
        assert!(
            !refused.err.is_empty() && refused.err.contains("backup"),
            "{refused:?}"
        );
        refused.err
    };
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    assert!(refused(&flipped).contains("checksum"));
    refused(&whole[..whole.len() - 5]);
    refused(b"");
    refused(b"something else altogether, and long enough to have a head in front");
    // None of that has made a directory that would pass for a member's.
    std::fs::write(&file, &whole).unwrap();
    restore(&file, &fresh, 0).ended(0);
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
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
        (value(&text, "troika_is_leader") == Some(1.0)).then_some(text)
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
    assert!(value(&text, "troika_head_number").unwrap() >= 3.0);
    assert!(text.contains("troika_follower_lag{"), "{text}");
    assert!(value(&text, "troika_submissions_total{outcome=\"won\"}").unwrap() >= 1.0);
    assert!(
        text.contains("troika_log_commit_seconds_bucket{le=\"0.001\"}"),
        "{text}"
    );
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
