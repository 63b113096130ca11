//! How a replay is shown: a table for people, JSON lines for programs.

use super::Replayed;
use super::measure::Figures;
use crate::cli::ReplayArgs;
use crate::dev::report::grouped;
use serde_json::{Value, json};
use std::path::Path;

const HEADLINE: &str = "    block    txs rounds  deferred      gas%  conflicts  differ           gas  sequential        header     ms  parallelism (bound)";

pub(super) fn headline(args: &ReplayArgs) {
    if !args.json {
        println!(
            "{} shards, {} executors of each, {} members; locks {:?}, policy {:?}",
            args.shards, args.executors, args.members, args.locks, args.policy
        );
        println!("{HEADLINE}");
    }
}

pub(super) fn block(args: &ReplayArgs, replayed: &Replayed) {
    let faults = replayed.figures.faults();
    if args.json {
        let mut line =
            json!({ "block": replayed.number, "ok": faults.is_empty(), "faults": faults });
        extend(&mut line, &replayed.figures);
        line["refused_for"] = json!(replayed.refused);
        println!("{line}");
        return;
    }
    println!("{:>9} {}", replayed.number, columns(&replayed.figures));
    for (hash, reason) in &replayed.refused {
        println!("          refused {hash}: {reason}");
    }
    for fault in faults {
        println!("          FAILED: {fault}");
    }
}

pub(super) fn failed(args: &ReplayArgs, file: &Path, error: &anyhow::Error) {
    if args.json {
        let fault = format!("{error:#}");
        println!(
            "{}",
            json!({ "file": file, "ok": false, "faults": [fault] })
        );
    } else {
        println!("          FAILED: {}: {error:#}", file.display());
    }
}

pub(super) fn total(args: &ReplayArgs, total: &Figures, good: usize) {
    let files = args.files.len();
    if args.json {
        let mut figures = json!({ "files": files, "good": good });
        extend(&mut figures, total);
        println!("{}", json!({ "total": figures }));
        return;
    }
    println!("{:>9} {}", "total", columns(total));
    println!("{good} of {files} blocks good");
}

fn extend(line: &mut Value, figures: &Figures) {
    let Value::Object(fields) = serde_json::to_value(figures).expect("figures are JSON") else {
        unreachable!("a struct with named fields is an object");
    };
    line.as_object_mut().expect("made above").extend(fields);
    line["deferred_gas_share"] = json!(figures.deferred_share());
    line["parallelism"] = json!(figures.parallelism());
    line["parallelism_bound"] = json!(figures.parallelism_bound());
}

fn columns(figures: &Figures) -> String {
    format!(
        "{:>6} {:>6} {:>9} {:>8.2}% {:>10} {:>7} {:>13} {:>11} {:>13} {:>6.0} {:>12.2} ({:.2})",
        figures.transactions,
        figures.rounds,
        figures.deferred,
        figures.deferred_share() * 100.0,
        figures.conflicts,
        figures.outcomes_differ,
        grouped(figures.gas),
        grouped(figures.sequential_gas),
        grouped(figures.header_gas),
        figures.seconds * 1_000.0,
        figures.parallelism(),
        figures.parallelism_bound(),
    )
}
