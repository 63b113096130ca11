//! What a development run tells about its blocks. Pure but for the histogram's memory.

use crate::load::drive::Tally;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use troika_proto::B256;

/// Longest open-to-seal time that is told apart, microseconds; longer ones count as this one.
const LONGEST_MICROS: u64 = 3_600_000_000;
/// Shards whose winners a line names; a block of more shards ends in an ellipsis.
const WINNERS_SHOWN: usize = 16;

/// One sealed block.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BlockReport {
    /// Its number.
    pub block: u64,
    /// Its hash.
    pub hash: B256,
    /// The round that made it.
    pub round: u64,
    /// Transactions in all shards.
    pub transactions: u64,
    /// Gas used in all shards.
    pub gas: u64,
    /// From hearing that the round is open to hearing that it is sealed.
    pub milliseconds: f64,
    /// The winner of each shard, by name; empty where the shard was sealed undecided.
    pub winners: Vec<String>,
    /// Proposals refused for a conflict since the last block.
    pub conflicts: u64,
}

/// The columns of [`BlockReport::line`].
pub const HEADLINE: &str = " block  hash           transactions          gas         ms  conflicts  won by (shard by shard)";

impl BlockReport {
    /// One line for a terminal.
    pub fn line(&self) -> String {
        let hash = self.hash.to_string();
        let mut winners: Vec<&str> = self
            .winners
            .iter()
            .take(WINNERS_SHOWN)
            .map(|name| short_name(name))
            .collect();
        if self.winners.len() > WINNERS_SHOWN {
            winners.push("…");
        }
        format!(
            "{:>6}  {}…{:>14} {:>12} {:>10.1} {:>10}  {}",
            self.block,
            &hash[..12],
            grouped(self.transactions),
            grouped(self.gas),
            self.milliseconds,
            self.conflicts,
            winners.join(" ")
        )
    }
}

/// `executor-2` is `2` in a table; nobody is `-`.
fn short_name(name: &str) -> &str {
    match name {
        "" => "-",
        name => name.strip_prefix("executor-").unwrap_or(name),
    }
}

/// Digits in groups of three.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A whole run.
#[derive(Debug)]
pub struct Summary {
    blocks: u64,
    transactions: u64,
    gas: u64,
    conflicts: u64,
    open_to_seal: Histogram<u64>,
    wins: BTreeMap<String, u64>,
    undecided: u64,
}

impl Summary {
    /// Nothing yet. `executors` are listed even if they win nothing.
    pub fn new(executors: impl IntoIterator<Item = String>) -> Self {
        Self {
            blocks: 0,
            transactions: 0,
            gas: 0,
            conflicts: 0,
            open_to_seal: Histogram::new_with_bounds(1, LONGEST_MICROS, 3)
                .expect("the bounds are valid"),
            wins: executors.into_iter().map(|name| (name, 0)).collect(),
            undecided: 0,
        }
    }

    /// Counts a block.
    pub fn add(&mut self, block: &BlockReport) {
        self.blocks += 1;
        self.transactions += block.transactions;
        self.gas += block.gas;
        self.conflicts += block.conflicts;
        self.open_to_seal
            .saturating_record((block.milliseconds * 1_000.0) as u64);
        for winner in &block.winners {
            if winner.is_empty() {
                self.undecided += 1;
            } else {
                *self.wins.entry(winner.clone()).or_default() += 1;
            }
        }
    }

    /// Blocks so far.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    fn percentile(&self, percentile: f64) -> f64 {
        self.open_to_seal.value_at_percentile(percentile) as f64 / 1_000.0
    }

    /// For a person.
    pub fn lines(&self, elapsed: Duration, load: Option<&Tally>) -> Vec<String> {
        let rate = |count: u64| count as f64 / elapsed.as_secs_f64().max(1e-9);
        let wins: Vec<_> = self
            .wins
            .iter()
            .map(|(name, wins)| format!("{name} {wins}"))
            .collect();
        let mut lines = vec![
            format!(
                "{} blocks in {:.1} s: {:.2} blocks/s, {} transactions ({:.1}/s), {} gas",
                grouped(self.blocks),
                elapsed.as_secs_f64(),
                rate(self.blocks),
                grouped(self.transactions),
                rate(self.transactions),
                grouped(self.gas)
            ),
            format!(
                "open to seal: p50 {:.1} ms, p99 {:.1} ms",
                self.percentile(50.0),
                self.percentile(99.0)
            ),
            format!(
                "shards won: {}; sealed undecided: {}",
                wins.join(", "),
                self.undecided
            ),
            format!("conflicts met: {}", grouped(self.conflicts)),
        ];
        if let Some(load) = load {
            lines.push(load_line(load));
        }
        lines
    }

    /// For a program.
    pub fn json(&self, elapsed: Duration, load: Option<&Tally>) -> serde_json::Value {
        let seconds = elapsed.as_secs_f64().max(1e-9);
        serde_json::json!({ "summary": {
            "blocks": self.blocks,
            "seconds": seconds,
            "blocks_per_second": self.blocks as f64 / seconds,
            "transactions": self.transactions,
            "transactions_per_second": self.transactions as f64 / seconds,
            "gas": self.gas,
            "open_to_seal_ms_p50": self.percentile(50.0),
            "open_to_seal_ms_p99": self.percentile(99.0),
            "wins": self.wins,
            "sealed_undecided": self.undecided,
            "conflicts": self.conflicts,
            "load": load,
        }})
    }
}

fn load_line(load: &Tally) -> String {
    let mut line = if load.sent == load.included {
        format!(
            "load: every one of its {} transactions is included",
            grouped(load.sent)
        )
    } else {
        format!(
            "load: only {} of its {} transactions are included",
            grouped(load.included),
            grouped(load.sent)
        )
    };
    if let Some(reason) = &load.first_refusal {
        line += &format!(
            "; the gateway refused {}, the first: {reason}",
            grouped(load.refused)
        );
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: u64, winners: &[&str]) -> BlockReport {
        BlockReport {
            block: number,
            hash: B256::repeat_byte(0xab),
            round: number,
            transactions: 1_000,
            gas: 21_000_000,
            milliseconds: number as f64,
            winners: winners.iter().map(|&w| w.to_owned()).collect(),
            conflicts: 2,
        }
    }

    #[test]
    fn a_line_names_the_winner_of_every_shard() {
        let line = block(7, &["executor-2", "", "executor-1"]).line();
        assert!(line.ends_with("2 - 1"), "{line}");
        assert!(
            line.contains("0xabababab") && line.contains("21,000,000"),
            "{line}"
        );
        let title = HEADLINE.find("conflicts").expect("a column") + "conflicts".len();
        let column = line.chars().nth(title - 1);
        assert_eq!(
            column,
            Some('2'),
            "the columns stand under their titles\n{HEADLINE}\n{line}"
        );
        let many = vec!["executor-1"; 40];
        assert!(block(1, &many).line().ends_with('…'));
    }

    #[test]
    fn a_summary_adds_up() {
        let names = ["executor-1", "executor-2", "executor-3"].map(str::to_owned);
        let mut summary = Summary::new(names);
        for number in 1..=100 {
            summary.add(&block(number, &["executor-1", "executor-2", ""]));
        }
        let json = summary.json(Duration::from_secs(50), None);
        let json = &json["summary"];
        assert_eq!(json["blocks"], 100);
        assert_eq!(json["transactions_per_second"], 2_000.0);
        assert_eq!(json["wins"]["executor-3"], 0);
        assert_eq!(json["wins"]["executor-1"], 100);
        assert_eq!(json["sealed_undecided"], 100);
        assert_eq!(json["conflicts"], 200);
        let p50 = json["open_to_seal_ms_p50"].as_f64().expect("a number");
        assert!((p50 - 50.0).abs() < 0.1, "{p50}");
        let lines = summary.lines(Duration::from_secs(50), None).join("\n");
        assert!(lines.contains("2.00 blocks/s"), "{lines}");
    }

    #[test]
    fn a_lost_transaction_of_the_load_is_said() {
        let mut load = Tally {
            sent: 10,
            included: 10,
            ..Tally::default()
        };
        assert!(load.is_complete());
        assert!(load_line(&load).contains("every one of its 10"));
        load.included = 9;
        assert!(!load.is_complete());
        assert!(load_line(&load).contains("only 9 of its 10"));
    }

    #[test]
    fn digits_come_in_groups_of_three() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
