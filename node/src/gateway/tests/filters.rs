//! Filters, as a client polls them.

use super::*;
use serde_json::json;

fn call(nonce: u64) -> TxEip1559 {
    TxEip1559 {
        gas_limit: 100_000,
        to: TxKind::Call(fake::CONTRACT),
        value: U256::ZERO,
        ..transfer(nonce)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_poll_tells_what_is_new_since_the_last() {
    let setup = Setup::new().await;
    setup.seal(&[vec![sign(1, call(0))]]).await;
    let of_contract = json!([{"fromBlock": "0x0", "address": fake::CONTRACT}]);
    let logs = setup.ask("eth_newFilter", of_contract).await;
    let blocks = setup.ask("eth_newBlockFilter", json!([])).await;
    let pending = setup
        .ask("eth_newPendingTransactionFilter", json!([]))
        .await;
    let changes = async |id: &Value| setup.ask("eth_getFilterChanges", json!([id])).await;
    for id in [&logs, &blocks, &pending] {
        assert_eq!(changes(id).await, json!([]));
    }
    let tx = sign(1, call(1));
    setup.send(&tx.raw).await;
    assert_eq!(changes(&pending).await, json!([tx.hash]));
    let first = setup.seal(&[vec![tx.clone()]]).await;
    let second = setup.seal(&[]).await;
    assert_eq!(changes(&blocks).await, json!([first, second]));
    let found = changes(&logs).await;
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!(found[0]["transactionHash"], json!(tx.hash));
    for id in [&logs, &blocks, &pending] {
        assert_eq!(changes(id).await, json!([]));
    }
    // All of it, as often as one likes.
    for _ in 0..2 {
        let all = setup.ask("eth_getFilterLogs", json!([logs])).await;
        assert_eq!(all.as_array().map(Vec::len), Some(2));
    }
    let refused = setup.refusal("eth_getFilterLogs", json!([blocks])).await;
    assert_eq!(refused, (-32_000, "filter not found".to_owned()));
    assert_eq!(setup.ask("eth_uninstallFilter", json!([logs])).await, true);
    assert_eq!(setup.ask("eth_uninstallFilter", json!([logs])).await, false);
    let refused = setup.refusal("eth_getFilterChanges", json!([logs])).await;
    assert_eq!(refused, (-32_000, "filter not found".to_owned()));
    setup.gateway.shutdown().await;
}
