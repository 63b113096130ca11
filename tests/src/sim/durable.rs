//! No answer before its entry is durable at a majority: looks at the disks, as they would be after a power cut at all of
//! them now.

use troika_proto::v1;
use troika_store::db::inspect::log_end;

use super::cluster::Cluster;
use super::world::World;

/// Of a million answers, how many are checked so: opening the disks is the dearest thing that a run does.
const CHECKED_PER_MILLION: u32 = 15_000;

/// Checks the entry that an answer names, now and then.
pub fn check(world: &World, cluster: &Cluster, answer: &v1::ReplyMeta) {
    if answer.log_index == 0 || !world.random().chance(CHECKED_PER_MILLION) {
        return;
    }
    let holds = |id: &u64| {
        // A directory in the making has no log yet.
        let end = cluster.disk(*id).map(|disk| log_end(&disk.synced()));
        matches!(end, Some(Ok(end)) if end >= answer.log_index)
    };
    let majority = world.plan.members as usize / 2 + 1;
    let lost = cluster.lost(answer.log_index);
    // Also of one that stands still to have bits flipped: its disk is whole until then.
    let disks: Vec<u64> = (1..=cluster.highest_id()).collect();
    let there = disks.iter().filter(|id| !lost.contains(id) && holds(id));
    // Told again after a disk was lost, an entry was as durable as it had to be.
    let durable = lost.len() + there.take(majority).count();
    world.count("answers looked for on the disks");
    if durable < majority {
        world.violate(format!(
            "an answer names entry {} of term {}, which is durable on {durable} disks only",
            answer.log_index, answer.term
        ));
    }
}
