//! A chain for the gateway's tests: a store in memory whose blocks are made by hand, and an executor that notes what it is
//! told.

use crate::execution::Transaction;
use crate::testing::FakeStore;
use alloy_primitives::{Address, B256, Bytes, U256};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use troika_proto::wire::{address_bytes, hash_bytes};
use troika_proto::{ChainConfig, Genesis, GenesisAccount, LockKey, LockRule, Spec, v1};

pub(super) const CHAIN_ID: u64 = 1947;
pub(super) const SHARDS: u32 = 4;
/// Emits one log with one topic and reverts with a reason where the call data says so: see `contract_code`.
pub(super) const CONTRACT: Address = Address::repeat_byte(0xcc);

/// Emits logs without topics for as long as there is gas.
pub(super) const LOGGER: Address = Address::repeat_byte(0xdd);

type Replies = mpsc::UnboundedSender<Result<v1::PendingReply, Status>>;
type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The chain's store and its one executor. Cheap to clone.
#[derive(Clone)]
pub(super) struct Fake {
    store: FakeStore,
    genesis: Genesis,
    /// What gateways have sent to the executor.
    updates: mpsc::UnboundedSender<v1::pending_update::Update>,
    /// Where replies of the executor go.
    replies: Arc<Mutex<Option<Replies>>>,
}

/// Where a gateway finds the two.
pub(super) struct Addresses {
    pub(super) store: SocketAddr,
    pub(super) executor: SocketAddr,
}

/// Without call data: LOG1 with topic 7. With any: REVERT with nothing.
fn contract_code() -> Bytes {
    // CALLDATASIZE PUSH1 11 JUMPI PUSH1 7 PUSH0 PUSH0 LOG1 STOP  JUMPDEST PUSH0 PUSH0 REVERT
    Bytes::from_static(&[
        0x36, 0x60, 0x09, 0x57, 0x60, 0x07, 0x5f, 0x5f, 0xa1, 0x5b, 0x36, 0x60, 0x10, 0x57, 0x00,
        0x00, 0x5b, 0x5f, 0x5f, 0xfd,
    ])
}

fn genesis(rich: &[Address]) -> Genesis {
    let config = ChainConfig {
        chain_id: CHAIN_ID,
        shards: SHARDS,
        shard_gas_limit: 30_000_000,
        lock_rule: LockRule::Commuting,
        elasticity: 2,
        beneficiary: Address::repeat_byte(0xfe),
        propose_after_ms: 0,
        seal_after_ms: 1000,
        seconds_per_slot: 0,
        spec: Spec::Osaka,
        genesis_base_fee: 1_000_000_000,
        genesis_timestamp: 1_700_000_000,
        registry: Address::ZERO,
        epoch_length: 0,
        share_cap: 0,
        fixed: None,
    };
    let mut accounts = BTreeMap::new();
    for address in rich {
        let account = GenesisAccount {
            balance: U256::from(10).pow(U256::from(21)),
            ..Default::default()
        };
        accounts.insert(*address, account);
    }
    let contract = GenesisAccount {
        nonce: 1,
        code: contract_code(),
        storage: BTreeMap::from([(U256::from(5), U256::from(55))]),
        ..Default::default()
    };
    accounts.insert(CONTRACT, contract);
    // JUMPDEST PUSH0 PUSH0 LOG0 GAS PUSH2 5000 LT PUSH0 JUMPI STOP
    let code = Bytes::from_static(&[
        0x5b, 0x5f, 0x5f, 0xa0, 0x5a, 0x61, 0x13, 0x88, 0x10, 0x5f, 0x57, 0x00,
    ]);
    let logger = GenesisAccount {
        nonce: 1,
        code,
        ..Default::default()
    };
    accounts.insert(LOGGER, logger);
    Genesis { config, accounts }
}

impl Fake {
    /// A chain on which `rich` own a thousand ether each.
    pub(super) async fn start(
        rich: &[Address],
    ) -> (
        Self,
        Addresses,
        mpsc::UnboundedReceiver<v1::pending_update::Update>,
    ) {
        let genesis = genesis(rich);
        let (store, store_address) = FakeStore::start(genesis.clone()).await;
        let (updates, sent) = mpsc::unbounded_channel();
        let fake = Self {
            store,
            genesis,
            updates,
            replies: Arc::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = Addresses {
            store: store_address,
            executor: listener.local_addr().unwrap(),
        };
        let server = tonic::transport::Server::builder()
            .add_service(v1::feed_server::FeedServer::new(fake.clone()))
            .add_service(v1::pool_server::PoolServer::new(fake.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        (fake, addresses, sent)
    }

    /// Seals a block of these shards; the missing ones are empty. Every transaction must be executable.
    pub(super) fn seal(&self, shards: &[Vec<Arc<Transaction>>]) -> B256 {
        self.store.seal(shards)
    }

    /// How often state was read from the store.
    pub(super) fn state_reads(&self) -> usize {
        self.store.state().state_reads
    }

    /// How often a shard was read from the store.
    pub(super) fn shard_reads(&self) -> usize {
        self.store.state().shard_reads
    }

    /// The store forgets a block.
    pub(super) fn prune(&self, block: B256) {
        self.store.state().blocks.remove(&block);
    }

    /// The executor leaves a transaction out of shard 0, since `holder` holds its sender's account.
    pub(super) fn refuse(&self, tx: &Transaction, round: u64, holder: u32) {
        let key = LockKey::account(tx.sender);
        let held = v1::LockHolder {
            key: Some(key.into()),
            shard: holder,
            revision: 1,
        };
        let refused = v1::PendingRefused {
            hash: hash_bytes(tx.hash),
            round,
            shard: 0,
            held: vec![held],
            ..v1::PendingRefused::default()
        };
        let reply = v1::PendingReply {
            reply: Some(v1::pending_reply::Reply::Refused(refused)),
        };
        let replies = self.replies.lock().unwrap();
        replies
            .as_ref()
            .expect("connected")
            .send(Ok(reply))
            .unwrap();
    }
}

/// Methods that no gateway calls, written out as `async_trait` would: it does not look into macros.
macro_rules! not_asked {
    ($($name:ident: $request:ident => $response:ident),* $(,)?) => {$(
        fn $name<'life0, 'async_trait>(
            &'life0 self,
            _: Request<v1::$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<v1::$response>, Status>> + Send + 'async_trait>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($name))) })
        }
    )*};
}

#[tonic::async_trait]
impl v1::feed_server::Feed for Fake {
    type SubscribeStream = BoxStream<v1::FeedItem>;

    async fn subscribe(
        &self,
        _: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Err(Status::unimplemented("subscribe"))
    }

    async fn info(
        &self,
        _: Request<v1::FeedInfoRequest>,
    ) -> Result<Response<v1::FeedInfo>, Status> {
        Ok(Response::new(v1::FeedInfo {
            executor: "executor-1".to_owned(),
            first_shard: 0,
            last_shard: SHARDS - 1,
            genesis_hash: hash_bytes(self.genesis.header().hash()),
            config: Some((&self.genesis.config).into()),
            newest_round: 0,
            oldest_round: 0,
        }))
    }

    not_asked! { stats: FeedInfoRequest => ExecutorStats }
}

#[tonic::async_trait]
impl v1::pool_server::Pool for Fake {
    type PendingStream = BoxStream<v1::PendingReply>;

    async fn pending(
        &self,
        request: Request<Streaming<v1::PendingUpdate>>,
    ) -> Result<Response<Self::PendingStream>, Status> {
        let (out, replies) = mpsc::unbounded_channel();
        *self.replies.lock().unwrap() = Some(out);
        let (mut stream, updates) = (request.into_inner(), self.updates.clone());
        tokio::spawn(async move {
            while let Some(Ok(message)) = stream.next().await {
                if message
                    .update
                    .is_none_or(|update| updates.send(update).is_err())
                {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(
            replies,
        ))))
    }
}

/// The sender of an added batch, where an update is one.
pub(super) fn added(update: &v1::pending_update::Update) -> Option<(&v1::PendingAdd, Address)> {
    match update {
        v1::pending_update::Update::Add(add) => Some((add, Address::from_slice(&add.sender))),
        _ => None,
    }
}

/// An address on the wire, for comparing.
pub(super) fn on_wire(address: Address) -> bytes::Bytes {
    address_bytes(address)
}
