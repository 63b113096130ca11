//! Checking others' blocks.

use super::build::{foreign_block, import};
use crate::state::limits::MAX_FUTURE_SECONDS;
use crate::state::testing::*;
use crate::state::*;
use std::sync::Arc;
use troika_proto::{B256, Header, LockKey, shards_root};

fn dissent(round: RoundId, shard: u32, executor: &str, computed: u8, owners: u32) -> Command {
    Command::ReportDissent(Arc::new(ReportDissent {
        round,
        shard,
        executor: executor.into(),
        computed: (computed != 0).then(|| B256::repeat_byte(computed)),
        reason: "nonce too low".into(),
        owners,
    }))
}

fn opened(machine: &mut Machine, header: &Header, hashes: &[B256]) -> RoundId {
    match machine.ask(&verify(header, hashes)) {
        Decision::Opened { round, .. } => round,
        other => panic!("not opened: {other:?}"),
    }
}

#[track_caller]
fn evidence(machine: &Machine, round: RoundId) -> Evidence {
    match &machine.round(round).unwrap().status {
        RoundStatus::Void(VoidReason::Invalid, Some(evidence)) => evidence.clone(),
        other => panic!("not invalid: {other:?}"),
    }
}

#[test]
fn a_good_block_is_imported_with_an_equal_hash_and_state() {
    let (header, hashes, proposals) = foreign_block(3);
    let mut machine = started(3);
    let round = import(&mut machine, &header, &hashes, &proposals);
    assert_eq!(machine.head_hash(), header.hash());
    assert_eq!(machine.round(round).unwrap().status, RoundStatus::Sealed);
    let mut builder = started(3);
    let built = builder.open();
    for mut proposal in proposals {
        proposal = proposal.in_round(built);
        builder.submit(proposal);
    }
    assert_eq!(builder.balance(20), machine.balance(20));
    let known = machine.ask(&verify(&header, &hashes));
    assert_eq!(refused(known), RefusalCode::KnownBlock);
}

#[test]
fn a_header_that_contradicts_its_parent_is_invalid_at_the_opening() {
    let (good, hashes, _) = foreign_block(2);
    type Change = fn(&mut Header);
    let wrong: [(&str, Change); 9] = [
        ("number", |h| h.number += 1),
        ("timestamp", |h| h.timestamp = 1),
        ("baseFeePerGas", |h| h.base_fee += 1),
        ("mixHash", |h| h.prev_randao = B256::ZERO),
        ("gasLimit", |h| h.gas_limit += 1),
        ("miner", |h| h.beneficiary = address(1)),
        ("stateRoot", |h| h.state_root = B256::repeat_byte(1)),
        ("parentBeaconBlockRoot", |h| {
            h.parent_beacon_root = B256::repeat_byte(1);
        }),
        ("extraData", |h| h.shards_root = B256::ZERO),
    ];
    for (name, change) in wrong {
        let mut machine = started(2);
        let mut header = good.clone();
        change(&mut header);
        let round = opened(&mut machine, &header, &hashes);
        match evidence(&machine, round) {
            Evidence::BadHeader { field, .. } => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
        let wire = machine.round_to_wire(round, true).unwrap();
        assert!(wire.evidence.is_some());
        if name != "extraData" {
            let again = machine.ask(&verify(&header, &hashes));
            assert_eq!(refused(again), RefusalCode::Barred);
        }
    }
}

#[test]
fn a_wrong_list_of_shards_says_nothing_against_the_block() {
    let (good, hashes, proposals) = foreign_block(2);
    let mut machine = started(2);
    let mut flipped = hashes.clone();
    flipped[1].0[0] ^= 1;
    for (list, name) in [(&hashes[..1], "shardHashes"), (&flipped[..], "extraData")] {
        let round = opened(&mut machine, &good, list);
        match evidence(&machine, round) {
            Evidence::BadHeader { field, .. } => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let round = import(&mut machine, &good, &hashes, &proposals);
    assert_eq!(machine.round(round).unwrap().status, RoundStatus::Sealed);
    assert_eq!(machine.head_hash(), good.hash());
}

#[test]
fn a_block_from_the_future_is_refused_until_its_time_has_come() {
    let (mut header, hashes, _) = foreign_block(2);
    let mut machine = started(2);
    header.timestamp = 1_700_000_001 + MAX_FUTURE_SECONDS + 1;
    let before = machine.state_hash();
    let early = machine.ask(&verify(&header, &hashes));
    assert_eq!(refused(early), RefusalCode::TooEarly);
    assert_eq!(machine.state_hash(), before);
    header.timestamp -= 1;
    opened(&mut machine, &header, &hashes);
}

#[test]
fn a_header_that_contradicts_its_shards_is_invalid_at_the_end() {
    let (good, hashes, proposals) = foreign_block(2);
    type Change = fn(&mut Header);
    let wrong: [(&str, Change); 4] = [
        ("gasUsed", |h| h.gas_used += 1),
        ("transactionsRoot", |h| h.transactions_root = B256::ZERO),
        ("receiptsRoot", |h| h.receipts_root = B256::ZERO),
        ("logsBloom", |h| h.logs_bloom.0[3] = 1),
    ];
    for (name, change) in wrong {
        let mut machine = started(2);
        let mut header = good.clone();
        change(&mut header);
        let head = machine.head_hash();
        let round = import(&mut machine, &header, &hashes, &proposals);
        match evidence(&machine, round) {
            Evidence::BadHeader { field, .. } => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(machine.head_hash(), head);
    }
}

/// A block whose two shards both write account 1, and one whose shard 0 overdraws.
fn forged(second: AcceptShard) -> (Header, Vec<B256>, Vec<AcceptShard>) {
    let (mut header, _, _) = foreign_block(2);
    let proposals = vec![transfer(1, 0, "x", 1, 20, 1), second];
    let hashes: Vec<_> = proposals.iter().map(|p| p.proposal.hash).collect();
    header.shards_root = shards_root(&hashes);
    (header, hashes, proposals)
}

#[test]
fn a_key_written_by_two_shards_is_evidence_whichever_finishes_first() {
    let (header, hashes, proposals) = forged(transfer(1, 1, "x", 1, 21, 1));
    for order in [[0, 1], [1, 0]] {
        let mut machine = started(2);
        let round = opened(&mut machine, &header, &hashes);
        let mut first = proposals[order[0]].clone();
        first = first.in_round(round);
        won(machine.submit(first));
        let mut second = proposals[order[1]].clone();
        second = second.in_round(round);
        assert_eq!(machine.submit(second), Decision::Closed(round));
        let expected = Evidence::DoubleWrite {
            key: LockKey::account(address(1)),
            first_shard: 0,
            second_shard: 1,
        };
        assert_eq!(evidence(&machine, round), expected);
        let again = machine.ask(&verify(&header, &hashes));
        assert_eq!(refused(again), RefusalCode::Barred);
    }
}

#[test]
fn a_shard_that_breaks_a_rule_under_the_headers_own_hash_is_evidence() {
    let poor = proposal(1, "x", shard(1, payment(2, 3, RICH, 1), 5, 0));
    let (header, hashes, proposals) = forged(poor);
    let mut machine = started(2);
    let round = opened(&mut machine, &header, &hashes);
    let mut bad = proposals[1].clone();
    bad = bad.in_round(round);
    assert_eq!(machine.submit(bad), Decision::Closed(round));
    assert!(matches!(
        evidence(&machine, round),
        Evidence::BadShard { shard: 1, .. }
    ));
}

#[test]
fn one_dissenting_executor_of_two_neither_voids_nor_imports() {
    let (header, hashes, proposals) = foreign_block(2);
    let mut machine = started(2);
    let round = opened(&mut machine, &header, &hashes);
    assert_eq!(
        machine.ask(&dissent(round, 0, "liar", 9, 3)),
        Decision::Noted
    );
    // The same one again, with the same or another outcome, is still one voice.
    assert_eq!(
        machine.ask(&dissent(round, 0, "liar", 9, 3)),
        Decision::Noted
    );
    assert_eq!(
        machine.ask(&dissent(round, 0, "liar", 8, 3)),
        Decision::Noted
    );
    // Two who agree only in dissenting do not agree on an outcome.
    assert_eq!(
        machine.ask(&dissent(round, 0, "other", 7, 3)),
        Decision::Noted
    );
    assert_eq!(machine.round(round).unwrap().status, RoundStatus::Open);
    let wire = machine.round_to_wire(round, false).unwrap();
    assert_eq!(wire.dissent.len(), 2);
    for mut proposal in proposals {
        proposal = proposal.in_round(round);
        won(machine.submit(proposal));
    }
    assert_eq!(machine.head_hash(), header.hash());
}

#[test]
fn a_dissent_from_what_is_decided_changes_nothing_and_is_noted_for_good() {
    let mut machine = started(2);
    let mut disk = Disk::default();
    let round = machine.open();
    let accepted = won(machine.submit(transfer(round, 0, "quick", 1, 2, 1)));
    let agreeing = Command::ReportDissent(Arc::new(ReportDissent {
        round,
        shard: 0,
        executor: "slow".into(),
        computed: Some(accepted.shard_hash),
        reason: String::new(),
        owners: 2,
    }));
    won(machine.ask(&agreeing));
    // While the round is open, and after it has sealed; by two, of whom either could have voided a checked block.
    assert_eq!(
        machine.ask(&dissent(round, 0, "slow", 9, 1)),
        Decision::Noted
    );
    disk.checkpoint(&mut machine);
    machine.ask(&seal(round));
    let (head, revision) = (machine.head_hash(), machine.revision());
    assert_eq!(
        machine.ask(&dissent(round, 0, "other", 9, 1)),
        Decision::Noted
    );
    assert_eq!(
        machine.ask(&dissent(round, 0, "other", 8, 1)),
        Decision::Noted
    );
    assert_eq!(
        (machine.head_hash(), machine.revision()),
        (head, revision + 1)
    );
    assert_eq!(machine.winner_of(round, 0), Some(accepted.clone()));
    // Nobody made the shard that the sealing filled in.
    won(machine.ask(&dissent(round, 1, "slow", 9, 1)));
    let wire = machine.round_to_wire(round, false).unwrap();
    let [bad] = &wire.dissent[..] else {
        panic!("{:?}", wire.dissent);
    };
    assert_eq!(bad.executors, ["slow", "other"]);
    assert_eq!(bad.expected, accepted.shard_hash.as_slice());
    disk.checkpoint(&mut machine);
    let loaded = disk.load().unwrap();
    assert_eq!(loaded.state_hash(), machine.state_hash());
    assert_eq!(loaded.round_to_wire(round, false), Some(wire));
}

#[test]
fn two_executors_with_the_same_outcome_void_the_round() {
    for computed in [9, 0] {
        let (header, hashes, _) = foreign_block(2);
        let mut machine = started(2);
        let round = opened(&mut machine, &header, &hashes);
        machine.ask(&dissent(round, 1, "a", computed, 3));
        machine.ask(&dissent(round, 1, "b", computed, 3));
        let expected = Evidence::BadShard {
            shard: 1,
            expected: hashes[1],
            computed: (computed != 0).then(|| B256::repeat_byte(computed)),
            executors: vec!["a".into(), "b".into()],
            reason: "nonce too low".into(),
        };
        assert_eq!(evidence(&machine, round), expected);
    }
}

#[test]
fn a_sole_owners_dissent_voids_the_round() {
    let (header, hashes, _) = foreign_block(2);
    let mut machine = started(2);
    let round = opened(&mut machine, &header, &hashes);
    machine.ask(&dissent(round, 1, "a", 9, 1));
    evidence(&machine, round);
}

#[test]
fn dissent_needs_another_outcome_and_a_verify_round() {
    let (header, hashes, _) = foreign_block(2);
    let mut machine = started(2);
    let built = machine.open();
    let wrong = machine.ask(&dissent(built, 0, "a", 9, 1));
    assert_eq!(refused(wrong), RefusalCode::WrongKind);
    let round = opened(&mut machine, &header, &hashes);
    let own = Command::ReportDissent(Arc::new(ReportDissent {
        round,
        shard: 0,
        executor: "a".into(),
        computed: Some(hashes[0]),
        reason: String::new(),
        owners: 1,
    }));
    assert_eq!(refused(machine.ask(&own)), RefusalCode::BadDiff);
    let locks = Command::AcquireLocks(AcquireLocks {
        round,
        shard: 0,
        keys: [LockKey::account(address(1))].into(),
    });
    assert_eq!(refused(machine.ask(&locks)), RefusalCode::WrongKind);
    assert_eq!(refused(machine.ask(&seal(round))), RefusalCode::WrongKind);
}

#[test]
fn a_proposal_with_another_hash_is_one_voice_of_dissent() {
    let (header, hashes, _) = foreign_block(2);
    let mut machine = started(2);
    let round = opened(&mut machine, &header, &hashes);
    assert_eq!(
        machine.submit(transfer(round, 0, "a", 1, 2, 1)),
        Decision::Noted
    );
    assert_eq!(machine.round(round).unwrap().status, RoundStatus::Open);
    machine.submit(transfer(round, 0, "b", 1, 2, 1));
    evidence(&machine, round);
}

#[test]
fn an_unavailable_or_abandoned_block_may_be_tried_again() {
    let (header, hashes, proposals) = foreign_block(2);
    let mut machine = started(2);
    for (reason, waited_ms) in [
        (VoidReason::Unavailable, SEAL_AFTER_MS),
        (VoidReason::Abandoned, 0),
    ] {
        let round = opened(&mut machine, &header, &hashes);
        let same = machine.ask(&verify(&header, &hashes));
        let opened = false;
        assert_eq!(same, Decision::Opened { round, opened });
        let early = Command::VoidRound {
            round,
            reason: VoidReason::Unavailable,
            waited_ms: 0,
        };
        assert_eq!(refused(machine.ask(&early)), RefusalCode::TooEarly);
        let void = Command::VoidRound {
            round,
            reason,
            waited_ms,
        };
        assert_eq!(machine.ask(&void), Decision::Closed(round));
        let late = machine.submit(transfer(round, 0, "a", 1, 2, 1));
        assert_eq!(refused(late), RefusalCode::RoundClosed);
    }
    let round = import(&mut machine, &header, &hashes, &proposals);
    let checked = machine.round(round).unwrap().checked.clone().unwrap();
    assert_eq!(checked.attempt, 3);
    assert_eq!(machine.head_hash(), header.hash());
}

#[test]
fn a_block_on_an_unknown_parent_is_refused_and_not_barred() {
    let (mut header, hashes, _) = foreign_block(2);
    header.parent_hash = B256::repeat_byte(3);
    let mut machine = started(2);
    for _ in 0..2 {
        let refusal = machine.ask(&verify(&header, &hashes));
        assert_eq!(refused(refusal), RefusalCode::WrongParent);
    }
}

#[test]
fn build_and_verify_on_one_parent_end_with_one_head() {
    let (header, hashes, proposals) = foreign_block(2);
    // BUILD first: the checked block stays beside the head.
    let mut machine = started(2);
    let built = machine.open();
    let round = opened(&mut machine, &header, &hashes);
    machine.ask(&seal(built));
    let head = machine.head_hash();
    for proposal in &proposals {
        let mut proposal = proposal.clone();
        proposal = proposal.in_round(round);
        won(machine.submit(proposal));
    }
    assert_eq!(machine.head_hash(), head);
    assert!(machine.is_canonical(1, &head) && !machine.is_canonical(1, &header.hash()));
    let beside = machine.state_at(&header.hash()).unwrap();
    let at_head = machine.state_at(&head).unwrap();
    assert_eq!(beside.account(&address(10)).unwrap().nonce, 1);
    assert_eq!(at_head.account(&address(10)).unwrap().nonce, 0);
    // VERIFY first: the BUILD round is overtaken.
    let mut machine = started(2);
    let built = machine.open();
    import(&mut machine, &header, &hashes, &proposals);
    machine.ask(&seal(built));
    assert_eq!(machine.head_hash(), header.hash());
    let status = &machine.round(built).unwrap().status;
    assert_eq!(*status, RoundStatus::Void(VoidReason::Stale, None));
}

#[test]
fn forks_are_dropped_when_the_base_passes_them() {
    let (header, hashes, proposals) = foreign_block(1);
    let mut machine = started(1);
    let mut disk = Disk::default();
    let built = machine.open();
    machine.ask(&seal(built));
    import(&mut machine, &header, &hashes, &proposals);
    // A round on the fork stays open until the fork is gone.
    let on_fork = {
        let mut other = started(1);
        import(&mut other, &header, &hashes, &proposals);
        let round = other.open();
        won(other.submit(transfer(round, 0, "x", 5, 6, 1)));
        let hashes = [other.winner_of(round, 0).unwrap().shard_hash];
        opened(&mut machine, &other.head_header(), &hashes)
    };
    for _ in 0..128 {
        assert!(machine.state_at(&header.hash()).is_some());
        let round = machine.open();
        machine.ask(&seal(round));
        disk.checkpoint(&mut machine);
    }
    assert!(machine.state_at(&header.hash()).is_none());
    let status = &machine.round(on_fork).unwrap().status;
    assert_eq!(*status, RoundStatus::Void(VoidReason::Unavailable, None));
    let loaded = disk.load().unwrap();
    assert_eq!(loaded.state_hash(), machine.state_hash());
}
