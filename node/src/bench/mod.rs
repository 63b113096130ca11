//! `troika-node bench execute`: what execution costs, and what two cores show of what many machines would do.
//! [`transfers()`] is `troika-node bench transfers`, [`cold()`] `troika-node bench cold`.

mod cold;
mod transfers;

pub use cold::cold;
pub use transfers::transfers;

use crate::cli::BenchExecuteArgs;
use crate::execution::bench::{Figures, Options, execute as measure};
use crate::execution::mainnet::MainnetBlock;
use anyhow::Context;
use serde_json::json;
use std::time::Duration;
use troika_proto::LockRule;

const HEADLINE: &str = "    block    txs       revm   critical  speed-up (bound)      roots       else   routing  recovery";

/// Measures every file, one after the other, and prints a table or JSON lines.
///
/// # Errors
/// A file that cannot be read or executed.
pub fn execute(args: &BenchExecuteArgs) -> anyhow::Result<()> {
    let mut total: Option<Figures> = None;
    if !args.json {
        println!("{HEADLINE}");
    }
    for file in &args.files {
        let shown = || file.display().to_string();
        let block = MainnetBlock::read(file).with_context(shown)?;
        let options = Options {
            shards: args.shards,
            lock_rule: LockRule::Commuting,
            runs: args.runs,
        };
        let figures = measure(&block, options).with_context(shown)?;
        print(args, &block.environment.number.to_string(), &figures);
        match &mut total {
            Some(total) => total.add(&figures),
            None => total = Some(figures),
        }
    }
    if let Some(total) = total {
        print(args, "total", &total);
    }
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// `part` as a share of revm's own time, percent.
fn percent(part: Duration, figures: &Figures) -> f64 {
    part.as_secs_f64() / figures.revm.as_secs_f64().max(1e-9) * 100.0
}

fn print(args: &BenchExecuteArgs, block: &str, figures: &Figures) {
    if args.json {
        println!("{}", json_line(block, figures));
        return;
    }
    println!(
        "{block:>9} {:>6} {:>7.2} ms {:>7.2} ms {:>9.2} {:>7.2} {:>8.1} % {:>8.1} % {:>6.2} ms {:>6.1} ms",
        figures.transactions,
        milliseconds(figures.revm),
        milliseconds(figures.critical_path()),
        figures.speed_up(),
        figures.parallelism_bound,
        percent(figures.roots(), figures),
        percent(figures.everything_else(), figures),
        milliseconds(figures.routing),
        milliseconds(figures.recovery),
    );
}

fn json_line(block: &str, figures: &Figures) -> serde_json::Value {
    json!({
        "block": block,
        "transactions": figures.transactions,
        "gas": figures.gas,
        "left_out": figures.left_out,
        "revm_ms": milliseconds(figures.revm),
        "recovery_ms": milliseconds(figures.recovery),
        "routing_ms": milliseconds(figures.routing),
        "transactions_root_ms": milliseconds(figures.transactions_root),
        "receipts_root_ms": milliseconds(figures.receipts_root),
        "diff_root_ms": milliseconds(figures.diff_root),
        "diff_ms": milliseconds(figures.diff),
        "encoding_ms": milliseconds(figures.encoding),
        "decoding_ms": milliseconds(figures.decoding),
        "locking_ms": milliseconds(figures.locking),
        "slowest_shard_ms": milliseconds(figures.slowest_shard),
        "critical_path_ms": milliseconds(figures.critical_path()),
        "speed_up": figures.speed_up(),
        "parallelism_bound": figures.parallelism_bound,
        "roots_percent_of_revm": percent(figures.roots(), figures),
        "else_percent_of_revm": percent(figures.everything_else(), figures),
    })
}
