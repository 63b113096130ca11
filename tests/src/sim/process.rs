//! Simulated processes: whose task is polled, and what killing, pausing and hurrying mean.
//!
//! Every task of the store is spawned through its runtime and so stands behind a [`Gate`] of ours that knows its process.
//! A task that is spawned while another is polled belongs to the same process. Process 0 is the world itself: network,
//! clients, faults.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::AbortHandle;
use troika_store::mutant::Mutant;
use troika_store::runtime::{Gate, Hooks, Instant, Runtime};

use super::random::Random;
use super::world::{World, lock};

/// A process: one start of a member, or the world.
#[derive(Debug)]
pub struct Process {
    /// The member that it is a start of; 0 for the world.
    pub member: u64,
    /// Which start of which member this is, counted over the whole run.
    pub number: u64,
    dead: AtomicBool,
    paused: AtomicBool,
    /// The power went in the middle of a blocking job.
    pub cut: AtomicBool,
    sleeping: Mutex<Vec<Waker>>,
    tasks: Mutex<Vec<AbortHandle>>,
    /// Virtual time that the blocking job under way has cost.
    cost: Mutex<Duration>,
    /// Of a million polls, how many come late.
    late_per_million: u32,
    random: Mutex<Random>,
    /// The bug that is planted in it.
    mutant: Option<Mutant>,
}

impl Process {
    /// A process that runs.
    pub fn new(
        member: u64,
        number: u64,
        late_per_million: u32,
        random: Random,
        mutant: Option<Mutant>,
    ) -> Arc<Self> {
        Arc::new(Self {
            mutant,
            member,
            number,
            dead: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            sleeping: Mutex::default(),
            tasks: Mutex::default(),
            cost: Mutex::default(),
            late_per_million,
            random: Mutex::new(random),
        })
    }

    /// True until it is killed.
    pub fn is_alive(&self) -> bool {
        !self.dead.load(Ordering::Relaxed)
    }

    /// From now on nothing of it runs.
    pub fn stop(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// Ends it: every task is dropped without being polled again.
    pub fn kill(&self) {
        self.stop();
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        lock(&self.sleeping).clear();
    }

    /// Stops polling it, as a debugger, a full machine or a migration does.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::Relaxed);
    }

    /// Goes on.
    pub fn resume(&self) {
        self.paused.store(false, Ordering::Relaxed);
        for waker in lock(&self.sleeping).drain(..) {
            waker.wake();
        }
    }

    /// What the blocking job under way has cost so far.
    pub fn charged(&self) -> Duration {
        *lock(&self.cost)
    }

    /// A blocking job costs this much more.
    pub fn charge(&self, cost: Duration) {
        *lock(&self.cost) += cost;
    }
}

thread_local! {
    static CURRENT: Cell<Option<Arc<Process>>> = const { Cell::new(None) };
}

/// So many polls at one moment are no work any more: tasks wake each other, and time stands still for ever.
const STANDSTILL: u64 = 1_000_000;

thread_local! {
    static POLLS: Cell<u64> = const { Cell::new(0) };
    /// The time at the last look at it, every [`STANDSTILL`] polls.
    static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Counts a poll; panics, in the task that is polled, where no time passes.
fn count_poll(process: &Process) {
    POLLS.set(POLLS.get() + 1);
    if POLLS.get().is_multiple_of(STANDSTILL) {
        let now = Runtime::now();
        assert!(
            LOOKED.replace(Some(now)) != Some(now),
            "tasks of member {} are polled without end, and no time passes",
            process.member
        );
    }
}

#[cfg(feature = "mutants")]
fn plant(mutant: Option<Mutant>) {
    troika_store::mutant::set(mutant);
}

/// A build without planted bugs.
#[cfg(not(feature = "mutants"))]
fn plant(_: Option<Mutant>) {}

fn swap(process: Option<Arc<Process>>) -> Option<Arc<Process>> {
    plant(process.as_ref().and_then(|process| process.mutant));
    CURRENT.with(|current| current.replace(process))
}

/// Nobody's task is being polled: a task that panicked in the run before never said so.
pub fn reset() {
    swap(None);
    POLLS.set(0);
    LOOKED.set(None);
}

/// Runs `act` as if a task of `process` did: what it spawns belongs to that process.
pub fn within<R>(process: &Arc<Process>, act: impl FnOnce() -> R) -> R {
    let before = swap(Some(process.clone()));
    let result = act();
    swap(before);
    result
}

fn current() -> Option<Arc<Process>> {
    CURRENT.with(|cell| {
        let process = cell.take();
        cell.set(process.clone());
        process
    })
}

struct TaskGate {
    process: Arc<Process>,
    outer: Option<Arc<Process>>,
}

impl Gate for TaskGate {
    fn enter(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let process = &self.process;
        if !process.is_alive() {
            return Poll::Pending;
        }
        if process.paused.load(Ordering::Relaxed) {
            lock(&process.sleeping).push(context.waker().clone());
            return Poll::Pending;
        }
        if process.late_per_million > 0 && lock(&process.random).chance(process.late_per_million) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        count_poll(process);
        self.outer = swap(Some(process.clone()));
        Poll::Ready(())
    }

    fn leave(&mut self) {
        swap(self.outer.take());
    }
}

/// What the simulation puts under the store's runtime.
pub struct SimHooks {
    world: Arc<World>,
    started: Instant,
}

impl SimHooks {
    /// Hooks of a world.
    pub fn new(world: Arc<World>) -> Rc<Self> {
        let started = Runtime::now();
        Rc::new(Self { world, started })
    }

    fn process(&self) -> Arc<Process> {
        current().unwrap_or_else(|| self.world.own.clone())
    }
}

/// A process whose power went waits for its end longer than any run lasts.
const FOR_EVER: Duration = Duration::from_secs(86_400);
/// A blocking job waits at most this long for a thread.
const QUEUED_MS: u64 = 60;
/// Finished tasks are forgotten when a process has had this many.
const SWEEP: usize = 256;

impl Hooks for SimHooks {
    fn gate(&self) -> Box<dyn Gate> {
        let process = self.process();
        Box::new(TaskGate {
            process,
            outer: None,
        })
    }

    fn spawned(&self, task: AbortHandle) {
        let process = self.process();
        let mut tasks = lock(&process.tasks);
        if tasks.len() >= SWEEP && tasks.len().is_power_of_two() {
            tasks.retain(|task| !task.is_finished());
        }
        tasks.push(task);
        if !process.is_alive() {
            tasks.drain(..).for_each(|task| task.abort());
        }
    }

    fn random_u64(&self) -> u64 {
        debug_assert!(Runtime::now() >= self.started);
        lock(&self.process().random).draw()
    }

    fn blocking_wait(&self) -> Duration {
        let per_million = self.world.plan.queued_per_million;
        if per_million == 0 {
            return Duration::ZERO;
        }
        let process = self.process();
        let mut random = lock(&process.random);
        match random.chance(per_million) {
            true => random.millis(0, QUEUED_MS),
            false => Duration::ZERO,
        }
    }

    fn blocking_cost(&self) -> Duration {
        let process = self.process();
        if process.cut.load(Ordering::Relaxed) {
            process.stop();
            return FOR_EVER;
        }
        std::mem::take(&mut *lock(&process.cost))
    }
}
