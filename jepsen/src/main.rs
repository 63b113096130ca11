//! `troika-jepsen`: see `docs/testing.md`.

use anyhow::{Context, Result};
use clap::Parser;
use std::io::{BufReader, Write};
use std::path::Path;
use std::process::ExitCode;
use troika_jepsen::options::{Cli, Command, TestArgs};
use troika_jepsen::plan::{Faults, operation};
use troika_jepsen::{
    doctor, edn, history, mutants, net, registers, run, self_test, serve, suite, verdict,
};

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
        Command::TestAll(args) => suite::test_all(&args),
        Command::Analyze { dir } => Ok(verdict::analyze(&dir)?.code()),
        Command::Export {
            dir,
            jsonl,
            registers,
            edn: _,
        } => export(&dir, jsonl, registers),
        Command::Serve { out, port } => serve::serve(&out, port),
        Command::Plan { test, operations } => plan(&test, operations),
        Command::Mutants(args) => mutants::run(&args),
        Command::Doctor => Ok(doctor::doctor()),
        Command::SelfTest {
            histories,
            large,
            limit,
        } => Ok(self_test::run(histories, large, limit)),
    }
}

/// Runs `inner` in namespaces of its own where the machine allows it, else on loopback. What is left of a run afterwards
/// is the harness's failure.
fn in_namespaces(inner: impl FnOnce() -> Result<i32>) -> Result<i32> {
    if net::inside() {
        return inner();
    }
    let token = net::token();
    let code = match net::obstacle() {
        None => net::enter()?,
        Some(why) => {
            eprintln!("no namespaces here, running on loopback: {why}");
            inner()?
        }
    };
    let leaks = net::leaks(&token);
    for leak in &leaks {
        eprintln!("troika-jepsen: the run left behind {leak}");
    }
    Ok(if leaks.is_empty() {
        code
    } else {
        HARNESS.into()
    })
}

/// Prints the schedule of a seed.
fn plan(args: &TestArgs, operations: u64) -> Result<i32> {
    let seed = args.seed.context("a plan needs a --seed")?;
    let mut out = std::io::stdout().lock();
    let mut at = 0;
    for fault in Faults::new(seed, &args.nemesis) {
        at += fault.calm_ms;
        if at > args.time_limit.as_millis() as u64 {
            break;
        }
        let from = at as f64 / 1e3;
        writeln!(
            out,
            "from {from:.1} s for {:.1} s: {}",
            fault.lasts_ms as f64 / 1e3,
            fault.fault.name()
        )?;
        at += fault.lasts_ms;
    }
    for client in 0..u64::from(args.concurrency) {
        for k in 0..operations {
            let operation = operation(seed, args.workload, args.shards, client, k);
            writeln!(out, "client {client} operation {k}: {operation:?}")?;
        }
    }
    Ok(0)
}

fn export(dir: &Path, jsonl: bool, as_registers: bool) -> Result<i32> {
    let file = std::fs::File::open(dir.join("history.jsonl"))
        .with_context(|| dir.display().to_string())?;
    let entries = history::read(BufReader::new(file))?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if as_registers {
        out.write_all(registers::edn(&entries).as_bytes())?;
        out.flush()?;
        return Ok(0);
    }
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
