//! After the faults: the group makes progress, stays calm, and all members are equal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use troika_store::limits::MAX_UNWRITTEN_BYTES;
use troika_store::runtime::Runtime;

use super::cluster::Cluster;
use super::world::{World, lock};

/// Simulated time after the heal in which blocks must be made again, and a replacement under way must be done.
const PROGRESS: Duration = Duration::from_secs(45);
/// Until what was under way when faults ended (late copies, a transfer) has had its effect.
const SETTLE: Duration = Duration::from_secs(6);
/// How long no election may happen then.
const CALM: Duration = Duration::from_secs(4);
/// How long a follower does not hear its leader, and how long nothing may come of it afterwards.
const DEAF: Duration = Duration::from_secs(3);
/// Pause between two looks at what is bounded.
const LOOK: Duration = Duration::from_millis(500);
/// A command passes alone where it is larger than what is left: none here is larger than this.
const LARGEST_COMMAND: usize = 32 << 10;
/// Bytes that one chunk of entries adds before applying waits.
const CHUNK_BYTES: usize = 4 << 20;
/// Simulated time in which all members are equal once nobody writes.
const EQUAL: Duration = Duration::from_secs(20);
/// Blocks that count as progress.
const BLOCKS: u64 = 3;

/// Checks all of it; says what does not hold.
pub async fn check(
    world: &World,
    cluster: &Cluster,
    quiet: &Arc<AtomicBool>,
) -> Result<(), String> {
    progress(cluster).await?;
    Runtime::sleep(SETTLE).await;
    let before = terms(cluster);
    Runtime::sleep(CALM).await;
    let after = terms(cluster);
    if before != after {
        return Err(format!(
            "an election without need: terms were {before:?} and are {after:?}"
        ));
    }
    deaf(world, cluster).await?;
    quiet.store(true, Ordering::Relaxed);
    equal(cluster).await?;
    for (id, handle) in cluster.running() {
        let (oracle, who) = (lock(&world.oracle), format!("member {id}"));
        let counted = handle.read(|machine| {
            oracle.remembers(&who, machine)?;
            oracle.money_is_conserved(&who, machine)
        })?;
        world.count(match counted {
            true => "money counted",
            false => "money forgotten",
        });
    }
    let oracle = lock(&world.oracle);
    oracle.locks_excluded()?;
    oracle.conflicts_were_real()
}

/// A follower that hears nothing of its leader, while all others do, does not depose it.
async fn deaf(world: &World, cluster: &Cluster) -> Result<(), String> {
    let Some(leader) = cluster.leader() else {
        return Err("nobody leads, long after the heal".into());
    };
    let Some(follower) = cluster.ids().into_iter().find(|id| *id != leader) else {
        return Ok(());
    };
    let before = terms(cluster);
    lock(&world.cut).insert((leader, follower));
    world.tell(|| format!("member {follower} does not hear member {leader}"));
    Runtime::sleep(DEAF).await;
    lock(&world.cut).remove(&(leader, follower));
    Runtime::sleep(DEAF).await;
    let after = terms(cluster);
    match before == after {
        true => Ok(()),
        false => Err(format!(
            "member {follower} alone did not hear the leader {leader}, and there was an election: terms were {before:?} and \
             are {after:?}"
        )),
    }
}

/// Checks for ever that what is bounded stays within its bound.
pub async fn watch_bounds(world: Arc<World>, cluster: Cluster) {
    loop {
        Runtime::sleep(LOOK).await;
        for (id, handle) in cluster.running() {
            let status = handle.status();
            let queue = world.plan.queue_bytes + LARGEST_COMMAND;
            let bounds = [
                ("commands that wait", status.queued_bytes, queue),
                (
                    "unwritten state",
                    status.dirty_bytes,
                    MAX_UNWRITTEN_BYTES + CHUNK_BYTES,
                ),
            ];
            for (what, bytes, bound) in bounds {
                if bytes > bound as u64 {
                    world.violate(format!(
                        "member {id}: {bytes} bytes of {what}, above {bound}"
                    ));
                }
            }
        }
    }
}

fn head(cluster: &Cluster) -> u64 {
    let heads = cluster.running().into_iter().map(|(_, handle)| {
        handle.read(|machine| {
            machine
                .current_chain()
                .map_or(0, |chain| chain.head.header.number)
        })
    });
    heads.max().unwrap_or(0)
}

fn terms(cluster: &Cluster) -> Vec<(u64, u64)> {
    let running = cluster.running().into_iter();
    running
        .map(|(id, handle)| (id, handle.position().term))
        .collect()
}

async fn progress(cluster: &Cluster) -> Result<(), String> {
    let (deadline, from) = (Runtime::now() + PROGRESS, head(cluster));
    loop {
        let replaced = !cluster.replacing.load(Ordering::Relaxed);
        let all = cluster.running().len() == cluster.ids().len();
        if head(cluster) >= from + BLOCKS && replaced && all {
            return Ok(());
        }
        if Runtime::now() > deadline {
            return Err(format!(
                "no progress within {PROGRESS:?} after the heal: block {from}, now {}; all run: {all}; no replacement under \
                 way: {replaced}; {}",
                head(cluster),
                status(cluster)
            ));
        }
        Runtime::sleep(Duration::from_millis(50)).await;
    }
}

async fn equal(cluster: &Cluster) -> Result<(), String> {
    let deadline = Runtime::now() + EQUAL;
    let mut same_for = 0;
    loop {
        let running = cluster.running();
        let mut states = running.iter().map(|(_, handle)| {
            let (index, leader) = (handle.position().log_index, handle.position().leader);
            (
                index,
                leader,
                handle.read(|machine| (machine.revision(), machine.state_hash())),
            )
        });
        let first = states.next();
        let equal =
            running.len() == cluster.ids().len() && states.all(|state| Some(state) == first);
        // What clients still have under way is over when nothing has changed for a while.
        same_for = if equal { same_for + 1 } else { 0 };
        if same_for > 40 {
            return Ok(());
        }
        if Runtime::now() > deadline {
            return Err(format!(
                "members are not equal {EQUAL:?} after the last write: {}",
                status(cluster)
            ));
        }
        Runtime::sleep(Duration::from_millis(50)).await;
    }
}

fn status(cluster: &Cluster) -> String {
    let lines = cluster.running().into_iter().map(|(id, handle)| {
        let status = handle.status();
        format!(
            "[{id}: {:?} of {} in term {}, last {}, committed {}, applied {}, {} bytes queued, {}]",
            status.role,
            status.leader,
            status.term,
            status.last_log_index,
            status.committed_index,
            status.applied_index,
            status.queued_bytes,
            status.writes_refused
        )
    });
    lines.collect()
}
