//! The checkers themselves, on histories whose truth is known.

use crate::checker;
use crate::synthetic::{Size, clean, clean_calls};
use std::time::Instant;

/// Checks many clean histories and one large one, of `large` operations. Answers the exit code: 1 for a false alarm, or
/// where the large one took longer than `limit` seconds.
pub fn run(histories: u64, large: usize, limit: Option<f64>) -> i32 {
    let size = Size {
        entries: 300,
        clients: 6,
        shards: 3,
    };
    let started = Instant::now();
    let mut alarms = 0;
    for seed in 0..histories {
        let findings = checker::safety(&clean(seed, size));
        if let Some(finding) = findings.first() {
            alarms += 1;
            println!(
                "false alarm: seed {seed}: {}: {}",
                finding.rule, finding.text
            );
        }
    }
    println!(
        "{histories} clean histories: {alarms} false alarms, {:.1} s",
        started.elapsed().as_secs_f64()
    );
    let big = clean_calls(1, large, 64, 16);
    let started = Instant::now();
    let findings = checker::safety(&big);
    let took = started.elapsed().as_secs_f64();
    println!(
        "{large} operations ({} entries with what watchers and peers saw) checked in {took:.2} s, {:.0} operations a second, \
         {} false alarms",
        big.len(),
        large as f64 / took.max(1e-9),
        findings.len()
    );
    let slow = limit.is_some_and(|limit| took > limit);
    if slow {
        println!("that is more than {} s", limit.unwrap_or_default());
    }
    i32::from(alarms > 0 || !findings.is_empty() || slow)
}
