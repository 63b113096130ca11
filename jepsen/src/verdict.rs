//! What a run came to: judged from its history and from what was seen beside it, written, and judged again on demand.

use crate::checker::coverage::Coverage;
use crate::checker::linear::Searched;
use crate::checker::{self, Finding};
use crate::history::Entry;
use crate::options::{Fault, TestArgs};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

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
    /// What of it is not in the history.
    #[serde(default)]
    pub unasked: Vec<String>,
    /// What the search for an order of calls left out.
    #[serde(default)]
    pub searched: Searched,
    /// Seconds from lifting the last fault to progress on every member; absent where there was none in time.
    pub recovery_s: Option<f64>,
    /// Seconds from the start of the run to the entry that completes the first proof of a mistake.
    #[serde(default)]
    pub found_after_s: Option<f64>,
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
    /// The commit that it was built from; "unknown" where there was none.
    #[serde(default)]
    pub commit: String,
    /// Keccak-256 of the binaries that were tested.
    pub binaries: Vec<(String, String)>,
    /// What this machine cannot do.
    pub skipped: Vec<String>,
    /// The command that runs it again.
    pub command: String,
}

/// Faults that a run was asked for.
pub fn wanted(args: &TestArgs) -> Vec<Fault> {
    let faults = args.nemesis.iter().copied();
    faults.filter(|f| *f != Fault::None).collect()
}

/// What is known of a run beside its history.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// What must not be: panics in logs, processes that ended.
    pub findings: Vec<Finding>,
    /// What could not be asked, for which the run is not worth being called valid.
    pub unasked: Vec<String>,
    /// Seconds from lifting the last fault to progress on every member.
    pub recovery_s: Option<f64>,
}

/// Checks a history.
pub fn judge(history: &[Entry], beside: Beside, faults: &[String]) -> Results {
    let started = Instant::now();
    let (mut findings, searched) = checker::check(history);
    findings.extend(beside.findings);
    let coverage = Coverage::of(history);
    let mut missing = coverage.missing(faults);
    missing.extend(beside.unasked.iter().cloned());
    let verdict = if !findings.is_empty() {
        Verdict::Invalid
    } else if !missing.is_empty() {
        Verdict::Unknown
    } else {
        Verdict::Valid
    };
    Results {
        verdict,
        found_after_s: first_proof(history, &findings),
        findings,
        coverage,
        missing,
        unasked: beside.unasked,
        searched,
        recovery_s: beside.recovery_s,
        entries: history.len(),
        check_s: started.elapsed().as_secs_f64(),
    }
}

/// When the first finding was complete. One without entries (a log, a process) shows at the end.
fn first_proof(history: &[Entry], findings: &[Finding]) -> Option<f64> {
    let end = history.last().map_or(0, |e| e.time);
    let complete = |finding: &Finding| {
        let last = finding.entries.last()?;
        history.get(*last as usize).map(|e| e.time)
    };
    let first = findings.iter().map(|f| complete(f).unwrap_or(end)).min()?;
    Some(first as f64 / 1e9)
}

/// Writes results, EDN and report, and tells the person at the terminal.
///
/// # Errors
/// The folder cannot be written to.
pub fn finish(dir: &Path, options: &Options, history: &[Entry], results: &Results) -> Result<()> {
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
        for folder in ["data", "disks", "clocks"] {
            let _ = std::fs::remove_dir_all(dir.join(folder));
        }
    }
    Ok(())
}

fn print_results(results: &Results) {
    let c = &results.coverage;
    println!(
        "calls   {} ok, {} fail, {} unknown; {} slots decided, {} lost races, {} conflicts, {} terms, {} restarts",
        c.ok, c.fail, c.info, c.decided, c.lost_races, c.conflicts, c.terms, c.restarts
    );
    if c.transactions > 0 {
        println!(
            "chain   {} blocks, {} transactions",
            c.blocks, c.transactions
        );
    }
    for (fault, count) in &c.faults {
        println!("fault   {fault} x{count}");
    }
    if results.searched.left_out() > 0 {
        println!("search  {}", results.searched);
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
    let faults: Vec<String> = wanted(&options.args).iter().map(|f| f.name()).collect();
    let results = judge(&history, beside(before), &faults);
    write_json(&dir.join("results.json"), &results)?;
    let report = crate::report::html(&options, &history, &results);
    std::fs::write(dir.join("report.html"), report)?;
    print_results(&results);
    Ok(results.verdict)
}

/// What was seen beside the history cannot be checked again: it is taken over.
fn beside(before: Option<Results>) -> Beside {
    let Some(before) = before else {
        let unasked = vec!["the run did not end: nobody was asked after the faults".to_owned()];
        return Beside {
            unasked,
            ..Beside::default()
        };
    };
    let findings = before.findings.into_iter();
    Beside {
        findings: findings.filter(|f| f.entries.is_empty()).collect(),
        unasked: before.unasked,
        recovery_s: before.recovery_s,
    }
}

/// Writes a value as a JSON file.
///
/// # Errors
/// The file cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
    serde_json::to_writer_pretty(std::io::BufWriter::new(file), value)?;
    Ok(())
}

/// Reads a JSON file.
///
/// # Errors
/// It is not there, or is something else.
pub fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_reader(std::io::BufReader::new(file))?)
}
