//! Machines that applied the same commands are equal, however these came; and what never changes.

use super::build::foreign_block;
use crate::state::testing::*;
use crate::state::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use troika_proto::{B256, LockKey, U256};

const SHARDS: u32 = 3;

/// A step of a random history, made small so that steps meet.
#[derive(Clone, Debug)]
enum Step {
    Open,
    Reserve {
        account: u8,
        shard: u32,
    },
    Submit {
        back: u64,
        shard: u32,
        executor: u8,
        from: u8,
        to: u8,
        ahead: bool,
    },
    Store {
        shard: u32,
        slot: u64,
        value: u64,
    },
    Acquire {
        shard: u32,
        account: u8,
    },
    Seal {
        early: bool,
    },
    Check {
        shard: u32,
        finish: bool,
    },
    Dissent {
        shard: u32,
        executor: u8,
        computed: u8,
    },
    Void {
        back: u64,
    },
    Prune {
        back: u64,
    },
    Raise,
    Checkpoint,
}

fn any_step() -> impl Strategy<Value = Step> {
    let shard = 0..SHARDS + 1;
    prop_oneof![
        4 => Just(Step::Open),
        1 => (0u8..4, shard.clone()).prop_map(|(account, shard)| Step::Reserve { account, shard }),
        12 => (0u64..2, shard.clone(), 0u8..3, 0u8..6, 0u8..8, any::<bool>()).prop_map(
            |(back, shard, executor, from, to, ahead)| Step::Submit { back, shard, executor, from, to, ahead }
        ),
        3 => (shard.clone(), 1u64..4, 0u64..3).prop_map(|(shard, slot, value)| Step::Store { shard, slot, value }),
        3 => (shard.clone(), 0u8..6).prop_map(|(shard, account)| Step::Acquire { shard, account }),
        4 => any::<bool>().prop_map(|early| Step::Seal { early }),
        3 => (0..SHARDS, any::<bool>()).prop_map(|(shard, finish)| Step::Check { shard, finish }),
        2 => (shard, 0u8..3, 0u8..2).prop_map(|(shard, executor, computed)| Step::Dissent { shard, executor, computed }),
        1 => (0u64..4).prop_map(|back| Step::Void { back }),
        1 => (0u64..4).prop_map(|back| Step::Prune { back }),
        1 => Just(Step::Raise),
        2 => Just(Step::Checkpoint),
    ]
}

/// Turns steps into commands, looking at a machine to aim well.
fn commands(machine: &Machine, step: &Step) -> Vec<Command> {
    let newest = machine.next_round() - 1;
    let open = |target| {
        Command::OpenRound(Arc::new(OpenRound {
            opener: "o".into(),
            clock_ms: 1_700_000_000_000 + newest * 900,
            target,
        }))
    };
    let nonce = |from: u8| {
        let state = machine.state_at(&machine.head_hash()).unwrap();
        state.account(&address(from)).map_or(0, |a| a.nonce)
    };
    match *step {
        Step::Open => vec![build("o", None)],
        Step::Reserve { account, shard } => vec![open(OpenTarget::Build {
            parent: None,
            reservations: vec![(LockKey::account(address(account)), shard)],
        })],
        Step::Submit {
            back,
            shard,
            executor,
            from,
            to,
            ahead,
        } => {
            let to = if to == from { 8 } else { to };
            let round = newest.saturating_sub(back);
            let name = format!("e{executor}");
            let nonce = nonce(from) + u64::from(ahead);
            vec![Command::AcceptShard(transfer(
                round,
                shard,
                &name,
                from,
                to,
                nonce.max(1),
            ))]
        }
        Step::Store {
            shard: index,
            slot,
            value,
        } => {
            let mut diff = store(slot, value);
            diff.merge(&payment(9, 10, 1, nonce(9) + 1)).unwrap();
            let shard = shard(index, diff, 3, slot * 7 + value);
            vec![Command::AcceptShard(proposal(newest, "s", shard))]
        }
        Step::Acquire { shard, account } => vec![Command::AcquireLocks(AcquireLocks {
            round: newest,
            shard,
            keys: [LockKey::account(address(account))].into(),
        })],
        Step::Seal { early } => vec![Command::SealRound {
            round: newest,
            waited_ms: if early { 0 } else { SEAL_AFTER_MS },
        }],
        Step::Check { shard, finish } => {
            let (header, hashes, proposals) = foreign_block(SHARDS);
            let known = machine.rounds(0).find(|id| {
                machine
                    .round(*id)
                    .is_some_and(|r| r.block_hash == header.hash())
            });
            let round = known.unwrap_or(machine.next_round());
            let mut all = vec![verify(&header, &hashes)];
            let some = proposals.into_iter().filter(|p| finish || p.shard == shard);
            all.extend(some.map(|mut proposal| {
                proposal = proposal.in_round(round);
                Command::AcceptShard(proposal)
            }));
            all
        }
        Step::Dissent {
            shard,
            executor,
            computed,
        } => {
            vec![Command::ReportDissent(Arc::new(ReportDissent {
                round: newest,
                shard,
                executor: format!("d{executor}").as_str().into(),
                computed: (computed > 0).then(|| B256::repeat_byte(computed)),
                reason: "r".into(),
                owners: 3,
            }))]
        }
        Step::Void { back } => vec![Command::VoidRound {
            round: newest.saturating_sub(back),
            reason: VoidReason::Abandoned,
            waited_ms: 0,
        }],
        Step::Prune { back } => vec![Command::Prune {
            below_round: newest.saturating_sub(back),
        }],
        Step::Raise => vec![Command::RaiseRevision { by: 3 }],
        Step::Checkpoint => Vec::new(),
    }
}

/// No two accepted shards of an open round hold one key, and the lock table says who does.
fn locks_exclude(machine: &Machine) {
    for id in machine.open_rounds() {
        let mut holders = BTreeMap::new();
        for shard in 0..SHARDS {
            let Some(accepted) = machine.accepted(id, shard) else {
                continue;
            };
            let rule = machine.current_chain().unwrap().config.lock_rule;
            for key in accepted.accept.proposal.body.diff.lock_keys(rule) {
                assert_eq!(holders.insert(key, shard), None, "{key} is held twice");
            }
        }
        for holder in machine.locks(id, None, usize::MAX).0 {
            let owner = holders.get(&holder.key);
            assert!(owner.is_none_or(|shard| *shard == holder.shard));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn random_histories_keep_every_promise(steps in proptest::collection::vec(any_step(), 1..80)) {
        let mut machine = started(SHARDS);
        let mut disk = Disk::default();
        let mut log = vec![Command::InitChain(Arc::new(genesis(SHARDS)))];
        let mut winners: BTreeMap<(RoundId, u32), Winner> = BTreeMap::new();
        let supply = machine.total_balance();
        let mut reloaded: Option<Machine> = None;
        let mut answers = Vec::new();
        for step in &steps {
            if matches!(step, Step::Checkpoint) {
                disk.checkpoint(&mut machine);
                let loaded = disk.load().unwrap();
                prop_assert_eq!(loaded.state_hash(), machine.state_hash());
                prop_assert_eq!(
                    loaded.events_after(loaded.oldest_event(), usize::MAX).unwrap(),
                    machine.events_after(machine.oldest_event(), usize::MAX).unwrap()
                );
                reloaded = Some(loaded);
            }
            for command in commands(&machine, step) {
                let (revision, hash) = (machine.revision(), machine.state_hash());
                let answer = machine.apply(&command).unwrap();
                if let Some(loaded) = &mut reloaded {
                    prop_assert_eq!(&loaded.apply(&command).unwrap(), &answer);
                    prop_assert_eq!(loaded.state_hash(), machine.state_hash());
                }
                if matches!(answer.decision, Decision::Refused(_) | Decision::Conflict(_)) {
                    prop_assert_eq!((machine.revision(), machine.state_hash()), (revision, hash));
                }
                prop_assert_eq!(machine.revision() == revision, machine.state_hash() == hash);
                answers.push(answer);
                log.push(command);
            }
            for id in machine.rounds(0) {
                for shard in 0..SHARDS {
                    if let Some(winner) = machine.winner_of(id, shard) {
                        let first = winners.entry((id, shard)).or_insert_with(|| winner.clone());
                        prop_assert_eq!(&*first, &winner, "a decision flipped");
                    }
                }
            }
            locks_exclude(&machine);
            prop_assert!(machine.total_balance() <= supply, "money was made");
        }
        // The same log in batches of three, encoded and decoded, gives the same machine and answers.
        let mut other = Machine::new();
        let mut again = Vec::new();
        for commands in log.chunks(3) {
            let batch = Batch::new(1, commands.to_vec());
            let batch = Batch::decode(batch.encode()).unwrap();
            again.extend(other.apply_batch(&batch).unwrap());
        }
        prop_assert_eq!(other.state_hash(), machine.state_hash());
        prop_assert_eq!(&again[1..], answers.as_slice());
        let bytes = Answer::encode_all(&again);
        prop_assert_eq!(Answer::decode_all(bytes).unwrap(), again);
    }

    #[test]
    fn money_is_conserved(payments in proptest::collection::vec((0u8..8, 0u8..8, 1u64..1_000_000), 1..24)) {
        let mut machine = started(2);
        let supply = machine.total_balance();
        let mut burned = U256::ZERO;
        let mut nonces = [0u64; 8];
        for pair in payments.chunks(2) {
            let round = machine.open();
            for (index, (from, to, amount)) in pair.iter().enumerate() {
                let to = if to == from { 9 } else { *to };
                let diff = payment(*from, to, *amount, nonces[usize::from(*from)] + 1);
                let accept = proposal(round, "a", shard(index as u32, diff, 77, *amount));
                if let Decision::Winner(_) = machine.submit(accept) {
                    nonces[usize::from(*from)] += 1;
                    // The diff pays COST, of which the fees go to the beneficiary; the rest is burned.
                    burned += U256::from(COST - 77);
                }
            }
            machine.ask(&seal(round));
            prop_assert_eq!(machine.total_balance() + burned, supply);
        }
    }

    #[test]
    fn the_order_of_acceptance_does_not_show_in_the_block(order in Just([0u32, 1, 2, 3]).prop_shuffle()) {
        let sealed = |order: [u32; 4]| {
            let mut machine = started(4);
            let round = machine.open();
            for shard in order {
                won(machine.submit(transfer(round, shard, "a", shard as u8, 9, 1)));
            }
            (machine.head_hash(), machine.balance(9), machine.balance(0))
        };
        prop_assert_eq!(sealed(order), sealed([0, 1, 2, 3]));
    }

    #[test]
    fn any_bytes_are_a_batch_or_a_fault(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Batch::decode(bytes.clone().into());
        let _ = Answer::decode_all(bytes.into());
    }
}

#[test]
fn a_damaged_checkpoint_is_refused() {
    let mut machine = started(2);
    let mut disk = Disk::default();
    let round = machine.open();
    won(machine.submit(transfer(round, 0, "a", 1, 2, 1)));
    machine.ask(&seal(round));
    disk.checkpoint(&mut machine);
    assert!(disk.load().is_ok());
    // Without any one hot record, but for code that nothing refers to by count, loading fails.
    for key in disk.0.keys().filter(|key| **key < RecordKey::cold_from()) {
        let mut damaged = disk.clone();
        damaged.0.remove(key);
        assert!(damaged.load().is_err(), "{:?}", RecordKey::from_bytes(key));
    }
}

#[test]
fn a_machine_without_records_is_new() {
    let machine = Disk::default().load().unwrap();
    assert_eq!(machine.state_hash(), Machine::new().state_hash());
}
