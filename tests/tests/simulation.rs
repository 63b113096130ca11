//! A fixed set of seeds of the simulation, that a seed is a run, and the files alone under power cuts.

use std::time::Duration;

use troika_tests::sim::torture::torture;
use troika_tests::sim::trace::Trace;
use troika_tests::sim::{Plan, Report, run};

fn simulate(seed: u64, seconds: u64) -> Report {
    let plan = Plan::draw(seed, None, Duration::from_secs(seconds));
    run(&plan, Trace::default())
}

fn all_hold(seeds: impl IntoIterator<Item = u64>) {
    for seed in seeds {
        let report = simulate(seed, 4);
        assert_eq!(
            report.violation, None,
            "seed {seed}: repeat it with troika-sim --seed {seed} --seconds 4 --trace"
        );
        println!("seed {seed}: {}", report.summary);
    }
}

#[test]
fn what_is_promised_holds_under_the_faults_of_four_seeds() {
    all_hold(1..=4);
}

#[test]
fn what_is_promised_holds_under_the_faults_of_four_more() {
    all_hold(5..=8);
}

#[test]
fn one_seed_is_one_run() {
    let mut hashes = Vec::new();
    for seed in [11, 12] {
        let (first, second) = (simulate(seed, 2), simulate(seed, 2));
        assert_eq!(first.violation, None, "seed {seed}");
        assert_eq!(
            (first.hash, first.events),
            (second.hash, second.events),
            "seed {seed}"
        );
        assert!(first.events > 1_000, "seed {seed}: {}", first.summary);
        hashes.push(first.hash);
    }
    assert_ne!(hashes[0], hashes[1]);
}

#[test]
fn files_open_after_every_power_cut_and_hold_what_was_acknowledged() {
    let seen = torture(1, 400).unwrap();
    assert!(
        seen.in_the_making > 0 && seen.installed > 0 && seen.promises > 0,
        "{seen:?}"
    );
}
