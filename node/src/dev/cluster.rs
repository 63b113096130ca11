//! A whole cluster in this process, on loopback: started in the order in which the parts need each other, stopped in
//! the opposite one.

use super::genesis::genesis;
use super::members::{start_members, stop_members};
use super::ports::{Ports, free_ports, loopback};
use crate::cli::{DevArgs, PolicyName, ReplayArgs};
use crate::execution::mainnet::MainnetBlock;
use crate::executor::{Executor, ExecutorConfig, ExecutorHandle};
use crate::gateway::{self, Gateway, Handle, SubmitError};
use crate::load::drive::{Submit, Untaken};
use crate::store_client::{InitOutcome, Options, StoreClient, StoreError};
use anyhow::{Context, bail};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use troika_proto::{B256, Genesis};
use troika_store::server::Server;

/// Longest that the members may take to find a leader and start the chain.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// Pause between two tries of it.
const START_PAUSE: Duration = Duration::from_millis(100);

/// What to start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The chain.
    pub genesis: Genesis,
    /// Members of the store.
    pub members: u32,
    /// Executors, each of every shard.
    pub executors: u32,
    /// Where the members keep their data; `None`: in a temporary folder.
    pub data: Option<PathBuf>,
    /// Where JSON-RPC is served.
    pub rpc: SocketAddr,
    /// How transactions are grouped.
    pub policy: PolicyName,
    /// Whether the executors make blocks, or check other producers' blocks alone.
    pub build: bool,
}

impl Plan {
    /// For `troika-node dev`.
    pub fn dev(args: &DevArgs) -> Self {
        Self {
            genesis: genesis(args.shards, args.block_time),
            members: args.members,
            executors: args.executors,
            data: args.data.clone(),
            rpc: args.rpc,
            policy: PolicyName::Writes,
            build: true,
        }
    }

    /// For `troika-node replay` of `block`.
    pub fn replay(args: &ReplayArgs, block: &MainnetBlock) -> Self {
        Self {
            genesis: block.genesis(args.shards, args.locks.into()),
            members: args.members,
            executors: args.executors,
            data: None,
            rpc: loopback(0),
            policy: args.policy,
            build: true,
        }
    }
}

/// A running cluster. To be ended with [`Cluster::stop`].
pub struct Cluster {
    plan: Plan,
    members: Vec<Server>,
    executors: Vec<ExecutorHandle>,
    configs: Vec<ExecutorConfig>,
    gateway: Handle,
    store: StoreClient,
    /// Where the executors serve, whether they run or not.
    feeds: Vec<String>,
    feed_ports: Vec<u16>,
    /// Removed at last.
    _temporary: Option<TempDir>,
}

impl Cluster {
    /// Starts the store, the chain and the gateway. Nothing is executed until [`Self::start_executors`].
    ///
    /// # Errors
    /// A port that is taken, a data folder of another chain, or members that find no leader.
    pub async fn start_without_executors(plan: Plan) -> anyhow::Result<Self> {
        // The one port that is asked for by name is looked at first, before anything is written anywhere.
        let rpc = reserve(plan.rpc)?;
        let (folder, temporary) = match &plan.data {
            Some(data) => (data.clone(), None),
            None => {
                let folder = tempfile::tempdir().context("no temporary folder")?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        let ports = Ports::kept(&folder, plan.members)?;
        let members = start_members(&folder, &ports).await?;
        let started = Self::start_on(plan, rpc, &ports).await;
        let (plan, store, gateway, feed_ports) = match started {
            Ok(started) => started,
            Err(error) => {
                stop_members(members).await;
                return Err(error);
            }
        };
        Ok(Self {
            plan,
            members,
            executors: Vec::new(),
            configs: Vec::new(),
            gateway,
            store,
            feeds: feed_ports.iter().map(|port| url(*port)).collect(),
            feed_ports,
            _temporary: temporary,
        })
    }

    /// The chain and the gateway, on members that run.
    async fn start_on(
        plan: Plan,
        rpc: SocketAddr,
        ports: &Ports,
    ) -> anyhow::Result<(Plan, StoreClient, Handle, Vec<u16>)> {
        let urls = ports.members.iter().map(|member| url(member.client));
        let store = StoreClient::new(Options::new(urls))?;
        init_chain(&store, &plan).await?;
        let feed_ports = free_ports(plan.executors as usize)?;
        let gateway = Gateway::start(gateway::Config {
            name: "gateway-1".to_owned(),
            store: store.clone(),
            executors: feed_ports.iter().map(|port| url(*port)).collect(),
            executor_tls: None,
            rpc,
            policy: plan.policy.policy(),
        })
        .await?;
        Ok((plan, store, gateway, feed_ports))
    }

    /// Starts the executors, each of every shard.
    ///
    /// # Errors
    /// A port that was taken meanwhile.
    pub async fn start_executors(&mut self) -> anyhow::Result<()> {
        self.start_executors_as(|_, _| {}).await
    }

    /// The same, each with a change of its config, by its place from 0 on.
    ///
    /// # Errors
    /// As [`Self::start_executors`].
    pub async fn start_executors_as(
        &mut self,
        change: impl Fn(usize, &mut ExecutorConfig),
    ) -> anyhow::Result<()> {
        let last = self.plan.genesis.config.shards - 1;
        let names = self.executor_names().into_iter().zip(&self.feed_ports);
        for (place, (name, port)) in names.enumerate() {
            let store = Options::new(self.store.endpoints().to_vec());
            let mut config = ExecutorConfig::new(name, store, (0, last), loopback(*port));
            config.build = self.plan.build;
            config.owners = self.plan.executors;
            change(place, &mut config);
            self.executors.push(Executor::start(config.clone()).await?);
            self.configs.push(config);
        }
        Ok(())
    }

    /// Stops one executor, by its place from 0 on. What it was started with answers [`Self::start_executor`].
    ///
    /// # Panics
    /// If there is none at that place.
    pub async fn stop_executor(&mut self, place: usize) -> ExecutorConfig {
        self.executors.remove(place).shutdown().await;
        self.configs.remove(place)
    }

    /// Starts one executor, as the last one.
    ///
    /// # Errors
    /// A port that is taken.
    pub async fn start_executor(&mut self, config: ExecutorConfig) -> anyhow::Result<()> {
        self.executors.push(Executor::start(config.clone()).await?);
        self.configs.push(config);
        Ok(())
    }

    /// The chain's beginning.
    pub fn genesis(&self) -> &Genesis {
        &self.plan.genesis
    }

    /// The executors' names, started or not.
    pub fn executor_names(&self) -> Vec<String> {
        let numbers = 1..=self.plan.executors;
        numbers.map(|number| format!("executor-{number}")).collect()
    }

    /// The executors that run.
    pub fn executors(&self) -> &[ExecutorHandle] {
        &self.executors
    }

    /// A client of all members.
    pub fn store(&self) -> &StoreClient {
        &self.store
    }

    /// Where the executors serve their feeds.
    pub fn feeds(&self) -> &[String] {
        &self.feeds
    }

    /// Where JSON-RPC is served.
    pub fn rpc(&self) -> SocketAddr {
        self.gateway.rpc_addr()
    }

    /// The gateway of this cluster.
    pub fn gateway(&self) -> &Arc<Gateway> {
        self.gateway.gateway()
    }

    /// Proposals that met a conflict, over all executors, since they were started.
    pub fn conflicts(&self) -> u64 {
        let counted = self.executors.iter().map(|executor| executor.stats());
        counted.map(|stats| stats.conflicts).sum()
    }

    /// Hands signed bytes to the gateway, without HTTP between.
    pub fn submit(&self) -> Submit {
        let gateway = self.gateway().clone();
        Arc::new(move |raw| {
            let gateway = gateway.clone();
            Box::pin(async move {
                let answers = gateway.submit(raw).await.into_iter();
                let answer = |answer: Result<B256, SubmitError>| match answer {
                    Ok(_) => Ok(()),
                    Err(error) if error.is_temporary() => Err(Untaken::Later),
                    Err(error) => Err(Untaken::Never(error.to_string())),
                };
                answers.map(answer).collect()
            })
        })
    }

    /// Stops everything in order: no more transactions, no more proposals, no more decisions.
    pub async fn stop(self) {
        self.gateway.shutdown().await;
        futures::future::join_all(self.executors.into_iter().map(ExecutorHandle::shutdown)).await;
        stop_members(self.members).await;
    }
}

/// Starts the chain, or sees that it is the one that is there.
async fn init_chain(store: &StoreClient, plan: &Plan) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        match store.init_chain(&plan.genesis).await {
            Ok(InitOutcome::Running(..)) => return Ok(()),
            Ok(InitOutcome::Refused(refusal)) => {
                let folder = plan.data.as_deref().unwrap_or(Path::new("the data folder"));
                bail!(
                    "{} holds another chain ({}): give the options that it was made with, or choose another folder",
                    folder.display(),
                    refusal.message
                );
            }
            Err(error @ StoreError::Unavailable { .. }) if Instant::now() > deadline => {
                return Err(error).context("the members do not come up");
            }
            Err(StoreError::Unavailable { .. }) => sleep(START_PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sees that `address` is free, and gives it a port if it has none.
fn reserve(address: SocketAddr) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address)
        .with_context(|| format!("{address} cannot be used for JSON-RPC (see --rpc)"))?;
    Ok(listener.local_addr()?)
}

fn url(port: u16) -> String {
    format!("http://{}", loopback(port))
}
