//! One run: start, load, break, heal, check, write.

use crate::checker::coverage::Coverage;
use crate::checker::{self, Finding};
use crate::client::{Client, Failure};
use crate::cluster::{Cluster, Role};
use crate::history::{Entry, Get, Kind, Op};
use crate::nemesis::Nemesist;
use crate::net::{self, Net};
use crate::options::{Fault, TestArgs, Workload};
use crate::recorder::Recorder;
use crate::workload::{self, CALL_TIMEOUT, Shared};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use troika_proto::v1;
use troika_proto::v1::cluster_client::ClusterClient;

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing that must not be, and the run tested something.
    Valid,
    /// Something that must not be.
    Invalid,
    /// The run tested nothing.
    Unknown,
}

impl Verdict {
    /// The exit code.
    pub fn code(self) -> i32 {
        match self {
            Self::Valid => 0,
            Self::Invalid => 1,
            Self::Unknown => 2,
        }
    }
}

/// `results.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// The verdict.
    pub verdict: Verdict,
    /// What must not be.
    pub findings: Vec<Finding>,
    /// What the run did.
    pub coverage: Coverage,
    /// Why it is `unknown`.
    pub missing: Vec<String>,
    /// Seconds from lifting the last fault to progress on every member; absent where there was none in time.
    pub recovery_s: Option<f64>,
    /// Entries of the history.
    pub entries: usize,
    /// Seconds that the checkers took.
    pub check_s: f64,
}

/// `options.json`: all that is needed to run it again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    /// The arguments, seed included.
    pub args: TestArgs,
    /// The seed.
    pub seed: u64,
    /// Version of this suite.
    pub version: String,
    /// Keccak-256 of the binaries that were tested.
    pub binaries: Vec<(String, String)>,
    /// What could not be done here, and why.
    pub skipped: Vec<String>,
    /// The command that runs it again.
    pub command: String,
}

/// Runs a test. Prints the verdict and where the report is.
///
/// # Errors
/// The harness failed (exit code 3): nothing is said about the system.
pub fn test(args: &TestArgs) -> Result<Verdict> {
    let seed = args.seed.unwrap_or_else(random_seed);
    let dir = run_dir(&args.out, args, seed)?;
    let bin = binaries(args)?;
    let mut skipped = Vec::new();
    let net = if net::inside() {
        Net::build(args.members + args.executors + 1)?
    } else {
        skipped.push("namespaces: not inside one; faults of the network are skipped".to_owned());
        Net::Loopback
    };
    let options = Options {
        args: args.clone(),
        seed,
        version: env!("CARGO_PKG_VERSION").to_owned(),
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
    let (history, extra, recovery) = outcome?;
    let faults: Vec<String> = wanted(args).iter().map(|f| f.name()).collect();
    let results = judge(&history, extra, recovery, &faults);
    finish(&dir, &options, &history, &results)?;
    Ok(results.verdict)
}

fn wanted(args: &TestArgs) -> Vec<Fault> {
    let faults = args.nemesis.iter().copied();
    faults.filter(|f| *f != Fault::None).collect()
}

/// Writes results, EDN and report, and tells the person at the terminal.
fn finish(dir: &Path, options: &Options, history: &[Entry], results: &Results) -> Result<()> {
    write_json(&dir.join("results.json"), results)?;
    let mut edn = std::io::BufWriter::new(std::fs::File::create(dir.join("history.edn"))?);
    for entry in history {
        writeln!(edn, "{}", crate::edn::entry(entry))?;
    }
    edn.flush()?;
    let report = crate::report::html(options, history, results);
    std::fs::write(dir.join("report.html"), report)?;
    print_results(results);
    println!("report  {}", dir.join("report.html").display());
    if results.verdict == Verdict::Valid {
        // Data directories are of use where something went wrong.
        let _ = std::fs::remove_dir_all(dir.join("data"));
    }
    Ok(())
}

fn print_results(results: &Results) {
    let c = &results.coverage;
    println!(
        "calls   {} ok, {} fail, {} unknown; {} slots decided, {} lost races, {} conflicts, {} terms",
        c.ok, c.fail, c.info, c.decided, c.lost_races, c.conflicts, c.terms
    );
    for (fault, count) in &c.faults {
        println!("fault   {fault} x{count}");
    }
    match results.recovery_s {
        Some(s) => println!("recovery {s:.1} s after the last fault was lifted"),
        None => println!("recovery none in time"),
    }
    for finding in results.findings.iter().take(10) {
        println!(
            "FOUND   {}: {} (entries {:?})",
            finding.rule, finding.text, finding.entries
        );
    }
    for missing in &results.missing {
        println!("missing {missing}");
    }
    println!(
        "verdict {:?} ({} entries checked in {:.2} s)",
        results.verdict, results.entries, results.check_s
    );
}

/// Checks a history. `extra` are findings that do not come from it (panics in logs, processes that ended).
pub fn judge(
    history: &[Entry],
    extra: Vec<Finding>,
    recovery_s: Option<f64>,
    faults: &[String],
) -> Results {
    let started = Instant::now();
    let mut findings = checker::safety(history);
    findings.extend(extra);
    let coverage = Coverage::of(history);
    let missing = coverage.missing(faults);
    let verdict = if !findings.is_empty() {
        Verdict::Invalid
    } else if !missing.is_empty() {
        Verdict::Unknown
    } else {
        Verdict::Valid
    };
    Results {
        verdict,
        findings,
        coverage,
        missing,
        recovery_s,
        entries: history.len(),
        check_s: started.elapsed().as_secs_f64(),
    }
}

/// Checks a stored run again.
///
/// # Errors
/// The folder holds no readable history.
pub fn analyze(dir: &Path) -> Result<Verdict> {
    let file = std::fs::File::open(dir.join("history.jsonl"))
        .with_context(|| dir.display().to_string())?;
    let history = crate::history::read(std::io::BufReader::new(file))?;
    let options: Options = read_json(&dir.join("options.json"))?;
    let before: Option<Results> = read_json(&dir.join("results.json")).ok();
    // What was seen beside the history cannot be checked again: taken over.
    let outside = |f: &Finding| f.rule.starts_with("process/") || f.rule.starts_with("recovery/");
    let extra = before
        .iter()
        .flat_map(|r| &r.findings)
        .filter(|f| outside(f))
        .cloned()
        .collect();
    let faults: Vec<String> = wanted(&options.args).iter().map(|f| f.name()).collect();
    let recovery = before.as_ref().and_then(|r| r.recovery_s);
    let results = judge(&history, extra, recovery, &faults);
    write_json(&dir.join("results.json"), &results)?;
    std::fs::write(
        dir.join("report.html"),
        crate::report::html(&options, &history, &results),
    )?;
    print_results(&results);
    Ok(results.verdict)
}

type Outcome = (Vec<Entry>, Vec<Finding>, Option<f64>);

async fn drive(args: &TestArgs, seed: u64, net: Net, dir: &Path, bin: &Path) -> Result<Outcome> {
    let mut cluster = Cluster::new(net, dir, bin, args);
    for id in 1..=args.members {
        cluster.start(Role::Member(id))?;
    }
    let shared = Arc::new(Shared {
        recorder: Recorder::create(dir)?,
        members: cluster.member_addresses(),
        shards: args.shards,
        round: AtomicU64::new(0),
        nonce: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        answered: AtomicU64::new(0),
        progress: AtomicU64::new(0),
    });
    start_chain(&shared, args.shards).await?;
    let mut tasks = tokio::task::JoinSet::new();
    let pause = Duration::from_secs_f64(f64::from(args.concurrency) / args.rate.max(0.1));
    for n in 0..args.concurrency {
        let seed = seed.wrapping_add(u64::from(n) + 1);
        let client = workload::client(shared.clone(), args.workload, seed, pause);
        tasks.spawn(async move {
            if let Err(e) = client.await {
                eprintln!("client: {e:#}");
            }
        });
    }
    for n in 0..3 {
        tasks.spawn(workload::watcher(shared.clone(), n));
    }
    tasks.spawn(workload::state_hashes(shared.clone()));
    let mut nemesis = Nemesist::new(cluster, shared.clone(), seed ^ 0x6e65_6d65_7369_7300);
    let clock = tokio::spawn(countdown(shared.clone(), args.time_limit));
    nemesis.run(&wanted(args)).await;
    clock.await?;
    let mut extra = Vec::new();
    if let Err(e) = nemesis.lift().await {
        extra.push(Finding::new("process/ended", format!("{e:#}"), vec![]));
    }
    let recovery = recover(&shared, args.recovery).await;
    if recovery.is_none() {
        extra.push(Finding::new(
            "recovery/progress",
            format!(
                "no progress on every member within {} s of lifting the last fault",
                args.recovery
            ),
            vec![],
        ));
    }
    while tasks.join_next().await.is_some() {}
    final_reads(&shared).await;
    for line in nemesis.cluster.panics() {
        extra.push(Finding::new("process/panic", line, vec![]));
    }
    for (role, status) in nemesis.cluster.ended() {
        extra.push(Finding::new(
            "process/ended",
            format!("{role}: {status}"),
            vec![],
        ));
    }
    nemesis.cluster.shutdown();
    Ok((shared.recorder.finish(), extra, recovery))
}

/// Waits for the members, and starts the chain.
async fn start_chain(shared: &Shared, shards: u32) -> Result<()> {
    let genesis = workload::scripted_genesis(shards);
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut last = String::new();
    while Instant::now() < deadline {
        for address in &shared.members {
            let channel = crate::client::channel(address, CALL_TIMEOUT)?;
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
    bail!("the members did not start within 30 s; the last said {last}")
}

/// Ends the load when its time is up or on Ctrl-C, and shows how it goes on a terminal.
async fn countdown(shared: Arc<Shared>, limit: Duration) {
    let started = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    while started.elapsed() < limit {
        tokio::select! {
            biased;
            _ = &mut interrupt => {
                eprintln!("\ninterrupted: healing and checking what there is");
                break;
            }
            _ = ticks.tick() => {
                if terminal {
                    let left = limit.saturating_sub(started.elapsed()).as_secs();
                    let answered = shared.answered.load(Ordering::Relaxed);
                    let rate = answered as f64 / started.elapsed().as_secs_f64().max(0.5);
                    let round = shared.round.load(Ordering::Relaxed);
                    eprint!("\r{left:>4} s left  {answered:>8} answered  {rate:>6.0}/s  round {round}   ");
                }
            }
        }
    }
    if terminal {
        eprintln!();
    }
    shared.stop.store(true, Ordering::Relaxed);
}

/// Seconds until a new decision was made after the heal and every member has it; `None` if not within `limit` seconds.
async fn recover(shared: &Shared, limit: u64) -> Option<f64> {
    let started = Instant::now();
    let within = |started: Instant| started.elapsed() < Duration::from_secs(limit);
    let mut opened_at = None;
    while opened_at.is_none() && within(started) {
        for address in &shared.members {
            let Ok(client) = Client::new(address, CALL_TIMEOUT) else {
                continue;
            };
            let round = shared.round.load(Ordering::Relaxed).max(1);
            // A new round is a new decision: seal the newest (again, if need be) and open the next.
            let _: Result<_, Failure> = client.seal(round).await;
            if let Ok(open) = client.open().await
                && let (Some(n), Some(at)) = (open.round, open.opened_at)
                && shared.round.fetch_max(n, Ordering::Relaxed) < n
            {
                opened_at = Some(at);
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let target = opened_at?;
    while within(started) {
        let mut behind = false;
        for address in &shared.members {
            let status = workload::status(address).await;
            behind |= status.map_or(true, |s| s.meta.is_none_or(|m| m.revision < target));
        }
        if !behind {
            return Some(started.elapsed().as_secs_f64());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}

/// Every round, read on every member; and every member's state hash at one index.
async fn final_reads(shared: &Shared) {
    let newest = shared.round.load(Ordering::Relaxed);
    let process = shared.recorder.new_process();
    for address in &shared.members {
        let Ok(client) = Client::new(address, CALL_TIMEOUT) else {
            continue;
        };
        for round in 1..=newest {
            let call = Op::Get(Get {
                round,
                linearizable: false,
                seen: None,
                meta: None,
            });
            shared
                .recorder
                .record(process, Kind::Invoke, call.clone(), "");
            match client.get(round, false).await {
                Ok(get) => shared.recorder.record(process, Kind::Ok, Op::Get(get), ""),
                Err(e) => shared
                    .recorder
                    .record(process, Kind::Info, call, format!("{e:?}")),
            }
        }
    }
    for (i, address) in shared.members.iter().enumerate() {
        if let Ok(state) = workload::state_hash(address, i as u64 + 1).await {
            shared
                .recorder
                .record(process, Kind::Ok, Op::StateHash(state), "");
        }
    }
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
    let workload = format!("{:?}", args.workload).to_lowercase();
    let name = format!("{workload}-{}", faults.chars().take(80).collect::<String>());
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
    let needed: &[&str] = match args.workload {
        Workload::Broadcast => &["troika-store", "troika-node"],
        _ => &["troika-store"],
    };
    for name in needed {
        if !dir.join(name).exists() {
            bail!(
                "{} is not there: build it with `cargo build --release --workspace`, or name its folder with --bin",
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

fn command_line(args: &TestArgs, seed: u64) -> String {
    use clap::ValueEnum;
    let faults: Vec<String> = args.nemesis.iter().map(|f| f.name()).collect();
    let workload = args
        .workload
        .to_possible_value()
        .map_or_else(String::new, |v| v.get_name().to_owned());
    format!(
        "troika-jepsen test --workload {workload} --nemesis {} --time-limit {}s --concurrency {} --rate {} --members {} \
         --executors {} --shards {} --seed {seed}",
        faults.join(","),
        args.time_limit.as_secs(),
        args.concurrency,
        args.rate,
        args.members,
        args.executors,
        args.shards
    )
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
    serde_json::to_writer_pretty(std::io::BufWriter::new(file), value)?;
    Ok(())
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_reader(std::io::BufReader::new(file))?)
}
