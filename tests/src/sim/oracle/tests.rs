use super::super::chain::{Payment, payer_key};
use super::*;

fn winner(byte: u8, revision: u64) -> Winner {
    Winner {
        shard_hash: B256::repeat_byte(byte),
        executor: "a".into(),
        revision,
    }
}

fn paid_by(from: u32, shard: u32) -> Arc<Shard> {
    let payment = Payment {
        round: 1,
        shard,
        from,
        to: from + 1,
        slot: None,
        executor: "a",
        salt: 1,
    };
    payment.shard()
}

fn won(shard: &Shard, revision: u64) -> Winner {
    Winner {
        shard_hash: shard.hash,
        executor: "a".into(),
        revision,
    }
}

#[test]
fn a_second_winner_is_seen() {
    let mut oracle = Oracle::default();
    oracle.winner("a", (1, 2), &winner(1, 5)).unwrap();
    oracle.winner("b", (1, 2), &winner(1, 5)).unwrap();
    oracle.winner("b", (1, 2), &winner(2, 5)).unwrap_err();
}

#[test]
fn two_states_at_one_index_are_seen() {
    let mut oracle = Oracle::default();
    oracle
        .applied("a", 1, StateHash::from_bytes([1; 32]))
        .unwrap();
    oracle
        .applied("b", 1, StateHash::from_bytes([1; 32]))
        .unwrap();
    oracle
        .applied("b", 1, StateHash::from_bytes([2; 32]))
        .unwrap_err();
}

#[test]
fn two_writers_of_one_key_are_seen() {
    let mut oracle = Oracle::default();
    let (first, second) = (paid_by(9, 0), paid_by(9, 1));
    oracle.proposes(&first);
    oracle.proposes(&second);
    oracle.winner("a", (1, 0), &won(&first, 1)).unwrap();
    oracle.winner("a", (2, 1), &won(&second, 2)).unwrap();
    oracle.winner("a", (1, 1), &won(&second, 3)).unwrap_err();
}

#[test]
fn a_write_through_a_held_lock_is_seen() {
    let made = paid_by(9, 1);
    for (accepted_at, excluded) in [(3, true), (5, false)] {
        let mut oracle = Oracle::default();
        oracle.proposes(&made);
        oracle.holds(1, 0, payer_key(9), 4);
        oracle
            .winner("a", (1, 1), &won(&made, accepted_at))
            .unwrap();
        assert_eq!(oracle.locks_excluded().is_ok(), excluded);
    }
}

#[test]
fn a_conflict_with_nobody_is_seen() {
    let made = paid_by(9, 1);
    let mut oracle = Oracle::default();
    oracle.proposes(&made);
    oracle.acquires(1, 1, payer_key(8));
    oracle.winner("a", (1, 1), &won(&made, 7)).unwrap();
    // Before its acceptance it may have held what it had asked for; afterwards it holds what it writes.
    for (key, revision, real) in [(9, 7, true), (8, 6, true), (8, 7, false), (7, 6, false)] {
        let mut oracle = Oracle {
            conflicts: BTreeSet::new(),
            asked: oracle.asked.clone(),
            proposals: oracle.proposals.clone(),
            winners: oracle.winners.clone(),
            ..Oracle::default()
        };
        oracle.conflicts(1, 1, payer_key(key), revision);
        assert_eq!(
            oracle.conflicts_were_real().is_ok(),
            real,
            "{key} {revision}"
        );
    }
}

#[test]
fn a_gap_and_a_repeat_of_events_are_seen() {
    let event = |revision| v1::Event {
        id: Some(v1::EventId {
            revision,
            ordinal: 0,
        }),
        kind: None,
    };
    let mut oracle = Oracle::default();
    let first = oracle.event("a", None, &event(1)).unwrap();
    let second = oracle.event("a", Some(first), &event(2)).unwrap();
    oracle.event("a", Some(second), &event(2)).unwrap_err();
    oracle.event("b", Some(first), &event(3)).unwrap_err();
}

#[test]
fn a_read_of_the_past_is_seen() {
    let mut oracle = Oracle::default();
    oracle.replied(7);
    let newest = oracle.newest();
    oracle.read("a", newest, 6).unwrap_err();
    oracle.read("a", newest, 7).unwrap();
}

fn place(revision: u64) -> EventId {
    EventId {
        revision,
        ordinal: 0,
    }
}

#[test]
fn an_event_where_a_follower_was_told_of_none_is_seen_whichever_comes_first() {
    let event = |revision| v1::Event {
        id: Some(v1::EventId {
            revision,
            ordinal: 0,
        }),
        kind: None,
    };
    // The event is known already.
    let mut oracle = Oracle::default();
    oracle.event("a", None, &event(5)).unwrap();
    oracle.progressed("b", place(2), place(4)).unwrap();
    oracle.progressed("b", place(5), place(9)).unwrap();
    oracle.progressed("b", place(4), place(6)).unwrap_err();
    // It turns up later; places that overlap are one.
    let mut oracle = Oracle::default();
    for (after, upto) in [(2, 4), (7, 9), (3, 8), (20, 30), (25, 26)] {
        oracle.progressed("b", place(after), place(upto)).unwrap();
    }
    for (revision, allowed) in [(2, true), (3, false), (9, false), (10, true), (30, false)] {
        assert_eq!(
            oracle.event("a", None, &event(revision)).is_ok(),
            allowed,
            "{revision}"
        );
    }
}

#[test]
fn a_winner_that_was_seen_and_is_gone_is_missed_unless_its_round_may_be_forgotten() {
    let mut oracle = Oracle::default();
    oracle.winner("a", (4, 2), &winner(1, 5)).unwrap();
    let empty = Machine::new();
    oracle.remembers("b", &empty).unwrap_err();
    oracle.prunes(4);
    oracle.remembers("b", &empty).unwrap_err();
    oracle.prunes(5);
    oracle.remembers("b", &empty).unwrap();
}
