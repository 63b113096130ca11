//! Every checked type survives the wire, and what is malformed is refused with its field's name.

use proptest::prelude::*;
use std::collections::BTreeMap;
use troika_proto::*;

fn number() -> impl Strategy<Value = U256> {
    prop_oneof![
        any::<u64>().prop_map(U256::from),
        any::<[u8; 32]>().prop_map(U256::from_be_bytes)
    ]
}

fn account() -> impl Strategy<Value = AccountDiff> {
    let slots = proptest::collection::btree_map(number(), number(), 0..4);
    (
        any::<bool>(),
        number(),
        proptest::option::of(1u64..),
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)),
        slots,
    )
        .prop_map(|(fell, amount, nonce, code, slots)| AccountDiff {
            balance: if fell {
                Delta::fall(amount)
            } else {
                Delta::rise(amount)
            },
            nonce,
            code: code.map(Into::into),
            slots,
        })
        .prop_filter("changes something", |diff| !diff.is_empty())
}

fn diff() -> impl Strategy<Value = Diff> {
    let address = any::<[u8; 20]>().prop_map(Address::from);
    proptest::collection::btree_map(address, account(), 0..5).prop_map(|accounts| Diff { accounts })
}

proptest! {
    #[test]
    fn diffs_survive(diff in diff()) {
        prop_assert_eq!(Diff::try_from(&v1::Diff::from(&diff)).unwrap(), diff);
    }

    #[test]
    fn shards_survive_and_check(diff in diff(), index in any::<u32>(), fees in number(), tx in proptest::collection::vec(1u8.., 1..40)) {
        let body = ShardBody {
            transactions: vec![tx.into()],
            receipts: vec![Receipt { tx_type: 2, success: true, cumulative_gas: 9, logs: vec![Log::default()] }],
            diff,
        };
        let shard = Shard::new(index, body, fees, LockRule::Commuting);
        let header = ShardHeader::try_from(&v1::ShardHeader::from(&shard.header)).unwrap();
        let body = ShardBody::try_from(&v1::ShardBody::from(&shard.body)).unwrap();
        prop_assert_eq!(Shard::check(header.clone(), body.clone(), LockRule::Commuting).unwrap(), shard);
        let wrong = ShardHeader { gas_used: 8, ..header };
        let fault = Shard::check(wrong, body, LockRule::Commuting).unwrap_err();
        prop_assert!(fault.to_string().contains("gas_used"));
    }

    #[test]
    fn headers_and_keys_survive(n in any::<[u64; 5]>(), hash in any::<[u8; 32]>(), slot in proptest::option::of(number())) {
        let header = Header {
            number: n[0], gas_limit: n[1], gas_used: n[2], timestamp: n[3], base_fee: n[4],
            shards_root: B256::from(hash), ..Header::default()
        };
        prop_assert_eq!(Header::try_from(&v1::Header::from(&header)).unwrap(), header);
        let key = LockKey { address: Address::repeat_byte(hash[0]), slot };
        prop_assert_eq!(LockKey::try_from(&v1::LockKey::from(key)).unwrap(), key);
    }
}

#[test]
fn a_bloom_without_a_bit_is_nothing_on_the_wire_and_may_be_written_out() {
    let empty = Header::default();
    let mut wire = v1::Header::from(&empty);
    assert!(wire.logs_bloom.is_empty());
    wire.logs_bloom = troika_proto::wire::whole_bloom(&wire.logs_bloom);
    assert_eq!(wire.logs_bloom.len(), 256);
    assert_eq!(Header::try_from(&wire).unwrap(), empty);

    let mut full = Header::default();
    full.logs_bloom.0[255] = 1;
    let mut wire = v1::Header::from(&full);
    assert_eq!(wire.logs_bloom.len(), 256);
    assert_eq!(Header::try_from(&wire).unwrap(), full);
    wire.logs_bloom.truncate(255);
    let error = Header::try_from(&wire).unwrap_err();
    assert_eq!(error.field, "logs_bloom");
}

fn wire() -> v1::Diff {
    let paid = AccountDiff {
        balance: Delta::rise(U256::from(1)),
        ..AccountDiff::default()
    };
    let accounts = [1, 2].map(|n| (Address::repeat_byte(n), paid.clone()));
    (&Diff {
        accounts: BTreeMap::from(accounts),
    })
        .into()
}

#[test]
fn malformed_diffs_are_refused_naming_the_field() {
    type Change = fn(&mut v1::Diff);
    let wrong: [(&str, Change); 7] = [
        ("accounts[0].address", |d| {
            d.accounts[0].address = vec![1; 19].into();
        }),
        ("accounts[1].address", |d| d.accounts.swap(0, 1)),
        ("accounts[0].amount", |d| {
            d.accounts[0].amount = vec![0, 1].into();
        }),
        ("accounts[0].amount", |d| {
            d.accounts[0].amount = vec![1; 33].into();
        }),
        ("accounts[0].fell", |d| {
            d.accounts[0].fell = true;
            d.accounts[0].amount.clear();
        }),
        ("accounts[0].nonce", |d| d.accounts[0].nonce = Some(0)),
        ("accounts[0].address", |d| d.accounts[0].amount.clear()),
    ];
    for (field, change) in wrong {
        let mut diff = wire();
        change(&mut diff);
        assert_eq!(Diff::try_from(&diff).unwrap_err().field, field);
    }
}
