//! A cluster in one process: members over a network in memory and disks in memory, which a test cuts and heals.
#![allow(dead_code)] // Each test binary uses a part.

pub mod blocks;
pub mod chain;
pub mod group;
pub mod network;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use troika_proto::{
    AccountDiff, Address, ChainConfig, Delta, Diff, Genesis, GenesisAccount, LockRule, Receipt,
    Shard, ShardBody, Spec, U256,
};
use troika_store::clock::{Clock, SystemClock};
use troika_store::db::OpenError;
use troika_store::db::crash::CrashDisk;
use troika_store::raft::{
    AdminError, Deps, Handle, Member, MemberConfig, Proposed, Role, StartError,
};
use troika_store::runtime::Runtime;
use troika_store::state::{AcceptShard, Command, Decision, OpenRound, OpenTarget};

use network::{Hub, Wire};

pub const SHARDS: u32 = 16;
pub const RICH: u64 = 1_000_000_000_000_000;
/// No test waits longer for anything.
pub const LONG: Duration = Duration::from_secs(20);

pub fn address(id: u64) -> String {
    format!("member-{id}:1")
}

/// A running member of a [`Cluster`].
pub struct Running {
    pub handle: Handle,
    dead: CancellationToken,
}

/// Members and what they stand on.
pub struct Cluster {
    pub hub: Arc<Hub>,
    pub disks: BTreeMap<u64, CrashDisk>,
    pub members: BTreeMap<u64, Running>,
    named: BTreeMap<u64, String>,
}

impl Cluster {
    /// Members 1 to `count`, started, with a leader.
    pub async fn start(count: u64) -> Self {
        let mut cluster = Self::named(1..=count);
        for id in 1..=count {
            cluster.run(id).await;
        }
        cluster.leader().await;
        cluster
    }

    /// Nobody runs yet.
    pub fn named(ids: impl IntoIterator<Item = u64>) -> Self {
        Self {
            hub: Arc::default(),
            disks: BTreeMap::new(),
            members: BTreeMap::new(),
            named: ids.into_iter().map(|id| (id, address(id))).collect(),
        }
    }

    pub fn config(&self, id: u64) -> MemberConfig {
        let mut config = MemberConfig::new(id, address(id), format!("client-{id}:1"));
        config.members = self.named.clone();
        config.join = !self.named.contains_key(&id);
        config.heartbeat = Duration::from_millis(60);
        config.election = Duration::from_millis(900);
        config.reserve_bytes = 0;
        config
    }

    pub async fn try_run(&mut self, config: MemberConfig) -> Result<Handle, StartError> {
        self.try_run_with(config, Arc::new(SystemClock)).await
    }

    /// Starts a member that looks at this clock.
    pub async fn try_run_with(
        &mut self,
        config: MemberConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Handle, StartError> {
        let id = config.id;
        let dead = CancellationToken::new();
        let wire = Wire {
            hub: self.hub.clone(),
            own: config.peer_addr.clone(),
            dead: dead.clone(),
        };
        let deps = Deps {
            files: Arc::new(self.disks.entry(id).or_default().clone()),
            clock,
            network: Arc::new(wire),
            observer: None,
            config: config.clone(),
        };
        let handle = Member::start(deps).await?;
        self.hub
            .doors
            .lock()
            .unwrap()
            .insert(config.peer_addr, handle.door());
        let running = Running {
            handle: handle.clone(),
            dead,
        };
        self.members.insert(id, running);
        Ok(handle)
    }

    /// Starts a member on its disk.
    pub async fn run(&mut self, id: u64) -> Handle {
        let deadline = Runtime::now() + LONG;
        loop {
            match self.try_run(self.config(id)).await {
                Ok(handle) => return handle,
                // A member that was shut down lets go of its directory when its last task has ended.
                Err(StartError::Directory(OpenError::InUse)) if Runtime::now() < deadline => {
                    Runtime::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("member {id} does not start: {error}"),
            }
        }
    }

    /// Kills a member's process: nothing of it goes out any more, to the network or to the disk.
    pub fn kill(&mut self, id: u64) {
        if let Some(running) = self.members.remove(&id) {
            running.dead.cancel();
            let address = address(id);
            self.hub.doors.lock().unwrap().remove(&address);
            self.hub
                .break_links(|from, to| from == address || to == address);
            self.disks[&id].kill();
        }
    }

    pub fn handle(&self, id: u64) -> &Handle {
        &self.members[&id].handle
    }

    /// The member that leads, once all that run agree on one that runs.
    pub async fn leader(&self) -> u64 {
        let agreed = || {
            let mut leaders = self
                .members
                .values()
                .map(|member| member.handle.position().leader);
            let first = leaders.next()?;
            let leads = self.members.get(&first)?.handle.status().role == Role::Leader;
            (leads && leaders.all(|leader| leader == first)).then_some(first)
        };
        until("a leader", agreed).await
    }

    /// All running members have applied the same.
    pub async fn settled(&self) {
        until("all members equal", || {
            let mut at = self.members.values().map(|member| {
                let position = member.handle.position();
                (
                    position.log_index,
                    position.revision,
                    member.handle.read(|machine| machine.state_hash()),
                )
            });
            let first = at.next()?;
            at.all(|other| other == first).then_some(())
        })
        .await;
    }

    pub async fn shutdown(self) {
        let stopping = self.members.values().map(|member| member.handle.shutdown());
        futures::future::join_all(stopping).await;
        // The doors hold the members, and those the network.
        self.hub.doors.lock().unwrap().clear();
    }
}

/// A wall clock that says what it is told to.
#[derive(Debug, Default)]
pub struct JumpingClock(std::sync::atomic::AtomicU64);

impl JumpingClock {
    pub fn set(&self, now_ms: u64) {
        self.0.store(now_ms, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Clock for JumpingClock {
    fn now_ms(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Waits for something, and fails the test with its name after [`LONG`].
pub async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Runtime::now() + LONG;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Runtime::now() < deadline, "waited too long for: {what}");
        Runtime::sleep(Duration::from_millis(10)).await;
    }
}

pub fn account(number: u32) -> Address {
    let mut bytes = [0x11; 20];
    bytes[16..].copy_from_slice(&(number + 1).to_be_bytes());
    bytes.into()
}

pub fn genesis() -> Genesis {
    let accounts = (0..SHARDS * 2).map(|number| {
        let rich = GenesisAccount {
            balance: U256::from(RICH),
            ..GenesisAccount::default()
        };
        (account(number), rich)
    });
    Genesis {
        config: ChainConfig {
            chain_id: 1337,
            shards: SHARDS,
            shard_gas_limit: 1 << 24,
            lock_rule: LockRule::Commuting,
            elasticity: 2,
            beneficiary: Address::repeat_byte(0xfe),
            propose_after_ms: 50,
            seal_after_ms: 100,
            seconds_per_slot: 0,
            spec: Spec::Osaka,
            genesis_base_fee: 7,
            genesis_timestamp: 1_700_000_000,
            registry: Address::ZERO,
            epoch_length: 0,
            share_cap: 0,
            fixed: None,
        },
        accounts: accounts.collect(),
    }
}

/// A proposal for `shard` of the block in which its payer's nonce becomes `nonce`. Different executors' ones differ.
pub fn proposal(round: u64, shard: u32, payer: u32, nonce: u64, executor: &str) -> Command {
    let transaction = format!("{executor} {round} {shard}").into_bytes();
    proposal_of(round, shard, payer, nonce, executor, transaction)
}

/// The same with this transaction.
pub fn proposal_of(
    round: u64,
    shard: u32,
    payer: u32,
    nonce: u64,
    executor: &str,
    transaction: Vec<u8>,
) -> Command {
    let paid = AccountDiff {
        balance: Delta::fall(U256::from(1_000_u64 + 21_000 * 1_000)),
        nonce: Some(nonce),
        ..AccountDiff::default()
    };
    let credit = AccountDiff {
        balance: Delta::rise(U256::from(1_000)),
        ..AccountDiff::default()
    };
    let diff = Diff {
        accounts: BTreeMap::from([(account(payer), paid), (account(SHARDS), credit)]),
    };
    let body = ShardBody {
        transactions: vec![transaction.into()],
        receipts: vec![Receipt {
            tx_type: 2,
            success: true,
            cumulative_gas: 21_000,
            logs: Vec::new(),
        }],
        diff,
    };
    let shard = Arc::new(Shard::new(shard, body, U256::from(5), LockRule::Commuting));
    Command::AcceptShard(AcceptShard::new(round, executor.into(), shard))
}

pub fn open_round() -> Command {
    open_round_at(0)
}

/// An opening by somebody whose clock says this.
pub fn open_round_at(clock_ms: u64) -> Command {
    Command::OpenRound(Arc::new(OpenRound {
        opener: "test".into(),
        clock_ms,
        target: OpenTarget::Build {
            parent: None,
            reservations: Vec::new(),
        },
    }))
}

pub async fn propose(handle: &Handle, command: Command) -> Proposed {
    let deadline = Runtime::now() + LONG;
    loop {
        match handle.propose_by(command.clone(), deadline).await {
            Ok(proposed) => return proposed,
            Err(error) => {
                assert!(Runtime::now() < deadline, "not decided: {error}");
                Runtime::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

pub async fn init(handle: &Handle) {
    let started = propose(handle, Command::InitChain(Arc::new(genesis()))).await;
    assert!(
        matches!(started.answer.decision, Decision::ChainStarted { .. }),
        "{started:?}"
    );
}

pub async fn open(handle: &Handle) -> u64 {
    open_at(handle, 0).await
}

pub async fn open_at(handle: &Handle, clock_ms: u64) -> u64 {
    match propose(handle, open_round_at(clock_ms))
        .await
        .answer
        .decision
    {
        Decision::Opened { round, .. } => round,
        other => panic!("no round: {other:?}"),
    }
}

/// Makes whole blocks through `handle` and returns every winner: (round, shard) -> hash.
pub async fn blocks(handle: &Handle, first_nonce: u64, count: u64) -> BTreeMap<(u64, u32), String> {
    let mut winners = BTreeMap::new();
    for nonce in first_nonce..first_nonce + count {
        let round = open(handle).await;
        let racing =
            (0..SHARDS).map(|shard| propose(handle, proposal(round, shard, shard, nonce, "a")));
        for (shard, proposed) in futures::future::join_all(racing)
            .await
            .into_iter()
            .enumerate()
        {
            match proposed.answer.decision {
                Decision::Winner(winner) => {
                    winners.insert((round, shard as u32), winner.shard_hash.to_string());
                }
                other => panic!("round {round} shard {shard} nonce {nonce}: {other:?}"),
            }
        }
    }
    winners
}

/// Asks again as long as another change is under way, or a member is not ready for this one.
pub async fn until_not_busy<F>(mut change: impl FnMut() -> F) -> Result<(), AdminError>
where
    F: Future<Output = Result<(), AdminError>>,
{
    let deadline = Runtime::now() + LONG;
    loop {
        match change().await {
            Err(AdminError::Busy(_)) if Runtime::now() < deadline => {
                Runtime::sleep(Duration::from_millis(50)).await;
            }
            done => return done,
        }
    }
}

/// Gives a member a vote, once it has caught up.
pub async fn promote(cluster: &Cluster, by: u64, id: u64) {
    let promoted = until_not_busy(|| cluster.handle(by).promote(id)).await;
    promoted.unwrap();
}
