//! `troika-jepsen`: see `docs/testing.md`.

use anyhow::{Context, Result};
use clap::Parser;
use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use troika_jepsen::options::{Cli, Command, Fault, TestAllArgs, TestArgs, Workload};
use troika_jepsen::run::{self, Verdict};
use troika_jepsen::synthetic::{Random, Size, clean};
use troika_jepsen::{checker, edn, history, net};

/// The harness failed: nothing is said about the system.
const HARNESS: u8 = 3;

fn main() -> ExitCode {
    match command() {
        Ok(code) => ExitCode::from(code as u8),
        Err(e) => {
            eprintln!("troika-jepsen: {e:#}");
            ExitCode::from(HARNESS)
        }
    }
}

fn command() -> Result<i32> {
    match Cli::parse().command {
        Command::Test(args) => in_namespaces(|| Ok(run::test(&args)?.code())),
        Command::TestAll(args) => test_all(&args),
        Command::Analyze { dir } => Ok(run::analyze(&dir)?.code()),
        Command::Export { dir, jsonl, edn: _ } => export(&dir, jsonl),
        Command::Serve { out, port } => serve(&out, port),
        Command::Doctor => Ok(doctor()),
        Command::SelfTest { histories, large } => Ok(self_test(histories, large)),
    }
}

/// Runs `inner` in namespaces of its own where the machine allows it, else on loopback.
fn in_namespaces(inner: impl FnOnce() -> Result<i32>) -> Result<i32> {
    if net::inside() {
        return inner();
    }
    match net::obstacle() {
        None => net::enter(),
        Some(why) => {
            eprintln!("no namespaces here, running on loopback: {why}");
            inner()
        }
    }
}

/// Starts one run as a process of its own, so that its namespaces are its own too.
fn one_run(args: &TestArgs, workload: Workload, faults: &[Fault], seed: u64) -> Result<Verdict> {
    use clap::ValueEnum;
    let name = |v: Option<clap::builder::PossibleValue>| {
        v.map_or_else(String::new, |v| v.get_name().to_owned())
    };
    let faults: Vec<String> = faults.iter().map(|f| f.name()).collect();
    println!("--- {:?} with {}", workload, faults.join(", "));
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg("test");
    for (flag, value) in [
        ("--workload", name(workload.to_possible_value())),
        ("--nemesis", faults.join(",")),
        ("--time-limit", format!("{}s", args.time_limit.as_secs())),
        ("--concurrency", args.concurrency.to_string()),
        ("--rate", args.rate.to_string()),
        ("--members", args.members.to_string()),
        ("--executors", args.executors.to_string()),
        ("--shards", args.shards.to_string()),
        ("--seed", seed.to_string()),
        ("--out", args.out.display().to_string()),
        ("--recovery", args.recovery.to_string()),
    ] {
        command.args([flag.to_owned(), value]);
    }
    if let Some(bin) = &args.bin {
        command.arg("--bin").arg(bin);
    }
    match command.status()?.code() {
        Some(0) => Ok(Verdict::Valid),
        Some(1) => Ok(Verdict::Invalid),
        Some(2) => Ok(Verdict::Unknown),
        code => anyhow::bail!("the run's harness failed with {code:?}"),
    }
}

/// Faults of the matrix: each alone, then the ones that work together.
const MATRIX: &[&[Fault]] = &[
    &[Fault::None],
    &[Fault::Kill, Fault::KillLeader],
    &[Fault::KillAll],
    &[Fault::Pause],
    &[Fault::PartitionLeader, Fault::PartitionOneWay],
    &[Fault::PartitionMajority, Fault::Loss],
    &[Fault::RollingRestart],
    &[Fault::SlowDisk, Fault::DiskError],
    &[
        Fault::KillLeader,
        Fault::PartitionLeader,
        Fault::Pause,
        Fault::Loss,
    ],
];

fn test_all(all: &TestAllArgs) -> Result<i32> {
    let args = &all.test;
    let seed = args.seed.unwrap_or(1);
    let mut plan: Vec<(Workload, Vec<Fault>, u64)> = Vec::new();
    if let Some(runs) = all.swarm {
        for n in 0..u64::from(runs) {
            plan.push(swarm(seed.wrapping_mul(1_000_003).wrapping_add(n)));
        }
    } else {
        for workload in [Workload::Race, Workload::Locks, Workload::Read] {
            for faults in MATRIX {
                plan.push((workload, faults.to_vec(), seed + plan.len() as u64));
            }
        }
    }
    let (mut invalid, mut unknown) = (0, 0);
    let total = plan.len();
    for (workload, faults, seed) in plan {
        match one_run(args, workload, &faults, seed)? {
            Verdict::Valid => {}
            Verdict::Invalid => invalid += 1,
            Verdict::Unknown => unknown += 1,
        }
    }
    println!(
        "{total} runs: {} valid, {invalid} invalid, {unknown} unknown",
        total - invalid - unknown
    );
    Ok(if invalid > 0 {
        1
    } else if unknown > 0 {
        2
    } else {
        0
    })
}

/// A random workload and a random subset of faults.
fn swarm(seed: u64) -> (Workload, Vec<Fault>, u64) {
    let mut random = Random::new(seed);
    let workloads = [Workload::Race, Workload::Locks, Workload::Read];
    let workload = workloads[random.below(3) as usize];
    let every = [
        Fault::Kill,
        Fault::KillLeader,
        Fault::KillAll,
        Fault::Pause,
        Fault::PartitionOne,
        Fault::PartitionLeader,
        Fault::PartitionMajority,
        Fault::PartitionOneWay,
        Fault::Loss,
        Fault::RollingRestart,
        Fault::SlowDisk,
        Fault::DiskError,
    ];
    let mut faults: Vec<Fault> = every.into_iter().filter(|_| random.one_in(3)).collect();
    if faults.is_empty() {
        faults.push(Fault::Kill);
    }
    (workload, faults, seed)
}

fn export(dir: &Path, jsonl: bool) -> Result<i32> {
    let file = std::fs::File::open(dir.join("history.jsonl"))
        .with_context(|| dir.display().to_string())?;
    let entries = history::read(BufReader::new(file))?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for entry in &entries {
        if jsonl {
            history::write(entry, &mut out)?;
        } else {
            writeln!(out, "{}", edn::entry(entry))?;
        }
    }
    out.flush()?;
    Ok(0)
}

/// A web page for every report below `out`. One request at a time: it is for one person.
fn serve(out: &Path, port: u16) -> Result<i32> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    println!("http://127.0.0.1:{port}/ (Ctrl-C ends)");
    let root = out
        .canonicalize()
        .with_context(|| out.display().to_string())?;
    for stream in listener.incoming() {
        if let Err(e) = answer(&root, stream?) {
            eprintln!("{e:#}");
        }
    }
    Ok(0)
}

fn answer(root: &Path, mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = [0; 4096];
    let read = stream.read(&mut request)?;
    let line = String::from_utf8_lossy(&request[..read]);
    let path = line
        .split_whitespace()
        .nth(1)
        .unwrap_or("/")
        .trim_start_matches('/');
    let target = root.join(path).canonicalize();
    let (code, body) = match target {
        Ok(target) if target.starts_with(root) && target.is_file() => {
            ("200 OK", std::fs::read(target)?)
        }
        Ok(target) if target == root => ("200 OK", listing(root)?.into_bytes()),
        _ => ("404 Not Found", b"not here".to_vec()),
    };
    let kind = if path.ends_with(".html") || path.is_empty() {
        "text/html"
    } else {
        "text/plain"
    };
    write!(
        stream,
        "HTTP/1.1 {code}\r\ncontent-type: {kind}; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)?;
    Ok(())
}

fn listing(root: &Path) -> Result<String> {
    let mut rows = Vec::new();
    for test in std::fs::read_dir(root)?
        .flatten()
        .filter(|e| e.path().is_dir())
    {
        for run in std::fs::read_dir(test.path())?.flatten() {
            let results = std::fs::read(run.path().join("results.json")).unwrap_or_default();
            let results: serde_json::Value = serde_json::from_slice(&results).unwrap_or_default();
            let verdict = results["verdict"]
                .as_str()
                .unwrap_or("unfinished")
                .to_owned();
            let place = format!(
                "{}/{}/report.html",
                test.file_name().to_string_lossy(),
                run.file_name().to_string_lossy()
            );
            rows.push(format!(
                "<tr><td>{verdict}<td><a href=\"/{place}\">{place}</a>"
            ));
        }
    }
    rows.sort();
    Ok(format!(
        "<!doctype html><meta charset=utf-8><title>troika-jepsen</title><h1>Runs</h1><table>{}</table>",
        rows.concat()
    ))
}

fn doctor() -> i32 {
    let line = |what: &str, obstacle: Option<String>, otherwise: &str| match obstacle {
        None => println!("{what:<12} yes"),
        Some(why) => println!("{what:<12} no: {why} ({otherwise})"),
    };
    let program = |name: &str, flag: &str| {
        let found = std::process::Command::new(name).arg(flag).output();
        found.err().map(|e| format!("{name}: {e}"))
    };
    println!(
        "{:<12} {}",
        "root",
        if net::is_root() { "yes" } else { "no" }
    );
    line(
        "namespaces",
        net::obstacle(),
        "partitions and packet loss are skipped",
    );
    line("strace", program("strace", "-V"), "disk faults are skipped");
    line(
        "faketime",
        program("faketime", "--version"),
        "clock jumps are skipped",
    );
    0
}

fn self_test(histories: u64, large: usize) -> i32 {
    let size = Size {
        entries: 300,
        clients: 6,
        shards: 3,
    };
    let started = Instant::now();
    let mut alarms = 0;
    for seed in 0..histories {
        let findings = checker::safety(&clean(seed, size));
        if let Some(finding) = findings.first() {
            alarms += 1;
            println!(
                "false alarm: seed {seed}: {}: {}",
                finding.rule, finding.text
            );
        }
    }
    println!(
        "{histories} clean histories: {alarms} false alarms, {:.1} s",
        started.elapsed().as_secs_f64()
    );
    let big = clean(
        1,
        Size {
            entries: large,
            clients: 64,
            shards: 16,
        },
    );
    let started = Instant::now();
    let findings = checker::safety(&big);
    println!(
        "{large} entries checked in {:.2} s, {} false alarms",
        started.elapsed().as_secs_f64(),
        findings.len()
    );
    i32::from(alarms > 0 || !findings.is_empty())
}
