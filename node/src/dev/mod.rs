//! `troika-node dev`: a whole cluster in one process, for people who want to see it run.
//!
//! [`cluster`] starts the parts on loopback, in the order in which they need each other, and stops them in the opposite
//! one. [`observe`] watches the store and makes a [`report`] of each block; [`screen`] shows it. The load comes from
//! [`crate::load`]. Nothing here takes a short cut past gRPC but one: the load hands its signed bytes to the gateway
//! of this process directly, not over HTTP.

pub mod cluster;
pub mod genesis;
mod members;
pub mod observe;
pub mod ports;
pub mod report;
pub mod screen;

use crate::cli::DevArgs;
use crate::load::Load;
use crate::load::accounts::load_accounts;
use crate::load::drive::{Driver, Tally};
use crate::load::generate::Generator;
use crate::load::pace::Pace;
use anyhow::Context;
use cluster::{Cluster, Plan};
use genesis::CHAIN_ID;
use observe::Observer;
use report::Summary;
use screen::Screen;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use troika_proto::limits::MAX_SHARDS;

/// Seed of the load's choices.
const LOAD_SEED: u64 = 0x7401_4a00;
/// The load of a run with `--blocks` ends this many blocks before the run does, so that the last of it is included in
/// time; a third of the blocks where there are few.
const QUIET_BLOCKS: u64 = 3;
/// Once the load has ended, this long without another inclusion means that what is missing will not come.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// Transactions a second that signing ahead prepares for where the cluster sets the pace.
const AHEAD_RATE: f64 = 12_000.0;
/// Seconds of load that are signed ahead where the run has no end.
const AHEAD_SECONDS: f64 = 20.0;
/// Most transactions that are signed ahead; about 200 bytes each in memory.
const AHEAD_MAX: usize = 1_500_000;
/// Below this rate nothing is signed ahead, transactions a second.
const AHEAD_FROM_RATE: f64 = 500.0;
/// Transactions under way for every shard, where the cluster sets the pace: somewhat more than a block holds, so that
/// the next block's are there before the last is sealed.
const WINDOW_A_SHARD: usize = 5_000;
/// Most transactions under way.
const WINDOW_MAX: usize = 64_000;
/// Seconds of a load with a rate that may be under way.
const WINDOW_SECONDS: usize = 15;

/// Runs until Ctrl-C, or until the blocks that were asked for. False: transactions of the load are missing.
///
/// # Errors
/// A part that does not start, or a store that does not answer any more.
pub async fn run(args: DevArgs) -> anyhow::Result<bool> {
    let plan = Plan::dev(&args);
    let stop = cancelled_by_ctrl_c();
    let mut cluster = Cluster::start_without_executors(plan).await?;
    let result = run_on(&args, &mut cluster, &stop).await;
    // Stopped in order whatever happened, so that a kept chain is complete on disk.
    cluster.stop().await;
    result
}

fn cancelled_by_ctrl_c() -> CancellationToken {
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            cancel.cancel();
        }
    });
    stop
}

async fn run_on(
    args: &DevArgs,
    cluster: &mut Cluster,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let mut screen = Screen::new(args.json, args.blocks);
    screen.say(&screen::banner(args, cluster));
    let driver = tokio::select! {
        driver = prepare_load(args, cluster, &screen) => driver?,
        () = stop.cancelled() => return Ok(true),
    };

    let head = cluster.store().head().await?;
    let mut observer = Observer::new(cluster.store().clone(), &head, cluster.feeds())?;
    let mut summary = Summary::new(cluster.executor_names());
    // Only now: the first block is seen, and the load is ready for it.
    cluster.start_executors().await?;
    let started = Instant::now();
    let (sealed, sealed_seen) = watch::channel(head.header.number);
    let end_load = stop.child_token();
    // Cancelled once nothing of the load is under way any more.
    let load_done = CancellationToken::new();
    let load = spawn_load(driver, end_load.clone(), sealed_seen, load_done.clone());

    loop {
        let enough = args.blocks.is_some_and(|blocks| summary.blocks() >= blocks);
        let over = async {
            load_done.cancelled().await;
            if !enough {
                stop.cancelled().await;
            }
        };
        tokio::select! {
            biased;
            () = over => break,
            report = observer.next() => {
                let report = report?;
                summary.add(&report);
                screen.block(&report);
                sealed.send_replace(report.block);
            }
        }
        if args
            .blocks
            .is_some_and(|blocks| summary.blocks() >= load_ends(blocks))
        {
            end_load.cancel();
        }
    }
    let elapsed = started.elapsed();
    let tally = load.await.context("the load panicked")??;
    screen.summary(&summary, elapsed, tally.as_ref());
    Ok(tally.is_none_or(|tally| tally.is_complete()))
}

/// Blocks of a run of `blocks` during which load is sent.
fn load_ends(blocks: u64) -> u64 {
    blocks - QUIET_BLOCKS.min(blocks.div_ceil(3))
}

/// The load, with its transactions signed where that is worth doing ahead.
async fn prepare_load(
    args: &DevArgs,
    cluster: &Cluster,
    screen: &Screen,
) -> anyhow::Result<Option<Driver>> {
    if args.load == Load::None {
        return Ok(None);
    }
    let mix = args.load.mix();
    let senders = load_accounts(mix.senders());
    let make = |nonces| Generator::new(mix, CHAIN_ID, LOAD_SEED, nonces);
    let store = cluster.store().clone();
    let pace = pace(args);
    let mut driver = Driver::new(make, &senders, store, cluster.submit(), pace).await?;
    let ahead = signed_ahead(args);
    if ahead > 0 {
        screen.say(&format!(
            "signing {} transactions ahead",
            report::grouped(ahead as u64)
        ));
        driver.sign_ahead(ahead).await;
    }
    Ok(Some(driver))
}

fn pace(args: &DevArgs) -> Pace {
    let window = match args.load.rate() {
        Some(rate) => rate as usize * WINDOW_SECONDS,
        None => args.shards.min(MAX_SHARDS) as usize * WINDOW_A_SHARD,
    };
    Pace {
        rate: args.load.rate(),
        window: window.min(WINDOW_MAX),
    }
}

fn signed_ahead(args: &DevArgs) -> usize {
    let rate = args.load.rate().map_or(AHEAD_RATE, f64::from);
    if rate < AHEAD_FROM_RATE {
        return 0;
    }
    let seconds = match args.blocks {
        Some(blocks) => args.block_time.as_secs_f64() * load_ends(blocks) as f64,
        None => AHEAD_SECONDS,
    };
    // What is under way from the start comes on top.
    ((rate * seconds) as usize + pace(args).window).min(AHEAD_MAX)
}

/// Sends until `end`, then waits for what is under way. `done` is cancelled afterwards, at once without a load.
fn spawn_load(
    driver: Option<Driver>,
    end: CancellationToken,
    sealed: watch::Receiver<u64>,
    done: CancellationToken,
) -> JoinHandle<anyhow::Result<Option<Tally>>> {
    tokio::spawn(async move {
        // However this ends, the run must not wait for it.
        let _done = done.drop_guard();
        let Some(mut driver) = driver else {
            return Ok(None);
        };
        driver.send(&end, sealed).await?;
        driver.drain(DRAIN_PATIENCE).await?;
        Ok(Some(driver.tally().clone()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_ends_early_enough_to_be_included() {
        for (blocks, ends) in [
            (1, 0),
            (2, 1),
            (3, 2),
            (5, 3),
            (9, 6),
            (20, 17),
            (1_000, 997),
        ] {
            assert_eq!(load_ends(blocks), ends, "{blocks}");
        }
    }
}
