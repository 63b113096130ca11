//! Blocks on a group of processes, made with `troikactl`.

use super::group::Group;

/// A contract of the chain.
pub const CONTRACT: &str = "0x00000000000000000000000000000000000000cc";

/// A running group with a chain.
pub fn started(members: u64) -> Group {
    let mut group = Group::start(members);
    group.ready();
    init(&group);
    group
}

/// Starts the chain.
pub fn init(group: &Group) {
    let genesis = group.genesis();
    group.ctl(&["init", genesis.to_str().unwrap()]).ended(0);
}

/// Makes a block in which slot `slot` of the contract becomes `value`; its round.
pub fn block(group: &Group, slot: u64, value: u64) -> u64 {
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

/// What a slot of the contract holds.
pub fn slot(group: &Group, slot: u64) -> u64 {
    let key = format!("{CONTRACT}/{slot}");
    let read = group
        .ctl(&["state", "get", "--linearizable", &key])
        .ended(0);
    read.json()[0]["value"].as_str().unwrap().parse().unwrap()
}
