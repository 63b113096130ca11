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

/// The same accounts on a chain that differs in everything that the other one leaves at zero.
fn fixed_genesis() -> Genesis {
    let mut genesis = genesis();
    let fixed = FixedEnvironment {
        environment: Environment {
            number: 19_426_587,
            timestamp: 1_710_338_135,
            base_fee: 63_000_000_000,
            prev_randao: B256::repeat_byte(0xaa),
            gas_limit: 30_000_000,
            beneficiary: Address::repeat_byte(0xbb),
        },
        block_hashes: BTreeMap::from([
            (19_426_585, B256::repeat_byte(0xcc)),
            (19_426_586, B256::repeat_byte(0xdd)),
        ]),
    };
    genesis.config = ChainConfig {
        lock_rule: LockRule::Strict,
        seconds_per_slot: 12,
        spec: Spec::Cancun,
        fixed: Some(fixed),
        ..genesis.config
    };
    genesis
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
        (
            "empty shard",
            Shard::empty(3).hash,
            "0xf094a273dd592ddd34b600a74d6e0e007380dbcdf009d3c4d566bbed883f08ca",
        ),
        (
            "shard",
            shard().hash,
            "0x7e0244b588f1dfdaf514c54141f067fd17b13dbc178571c92941e56dc5b02657",
        ),
        (
            "diff root",
            diff().root(LockRule::Commuting),
            "0x72f70b7b542334409485cd8a1990624c0c089d97a7634cb4d5b1d94f24f69e91",
        ),
        (
            "strict diff root",
            diff().root(LockRule::Strict),
            "0x4aa8f75a04156036918a7460527e24142c6e44054916460399ff735e886636dd",
        ),
        (
            "root of no change",
            Diff::default().root(LockRule::Strict),
            "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421",
        ),
        (
            "ordered root",
            ordered_root(&[vec![1u8], vec![2; 40]]),
            "0x40ddf6cf0dc48c195e48940c574c33b1cdec087b68927aac3efd27efb3bed5f9",
        ),
        (
            "root of hashes",
            ordered_root_of_hashes(&[B256::repeat_byte(1), B256::repeat_byte(2)]),
            "0x082c9a6b26312e56d39262f5deeffa64f91a695fc20207a41ffa99d56bfa326b",
        ),
        (
            "genesis commitment",
            genesis().commitment(),
            "0x276c438e7c064434b3ab5408aa78478844acde6411267ce759b3efefa92e48a0",
        ),
        (
            "commitment of a strict chain with a fixed environment",
            fixed_genesis().commitment(),
            "0xc49f7b68348d7d34a3686a9e14876dfc4cd5b4b61621ff5c8a2f4a38e38d12ff",
        ),
        (
            "genesis hash",
            genesis().header().hash(),
            "0x224e04b9e39f0b2a72f87731e4221abea28052833ad2438d0481263f8cd4c310",
        ),
        (
            "block hash",
            block().hash(),
            "0x8abc51e83bdc492b56e136308d45c0e1c4eebc39a89c9210e9a2e1d463fbeb9f",
        ),
        (
            "prevrandao",
            prev_randao(B256::repeat_byte(1), 2),
            "0xe2a5e7e98d63a360a16d1c74e82370493b46d7645cc1680ff488191157cac71c",
        ),
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
fn a_genesis_survives_the_wire() {
    let genesis = genesis();
    assert_eq!(
        Genesis::try_from(&v1::Genesis::from(&genesis)).unwrap(),
        genesis
    );
    let mut wire = v1::Genesis::from(&genesis);
    wire.accounts[0].storage[0].value.clear();
    let error = Genesis::try_from(&wire).unwrap_err();
    assert_eq!(error.field, "accounts[0].storage");
}

#[test]
fn any_ethereum_client_computes_the_same_block_hash() {
    for header in [block(), genesis().header()] {
        assert_eq!(header.hash(), alloy(&header).hash_slow());
    }
}

proptest::proptest! {
    #[test]
    fn base_fee_is_eip_1559s(base_fee in 0u64..1 << 50, gas_limit in 1u64 << 24..1 << 40, used in 0u64..=1_000_000) {
        let gas_used = (u128::from(gas_limit) * u128::from(used) / 1_000_000) as u64;
        let parent = Header { base_fee, gas_limit, gas_used, ..Header::default() };
        let params = alloy_eips::eip1559::BaseFeeParams::ethereum();
        let expected = alloy_eips::eip1559::calc_next_block_base_fee(gas_used, gas_limit, base_fee, params);
        proptest::prop_assert_eq!(config().next_base_fee(&parent), expected);
    }

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
