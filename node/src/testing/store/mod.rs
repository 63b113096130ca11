//! A store in memory, at gRPC: one process, no log, but the store's rules as far as an executor or a gateway can tell.
//!
//! It keeps to the order of checks (closed, decided, conflict, accept), is write-once, seals with the last shard, makes
//! blocks by hand ([`FakeStore::seal`]), and has switches for what a test wants to go wrong.

mod chain;
mod rounds;
mod state;

use crate::execution::{Builder, MemoryView, Rules, Transaction};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use troika_proto::limits::MAX_MESSAGE_BYTES;
use troika_proto::{Address, B256, Diff, Genesis, Header, LockKey, Shard, U256, v1};

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
    /// Whose accounts were asked for.
    pub accounts_read: BTreeSet<Address>,
    pub shard_reads: usize,
    /// (round, shard) of every accepted shard that was read for its diff alone, in order.
    pub diff_reads: Vec<(u64, u32)>,
    pub block_diff_reads: usize,
}

#[derive(Clone)]
pub struct FakeStore {
    state: Arc<Mutex<State>>,
    version: watch::Sender<u64>,
    /// Refuse every call, as a store without a majority does.
    pub down: Arc<AtomicBool>,
    /// Accept nothing and seal nothing.
    pub frozen: Arc<AtomicBool>,
    /// Give no accepted shard's diff alone.
    pub no_diffs: Arc<AtomicBool>,
    /// Answer code and storage of the genesis' accounts ahead, as the store does.
    pub ahead: Arc<AtomicBool>,
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
                accounts_read: BTreeSet::new(),
                shard_reads: 0,
                diff_reads: Vec::new(),
                block_diff_reads: 0,
            })),
            version: watch::Sender::new(0),
            down: Arc::default(),
            frozen: Arc::default(),
            no_diffs: Arc::default(),
            ahead: Arc::default(),
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

fn bytes_hash(bytes: &[u8]) -> B256 {
    B256::try_from(bytes).expect("32 bytes")
}
