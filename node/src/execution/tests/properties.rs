//! What holds for any list of transactions.

use super::*;
use alloy_primitives::U512;
use proptest::prelude::*;
use proptest::test_runner::Config;
use troika_proto::{Diff, LockKey};

const SENDERS: u8 = 6;
const TOKEN: Address = Address::repeat_byte(0xc0);
const SETTER: Address = Address::repeat_byte(0xc1);
const PAYER: Address = Address::repeat_byte(0xc2);
const REGRETTER: Address = Address::repeat_byte(0xc3);

/// What a random sender does.
#[derive(Clone, Debug)]
enum Act {
    Pay { to: u8, wei: u64 },
    Send { to: u8, tokens: u64 },
    Set { key: u64, value: u64 },
    Spend { to: u8, wei: u64 },
    Regret,
    Deploy,
    Vanish,
    Gap,
}

fn act() -> impl Strategy<Value = (u8, Act)> {
    let who = 1..=SENDERS;
    let act = prop_oneof![
        4 => (who.clone(), 0..1000u64).prop_map(|(to, wei)| Act::Pay { to, wei }),
        4 => (who.clone(), 0..60u64).prop_map(|(to, tokens)| Act::Send { to, tokens }),
        3 => (0..5u64, 0..3u64).prop_map(|(key, value)| Act::Set { key, value }),
        3 => (who.clone(), 0..40u64).prop_map(|(to, wei)| Act::Spend { to, wei }),
        1 => Just(Act::Regret),
        1 => Just(Act::Deploy),
        1 => Just(Act::Vanish),
        1 => Just(Act::Gap),
    ];
    (who, act)
}

/// An envelope that nobody signed: nothing here looks at signatures, and signing costs more than all the rest.
fn unsigned(
    n: u8,
    nonce: u64,
    to: TxKind,
    value: u64,
    words: &[U256],
    init: Vec<u8>,
) -> Arc<Transaction> {
    let input: Vec<u8> = if to.is_create() {
        init
    } else {
        words.iter().flat_map(|w| w.to_be_bytes::<32>()).collect()
    };
    let mut tx = plain(nonce, to, value, input);
    tx.max_priority_fee_per_gas = TIP + u128::from(n);
    tx.max_fee_per_gas += u128::from(n);
    let signature = Signature::test_signature();
    let raw = Envelope::from(tx.into_signed(signature)).encoded_2718();
    Arc::new(Transaction::with_sender(raw.into(), somebody(n)).expect("an envelope"))
}

fn transactions(acts: Vec<(u8, Act)>) -> Vec<Arc<Transaction>> {
    let mut nonces = [0u64; SENDERS as usize + 1];
    let mut all = Vec::new();
    for (n, act) in acts {
        let nonce = &mut nonces[usize::from(n)];
        let call = |to, words: &[U256]| unsigned(n, *nonce, TxKind::Call(to), 0, words, vec![]);
        let creation = |init| unsigned(n, *nonce, TxKind::Create, 0, &[], init);
        let transaction = match act {
            Act::Pay { to, wei } => {
                let to = if wei % 3 == 0 { PAYER } else { somebody(to) };
                unsigned(n, *nonce, TxKind::Call(to), wei, &[], vec![])
            }
            Act::Send { to, tokens } => call(TOKEN, &[word(somebody(to)), U256::from(tokens)]),
            Act::Set { key, value } => call(SETTER, &[U256::from(key), U256::from(value)]),
            Act::Spend { to, wei } => call(PAYER, &[word(somebody(to)), U256::from(wei)]),
            Act::Regret => call(REGRETTER, &[]),
            Act::Deploy => creation(deploy(&setter())),
            Act::Vanish => creation(suicidal()),
            Act::Gap => {
                *nonce += 1;
                continue;
            }
        };
        *nonce += 1;
        all.push(transaction);
    }
    all
}

fn parent() -> MemoryView {
    let mut accounts = BTreeMap::new();
    let mut token = contract(&token());
    for n in 1..=SENDERS {
        // The last one is poor: some of its transactions are refused.
        let ether = if n == SENDERS { 0 } else { 10 };
        let mut account = funded(ether);
        account.balance += U256::from(1_500_000_000_000_000u64);
        accounts.insert(somebody(n), account);
        token.storage.insert(word(somebody(n)), U256::from(50));
    }
    accounts.insert(TOKEN, token);
    accounts.insert(SETTER, contract(&setter()));
    accounts.insert(REGRETTER, contract(&regretter()));
    let mut payer = contract(&payer());
    payer.balance = U256::from(100);
    accounts.insert(PAYER, payer);
    view_of(accounts)
}

fn build<'v>(view: &'v MemoryView, all: &[Arc<Transaction>]) -> Builder<&'v MemoryView> {
    let mut builder = Builder::new(rules(), environment(), view);
    for transaction in all {
        builder.push(transaction).expect("readable");
    }
    builder
}

/// Falls minus rises: what left the accounts.
fn gone(diff: &Diff) -> U512 {
    let sum = |falls: bool| {
        let accounts = diff
            .accounts
            .values()
            .filter(|a| a.balance.is_fall() == falls);
        accounts.fold(U512::ZERO, |sum, a| sum + U512::from(a.balance.amount()))
    };
    sum(true) - sum(false)
}

proptest! {
    #![proptest_config(Config { cases: 64, ..Config::default() })]

    #[test]
    fn any_shard_executes_again_to_the_same_hash_and_money_is_conserved(
        acts in prop::collection::vec(act(), 0..40)
    ) {
        let view = parent();
        let builder = build(&view, &transactions(acts));
        let shard = builder.finish(2);
        let included: Vec<_> = builder.transactions().cloned().collect();
        let again = execute_shard(&rules(), &environment(), 2, &included, &view);
        prop_assert_eq!(again.as_ref(), Ok(&shard));
        prop_assert_eq!(gone(&shard.body.diff), U512::from(builder.fees() + builder.burned()));
        prop_assert!(!shard.body.diff.makes_money(builder.fees() + builder.burned()));
        // The next block's state: nothing in it is what rule 7 forbids, and no entry of the diff is empty.
        let mut next = view.clone();
        next.apply(&shard.body.diff).expect("covered");
        prop_assert!(shard.body.diff.accounts.values().all(|a| !a.is_empty()));
    }

    #[test]
    fn barring_is_like_never_having_pushed_what_fell_out(
        acts in prop::collection::vec(act(), 1..30),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
    ) {
        let view = parent();
        let mut builder = build(&view, &transactions(acts));
        let keys = builder.diff().lock_keys(LockRule::Commuting);
        if keys.is_empty() {
            return Ok(());
        }
        let barred: Vec<LockKey> = picks.iter().map(|i| *i.get(&keys)).collect();
        let before = builder.len();
        let removed = builder.bar(barred.clone());
        prop_assert_eq!(builder.len() + removed.len(), before);
        let held = builder.diff().lock_keys(LockRule::Commuting);
        prop_assert!(barred.iter().all(|key| !held.contains(key)));
        let left: Vec<_> = builder.transactions().cloned().collect();
        prop_assert_eq!(build(&view, &left).finish(0), builder.finish(0));
    }

    #[test]
    fn a_shards_locks_are_among_what_its_transactions_write(
        acts in prop::collection::vec(act(), 0..30)
    ) {
        let view = parent();
        let builder = build(&view, &transactions(acts));
        let written: std::collections::HashSet<LockKey> =
            builder.writes().into_iter().flatten().collect();
        for key in builder.diff().lock_keys(LockRule::Commuting) {
            prop_assert!(written.contains(&key), "{} is locked and written by nobody", key);
        }
    }
}

#[test]
fn a_shard_that_does_not_execute_names_the_transaction_and_why() {
    let view = parent();
    let pay = |n, nonce| unsigned(n, nonce, TxKind::Call(somebody(1)), 5, &[], vec![]);
    let (first, gap) = (pay(1, 0), pay(2, 1));
    let run = |all: &[Arc<Transaction>], rules: &Rules| {
        execute_shard(rules, &environment(), 0, all, &view)
    };
    let reason = Invalid::NonceTooHigh {
        expected: 0,
        found: 1,
    };
    assert_eq!(
        run(&[first.clone(), gap], &rules()),
        Err(ExecutionError::Transaction { index: 1, reason })
    );
    let tight = Rules {
        shard_gas_limit: 220_000,
        ..rules()
    };
    let full = Err(ExecutionError::Full {
        index: 1,
        gas_used: 21_000,
    });
    assert_eq!(run(&[first.clone(), pay(1, 1)], &tight), full);
    let down = Flaky {
        inner: view.clone(),
        reads_left: AtomicUsize::new(0),
    };
    let unavailable = execute_shard(&rules(), &environment(), 0, &[first], &down);
    assert!(matches!(
        unavailable,
        Err(ExecutionError::Unavailable { index: 0, .. })
    ));
    assert_eq!(
        run(&[], &rules()),
        Ok(troika_proto::Shard::empty(0)),
        "no transactions make the empty shard"
    );
}
