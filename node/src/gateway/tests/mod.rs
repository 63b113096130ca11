//! The gateway over real sockets, on a fake store and a fake executor: JSON-RPC in, gRPC out.

mod fake;
mod filters;
mod limits;
mod pooling;
mod rpc;
mod schema;

use super::{Config, Gateway, Handle, pool, routing};
use crate::execution::Transaction;
use crate::store_client::{Options, StoreClient};
use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_eips::eip2718::Encodable2718;
use alloy_network::TxSignerSync;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_signer_local::PrivateKeySigner;
use fake::{Addresses, CHAIN_ID, Fake};
use jsonrpsee::core::client::{ClientT, Error};
use jsonrpsee::http_client::HttpClient;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use troika_proto::v1::pending_update::Update;

/// Longest that anything here is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

fn signer(n: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(n)).expect("a key")
}

fn sender(n: u8) -> Address {
    signer(n).address()
}

fn transfer(nonce: u64) -> TxEip1559 {
    TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 3_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000,
        to: TxKind::Call(Address::repeat_byte(0xaa)),
        value: U256::from(5),
        ..Default::default()
    }
}

fn sign(n: u8, mut tx: TxEip1559) -> Arc<Transaction> {
    let signature = signer(n).sign_transaction_sync(&mut tx).expect("signs");
    let raw = tx.into_signed(signature).encoded_2718();
    Arc::new(Transaction::recover(raw.into()).expect("well signed"))
}

async fn gateway(name: &str, addresses: &Addresses) -> Handle {
    let config = Config {
        name: name.to_owned(),
        store: StoreClient::new(Options::new([addresses.store.to_string()])).unwrap(),
        executors: vec![addresses.executor.to_string()],
        executor_tls: None,
        rpc: "127.0.0.1:0".parse().unwrap(),
        policy: routing::by_writes,
    };
    Gateway::start(config).await.unwrap()
}

fn client_of(gateway: &Handle) -> HttpClient {
    let url = format!("http://{}", gateway.rpc_addr());
    HttpClient::builder().build(url).unwrap()
}

struct Setup {
    fake: Fake,
    addresses: Addresses,
    gateway: Handle,
    client: HttpClient,
    updates: mpsc::UnboundedReceiver<Update>,
}

impl Setup {
    async fn new() -> Self {
        let rich: Vec<Address> = (1..=8).map(sender).collect();
        let (fake, addresses, updates) = Fake::start(&rich).await;
        let gateway = gateway("gateway-1", &addresses).await;
        let client = client_of(&gateway);
        Self {
            fake,
            addresses,
            gateway,
            client,
            updates,
        }
    }

    /// One more gateway of the same chain, which knows only what it reads.
    async fn another(&self) -> Handle {
        gateway("gateway-2", &self.addresses).await
    }

    async fn ask(&self, method: &str, params: Value) -> Value {
        self.try_ask(method, params)
            .await
            .unwrap_or_else(|e| panic!("{method}: {e}"))
    }

    async fn try_ask(&self, method: &str, params: Value) -> Result<Value, Error> {
        let params = params.as_array().cloned().unwrap_or_default();
        self.client.request(method, params).await
    }

    /// The error's code and message.
    async fn refusal(&self, method: &str, params: Value) -> (i32, String) {
        match self.try_ask(method, params).await {
            Err(Error::Call(error)) => (error.code(), error.message().to_owned()),
            other => panic!("{method}: expected a refusal, got {other:?}"),
        }
    }

    async fn send(&self, raw: &Bytes) -> Value {
        self.ask("eth_sendRawTransaction", serde_json::json!([raw]))
            .await
    }

    async fn refused(&self, raw: &Bytes) -> (i32, String) {
        self.refusal("eth_sendRawTransaction", serde_json::json!([raw]))
            .await
    }

    /// Seals a block and waits until the gateway has taken it in.
    async fn seal(&self, shards: &[Vec<Arc<Transaction>>]) -> B256 {
        let hash = self.fake.seal(shards);
        self.until(|gateway| gateway.head().hash == hash).await;
        hash
    }

    async fn until(&self, done: impl Fn(&Gateway) -> bool) {
        let waiting = async {
            while !done(self.gateway.gateway()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("in time");
    }

    /// The next update that `pick` wants.
    async fn update<R>(&mut self, mut pick: impl FnMut(&Update) -> Option<R>) -> R {
        let next = async {
            loop {
                let update = self.updates.recv().await.expect("the stream lives");
                if let Some(picked) = pick(&update) {
                    return picked;
                }
            }
        };
        timeout(PATIENCE, next).await.expect("in time")
    }
}
