//! The checkers themselves, on histories whose truth is known.

use crate::checker;
use crate::synthetic::{Size, clean};
use std::time::Instant;

/// How long checking the large history may take.
const LARGE_LIMIT_S: f64 = 10.0;

/// Checks many clean histories and one large one. Answers the exit code.
pub fn run(histories: u64, large: usize) -> i32 {
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
    let big = clean(
        1,
        Size {
            // A call is two entries.
            entries: large * 2,
            clients: 64,
            shards: 16,
        },
    );
    let calls = big
        .iter()
        .filter(|e| e.kind == crate::history::Kind::Invoke)
        .count();
    let started = Instant::now();
    let findings = checker::safety(&big);
    let took = started.elapsed().as_secs_f64();
    println!(
        "{} entries with {calls} calls checked in {took:.2} s, {} false alarms",
        big.len(),
        findings.len()
    );
    if took > LARGE_LIMIT_S {
        println!("that is more than {LARGE_LIMIT_S} s");
    }
    i32::from(alarms > 0 || !findings.is_empty())
}
