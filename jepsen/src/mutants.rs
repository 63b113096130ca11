//! Wrong systems, one mistake each, each run with a fitting test until it is caught.
//!
//! The mistakes are planted in the binaries by the cargo feature `mutants`, which no release build can have;
//! `troika-store mutants` lists them. What is not in [`TESTS`] is run with a general test.

use crate::options::{Fault, MutantsArgs, TestArgs, Workload};
use crate::run::flags;
use crate::verdict::{Results, read_json};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A test that fits a mistake.
struct Fitting {
    mutant: &'static str,
    /// Plant it in this process alone.
    only: Option<&'static str>,
    workload: Workload,
    faults: &'static [Fault],
    seconds: u64,
    shards: u32,
}

const fn fitting(mutant: &'static str, workload: Workload, faults: &'static [Fault]) -> Fitting {
    Fitting {
        mutant,
        only: None,
        workload,
        faults,
        seconds: if matches!(workload, Workload::Prune) {
            50
        } else {
            20
        },
        shards: 4,
    }
}

/// With so many shards, a round goes through many revisions.
const fn with_shards(shards: u32, fitting: Fitting) -> Fitting {
    Fitting { shards, ..fitting }
}

const fn only_in(who: &'static str, fitting: Fitting) -> Fitting {
    Fitting {
        only: Some(who),
        ..fitting
    }
}

use Fault::{
    DiskError, Kill, KillAll, KillExecutor, KillGateway, KillLeader, PartitionLeader,
    PartitionMajority, PartitionOne, Pause, PowerCutAll, RollingRestart, Wipe,
};

/// Which test fits which mistake.
const TESTS: &[Fitting] = &[
    fitting("ack-before-fsync", Workload::Race, &[PowerCutAll]),
    fitting("fsync-skipped", Workload::Race, &[PowerCutAll]),
    fitting(
        "vote-not-persisted",
        Workload::Race,
        &[KillAll, PartitionLeader],
    ),
    fitting(
        "truncate-forgotten",
        Workload::Race,
        &[PartitionLeader, KillAll],
    ),
    fitting("purge-mark-lost", Workload::Prune, &[KillAll]),
    fitting("created-in-place", Workload::Race, &[PowerCutAll]),
    fitting(
        "checkpoint-in-two-steps",
        Workload::Race,
        &[RollingRestart, PowerCutAll],
    ),
    fitting(
        "checkpoint-ahead-of-state",
        Workload::Prune,
        &[RollingRestart, KillAll],
    ),
    fitting("snapshot-off-by-one", Workload::Race, &[KillAll]),
    fitting("snapshot-without-locks", Workload::Locks, &[KillAll]),
    fitting("decided-overwritten", Workload::Race, &[KillAll]),
    fitting("delta-applied-twice", Workload::Transfer, &[KillAll]),
    fitting("revision-reused", Workload::Race, &[KillAll]),
    fitting("cold-misses-frozen", Workload::Broadcast, &[KillExecutor]),
    fitting("wiped-voter-returns", Workload::Race, &[Wipe]),
    fitting("pre-vote-granted", Workload::Race, &[PartitionOne]),
    only_in("2", fitting("apply-reordered", Workload::Race, &[Kill])),
    fitting(
        "answered-before-commit",
        Workload::Race,
        &[KillLeader, PartitionLeader],
    ),
    fitting("answers-swapped", Workload::Race, &[Pause]),
    fitting("stale-undecided", Workload::Read, &[PartitionOne, Pause]),
    fitting(
        "read-without-quorum",
        Workload::Read,
        &[PartitionLeader, Pause],
    ),
    fitting("loser-told-it-won", Workload::Race, &[Kill]),
    fitting("slot-conflict-accepted", Workload::Race, &[Kill]),
    fitting(
        "locks-dropped-at-leader-change",
        Workload::Locks,
        &[KillLeader],
    ),
    with_shards(24, fitting("locks-expire", Workload::Locks, &[Pause])),
    with_shards(
        12,
        fitting("lock-release-forgotten", Workload::Locks, &[Kill]),
    ),
    fitting("sealed-early", Workload::Race, &[Kill]),
    fitting("watch-skips", Workload::Watch, &[Kill]),
    fitting("watch-repeats", Workload::Watch, &[Kill]),
    only_in(
        "a",
        fitting("feed-own-proposal", Workload::Broadcast, &[KillExecutor]),
    ),
    fitting("feed-before-commit", Workload::Broadcast, &[KillLeader]),
    fitting("proposes-at-once", Workload::Transfer, &[KillExecutor]),
    fitting("included-twice", Workload::Transfer, &[KillGateway]),
    fitting("diff-makes-money", Workload::Transfer, &[KillExecutor]),
    fitting("credits-left-out", Workload::Broadcast, &[KillExecutor]),
];

/// A mistake, as `troika-store mutants` lists it.
#[derive(Debug, Deserialize)]
struct Mutant {
    name: String,
    about: String,
}

/// What came of one.
struct Outcome {
    name: String,
    test: String,
    /// Seconds from the start of the run to the entry that proves it; one for each repetition in which it was caught.
    seconds: Vec<f64>,
    rule: String,
    runs: u64,
}

/// Runs every mistake until it is caught. Exit code 0 if all were.
///
/// # Errors
/// The binaries have no planted mistakes, or a run's harness failed.
pub fn run(args: &MutantsArgs) -> Result<i32> {
    let mutants = list(&args.bin)?;
    let mut outcomes = Vec::new();
    for mutant in &mutants {
        if !args.only.is_empty() && !args.only.contains(&mutant.name) {
            continue;
        }
        println!("\n=== {}: {}", mutant.name, mutant.about);
        let general = fitting("", Workload::Race, &[KillAll, PartitionMajority, DiskError]);
        let test = TESTS
            .iter()
            .find(|t| t.mutant == mutant.name)
            .unwrap_or(&general);
        outcomes.push(hunt(args, &mutant.name, test)?);
    }
    println!("\n| mutant | caught by | rule | median seconds |\n|---|---|---|---|");
    let mut escaped = 0;
    for outcome in &mut outcomes {
        outcome.seconds.sort_by(f64::total_cmp);
        let median = match outcome.seconds.get(outcome.seconds.len() / 2) {
            Some(seconds) => format!("{seconds:.1}"),
            None => {
                escaped += 1;
                format!("escaped {} runs", outcome.runs)
            }
        };
        println!(
            "| {} | {} | {} | {median} |",
            outcome.name, outcome.test, outcome.rule
        );
    }
    Ok(i32::from(escaped > 0))
}

fn list(bin: &Path) -> Result<Vec<Mutant>> {
    let out = Command::new(bin.join("troika-store"))
        .arg("mutants")
        .output();
    let out = out.with_context(|| bin.display().to_string())?;
    if !out.status.success() {
        bail!(
            "{} has no planted mistakes: build it with `cargo build --workspace --profile checked --features mutants`: {}",
            bin.join("troika-store").display(),
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(serde_json::from_slice(&out.stdout)?)
}

fn hunt(args: &MutantsArgs, name: &str, test: &Fitting) -> Result<Outcome> {
    let faults: Vec<String> = test.faults.iter().map(|f| f.name()).collect();
    let mut outcome = Outcome {
        name: name.to_owned(),
        test: format!("{} with {}", test.workload.name(), faults.join(", ")),
        seconds: Vec::new(),
        rule: String::new(),
        runs: 0,
    };
    for repetition in 0..args.repeat {
        // Time that runs without a finding took counts too.
        let mut spent = 0.0;
        for attempt in 0..args.tries {
            let seed = args.seed + repetition * args.tries + attempt;
            let dir = args.out.join("mutants").join(name).join(seed.to_string());
            let planted = test
                .only
                .map_or(name.to_owned(), |who| format!("{name}@{who}"));
            outcome.runs += 1;
            let results = one(args, test, planted, seed, &dir)?;
            if let Some(finding) = results.findings.first() {
                println!(
                    "caught with seed {seed}: {}: {}",
                    finding.rule, finding.text
                );
                outcome
                    .seconds
                    .push(spent + results.found_after_s.unwrap_or(0.0));
                outcome.rule.clone_from(&finding.rule);
                break;
            }
            spent += test.seconds as f64;
        }
    }
    Ok(outcome)
}

/// One run of a wrong system.
fn one(
    args: &MutantsArgs,
    test: &Fitting,
    planted: String,
    seed: u64,
    dir: &Path,
) -> Result<Results> {
    let run = TestArgs {
        workload: test.workload,
        nemesis: test.faults.to_vec(),
        time_limit: Duration::from_secs(test.seconds),
        concurrency: 12,
        rate: 400.0,
        members: 3,
        executors: 3,
        shards: test.shards,
        seed: Some(seed),
        out: dir.to_owned(),
        bin: Some(args.bin.clone()),
        recovery: 20,
        mutant: Some(planted),
    };
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("test")
        .args(flags(&run, seed))
        .arg("--out")
        .arg(dir)
        .arg("--bin")
        .arg(&args.bin);
    let out = command.output()?;
    if !matches!(out.status.code(), Some(0..=2)) {
        bail!(
            "the run's harness failed with {:?}: {}{}",
            out.status.code(),
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
    }
    let results = find(dir, "results.json").context("the run wrote no results")?;
    read_json(&results)
}

/// The newest file of that name two folders below `dir`.
fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut found = Vec::new();
    for test in std::fs::read_dir(dir).ok()?.flatten() {
        for run in std::fs::read_dir(test.path()).ok()?.flatten() {
            found.push(run.path().join(name));
        }
    }
    found.retain(|path| path.exists());
    found.sort();
    found.pop()
}
