//! What the tests share: a chain, signed transactions, a gateway's stream.

use super::super::{Executor, ExecutorConfig, ExecutorHandle};
use crate::gateway::limits::ALIVE_EVERY;
use crate::store_client;
use crate::testing::FakeStore;
use alloy_consensus::{SignableTransaction, TxLegacy};
use alloy_eips::eip2718::Encodable2718;
use alloy_network::TxSignerSync;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy_signer_local::PrivateKeySigner;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use troika_proto::limits::MIN_SHARD_GAS;
use troika_proto::wire::{address_bytes, hash_bytes};
use troika_proto::{ChainConfig, Genesis, GenesisAccount, LockRule, Spec, v1};
use v1::feed_client::FeedClient;
use v1::pending_update::Update;
use v1::pool_client::PoolClient;

pub const CHAIN_ID: u64 = 1337;

/// Users with money, known by number.
pub fn user(n: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(n)).unwrap()
}

pub fn genesis(shards: u32, propose_after_ms: u64, seal_after_ms: u64) -> Genesis {
    let accounts = (1..=40).map(|n| {
        let account = GenesisAccount {
            balance: U256::from(10u64).pow(U256::from(20)),
            ..GenesisAccount::default()
        };
        (user(n).address(), account)
    });
    Genesis {
        config: ChainConfig {
            chain_id: CHAIN_ID,
            shards,
            shard_gas_limit: MIN_SHARD_GAS,
            lock_rule: LockRule::Commuting,
            elasticity: 1,
            beneficiary: Address::repeat_byte(0xfe),
            propose_after_ms,
            seal_after_ms,
            seconds_per_slot: 0,
            spec: Spec::Osaka,
            genesis_base_fee: 0,
            genesis_timestamp: 1_700_000_000,
            registry: Address::ZERO,
            epoch_length: 0,
            share_cap: 0,
            fixed: None,
        },
        accounts: accounts.collect::<BTreeMap<_, _>>(),
    }
}

pub struct Signed {
    pub raw: Bytes,
    pub hash: B256,
    pub sender: Address,
}

pub fn call(from: u8, nonce: u64, to: Address, value: u64, gas: u64, input: &[u8]) -> Signed {
    let signer = user(from);
    let mut tx = TxLegacy {
        chain_id: Some(CHAIN_ID),
        nonce,
        gas_price: 1_000_000_000,
        gas_limit: gas,
        to: TxKind::Call(to),
        value: U256::from(value),
        input: input.to_vec().into(),
    };
    let signature = signer.sign_transaction_sync(&mut tx).unwrap();
    let raw = tx.into_signed(signature).encoded_2718();
    Signed {
        hash: keccak256(&raw),
        raw: raw.into(),
        sender: signer.address(),
    }
}

pub fn transfer(from: u8, nonce: u64, to: u8) -> Signed {
    call(from, nonce, Address::repeat_byte(to), 1, 21_000, &[])
}

pub async fn executor(name: &str, store: SocketAddr, shards: (u32, u32)) -> ExecutorHandle {
    let store = store_client::Options::new([store.to_string()]);
    let listen = "127.0.0.1:0".parse().unwrap();
    let mut config = ExecutorConfig::new(name, store, shards, listen);
    config.threads = 2;
    Executor::start(config).await.unwrap()
}

/// A gateway's stream to one executor. Once it is in sync it gives signs of life, unless it is made `mute`.
pub struct Gateway {
    updates: mpsc::Sender<v1::PendingUpdate>,
    pub replies: Streaming<v1::PendingReply>,
    pub mute: Arc<AtomicBool>,
}

async fn give_signs_of_life(updates: mpsc::WeakSender<v1::PendingUpdate>, mute: Arc<AtomicBool>) {
    while let Some(updates) = updates.upgrade() {
        if !mute.load(Ordering::Relaxed) {
            let alive = Some(Update::Alive(true));
            // The stream's end shows elsewhere.
            let _ = updates.send(v1::PendingUpdate { update: alive }).await;
        }
        drop(updates);
        tokio::time::sleep(ALIVE_EVERY).await;
    }
}

impl Gateway {
    pub async fn connect(name: &str, genesis: &Genesis, to: SocketAddr) -> Self {
        loop {
            let (updates, stream) = mpsc::channel(64);
            let hello = v1::PendingHello {
                gateway: name.to_owned(),
                genesis_hash: hash_bytes(genesis.header().hash()),
            };
            let first = Update::Hello(hello);
            updates
                .send(v1::PendingUpdate {
                    update: Some(first),
                })
                .await
                .unwrap();
            let mut client = PoolClient::connect(format!("http://{to}")).await.unwrap();
            match client.pending(ReceiverStream::new(stream)).await {
                Ok(replies) => {
                    let mute = Arc::new(AtomicBool::new(true));
                    tokio::spawn(give_signs_of_life(updates.downgrade(), mute.clone()));
                    return Self {
                        updates,
                        replies: replies.into_inner(),
                        mute,
                    };
                }
                // It does not know its chain yet.
                Err(status) if status.code() == tonic::Code::Unavailable => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(status) => panic!("{status}"),
            }
        }
    }

    pub async fn send(&self, update: Update) {
        let update = v1::PendingUpdate {
            update: Some(update),
        };
        self.updates.send(update).await.unwrap();
    }

    pub async fn add(&self, transactions: &[&Signed], shard: u32, from_round: u64) {
        self.send(Update::Add(v1::PendingAdd {
            transactions: transactions.iter().map(|t| t.raw.clone().into()).collect(),
            sender: address_bytes(transactions[0].sender),
            shard,
            from_round,
        }))
        .await;
    }

    /// Ends the snapshot, and waits until the executor has it.
    pub async fn synced(&mut self) {
        self.send(Update::Synced(true)).await;
        self.mute.store(false, Ordering::Relaxed);
        loop {
            let reply = self.reply().await;
            if matches!(reply, v1::pending_reply::Reply::Synced(true)) {
                return;
            }
        }
    }

    pub async fn reply(&mut self) -> v1::pending_reply::Reply {
        let reply = tokio::time::timeout(Duration::from_secs(10), self.replies.message());
        let reply = reply.await.expect("a reply in time").unwrap();
        reply.expect("the stream goes on").reply.unwrap()
    }

    pub async fn refused(&mut self) -> v1::PendingRefused {
        loop {
            if let v1::pending_reply::Reply::Refused(refused) = self.reply().await {
                return refused;
            }
        }
    }
}

/// Subscribes to a feed; waits until the executor knows its chain.
pub async fn subscribe(
    to: SocketAddr,
    shards: (u32, u32),
    from_round: u64,
) -> Result<Streaming<v1::FeedItem>, tonic::Status> {
    let mut client = FeedClient::connect(format!("http://{to}"))
        .await
        .unwrap()
        .max_decoding_message_size(64 << 20);
    loop {
        let request = v1::SubscribeRequest {
            first_shard: shards.0,
            last_shard: shards.1,
            from_round,
            peer: "test".to_owned(),
        };
        match client.subscribe(request).await {
            Err(status) if status.code() == tonic::Code::Unavailable => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            answer => return answer.map(tonic::Response::into_inner),
        }
    }
}

/// A store and executors `e0`, `e1`, ... that own every shard.
pub async fn cluster(
    genesis: &Genesis,
    executors: usize,
) -> (FakeStore, SocketAddr, Vec<ExecutorHandle>) {
    let (store, addr) = FakeStore::start(genesis.clone()).await;
    let mut handles = Vec::new();
    for n in 0..executors {
        let last = genesis.config.shards - 1;
        handles.push(executor(&format!("e{n}"), addr, (0, last)).await);
    }
    (store, addr, handles)
}
