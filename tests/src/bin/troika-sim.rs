//! Runs simulations of the store: many seeds, one seed, or one seed twice.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use troika_tests::sim::trace::Trace;
use troika_tests::sim::{Plan, Report, run};

/// Simulates the replicated store under faults, each run drawn from a seed.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100, conflicts_with = "minutes")]
    seeds: u64,
    /// Runs fresh seeds for so many minutes.
    #[arg(long)]
    minutes: Option<f64>,
    /// The first seed; alone: the only one.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs every seed twice and compares the traces.
    #[arg(long)]
    twice: bool,
    /// Tells the last of what happened.
    #[arg(long)]
    trace: bool,
    /// Members; drawn from the seed where not given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(3..=5))]
    members: Option<u64>,
    /// Simulated seconds of faults.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Events told on either side of the place where two runs part.
const AROUND: usize = 12;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let started = Instant::now();
    let alone = arguments.seed.is_some()
        && !std::env::args().any(|argument| argument.starts_with("--seeds"));
    let first = arguments.seed.unwrap_or_else(fresh_seed);
    let last = match (arguments.minutes, alone) {
        (Some(_), _) => u64::MAX,
        (None, true) => first,
        (None, false) => first.saturating_add(arguments.seeds - 1),
    };
    let deadline = arguments
        .minutes
        .map(|minutes| started + Duration::from_secs_f64(minutes * 60.0));
    println!(
        "seeds from {first} on, {} s of faults each, {} profile",
        arguments.seconds,
        profile()
    );
    let (mut done, mut failed) = (0_u64, 0_u64);
    let mut simulated = Duration::ZERO;
    for seed in first..=last {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break;
        }
        let plan = Plan::draw(
            seed,
            arguments.members,
            Duration::from_secs(arguments.seconds),
        );
        if alone {
            println!("{plan:#?}");
        }
        let (report, same) = once_or_twice(&plan, &arguments);
        done += 1;
        simulated += report.simulated;
        if report.violation.is_some() || !same {
            failed += 1;
        }
        tell(&report, &arguments, started.elapsed(), same);
    }
    let took = started.elapsed();
    println!(
        "{done} seeds, {failed} failed, {:.0} s simulated in {:.0} s: {:.1} seeds a minute",
        simulated.as_secs_f64(),
        took.as_secs_f64(),
        done as f64 * 60.0 / took.as_secs_f64()
    );
    ExitCode::from(u8::from(failed > 0))
}

fn once_or_twice(plan: &Plan, arguments: &Arguments) -> (Report, bool) {
    let report = run(plan, Trace::new(arguments.trace, arguments.twice));
    if !arguments.twice {
        return (report, true);
    }
    let again = run(plan, Trace::new(arguments.trace, true));
    if report.hash == again.hash && report.events == again.events {
        return (report, true);
    }
    let parted = report
        .steps
        .iter()
        .zip(&again.steps)
        .take_while(|(a, b)| a == b)
        .count();
    println!(
        "seed {}: two runs part after {parted} of {} and {} events",
        plan.seed, report.events, again.events
    );
    for report in [&report, &again] {
        let last = report.events as usize - report.story.len();
        let from = parted.saturating_sub(AROUND + last);
        println!("---");
        report
            .story
            .iter()
            .skip(from)
            .take(2 * AROUND)
            .for_each(|line| println!("{line}"));
    }
    (report, false)
}

fn tell(report: &Report, arguments: &Arguments, elapsed: Duration, same: bool) {
    let seed = report.seed;
    println!(
        "[{:>6.1} s] seed {seed}: {:.0} s simulated, {}, {} events, trace {:016x}{}",
        elapsed.as_secs_f64(),
        report.simulated.as_secs_f64(),
        report.summary,
        report.events,
        report.hash,
        if arguments.twice && same {
            ", twice"
        } else {
            ""
        }
    );
    if arguments.trace {
        report.story.iter().for_each(|line| println!("{line}"));
    }
    if let Some(violation) = &report.violation {
        let members = arguments
            .members
            .map(|members| format!(" --members {members}"))
            .unwrap_or_default();
        let release = if cfg!(debug_assertions) {
            ""
        } else {
            "--release "
        };
        println!("VIOLATION in seed {seed}: {violation}");
        println!(
            "repeat it: cargo run {release}-p troika-tests --bin troika-sim -- --seed {seed} --seconds {}{members} --trace",
            arguments.seconds
        );
    }
}

fn profile() -> &'static str {
    if cfg!(debug_assertions) {
        "a debugging"
    } else {
        "the release"
    }
}

fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(1, |now| now.as_micros() as u64)
}
