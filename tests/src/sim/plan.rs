//! What a seed means: which faults, how often, and what size everything has.
//!
//! Each seed draws a random subset of the faults (swarm testing: Groce et al., 2012), because faults that are always all
//! on hide each other: a cluster that is cut into pieces all the time never gets as far as a snapshot.

use std::collections::BTreeMap;
use std::time::Duration;

use troika_store::mutant::Mutant;
use troika_store::raft::config::QUEUE_BYTES;

use super::random::Random;
use super::world::Moment;

/// A fault that the driver starts by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process dies; its disk keeps all that was written.
    Kill,
    /// One member loses its power.
    PowerCut,
    /// All of them do.
    PowerCutAll,
    /// The power goes in the middle of writing.
    CutWhileWriting,
    /// A process stands still for a while.
    Pause,
    /// One member is cut off, both ways.
    Isolate,
    /// One direction between two members is cut.
    OneWay,
    /// Two groups, with perhaps one member that reaches both.
    Split,
    /// A link that comes and goes.
    Flap,
    /// A wall clock jumps.
    ClockJump,
    /// A disk becomes slow.
    SlowDisk,
    /// Writes fail.
    FailingDisk,
    /// A disk is full for a while.
    FullDisk,
    /// The leadership is handed over.
    Transfer,
    /// A checkpoint is written, and with it the log purged.
    Checkpoint,
    /// A member loses its data, comes back under its old id, is refused, and is replaced.
    Replace,
    /// Bits of a member's files flip while it does not run; it is replaced, whether it starts or not.
    BitRot,
}

impl Fault {
    /// Its name, for counting.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kills",
            Self::PowerCut => "power cuts",
            Self::PowerCutAll => "power cuts of all",
            Self::CutWhileWriting => "power cuts in mid-write",
            Self::Pause => "pauses",
            Self::Isolate => "isolations",
            Self::OneWay => "one-way cuts",
            Self::Split => "splits",
            Self::Flap => "flapping links",
            Self::ClockJump => "clock jumps",
            Self::SlowDisk => "slow disks",
            Self::FailingDisk => "failing disks",
            Self::FullDisk => "full disks",
            Self::Transfer => "transfers",
            Self::Checkpoint => "checkpoints",
            Self::Replace => "replacements",
            Self::BitRot => "bit rots",
        }
    }
}

/// All of them.
pub const FAULTS: [Fault; 17] = [
    Fault::Kill,
    Fault::PowerCut,
    Fault::PowerCutAll,
    Fault::CutWhileWriting,
    Fault::Pause,
    Fault::Isolate,
    Fault::OneWay,
    Fault::Split,
    Fault::Flap,
    Fault::ClockJump,
    Fault::SlowDisk,
    Fault::FailingDisk,
    Fault::FullDisk,
    Fault::Transfer,
    Fault::Checkpoint,
    Fault::Replace,
    Fault::BitRot,
];

const MOMENTS: [Moment; 8] = [
    Moment::Create,
    Moment::Rename,
    Moment::Remove,
    Moment::LogSync,
    Moment::StateSync,
    Moment::Voted,
    Moment::Appended,
    Moment::Applied,
];

/// What a run does, drawn from its seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where all of it comes from.
    pub seed: u64,
    /// Members at the start.
    pub members: u64,
    /// How long faults happen.
    pub faulty_for: Duration,
    /// The faults of this run.
    pub faults: Vec<Fault>,
    /// Typical pause between two faults.
    pub pause: Duration,
    /// After which moments a crash follows, of a million.
    pub strikes: BTreeMap<Moment, u32>,
    /// Faults from the first moment on, while the group forms.
    pub rough_start: bool,
    /// Of a million polls, how many come late.
    pub late_per_million: u32,
    /// Of a million blocking jobs, how many wait for a thread before they begin.
    pub queued_per_million: u32,
    /// Of a million messages, how many are lost (on streams: break their connection).
    pub lost_per_million: u32,
    /// Of a million messages, how many come twice.
    pub twice_per_million: u32,
    /// Typical time of a message.
    pub delay: Duration,
    /// Typical time of a sync.
    pub sync: Duration,
    /// Shards of a block.
    pub shards: u32,
    /// Earliest seal of a round.
    pub seal_after_ms: u32,
    /// Clients that make blocks.
    pub makers: u32,
    /// Clients that read.
    pub readers: u32,
    /// Clients that follow the events.
    pub followers: u32,
    /// Bytes of the log kept behind a checkpoint.
    pub log_keep_bytes: u64,
    /// Bytes of commands that may wait on a member; small where the queues are to run full.
    pub queue_bytes: usize,
    /// Log entries of commands that a leader has in flight.
    pub entries_in_flight: usize,
    /// Microseconds that a wall clock gains or loses a second, at most.
    pub drift: u64,
    /// Pause between heartbeats.
    pub heartbeat: Duration,
    /// Of a million blocks, after how many old rounds are pruned.
    pub prune_per_million: u32,
    /// A bug that is planted in all members, or in one.
    pub mutant: Option<(Mutant, Option<u64>)>,
}

impl Plan {
    /// The same with a planted bug. Where all members alike would be wrong alike, only one of them is.
    pub fn with_mutant(mut self, mutant: Mutant) -> Self {
        let alike = mutant == Mutant::ApplyReordered;
        let one = alike.then_some(1 + self.seed % self.members);
        self.mutant = Some((mutant, one));
        self
    }

    /// The bug that is planted in a member.
    pub fn mutant_of(&self, member: u64) -> Option<Mutant> {
        let (mutant, only) = self.mutant?;
        only.is_none_or(|only| only == member).then_some(mutant)
    }

    /// The plan of a seed. `members`: 3 or 5, drawn where not given.
    pub fn draw(seed: u64, members: Option<u64>, faulty_for: Duration) -> Self {
        let mut random = Random::new(seed);
        let members = members.unwrap_or(if random.chance(300_000) { 5 } else { 3 });
        let kept = random.between(150_000, 800_000) as u32;
        let mut faults: Vec<Fault> = FAULTS.into_iter().filter(|_| random.chance(kept)).collect();
        // What makes the log short makes snapshots happen: most runs want it.
        if random.chance(700_000) && !faults.contains(&Fault::Checkpoint) {
            faults.push(Fault::Checkpoint);
        }
        let mut strikes = BTreeMap::new();
        if random.chance(500_000) {
            for moment in MOMENTS {
                if random.chance(400_000) {
                    let often = match moment {
                        Moment::LogSync | Moment::Appended | Moment::Applied => {
                            random.between(100, 3_000)
                        }
                        Moment::StateSync | Moment::Voted => random.between(5_000, 100_000),
                        Moment::Create | Moment::Rename | Moment::Remove => {
                            random.between(50_000, 500_000)
                        }
                    };
                    strikes.insert(moment, often as u32);
                }
            }
        }
        let sometimes = |random: &mut Random, low: u64, high: u64| match random.chance(500_000) {
            true => random.between(low, high) as u32,
            false => 0,
        };
        Self {
            seed,
            members,
            faulty_for,
            faults,
            pause: random.millis(300, 5_000),
            strikes,
            rough_start: random.chance(200_000),
            late_per_million: sometimes(&mut random, 1_000, 200_000),
            lost_per_million: sometimes(&mut random, 1_000, 60_000),
            twice_per_million: sometimes(&mut random, 1_000, 50_000),
            delay: Duration::from_micros(random.between(100, 20_000)),
            sync: Duration::from_micros(random.between(100, 15_000)),
            shards: random.between(2, 12) as u32,
            seal_after_ms: random.between(100, 600) as u32,
            makers: random.between(1, 4) as u32,
            readers: random.between(1, 3) as u32,
            followers: random.between(1, 4) as u32,
            log_keep_bytes: random.between(0, 64 << 10),
            heartbeat: random.millis(50, 200),
            prune_per_million: sometimes(&mut random, 10_000, 100_000),
            queue_bytes: match random.chance(200_000) {
                true => random.between(4 << 10, 32 << 10) as usize,
                false => QUEUE_BYTES,
            },
            entries_in_flight: random.between(1, 6) as usize,
            drift: u64::from(sometimes(&mut random, 10, 100_000)),
            queued_per_million: sometimes(&mut random, 1_000, 200_000),
            mutant: None,
        }
    }
}
