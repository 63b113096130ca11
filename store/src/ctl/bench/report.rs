//! What a benchmark saw, and how it is printed.

use crate::ctl::args::RaceArgs;
use crate::ctl::output::Output;
use hdrhistogram::Histogram;
use serde_json::{Map, Value};

/// Longest latency that is told apart, in microseconds.
const MAX_MICROS: u64 = 120_000_000;

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_MICROS, 3).expect("these bounds are valid")
}

/// Latencies in microseconds, of answers that were hoped for and of others.
pub(super) struct Seen {
    win: Histogram<u64>,
    lose: Histogram<u64>,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self {
            win: histogram(),
            lose: histogram(),
        }
    }

    pub(super) fn record(&mut self, won: bool, micros: u64) {
        let histogram = if won { &mut self.win } else { &mut self.lose };
        histogram.saturating_record(micros.max(1));
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.win += &other.win;
        self.lose += &other.lose;
    }

    pub(super) fn wins(&self) -> u64 {
        self.win.len()
    }

    pub(super) fn losses(&self) -> u64 {
        self.lose.len()
    }
}

/// One measurement.
pub(super) struct Line(Map<String, Value>);

impl Line {
    /// The fields that the yardstick on etcd prints too.
    pub(super) fn race(args: &RaceArgs, seen: &Seen, seconds: f64) -> Self {
        let submits = (args.slots * u64::from(args.racers)) as f64;
        Self(Map::new())
            .with(
                "system",
                if args.stream {
                    "troika stream"
                } else {
                    "troika"
                },
            )
            .with("clients", args.clients)
            .with("window", args.window)
            .with("slots", args.slots)
            .with("racers", args.racers)
            .with("bytes", args.bytes)
            .with("submits_per_s", (submits / seconds).round() as u64)
            .with("slots_per_s", (args.slots as f64 / seconds).round() as u64)
            .quantiles("win", &seen.win)
            .quantiles("lose", &seen.lose)
            .with("seconds", (seconds * 1000.0).round() / 1000.0)
    }

    /// A plain load of `operations` operations.
    pub(super) fn load(name: &str, operations: u64, seen: &Seen, seconds: f64) -> Self {
        Self(Map::new())
            .with("system", "troika")
            .with("bench", name)
            .with("operations", operations)
            .with(
                "operations_per_s",
                (operations as f64 / seconds).round() as u64,
            )
            .quantiles("ok", &seen.win)
            .quantiles("conflict", &seen.lose)
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    fn quantiles(mut self, name: &str, histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return self;
        }
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
            let micros = histogram.value_at_quantile(quantile);
            self = self.with(&format!("{name}_{label}_us"), micros);
        }
        self
    }

    pub(super) fn print(self, out: &Output) {
        out.object(&Value::Object(self.0));
    }
}
