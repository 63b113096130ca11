//! The one place where the store touches threads, timers, the monotonic clock and randomness.
//!
//! Everything else calls [`Runtime`], so that a simulation can run the same code in one thread, on virtual time, from one
//! seed. In production a call goes straight to tokio. A simulation installs [`Hooks`] on its thread; then a task is polled
//! only through its [`Gate`] (which can pause it, delay it, and knows whose task it is), blocking work waits as long as the
//! hooks say, runs inline and then costs the virtual time that they name, and randomness comes from them. There is no cargo
//! feature and no second build for this: what is simulated is what ships.
//!
//! `store/clippy.toml` forbids the calls below everywhere else. Channels and locks of `tokio::sync` are fine: they have no
//! clock and no randomness but the one that `tokio::runtime::Builder::rng_seed` fixes.
#![allow(clippy::disallowed_methods)] // This is the module that wraps them.

use std::{
    cell::RefCell,
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use openraft::OptionalSend;
use openraft_rt_tokio as on_tokio;
use tokio::{
    sync::oneshot,
    task::{AbortHandle, JoinError, JoinHandle},
    time::{Interval, MissedTickBehavior, Sleep, Timeout, error::Elapsed},
};

pub use tokio::time::Instant;

/// The runtime: associated functions for everybody, and openraft's `AsyncRuntime`.
///
/// A value of it owns a tokio runtime and exists only where a `main` or a test needs one (`openraft` asks for it too).
pub struct Runtime {
    inner: tokio::runtime::Runtime,
}

/// What a simulation puts under [`Runtime`] on its thread.
pub trait Hooks {
    /// The gate of a task that is being spawned now.
    fn gate(&self) -> Box<dyn Gate>;
    /// The task behind the gate just asked for; aborting it is how a process dies.
    fn spawned(&self, task: AbortHandle);
    /// The next random number.
    fn random_u64(&self) -> u64;
    /// How long a blocking job waits for a thread before it begins, in virtual time.
    fn blocking_wait(&self) -> Duration {
        Duration::ZERO
    }
    /// How long the blocking job that has just run inline took, in virtual time.
    fn blocking_cost(&self) -> Duration;
}

/// Stands before every poll of one simulated task.
pub trait Gate: Send {
    /// Ready: the task is polled now, and the gate's owner is the current process. Pending: it is not; the gate wakes it.
    fn enter(&mut self, context: &mut Context<'_>) -> Poll<()>;
    /// The poll is over.
    fn leave(&mut self);
}

thread_local! {
    static HOOKS: RefCell<Option<Rc<dyn Hooks>>> = const { RefCell::new(None) };
}

fn hooks() -> Option<Rc<dyn Hooks>> {
    HOOKS.with(|hooks| hooks.borrow().clone())
}

/// Puts `hooks` under this thread's runtime until the guard is dropped.
pub fn install(hooks: Rc<dyn Hooks>) -> Installed {
    let before = HOOKS.with(|cell| cell.replace(Some(hooks)));
    Installed { before }
}

/// Restores what was installed before, on drop.
#[must_use = "the hooks are taken away when this is dropped"]
pub struct Installed {
    before: Option<Rc<dyn Hooks>>,
}

impl Drop for Installed {
    fn drop(&mut self) {
        let before = self.before.take();
        HOOKS.with(|cell| *cell.borrow_mut() = before);
    }
}

impl Runtime {
    /// Starts a task.
    pub fn spawn<T>(task: T) -> JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        let Some(hooks) = hooks() else {
            return tokio::spawn(task);
        };
        let handle = tokio::spawn(Gated {
            gate: hooks.gate(),
            task: Box::pin(task),
        });
        hooks.spawned(handle.abort_handle());
        handle
    }

    /// Ready after `duration`.
    pub fn sleep(duration: Duration) -> Sleep {
        tokio::time::sleep(duration)
    }

    /// Ready at `deadline`.
    pub fn sleep_until(deadline: Instant) -> Sleep {
        tokio::time::sleep_until(deadline)
    }

    /// `future`, or [`Elapsed`] after `duration`.
    pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
        tokio::time::timeout(duration, future)
    }

    /// `future`, or [`Elapsed`] at `deadline`.
    pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
        tokio::time::timeout_at(deadline, future)
    }

    /// Monotonic now.
    pub fn now() -> Instant {
        Instant::now()
    }

    /// Ticks every `period`, the first after one period; a late tick moves the following ones.
    pub fn interval(period: Duration) -> Interval {
        let mut interval = tokio::time::interval_at(Instant::now() + period, period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    }

    /// Runs blocking work (disk, long computation) off the async threads and waits for it. A panic in it is resumed here.
    pub async fn spawn_blocking<T, F>(job: F) -> T
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let wait = hooks().map(|hooks| hooks.blocking_wait());
        let queued = match wait {
            None => tokio::task::spawn_blocking(job),
            Some(Duration::ZERO) => return inline(job).await,
            // A task of its own: what is queued is done, though nobody waits for it any more.
            Some(wait) => Self::spawn(async move {
                Self::sleep(wait).await;
                inline(job).await
            }),
        };
        match queued.await {
            Ok(value) => value,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only a runtime that is shutting down, or a simulated death, drops a job: nobody is left to poll this.
            Err(_) => std::future::pending().await,
        }
    }

    /// A random number.
    pub fn random_u64() -> u64 {
        match hooks() {
            Some(hooks) => hooks.random_u64(),
            None => rand::random(),
        }
    }

    /// `N` random bytes.
    pub fn random_bytes<const N: usize>() -> [u8; N] {
        let mut bytes = [0; N];
        fill(&mut bytes);
        bytes
    }
}

/// In a simulation: runs the job here, and then lets the time pass that it cost.
async fn inline<T, F: FnOnce() -> T>(job: F) -> T {
    let value = job();
    let cost = hooks().map_or(Duration::ZERO, |hooks| hooks.blocking_cost());
    Runtime::sleep(cost).await;
    value
}

fn fill(bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        let random = Runtime::random_u64().to_le_bytes();
        chunk.copy_from_slice(&random[..chunk.len()]);
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Blocking work of one kind, one job after the other: in production a thread of its own, whose wake-up is quicker than a
/// pool's and is never queued behind another's work.
pub struct Worker {
    /// None in a simulation: jobs run inline.
    jobs: Option<std::sync::mpsc::Sender<Job>>,
}

impl Worker {
    /// Starts the thread, which ends when this is dropped.
    pub fn new(name: &str) -> Self {
        if hooks().is_some() {
            return Self { jobs: None };
        }
        let (jobs, queue) = std::sync::mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || queue.into_iter().for_each(|job| job()))
            .expect("the system starts a thread");
        Self { jobs: Some(jobs) }
    }

    /// Runs a job and waits for it. The caller bounds how many it has under way.
    pub async fn run<T, F>(&self, job: F) -> T
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let Some(jobs) = &self.jobs else {
            return Runtime::spawn_blocking(job).await;
        };
        let (reply, done) = oneshot::channel();
        let sent = jobs.send(Box::new(move || {
            // The caller may have been dropped: then nobody wants the value.
            let _ = reply.send(job());
        }));
        if sent.is_ok()
            && let Ok(value) = done.await
        {
            return value;
        }
        panic!("a blocking job panicked and took its thread with it");
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Worker")
    }
}

/// A sleep of openraft's.
///
/// openraft gathers wake-ups with pauses of a microsecond, which tokio's timer would make a whole millisecond of, on the
/// path of every commit. What is shorter than [`Pause::SHORTEST`] lets the other tasks run once instead.
pub enum Pause {
    /// Over when the tasks that are ready now have run.
    Turn {
        /// Whether they have been let.
        taken: bool,
    },
    /// Over at a time.
    Timer(Pin<Box<Sleep>>),
}

impl Pause {
    /// Shorter than the timer can tell.
    const SHORTEST: Duration = Duration::from_micros(100);

    const TURN: Self = Self::Turn { taken: false };
}

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &mut *self {
            Self::Timer(sleep) => sleep.as_mut().poll(context),
            Self::Turn { taken: true } => Poll::Ready(()),
            Self::Turn { taken } => {
                *taken = true;
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

/// A task behind its gate.
struct Gated<T> {
    gate: Box<dyn Gate>,
    task: Pin<Box<T>>,
}

impl<T: Future> Future for Gated<T> {
    type Output = T::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T::Output> {
        if self.gate.enter(context).is_pending() {
            return Poll::Pending;
        }
        let result = self.task.as_mut().poll(context);
        self.gate.leave();
        result
    }
}

/// Randomness in the form that openraft wants.
pub struct Random;

impl rand::TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((Runtime::random_u64() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(Runtime::random_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        fill(bytes);
        Ok(())
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}

impl openraft::AsyncRuntime for Runtime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = Pause;
    type Instant = on_tokio::TokioInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = Random;
    type Mpsc = on_tokio::TokioMpsc;
    type Watch = on_tokio::TokioWatch;
    type Oneshot = on_tokio::TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = on_tokio::TokioMutex<T>;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        Runtime::spawn(future)
    }

    fn sleep(duration: Duration) -> Pause {
        if duration < Pause::SHORTEST {
            return Pause::TURN;
        }
        Pause::Timer(Box::pin(Runtime::sleep(duration)))
    }

    /// Never over early, however near the deadline is: whoever asks the clock what comes next would spin until then.
    fn sleep_until(deadline: Self::Instant) -> Pause {
        Pause::Timer(Box::pin(on_tokio::TokioRuntime::sleep_until(deadline)))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Timeout<F> {
        Runtime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Timeout<F> {
        on_tokio::TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(error: &JoinError) -> bool {
        error.is_panic()
    }

    fn thread_rng() -> Random {
        Random
    }

    fn new(threads: usize) -> Self {
        let inner = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .expect("the system starts the runtime's threads");
        Self { inner }
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.inner.block_on(future)
    }

    async fn spawn_blocking<F, T>(job: F) -> Result<T, std::io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Ok(Runtime::spawn_blocking(job).await)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A simulation small enough to read: counts polls, hands out a fixed sequence, and charges ten milliseconds per blocking job.
    struct Toy {
        polls: Arc<Mutex<u32>>,
        next: RefCell<u64>,
        tasks: RefCell<Vec<AbortHandle>>,
        wait: Cell<Duration>,
    }

    struct Count(Arc<Mutex<u32>>);

    impl Gate for Count {
        fn enter(&mut self, _context: &mut Context<'_>) -> Poll<()> {
            *self.0.lock().unwrap() += 1;
            Poll::Ready(())
        }
        fn leave(&mut self) {}
    }

    impl Hooks for Toy {
        fn gate(&self) -> Box<dyn Gate> {
            Box::new(Count(self.polls.clone()))
        }
        fn spawned(&self, task: AbortHandle) {
            self.tasks.borrow_mut().push(task);
        }
        fn random_u64(&self) -> u64 {
            *self.next.borrow_mut() += 1;
            *self.next.borrow()
        }
        fn blocking_wait(&self) -> Duration {
            self.wait.get()
        }
        fn blocking_cost(&self) -> Duration {
            Duration::from_millis(10)
        }
    }

    fn toy() -> Rc<Toy> {
        Rc::new(Toy {
            polls: Arc::default(),
            next: RefCell::new(0),
            tasks: RefCell::default(),
            wait: Cell::default(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_too_short_for_the_timer_costs_no_time() {
        use openraft::AsyncRuntime;
        let started = Runtime::now();
        for _ in 0..100 {
            <Runtime as AsyncRuntime>::sleep(Duration::from_micros(1)).await;
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        <Runtime as AsyncRuntime>::sleep(Duration::from_millis(5)).await;
        assert!(started.elapsed() >= Duration::from_millis(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_past_when_it_is_told() {
        use openraft::AsyncRuntime;
        type Clock = <Runtime as AsyncRuntime>::Instant;
        let deadline = <Clock as openraft::Instant>::now() + Duration::from_micros(50);
        <Runtime as AsyncRuntime>::sleep_until(deadline).await;
        assert!(<Clock as openraft::Instant>::now() >= deadline);
    }

    #[tokio::test]
    async fn hooks_gate_tasks_time_and_randomness() {
        let toy = toy();
        let _installed = install(toy.clone());
        let started = Runtime::now();
        let worker = Worker::new("none");
        let sum = Runtime::spawn(async move {
            let first = Runtime::spawn_blocking(Runtime::random_u64).await;
            first + worker.run(Runtime::random_u64).await
        });
        assert_eq!(sum.await.unwrap(), 3);
        assert!(Runtime::now() - started >= Duration::from_millis(20));
        assert_eq!(toy.tasks.borrow().len(), 1);
        assert!(*toy.polls.lock().unwrap() >= 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queued_job_begins_later_and_is_done_though_its_caller_is_gone() {
        let toy = toy();
        let _installed = install(toy.clone());
        toy.wait.set(Duration::from_millis(30));
        let done = Arc::new(Mutex::new(false));
        let mark = done.clone();
        let job = Runtime::spawn_blocking(move || *mark.lock().unwrap() = true);
        let given_up = Runtime::timeout(Duration::from_millis(20), job).await;
        assert!(given_up.is_err() && !*done.lock().unwrap());
        Runtime::sleep(Duration::from_millis(20)).await;
        assert!(*done.lock().unwrap());
        let started = Runtime::now();
        assert_eq!(Runtime::spawn_blocking(Runtime::random_u64).await, 1);
        assert!(Runtime::now() - started >= Duration::from_millis(40));
    }

    #[tokio::test]
    async fn aborting_a_spawned_task_kills_it() {
        let toy = toy();
        let _installed = install(toy.clone());
        let task = Runtime::spawn(Runtime::sleep(Duration::from_secs(3600)));
        toy.tasks.borrow()[0].abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }

    #[tokio::test]
    async fn without_hooks_it_is_tokio() {
        let worker = Worker::new("test-worker");
        let name = worker
            .run(|| std::thread::current().name().map(str::to_owned))
            .await;
        assert_eq!(name.as_deref(), Some("test-worker"));
        assert_eq!(Runtime::spawn_blocking(|| 7).await, 7);
        assert_ne!(Runtime::random_bytes::<16>(), Runtime::random_bytes::<16>());
    }

    /// `select!` picks at random unless told otherwise, and clippy cannot tell the two apart.
    #[test]
    fn every_select_is_biased() {
        let mut folders = vec![std::path::PathBuf::from(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src"
        ))];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|ext| ext == "rs") {
                    seen += 1;
                    let text = std::fs::read_to_string(&path).unwrap();
                    for (at, _) in text.match_indices(concat!("select", "! {")) {
                        let body = text[at..].split_once('{').unwrap().1.trim_start();
                        assert!(
                            body.starts_with("biased;"),
                            "unbiased select in {}",
                            path.display()
                        );
                    }
                }
            }
        }
        assert!(seen > 3);
    }
}
