//! A fixed set of seeds of the simulation, and that a seed is a run.

use std::time::Duration;

use troika_tests::sim::trace::Trace;
use troika_tests::sim::{Plan, Report, run};

fn simulate(seed: u64, seconds: u64) -> Report {
    let plan = Plan::draw(seed, None, Duration::from_secs(seconds));
    run(&plan, Trace::default())
}

#[test]
fn what_is_promised_holds_under_the_faults_of_fixed_seeds() {
    for seed in 1..=8 {
        let report = simulate(seed, 8);
        assert_eq!(
            report.violation, None,
            "seed {seed}: repeat it with troika-sim --seed {seed} --seconds 8 --trace"
        );
        println!("seed {seed}: {}", report.summary);
    }
}

#[test]
fn one_seed_is_one_run() {
    for seed in [11, 12] {
        let (first, second) = (simulate(seed, 4), simulate(seed, 4));
        assert_eq!(first.violation, None, "seed {seed}");
        assert_eq!(
            (first.hash, first.events),
            (second.hash, second.events),
            "seed {seed}"
        );
        assert!(first.events > 1_000, "seed {seed}: {}", first.summary);
    }
    assert_ne!(simulate(11, 1).hash, simulate(12, 1).hash);
}
