//! Real blocks, where the folder is there; and the form of their files.

use super::super::mainnet::{MainnetBlock, MainnetError, spec_of};
use super::super::{groups, sequential};
use super::*;
use flate2::{Compression, write::GzEncoder};
use std::io::Write;
use std::path::PathBuf;
use troika_proto::Diff;

/// The block files, or none with a note.
fn files() -> Vec<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/mainnet-blocks");
    let folder = std::env::var_os("TROIKA_MAINNET_BLOCKS").map_or(beside, PathBuf::from);
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|e| e.path())
        .filter(|p| p.to_string_lossy().ends_with(".json.gz"))
        .collect();
    files.sort();
    if files.is_empty() {
        eprintln!("skipped: no block files in {}", folder.display());
    }
    files
}

#[test]
fn real_blocks_use_exactly_the_headers_gas_and_one_shard_is_like_the_whole_block() {
    for file in files() {
        let block = MainnetBlock::read(&file).expect("a block file");
        let (rules, view) = (block.rules(LockRule::Commuting), block.view());
        let environment = &block.environment;
        let all = &block.transactions;
        let run = sequential::run(&rules, environment, all, &view).expect("readable");
        let number = environment.number;
        assert_eq!(run.gas_used(), block.gas_used, "block {number}");

        let mut builder = Builder::new(rules.clone(), environment.clone(), &view);
        let mut left_out = Vec::new();
        builder
            .push_all(all, |transaction, push| {
                if !push.is_included() {
                    left_out.push((transaction.hash, push));
                }
                true
            })
            .expect("readable");
        // A beneficiary that spends the block's own fees is the one thing that a shard does not allow.
        if !left_out.is_empty() {
            let spends = |t: &&Arc<Transaction>| t.sender == environment.beneficiary;
            let spenders = all.iter().filter(spends).count();
            assert!(left_out.len() <= spenders, "block {number}: {left_out:?}");
            continue;
        }
        let outcomes: Vec<(bool, u64)> = builder.outcomes().collect();
        let expected: Vec<(bool, u64)> = run
            .outcomes
            .iter()
            .flatten()
            .map(|o| (o.success, o.gas))
            .collect();
        assert_eq!(outcomes, expected, "block {number}");
        assert!(!builder.diff().makes_money(builder.fees()));
        let mut parallel = view.clone();
        parallel.apply(&builder.diff()).expect("fits");
        parallel
            .credit(environment.beneficiary, builder.fees())
            .expect("fits");
        let mut one_by_one = view.clone();
        one_by_one.apply(&run.diff).expect("fits");
        assert!(parallel.same_state(&one_by_one), "block {number}");
    }
}

#[test]
fn real_blocks_fall_apart_into_more_groups_where_credits_commute() {
    for file in files().into_iter().take(3) {
        let block = MainnetBlock::read(&file).expect("a block file");
        let view = block.view();
        let largest = |rule| {
            let rules = block.rules(rule);
            let all = &block.transactions;
            let run = sequential::run(&rules, &block.environment, all, &view).expect("readable");
            let groups = groups::groups_of(&run.outcomes);
            let total: u64 = groups.iter().map(|g| g.gas).sum();
            assert_eq!(total, block.gas_used);
            groups[0].gas
        };
        assert!(largest(LockRule::Commuting) <= largest(LockRule::Strict));
    }
}

#[test]
fn a_benchmark_accounts_for_the_whole_block() {
    for file in files().into_iter().skip(11).take(1) {
        let block = MainnetBlock::read(&file).expect("a block file");
        let options = bench::Options {
            runs: 1,
            ..bench::Options::default()
        };
        let figures = bench::execute(&block, options).expect("readable");
        assert_eq!(figures.transactions, block.transactions.len());
        assert_eq!(figures.gas, block.gas_used);
        assert!(figures.parallelism_bound >= 1.0 && !figures.revm.is_zero());
    }
}

#[test]
fn the_spec_follows_from_number_and_time() {
    let at = |number, timestamp| spec_of(number, timestamp).map(Spec::name);
    assert_eq!(at(12_243_999, 1_618_000_000), None);
    assert_eq!(at(12_244_000, 1_618_000_000), Some("berlin"));
    assert_eq!(at(13_217_637, 1_631_500_000), Some("london"));
    assert_eq!(at(15_537_393, 1_663_224_100), Some("london"));
    assert_eq!(at(15_537_394, 1_663_224_162), Some("paris"));
    assert_eq!(at(17_034_870, 1_681_338_455), Some("shanghai"));
    assert_eq!(at(19_426_586, 1_710_338_134), Some("shanghai"));
    assert_eq!(at(19_426_587, 1_710_338_135), Some("cancun"));
    assert_eq!(at(22_431_084, 1_746_612_311), Some("prague"));
    assert_eq!(at(23_935_694, 1_764_798_551), Some("osaka"));
}

fn gzip(json: &serde_json::Value) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(json.to_string().as_bytes()).expect("memory");
    gzip.finish().expect("memory")
}

fn file(pre_state: serde_json::Value) -> Vec<u8> {
    let hash = B256::repeat_byte(1);
    gzip(&serde_json::json!({
        "block": {
            "hash": hash, "miner": somebody(7), "number": "0xc9af65", "gasLimit": "0x1c9c380",
            "gasUsed": "0x0", "timestamp": "0x613f52f2", "difficulty": "0x1ee77dad40b25c",
            "mixHash": hash, "baseFeePerGas": "0x13691f2863", "transactions": []
        },
        "pre_state": pre_state,
        "codes": { format!("{}", alloy_primitives::keccak256([0x00])): "0x00" },
        "block_hashes": { "13217636": hash },
    }))
}

#[test]
fn a_file_becomes_a_genesis_without_what_does_not_exist() {
    let code = alloy_primitives::keccak256([0x00]);
    let bytes = file(serde_json::json!({
        somebody(1).to_string(): { "balance": "0x0", "nonce": 0, "storage": { "0x1": "0x2" } },
        somebody(2).to_string(): { "balance": "0x5", "nonce": 3, "storage": {} },
        somebody(3).to_string(): {
            "balance": "0x0", "nonce": 1, "code_hash": code, "storage": { "0x1": "0x0", "0x2": "0x9" }
        },
        somebody(4).to_string(): { "balance": "0x5", "nonce": 0, "storage": { "0x1": "0x2" } },
    }));
    let block = MainnetBlock::parse(bytes.as_slice()).expect("a block file");
    let genesis = block.genesis(8, LockRule::Strict);
    assert!(!genesis.accounts.contains_key(&somebody(1)));
    assert_eq!(genesis.accounts[&somebody(2)].nonce, 3);
    let slots = BTreeMap::from([(U256::from(2), U256::from(9))]);
    assert_eq!(genesis.accounts[&somebody(3)].storage, slots);
    assert!(genesis.accounts[&somebody(4)].storage.is_empty());
    assert_eq!(genesis.config.shards, 8);
    assert_eq!(genesis.config.shard_gas_limit, 30_000_000);
    let fixed = genesis.config.fixed.as_ref().expect("fixed");
    assert_eq!(fixed.environment.base_fee, 0x13691f2863);
    assert_eq!(
        U256::from_be_bytes(fixed.environment.prev_randao.0),
        U256::from(0x1ee77dad40b25cu64),
        "before the merge it carries the difficulty"
    );
    assert_eq!(block.rules(LockRule::Strict), Rules::of(&genesis.config));
    let hash = MemoryView::of(&genesis).block_hash(13_217_636);
    assert_eq!(hash, Ok(B256::repeat_byte(1)));
}

#[test]
fn a_file_that_lacks_something_is_refused_by_name() {
    let missing = file(serde_json::json!({
        somebody(3).to_string(): { "balance": "0x0", "nonce": 1, "code_hash": B256::repeat_byte(9), "storage": {} }
    }));
    let error = MainnetBlock::parse(missing.as_slice()).expect_err("refused");
    assert!(matches!(error, MainnetError::Code { .. }), "{error}");
    let error = MainnetBlock::parse(&b"not gzip"[..]).expect_err("refused");
    assert!(matches!(error, MainnetError::Io(_)), "{error}");
    let error = MainnetBlock::parse(gzip(&serde_json::json!({})).as_slice()).expect_err("refused");
    assert!(error.to_string().contains("block"), "{error}");
}

#[test]
fn the_beneficiary_is_paid_at_once_in_sequence_and_its_fee_is_no_write() {
    let view = view(&[1, 2], &[]);
    let environment = Environment {
        beneficiary: sender(3),
        ..environment()
    };
    // The beneficiary has nothing but the fees of the first two.
    let spend = {
        let mut tx = plain(0, TxKind::Call(somebody(9)), 1, vec![]);
        tx.gas_limit = 21_000;
        tx.max_fee_per_gas = u128::from(BASE_FEE);
        tx.max_priority_fee_per_gas = 0;
        sign(3, tx)
    };
    let all = [
        transfer(1, 0, somebody(9), 1),
        transfer(2, 0, somebody(9), 1),
        spend,
    ];
    for rules in [rules(), strict()] {
        let run = sequential::run(&rules, &environment, &all, &view).expect("readable");
        let executed: Vec<_> = run.outcomes.iter().flatten().collect();
        assert_eq!(executed.len(), 3);
        let key = troika_proto::LockKey::account(sender(3));
        assert!(!executed[0].writes.contains(&key));
        assert!(executed[2].writes.contains(&key));
        // In a shard the fees come too late for it.
        let mut builder = Builder::new(rules, environment.clone(), &view);
        builder.push_all(&all, |_, _| true).expect("readable");
        assert_eq!(builder.len(), 2);
        let empty: &Diff = &Diff::default();
        assert_ne!(&builder.diff(), empty);
    }
}

#[test]
fn a_blob_transaction_runs_as_a_call_in_which_blobhash_works() {
    let hash = B256::right_padding_from(&[1, 2, 3]);
    let code = keeps(&[op::PUSH1, 0, op::BLOBHASH]);
    let view = view(&[1], &[(somebody(9), code)]);
    let transaction = sign(
        1,
        alloy_consensus::TxEip4844 {
            chain_id: CHAIN_ID,
            gas_limit: 100_000,
            max_fee_per_gas: u128::from(BASE_FEE) + TIP,
            max_priority_fee_per_gas: TIP,
            max_fee_per_blob_gas: 10,
            to: somebody(9),
            blob_versioned_hashes: vec![hash],
            ..Default::default()
        },
    );
    let rules = Rules {
        allow_blobs: true,
        ..rules()
    };
    let mut builder = Builder::new(rules, environment(), &view);
    let gas = include(&mut builder, &transaction, true);
    let diff = builder.diff();
    let seen = diff.accounts[&somebody(9)].slots[&U256::ZERO];
    assert_eq!(seen, U256::from_be_bytes(hash.0));
    let burned = U256::from(gas) * U256::from(BASE_FEE) + U256::from(131_072);
    assert_eq!(builder.burned(), burned);
    let fall = diff.accounts[&sender(1)].balance.amount();
    assert_eq!(fall, builder.fees() + burned);
}
