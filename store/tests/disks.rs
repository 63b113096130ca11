//! What an operator does with the disks of real processes, and what happens to them: one that is full, a directory that is
//! damaged or in use, a backup and its restore.

mod support;

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use support::blocks::*;
use support::group::{Group, Ran, run, wait};

fn store(arguments: &[&str]) -> Ran {
    run(Command::new(env!("CARGO_BIN_EXE_troika-store")).args(arguments))
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

/// A file that has lost its end is no file of a member: not one decision is answered from what is left of it.
#[test]
fn a_file_that_is_cut_short_is_named_by_inspect_and_by_the_member() {
    let mut group = started(1);
    for value in 1..6 {
        block(&group, 1, value);
    }
    assert_eq!(group.members[0].stop(), 0);
    let data = group.members[0].data.clone();
    for name in ["log.redb", "state.redb"] {
        let path = data.join(name);
        let whole = std::fs::read(&path).unwrap();
        for len in [100, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..len]).unwrap();
            let found = store(&["inspect", "--data", data.to_str().unwrap()]).ended(1);
            assert!(found.err.contains(name), "{name} of {len}: {found:?}");
            let before = group.members[0].logged().len();
            group.start_member(0);
            assert_eq!(group.members[0].ended(), 1, "{name} of {len}");
            let said = group.members[0].logged()[before..].to_owned();
            assert!(said.contains(name), "{name} of {len}: {said}");
        }
        std::fs::write(&path, &whole).unwrap();
    }
    group.start_all();
    group.ready();
    assert_eq!(slot(&group, 1), 5);
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
