//! Fixed vectors: a hash that moves breaks every chain there is.

use std::collections::BTreeMap;
use troika_proto::chain::prev_randao;
use troika_proto::*;

fn config() -> ChainConfig {
    ChainConfig {
        chain_id: 1337,
        shards: 2,
        shard_gas_limit: 1 << 24,
        lock_rule: LockRule::Commuting,
        elasticity: 2,
        beneficiary: Address::repeat_byte(0xfe),
        propose_after_ms: 100,
        seal_after_ms: 500,
        seconds_per_slot: 0,
        spec: Spec::Osaka,
        genesis_base_fee: 1_000_000_000,
        genesis_timestamp: 1_700_000_000,
        registry: Address::ZERO,
        epoch_length: 0,
        share_cap: 0,
        fixed: None,
    }
}

fn genesis() -> Genesis {
    let account = GenesisAccount {
        balance: U256::from(10).pow(U256::from(18)),
        nonce: 1,
        code: vec![0x60, 0x00].into(),
        storage: BTreeMap::from([(U256::from(1), U256::from(2))]),
    };
    Genesis {
        config: config(),
        accounts: BTreeMap::from([(Address::repeat_byte(1), account)]),
    }
}

fn diff() -> Diff {
    let payer = AccountDiff {
        balance: Delta::fall(U256::from(100)),
        nonce: Some(1),
        code: Some(vec![0xef].into()),
        slots: BTreeMap::from([(U256::from(7), U256::ZERO), (U256::from(8), U256::from(9))]),
    };
    let paid = AccountDiff {
        balance: Delta::rise(U256::from(60)),
        ..AccountDiff::default()
    };
    let slot_only = AccountDiff {
        slots: BTreeMap::from([(U256::from(1), U256::from(2))]),
        ..AccountDiff::default()
    };
    Diff {
        accounts: BTreeMap::from([
            (Address::repeat_byte(1), payer),
            (Address::repeat_byte(2), paid),
            (Address::repeat_byte(3), slot_only),
        ]),
    }
}

fn shard() -> Shard {
    let log = Log {
        address: Address::repeat_byte(4),
        topics: vec![B256::repeat_byte(5)],
        data: vec![6].into(),
    };
    let body = ShardBody {
        transactions: vec![vec![1, 2, 3].into()],
        receipts: vec![Receipt {
            tx_type: 2,
            success: true,
            cumulative_gas: 21_000,
            logs: vec![log],
        }],
        diff: diff(),
    };
    Shard::new(1, body, U256::from(12), LockRule::Commuting)
}

fn block() -> Header {
    let shards = [Shard::empty(0), shard()];
    let hashes = shards.each_ref().map(|shard| shard.hash);
    let totals = BlockTotals::of(shards.iter().map(|shard| &shard.header), &hashes);
    let parent = genesis().header();
    let environment = config().environment(&parent, parent.hash(), 1_700_000_012_345);
    Header {
        parent_hash: parent.hash(),
        beneficiary: environment.beneficiary,
        transactions_root: totals.transactions_root,
        receipts_root: totals.receipts_root,
        logs_bloom: totals.logs_bloom,
        number: environment.number,
        gas_limit: environment.gas_limit,
        gas_used: totals.gas_used,
        timestamp: environment.timestamp,
        shards_root: totals.shards_root,
        prev_randao: environment.prev_randao,
        base_fee: environment.base_fee,
        ..Header::default()
    }
}

#[test]
fn hashes_never_move() {
    let vectors = [
        ("empty shard", Shard::empty(3).hash, "@0"),
        ("shard", shard().hash, "@1"),
        ("diff root", diff().root(LockRule::Commuting), "@2"),
        ("strict diff root", diff().root(LockRule::Strict), "@3"),
        (
            "root of no change",
            Diff::default().root(LockRule::Strict),
            "@4",
        ),
        (
            "ordered root",
            ordered_root(&[vec![1u8], vec![2; 40]]),
            "@5",
        ),
        (
            "root of hashes",
            ordered_root_of_hashes(&[B256::repeat_byte(1), B256::repeat_byte(2)]),
            "@6",
        ),
        ("genesis commitment", genesis().commitment(), "@7"),
        ("genesis hash", genesis().header().hash(), "@8"),
        ("block hash", block().hash(), "@9"),
        ("prevrandao", prev_randao(B256::repeat_byte(1), 2), "@10"),
    ];
    let moved: Vec<_> = vectors
        .iter()
        .filter(|(_, hash, expected)| hash.to_string() != *expected)
        .collect();
    assert!(moved.is_empty(), "{moved:#?}");
}

fn alloy(header: &Header) -> alloy_consensus::Header {
    let ommers = alloy_consensus::EMPTY_OMMER_ROOT_HASH;
    alloy_consensus::Header {
        parent_hash: header.parent_hash,
        ommers_hash: ommers,
        beneficiary: header.beneficiary,
        state_root: header.state_root,
        transactions_root: header.transactions_root,
        receipts_root: header.receipts_root,
        logs_bloom: header.logs_bloom,
        number: header.number,
        gas_limit: header.gas_limit,
        gas_used: header.gas_used,
        timestamp: header.timestamp,
        extra_data: Bytes::copy_from_slice(header.shards_root.as_slice()),
        mix_hash: header.prev_randao,
        base_fee_per_gas: Some(header.base_fee),
        withdrawals_root: Some(EMPTY_ROOT),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(header.parent_beacon_root),
        requests_hash: Some(
            "0xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
                .parse()
                .unwrap(),
        ),
        ..alloy_consensus::Header::default()
    }
}

#[test]
fn any_ethereum_client_computes_the_same_block_hash() {
    for header in [block(), genesis().header()] {
        assert_eq!(header.hash(), alloy(&header).hash_slow());
    }
}

proptest::proptest! {
    #[test]
    fn merge_is_free_of_order(picks in proptest::collection::vec((0u8..4, 1u64..50), 1..12)) {
        // Credits from anywhere, and each shard's own locked account.
        let shards: Vec<Diff> = picks.iter().enumerate().map(|(i, (to, amount))| {
            let own = AccountDiff { nonce: Some(1), balance: Delta::fall(U256::from(*amount)), ..AccountDiff::default() };
            let credit = AccountDiff { balance: Delta::rise(U256::from(*amount)), ..AccountDiff::default() };
            Diff { accounts: BTreeMap::from([
                (Address::repeat_byte(100 + i as u8), own),
                (Address::repeat_byte(*to), credit),
            ]) }
        }).collect();
        let sum = |order: &mut dyn Iterator<Item = &Diff>| {
            let mut sum = Diff::default();
            for diff in order { sum.merge(diff).unwrap(); }
            sum
        };
        proptest::prop_assert_eq!(sum(&mut shards.iter()), sum(&mut shards.iter().rev()));
    }

    #[test]
    fn a_fall_below_zero_has_no_result(balance in 0u64.., over in 1u64..) {
        let delta = Delta::fall(U256::from(balance) + U256::from(over));
        proptest::prop_assert_eq!(delta.apply(U256::from(balance)), None);
        proptest::prop_assert_eq!(Delta::rise(U256::MAX).apply(U256::from(over)), None);
    }
}
