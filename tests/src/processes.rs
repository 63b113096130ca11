//! A cluster of real processes on loopback, to be killed and started again.
//!
//! Every process is started from the binaries that cargo built beside the test, writes its log into the cluster's
//! temporary folder, and dies with the [`Processes`] that owns it. Ports are free ones, and a process keeps its own when
//! it is started again.

use anyhow::{Context, bail};
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use troika_node::store_client::{InitOutcome, Options, StoreClient};
use troika_proto::Genesis;

/// Longest that a cluster may take from the first process to the first block.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two looks at something that is waited for.
pub const POLL: Duration = Duration::from_millis(50);

/// The binary of that name, built beside this test; built now where it is not there.
///
/// # Panics
/// If it cannot be built.
pub fn binary(name: &str) -> PathBuf {
    // The test runs as target/<profile>/deps/<test>-<hash>.
    let test = std::env::current_exe().expect("a test has a path");
    let folder = test.ancestors().nth(2).expect("cargo's layout");
    let path = folder.join(name);
    if !path.exists() {
        let package = if name == "troikactl" {
            "troika-store"
        } else {
            name
        };
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", package, "--bin", name])
            .status()
            .expect("cargo starts");
        assert!(built.success(), "{name} does not build");
    }
    path
}

/// One process.
pub struct Process {
    /// Its name in messages and of its log.
    pub name: String,
    binary: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Starts `binary`; its standard output goes to `NAME.out`, what it logs to `NAME.log`, in `folder`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start(
        folder: &Path,
        name: &str,
        binary: PathBuf,
        arguments: Vec<String>,
    ) -> anyhow::Result<Self> {
        let mut process = Self {
            name: name.to_owned(),
            binary,
            arguments,
            log: folder.join(format!("{name}.log")),
            child: None,
        };
        process.start_again()?;
        Ok(process)
    }

    /// Starts it again after it ended.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        let append = |path: &Path| File::options().create(true).append(true).open(path);
        let child = Command::new(&self.binary)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(append(&self.output())?)
            .stderr(append(&self.log)?)
            .spawn()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// True while it runs.
    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Where its standard output goes.
    pub fn output(&self) -> PathBuf {
        self.log.with_extension("out")
    }

    /// What it has logged.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Members of the store.
    pub members: usize,
    /// Executors, each of every shard.
    pub executors: usize,
    /// The chain.
    pub genesis: Genesis,
}

/// Three members, three executors and a gateway, or another number of them.
pub struct Processes {
    /// The members, by id from 1 on.
    pub members: Vec<Process>,
    /// The executors.
    pub executors: Vec<Process>,
    /// The gateway.
    pub gateway: Process,
    /// Where each member serves clients.
    pub store_urls: Vec<String>,
    /// Where each executor serves its feed.
    pub feeds: Vec<String>,
    /// Where the gateway serves JSON-RPC.
    pub rpc: String,
    /// A client of all members.
    pub store: StoreClient,
    shards: u32,
    // Last: removed after the processes have ended.
    folder: TempDir,
}

impl Processes {
    /// Starts everything and waits for the first block.
    ///
    /// # Errors
    /// A process that does not start, or no block within the deadline; the message has the logs' last lines.
    pub async fn start(shape: &Shape) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let ports = free_ports(shape.members * 2 + shape.executors + 1)?;
        let (member_ports, rest) = ports.split_at(shape.members * 2);
        let members = start_members(folder.path(), member_ports)?;
        let store_urls: Vec<String> = member_ports.chunks(2).map(|p| url(p[0])).collect();
        let store = StoreClient::new(Options::new(store_urls.clone()))?;
        init_chain(&store, &shape.genesis).await?;

        let shards = shape.genesis.config.shards;
        let executor = |(index, port): (usize, &u16)| {
            let name = format!("executor-{}", index + 1);
            let arguments = vec![
                "executor".to_owned(),
                format!("--store={}", store_urls.join(",")),
                format!("--shards=0-{}", shards - 1),
                format!("--listen=127.0.0.1:{port}"),
                format!("--name={name}"),
            ];
            Process::start(folder.path(), &name, binary("troika-node"), arguments)
        };
        let (executor_ports, rpc_port) = rest.split_at(shape.executors);
        let executors = executor_ports.iter().enumerate().map(executor);
        let executors = executors.collect::<Result<Vec<_>, _>>()?;
        let feeds: Vec<String> = executor_ports.iter().map(|port| url(*port)).collect();
        let rpc = format!("127.0.0.1:{}", rpc_port[0]);
        let arguments = vec![
            "gateway".to_owned(),
            format!("--store={}", store_urls.join(",")),
            format!("--executors={}", feeds.join(",")),
            format!("--rpc={rpc}"),
        ];
        let gateway = Process::start(folder.path(), "gateway", binary("troika-node"), arguments)?;
        let mut processes = Self {
            members,
            executors,
            gateway,
            store_urls,
            feeds,
            rpc: format!("http://{rpc}"),
            store,
            shards,
            folder,
        };
        processes.wait_for_block(1, START_DEADLINE).await?;
        Ok(processes)
    }

    /// Number of the head.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn height(&self) -> anyhow::Result<u64> {
        Ok(self.store.head().await?.header.number)
    }

    /// Waits until the head has at least this number; answers how long that took.
    ///
    /// # Errors
    /// It has not within `within`; the message has the logs' last lines.
    pub async fn wait_for_block(
        &mut self,
        number: u64,
        within: Duration,
    ) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let mut seen = String::from("no answer of the store");
        while started.elapsed() < within {
            match self.height().await {
                Ok(height) if height >= number => return Ok(started.elapsed()),
                Ok(height) => seen = format!("the head is block {height}"),
                Err(error) => seen = error.to_string(),
            }
            sleep(POLL).await;
        }
        bail!(
            "no block {number} within {within:?} ({seen})\n{}",
            self.last_lines()
        );
    }

    /// Index of the member that leads, as the members themselves see it.
    ///
    /// # Errors
    /// None leads within some seconds.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            let statuses = self.store.statuses().await;
            let leads = |role: &str| role == "leader";
            let leader = statuses
                .iter()
                .position(|member| member.status.as_ref().is_some_and(|s| leads(&s.role)));
            if let Some(leader) = leader {
                return Ok(leader);
            }
            sleep(POLL).await;
        }
        bail!("no member leads")
    }

    /// Starts `troika-node follow --json` on an executor, from its first round on.
    ///
    /// # Errors
    /// The operating system's.
    pub fn follow(&self, executor: usize, to_round: u64) -> anyhow::Result<Process> {
        let name = format!("follow-{}-to-{to_round}", executor + 1);
        let arguments = vec![
            "follow".to_owned(),
            format!("--from={}", self.feeds[executor]),
            format!("--shards=0-{}", self.shards - 1),
            "--from-round=1".to_owned(),
            format!("--to-round={to_round}"),
            "--json".to_owned(),
        ];
        Process::start(self.folder.path(), &name, binary("troika-node"), arguments)
    }

    /// The last lines of every log, for a failing test.
    pub fn last_lines(&mut self) -> String {
        let all = self.members.iter_mut().chain(&mut self.executors);
        let all = all.chain([&mut self.gateway]);
        let tails = all.map(|process| {
            let state = if process.is_running() {
                "runs"
            } else {
                "ended"
            };
            let log = process.logged();
            let lines: Vec<_> = log.lines().rev().take(8).collect();
            let lines: Vec<_> = lines.into_iter().rev().collect();
            format!("== {} ({state})\n{}", process.name, lines.join("\n"))
        });
        tails.collect::<Vec<_>>().join("\n")
    }
}

fn start_members(folder: &Path, ports: &[u16]) -> anyhow::Result<Vec<Process>> {
    let peers = ports.chunks(2).enumerate();
    let peers = peers.map(|(index, p)| format!("{}=127.0.0.1:{}", index + 1, p[1]));
    let peers = peers.collect::<Vec<_>>().join(",");
    let member = |(index, ports): (usize, &[u16])| {
        let name = format!("member-{}", index + 1);
        let arguments = vec![
            "serve".to_owned(),
            format!("--id={}", index + 1),
            format!("--data={}", folder.join(&name).display()),
            format!("--listen=127.0.0.1:{}", ports[0]),
            format!("--peer-listen=127.0.0.1:{}", ports[1]),
            format!("--members={peers}"),
        ];
        Process::start(folder, &name, binary("troika-store"), arguments)
    };
    ports.chunks(2).enumerate().map(member).collect()
}

async fn init_chain(store: &StoreClient, genesis: &Genesis) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        match store.init_chain(genesis).await {
            Ok(InitOutcome::Running(..)) => return Ok(()),
            Ok(InitOutcome::Refused(refusal)) => bail!("the chain is refused: {refusal}"),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => sleep(POLL).await,
        }
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    // All are held until all are known, so that none is given twice.
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listeners = (0..count).map(bind).collect::<Result<Vec<_>, _>>()?;
    let port = |listener: &TcpListener| Ok(listener.local_addr()?.port());
    listeners.iter().map(port).collect()
}
