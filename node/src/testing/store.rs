//! A store in memory, at gRPC: one process, no log, but the store's rules as far as an executor or a gateway can tell.
//!
//! It keeps to the order of checks (closed, decided, conflict, accept), is write-once, seals with the last shard, makes
//! blocks by hand ([`FakeStore::seal`]), and has switches for what a test wants to go wrong.

use crate::execution::{Builder, MemoryView, Rules, StateView, Transaction};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use troika_proto::limits::MAX_MESSAGE_BYTES;
use troika_proto::wire::{hash_bytes, number_bytes};
use troika_proto::{
    B256, BlockTotals, Diff, Genesis, Header, LockKey, Shard, ShardBody, ShardHeader, U256, v1,
};
use v1::event::Kind;

pub struct RoundRecord {
    pub opened: Instant,
    pub environment: troika_proto::Environment,
    pub parent: B256,
    pub winners: BTreeMap<u32, v1::Winner>,
    pub shards: BTreeMap<u32, Shard>,
    pub locks: HashMap<LockKey, (u32, u64)>,
    pub block: Option<B256>,
    pub opener: String,
    /// As the opener asked for them.
    pub reservations: Vec<(LockKey, u32)>,
}

pub struct BlockRecord {
    pub header: Header,
    pub round: u64,
    state: MemoryView,
    diff: Diff,
    fees: U256,
}

pub struct State {
    pub genesis: Genesis,
    pub rounds: BTreeMap<u64, RoundRecord>,
    pub blocks: HashMap<B256, BlockRecord>,
    pub head: B256,
    events: Vec<v1::Event>,
    revision: u64,
    /// (round, shard, executor, transactions, was it accepted) of every submission, in order.
    pub submissions: Vec<(u64, u32, String, usize, bool)>,
    /// ((round, shard), executor) of every alarm.
    pub dissent: Vec<((u64, u32), String)>,
    pub state_reads: usize,
    pub shard_reads: usize,
}

#[derive(Clone)]
pub struct FakeStore {
    state: Arc<Mutex<State>>,
    version: watch::Sender<u64>,
    /// Refuse every call, as a store without a majority does.
    pub down: Arc<AtomicBool>,
    /// Accept nothing and seal nothing.
    pub frozen: Arc<AtomicBool>,
}

impl FakeStore {
    pub async fn start(genesis: Genesis) -> (Self, SocketAddr) {
        let header = genesis.header();
        let head = header.hash();
        let block = BlockRecord {
            header,
            round: 0,
            state: MemoryView::of(&genesis),
            diff: Diff::default(),
            fees: U256::ZERO,
        };
        let store = Self {
            state: Arc::new(Mutex::new(State {
                genesis,
                rounds: BTreeMap::new(),
                blocks: HashMap::from([(head, block)]),
                head,
                events: Vec::new(),
                revision: 1,
                submissions: Vec::new(),
                dissent: Vec::new(),
                state_reads: 0,
                shard_reads: 0,
            })),
            version: watch::Sender::new(0),
            down: Arc::default(),
            frozen: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let rounds = v1::rounds_server::RoundsServer::new(store.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let state = v1::state_server::StateServer::new(store.clone());
        let server = tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .add_service(rounds)
            .add_service(state)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        (store, addr)
    }

    /// Seals a block of these transactions on the head, a second after it; the missing shards are empty. Every
    /// transaction must be executable.
    pub fn seal(&self, shards: &[Vec<Arc<Transaction>>]) -> B256 {
        let mut state = self.state();
        let head = state.head;
        let clock_ms = (state.blocks[&head].header.timestamp + 1) * 1000;
        let number = state.open("by-hand", clock_ms);
        let config = state.genesis.config.clone();
        let environment = state.rounds[&number].environment.clone();
        let mut kinds = Vec::new();
        for index in 0..config.shards {
            let shard = {
                let rules = Rules::of(&config);
                let view = &state.blocks[&head].state;
                let mut builder = Builder::new(rules, environment.clone(), view);
                for tx in shards.get(index as usize).into_iter().flatten() {
                    let pushed = builder.push(tx).unwrap();
                    assert!(pushed.is_included(), "{pushed:?}");
                }
                builder.finish(index)
            };
            let executor = if shard.header.is_empty() {
                ""
            } else {
                "executor-1"
            };
            kinds.extend(state.accept(number, index, executor, shard));
        }
        kinds.extend(state.seal_if_complete(number));
        state.happened(kinds);
        let sealed = state.head;
        drop(state);
        self.announce();
        sealed
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Waits until `look` answers something; fails the test after a minute.
    pub async fn until<R>(&self, what: &str, look: impl Fn(&State) -> Option<R>) -> R {
        let mut changes = self.version.subscribe();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            changes.borrow_and_update();
            if let Some(result) = look(&self.state()) {
                return result;
            }
            let _ = tokio::time::timeout(Duration::from_millis(50), changes.changed()).await;
            assert!(Instant::now() < deadline, "waited in vain: {what}");
        }
    }

    fn up(&self) -> Result<MutexGuard<'_, State>, Status> {
        if self.down.load(Ordering::Acquire) {
            return Err(Status::unavailable("no leader"));
        }
        Ok(self.state())
    }

    fn announce(&self) {
        self.version.send_modify(|v| *v += 1);
    }
}

impl State {
    fn meta(&self) -> Option<v1::ReplyMeta> {
        Some(v1::ReplyMeta {
            revision: self.revision,
            ..v1::ReplyMeta::default()
        })
    }

    fn happened(&mut self, kinds: Vec<Kind>) {
        self.revision += 1;
        for (ordinal, kind) in kinds.into_iter().enumerate() {
            self.events.push(v1::Event {
                id: Some(v1::EventId {
                    revision: self.revision,
                    ordinal: ordinal as u32,
                }),
                kind: Some(kind),
            });
        }
    }

    fn wire_round(&self, number: u64) -> Option<v1::Round> {
        let round = self.rounds.get(&number)?;
        let config = &self.genesis.config;
        let winners = round.winners.iter().map(|(shard, winner)| v1::ShardStatus {
            shard: *shard,
            winner: Some(winner.clone()),
        });
        Some(v1::Round {
            round: number,
            kind: v1::RoundKind::Build.into(),
            status: match round.block {
                Some(_) => v1::RoundStatus::Sealed.into(),
                None => v1::RoundStatus::Open.into(),
            },
            parent: hash_bytes(round.parent),
            environment: Some((&round.environment).into()),
            opener: round.opener.clone(),
            winners: winners.collect(),
            block_hash: round.block.map(hash_bytes).unwrap_or_default(),
            propose_after_ms: config.propose_after_ms,
            seal_after_ms: config.seal_after_ms,
            shards: config.shards,
            ..v1::Round::default()
        })
    }

    pub fn open_round(&self) -> Option<u64> {
        let open = self.rounds.iter().rev().find(|(_, r)| r.block.is_none());
        open.map(|(number, _)| *number)
    }

    /// Transactions of a round's accepted shards: (shard, hash).
    pub fn included(&self, round: u64) -> Vec<(u32, B256)> {
        let shards = self.rounds.get(&round).into_iter().flat_map(|r| &r.shards);
        shards
            .flat_map(|(index, shard)| {
                let hash = |raw| alloy_primitives::keccak256(raw);
                let hashes = shard.body.transactions.iter().map(hash);
                hashes.map(|hash| (*index, hash)).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Rounds that include the transaction, and where.
    pub fn places(&self, hash: B256) -> Vec<(u64, u32)> {
        let rounds = self.rounds.keys().flat_map(|round| {
            let included = self.included(*round).into_iter();
            let here = included.filter(|(_, h)| *h == hash);
            here.map(|(shard, _)| (*round, shard)).collect::<Vec<_>>()
        });
        rounds.collect()
    }

    /// Opens a round on the head.
    fn open(&mut self, opener: &str, clock_ms: u64) -> u64 {
        let number = self.rounds.keys().last().copied().unwrap_or(0) + 1;
        let (head, config) = (self.head, &self.genesis.config);
        let environment = config.environment(&self.blocks[&head].header, head, clock_ms);
        let round = RoundRecord {
            opened: Instant::now(),
            environment,
            parent: head,
            winners: BTreeMap::new(),
            shards: BTreeMap::new(),
            locks: HashMap::new(),
            block: None,
            opener: opener.to_owned(),
            reservations: Vec::new(),
        };
        self.rounds.insert(number, round);
        let round = self.wire_round(number).unwrap();
        self.happened(vec![Kind::RoundOpened(round)]);
        number
    }

    fn reserve(&mut self, number: u64, asked: &[v1::Reservation]) -> Result<(), Status> {
        let revision = self.revision;
        let round = self.rounds.get_mut(&number).unwrap();
        for one in asked {
            let key = one.key.as_ref().map(LockKey::try_from);
            let key = key.ok_or_else(|| Status::invalid_argument("key"))?;
            let key = key.map_err(|e| Status::invalid_argument(e.to_string()))?;
            round.reservations.push((key, one.shard));
            round.locks.insert(key, (one.shard, revision));
        }
        Ok(())
    }

    fn accept(&mut self, number: u64, index: u32, executor: &str, shard: Shard) -> Vec<Kind> {
        let revision = self.revision + 1;
        let rule = self.genesis.config.lock_rule;
        let round = self.rounds.get_mut(&number).unwrap();
        // What was reserved and is not needed goes.
        round.locks.retain(|_, (holder, _)| *holder != index);
        for key in shard.body.diff.lock_keys(rule) {
            round.locks.insert(key, (index, revision));
        }
        let winner = v1::Winner {
            shard_hash: hash_bytes(shard.hash),
            executor: executor.to_owned(),
            revision,
        };
        round.winners.insert(index, winner.clone());
        round.shards.insert(index, shard);
        vec![Kind::ShardAccepted(v1::ShardAccepted {
            round: number,
            shard: index,
            winner: Some(winner),
        })]
    }

    fn seal_if_complete(&mut self, number: u64) -> Option<Kind> {
        let round = &self.rounds[&number];
        if round.shards.len() < self.genesis.config.shards as usize {
            return None;
        }
        let parent = &self.blocks[&round.parent];
        let hashes: Vec<B256> = round.shards.values().map(|s| s.hash).collect();
        let totals = BlockTotals::of(round.shards.values().map(|s| &s.header), &hashes);
        let mut diff = Diff::default();
        for shard in round.shards.values() {
            diff.merge(&shard.body.diff)
                .expect("accepted shards are disjoint");
        }
        let environment = &round.environment;
        let header = Header {
            parent_hash: round.parent,
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
        };
        let mut state = parent.state.clone();
        state.apply(&diff).expect("no overdraft");
        let payee = self.genesis.config.beneficiary;
        state.credit(payee, totals.fees).expect("fees fit");
        let hash = header.hash();
        let sealed = Kind::RoundSealed(v1::RoundSealed {
            round: number,
            block_hash: hash_bytes(hash),
            header: Some((&header).into()),
            shard_hashes: hashes.iter().map(|h| hash_bytes(*h)).collect(),
            head: true,
        });
        let block = BlockRecord {
            header,
            round: number,
            state,
            diff,
            fees: totals.fees,
        };
        self.blocks.insert(hash, block);
        self.head = hash;
        if let Some(round) = self.rounds.get_mut(&number) {
            round.block = Some(hash);
        }
        Some(sealed)
    }
}

fn bytes_hash(bytes: &[u8]) -> B256 {
    B256::try_from(bytes).expect("32 bytes")
}

fn refusal(code: v1::RefusalCode) -> v1::Refusal {
    v1::Refusal {
        code: code.into(),
        message: "fake".to_owned(),
    }
}

#[tonic::async_trait]
impl v1::rounds_server::Rounds for FakeStore {
    async fn open(
        &self,
        request: Request<v1::OpenRoundRequest>,
    ) -> Result<Response<v1::OpenRoundResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.up()?;
        let head = state.head;
        if !request.parent.is_empty() && bytes_hash(&request.parent) != head {
            let refusal = Some(refusal(v1::RefusalCode::WrongParent));
            return Ok(Response::new(v1::OpenRoundResponse {
                meta: state.meta(),
                refusal,
                ..Default::default()
            }));
        }
        let (number, opened) = match state.open_round() {
            Some(number) => (number, false),
            None => {
                let number = state.open(&request.opener, request.clock_ms);
                state.reserve(number, &request.reservations)?;
                (number, true)
            }
        };
        let reply = v1::OpenRoundResponse {
            meta: state.meta(),
            round: state.wire_round(number),
            opened,
            refusal: None,
        };
        drop(state);
        self.announce();
        Ok(Response::new(reply))
    }

    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        use v1::submit_response::Outcome;
        let request = request.into_inner();
        if self.frozen.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
        let mut state = self.up()?;
        let rule = state.genesis.config.lock_rule;
        let header = ShardHeader::try_from(&request.header.unwrap_or_default())
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let body = ShardBody::try_from(&request.body.unwrap_or_default())
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let shard = Shard::check(header, body, rule)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let hash = hash_bytes(shard.hash);
        let count = shard.body.transactions.len();
        let (number, index) = (request.round, request.shard);
        let (outcome, accepted) = match state.rounds.get(&number) {
            None => (
                Outcome::Refusal(refusal(v1::RefusalCode::UnknownRound)),
                false,
            ),
            Some(round) => {
                let held: Vec<_> = shard
                    .body
                    .diff
                    .lock_keys(rule)
                    .into_iter()
                    .filter_map(|key| Some((key, *round.locks.get(&key)?)))
                    .filter(|(_, (holder, _))| *holder != index)
                    .map(|(key, (shard, revision))| v1::LockHolder {
                        key: Some(key.into()),
                        shard,
                        revision,
                    })
                    .collect();
                match round.winners.get(&index) {
                    Some(winner) => (Outcome::Winner(winner.clone()), false),
                    None if round.block.is_some() => (
                        Outcome::Refusal(refusal(v1::RefusalCode::RoundClosed)),
                        false,
                    ),
                    None if !held.is_empty() => (Outcome::Conflict(v1::Conflict { held }), false),
                    None => {
                        let mut kinds = state.accept(number, index, &request.executor, shard);
                        kinds.extend(state.seal_if_complete(number));
                        state.happened(kinds);
                        let winner = state.rounds[&number].winners[&index].clone();
                        (Outcome::Winner(winner), true)
                    }
                }
            }
        };
        let executor = request.executor;
        let won = matches!(&outcome, Outcome::Winner(w) if w.executor == executor && w.shard_hash == hash);
        state
            .submissions
            .push((number, index, executor, count, accepted));
        let reply = v1::SubmitResponse {
            meta: state.meta(),
            outcome: Some(outcome),
            won,
        };
        drop(state);
        self.announce();
        Ok(Response::new(reply))
    }

    type SubmitStreamStream = ReceiverStream<Result<v1::SubmitStreamResponse, Status>>;

    async fn submit_stream(
        &self,
        _request: Request<Streaming<v1::SubmitRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn acquire_locks(
        &self,
        _request: Request<v1::AcquireLocksRequest>,
    ) -> Result<Response<v1::AcquireLocksResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn get(
        &self,
        request: Request<v1::GetRoundRequest>,
    ) -> Result<Response<v1::GetRoundResponse>, Status> {
        let state = self.up()?;
        let round = state.wire_round(request.into_inner().round);
        let round = round.ok_or_else(|| Status::not_found("no such round"))?;
        Ok(Response::new(v1::GetRoundResponse {
            meta: state.meta(),
            round: Some(round),
        }))
    }

    async fn list(
        &self,
        request: Request<v1::ListRoundsRequest>,
    ) -> Result<Response<v1::ListRoundsResponse>, Status> {
        let state = self.up()?;
        let request = request.into_inner();
        let open = |number: &u64| !request.open_only || state.rounds[number].block.is_none();
        let rounds = state
            .rounds
            .range(request.from..)
            .map(|(number, _)| *number);
        let rounds = rounds.filter(open).filter_map(|n| state.wire_round(n));
        Ok(Response::new(v1::ListRoundsResponse {
            meta: state.meta(),
            rounds: rounds.collect(),
        }))
    }

    async fn list_locks(
        &self,
        request: Request<v1::ListLocksRequest>,
    ) -> Result<Response<v1::ListLocksResponse>, Status> {
        let state = self.up()?;
        let round = state.rounds.get(&request.into_inner().round);
        let round = round.ok_or_else(|| Status::not_found("no such round"))?;
        let locks: BTreeMap<_, _> = round.locks.iter().collect();
        let locks = locks
            .into_iter()
            .map(|(key, (shard, revision))| v1::LockHolder {
                key: Some((*key).into()),
                shard: *shard,
                revision: *revision,
            });
        Ok(Response::new(v1::ListLocksResponse {
            meta: state.meta(),
            locks: locks.collect(),
            more: false,
        }))
    }

    async fn seal(
        &self,
        request: Request<v1::SealRoundRequest>,
    ) -> Result<Response<v1::SealRoundResponse>, Status> {
        let number = request.into_inner().round;
        let mut state = self.up()?;
        let seal_after = Duration::from_millis(state.genesis.config.seal_after_ms);
        let shards = state.genesis.config.shards;
        let round = &state.rounds[&number];
        if round.block.is_none() {
            if round.opened.elapsed() < seal_after {
                return Ok(Response::new(v1::SealRoundResponse {
                    meta: state.meta(),
                    round: None,
                    refusal: Some(refusal(v1::RefusalCode::TooEarly)),
                }));
            }
            let mut kinds = Vec::new();
            for index in 0..shards {
                if !state.rounds[&number].winners.contains_key(&index) {
                    kinds.extend(state.accept(number, index, "", Shard::empty(index)));
                }
            }
            kinds.extend(state.seal_if_complete(number));
            state.happened(kinds);
        }
        let reply = v1::SealRoundResponse {
            meta: state.meta(),
            round: state.wire_round(number),
            refusal: None,
        };
        drop(state);
        self.announce();
        Ok(Response::new(reply))
    }

    async fn void(
        &self,
        _request: Request<v1::VoidRoundRequest>,
    ) -> Result<Response<v1::VoidRoundResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn report_dissent(
        &self,
        request: Request<v1::ReportDissentRequest>,
    ) -> Result<Response<v1::ReportDissentResponse>, Status> {
        use v1::report_dissent_response::Outcome;
        let request = request.into_inner();
        let mut state = self.up()?;
        let place = (request.round, request.shard);
        state.dissent.push((place, request.executor));
        Ok(Response::new(v1::ReportDissentResponse {
            meta: state.meta(),
            outcome: Some(Outcome::Noted(true)),
        }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        drop(self.up()?);
        let (sender, receiver) = mpsc::channel(4);
        let store = self.clone();
        tokio::spawn(async move {
            let mut changes = store.version.subscribe();
            let mut after = match request.after {
                Some(after) => (after.revision, after.ordinal),
                None => (store.state().revision, u32::MAX),
            };
            loop {
                changes.borrow_and_update();
                let reply = {
                    let state = store.state();
                    let id = |e: &v1::Event| e.id.map(|id| (id.revision, id.ordinal));
                    let events = state.events.iter().filter(|e| id(e) > Some(after));
                    let events: Vec<_> = events.cloned().collect();
                    after = after.max((state.revision, u32::MAX));
                    v1::WatchResponse {
                        meta: state.meta(),
                        events,
                        progress: Some(v1::EventId {
                            revision: after.0,
                            ordinal: after.1,
                        }),
                    }
                };
                // A store that is down cuts its streams.
                let cut = store.down.load(Ordering::Acquire);
                if cut || sender.send(Ok(reply)).await.is_err() {
                    return;
                }
                let _ = tokio::time::timeout(Duration::from_secs(1), changes.changed()).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl v1::state_server::State for FakeStore {
    async fn head(
        &self,
        _request: Request<v1::HeadRequest>,
    ) -> Result<Response<v1::HeadResponse>, Status> {
        let state = self.up()?;
        Ok(Response::new(v1::HeadResponse {
            meta: state.meta(),
            config: Some((&state.genesis.config).into()),
            genesis_hash: hash_bytes(state.genesis.header().hash()),
            block_hash: hash_bytes(state.head),
            header: Some((&state.blocks[&state.head].header).into()),
            open_round: state.open_round().unwrap_or(0),
            ..v1::HeadResponse::default()
        }))
    }

    async fn block(
        &self,
        request: Request<v1::BlockRequest>,
    ) -> Result<Response<v1::BlockResponse>, Status> {
        let state = self.up()?;
        use v1::block_request::Which;
        let hash = match request.into_inner().which {
            Some(Which::Hash(hash)) => bytes_hash(&hash),
            // There are no forks here.
            Some(Which::Number(number)) => {
                let mut blocks = state.blocks.iter();
                let found = blocks.find(|(_, block)| block.header.number == number);
                *found.ok_or_else(|| Status::not_found("no such block"))?.0
            }
            None => return Err(Status::invalid_argument("which: is missing")),
        };
        let block = state.blocks.get(&hash);
        let block = block.ok_or_else(|| Status::not_found("no such block"))?;
        let round = state.rounds.get(&block.round);
        let shards = round.into_iter().flat_map(|r| r.shards.iter());
        let shards = shards.map(|(index, shard)| v1::BlockShard {
            index: *index,
            winner: round.and_then(|r| r.winners.get(index).cloned()),
            header: Some((&shard.header).into()),
        });
        Ok(Response::new(v1::BlockResponse {
            meta: state.meta(),
            hash: hash_bytes(hash),
            header: Some((&block.header).into()),
            round: block.round,
            shards: shards.collect(),
            canonical: true,
        }))
    }

    async fn shard(
        &self,
        request: Request<v1::ShardRequest>,
    ) -> Result<Response<v1::ShardResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.up()?;
        state.shard_reads += 1;
        let round = state.rounds.get(&request.round);
        let shard = round.and_then(|r| {
            Some((
                r.winners.get(&request.shard)?,
                r.shards.get(&request.shard)?,
            ))
        });
        let (winner, shard) = shard.ok_or_else(|| Status::not_found("undecided"))?;
        let mut body = v1::ShardBody::from(&shard.body);
        if !request.diff {
            body.diff = None;
        }
        Ok(Response::new(v1::ShardResponse {
            meta: state.meta(),
            winner: Some(winner.clone()),
            header: Some((&shard.header).into()),
            body: Some(body),
        }))
    }

    async fn read(
        &self,
        request: Request<v1::ReadRequest>,
    ) -> Result<Response<v1::ReadResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.up()?;
        state.state_reads += 1;
        let hash = bytes_hash(&request.block);
        let block = state.blocks.get(&hash);
        let view = &block
            .ok_or_else(|| Status::out_of_range("the block is no longer kept"))?
            .state;
        let values = request.keys.iter().map(|key| {
            let address = troika_proto::Address::from_slice(&key.address);
            if key.slot.is_empty() {
                match view.account(address).expect("memory") {
                    None => v1::StateValue::default(),
                    Some(account) => v1::StateValue {
                        exists: true,
                        balance: number_bytes(account.balance),
                        nonce: account.nonce,
                        code_hash: if account.has_code() {
                            hash_bytes(account.code_hash)
                        } else {
                            bytes::Bytes::new()
                        },
                        slot: bytes::Bytes::new(),
                    },
                }
            } else {
                let slot = view.slot(address, U256::from_be_slice(&key.slot));
                v1::StateValue {
                    slot: number_bytes(slot.expect("memory")),
                    ..v1::StateValue::default()
                }
            }
        });
        let codes = request.codes.iter().map(|code| {
            let code = view.code(bytes_hash(code));
            code.map(|code| code.original_bytes().into())
                .unwrap_or_default()
        });
        Ok(Response::new(v1::ReadResponse {
            meta: state.meta(),
            block: request.block.clone(),
            values: values.collect(),
            codes: codes.collect(),
        }))
    }

    async fn block_diff(
        &self,
        request: Request<v1::BlockDiffRequest>,
    ) -> Result<Response<v1::BlockDiffResponse>, Status> {
        let state = self.up()?;
        let hash = bytes_hash(&request.into_inner().block);
        let block = state.blocks.get(&hash);
        let block = block.ok_or_else(|| Status::not_found("no such block"))?;
        Ok(Response::new(v1::BlockDiffResponse {
            meta: state.meta(),
            diff: Some((&block.diff).into()),
            fees: number_bytes(block.fees),
            parent: hash_bytes(block.header.parent_hash),
        }))
    }

    async fn find_transaction(
        &self,
        request: Request<v1::FindTransactionRequest>,
    ) -> Result<Response<v1::FindTransactionResponse>, Status> {
        let state = self.up()?;
        let hash = bytes_hash(&request.into_inner().hash);
        let mut places = Vec::new();
        for (number, round) in &state.rounds {
            let Some(block) = round.block else { continue };
            for (shard, accepted) in &round.shards {
                let raws = accepted.body.transactions.iter();
                let mut hashes = raws.map(alloy_primitives::keccak256);
                places.extend(
                    hashes
                        .position(|h| h == hash)
                        .map(|index| v1::TransactionPlace {
                            block_hash: hash_bytes(block),
                            block_number: state.blocks[&block].header.number,
                            round: *number,
                            shard: *shard,
                            index: index as u32,
                            canonical: true,
                        }),
                );
            }
        }
        Ok(Response::new(v1::FindTransactionResponse {
            meta: state.meta(),
            places,
        }))
    }
}
