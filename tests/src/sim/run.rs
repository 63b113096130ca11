//! One seed, from nothing to the verdict.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use tokio::runtime::{Builder, RngSeed};
use troika_store::db::panic_is_caught;
use troika_store::runtime::{Runtime, install};

use super::clients::Client;
use super::cluster::Cluster;
use super::plan::Plan;
use super::process::{self, SimHooks};
use super::trace::Trace;
use super::world::{World, lock};
use super::{faults, heal};

/// How a run went.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// What must not have been; none if all held.
    pub violation: Option<String>,
    /// Hash of everything that happened.
    pub hash: u64,
    /// How many things happened.
    pub events: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// How much was checked.
    pub summary: String,
    /// What was met, and how often.
    pub counts: BTreeMap<&'static str, u64>,
    /// The last of what happened, if it was asked for.
    pub story: Vec<String>,
    /// The hash after each event, if asked for.
    pub steps: Vec<u64>,
}

/// Simulated time in which an untroubled group forms.
const FORM: Duration = Duration::from_secs(20);

thread_local! {
    /// Panics of this thread's simulated tasks; None while none is simulated.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let caught = PANICS.with(|panics| match &mut *panics.borrow_mut() {
                // A member whose files are whole would end by this, which is seen then.
                Some(_) if panic_is_caught() => true,
                Some(panics) => {
                    panics.push(panic.to_string());
                    true
                }
                None => false,
            });
            if !caught {
                usual(panic);
            }
        }));
    });
}

fn panicked() -> Option<String> {
    PANICS.with(|panics| panics.borrow().as_ref()?.first().cloned())
}

/// Runs a plan.
pub fn run(plan: &Plan, trace: Trace) -> Report {
    catch_panics();
    process::reset();
    PANICS.with(|panics| *panics.borrow_mut() = Some(Vec::new()));
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&plan.seed.to_le_bytes()))
        .build()
        .expect("a runtime without IO can be built");
    let ran = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(simulate(plan.clone(), trace))
    }));
    // Tasks that are left are dropped here, still under the eyes of the panic hook.
    drop(runtime);
    let panic = panicked();
    PANICS.with(|panics| *panics.borrow_mut() = None);
    match ran {
        Ok(mut report) => {
            if let Some(panic) = panic {
                report.violation.get_or_insert(panic);
            }
            report
        }
        Err(_) => Report {
            seed: plan.seed,
            violation: Some(panic.unwrap_or_else(|| "the simulation panicked".into())),
            hash: 0,
            events: 0,
            simulated: Duration::ZERO,
            summary: String::new(),
            counts: BTreeMap::new(),
            story: Vec::new(),
            steps: Vec::new(),
        },
    }
}

async fn simulate(plan: Plan, trace: Trace) -> Report {
    let seed = plan.seed;
    let (world, crashes) = World::new(plan, trace);
    let _installed = install(SimHooks::new(world.clone()));
    let cluster = Cluster::new(world.clone());
    let quiet = Arc::new(AtomicBool::new(false));
    Runtime::spawn(cluster.clone().bury(crashes));
    Runtime::spawn(heal::watch_bounds(world.clone(), cluster.clone()));
    let verdict = tokio::select! {
        biased;
        () = world.over.notified() => Ok(()),
        () = look_for_panics() => Ok(()),
        verdict = phases(&world, &cluster, &quiet) => verdict,
    };
    if let Err(what) = verdict {
        world.violate(what);
    }
    if let Some(panic) = panicked() {
        world.violate(panic);
    }
    let (hash, events, (story, steps)) = {
        let mut trace = world.trace();
        (trace.hash(), trace.events(), trace.take())
    };
    let report = Report {
        seed,
        violation: world.violation(),
        hash,
        events,
        simulated: world.elapsed(),
        summary: lock(&world.oracle).summary(),
        counts: world.counts(),
        story,
        steps,
    };
    cluster.close();
    world.close();
    // Lets the runtime drop what was aborted while the hooks are there.
    for _ in 0..4 {
        Runtime::sleep(Duration::from_millis(1)).await;
    }
    report
}

async fn look_for_panics() {
    while panicked().is_none() {
        Runtime::sleep(Duration::from_millis(20)).await;
    }
}

async fn phases(
    world: &Arc<World>,
    cluster: &Cluster,
    quiet: &Arc<AtomicBool>,
) -> Result<(), String> {
    world
        .faulty
        .store(world.plan.rough_start, Ordering::Relaxed);
    cluster.found();
    start_clients(world, cluster, quiet);
    if !world.plan.rough_start {
        let deadline = Runtime::now() + FORM;
        while cluster.leader().is_none() {
            if Runtime::now() > deadline {
                return Err(format!("no group has formed within {FORM:?}"));
            }
            Runtime::sleep(Duration::from_millis(20)).await;
        }
    }
    faults::run(world, cluster).await;
    faults::heal(world, cluster);
    heal::check(world, cluster, quiet).await
}

fn start_clients(world: &Arc<World>, cluster: &Cluster, quiet: &Arc<AtomicBool>) {
    let client = |kind: &str, number: u32| Client {
        name: format!("{kind}-{number}").into(),
        world: world.clone(),
        cluster: cluster.clone(),
        random: world.random().fork(),
        quiet: quiet.clone(),
    };
    for number in 0..world.plan.makers {
        Runtime::spawn(client("maker", number).make_blocks());
    }
    for number in 0..world.plan.readers {
        Runtime::spawn(client("reader", number).read());
    }
    for number in 0..world.plan.followers {
        Runtime::spawn(client("follower", number).follow());
    }
}
