//! What all parts of a run share: the plan, the trace, the oracles, who is alive, who reaches whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use troika_store::clock::Clock;
use troika_store::raft::Door;
use troika_store::runtime::{Instant, Runtime};

use super::oracle::Oracle;
use super::plan::Plan;
use super::process::Process;
use super::random::Random;
use super::trace::Trace;

/// No code of the simulation panics while it holds a lock, and there is one thread.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds this")
}

/// What a crash can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// A file is created: a snapshot that comes in, a data directory.
    Create,
    /// A file takes its name: an installed snapshot, an identity.
    Rename,
    /// A file is removed.
    Remove,
    /// The log is synced: entries, a vote, a truncation, a purge.
    LogSync,
    /// A checkpoint or a snapshot is synced.
    StateSync,
    /// A vote was given.
    Voted,
    /// Entries were acknowledged.
    Appended,
    /// A shard's decision was applied.
    Applied,
}

/// Which process is to crash.
#[derive(Clone, Copy, Debug)]
pub struct Crash {
    /// The member.
    pub member: u64,
    /// Which start of it.
    pub process: u64,
}

/// The world of one run.
pub struct World {
    /// What this run does.
    pub plan: Plan,
    /// The world's own process.
    pub own: Arc<Process>,
    /// Checks what is seen.
    pub oracle: Mutex<Oracle>,
    /// Doors of running members by address, with their process.
    pub doors: Mutex<BTreeMap<String, (Arc<Process>, Door)>>,
    /// From, to: nothing comes through.
    pub cut: Mutex<BTreeSet<(u64, u64)>>,
    /// Times that every disk operation of a member is slower.
    pub slow: Mutex<BTreeMap<u64, u32>>,
    /// True while faults happen.
    pub faulty: AtomicBool,
    /// A violation is found: the run is over.
    pub over: Notify,
    started: Instant,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    trace: Mutex<Trace>,
    random: Mutex<Random>,
    violation: Mutex<Option<String>>,
    crashes: mpsc::UnboundedSender<Crash>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

impl World {
    /// A world, and the crashes that it asks for.
    pub fn new(plan: Plan, trace: Trace) -> (Arc<Self>, mpsc::UnboundedReceiver<Crash>) {
        let mut random = Random::new(plan.seed ^ 0x5eed);
        let (crashes, asked) = mpsc::unbounded_channel();
        let world = Self {
            own: Process::new(0, 0, plan.late_per_million, random.fork(), None),
            counts: Mutex::default(),
            oracle: Mutex::default(),
            doors: Mutex::default(),
            cut: Mutex::default(),
            slow: Mutex::default(),
            faulty: AtomicBool::new(false),
            over: Notify::new(),
            started: Runtime::now(),
            trace: Mutex::new(trace),
            random: Mutex::new(random),
            violation: Mutex::default(),
            crashes,
            plan,
        };
        (Arc::new(world), asked)
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        Runtime::now() - self.started
    }

    /// The world's randomness.
    pub fn random(&self) -> MutexGuard<'_, Random> {
        lock(&self.random)
    }

    /// Adds to the trace.
    pub fn note(&self, numbers: &[u64], tell: impl FnOnce() -> String) {
        lock(&self.trace).note(self.elapsed(), numbers, tell);
    }

    /// Adds a line about what the run itself does.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        self.note(&[2], line);
    }

    /// Counts something that a run is to have met: a test that meets nothing shows nothing.
    pub fn count(&self, what: &'static str) {
        *lock(&self.counts).entry(what).or_default() += 1;
    }

    /// What was met, and how often.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.counts).clone()
    }

    /// The trace, to look at.
    pub fn trace(&self) -> MutexGuard<'_, Trace> {
        lock(&self.trace)
    }

    /// Something was seen that must not be. The first such thing ends the run.
    pub fn violate(&self, what: String) {
        self.note(&[3], || format!("VIOLATION: {what}"));
        lock(&self.violation).get_or_insert(what);
        self.over.notify_waiters();
        self.over.notify_one();
    }

    /// Takes the oracle's word.
    pub fn check(&self, judge: impl FnOnce(&mut Oracle) -> Result<(), String>) {
        let verdict = judge(&mut lock(&self.oracle));
        if let Err(what) = verdict {
            self.violate(what);
        }
    }

    /// What was seen that must not be.
    pub fn violation(&self) -> Option<String> {
        lock(&self.violation).clone()
    }

    /// True while faults happen.
    pub fn is_faulty(&self) -> bool {
        self.faulty.load(Ordering::Relaxed)
    }

    /// True if nothing comes from one to the other.
    pub fn is_cut(&self, from: u64, to: u64) -> bool {
        lock(&self.cut).contains(&(from, to))
    }

    /// True with this chance while faults happen.
    pub fn fault(&self, per_million: u32) -> bool {
        per_million > 0 && self.is_faulty() && self.random().chance(per_million)
    }

    /// How long something takes that usually takes `typical`; now and then much longer, while faults happen.
    pub fn latency(&self, typical: Duration) -> Duration {
        let worst = match self.is_faulty() {
            true => Duration::from_secs(2),
            false => Duration::ZERO,
        };
        self.random().heavy_tailed(typical, worst)
    }

    /// What a disk operation costs a member now.
    pub fn disk_cost(&self, member: u64, slow: bool) -> Duration {
        let plan = &self.plan;
        let base = match slow {
            true => self.latency(plan.sync),
            false => Duration::from_micros(5),
        };
        base * lock(&self.slow).get(&member).copied().unwrap_or(1)
    }

    /// Whether a process crashes at this moment: after how many more operations of its disk.
    pub fn strike(&self, process: &Process, moment: Moment) -> Option<u64> {
        let per_million = self.plan.strikes.get(&moment).copied().unwrap_or(0);
        if !process.is_alive() || !self.fault(per_million) {
            return None;
        }
        let operations = self.random().below(6);
        self.count("crashes after an event");
        self.tell(|| {
            format!(
                "member {}: the power goes after {moment:?} and {operations} operations",
                process.member
            )
        });
        Some(operations)
    }

    /// As [`strike`](Self::strike) where no disk is at hand: the process is gone at once.
    pub fn strike_now(&self, process: &Process, moment: Moment) {
        if self.strike(process, moment).is_some() {
            process.stop();
            self.power_gone(process.member, process.number);
        }
    }

    /// A process has lost its power and must be buried.
    pub fn power_gone(&self, member: u64, process: u64) {
        // Nobody listens any more once the run is over.
        let _ = self.crashes.send(Crash { member, process });
    }

    /// Ends what holds on to the world.
    pub fn close(&self) {
        let doors = std::mem::take(&mut *lock(&self.doors));
        drop(doors);
    }
}

/// A member's wall clock: runs a little faster or slower than virtual time, and jumps.
#[derive(Debug)]
pub struct SimClock {
    world: Arc<World>,
    offset_ms: Mutex<i64>,
    /// Microseconds that it gains a second.
    drift: i64,
}

/// When simulations begin: 2023-11-14, a second after the genesis of their chain.
const BEGIN_MS: i64 = 1_700_000_001_000;

impl SimClock {
    /// A clock that is right at first.
    pub fn new(world: Arc<World>) -> Arc<Self> {
        let most = world.plan.drift;
        let drift = world.random().between(0, 2 * most) as i64 - most as i64;
        Arc::new(Self {
            world,
            offset_ms: Mutex::default(),
            drift,
        })
    }

    /// Moves it.
    pub fn jump(&self, by_ms: i64) {
        *lock(&self.offset_ms) += by_ms;
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        let elapsed = self.world.elapsed().as_micros() as i64;
        let shown = elapsed + elapsed / 1_000_000 * self.drift;
        (BEGIN_MS + shown / 1_000 + *lock(&self.offset_ms)).max(0) as u64
    }
}
