//! What goes wrong, and when.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use troika_store::raft::{AdminError, Handle};
use troika_store::runtime::Runtime;

use super::cluster::{Cluster, Death};
use super::network::address;
use super::plan::Fault;
use super::world::{World, lock};

/// Longest pause before a crashed member is started again.
const DOWN_MS: u64 = 5_000;
/// Longest duration of a cut, a pause, a slow or full disk.
const TROUBLE_MS: u64 = 8_000;
/// How long one attempt at a membership operation may take.
const ADMIN: Duration = Duration::from_secs(15);

/// Starts faults until the plan's time is over.
pub async fn run(world: &std::sync::Arc<World>, cluster: &Cluster) {
    let end = Runtime::now() + world.plan.faulty_for;
    world.faulty.store(true, Ordering::Relaxed);
    loop {
        let pause = world.plan.pause.as_millis() as u64;
        let pause = world.random().millis(pause / 10, pause * 2);
        if Runtime::now() + pause >= end {
            Runtime::sleep_until(end).await;
            return;
        }
        Runtime::sleep(pause).await;
        let fault = world.random().pick(&world.plan.faults).copied();
        if let Some(fault) = fault {
            start(world, cluster, fault);
        }
    }
}

fn start(world: &std::sync::Arc<World>, cluster: &Cluster, fault: Fault) {
    // The leader is hit more often than chance would.
    let leader = cluster.leader().filter(|_| world.random().chance(400_000));
    let victim = leader.unwrap_or_else(|| cluster.any_id());
    let trouble = world.random().millis(50, TROUBLE_MS);
    world.count(fault.name());
    world.tell(|| format!("fault: {fault:?}, member {victim}, {trouble:?}"));
    match fault {
        Fault::Kill => crash(world, cluster, victim, Death::Kill),
        Fault::PowerCut => crash(world, cluster, victim, Death::PowerCut),
        Fault::PowerCutAll => {
            for id in cluster.ids() {
                crash(world, cluster, id, Death::PowerCut);
            }
        }
        Fault::CutWhileWriting => {
            if let Some(disk) = cluster.disk(victim) {
                disk.cut_after(world.random().below(60));
            }
        }
        Fault::Pause => {
            if let Some(process) = cluster.process(victim) {
                process.pause();
                later(trouble, move || process.resume());
            }
        }
        Fault::Isolate | Fault::OneWay | Fault::Split => {
            let links = links(world, cluster, fault, victim);
            set_links(world, &links, true);
            let world = world.clone();
            later(trouble, move || set_links(&world, &links, false));
        }
        Fault::Flap => flap(world, cluster, victim, trouble),
        Fault::ClockJump => {
            if let Some(clock) = cluster.clock(victim) {
                let size = world.random().between(0, 120_000) as i64;
                clock.jump(size - 60_000);
            }
        }
        Fault::SlowDisk => {
            let factor = world.random().between(2, 50) as u32;
            lock(&world.slow).insert(victim, factor);
            let world = world.clone();
            later(trouble, move || {
                lock(&world.slow).remove(&victim);
            });
        }
        Fault::FailingDisk => {
            // A disk fails under a process; at the next start it works again.
            if let Some(disk) = cluster.disk(victim)
                && cluster.is_up(victim)
            {
                cluster.excuse(victim);
                let kind = match world.random().chance(500_000) {
                    true => io::ErrorKind::StorageFull,
                    false => io::ErrorKind::Other,
                };
                disk.fail_after(world.random().below(100), kind);
            }
        }
        Fault::FullDisk => {
            if let Some(disk) = cluster.disk(victim) {
                disk.set_free_bytes(0);
                later(trouble, move || disk.set_free_bytes(u64::MAX));
            }
        }
        Fault::Transfer => transfer(world, cluster),
        Fault::Checkpoint => checkpoint(cluster, victim),
        Fault::Replace | Fault::BitRot => {
            // Before there is a group there is nothing to replace a member in.
            let formed = cluster.leader().is_some();
            let usual = formed && cluster.ids().len() as u64 == world.plan.members;
            // One at a time: more is more than the promise covers.
            if usual && !cluster.replacing.swap(true, Ordering::Relaxed) {
                let (world, cluster) = (world.clone(), cluster.clone());
                Runtime::spawn(async move {
                    match fault {
                        Fault::BitRot => cluster.rot(victim).await,
                        _ => cluster.wipe(victim),
                    }
                    replace(world, cluster, victim).await;
                });
            }
        }
    }
}

fn later(after: Duration, act: impl FnOnce() + Send + 'static) {
    Runtime::spawn(async move {
        Runtime::sleep(after).await;
        act();
    });
}

fn crash(world: &World, cluster: &Cluster, id: u64, death: Death) {
    cluster.crash(id, death);
    let quick = world.random().chance(500_000);
    let down = world.random().millis(0, if quick { 300 } else { DOWN_MS });
    cluster.start_after(id, down);
}

type Links = BTreeSet<(u64, u64)>;

fn links(world: &World, cluster: &Cluster, fault: Fault, victim: u64) -> Links {
    let ids = cluster.ids();
    let pairs = ids
        .iter()
        .flat_map(|a| ids.iter().map(move |b| (*a, *b)))
        .filter(|(a, b)| a != b);
    match fault {
        Fault::Isolate => pairs
            .filter(|(a, b)| *a == victim || *b == victim)
            .collect(),
        Fault::OneWay => {
            let to_victim = world.random().chance(500_000);
            let all = world.random().chance(500_000);
            let mut cut: Links = pairs
                .filter(|(a, b)| {
                    if to_victim {
                        *b == victim
                    } else {
                        *a == victim
                    }
                })
                .collect();
            if !all {
                cut.pop_first();
            }
            cut
        }
        _ => {
            let side: BTreeSet<u64> = ids
                .iter()
                .copied()
                .filter(|_| world.random().chance(500_000))
                .collect();
            // The victim reaches both sides: a bridge.
            let bridge = world.random().chance(300_000);
            pairs
                .filter(|(a, b)| side.contains(a) != side.contains(b))
                .filter(|(a, b)| !bridge || (*a != victim && *b != victim))
                .collect()
        }
    }
}

fn set_links(world: &World, links: &Links, cut: bool) {
    let mut known = lock(&world.cut);
    for link in links {
        if cut {
            known.insert(*link);
        } else {
            known.remove(link);
        }
    }
}

fn flap(world: &std::sync::Arc<World>, cluster: &Cluster, victim: u64, trouble: Duration) {
    let links = links(world, cluster, Fault::Isolate, victim);
    let world = world.clone();
    Runtime::spawn(async move {
        let end = Runtime::now() + trouble;
        while Runtime::now() < end && world.is_faulty() {
            set_links(&world, &links, true);
            let down = world.random().millis(10, 600);
            Runtime::sleep(down).await;
            set_links(&world, &links, false);
            let up = world.random().millis(10, 600);
            Runtime::sleep(up).await;
        }
    });
}

fn transfer(world: &World, cluster: &Cluster) {
    let named = world.random().chance(500_000);
    let to = if named { cluster.any_id() } else { 0 };
    let Some((at, handle)) = cluster.any() else {
        return;
    };
    let cluster = cluster.clone();
    Runtime::spawn(async move {
        let moving = async move { handle.transfer_leadership(to).await };
        // Busy, or nobody to hand over to: as good as done.
        let _ = Runtime::timeout(ADMIN, cluster.on(at, moving)).await;
    });
}

fn checkpoint(cluster: &Cluster, victim: u64) {
    let running = cluster.running();
    let Some((_, handle)) = running.into_iter().find(|(id, _)| *id == victim) else {
        return;
    };
    let cluster = cluster.clone();
    Runtime::spawn(async move {
        // A member that dies meanwhile has none.
        let _ = cluster
            .on(victim, async move { handle.backup().await.is_ok() })
            .await;
    });
}

/// A member has lost everything and come back as if nothing had been, or its disk is damaged: the operator puts a new one
/// in its place.
async fn replace(world: std::sync::Arc<World>, cluster: Cluster, victim: u64) {
    let new = cluster.highest_id() + 1;
    cluster.create(new);
    operate(&world, &cluster, "add", move |handle| async move {
        handle
            .add_learner(new, address(new), format!("client-{new}:1"))
            .await
    })
    .await;
    operate(&world, &cluster, "promote", move |handle| async move {
        handle.promote(new).await
    })
    .await;
    operate(&world, &cluster, "remove", move |handle| async move {
        handle.remove(victim).await
    })
    .await;
    world.tell(|| format!("member {new} has taken the place of {victim}"));
    cluster.forget(victim);
    cluster.replacing.store(false, Ordering::Relaxed);
}

/// Repeats a membership operation until it is done.
async fn operate<F, D>(world: &World, cluster: &Cluster, what: &'static str, operation: F)
where
    F: Fn(Handle) -> D + Send + Sync,
    D: Future<Output = Result<(), AdminError>> + Send + 'static,
{
    let mut last = None;
    loop {
        // An operator asks a member of the group, not one that waits to become one; and after a failure another one.
        let mut grouped = cluster.running();
        grouped.retain(|(_, handle)| handle.cluster_id() != [0; 16]);
        if grouped.len() > 1 {
            grouped.retain(|(id, _)| Some(*id) != last);
        }
        let asked = world.random().pick(&grouped).cloned();
        if let Some((at, handle)) = asked {
            last = Some(at);
            let attempt = Runtime::timeout(ADMIN, cluster.on(at, operation(handle))).await;
            match attempt {
                Ok(Some(Ok(()))) => return world.tell(|| format!("operator: {what} done")),
                Ok(Some(Err(error))) => world.tell(|| format!("operator: {what}: {error}")),
                _ => world.tell(|| format!("operator: {what}: no answer")),
            }
        }
        let pause = world.random().millis(100, 1_000);
        Runtime::sleep(pause).await;
    }
}

/// Everything works again.
pub fn heal(world: &World, cluster: &Cluster) {
    world.faulty.store(false, Ordering::Relaxed);
    world.tell(|| "everything heals".into());
    lock(&world.cut).clear();
    lock(&world.slow).clear();
    cluster.mend();
}
