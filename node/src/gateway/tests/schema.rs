//! The keys of answers, against the schemas of Ethereum's execution-apis; and the methods that no other test calls.

use super::*;
use serde_json::json;
use std::collections::BTreeSet;

const BLOCK: &[&str] = &[
    "baseFeePerGas",
    "blobGasUsed",
    "difficulty",
    "excessBlobGas",
    "extraData",
    "gasLimit",
    "gasUsed",
    "hash",
    "logsBloom",
    "miner",
    "mixHash",
    "nonce",
    "number",
    "parentBeaconBlockRoot",
    "parentHash",
    "receiptsRoot",
    "requestsHash",
    "sha3Uncles",
    "size",
    "stateRoot",
    "timestamp",
    "transactions",
    "transactionsRoot",
    "uncles",
    "withdrawals",
    "withdrawalsRoot",
];
/// Of type 2.
const TRANSACTION: &[&str] = &[
    "accessList",
    "blockHash",
    "blockNumber",
    "chainId",
    "from",
    "gas",
    "gasPrice",
    "hash",
    "input",
    "maxFeePerGas",
    "maxPriorityFeePerGas",
    "nonce",
    "r",
    "s",
    "to",
    "transactionIndex",
    "type",
    "value",
    "yParity",
];
const RECEIPT: &[&str] = &[
    "blockHash",
    "blockNumber",
    "contractAddress",
    "cumulativeGasUsed",
    "effectiveGasPrice",
    "from",
    "gasUsed",
    "logs",
    "logsBloom",
    "status",
    "to",
    "transactionHash",
    "transactionIndex",
    "type",
];
const LOG: &[&str] = &[
    "address",
    "blockHash",
    "blockNumber",
    "data",
    "logIndex",
    "removed",
    "topics",
    "transactionHash",
    "transactionIndex",
];
/// Keys that the schemas allow and do not require.
const OPTIONAL: &[&str] = &["blockTimestamp", "v"];

/// All keys of the schema are there, and none that it does not know.
fn assert_keys(what: &str, value: &Value, schema: &[&str]) {
    let object = value
        .as_object()
        .unwrap_or_else(|| panic!("{what}: {value}"));
    let keys: BTreeSet<&str> = object.keys().map(String::as_str).collect();
    let schema: BTreeSet<&str> = schema.iter().copied().collect();
    let missing: Vec<_> = schema.difference(&keys).collect();
    let unknown = keys
        .difference(&schema)
        .filter(|key| !OPTIONAL.contains(key));
    let unknown: Vec<_> = unknown.collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "{what}: without {missing:?}, with {unknown:?}"
    );
}

fn call(nonce: u64) -> TxEip1559 {
    TxEip1559 {
        gas_limit: 100_000,
        to: TxKind::Call(fake::CONTRACT),
        value: U256::ZERO,
        ..transfer(nonce)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_keys_of_the_schemas() {
    let setup = Setup::new().await;
    let tx = sign(1, call(0));
    setup.seal(&[vec![tx.clone()]]).await;
    for full in [false, true] {
        let block = setup
            .ask("eth_getBlockByNumber", json!(["latest", full]))
            .await;
        assert_keys("block", &block, BLOCK);
        if full {
            assert_keys(
                "transaction of a block",
                &block["transactions"][0],
                TRANSACTION,
            );
        }
    }
    let found = setup
        .ask("eth_getTransactionByHash", json!([tx.hash]))
        .await;
    assert_keys("transaction", &found, TRANSACTION);
    let receipt = setup
        .ask("eth_getTransactionReceipt", json!([tx.hash]))
        .await;
    assert_keys("receipt", &receipt, RECEIPT);
    assert_keys("log of a receipt", &receipt["logs"][0], LOG);
    let logs = setup
        .ask("eth_getLogs", json!([{"fromBlock": "0x0"}]))
        .await;
    assert_keys("log", &logs[0], LOG);
    let waiting = sign(1, call(1));
    setup.send(&waiting.raw).await;
    let found = setup
        .ask("eth_getTransactionByHash", json!([waiting.hash]))
        .await;
    assert_keys("transaction that waits", &found, TRANSACTION);
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_and_places_in_a_block_and_accounts_are_answered() {
    let setup = Setup::new().await;
    let shards = [
        vec![sign(1, transfer(0))],
        vec![sign(2, call(0)), sign(2, call(1))],
    ];
    let hash = setup.seal(&shards).await;
    assert_eq!(setup.ask("eth_accounts", json!([])).await, json!([]));
    let by_number = "eth_getBlockTransactionCountByNumber";
    assert_eq!(setup.ask(by_number, json!(["latest"])).await, "0x3");
    assert_eq!(setup.ask(by_number, json!(["0x0"])).await, "0x0");
    assert_eq!(setup.ask(by_number, json!(["0x9"])).await, Value::Null);
    let by_hash = "eth_getBlockTransactionCountByHash";
    assert_eq!(setup.ask(by_hash, json!([hash])).await, "0x3");
    assert_eq!(setup.ask(by_hash, json!([B256::ZERO])).await, Value::Null);
    let at = "eth_getTransactionByBlockHashAndIndex";
    let found = setup.ask(at, json!([hash, "0x2"])).await;
    assert_eq!(found["hash"], json!(shards[1][1].hash));
    assert_eq!(setup.ask(at, json!([hash, "0x3"])).await, Value::Null);
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_locks_of_a_round_are_answered_each_with_its_shard() {
    let setup = Setup::new().await;
    setup.seal(&[Vec::new(), vec![sign(1, transfer(0))]]).await;
    let locks = setup.ask("troika_getLocks", json!(["0x1"])).await;
    let sender = json!({"address": sender(1), "slot": null, "shard": "0x1"});
    assert_eq!(locks, json!({"locks": [sender], "more": false}));
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_is_shown_by_sender_and_nonce() {
    let setup = Setup::new().await;
    for (who, nonce) in [(1, 0), (1, 1), (1, 3), (2, 0)] {
        setup.send(&sign(who, transfer(nonce)).raw).await;
    }
    let (first, second) = (sender(1).to_string(), sender(2).to_string());
    let content = setup.ask("txpool_content", json!([])).await;
    let keys = |value: &Value| -> Vec<String> {
        let object = value.as_object().expect("an object");
        object.keys().cloned().collect()
    };
    let senders: BTreeSet<String> = keys(&content["pending"]).into_iter().collect();
    assert_eq!(senders, BTreeSet::from([first.clone(), second.clone()]));
    assert_eq!(keys(&content["pending"][&first]), ["0", "1"]);
    assert_eq!(keys(&content["queued"]), std::slice::from_ref(&first));
    let third = &content["queued"][&first]["3"];
    assert_eq!(third["hash"], json!(sign(1, transfer(3)).hash));
    assert_keys("transaction of the pool", third, TRANSACTION);

    let of_one = setup.ask("txpool_contentFrom", json!([sender(1)])).await;
    assert_eq!(of_one["pending"], content["pending"][&first]);
    assert_eq!(of_one["queued"], content["queued"][&first]);
    let of_nobody = setup
        .ask("txpool_contentFrom", json!([Address::ZERO]))
        .await;
    assert_eq!(of_nobody, json!({"pending": {}, "queued": {}}));

    let inspected = setup.ask("txpool_inspect", json!([])).await;
    let to = Address::repeat_byte(0xaa);
    assert_eq!(
        inspected["pending"][&second]["0"],
        format!("{to}: 5 wei + 21000 gas × 3000000000 wei")
    );
    setup.gateway.shutdown().await;
}
