//! Runs simulations of the store: many seeds, one seed, one seed twice, planted bugs, or the files alone.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use troika_store::mutant::Mutant;
use troika_tests::sim::mutants::{hunt, unseen};
use troika_tests::sim::torture::torture;
use troika_tests::sim::trace::Trace;
use troika_tests::sim::{Plan, Report, run};

/// A simulation copies pages and messages all the time, in one thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// Runs every seed in two processes of their own and compares the traces.
    #[arg(long, conflicts_with_all = ["twice", "trace", "mutant", "torture"])]
    processes: bool,
    /// Tells the last of what happened.
    #[arg(long)]
    trace: bool,
    /// Plants a bug (or each one, with `all`) and runs up to --seeds seeds until it is seen. Needs the feature `mutants`.
    #[arg(long)]
    mutant: Option<String>,
    /// Cuts the power of the files alone so many times.
    #[arg(long)]
    torture: Option<u64>,
    /// Says nothing of the seeds in which all held.
    #[arg(long)]
    quiet: bool,
    /// Members, 3 or 5; drawn from the seed where not given.
    #[arg(long, value_parser = three_or_five)]
    members: Option<u64>,
    /// Simulated seconds of faults.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// The commit that this program was built from.
const COMMIT: &str = env!("TROIKA_COMMIT");
/// With `--quiet` a line tells after so many seeds how far the run is.
const PROGRESS: u64 = 50;
/// Events told on either side of the place where two runs part.
const AROUND: usize = 12;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let well = if let Some(cuts) = arguments.torture {
        torture_files(arguments.seed.unwrap_or_else(fresh_seed), cuts)
    } else if let Some(name) = &arguments.mutant {
        hunt_mutants(name, &arguments)
    } else {
        run_seeds(&arguments)
    };
    ExitCode::from(u8::from(!well))
}

fn three_or_five(text: &str) -> Result<u64, String> {
    match text {
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("a group has 3 or 5 members".to_owned()),
    }
}

impl Arguments {
    fn plan(&self, seed: u64) -> Plan {
        Plan::draw(seed, self.members, Duration::from_secs(self.seconds))
    }

    /// One seed and nothing else was asked for.
    fn is_alone(&self) -> bool {
        let named = std::env::args().any(|argument| argument.starts_with("--seeds"));
        self.seed.is_some() && !named && self.minutes.is_none()
    }
}

fn run_seeds(arguments: &Arguments) -> bool {
    let started = Instant::now();
    let alone = arguments.is_alone();
    let first = arguments.seed.unwrap_or_else(fresh_seed);
    let last = match (arguments.minutes, alone) {
        (Some(_), _) => u64::MAX,
        (None, true) => first,
        (None, false) => first.saturating_add(arguments.seeds - 1),
    };
    let minutes = arguments.minutes.map(|minutes| minutes * 60.0);
    let deadline = minutes.map(|seconds| started + Duration::from_secs_f64(seconds));
    println!(
        "seeds from {first} on, {} s of faults each, {}",
        arguments.seconds,
        profile()
    );
    let (mut done, mut failed) = (0_u64, 0_u64);
    let mut simulated = Duration::ZERO;
    let mut met: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in first..=last {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break;
        }
        done += 1;
        if arguments.processes {
            failed += u64::from(!in_two_processes(seed, arguments));
            continue;
        }
        let plan = arguments.plan(seed);
        if alone && !arguments.quiet {
            println!("{plan:#?}");
        }
        let (report, same) = once_or_twice(&plan, arguments);
        simulated += report.simulated;
        for (what, times) in &report.counts {
            *met.entry(what).or_default() += times;
        }
        let well = report.violation.is_none() && same;
        failed += u64::from(!well);
        if !well || !arguments.quiet {
            tell(&report, arguments, started.elapsed(), same);
        }
        if arguments.quiet && done.is_multiple_of(PROGRESS) {
            let minutes = started.elapsed().as_secs_f64() / 60.0;
            println!("{done} seeds in {minutes:.1} minutes, {failed} failed");
        }
    }
    let took = started.elapsed();
    if !met.is_empty() {
        let met: Vec<_> = met
            .iter()
            .map(|(what, times)| format!("{what} {times}"))
            .collect();
        println!("met: {}", met.join(", "));
    }
    println!(
        "{done} seeds, {failed} failed, {:.0} s simulated in {:.0} s: {:.1} seeds a minute",
        simulated.as_secs_f64(),
        took.as_secs_f64(),
        done as f64 * 60.0 / took.as_secs_f64()
    );
    failed == 0
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

/// True if two processes of this program tell the same of a seed.
fn in_two_processes(seed: u64, arguments: &Arguments) -> bool {
    let mut told = Vec::new();
    for _ in 0..2 {
        match in_a_process(seed, arguments) {
            Ok(line) => told.push(line),
            Err(error) => {
                println!("seed {seed}: FAILED in a process of its own: {error}");
                return false;
            }
        }
    }
    let same = told[0] == told[1];
    let verdict = if same { "equal" } else { "DIFFERENT" };
    println!(
        "seed {seed}: {verdict} in two processes: {}",
        told.join(" / ")
    );
    same
}

/// The last words about a seed: how much was checked, and the hash of the trace. What such a process finds is an error
/// here, in its own words.
fn in_a_process(seed: u64, arguments: &Arguments) -> std::io::Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--seeds", "1", "--seed", &seed.to_string()]);
    command.args(["--seconds", &arguments.seconds.to_string()]);
    if let Some(members) = arguments.members {
        command.args(["--members", &members.to_string()]);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    told_of(seed, output.status.success(), &text).map_err(std::io::Error::other)
}

/// What the process that said `text` told of a seed.
fn told_of(seed: u64, well: bool, text: &str) -> Result<String, String> {
    if !well {
        return Err(format!("it says:\n{text}"));
    }
    let mut lines = text.lines();
    let told = lines.find_map(|line| line.split_once(&format!("seed {seed}: ")));
    match told {
        Some((_, told)) => Ok(told.to_owned()),
        None => Err(format!("no word of the seed; it says:\n{text}")),
    }
}

fn hunt_mutants(name: &str, arguments: &Arguments) -> bool {
    if !cfg!(feature = "mutants") {
        eprintln!(
            "this build has no planted bugs: build it with --features mutants, in a profile with debug assertions"
        );
        return false;
    }
    let mutants: Vec<Mutant> = match name {
        "all" => Mutant::ALL.to_vec(),
        name => match name.parse() {
            Ok(mutant) => vec![mutant],
            Err(error) => {
                eprintln!("{error}");
                return false;
            }
        },
    };
    let first = arguments.seed.unwrap_or(1);
    println!("| mutant | seeds | seconds | first seen as |\n|---|---|---|---|");
    let mut blind = 0;
    for mutant in mutants {
        let seeds = if unseen(mutant).is_some() {
            0
        } else {
            arguments.seeds
        };
        let hunted = hunt(mutant, first, seeds, |seed| arguments.plan(seed));
        println!("{}", hunted.row());
        blind += usize::from(hunted.caught.is_none() && unseen(mutant).is_none());
    }
    blind == 0
}

fn torture_files(seed: u64, cuts: u64) -> bool {
    let started = Instant::now();
    match torture(seed, cuts) {
        Ok(seen) => {
            println!(
                "{} power cuts in {:.0} s, {} of them in the making of a directory; {} snapshots installed, {} acknowledged \
                 entries looked for: nothing lost, every directory opened (disks from seed {seed} on)",
                seen.cuts,
                started.elapsed().as_secs_f64(),
                seen.in_the_making,
                seen.installed,
                seen.promises
            );
            true
        }
        Err(what) => {
            println!("VIOLATION: {what}");
            println!(
                "found in commit {COMMIT}, profile {}, {}",
                profile_name(),
                profile()
            );
            println!("repeat it: troika-sim --torture {cuts} --seed {seed}");
            false
        }
    }
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
        println!("VIOLATION in seed {seed}: {violation}");
        println!(
            "found in commit {COMMIT}, profile {}, {}",
            profile_name(),
            profile()
        );
        println!(
            "repeat it: cargo run --profile {} {}-p troika-tests --bin troika-sim -- --seed {seed} --seconds {}{members} --trace",
            profile_name(),
            match cfg!(feature = "mutants") {
                true => "--features mutants ",
                false => "",
            },
            arguments.seconds
        );
    }
}

/// The cargo profile that this program was built in, by its folder: what a failure is to be repeated in.
fn profile_name() -> String {
    let program = std::env::current_exe().unwrap_or_default();
    let folder = program.parent().and_then(|folder| folder.file_name());
    match folder.map(|name| name.to_string_lossy()) {
        // Cargo's folder for `dev`.
        Some(name) if name == "debug" => "dev".to_owned(),
        Some(name) => name.into_owned(),
        None => "unknown".to_owned(),
    }
}

fn profile() -> &'static str {
    if cfg!(debug_assertions) {
        "debug assertions on"
    } else {
        "debug assertions off"
    }
}

fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(1, |now| now.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_that_two_processes_see_alike_is_no_equality() {
        let text =
            "[   1.0 s] seed 7: 20 s simulated, trace 00ff\nVIOLATION in seed 7: two winners\n";
        assert_eq!(
            told_of(7, true, text).unwrap(),
            "20 s simulated, trace 00ff"
        );
        let failed = told_of(7, false, text).unwrap_err();
        assert!(failed.contains("two winners"), "{failed}");
        assert!(told_of(8, true, text).is_err());
    }

    #[test]
    fn a_group_of_four_is_refused() {
        let asked = |members| Arguments::try_parse_from(["troika-sim", "--members", members]);
        assert_eq!(asked("3").unwrap().members, Some(3));
        assert_eq!(asked("5").unwrap().members, Some(5));
        assert!(asked("4").is_err());
    }
}
