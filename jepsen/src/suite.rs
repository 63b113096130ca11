//! Many runs: the matrix of `test-all`, its random mixtures, and the short smoke of CI.

use crate::net;
use crate::options::{Fault, TestAllArgs, TestArgs, Workload};
use crate::plan::{self, pick};
use crate::run::flags;
use crate::verdict::Verdict;
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Faults of the matrix for scripted workloads: each alone or with its like, then those that work together.
const SCRIPTED: &[&[Fault]] = &[
    &[Fault::Kill, Fault::KillLeader, Fault::KillAll],
    &[Fault::PowerCut, Fault::PowerCutAll],
    &[Fault::Pause, Fault::Clock],
    &[Fault::PartitionLeader, Fault::PartitionOneWay],
    &[Fault::PartitionMajority, Fault::Loss, Fault::Delay],
    &[Fault::RollingRestart, Fault::SlowDisk],
    &[Fault::DiskError, Fault::DiskFull],
    &[Fault::Membership, Fault::Wipe],
    &[Fault::BitFlip, Fault::Truncate],
    &[Fault::AllAtOnce],
];
/// Faults of the matrix for workloads with executors.
const REAL: &[&[Fault]] = &[
    // Faults that some executors survive excuse no empty block: with them alone, every block is judged.
    &[Fault::KillExecutor, Fault::PauseExecutor],
    &[Fault::KillExecutors, Fault::KillGateway],
    &[Fault::ExecutorsFromStore, Fault::GatewayFromExecutors],
    &[Fault::KillLeader, Fault::PartitionLeader],
    &[Fault::AllAtOnce],
];
/// Faults that need five members.
const FIVE: &[Fault] = &[
    Fault::PartitionRing,
    Fault::PartitionBridge,
    Fault::Kill,
    Fault::PartitionMajority,
];
/// Faults of a mixture.
const MIXED: &[Fault] = &[
    Fault::Kill,
    Fault::KillLeader,
    Fault::KillAll,
    Fault::PowerCut,
    Fault::PowerCutAll,
    Fault::Pause,
    Fault::PartitionOne,
    Fault::PartitionLeader,
    Fault::PartitionMajority,
    Fault::PartitionRing,
    Fault::PartitionBridge,
    Fault::PartitionOneWay,
    Fault::Loss,
    Fault::Delay,
    Fault::RollingRestart,
    Fault::Clock,
    Fault::DiskFull,
    Fault::SlowDisk,
    Fault::DiskError,
    Fault::BitFlip,
    Fault::Truncate,
    Fault::Wipe,
    Fault::Membership,
    Fault::KillExecutor,
    Fault::KillExecutors,
    Fault::PauseExecutor,
    Fault::KillGateway,
    Fault::ExecutorsFromStore,
    Fault::GatewayFromExecutors,
    Fault::AllAtOnce,
];
/// Time limit of a run of the matrix and of the smoke, where none is given.
const SMOKE: Duration = Duration::from_secs(15);

/// A run of a suite.
#[derive(Clone, Debug)]
struct Run {
    args: TestArgs,
    seed: u64,
}

fn run(base: &TestArgs, workload: Workload, faults: &[Fault], seed: u64) -> Run {
    let args = TestArgs {
        workload,
        nemesis: faults.to_vec(),
        ..base.clone()
    };
    Run { args, seed }
}

/// Runs many tests, one after the other. Answers the exit code.
///
/// # Errors
/// A run's harness failed.
pub fn test_all(all: &TestAllArgs) -> Result<i32> {
    let base = &all.test;
    let seed = base.seed.unwrap_or(1);
    let plan = match (all.swarm, all.smoke) {
        (Some(runs), _) => (0..u64::from(runs))
            .map(|n| mixture(base, seed + n))
            .collect(),
        (None, true) => smoke(base, seed),
        (None, false) => matrix(base, seed),
    };
    for skipped in skipped() {
        println!("skipped {skipped}");
    }
    let started = Instant::now();
    let mut outcomes = Vec::new();
    for (n, run) in plan.iter().enumerate() {
        let faults: Vec<String> = run.args.nemesis.iter().map(|f| f.name()).collect();
        println!(
            "\n--- {} of {}: {} with {}",
            n + 1,
            plan.len(),
            run.args.workload.name(),
            faults.join(", ")
        );
        outcomes.push((start(run)?, run));
    }
    println!();
    for (verdict, run) in &outcomes {
        if *verdict != Verdict::Valid {
            println!(
                "{verdict:?}: troika-jepsen test {}",
                flags(&run.args, run.seed).join(" ")
            );
        }
    }
    let count = |v| outcomes.iter().filter(|(verdict, _)| *verdict == v).count();
    let (invalid, unknown) = (count(Verdict::Invalid), count(Verdict::Unknown));
    println!(
        "{} runs in {:.0} s: {} valid, {invalid} invalid, {unknown} unknown",
        outcomes.len(),
        started.elapsed().as_secs_f64(),
        count(Verdict::Valid)
    );
    Ok(match (invalid, unknown) {
        (0, 0) => 0,
        (0, _) => 2,
        _ => 1,
    })
}

/// Starts one run as a process of its own, so that its namespaces are its own too.
fn start(run: &Run) -> Result<Verdict> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg("test").args(flags(&run.args, run.seed));
    command.arg("--out").arg(&run.args.out);
    if let Some(bin) = &run.args.bin {
        command.arg("--bin").arg(bin);
    }
    match command.status()?.code() {
        Some(0) => Ok(Verdict::Valid),
        Some(1) => Ok(Verdict::Invalid),
        Some(2) => Ok(Verdict::Unknown),
        code => bail!("the run's harness failed with {code:?}"),
    }
}

/// What this machine cannot do, for the first lines of a suite.
fn skipped() -> Vec<String> {
    let mut skipped = Vec::new();
    if let Some(why) = net::obstacle() {
        skipped.push(format!("faults of the network: {why}"));
    }
    if let Some(why) = crate::disk::obstacle() {
        skipped.push(format!("power cuts: {why}"));
    }
    if crate::cluster::faketime().is_none() {
        skipped.push("clock jumps: faketime is not installed".to_owned());
    }
    if let Err(e) = std::process::Command::new("strace").arg("-V").output() {
        skipped.push(format!("disk faults: strace: {e}"));
    }
    skipped
}

/// Faults that this machine can bring about.
fn possible(faults: &[Fault]) -> Vec<Fault> {
    let cut_off = net::obstacle().is_some();
    let dark = crate::disk::obstacle().is_some();
    let timeless = crate::cluster::faketime().is_none();
    let can = |f: &&Fault| {
        !(f.needs_namespaces() && cut_off
            || f.cuts_power() && dark
            || **f == Fault::Clock && timeless)
    };
    faults.iter().filter(can).copied().collect()
}

fn matrix(base: &TestArgs, seed: u64) -> Vec<Run> {
    let mut plan = Vec::new();
    let mut add = |args: &TestArgs, workload, faults: &[Fault]| {
        let faults = possible(faults);
        if !faults.is_empty() {
            let seed = seed + plan.len() as u64;
            plan.push(run(args, workload, &faults, seed));
        }
    };
    for faults in SCRIPTED {
        add(base, Workload::Race, faults);
    }
    for faults in REAL {
        add(base, Workload::Transfer, faults);
    }
    let combined = [
        Fault::KillLeader,
        Fault::PartitionLeader,
        Fault::Pause,
        Fault::Loss,
    ];
    for workload in [
        Workload::Locks,
        Workload::Read,
        Workload::Retry,
        Workload::Watch,
        Workload::Broadcast,
    ] {
        add(base, workload, &combined);
    }
    add(base, Workload::Prune, &[Fault::Kill, Fault::Wipe]);
    add(base, Workload::Transfer, &[Fault::Membership]);
    let five = TestArgs {
        members: 5,
        ..base.clone()
    };
    add(&five, Workload::Race, FIVE);
    plan
}

fn smoke(base: &TestArgs, seed: u64) -> Vec<Run> {
    let short = TestArgs {
        time_limit: SMOKE,
        ..base.clone()
    };
    let faults = |wanted: &[Fault]| {
        let possible = possible(wanted);
        if possible.is_empty() {
            vec![Fault::Kill]
        } else {
            possible
        }
    };
    vec![
        run(
            &short,
            Workload::Race,
            &faults(&[Fault::Kill, Fault::Pause]),
            seed,
        ),
        run(
            &short,
            Workload::Locks,
            &faults(&[Fault::KillLeader, Fault::PartitionOne]),
            seed + 1,
        ),
        run(
            &short,
            Workload::Transfer,
            &faults(&[Fault::KillExecutor, Fault::KillLeader]),
            seed + 2,
        ),
        run(
            &short,
            Workload::Race,
            &faults(&[Fault::PowerCutAll]),
            seed + 3,
        ),
    ]
}

/// A random workload, random sizes and a random subset of faults.
fn mixture(base: &TestArgs, seed: u64) -> Run {
    let mut random = plan::random(seed, "mixture", 0);
    let workload = pick(&mut random, &Workload::ALL, 1)[0];
    let args = TestArgs {
        members: if random.one_in(4) { 5 } else { 3 },
        shards: 1 + random.below(8) as u32,
        executors: 2 + random.below(2) as u32,
        concurrency: 4 + random.below(16) as u32,
        rate: (100 + random.below(400)) as f64,
        ..base.clone()
    };
    let fitting = possible(MIXED).into_iter().filter(|f| {
        let five = matches!(f, Fault::PartitionRing | Fault::PartitionBridge);
        (workload.is_real() || !f.needs_executors()) && (args.members == 5 || !five)
    });
    let fitting: Vec<Fault> = fitting.collect();
    let count = (1 + random.below(4) as usize).min(plan::faults_in(args.time_limit));
    let faults = pick(&mut random, &fitting, count);
    run(&args, workload, &faults, seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Cli;
    use clap::Parser;

    fn base() -> TestArgs {
        match Cli::parse_from(["troika-jepsen", "test"]).command {
            crate::options::Command::Test(args) => args,
            _ => unreachable!("asked for a test"),
        }
    }

    #[test]
    fn a_mixture_is_its_seeds() {
        let shown = |seed| format!("{:?}", mixture(&base(), seed));
        assert_eq!(shown(3), shown(3));
        let different: std::collections::HashSet<String> = (0..40).map(shown).collect();
        assert!(different.len() > 30);
    }

    #[test]
    fn a_short_run_mixes_no_more_faults_than_get_their_turn() {
        let short = TestArgs {
            time_limit: SMOKE,
            ..base()
        };
        let counts: Vec<usize> = (0..40)
            .map(|seed| mixture(&short, seed).args.nemesis.len())
            .collect();
        assert!(
            counts.iter().all(|count| (1..=2).contains(count)),
            "{counts:?}"
        );
        assert!((0..40).any(|seed| mixture(&base(), seed).args.nemesis.len() == 4));
    }

    #[test]
    fn the_command_that_is_printed_runs_the_same() {
        for seed in 0..40 {
            let run = mixture(&base(), seed);
            let printed = flags(&run.args, run.seed);
            let parsed = Cli::parse_from(
                ["troika-jepsen".to_owned(), "test".to_owned()]
                    .into_iter()
                    .chain(printed),
            );
            let crate::options::Command::Test(parsed) = parsed.command else {
                unreachable!("printed a test");
            };
            let wanted = TestArgs {
                seed: Some(seed),
                ..run.args
            };
            assert_eq!(format!("{parsed:?}"), format!("{wanted:?}"));
        }
    }

    #[test]
    fn the_matrix_has_every_workload_and_every_fault_that_this_machine_can_do() {
        let plan = matrix(&base(), 1);
        for workload in Workload::ALL {
            assert!(
                plan.iter().any(|r| r.args.workload == workload),
                "{workload:?}"
            );
        }
        for fault in possible(MIXED) {
            if fault == Fault::PartitionOne {
                continue; // `partition-majority` of three is one member cut off.
            }
            assert!(
                plan.iter().any(|r| r.args.nemesis.contains(&fault)),
                "{fault:?}"
            );
        }
    }
}
