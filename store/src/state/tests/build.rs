//! Making blocks: the race, locks, seals, refusals.

use crate::state::limits::{MAX_FEATURE_LEVEL, MAX_HELD_KEYS, MAX_OPEN_CHECKS};
use crate::state::testing::*;
use crate::state::*;
use std::sync::Arc;
use troika_proto::{AccountDiff, B256, Delta, Diff, LockKey, LockRule, Shard, U256, keccak, v1};

fn acquire(round: RoundId, shard: u32, keys: &[LockKey]) -> Command {
    Command::AcquireLocks(AcquireLocks {
        round,
        shard,
        keys: keys.into(),
    })
}

fn open_reserving(machine: &mut Machine, reservations: Vec<(LockKey, u32)>) -> Decision {
    machine.ask(&Command::OpenRound(Arc::new(OpenRound {
        opener: "opener".into(),
        clock_ms: 0,
        target: OpenTarget::Build {
            parent: None,
            reservations,
        },
    })))
}

#[test]
fn losing_racer_learns_the_winner_for_ever() {
    let mut machine = started(2);
    let round = machine.open();
    let first = won(machine.submit(transfer(round, 0, "a", 1, 2, 1)));
    assert_eq!(&*first.executor, "a");
    let second = machine.submit(transfer(round, 0, "b", 3, 4, 1));
    assert_eq!(won(second), first);
    machine.ask(&seal(round));
    assert_eq!(won(machine.submit(transfer(round, 0, "a", 1, 2, 1))), first);
    assert_eq!(machine.winner_of(round, 0), Some(first));
}

#[test]
fn winner_of_a_filled_shard_is_nobody() {
    let mut machine = started(2);
    let round = machine.open();
    machine.ask(&seal(round));
    let filled = won(machine.submit(transfer(round, 1, "a", 1, 2, 1)));
    assert_eq!(filled.shard_hash, Shard::empty(1).hash);
    assert_eq!(&*filled.executor, "");
    assert!(machine.is_filled(round, 1));
}

#[test]
fn last_acceptance_seals_in_the_same_step() {
    let mut machine = started(2);
    let round = machine.open();
    machine.submit(transfer(round, 0, "a", 1, 2, 1));
    let before = machine.revision();
    machine.submit(transfer(round, 1, "a", 3, 2, 1));
    assert_eq!(machine.revision(), before + 1);
    let header = machine.head_header();
    assert_eq!((header.number, header.gas_used), (1, 42_000));
    assert_eq!(machine.round(round).unwrap().block_hash, header.hash());
    assert_eq!(machine.balance(2), U256::from(RICH + 2_000));
    let beneficiary = troika_proto::Address::repeat_byte(0xfe);
    let state = machine.state_at(&machine.head_hash()).unwrap();
    let paid = state.account(&beneficiary).unwrap();
    assert_eq!(paid.balance, U256::from(10), "fees go to the beneficiary");
}

#[test]
fn second_opener_gets_the_firsts_round() {
    let mut machine = started(2);
    let round = machine.open();
    let again = machine.ask(&build("other", Some(machine.head_hash())));
    let opened = false;
    assert_eq!(again, Decision::Opened { round, opened });
    let parent = machine.head_hash();
    machine.ask(&seal(round));
    let late = machine.ask(&build("late", Some(parent)));
    assert_eq!(late, Decision::Opened { round, opened });
}

#[test]
fn conflict_names_every_key_with_its_holder() {
    let mut machine = started(3);
    let round = machine.open();
    let first = won(machine.submit(transfer(round, 0, "a", 1, 9, 1)));
    let diff = store(5, 1);
    let second = won(machine.submit(proposal(round, "a", shard_free(1, diff))));
    let mut both = payment(1, 9, 1_000, 1);
    both.merge(&store(5, 2)).unwrap();
    let held = conflict(machine.submit(proposal(round, "b", shard(2, both, 5, 1))));
    let expected = [
        (LockKey::account(address(1)), 0, first.revision),
        (
            LockKey::slot(address(100), U256::from(5)),
            1,
            second.revision,
        ),
    ];
    let mut expected = expected.map(|(key, shard, revision)| Holder {
        key,
        shard,
        revision,
    });
    expected.sort_by_key(|holder| holder.key);
    assert_eq!(held, expected);
}

/// A shard that burns nothing: no gas, so no base fee has to be covered.
fn shard_free(index: u32, diff: Diff) -> Arc<Shard> {
    let body = troika_proto::ShardBody {
        diff,
        ..troika_proto::ShardBody::default()
    };
    Arc::new(Shard::new(index, body, U256::ZERO, LockRule::Commuting))
}

#[test]
fn two_shards_pay_one_account_without_conflict() {
    let mut machine = started(2);
    let round = machine.open();
    won(machine.submit(transfer(round, 0, "a", 1, 9, 1)));
    won(machine.submit(transfer(round, 1, "a", 2, 9, 1)));
    assert_eq!(machine.balance(9), U256::from(RICH + 2_000));
}

#[test]
fn two_shards_pay_one_account_with_conflict_under_strict() {
    let mut genesis = genesis(2);
    genesis.config.lock_rule = LockRule::Strict;
    let mut machine = started_with(genesis);
    let round = machine.open();
    won(machine.submit(transfer(round, 0, "a", 1, 9, 1)));
    let held = conflict(machine.submit(transfer(round, 1, "a", 2, 9, 1)));
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].key, LockKey::account(address(9)));
}

#[test]
fn write_skew_between_shards_is_allowed() {
    // Shard 0 read slot 2 and writes slot 1, shard 1 read slot 1 and writes slot 2: reads take no lock.
    let mut machine = started(2);
    let round = machine.open();
    won(machine.submit(proposal(round, "a", shard_free(0, store(1, 8)))));
    won(machine.submit(proposal(round, "a", shard_free(1, store(2, 8)))));
    let state = machine.state_at(&machine.head_hash()).unwrap();
    let slot = |key| state.slot(&address(100), &U256::from(key));
    assert_eq!((slot(1), slot(2)), (U256::from(8), U256::from(8)));
}

#[test]
fn overtaken_build_round_is_stale_and_its_winners_stay() {
    let (header, hashes, proposals) = foreign_block(2);
    let mut machine = started(2);
    let round = machine.open();
    let winner = won(machine.submit(transfer(round, 0, "a", 1, 2, 1)));
    import(&mut machine, &header, &hashes, &proposals);
    let head = machine.head_hash();
    assert_eq!(head, header.hash());
    won(machine.submit(transfer(round, 1, "a", 3, 2, 1)));
    let status = &machine.round(round).unwrap().status;
    assert_eq!(*status, RoundStatus::Void(VoidReason::Stale, None));
    assert_eq!(machine.head_hash(), head);
    assert_eq!(machine.winner_of(round, 0), Some(winner));
    let next = machine.open();
    assert!(next > round, "the new head gets a round of its own");
}

/// A block that another cluster built on the same genesis, with its proposals.
pub(super) fn foreign_block(shards: u32) -> (troika_proto::Header, Vec<B256>, Vec<AcceptShard>) {
    let mut other = started(shards);
    let round = other.open();
    let proposals: Vec<_> = (0..shards)
        .map(|i| transfer(round, i, "x", 10 + i as u8, 20, 1))
        .collect();
    for proposal in &proposals {
        won(other.submit(proposal.clone()));
    }
    let hashes = proposals.iter().map(|p| p.proposal.hash).collect();
    (other.head_header(), hashes, proposals)
}

pub(super) fn import(
    machine: &mut Machine,
    header: &troika_proto::Header,
    hashes: &[B256],
    proposals: &[AcceptShard],
) -> RoundId {
    let Decision::Opened { round, .. } = machine.ask(&verify(header, hashes)) else {
        panic!("not opened");
    };
    for proposal in proposals {
        let mut proposal = proposal.clone();
        proposal = proposal.in_round(round);
        won(machine.submit(proposal));
    }
    round
}

#[test]
fn acquiring_locks_is_all_or_nothing() {
    let mut machine = started(2);
    let round = machine.open();
    let key = |n| LockKey::account(address(n));
    assert_eq!(
        machine.ask(&acquire(round, 0, &[key(1), key(2)])),
        Decision::Acquired
    );
    let before = machine.state_hash();
    let held = conflict(machine.ask(&acquire(round, 1, &[key(2), key(3)])));
    assert_eq!(held.len(), 1);
    assert_eq!(machine.state_hash(), before);
    let (locks, more) = machine.locks(round, None, 10);
    assert_eq!((locks.len(), more), (2, false));
    assert!(machine.locks(round, None, 1).1);
    assert_eq!(machine.locks(round, Some(key(1)), 10).0.len(), 1);
    // Again: nothing new is taken, so nothing changes.
    assert_eq!(
        machine.ask(&acquire(round, 0, &[key(1)])),
        Decision::Acquired
    );
    assert_eq!(machine.state_hash(), before);
}

#[test]
fn acceptance_releases_what_the_diff_does_not_need() {
    let mut machine = started(2);
    let key = |n| LockKey::account(address(n));
    let Decision::Opened { round, .. } = open_reserving(&mut machine, vec![(key(7), 0)]) else {
        panic!("not opened");
    };
    machine.ask(&acquire(round, 0, &[key(1), key(2)]));
    conflict(machine.submit(transfer(round, 1, "a", 7, 9, 1)));
    won(machine.submit(transfer(round, 0, "a", 1, 9, 1)));
    let (locks, _) = machine.locks(round, None, 10);
    assert_eq!(locks.iter().map(|l| l.key).collect::<Vec<_>>(), [key(1)]);
    won(machine.submit(transfer(round, 1, "a", 7, 9, 1)));
}

#[test]
fn acquiring_on_a_decided_shard_answers_the_winner() {
    let mut machine = started(2);
    let round = machine.open();
    let winner = won(machine.submit(transfer(round, 0, "a", 1, 9, 1)));
    let keys = [LockKey::account(address(2))];
    assert_eq!(won(machine.ask(&acquire(round, 0, &keys))), winner);
}

#[test]
fn the_first_mention_of_a_reserved_key_counts() {
    let mut machine = started(2);
    let key = LockKey::account(address(1));
    open_reserving(&mut machine, vec![(key, 1), (key, 0)]);
    assert_eq!(
        conflict(machine.submit(transfer(1, 0, "a", 1, 9, 1)))[0].shard,
        1
    );
    won(machine.submit(transfer(1, 1, "a", 1, 9, 1)));
}

#[test]
fn a_round_that_is_closed_is_closed_whoever_asks() {
    let mut machine = started(2);
    let round = machine.open();
    assert_eq!(machine.ask(&seal(round)), Decision::Closed(round));
    let before = machine.state_hash();
    assert_eq!(machine.ask(&seal(round)), Decision::Closed(round));
    assert_eq!(machine.state_hash(), before);
}

/// Asks, and checks that a refusal changed nothing.
#[track_caller]
fn refuses(machine: &mut Machine, command: &Command) -> RefusalCode {
    let (revision, hash) = (machine.revision(), machine.state_hash());
    let code = refused(machine.ask(command));
    assert_eq!((machine.revision(), machine.state_hash()), (revision, hash));
    code
}

fn submit(accept: AcceptShard) -> Command {
    Command::AcceptShard(accept)
}

#[test]
fn without_a_chain_everything_is_refused() {
    let mut machine = Machine::new();
    for command in [
        build("a", None),
        seal(1),
        Command::Prune { below_round: 1 },
        submit(transfer(1, 0, "a", 1, 2, 1)),
    ] {
        assert_eq!(refuses(&mut machine, &command), RefusalCode::NoChain);
    }
}

#[test]
fn the_same_genesis_again_is_done_and_another_is_refused() {
    let mut machine = started(2);
    let revision = machine.revision();
    let again = machine.ask(&Command::InitChain(Arc::new(genesis(2))));
    assert!(matches!(
        again,
        Decision::ChainStarted { started: false, .. }
    ));
    assert_eq!(machine.revision(), revision);
    let other = Command::InitChain(Arc::new(genesis(3)));
    assert_eq!(refuses(&mut machine, &other), RefusalCode::OtherChain);
}

#[test]
fn rounds_and_shards_that_are_not_there_are_refused() {
    let mut machine = started(2);
    let round = machine.open();
    let unknown = submit(transfer(9, 0, "a", 1, 2, 1));
    assert_eq!(refuses(&mut machine, &unknown), RefusalCode::UnknownRound);
    let out = submit(transfer(round, 2, "a", 1, 2, 1));
    assert_eq!(refuses(&mut machine, &out), RefusalCode::ShardOutOfRange);
    let early = Command::SealRound {
        round,
        waited_ms: SEAL_AFTER_MS - 1,
    };
    assert_eq!(refuses(&mut machine, &early), RefusalCode::TooEarly);
    let void = Command::VoidRound {
        round,
        reason: VoidReason::Abandoned,
        waited_ms: 0,
    };
    assert_eq!(refuses(&mut machine, &void), RefusalCode::WrongKind);
    let parent = build("a", Some(B256::repeat_byte(1)));
    assert_eq!(refuses(&mut machine, &parent), RefusalCode::WrongParent);
}

#[test]
fn an_overdraft_is_refused() {
    let mut machine = started(2);
    let round = machine.open();
    let poor = submit(proposal(round, "a", shard(0, payment(1, 2, RICH, 1), 5, 0)));
    assert_eq!(refuses(&mut machine, &poor), RefusalCode::Overdraft);
}

#[test]
fn a_diff_that_makes_money_is_refused() {
    let mut machine = started(2);
    let round = machine.open();
    let credit = AccountDiff {
        balance: Delta::rise(U256::from(1)),
        ..AccountDiff::default()
    };
    let diff = Diff {
        accounts: [(address(1), credit)].into(),
    };
    let made = submit(proposal(round, "a", shard_free(0, diff)));
    assert_eq!(refuses(&mut machine, &made), RefusalCode::MakesMoney);
    // Fees and the burned base fee count as well.
    let fees = submit(proposal(round, "a", shard(0, payment(1, 2, 1, 1), COST, 0)));
    assert_eq!(refuses(&mut machine, &fees), RefusalCode::MakesMoney);
}

#[test]
fn gas_above_the_shards_is_refused() {
    let mut machine = started(2);
    let round = machine.open();
    let mut much = (*shard(0, payment(1, 2, 1, 1), 5, 0)).clone();
    much.header.gas_used = (1 << 24) + 1;
    let much = submit(proposal(round, "a", Arc::new(much)));
    assert_eq!(refuses(&mut machine, &much), RefusalCode::GasLimit);
}

#[test]
fn a_change_that_changes_nothing_is_refused() {
    let mut machine = started(2);
    let round = machine.open();
    let same_slot = store(1, 7);
    let no_account = Diff {
        accounts: [(
            address(200),
            AccountDiff {
                slots: [(U256::from(1), U256::from(1))].into(),
                ..AccountDiff::default()
            },
        )]
        .into(),
    };
    let one = |account: AccountDiff| Diff {
        accounts: [(address(100), account)].into(),
    };
    let same_nonce = one(AccountDiff {
        nonce: Some(1),
        ..AccountDiff::default()
    });
    let same_code = one(AccountDiff {
        code: Some(vec![0x60, 0x00].into()),
        ..AccountDiff::default()
    });
    for diff in [same_slot, no_account, same_nonce, same_code] {
        let command = submit(proposal(round, "a", shard_free(0, diff)));
        assert_eq!(refuses(&mut machine, &command), RefusalCode::BadDiff);
    }
}

#[test]
fn code_is_kept_by_its_hash_and_removed_from_its_account() {
    let mut machine = started(1);
    let code = troika_proto::Bytes::from_static(&[0xef, 0x01, 0x00]);
    let change = |code: troika_proto::Bytes, nonce| Diff {
        accounts: [(
            address(1),
            AccountDiff {
                code: Some(code),
                nonce: Some(nonce),
                ..AccountDiff::default()
            },
        )]
        .into(),
    };
    let round = machine.open();
    won(machine.submit(proposal(round, "a", shard_free(0, change(code.clone(), 1)))));
    let account = |m: &Machine| {
        let state = m.state_at(&m.head_hash()).unwrap();
        state.account(&address(1)).unwrap()
    };
    let hash = keccak(&code);
    assert_eq!(account(&machine).code_hash, Some(hash));
    assert_eq!(machine.code(&hash).unwrap(), code.0);
    let round = machine.open();
    let empty = troika_proto::Bytes::new();
    won(machine.submit(proposal(round, "a", shard_free(0, change(empty, 2)))));
    assert_eq!(account(&machine).code_hash, None);
}

#[test]
fn too_many_open_checks_or_held_keys_name_the_limit_and_never_keep_a_build_out() {
    let mut machine = started(1);
    let check = |n: u64| {
        let (header, hashes, _) = foreign_block(1);
        let header = troika_proto::Header {
            gas_used: n,
            ..header
        };
        verify(&header, &hashes)
    };
    for n in 0..MAX_OPEN_CHECKS as u64 {
        machine.ask(&check(n));
    }
    assert_eq!(machine.open_rounds().len(), MAX_OPEN_CHECKS);
    let one_more = check(MAX_OPEN_CHECKS as u64);
    assert_eq!(refuses(&mut machine, &one_more), RefusalCode::Limit);
    machine.open();

    let mut machine = started(1);
    let round = machine.open();
    let keys: Vec<_> = (0..=MAX_HELD_KEYS as u64)
        .map(|n| LockKey::slot(address(1), U256::from(n)))
        .collect();
    let command = acquire(round, 0, &keys);
    assert_eq!(refuses(&mut machine, &command), RefusalCode::Limit);
}

#[test]
fn pruning_forgets_rounds_and_nothing_that_is_needed() {
    let mut machine = started(1);
    let mut disk = Disk::default();
    for nonce in 1..=4 {
        let round = machine.open();
        won(machine.submit(transfer(round, 0, "a", 1, 2, nonce)));
        disk.checkpoint(&mut machine);
    }
    let after = machine.newest_event();
    assert_eq!(
        machine.ask(&Command::Prune { below_round: 99 }),
        Decision::Pruned(4)
    );
    assert_eq!(
        refused(machine.submit(transfer(3, 0, "a", 1, 2, 9))),
        RefusalCode::Pruned
    );
    won(machine.submit(transfer(4, 0, "a", 1, 2, 9)));
    let gone = EventId {
        revision: 2,
        ordinal: 0,
    };
    assert!(machine.events_after(gone, 1 << 20).is_err());
    let kept = machine.events_after(after, 1 << 20).unwrap();
    assert!(matches!(kept[0].kind, Some(v1::event::Kind::Pruned(_))));
    disk.checkpoint(&mut machine);
    let old = RecordKey::Shard { round: 3, shard: 0 };
    assert!(!disk.0.contains_key(&old.to_bytes()));
    assert!(
        disk.0.contains_key(&RecordKey::Canonical(1).to_bytes()),
        "BLOCKHASH needs it"
    );
    let before = machine.state_hash();
    assert_eq!(
        machine.ask(&Command::Prune { below_round: 2 }),
        Decision::Pruned(4)
    );
    assert_eq!(machine.state_hash(), before);
}

#[test]
fn transactions_are_found_where_they_were_sealed() {
    let mut machine = started(2);
    let mut disk = Disk::default();
    let round = machine.open();
    let accept = transfer(round, 1, "a", 1, 2, 1);
    let hash = accept.transaction_hashes[0];
    won(machine.submit(accept));
    let find = |machine: &Machine, disk: &Disk| {
        machine.transaction_keys(hash).find_map(|key| {
            let written = || disk.0.get(&key.to_bytes()).cloned();
            machine.unwritten(&key).unwrap_or_else(written)
        })
    };
    assert_eq!(find(&machine, &disk), None, "the round is still open");
    machine.ask(&seal(round));
    let place = find(&machine, &disk).unwrap();
    disk.checkpoint(&mut machine);
    assert_eq!(find(&machine, &disk), Some(place.clone()));
    let place = records::transaction::decode(&place).unwrap();
    assert_eq!((place.round, place.shard, place.index), (round, 1, 0));
}

#[test]
fn watchers_resume_without_gap_or_repeat() {
    let mut machine = started(2);
    for nonce in 1..=3 {
        let round = machine.open();
        won(machine.submit(transfer(round, 0, "a", 1, 2, nonce)));
        machine.ask(&seal(round));
    }
    let all = machine
        .events_after(EventId::default(), usize::MAX)
        .unwrap();
    let mut resumed = Vec::new();
    let mut after = EventId::default();
    loop {
        let next = machine.events_after(after, 1).unwrap();
        let Some(event) = next.first() else { break };
        assert_eq!(next.len(), 1);
        after = event.id.unwrap().into();
        resumed.push(event.clone());
    }
    assert_eq!(resumed, all);
    assert_eq!(all.len(), 1 + 3 * 3);
    let ids: Vec<EventId> = all.iter().map(|e| e.id.unwrap().into()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b));
    assert_eq!(machine.newest_event(), after);
}

#[test]
fn revision_raises_and_feature_levels_rise_only() {
    let mut machine = started(1);
    let revision = machine.revision();
    machine.ask(&Command::RaiseRevision { by: 1 << 32 });
    assert_eq!(machine.revision(), revision + (1 << 32));
    let level = Command::SetFeatureLevel { level: 1 };
    assert_eq!(machine.ask(&level), Decision::FeatureLevel(1));
    assert_eq!(machine.revision(), revision + (1 << 32));
}

#[test]
fn what_this_program_does_not_know_is_a_fault() {
    let needed = MAX_FEATURE_LEVEL + 1;
    let fault = Fault::FeatureLevel {
        needed,
        understood: MAX_FEATURE_LEVEL,
    };
    let mut machine = started(1);
    let before = machine.state_hash();
    let newer = Command::SetFeatureLevel { level: needed };
    assert_eq!(machine.apply(&newer), Err(fault.clone()));
    let batch = Batch::new(needed, vec![build("a", None)]);
    assert_eq!(machine.apply_batch(&batch), Err(fault.clone()));
    assert_eq!(Batch::decode(batch.encode()).unwrap_err(), fault);
    assert_eq!(machine.state_hash(), before);
    let unknown = troika_proto::log::v1::Batch {
        feature_level: 1,
        commands: vec![troika_proto::log::v1::Command { kind: None }],
    };
    let bytes = prost::Message::encode_to_vec(&unknown);
    let fault = Batch::decode(bytes.into()).unwrap_err();
    assert_eq!(fault, Fault::UnknownCommand { index: 0 });
}

#[test]
fn state_reads_reach_128_blocks_back_and_no_further() {
    let mut machine = started(1);
    let mut blocks = vec![machine.head_hash()];
    for nonce in 1..=140 {
        let round = machine.open();
        won(machine.submit(transfer(round, 0, "a", 1, 2, nonce)));
        blocks.push(machine.head_hash());
    }
    let nonce_at = |hash| Some(machine.state_at(hash)?.account(&address(1))?.nonce);
    for (number, hash) in blocks.iter().enumerate() {
        let expected = (number >= 140 - 128).then_some(number as u64);
        assert_eq!(nonce_at(hash), expected, "block {number}");
    }
    assert_eq!(machine.oldest_state(), 12);
}

#[test]
fn a_reserved_key_that_another_shard_took_is_still_locked_after_loading() {
    let key = LockKey::account(address(3));
    let mut machine = started(4);
    let round = match open_reserving(&mut machine, vec![(key, 2)]) {
        Decision::Opened { round, .. } => round,
        other => panic!("{other:?}"),
    };
    // Shard 2 does without what was reserved for it, and shard 0 takes it.
    won(machine.submit(transfer(round, 2, "a", 1, 20, 1)));
    won(machine.submit(transfer(round, 0, "a", 3, 21, 1)));
    let mut disk = Disk::default();
    disk.checkpoint(&mut machine);
    let mut loaded = disk.load().unwrap();
    let third = transfer(round, 3, "a", 3, 22, 1);
    let expected = machine.ask(&submit(third.clone()));
    assert!(matches!(expected, Decision::Conflict(_)), "{expected:?}");
    assert_eq!(loaded.ask(&submit(third)), expected);
}
