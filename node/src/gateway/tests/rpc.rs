//! What clients see.

use super::fake::CONTRACT;
use super::*;
use alloy_rpc_types_eth::{Block, TransactionReceipt};
use jsonrpsee::core::client::{Subscription, SubscriptionClientT};
use jsonrpsee::ws_client::WsClientBuilder;
use serde_json::json;

/// A call of the contract that writes a log, or reverts where there is data.
fn call(nonce: u64, data: &'static [u8]) -> TxEip1559 {
    TxEip1559 {
        gas_limit: 100_000,
        to: TxKind::Call(CONTRACT),
        value: U256::ZERO,
        input: Bytes::from_static(data),
        ..transfer(nonce)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hashes_the_header_gets_the_block_hash() {
    let setup = Setup::new().await;
    let hash = setup
        .seal(&[vec![sign(1, transfer(0))], vec![sign(2, call(0, b""))]])
        .await;
    for number in ["latest", "0x0", "0x1"] {
        let block = setup
            .ask("eth_getBlockByNumber", json!([number, true]))
            .await;
        let parsed: Block = serde_json::from_value(block.clone()).expect("Ethereum's block");
        assert_eq!(
            parsed.header.inner.hash_slow(),
            parsed.header.hash,
            "{number}"
        );
        for field in [
            "withdrawals",
            "uncles",
            "size",
            "requestsHash",
            "parentBeaconBlockRoot",
        ] {
            assert!(!block[field].is_null(), "{field} of {number}");
        }
    }
    let latest = setup.ask("eth_getBlockByHash", json!([hash, false])).await;
    assert_eq!(latest["hash"], json!(hash));
    assert_eq!(latest["transactions"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        setup
            .ask("eth_getBlockByNumber", json!(["0x9", false]))
            .await,
        Value::Null
    );
    assert_eq!(setup.ask("eth_blockNumber", json!([])).await, "0x1");
    assert_eq!(setup.ask("eth_chainId", json!([])).await, "0x79b");
    assert_eq!(setup.ask("net_version", json!([])).await, "1947");
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn indices_gas_and_logs_of_receipts_count_block_wide() {
    let setup = Setup::new().await;
    let shards = [
        vec![sign(1, call(0, b"")), sign(1, transfer(1))],
        Vec::new(),
        vec![sign(2, call(0, b"")), sign(2, call(1, b"revert"))],
    ];
    let hash = setup.seal(&shards).await;
    let receipts = setup.ask("eth_getBlockReceipts", json!(["latest"])).await;
    let receipts: Vec<TransactionReceipt> = serde_json::from_value(receipts).unwrap();
    let (mut gas, mut logs) = (0, 0);
    for (i, receipt) in receipts.iter().enumerate() {
        gas += receipt.gas_used;
        assert_eq!(receipt.transaction_index, Some(i as u64));
        assert_eq!(receipt.inner.cumulative_gas_used(), gas);
        assert_eq!(receipt.effective_gas_price, 2_000_000_000 - 125_000_000);
        for log in receipt.inner.logs() {
            assert_eq!((log.log_index, log.block_hash), (Some(logs), Some(hash)));
            logs += 1;
        }
    }
    assert_eq!((receipts.len(), logs), (4, 2));
    let status: Vec<bool> = receipts.iter().map(|r| r.status()).collect();
    assert_eq!(status, [true, true, true, false]);
    let third = shards[2][0].hash;
    let one = setup.ask("eth_getTransactionReceipt", json!([third])).await;
    assert_eq!(one["transactionIndex"], "0x2");
    let tx = setup.ask("eth_getTransactionByHash", json!([third])).await;
    assert_eq!(
        (&tx["from"], &tx["blockNumber"]),
        (&json!(sender(2)), &json!("0x1"))
    );
    let at = setup
        .ask(
            "eth_getTransactionByBlockNumberAndIndex",
            json!(["0x1", "0x2"]),
        )
        .await;
    assert_eq!(at["hash"], json!(third));
    let shards = setup.ask("troika_getBlockShards", json!(["latest"])).await;
    assert_eq!(shards["shards"][2]["firstTransactionIndex"], "0x2");
    assert_eq!(shards["shards"][2]["executor"], "executor-1");
    assert_eq!(shards["shards"][1]["executor"], Value::Null);
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_transaction_is_told_why_in_the_words_that_tools_look_for() {
    let setup = Setup::new().await;
    setup.seal(&[vec![sign(1, transfer(0))]]).await;
    let mut cases: Vec<(Arc<Transaction>, &str)> = vec![
        (sign(1, transfer(0)), "nonce too low"),
        (sign(1, transfer(5000)), "at most 4096 ahead"),
        (
            sign(99, transfer(0)),
            "insufficient funds for gas * price + value",
        ),
    ];
    let with = |change: fn(&mut TxEip1559)| {
        let mut tx = transfer(1);
        change(&mut tx);
        sign(1, tx)
    };
    cases.push((with(|tx| tx.chain_id = 5), "invalid chain id"));
    cases.push((with(|tx| tx.gas_limit = 20_000), "intrinsic gas too low"));
    cases.push((
        with(|tx| tx.gas_limit = 30_000_001),
        "exceeds block gas limit",
    ));
    cases.push((
        with(|tx| tx.max_fee_per_gas = 1),
        "max priority fee per gas higher than max fee",
    ));
    for (tx, words) in cases {
        let (code, message) = setup.refused(&tx.raw).await;
        assert_eq!(code, -32000, "{message}");
        assert!(
            message.contains(words),
            "{message:?} does not say {words:?}"
        );
    }
    let good = sign(1, transfer(1));
    setup.send(&good.raw).await;
    assert_eq!(setup.refused(&good.raw).await.1, "already known");
    let cheap = with(|tx| tx.value = U256::from(6));
    let (_, message) = setup.refused(&cheap.raw).await;
    assert!(
        message.starts_with("replacement transaction underpriced"),
        "{message}"
    );
    let (code, _) = setup.refused(&Bytes::from_static(&[2, 1, 2, 3])).await;
    assert_eq!(code, -32000);
    let blob = setup.refused(&Bytes::from_static(&[3, 0xc0])).await.1;
    assert!(blob.contains("blob"), "{blob}");
    assert_eq!(setup.gateway.gateway().pending(), 1);
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pending_nonce_counts_what_is_pending_and_the_latest_does_not() {
    let setup = Setup::new().await;
    for nonce in [0, 1, 3] {
        setup.send(&sign(1, transfer(nonce)).raw).await;
    }
    let count = |tag: &'static str| json!([sender(1), tag]);
    assert_eq!(
        setup.ask("eth_getTransactionCount", count("latest")).await,
        "0x0"
    );
    assert_eq!(
        setup.ask("eth_getTransactionCount", count("pending")).await,
        "0x2"
    );
    let status = setup.ask("txpool_status", json!([])).await;
    assert_eq!(status, json!({"pending": "0x2", "queued": "0x1"}));
    let pending = sign(1, transfer(0)).hash;
    let tx = setup
        .ask("eth_getTransactionByHash", json!([pending]))
        .await;
    assert_eq!(
        (&tx["blockHash"], &tx["from"]),
        (&Value::Null, &json!(sender(1)))
    );
    assert_eq!(
        setup
            .ask("eth_getTransactionReceipt", json!([pending]))
            .await,
        Value::Null
    );
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_read_at_the_block_that_is_named() {
    let setup = Setup::new().await;
    setup.seal(&[vec![sign(1, transfer(0))]]).await;
    let paid = Address::repeat_byte(0xaa);
    for (block, expected) in [
        ("latest", "0x5"),
        ("0x0", "0x0"),
        ("pending", "0x5"),
        ("earliest", "0x0"),
    ] {
        assert_eq!(
            setup.ask("eth_getBalance", json!([paid, block])).await,
            expected,
            "{block}"
        );
    }
    let slot = setup
        .ask("eth_getStorageAt", json!([CONTRACT, "0x5", "latest"]))
        .await;
    assert_eq!(slot, json!(B256::from(U256::from(55))));
    let code = setup.ask("eth_getCode", json!([CONTRACT, "latest"])).await;
    assert!(code.as_str().is_some_and(|code| code.starts_with("0x3660")));
    assert_eq!(
        setup.ask("eth_getCode", json!([paid, "latest"])).await,
        "0x"
    );
    let unknown = setup.refusal("eth_getBalance", json!([paid, "0x99"])).await;
    assert_eq!(unknown, (-32000, "header not found".to_owned()));
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_estimates_and_traces_run_on_a_block() {
    let setup = Setup::new().await;
    let tx = sign(1, call(0, b""));
    setup.seal(&[vec![tx.clone()]]).await;
    let to = json!({"to": CONTRACT, "from": sender(1)});
    assert_eq!(setup.ask("eth_call", json!([to, "latest"])).await, "0x");
    let estimate = setup.ask("eth_estimateGas", json!([to])).await;
    let estimate: U256 = serde_json::from_value(estimate).unwrap();
    assert!(
        (U256::from(21_000)..U256::from(30_000)).contains(&estimate),
        "{estimate}"
    );
    let reverting = json!({"to": CONTRACT, "data": "0x01"});
    for method in ["eth_call", "eth_estimateGas"] {
        let (code, message) = setup.refusal(method, json!([reverting])).await;
        assert_eq!(
            (code, message.as_str()),
            (3, "execution reverted"),
            "{method}"
        );
    }
    let list = setup.ask("eth_createAccessList", json!([to])).await;
    assert!(list["gasUsed"].is_string() && list["accessList"].is_array());
    let trace = setup
        .ask(
            "debug_traceTransaction",
            json!([tx.hash, {"tracer": "callTracer"}]),
        )
        .await;
    assert_eq!(
        (&trace["type"], &trace["to"]),
        (&json!("CALL"), &json!(CONTRACT))
    );
    let traces = setup
        .ask(
            "debug_traceBlockByNumber",
            json!(["latest", {"tracer": "prestateTracer"}]),
        )
        .await;
    assert_eq!(traces[0]["txHash"], json!(tx.hash));
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_found_by_address_topic_and_range() {
    let setup = Setup::new().await;
    setup.seal(&[vec![sign(1, transfer(0))]]).await;
    setup.seal(&[Vec::new(), vec![sign(2, call(0, b""))]]).await;
    let seven = B256::from(U256::from(7));
    let all = json!({"fromBlock": "0x0", "address": CONTRACT, "topics": [seven]});
    let logs = setup.ask("eth_getLogs", json!([all])).await;
    assert_eq!(logs.as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&logs[0]["blockNumber"], &logs[0]["logIndex"]),
        (&json!("0x2"), &json!("0x0"))
    );
    for none in [
        json!({"fromBlock": "0x0", "topics": [B256::ZERO]}),
        json!({"fromBlock": "0x0", "toBlock": "0x1"}),
        json!({"fromBlock": "0x0", "address": sender(1)}),
        json!({"fromBlock": "0x9"}),
    ] {
        assert_eq!(
            setup.ask("eth_getLogs", json!([none])).await,
            json!([]),
            "{none}"
        );
    }
    let (code, _) = setup
        .refusal(
            "eth_getLogs",
            json!([{"fromBlock": "0x2", "toBlock": "0x1"}]),
        )
        .await;
    assert_eq!(code, -32602);
    let history = setup
        .ask("eth_feeHistory", json!(["0x2", "latest", [50.0]]))
        .await;
    assert_eq!(history["oldestBlock"], "0x1");
    assert_eq!(history["baseFeePerGas"].as_array().map(Vec::len), Some(3));
    assert_eq!(history["reward"][1][0], "0x3b9aca00");
    assert_eq!(
        setup.ask("eth_maxPriorityFeePerGas", json!([])).await,
        "0x3b9aca00"
    );
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_hear_of_heads_logs_and_pending_transactions() {
    let setup = Setup::new().await;
    let url = format!("ws://{}", setup.gateway.rpc_addr());
    let client = WsClientBuilder::default().build(url).await.unwrap();
    let subscribe = async |params: Vec<Value>| -> Subscription<Value> {
        client
            .subscribe("eth_subscribe", params, "eth_unsubscribe")
            .await
            .unwrap()
    };
    let mut heads = subscribe(vec![json!("newHeads")]).await;
    let mut logs = subscribe(vec![json!("logs"), json!({"address": CONTRACT})]).await;
    let mut pending = subscribe(vec![json!("newPendingTransactions")]).await;
    let tx = sign(1, call(0, b""));
    setup.send(&tx.raw).await;
    let hash = setup.seal(&[vec![tx.clone()]]).await;
    let next = async |from: &mut Subscription<Value>| {
        let next = timeout(PATIENCE, from.next()).await.expect("in time");
        next.expect("open").expect("well formed")
    };
    assert_eq!(next(&mut heads).await["hash"], json!(hash));
    assert_eq!(next(&mut logs).await["transactionHash"], json!(tx.hash));
    assert_eq!(next(&mut pending).await, json!(tx.hash));
    let refused = client
        .subscribe::<Value, _>("eth_subscribe", vec!["nothing"], "eth_unsubscribe")
        .await;
    assert!(refused.is_err());
    drop((heads, logs, pending, client));
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_the_codes_of_json_rpc() {
    let setup = Setup::new().await;
    assert_eq!(setup.refusal("eth_nothing", json!([])).await.0, -32601);
    for (method, params) in [
        ("eth_getBalance", json!(["nonsense"])),
        ("eth_getBalance", json!([])),
        ("eth_getBlockByNumber", json!(["0xzz", true])),
        ("eth_sendRawTransaction", json!(["0x1"])),
        (
            "eth_call",
            json!([{"to": CONTRACT, "data": "0x01", "input": "0x02"}]),
        ),
        ("eth_feeHistory", json!(["0x1", "latest", [80.0, 20.0]])),
        ("debug_traceBlockByNumber", json!(["latest", {"tracer": 7}])),
    ] {
        assert_eq!(
            setup.refusal(method, params.clone()).await.0,
            -32602,
            "{method} {params}"
        );
    }
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_call_reads_many_slots_in_a_few_batches() {
    let setup = Setup::new().await;
    // Adds up slots 1 to 60: PUSH0, then (PUSH1 n, SLOAD, ADD) for each, and answers the sum.
    let mut code = vec![0x5f];
    for slot in 1..=60u8 {
        code.extend([0x60, slot, 0x54, 0x01]);
    }
    code.extend([0x5f, 0x52, 0x60, 0x20, 0x5f, 0xf3]);
    let to = Address::repeat_byte(0xdd);
    let overrides = json!({ to.to_string(): { "code": Bytes::from(code.clone()) } });
    let before = setup.fake.state_reads();
    let params = json!([{ "to": to }, "latest", overrides]);
    let answer = setup.ask("eth_call", params).await;
    assert_eq!(answer, json!(B256::ZERO));
    let reads = setup.fake.state_reads() - before;
    assert!(reads <= 16, "{reads} reads");
    // The contract's slot 5 holds 55: what was guessed in between is not the answer.
    let overrides = json!({ CONTRACT.to_string(): { "code": Bytes::from(code) } });
    let answer = setup
        .ask("eth_call", json!([{ "to": CONTRACT }, "latest", overrides]))
        .await;
    assert_eq!(answer, json!(B256::with_last_byte(55)));
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_answers_each_request_in_its_place() {
    use jsonrpsee::core::params::BatchRequestBuilder;
    let setup = Setup::new().await;
    let mut batch = BatchRequestBuilder::new();
    let sent: Vec<_> = (0..20).map(|nonce| sign(1, transfer(nonce))).collect();
    // Nonces backwards: what is taken together does not depend on the order.
    for tx in sent.iter().rev() {
        batch
            .insert("eth_sendRawTransaction", [tx.raw.clone()])
            .unwrap();
    }
    let none: [u8; 0] = [];
    batch.insert("eth_chainId", none).unwrap();
    batch.insert("eth_sendRawTransaction", ["0x00"]).unwrap();
    batch.insert("eth_sendRawTransaction", [7]).unwrap();
    batch.insert("eth_unheardOf", none).unwrap();
    batch
        .insert("eth_sendRawTransaction", [sent[3].raw.clone()])
        .unwrap();
    let answers = setup.client.batch_request::<Value>(batch).await.unwrap();
    let answers: Vec<_> = answers.into_iter().collect();
    for (tx, answer) in sent.iter().rev().zip(&answers) {
        assert_eq!(answer.as_ref().unwrap(), &json!(tx.hash));
    }
    assert_eq!(answers[20].as_ref().unwrap(), "0x79b");
    let message = |at: usize| answers[at].as_ref().unwrap_err().message().to_owned();
    let code = |at: usize| answers[at].as_ref().unwrap_err().code();
    assert_eq!(code(21), -32000, "{}", message(21));
    assert_eq!(code(22), -32602, "{}", message(22));
    assert_eq!(code(23), -32601, "{}", message(23));
    assert_eq!(message(24), "already known");
    assert_eq!(setup.gateway.gateway().pending(), 20);
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_of_pruned_blocks_are_an_error_and_not_left_out() {
    let setup = Setup::new().await;
    let genesis = setup.gateway.gateway().head().hash;
    setup.seal(&[vec![sign(1, call(0, b""))]]).await;
    setup.fake.prune(genesis);
    let all = json!([{"fromBlock": "0x0"}]);
    let (code, message) = setup.refusal("eth_getLogs", all).await;
    assert_eq!(code, 4_444, "{message}");
    assert!(message.contains("block 0"), "{message}");
    let kept = json!([{"fromBlock": "0x1"}]);
    let logs = setup.ask("eth_getLogs", kept).await;
    assert_eq!(logs.as_array().map(Vec::len), Some(1));
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_read_for_logs_only_where_the_headers_bloom_says_so() {
    let setup = Setup::new().await;
    setup.seal(&[vec![sign(1, transfer(0))]]).await;
    setup.seal(&[vec![sign(2, call(0, b""))]]).await;
    // Another gateway has none of it in its cache.
    let cold = setup.another().await;
    let client = client_of(&cold);
    let before = setup.fake.shard_reads();
    let filter = json!({"fromBlock": "0x0", "address": CONTRACT});
    let logs: Value = client.request("eth_getLogs", [filter]).await.unwrap();
    assert_eq!(logs.as_array().map(Vec::len), Some(1));
    assert_eq!(
        setup.fake.shard_reads() - before,
        1,
        "one shard of one block"
    );
    cold.shutdown().await;
    setup.gateway.shutdown().await;
}
