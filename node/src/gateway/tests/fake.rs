//! A chain for the gateway's tests: the store's and an executor's gRPC over real sockets, with blocks made by hand.

use crate::execution::{Builder, MemoryView, Rules, StateView, Transaction};
use alloy_primitives::{Address, B256, Bytes, U256};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnboundedReceiverStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use troika_proto::wire::{address_bytes, hash_bytes, number_bytes};
use troika_proto::{
    BlockTotals, ChainConfig, Diff, Genesis, GenesisAccount, Header, LockKey, LockRule, Shard,
    Spec, v1,
};

pub(super) const CHAIN_ID: u64 = 1947;
pub(super) const SHARDS: u32 = 4;
/// Emits one log with one topic and reverts with a reason where the call data says so: see `contract_code`.
pub(super) const CONTRACT: Address = Address::repeat_byte(0xcc);

type Replies = mpsc::UnboundedSender<Result<v1::PendingReply, Status>>;
type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct Block {
    hash: B256,
    header: Header,
    shards: Vec<Shard>,
    diff: Diff,
    fees: U256,
    /// The state after it.
    view: MemoryView,
}

/// The fake. Cheap to clone.
#[derive(Clone)]
pub(super) struct Fake {
    config: ChainConfig,
    blocks: Arc<Mutex<Vec<Block>>>,
    events: Arc<Mutex<Vec<v1::Event>>>,
    count: watch::Sender<usize>,
    /// What gateways have sent to the executor.
    updates: mpsc::UnboundedSender<v1::pending_update::Update>,
    /// Where replies of the executor go.
    replies: Arc<Mutex<Option<Replies>>>,
}

/// Without call data: LOG1 with topic 7. With any: REVERT with nothing.
fn contract_code() -> Bytes {
    // CALLDATASIZE PUSH1 11 JUMPI PUSH1 7 PUSH0 PUSH0 LOG1 STOP  JUMPDEST PUSH0 PUSH0 REVERT
    Bytes::from_static(&[
        0x36, 0x60, 0x09, 0x57, 0x60, 0x07, 0x5f, 0x5f, 0xa1, 0x5b, 0x36, 0x60, 0x10, 0x57, 0x00,
        0x00, 0x5b, 0x5f, 0x5f, 0xfd,
    ])
}

impl Fake {
    /// A chain on which `rich` own a thousand ether each, served at the returned address.
    pub(super) async fn start(
        rich: &[Address],
    ) -> (
        Self,
        SocketAddr,
        mpsc::UnboundedReceiver<v1::pending_update::Update>,
    ) {
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
        let genesis = Genesis {
            config: config.clone(),
            accounts,
        };
        let header = genesis.header();
        let block = Block {
            hash: header.hash(),
            header,
            shards: Vec::new(),
            diff: Diff::default(),
            fees: U256::ZERO,
            view: MemoryView::of(&genesis),
        };
        let (updates, sent) = mpsc::unbounded_channel();
        let fake = Self {
            config,
            blocks: Arc::new(Mutex::new(vec![block])),
            events: Arc::default(),
            count: watch::Sender::new(0),
            updates,
            replies: Arc::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(v1::state_server::StateServer::new(fake.clone()))
            .add_service(v1::rounds_server::RoundsServer::new(fake.clone()))
            .add_service(v1::feed_server::FeedServer::new(fake.clone()))
            .add_service(v1::pool_server::PoolServer::new(fake.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        (fake, address, sent)
    }

    /// Seals a block of these shards; the missing ones are empty. Every transaction must be executable.
    pub(super) fn seal(&self, shards: &[Vec<Arc<Transaction>>]) -> B256 {
        let mut blocks = self.blocks.lock().unwrap();
        let parent = blocks.last().unwrap();
        let clock_ms = (parent.header.timestamp + 1) * 1000;
        let environment = self
            .config
            .environment(&parent.header, parent.hash, clock_ms);
        let mut sealed = Vec::new();
        let mut diff = Diff::default();
        for index in 0..SHARDS {
            let rules = Rules::of(&self.config);
            let mut builder = Builder::new(rules, environment.clone(), &parent.view);
            for tx in shards.get(index as usize).into_iter().flatten() {
                let pushed = builder.push(tx).unwrap();
                assert!(pushed.is_included(), "{pushed:?}");
            }
            let shard = builder.finish(index);
            diff.merge(&shard.body.diff).unwrap();
            sealed.push(shard);
        }
        let hashes: Vec<B256> = sealed.iter().map(|shard| shard.hash).collect();
        let totals = BlockTotals::of(sealed.iter().map(|shard| &shard.header), &hashes);
        let header = Header {
            parent_hash: parent.hash,
            beneficiary: environment.beneficiary,
            state_root: B256::ZERO,
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
            parent_beacon_root: B256::ZERO,
        };
        let mut view = parent.view.clone();
        view.apply(&diff).unwrap();
        view.credit(self.config.beneficiary, totals.fees).unwrap();
        let hash = header.hash();
        let number = header.number;
        let event = v1::RoundSealed {
            round: number,
            block_hash: hash_bytes(hash),
            header: Some((&header).into()),
            shard_hashes: hashes.into_iter().map(hash_bytes).collect(),
            head: true,
        };
        blocks.push(Block {
            hash,
            header,
            shards: sealed,
            diff,
            fees: totals.fees,
            view,
        });
        drop(blocks);
        let mut events = self.events.lock().unwrap();
        let revision = events.len() as u64 + 1;
        events.push(v1::Event {
            id: Some(v1::EventId {
                revision,
                ordinal: 0,
            }),
            kind: Some(v1::event::Kind::RoundSealed(event)),
        });
        self.count.send_replace(events.len());
        hash
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
            reason: String::new(),
            drop: false,
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

    fn meta(&self) -> Option<v1::ReplyMeta> {
        Some(v1::ReplyMeta {
            revision: self.events.lock().unwrap().len() as u64,
            ..Default::default()
        })
    }

    fn winner(shard: &Shard) -> Option<v1::Winner> {
        let executor = if shard.header.is_empty() {
            ""
        } else {
            "executor-1"
        };
        Some(v1::Winner {
            shard_hash: hash_bytes(shard.hash),
            executor: executor.to_owned(),
            revision: 1,
        })
    }
}

fn none() -> Status {
    Status::not_found("no such thing")
}

#[tonic::async_trait]
impl v1::state_server::State for Fake {
    async fn head(
        &self,
        _: Request<v1::HeadRequest>,
    ) -> Result<Response<v1::HeadResponse>, Status> {
        let meta = self.meta();
        let blocks = self.blocks.lock().unwrap();
        let head = blocks.last().unwrap();
        Ok(Response::new(v1::HeadResponse {
            meta,
            config: Some((&self.config).into()),
            genesis_hash: hash_bytes(blocks[0].hash),
            block_hash: hash_bytes(head.hash),
            header: Some((&head.header).into()),
            cluster_id: vec![1; 16].into(),
            ..Default::default()
        }))
    }

    async fn block(
        &self,
        request: Request<v1::BlockRequest>,
    ) -> Result<Response<v1::BlockResponse>, Status> {
        use v1::block_request::Which;
        let blocks = self.blocks.lock().unwrap();
        let found = match request.into_inner().which {
            Some(Which::Hash(hash)) => blocks.iter().find(|b| hash_bytes(b.hash) == hash),
            Some(Which::Number(number)) => blocks.get(number as usize),
            None => None,
        };
        let block = found.ok_or_else(none)?;
        let shards = block.shards.iter().map(|shard| v1::BlockShard {
            index: shard.header.index,
            winner: Self::winner(shard),
            header: Some((&shard.header).into()),
        });
        Ok(Response::new(v1::BlockResponse {
            meta: None,
            hash: hash_bytes(block.hash),
            header: Some((&block.header).into()),
            round: block.header.number,
            shards: shards.collect(),
            canonical: true,
        }))
    }

    async fn shard(
        &self,
        request: Request<v1::ShardRequest>,
    ) -> Result<Response<v1::ShardResponse>, Status> {
        let request = request.into_inner();
        let blocks = self.blocks.lock().unwrap();
        let block = blocks.get(request.round as usize).ok_or_else(none)?;
        let shard = block.shards.get(request.shard as usize).ok_or_else(none)?;
        let mut body = v1::ShardBody::from(&shard.body);
        if !request.diff {
            body.diff = None;
        }
        Ok(Response::new(v1::ShardResponse {
            meta: None,
            winner: Self::winner(shard),
            header: Some((&shard.header).into()),
            body: Some(body),
        }))
    }

    async fn read(
        &self,
        request: Request<v1::ReadRequest>,
    ) -> Result<Response<v1::ReadResponse>, Status> {
        let request = request.into_inner();
        let blocks = self.blocks.lock().unwrap();
        let found = blocks.iter().find(|b| hash_bytes(b.hash) == request.block);
        let view = &found.ok_or_else(none)?.view;
        let value = |key: &v1::StateKey| {
            let address = Address::from_slice(&key.address);
            if !key.slot.is_empty() {
                let slot = view.slot(address, U256::from_be_slice(&key.slot)).unwrap();
                return v1::StateValue {
                    slot: number_bytes(slot),
                    ..Default::default()
                };
            }
            let Some(account) = view.account(address).unwrap() else {
                return v1::StateValue::default();
            };
            let code = account.has_code().then(|| hash_bytes(account.code_hash));
            v1::StateValue {
                exists: true,
                balance: number_bytes(account.balance),
                nonce: account.nonce,
                code_hash: code.unwrap_or_default(),
                slot: Default::default(),
            }
        };
        let code = |hash: &bytes::Bytes| {
            let code = view.code(B256::from_slice(hash));
            code.map(|code| code.original_bytes().into())
                .unwrap_or_default()
        };
        Ok(Response::new(v1::ReadResponse {
            meta: None,
            block: request.block.clone(),
            values: request.keys.iter().map(value).collect(),
            codes: request.codes.iter().map(code).collect(),
        }))
    }

    async fn block_diff(
        &self,
        request: Request<v1::BlockDiffRequest>,
    ) -> Result<Response<v1::BlockDiffResponse>, Status> {
        let hash = request.into_inner().block;
        let blocks = self.blocks.lock().unwrap();
        let block = blocks
            .iter()
            .find(|b| hash_bytes(b.hash) == hash)
            .ok_or_else(none)?;
        Ok(Response::new(v1::BlockDiffResponse {
            meta: None,
            diff: Some((&block.diff).into()),
            fees: number_bytes(block.fees),
            parent: hash_bytes(block.header.parent_hash),
        }))
    }

    async fn find_transaction(
        &self,
        request: Request<v1::FindTransactionRequest>,
    ) -> Result<Response<v1::FindTransactionResponse>, Status> {
        let hash = B256::from_slice(&request.into_inner().hash);
        let blocks = self.blocks.lock().unwrap();
        let mut places = Vec::new();
        for block in blocks.iter() {
            for shard in &block.shards {
                let hashes = shard
                    .body
                    .transactions
                    .iter()
                    .map(alloy_primitives::keccak256);
                let index = hashes.enumerate().find(|(_, h)| *h == hash);
                places.extend(index.map(|(index, _)| v1::TransactionPlace {
                    block_hash: hash_bytes(block.hash),
                    block_number: block.header.number,
                    round: block.header.number,
                    shard: shard.header.index,
                    index: index as u32,
                    canonical: true,
                }));
            }
        }
        Ok(Response::new(v1::FindTransactionResponse {
            meta: None,
            places,
        }))
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
impl v1::rounds_server::Rounds for Fake {
    type SubmitStreamStream = BoxStream<v1::SubmitStreamResponse>;
    type WatchStream = BoxStream<v1::WatchResponse>;

    async fn submit_stream(
        &self,
        _: Request<Streaming<v1::SubmitRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        Err(Status::unimplemented("submit_stream"))
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let after = request.into_inner().after.unwrap_or_default().revision as usize;
        let (out, stream) = mpsc::channel(16);
        let (events, mut count) = (self.events.clone(), self.count.subscribe());
        tokio::spawn(async move {
            let mut sent = after;
            loop {
                let new = events
                    .lock()
                    .unwrap()
                    .get(sent..)
                    .unwrap_or_default()
                    .to_vec();
                sent += new.len();
                let reply = v1::WatchResponse {
                    meta: None,
                    events: new,
                    progress: Some(v1::EventId {
                        revision: sent as u64,
                        ordinal: u32::MAX,
                    }),
                };
                if out.send(Ok(reply)).await.is_err() || count.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    not_asked! {
        open: OpenRoundRequest => OpenRoundResponse,
        submit: SubmitRequest => SubmitResponse,
        acquire_locks: AcquireLocksRequest => AcquireLocksResponse,
        get: GetRoundRequest => GetRoundResponse,
        list: ListRoundsRequest => ListRoundsResponse,
        list_locks: ListLocksRequest => ListLocksResponse,
        seal: SealRoundRequest => SealRoundResponse,
        void: VoidRoundRequest => VoidRoundResponse,
    }
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
            genesis_hash: hash_bytes(self.blocks.lock().unwrap()[0].hash),
            config: Some((&self.config).into()),
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
