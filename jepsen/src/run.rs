//! One run: start, load, break, heal, ask everybody, check, write.

use crate::checker::Finding;
use crate::cluster::{self, Cluster, Role};
use crate::disks;
use crate::history::Entry;
use crate::nemesis::Nemesist;
use crate::net::{self, Net};
use crate::options::{TestArgs, Workload};
use crate::recorder::Recorder;
use crate::verdict::{Beside, Options, Verdict, finish, judge, wanted, write_json};
use crate::workload::scripted::Scripted;
use crate::workload::{self, CALL_TIMEOUT, Shared, observe, settle, transfer};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::JoinSet;
use troika_proto::v1;
use troika_proto::v1::cluster_client::ClusterClient;

/// How long the processes may take to start.
const START: Duration = Duration::from_secs(30);
/// Watchers of a run, and of one that is about watching.
const WATCHERS: u64 = 3;
const MANY_WATCHERS: u64 = 9;
/// How long a watcher of such a run stays with a member.
const HOP: Duration = Duration::from_millis(700);
/// What watchers and peers have to hear the last events.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// Runs a test. Prints the verdict and where the report is.
///
/// # Errors
/// The harness failed (exit code 3): nothing is said about the system.
pub fn test(args: &TestArgs) -> Result<Verdict> {
    let seed = args.seed.unwrap_or_else(random_seed);
    let dir = run_dir(&args.out, args, seed)?;
    let bin = binaries(args)?;
    let (net, skipped) = if net::inside() {
        (Net::build(&cluster::hosts(args))?, Vec::new())
    } else {
        let why = net::obstacle().unwrap_or_else(|| "not inside one".to_owned());
        let skipped = format!("namespaces: {why}; faults of the network are skipped");
        (Net::Loopback, vec![skipped])
    };
    let options = Options {
        args: args.clone(),
        seed,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: env!("TROIKA_COMMIT").to_owned(),
        binaries: hashes(&bin)?,
        skipped,
        command: command_line(args, seed),
    };
    write_json(&dir.join("options.json"), &options)?;
    println!("run     {}", dir.display());
    println!("again   {}", options.command);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(drive(args, seed, net, &dir, &bin));
    runtime.shutdown_timeout(Duration::from_secs(2));
    let (history, beside) = outcome?;
    let faults: Vec<String> = wanted(args).iter().map(|f| f.name()).collect();
    let results = judge(&history, beside, &faults);
    finish(&dir, &options, &history, &results)?;
    Ok(results.verdict)
}

async fn drive(
    args: &TestArgs,
    seed: u64,
    net: Net,
    dir: &Path,
    bin: &Path,
) -> Result<(Vec<Entry>, Beside)> {
    let real = args.workload.is_real();
    let mut cluster = Cluster::new(net, dir, bin, args)?;
    for id in cluster.members() {
        cluster.start(Role::Member(id))?;
    }
    let members = cluster.member_addresses();
    let mut shared = Shared::new(Recorder::create(dir)?, seed, args.shards, members);
    let executors = cluster.executors();
    if real {
        let feed = |role: &Role| (role.to_string(), cluster.address(*role));
        shared.feeds = executors.iter().map(feed).collect();
        shared.gateway = Some(cluster.address(Role::Gateway));
    }
    start_chain(&shared, real).await?;
    for role in executors.into_iter().chain(real.then_some(Role::Gateway)) {
        cluster.start(role)?;
    }
    if let Some(gateway) = &shared.gateway {
        reachable(gateway).await?;
    }
    let shared = Arc::new(shared);
    let observers = observe_all(&shared, args.workload);
    let mut load = load(&shared, args);
    let mut nemesis = Nemesist::new(cluster, shared.clone());
    let clock = tokio::spawn(countdown(shared.clone(), args.time_limit));
    nemesis.run(&wanted(args)).await;
    clock.await??;
    nemesis.lift().await?;
    let recovery_s = settle::recover(&shared, args.recovery, real).await;
    if recovery_s.is_none() {
        shared.found(Finding::new(
            "recovery/progress",
            format!(
                "no progress on every member within {} s of lifting the last fault",
                args.recovery
            ),
            vec![],
        ));
    }
    let mut sent = BTreeMap::new();
    while let Some(done) = load.join_next().await {
        let (client, count) = done?;
        sent.insert(client, count);
    }
    ask_everybody(&shared, args, &sent).await;
    tokio::time::sleep(LAST_EVENTS).await;
    shared.end.store(true, Ordering::Relaxed);
    observers.join_all().await;
    told_to_end(&shared, &mut nemesis.cluster).await;
    let mut unasked = Vec::new();
    if args.mutant.is_none() {
        // `inspect` applies the log without the planted mistake: what differs then is no finding.
        unasked.extend(disks::compare(&shared, &nemesis.cluster));
    }
    let mut findings = shared.findings();
    findings.extend(crate::logs::check(dir, &nemesis.cluster));
    drop(nemesis);
    let beside = Beside {
        findings,
        unasked,
        recovery_s,
    };
    Ok((shared.recorder.finish(), beside))
}

/// Ends all processes. One that had ended by itself, and one that does not end in order, is a finding.
async fn told_to_end(shared: &Shared, cluster: &mut Cluster) {
    let mut ended = cluster.ended();
    for text in cluster.shutdown().await {
        shared.found(Finding::new("process/slow-end", text, vec![]));
    }
    ended.extend(cluster.ended());
    for (role, status) in ended {
        let text = format!("{role} ended by itself, or not in order: {status}");
        shared.found(Finding::new("process/ended", text, vec![]));
    }
}

/// Clients or payers: each answers its number and, a payer, how many transactions it has sent.
fn load(shared: &Arc<Shared>, args: &TestArgs) -> JoinSet<(u32, u64)> {
    let mut load = JoinSet::new();
    let pause = Duration::from_secs_f64(f64::from(args.concurrency) / args.rate.max(0.1));
    for n in 0..args.concurrency {
        let shared = shared.clone();
        let workload = args.workload;
        load.spawn(async move {
            let done = if workload.is_real() {
                transfer::payer(shared, n, pause).await
            } else {
                let client = Scripted::new(shared);
                client.run(workload, n.into(), pause).await.map(|()| 0)
            };
            let sent = done.unwrap_or_else(|e| {
                eprintln!("client {n}: {e:#}");
                0
            });
            (n, sent)
        });
    }
    load
}

fn observe_all(shared: &Arc<Shared>, workload: Workload) -> JoinSet<()> {
    let mut observers = JoinSet::new();
    let (watchers, hop) = match workload {
        Workload::Watch => (MANY_WATCHERS, Some(HOP)),
        _ => (WATCHERS, None),
    };
    for n in 0..watchers {
        observers.spawn(observe::watcher(shared.clone(), n, hop));
    }
    observers.spawn(observe::state_hashes(shared.clone()));
    observers.spawn(observe::backups(shared.clone()));
    for (executor, address) in shared.feeds.clone() {
        observers.spawn(observe::peer(shared.clone(), executor, address, None));
    }
    observers
}

/// The final questions. What cannot be asked although all faults are gone is a finding of its own.
async fn ask_everybody(shared: &Arc<Shared>, args: &TestArgs, sent: &BTreeMap<u32, u64>) {
    let real = args.workload.is_real();
    let failed = |what: &str, e: anyhow::Error| {
        let text = format!("{what} could not be read after the heal: {e:#}");
        shared.found(Finding::new("recovery/unreadable", text, vec![]));
    };
    if real {
        if let Err(e) = settle::transfers(shared, sent, args.recovery + 10).await {
            failed("the gateway", e);
        }
        settle::feeds(shared, args.recovery + 10).await;
    }
    settle::rounds(shared).await;
    if let Err(e) = settle::chain(shared, real).await {
        failed("the chain", e);
    }
}

/// Waits for the members, and starts the chain.
async fn start_chain(shared: &Shared, real: bool) -> Result<()> {
    let genesis = workload::genesis(shared.shards, real);
    let deadline = Instant::now() + START;
    let mut last = String::new();
    while Instant::now() < deadline {
        for (_, address) in shared.members() {
            let channel = crate::client::channel(&address, CALL_TIMEOUT)?;
            let request = v1::InitChainRequest {
                meta: None,
                genesis: Some((&genesis).into()),
            };
            match ClusterClient::new(channel).init_chain(request).await {
                Ok(reply) => match reply.into_inner().refusal {
                    None => return Ok(()),
                    Some(refusal) => bail!("the chain cannot be started: {}", refusal.message),
                },
                Err(status) => {
                    last = format!("{address}: {:?}: {}", status.code(), status.message());
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!(
        "the members did not start within {} s; the last said {last}",
        START.as_secs()
    )
}

async fn reachable(address: &str) -> Result<()> {
    let deadline = Instant::now() + START;
    while tokio::net::TcpStream::connect(address).await.is_err() {
        if Instant::now() > deadline {
            bail!("nothing listens on {address} after {} s", START.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Ends the load when its time is up or on Ctrl-C, and shows how it goes on a terminal.
async fn countdown(shared: Arc<Shared>, limit: Duration) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let started = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupted = false;
    while started.elapsed() < limit && !interrupted {
        tokio::select! {
            biased;
            _ = interrupt.recv() => interrupted = true,
            _ = terminate.recv() => interrupted = true,
            _ = ticks.tick() => if terminal { show(&shared, started, limit) },
        }
    }
    if terminal {
        eprintln!();
    }
    if interrupted {
        eprintln!("interrupted: healing and checking what there is");
    }
    shared.stop.store(true, Ordering::Relaxed);
    Ok(())
}

fn show(shared: &Shared, started: Instant, limit: Duration) {
    let left = limit.saturating_sub(started.elapsed()).as_secs();
    let answered = shared.answered.load(Ordering::Relaxed);
    let rate = answered as f64 / started.elapsed().as_secs_f64().max(0.5);
    let round = shared.round.load(Ordering::Relaxed);
    let fault = shared.fault.lock().unwrap_or_else(PoisonError::into_inner);
    eprint!(
        "\r{left:>4} s left  {answered:>8} answered  {rate:>6.0}/s  round {round:<6} {:<24}",
        fault.as_str()
    );
}

fn random_seed() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    now.as_nanos() as u64 % 1_000_000_007
}

fn run_dir(out: &Path, args: &TestArgs, seed: u64) -> Result<PathBuf> {
    let faults: Vec<String> = wanted(args).iter().map(|f| f.name()).collect();
    let faults = if faults.is_empty() {
        "none".to_owned()
    } else {
        faults.join("+")
    };
    let short: String = faults.chars().take(80).collect();
    let name = format!("{}-{short}", args.workload.name());
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let dir = out.join(name).join(format!("{}-{seed}", now.as_secs()));
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir.canonicalize()?)
}

/// The folder with the programs under test.
fn binaries(args: &TestArgs) -> Result<PathBuf> {
    let dir = match &args.bin {
        Some(dir) => dir.clone(),
        None => std::env::current_exe()?
            .parent()
            .context("no folder")?
            .to_owned(),
    };
    let needed: &[&str] = if args.workload.is_real() {
        &["troika-store", "troika-node"]
    } else {
        &["troika-store"]
    };
    for name in needed {
        if !dir.join(name).exists() {
            bail!(
                "{} is not there: build it with `cargo build --release --workspace --bins`, or name its folder with --bin",
                dir.join(name).display()
            );
        }
    }
    Ok(dir.canonicalize()?)
}

fn hashes(bin: &Path) -> Result<Vec<(String, String)>> {
    let mut hashes = Vec::new();
    for name in ["troika-store", "troika-node"] {
        let path = bin.join(name);
        if path.exists() {
            let hash = troika_proto::keccak(std::fs::read(&path)?);
            hashes.push((name.to_owned(), hash.to_string()));
        }
    }
    Ok(hashes)
}

/// The command that runs it again.
fn command_line(args: &TestArgs, seed: u64) -> String {
    let flags = flags(args, seed);
    format!("troika-jepsen test {}", flags.join(" "))
}

/// The flags that stand for these arguments.
pub fn flags(args: &TestArgs, seed: u64) -> Vec<String> {
    let faults: Vec<String> = args.nemesis.iter().map(|f| f.name()).collect();
    let mut flags = Vec::new();
    for (flag, value) in [
        ("--workload", args.workload.name()),
        ("--nemesis", faults.join(",")),
        ("--time-limit", format!("{}s", args.time_limit.as_secs())),
        ("--concurrency", args.concurrency.to_string()),
        ("--rate", args.rate.to_string()),
        ("--members", args.members.to_string()),
        ("--executors", args.executors.to_string()),
        ("--shards", args.shards.to_string()),
        ("--recovery", args.recovery.to_string()),
        ("--seed", seed.to_string()),
    ] {
        flags.extend([flag.to_owned(), value]);
    }
    if let Some(mutant) = &args.mutant {
        flags.extend(["--mutant".to_owned(), mutant.clone()]);
    }
    flags
}
