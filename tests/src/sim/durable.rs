//! No answer before its entry is durable at a majority: looks at the disks, as they would be after a power cut at all of
//! them now.

use std::collections::BTreeMap;

use troika_proto::v1;
use troika_store::db::crash::CrashDisk;
use troika_store::db::inspect::{Logged, logged};

use super::cluster::Cluster;
use super::world::World;

/// Of a million answers, how many are checked so: opening the disks is the dearest thing that a run does.
const CHECKED_PER_MILLION: u32 = 15_000;

/// Checks the entry that an answer names, now and then.
pub fn check(world: &World, cluster: &Cluster, answer: &v1::ReplyMeta) {
    if answer.log_index == 0 || !world.random().chance(CHECKED_PER_MILLION) {
        return;
    }
    let index = answer.log_index;
    // A directory in the making has no log yet.
    let on = |disk: &CrashDisk| logged(disk, index).unwrap_or(Logged::Missing);
    let majority = world.plan.members as usize / 2 + 1;
    let mut purged = 0;
    // Other leaders may have logged other entries there: what is durable is one and the same entry.
    let mut copies = BTreeMap::new();
    for (disk, lost) in cluster.disks() {
        // Told again after a disk was lost, an entry was as durable as it had to be.
        let held = match lost.as_ref().map_or(Logged::Missing, on) {
            Logged::Missing => on(&disk),
            held => held,
        };
        match held {
            Logged::Missing => {}
            Logged::Purged => purged += 1,
            Logged::Entry(bytes) => *copies.entry(bytes).or_insert(0) += 1,
        }
    }
    let durable = purged + copies.into_values().max().unwrap_or(0);
    world.count("answers looked for on the disks");
    if durable < majority {
        world.violate(format!(
            "an answer names entry {index}, which is durable on {durable} disks only"
        ));
    }
}
