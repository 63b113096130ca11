//! The planted bugs of [`troika_store::mutant`]: which of them the simulation sees, and how soon.
//!
//! A simulation that finds nothing may be blind. So each bug is planted, one at a time, and seeds run until an oracle
//! objects. Those that a simulation cannot see are named here, with the reason and with who sees them.

use std::time::{Duration, Instant};

use troika_store::mutant::{Mutant, Place};

use super::plan::Plan;
use super::run::run;
#[cfg(feature = "mutants")]
use super::torture::torture;
use super::trace::Trace;

/// Power cuts of the files alone that a bug of the log's file is hunted with first: it needs no cluster to be seen.
#[cfg(feature = "mutants")]
const CUTS: u64 = 2_000;

/// How a bug was found, or not.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// The bug.
    pub mutant: Mutant,
    /// Seeds that ran, the last of which saw it if one did.
    pub seeds: u64,
    /// Time that they took.
    pub took: Duration,
    /// The seed that saw it, and in what words; `None` if none did.
    pub caught: Option<(u64, String)>,
}

/// Why the simulation cannot see a bug, and who does.
pub fn unseen(mutant: Mutant) -> Option<&'static str> {
    match mutant.place() {
        Place::Store if mutant == Mutant::ColdMissesFrozen => Some(
            "a record is out of reach only while the job that writes it waits for a thread: \
             `a_record_that_is_missed_while_it_is_being_written_is_noticed` in the store catches it",
        ),
        Place::Store => None,
        Place::Node => {
            Some("executors and gateways are not simulated: `troika-jepsen mutants` catches it")
        }
    }
}

/// True for bugs of the log's file alone: members recover from them, the file does not.
#[cfg(feature = "mutants")]
fn is_of_the_log_file(mutant: Mutant) -> bool {
    matches!(mutant, Mutant::TruncateForgotten | Mutant::PurgeMarkLost)
}

/// What the files alone show of a bug, under power cuts.
#[cfg(feature = "mutants")]
pub fn under_power_cuts(mutant: Mutant, first: u64) -> Option<String> {
    let before = troika_store::mutant::set(Some(mutant));
    let seen = torture(first, CUTS);
    troika_store::mutant::set(before);
    seen.err()
}

/// Plants a bug and runs seeds from `first` on until it is seen; one of the log's file under power cuts first.
pub fn hunt(mutant: Mutant, first: u64, seeds: u64, draw: impl Fn(u64) -> Plan) -> Hunt {
    let started = Instant::now();
    let mut hunt = Hunt {
        mutant,
        seeds: 0,
        took: Duration::ZERO,
        caught: None,
    };
    #[cfg(feature = "mutants")]
    if is_of_the_log_file(mutant)
        && let Some(what) = under_power_cuts(mutant, first)
    {
        hunt.took = started.elapsed();
        hunt.caught = Some((first, format!("the files alone: {what}")));
        return hunt;
    }
    for seed in first..first.saturating_add(seeds) {
        let report = run(&draw(seed).with_mutant(mutant), Trace::default());
        hunt.seeds += 1;
        hunt.took = started.elapsed();
        if let Some(violation) = report.violation {
            hunt.caught = Some((seed, violation));
            break;
        }
    }
    hunt
}

impl Hunt {
    /// A row of the table in `docs/testing.md`.
    pub fn row(&self) -> String {
        let name = self.mutant.name();
        match (&self.caught, unseen(self.mutant)) {
            (Some((seed, what)), _) => {
                let what: String = what.chars().take(160).map(plain).collect();
                format!(
                    "| `{name}` | {} | {:.1} | seed {seed}: {} |",
                    self.seeds,
                    self.took.as_secs_f64(),
                    what.trim()
                )
            }
            (None, Some(why)) => format!("| `{name}` | | | {why} |"),
            (None, None) => format!(
                "| `{name}` | {} | {:.1} | **not seen** |",
                self.seeds,
                self.took.as_secs_f64()
            ),
        }
    }
}

fn plain(character: char) -> char {
    match character {
        '|' | '\n' | '\r' => ' ',
        other => other,
    }
}
