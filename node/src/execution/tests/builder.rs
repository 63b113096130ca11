//! Building a shard: what is included, what the diff says, what locks.

use super::transaction::{authorize, delegating};
use super::*;
use troika_proto::{AccountDiff, Delta, Diff, LockKey};

const AT: Address = Address::repeat_byte(0xc0);
const OTHER: Address = Address::repeat_byte(0xc1);

fn builder(view: &MemoryView) -> Builder<&MemoryView> {
    Builder::new(rules(), environment(), view)
}

fn of(diff: &Diff, address: Address) -> AccountDiff {
    diff.accounts.get(&address).cloned().unwrap_or_default()
}

#[test]
fn fees_stay_out_of_the_diff_and_are_summed() {
    let view = view(&[1, 2], &[]);
    let mut builder = builder(&view);
    include(&mut builder, &transfer(1, 0, somebody(9), 5), true);
    include(&mut builder, &transfer(2, 0, somebody(9), 6), true);
    let shard = builder.finish(3);
    assert_eq!(shard.header.fees, U256::from(2 * 21_000 * TIP));
    assert_eq!(builder.burned(), U256::from(2 * 21_000 * BASE_FEE));
    assert!(!shard.body.diff.accounts.contains_key(&BENEFICIARY));
    let gas = U256::from(21_000 * (TIP + u128::from(BASE_FEE)));
    let payer = of(&shard.body.diff, sender(1));
    assert_eq!(payer.balance, Delta::fall(gas + U256::from(5)));
    assert_eq!(payer.nonce, Some(1));
    assert_eq!((shard.header.index, shard.header.gas_used), (3, 42_000));
}

#[test]
fn the_beneficiary_sees_the_parents_balance() {
    let code = keeps(&[op::COINBASE, op::BALANCE]);
    let mut view = view(&[1], &[(AT, code)]);
    let was = U256::from(77);
    view.credit(BENEFICIARY, was).expect("fits");
    let mut builder = builder(&view);
    include(&mut builder, &transfer(1, 0, somebody(9), 5), true);
    include(&mut builder, &invoke(1, 1, AT, &[]), true);
    assert_eq!(of(&builder.diff(), AT).slots[&U256::ZERO], was);
    // As a sender it cannot spend the fees of the block that it stands in.
    let environment = Environment {
        beneficiary: sender(2),
        ..environment()
    };
    let mut builder = Builder::new(rules(), environment, &view);
    include(&mut builder, &transfer(1, 0, somebody(9), 5), true);
    let push = builder.push(&transfer(2, 0, somebody(9), 5));
    assert!(matches!(push, Ok(Push::Skip(Invalid::Funds { .. }))));
}

#[test]
fn a_rise_is_a_credit_and_locks_under_the_strict_rule_alone() {
    let view = view(&[1], &[]);
    for (rules, locked) in [(rules(), false), (strict(), true)] {
        let rule = rules.lock_rule;
        let mut builder = Builder::new(rules, environment(), &view);
        include(&mut builder, &transfer(1, 0, somebody(9), 5), true);
        let key = LockKey::account(somebody(9));
        assert_eq!(builder.diff().lock_keys(rule).contains(&key), locked);
        assert_eq!(builder.writes()[0].contains(&key), locked);
        let sender = LockKey::account(sender(1));
        assert!(builder.writes()[0].contains(&sender));
    }
}

#[test]
fn a_balance_that_falls_and_rises_back_is_nothing() {
    let mut view = view(&[1], &[(AT, payer())]);
    view.credit(AT, U256::from(50)).expect("fits");
    let mut builder = builder(&view);
    let pay = [word(somebody(9)), U256::from(30)];
    include(&mut builder, &invoke(1, 0, AT, &pay), true);
    assert_eq!(of(&builder.diff(), AT).balance, Delta::fall(U256::from(30)));
    // The contract takes money with empty call data: it sends nothing to nobody.
    include(&mut builder, &transfer(1, 1, AT, 30), true);
    assert!(!builder.diff().accounts.contains_key(&AT));
}

#[test]
fn a_write_that_restores_the_old_value_takes_no_lock() {
    let view = view(&[1], &[(AT, setter())]);
    let mut builder = builder(&view);
    let (key, value) = (U256::from(4), U256::from(9));
    include(&mut builder, &invoke(1, 0, AT, &[key, value]), true);
    assert_eq!(of(&builder.diff(), AT).slots[&key], value);
    include(&mut builder, &invoke(1, 1, AT, &[key, U256::ZERO]), true);
    assert!(!builder.diff().accounts.contains_key(&AT));
    assert_eq!(
        builder.writes()[1].len(),
        2,
        "by itself it writes slot and sender"
    );
}

#[test]
fn reverted_writes_leave_no_trace() {
    let view = view(&[1], &[(AT, regretter())]);
    let mut builder = builder(&view);
    let gas = include(&mut builder, &invoke(1, 0, AT, &[]), false);
    assert!(gas > 21_000);
    let changed: Vec<Address> = builder.diff().accounts.into_keys().collect();
    assert_eq!(changed, [sender(1)]);
    assert_eq!(builder.writes()[0], [LockKey::account(sender(1))]);
    assert!(!builder.finish(0).body.receipts[0].success);
}

#[test]
fn creation_writes_the_account_and_the_creators_nonce() {
    let view = view(&[1], &[]);
    let mut builder = builder(&view);
    include(&mut builder, &create(1, 0, deploy(&setter())), true);
    let at = sender(1).create(0);
    let diff = builder.diff();
    assert_eq!(of(&diff, at).code, Some(Bytes::from(setter())));
    assert_eq!(of(&diff, at).nonce, Some(1));
    assert_eq!(of(&diff, sender(1)).nonce, Some(1));
    let keys = diff.lock_keys(LockRule::Commuting);
    assert!(keys.contains(&LockKey::account(at)));
    // What was created can be called in the same shard.
    let set = [U256::from(1), U256::from(2)];
    include(&mut builder, &invoke(1, 1, at, &set), true);
    assert_eq!(of(&builder.diff(), at).slots[&U256::from(1)], U256::from(2));
}

#[test]
fn an_authority_is_written_with_nonce_and_code() {
    let view = view(&[1], &[(AT, setter())]);
    let mut builder = builder(&view);
    let list = vec![authorize(2, AT, 0)];
    include(&mut builder, &sign(1, delegating(9, 0, list)), true);
    let diff = builder.diff();
    let authority = of(&diff, sender(2));
    assert_eq!(authority.nonce, Some(1));
    let code = authority.code.expect("a delegation");
    assert_eq!(&code[..3], [0xef, 0x01, 0x00]);
    assert_eq!(&code[3..], AT.as_slice());
    let key = LockKey::account(sender(2));
    assert!(diff.lock_keys(LockRule::Commuting).contains(&key));
    // The next block takes the delegation back: the code is empty, and said so.
    let mut next = view.clone();
    next.apply(&diff).expect("applies");
    let mut builder = Builder::new(rules(), environment(), &next);
    let list = vec![authorize(2, Address::ZERO, 1)];
    include(&mut builder, &sign(1, delegating(9, 1, list)), true);
    assert_eq!(of(&builder.diff(), sender(2)).code, Some(Bytes::new()));
}

#[test]
fn a_transaction_is_admitted_by_its_gas_limit() {
    let view = view(&[1], &[]);
    let rules = Rules {
        shard_gas_limit: 1 << 24,
        ..rules()
    };
    let mut builder = Builder::new(rules, environment(), &view);
    let with_limit = |nonce: u64, gas_limit: u64| {
        let mut tx = plain(nonce, TxKind::Call(somebody(9)), 1, vec![]);
        tx.gas_limit = gas_limit;
        sign(1, tx)
    };
    include(&mut builder, &with_limit(0, 1 << 24), true);
    // What counts is the gas used before it, not the limits.
    let left = (1 << 24) - 21_000;
    assert_eq!(builder.gas_left(), left);
    assert_eq!(builder.push(&with_limit(1, left + 1)), Ok(Push::Full));
    include(&mut builder, &with_limit(1, left), true);
}

#[test]
fn what_cannot_run_leaves_no_trace_and_says_whether_it_ever_can() {
    let view = view(&[1], &[]);
    let mut builder = builder(&view);
    include(&mut builder, &transfer(1, 0, somebody(9), 1), true);
    let before = builder.finish(0);
    let gap = builder.push(&transfer(1, 5, somebody(9), 1));
    let gap_reason = Invalid::NonceTooHigh {
        expected: 1,
        found: 5,
    };
    assert_eq!(gap, Ok(Push::Skip(gap_reason)));
    let old = builder.push(&transfer(1, 0, somebody(9), 1));
    assert!(matches!(old, Ok(Push::Drop(Invalid::NonceTooLow { .. }))));
    let poor = builder.push(&transfer(2, 0, somebody(9), 1));
    assert!(matches!(poor, Ok(Push::Skip(Invalid::Funds { .. }))));
    let mut cheap = plain(1, TxKind::Call(somebody(9)), 1, vec![]);
    cheap.max_fee_per_gas = u128::from(BASE_FEE) - 1;
    cheap.max_priority_fee_per_gas = 0;
    let cheap = builder.push(&sign(1, cheap));
    assert!(matches!(
        cheap,
        Ok(Push::Skip(Invalid::FeeBelowBase { .. }))
    ));
    let init = vec![op::STOP; 49_153];
    let mut init = plain(1, TxKind::Create, 0, init);
    init.gas_limit = 3_000_000;
    let init = builder.push(&sign(1, init));
    assert_eq!(init, Ok(Push::Drop(Invalid::InitCodeSize)));
    let mut foreign = plain(1, TxKind::Call(somebody(9)), 1, vec![]);
    foreign.chain_id = 1;
    let foreign = builder.push(&sign(1, foreign));
    assert!(matches!(foreign, Ok(Push::Drop(Invalid::ChainId { .. }))));
    let mut greedy = plain(1, TxKind::Call(somebody(9)), 1, vec![]);
    greedy.gas_limit = 30_000_001;
    let greedy = builder.push(&sign(1, greedy));
    assert!(matches!(
        greedy,
        Ok(Push::Drop(Invalid::GasAboveShard { .. }))
    ));
    assert_eq!(builder.finish(0), before);
}

#[test]
fn transactions_see_the_rounds_environment() {
    let reads = [
        (keeps(&[op::GASLIMIT]), U256::from(120_000_000)),
        (keeps(&[op::NUMBER]), U256::from(7)),
        (keeps(&[op::TIMESTAMP]), U256::from(1_700_000_000u64)),
        (keeps(&[op::BASEFEE]), U256::from(BASE_FEE)),
        (keeps(&[op::CHAINID]), U256::from(CHAIN_ID)),
        (keeps(&[op::DIFFICULTY]), U256::from_be_bytes([0x5a; 32])),
        (keeps(&[op::COINBASE]), word(BENEFICIARY)),
        (keeps(&[op::PUSH1, 4, op::BLOCKHASH]), U256::from(0x44)),
        (keeps(&[op::BLOBBASEFEE]), U256::from(1)),
    ];
    let contracts: Vec<(Address, Vec<u8>)> = (0u8..)
        .zip(&reads)
        .map(|(i, (code, _))| (Address::repeat_byte(0xd0 + i), code.clone()))
        .collect();
    let mut view = view(&[1], &contracts);
    view.set_block_hash(4, B256::with_last_byte(0x44));
    let mut builder = builder(&view);
    for (nonce, (at, _)) in (0..).zip(&contracts) {
        include(&mut builder, &invoke(1, nonce, *at, &[]), true);
    }
    let diff = builder.diff();
    for ((at, _), (code, seen)) in contracts.iter().zip(&reads) {
        assert_eq!(of(&diff, *at).slots[&U256::ZERO], *seen, "{code:?}");
    }
}

#[test]
fn receipts_count_within_the_shard() {
    let mut accounts = BTreeMap::from([(sender(1), funded(10))]);
    let mut token = contract(&token());
    token.storage.insert(word(sender(1)), U256::from(100));
    accounts.insert(OTHER, token);
    let view = view_of(accounts);
    let mut builder = builder(&view);
    let a = include(&mut builder, &transfer(1, 0, somebody(9), 1), true);
    let send = [word(somebody(8)), U256::from(40)];
    let b = include(&mut builder, &invoke(1, 1, OTHER, &send), true);
    let too_much = [word(somebody(8)), U256::from(61)];
    let c = include(&mut builder, &invoke(1, 2, OTHER, &too_much), false);
    let shard = builder.finish(0);
    let cumulative: Vec<u64> = shard
        .body
        .receipts
        .iter()
        .map(|r| r.cumulative_gas)
        .collect();
    assert_eq!(cumulative, [a, a + b, a + b + c]);
    assert_eq!(shard.header.log_count, 1);
    let log = &shard.body.receipts[1].logs[0];
    assert_eq!(log.address, OTHER);
    assert_eq!(log.topics, [somebody(8).into_word()]);
    assert_eq!(shard.body.receipts[1].tx_type, 2);
    assert_eq!(of(&shard.body.diff, OTHER).slots.len(), 2);
}

#[test]
fn a_state_that_cannot_be_read_costs_nothing_but_time() {
    let inner = view(&[1, 2], &[(AT, setter())]);
    let transactions = [
        transfer(1, 0, somebody(9), 1),
        invoke(2, 0, AT, &[U256::from(1), U256::from(2)]),
        invoke(1, 1, AT, &[U256::from(3), U256::from(4)]),
    ];
    let mut steady = builder(&inner);
    let flaky = Flaky {
        inner: inner.clone(),
        reads_left: AtomicUsize::new(0),
    };
    let mut shaky = Builder::new(rules(), environment(), &flaky);
    let mut failures = 0;
    for transaction in &transactions {
        include(&mut steady, transaction, true);
        while shaky.push(transaction).is_err() {
            failures += 1;
            // One more read each time: it fails at every place that there is.
            flaky.reads_left.store(1, Ordering::Relaxed);
        }
    }
    assert!(failures >= 5, "{failures} failures");
    assert_eq!(shaky.finish(0), steady.finish(0));
}

#[test]
fn the_shards_message_is_bounded() {
    // Half a megabyte of log for 4.5 million gas; 32 such logs are more than a message may carry.
    let code = vec![op::PUSH3, 0x08, 0, 0, op::PUSH1, 0, op::LOG0];
    let view = view(&[1], &[(AT, code)]);
    let rules = Rules {
        shard_gas_limit: 1 << 30,
        ..rules()
    };
    let mut builder = Builder::new(rules, environment(), &view);
    for nonce in 0..40 {
        let mut tx = plain(nonce, TxKind::Call(AT), 0, vec![]);
        tx.gas_limit = 16_000_000;
        let push = builder.push(&sign(1, tx)).expect("readable");
        if push == Push::Full {
            assert!(nonce > 25, "full too early: {nonce}");
            return;
        }
        assert!(push.is_included(), "{push:?}");
    }
    panic!("never full");
}
