//! Contracts that are made and destroyed.

use super::*;

const AT: Address = Address::repeat_byte(0xc0);

fn before_cancun() -> Rules {
    Rules {
        spec: Spec::Shanghai,
        ..rules()
    }
}

#[test]
fn a_contract_made_and_destroyed_in_one_transaction_leaves_nothing() {
    let view = view(&[1], &[]);
    let mut builder = Builder::new(rules(), environment(), &view);
    include(&mut builder, &create(1, 0, suicidal()), true);
    let changed: Vec<Address> = builder.diff().accounts.into_keys().collect();
    assert_eq!(changed, [sender(1)]);
}

#[test]
fn before_cancun_a_contract_made_in_the_shard_may_be_destroyed_later_in_it() {
    let view = view(&[1], &[]);
    let mut builder = Builder::new(before_cancun(), environment(), &view);
    // Stores a word, then, called again with call data, destroys itself.
    let code = [
        &[op::CALLDATASIZE, op::PUSH1, 10, op::JUMPI][..],
        &[op::PUSH1, 7, op::PUSH1, 0, op::SSTORE, op::STOP][..],
        &[op::JUMPDEST, op::CALLER, op::SELFDESTRUCT][..],
    ]
    .concat();
    include(&mut builder, &create(1, 0, deploy(&code)), true);
    let at = sender(1).create(0);
    include(&mut builder, &invoke(1, 1, at, &[]), true);
    assert_eq!(builder.diff().accounts[&at].slots.len(), 1);
    include(&mut builder, &transfer(1, 2, at, 5), true);
    include(&mut builder, &invoke(1, 3, at, &[U256::ZERO]), true);
    let changed: Vec<Address> = builder.diff().accounts.into_keys().collect();
    assert_eq!(changed, [sender(1)]);
    // Ether sent there afterwards is a credit to an account without code.
    include(&mut builder, &transfer(1, 4, at, 6), true);
    assert!(builder.diff().accounts[&at].is_credit());
}

#[test]
fn before_cancun_destroying_an_older_contract_is_refused_with_the_reason() {
    let view = view(&[1], &[(AT, suicidal())]);
    let mut builder = Builder::new(before_cancun(), environment(), &view);
    let push = builder.push(&invoke(1, 0, AT, &[]));
    assert_eq!(push, Ok(Push::Drop(Invalid::DestroysOlder(AT))));
    assert!(builder.diff().is_empty());
    // It left no trace: the sender's nonce is free.
    include(&mut builder, &transfer(1, 0, somebody(9), 1), true);
}

#[test]
fn since_cancun_an_older_contract_only_sends_its_balance() {
    let mut view = view(&[1], &[(AT, suicidal())]);
    view.credit(AT, U256::from(5)).expect("fits");
    let mut builder = Builder::new(rules(), environment(), &view);
    include(&mut builder, &invoke(1, 0, AT, &[]), true);
    let diff = builder.diff();
    assert!(diff.accounts[&AT].balance.is_fall());
    assert_eq!(diff.accounts[&AT].code, None);
}

#[test]
fn an_emptied_account_is_gone_and_comes_back_as_new() {
    let mut view = view(&[1], &[]);
    view.credit(somebody(9), U256::from(1)).expect("fits");
    let mut builder = Builder::new(rules(), environment(), &view);
    include(&mut builder, &transfer(1, 0, somebody(9), 1), true);
    let mut next = view.clone();
    next.apply(&builder.diff()).expect("applies");
    assert_eq!(
        next.account(somebody(9)).map(|a| a.map(|a| a.balance)),
        Ok(Some(U256::from(2)))
    );
    // Touching nobody with nothing makes no account.
    let mut builder = Builder::new(rules(), environment(), &view);
    include(&mut builder, &transfer(1, 0, somebody(8), 0), true);
    assert!(!builder.diff().accounts.contains_key(&somebody(8)));
}
