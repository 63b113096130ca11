//! Leaving out what another shard's locks forbid, and executing again what came after.

use super::*;
use std::collections::HashSet;
use troika_proto::LockKey;

const AT: Address = Address::repeat_byte(0xc0);

fn set(n: u8, nonce: u64, key: u64, value: u64) -> Arc<Transaction> {
    invoke(n, nonce, AT, &[U256::from(key), U256::from(value)])
}

fn slot(key: u64) -> LockKey {
    LockKey::slot(AT, U256::from(key))
}

fn built<'v>(view: &'v MemoryView, all: &[Arc<Transaction>]) -> Builder<&'v MemoryView> {
    let mut builder = Builder::new(rules(), environment(), view);
    builder
        .push_all(all, |_, push| push.is_included())
        .expect("readable");
    builder
}

#[test]
fn a_barred_key_takes_out_its_writer_and_what_depends_on_it() {
    let view = view(&[1, 2, 3], &[(AT, setter())]);
    let all = [
        set(1, 0, 10, 1),
        set(2, 0, 20, 1), // writes the barred slot
        set(2, 1, 30, 1), // needs the nonce of the one before
        set(3, 0, 40, 1),
        transfer(1, 1, somebody(9), 5),
    ];
    let mut builder = built(&view, &all);
    assert_eq!(builder.len(), 5);
    let removed = builder.bar([slot(20)]);
    let out: Vec<B256> = removed.iter().map(|r| r.transaction.hash).collect();
    assert_eq!(out, [all[1].hash, all[2].hash]);
    assert_eq!(removed[0].reason, Ok(Push::Held(slot(20))));
    assert!(matches!(
        removed[1].reason,
        Ok(Push::Skip(Invalid::NonceTooHigh { .. }))
    ));
    let rest = [all[0].clone(), all[3].clone(), all[4].clone()];
    assert_eq!(builder.finish(0), built(&view, &rest).finish(0));
    // And it stays barred.
    assert_eq!(builder.push(&all[1]), Ok(Push::Held(slot(20))));
    assert_eq!(builder.finish(0), built(&view, &rest).finish(0));
}

#[test]
fn keys_may_shrink_and_grow_when_the_rest_is_executed_again() {
    // With call data it sets a slot; without, it copies slot 1 to the slot that slot 1 names.
    let follower = Address::repeat_byte(0xc2);
    let code = [
        &[op::CALLDATASIZE, op::PUSH1, 12, op::JUMPI][..],
        &[op::PUSH1, 1, op::SLOAD, op::PUSH1, 1, op::SLOAD, op::SSTORE][..],
        &[op::STOP, op::JUMPDEST][..],
        &setter()[..],
    ]
    .concat();
    let view = view(&[1, 2], &[(follower, code)]);
    let point = [U256::from(1), U256::from(50)];
    let all = [invoke(1, 0, follower, &point), invoke(2, 0, follower, &[])];
    let mut builder = built(&view, &all);
    let written = |b: &Builder<&MemoryView>| b.diff().accounts[&follower].slots.clone();
    assert_eq!(written(&builder)[&U256::from(50)], U256::from(50));
    let removed = builder.bar([LockKey::slot(follower, U256::from(1))]);
    assert_eq!(removed.len(), 1);
    // Without the first, the second copies nothing to slot 0.
    assert_eq!(builder.len(), 1);
    assert!(!builder.diff().accounts.contains_key(&follower));
}

#[test]
fn a_barred_key_that_the_shard_does_not_write_in_the_end_takes_nothing_out() {
    let mut view = view(&[1, 2], &[(AT, payer())]);
    view.credit(AT, U256::from(50)).expect("fits");
    let pay = invoke(2, 0, AT, &[word(somebody(9)), U256::from(30)]);
    let all = [transfer(1, 0, AT, 40), pay];
    let mut builder = built(&view, &all);
    // By itself the second lowers the contract's balance; the shard as a whole raises it.
    let key = LockKey::account(AT);
    assert!(builder.writes()[1].contains(&key));
    assert!(builder.bar([key]).is_empty());
    assert_eq!(builder.len(), 2);
    // One more wei would.
    let more = invoke(2, 1, AT, &[word(somebody(9)), U256::from(11)]);
    assert_eq!(builder.push(&more), Ok(Push::Held(key)));
    let less = invoke(2, 1, AT, &[word(somebody(9)), U256::from(10)]);
    assert!(builder.push(&less).is_ok_and(|p| p.is_included()));
}

#[test]
fn a_sender_whose_account_another_shard_holds_is_left_out() {
    let view = view(&[1, 2], &[]);
    let all = [
        transfer(1, 0, somebody(9), 5),
        transfer(2, 0, sender(1), 7),
        transfer(1, 1, somebody(9), 5),
    ];
    let mut builder = built(&view, &all);
    let removed = builder.bar([LockKey::account(sender(1))]);
    assert_eq!(removed.len(), 2);
    // What pays it stays: a credit needs no lock.
    assert_eq!(builder.len(), 1);
    assert!(builder.diff().accounts[&sender(1)].is_credit());
}

#[test]
fn named_transactions_can_be_taken_out() {
    let view = view(&[1, 2, 3], &[(AT, setter())]);
    let all = [
        set(1, 0, 10, 1),
        set(2, 0, 20, 1),
        set(1, 1, 10, 2),
        set(3, 0, 10, 3),
    ];
    let mut builder = built(&view, &all);
    let removed = builder.without(&HashSet::from([all[1].hash]));
    assert!(removed.is_empty());
    let rest = [all[0].clone(), all[2].clone(), all[3].clone()];
    assert_eq!(builder.finish(0), built(&view, &rest).finish(0));
    let removed = builder.without(&HashSet::from([all[0].hash]));
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].transaction.hash, all[2].hash);
    assert_eq!(builder.finish(0), built(&view, &rest[2..]).finish(0));
}

#[test]
fn what_cannot_be_read_while_executing_again_is_handed_back() {
    // Reads slot 0 of whatever account slot 1 of the setter names: another path, another read.
    let code = vec![
        op::PUSH1,
        1,
        op::SLOAD,
        op::BALANCE,
        op::PUSH1,
        2,
        op::SSTORE,
    ];
    let looker = [
        &[op::CALLDATASIZE, op::PUSH1, 12, op::JUMPI][..],
        &code,
        &[op::STOP, op::JUMPDEST],
        &setter(),
    ]
    .concat();
    assert_eq!(looker[12], op::JUMPDEST);
    let inner = view(&[1, 2, 3], &[(AT, looker)]);
    let flaky = Flaky {
        inner,
        reads_left: AtomicUsize::new(usize::MAX),
    };
    let all = [
        set(1, 0, 1, 0x99),
        invoke(2, 0, AT, &[]),
        transfer(3, 0, somebody(9), 1),
    ];
    let mut builder = Builder::new(rules(), environment(), &flaky);
    builder
        .push_all(&all, |_, push| push.is_included())
        .expect("readable");
    assert_eq!(builder.len(), 3);
    flaky.reads_left.store(0, Ordering::Relaxed);
    let removed = builder.bar([slot(1)]);
    assert_eq!(removed.len(), 3);
    assert_eq!(removed[0].reason, Ok(Push::Held(slot(1))));
    assert!(removed[1].reason.is_err() && removed[2].reason.is_err());
    assert!(builder.is_empty() && builder.diff().is_empty());
    // Once the state is back, they go in as ever.
    flaky.reads_left.store(usize::MAX, Ordering::Relaxed);
    for again in &removed[1..] {
        include(&mut builder, &again.transaction, true);
    }
}
