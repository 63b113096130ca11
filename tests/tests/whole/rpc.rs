//! JSON-RPC as a client that others wrote uses it: alloy's provider.

use super::fixture::{PATIENCE, genesis_of, plan, start};
use alloy_network::{EthereumWallet, TransactionBuilder};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, hex};
use alloy_provider::{Provider, ProviderBuilder};
use alloy_rpc_types_eth::{BlockNumberOrTag, Filter, Header, TransactionRequest};
use alloy_signer_local::PrivateKeySigner;
use jsonrpsee::core::client::{Subscription, SubscriptionClientT};
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::WsClientBuilder;
use std::time::Duration;
use tokio::time::timeout;
use troika_node::load::accounts::dev_accounts;

/// Deploys: slot 0 += 1, written to the log under topic 7, and returned.
const COUNTER: [u8; 30] = hex!("6014600a5f3960145ff35f54600101805f555f52600760205fa160205ff3");

#[tokio::test(flavor = "multi_thread")]
async fn alloy_transfers_deploys_calls_reads_logs_and_hears_of_heads() {
    let cluster = start(plan(&genesis_of(2, Duration::from_millis(100)), 2)).await;
    let key = &dev_accounts()[0];
    let signer = PrivateKeySigner::from_bytes(&key.secret).unwrap();
    let url = format!("http://{}", cluster.rpc()).parse().unwrap();
    let provider = ProviderBuilder::new()
        .wallet(EthereumWallet::from(signer))
        .connect_http(url);
    provider
        .client()
        .set_poll_interval(Duration::from_millis(50));
    // Subscriptions with another client: alloy's WebSocket brings a second TLS library along.
    let ws = WsClientBuilder::new().build(format!("ws://{}", cluster.rpc()));
    let ws = ws.await.expect("connects");
    let mut heads: Subscription<Header> = ws
        .subscribe("eth_subscribe", rpc_params!["newHeads"], "eth_unsubscribe")
        .await
        .expect("subscribes");
    let mut pending: Subscription<B256> = ws
        .subscribe(
            "eth_subscribe",
            rpc_params!["newPendingTransactions"],
            "eth_unsubscribe",
        )
        .await
        .expect("subscribes");

    let to = Address::repeat_byte(0x42);
    let transfer = TransactionRequest::default()
        .with_to(to)
        .with_value(U256::from(7));
    let sent = provider.send_transaction(transfer).await.expect("taken");
    let hash = *sent.tx_hash();
    let heard = timeout(PATIENCE, pending.next()).await.expect("in time");
    assert_eq!(heard.expect("goes on").expect("a hash"), hash);
    let receipt = timeout(PATIENCE, sent.get_receipt())
        .await
        .expect("in time");
    let receipt = receipt.expect("a receipt");
    assert!(receipt.status());
    assert_eq!((receipt.gas_used, receipt.from), (21_000, key.address));
    assert_eq!(provider.get_balance(to).await.unwrap(), U256::from(7));
    let number = receipt.block_number.expect("sealed");
    let block = provider.get_block_by_number(number.into()).full().await;
    let block = block.unwrap().expect("kept");
    assert_eq!(block.header.hash, block.header.inner.hash_slow());
    assert!(block.transactions.hashes().any(|found| found == hash));

    let deploy = TransactionRequest::default().with_deploy_code(Bytes::from_static(&COUNTER));
    let deployed = provider.send_transaction(deploy).await.expect("taken");
    let deployed = timeout(PATIENCE, deployed.get_receipt())
        .await
        .expect("in time")
        .unwrap();
    let contract = deployed.contract_address.expect("a contract");
    let call = TransactionRequest {
        to: Some(TxKind::Call(contract)),
        ..TransactionRequest::default()
    };
    let answer = provider.call(call.clone()).await.expect("answers");
    assert_eq!(U256::from_be_slice(&answer), U256::ONE);
    for expected in 1..=3u64 {
        let sent = provider
            .send_transaction(call.clone())
            .await
            .expect("taken");
        let receipt = timeout(PATIENCE, sent.get_receipt())
            .await
            .expect("in time")
            .unwrap();
        assert!(receipt.status());
        let log = &receipt.inner.logs()[0];
        assert_eq!(log.topics(), [B256::with_last_byte(7)]);
        assert_eq!(U256::from_be_slice(&log.data().data), U256::from(expected));
    }
    let slot = provider.get_storage_at(contract, U256::ZERO).await.unwrap();
    assert_eq!(slot, U256::from(3));
    let filter = Filter::new()
        .address(contract)
        .event_signature(B256::with_last_byte(7))
        .from_block(BlockNumberOrTag::Earliest);
    let logs = provider.get_logs(&filter).await.expect("answers");
    assert_eq!(logs.len(), 3);
    assert_eq!(
        provider.get_transaction_count(key.address).await.unwrap(),
        5
    );

    let mut at = None;
    for _ in 0..3 {
        let head = timeout(PATIENCE, heads.next())
            .await
            .expect("in time")
            .expect("goes on")
            .expect("a header");
        assert!(
            at.is_none_or(|before| head.number == before + 1),
            "{at:?} {head:?}"
        );
        at = Some(head.number);
    }
    cluster.stop().await;
}
