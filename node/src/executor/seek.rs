//! Looking ahead: reading, for many transactions at a time, the state that they will ask for.
//!
//! Each transaction is executed by itself on the parent's state, and nothing of it is kept. What it misses is answered by
//! nothing and noted; one read then brings what all of them miss, and those that missed something are executed again. What a
//! transaction reads may depend on what it read before, over and over: so after [`SEEK_PROBES`] such passes each that still
//! misses something gets a thread and waits for it. Once none of them can go on, one read brings what all of them wait for.

use super::cache::{CacheView, Missing};
use super::limits::{SEEK_COLD_SHARE, SEEK_FEW, SEEK_FIRST, SEEK_PROBES, SEEK_READS, SEEK_THREADS};
use super::verify::Ground;
use crate::execution::{Account, Code, StateView, Transaction, Unavailable, explore};
use crate::store_client::StateKey;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use troika_proto::{Address, B256, U256};

/// Reads what is `missing`, and what `transactions` will ask for; but where the first of them know nearly all that they ask
/// for, not what the others will.
///
/// # Errors
/// [`Unavailable`] where the store does not answer.
pub fn seek(
    ground: &Ground,
    transactions: &[Arc<Transaction>],
    mut missing: Missing,
) -> Result<(), Unavailable> {
    let all: Vec<&Arc<Transaction>> = transactions.iter().collect();
    let (first, others) = all.split_at(SEEK_FIRST.min(all.len()));
    let mut asking = probe(ground, first, &mut missing)?;
    if asking.len() * SEEK_COLD_SHARE >= first.len() {
        asking.extend(probe(ground, others, &mut missing)?);
    }
    load(ground, missing)?;
    for _ in 1..SEEK_PROBES {
        if asking.len() < SEEK_FEW {
            break;
        }
        let mut missing = Missing::default();
        asking = probe(ground, &asking, &mut missing)?;
        load(ground, missing)?;
    }
    wait_out(ground, &asking)
}

fn load(ground: &Ground, missing: Missing) -> Result<(), Unavailable> {
    match missing.is_empty() {
        true => Ok(()),
        false => ground.view.load_blocking(&ground.runtime, missing),
    }
}

/// Executes each once, without waiting, and notes what they missed. Answers those that did.
fn probe<'a>(
    ground: &Ground,
    transactions: &[&'a Arc<Transaction>],
    missing: &mut Missing,
) -> Result<Vec<&'a Arc<Transaction>>, Unavailable> {
    let (missing, asking) = (Mutex::new(missing), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(transactions.len() / SEEK_FEW);
    spread(transactions, threads, |some| {
        let seeking = Seeking::new(&ground.view, None);
        explore(&ground.rules, &ground.environment, some, &seeking, |one| {
            let noted = seeking.take_noted();
            if !noted.is_empty() {
                lock(&missing).extend(noted);
                lock(&asking).push(one);
            }
        })
    })?;
    Ok(asking.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Executes each, and waits for what it asks for.
fn wait_out(ground: &Ground, transactions: &[&Arc<Transaction>]) -> Result<(), Unavailable> {
    if transactions.is_empty() {
        return Ok(());
    }
    let threads = SEEK_THREADS.min(transactions.len());
    let reader = Reader {
        ground,
        queue: Mutex::new(Queue {
            running: threads,
            ..Queue::default()
        }),
        changed: Condvar::new(),
    };
    spread(transactions, threads, |some| {
        let _running = Running(&reader);
        let seeking = Seeking::new(&ground.view, Some(&reader));
        explore(&ground.rules, &ground.environment, some, &seeking, |_| {})
    })
}

/// Gives the transactions out to so many threads, each of which does `work` on those that it takes; to this one where one is
/// enough.
fn spread<'a>(
    transactions: &[&'a Arc<Transaction>],
    threads: usize,
    work: impl Fn(&mut dyn Iterator<Item = &'a Arc<Transaction>>) -> Result<(), Unavailable> + Sync,
) -> Result<(), Unavailable> {
    let next = AtomicUsize::new(0);
    let take = || {
        transactions
            .get(next.fetch_add(1, Ordering::Relaxed))
            .copied()
    };
    let run = || work(&mut std::iter::from_fn(take));
    if threads <= 1 {
        return run();
    }
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().try_for_each(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads for many threads, for all of them at once.
struct Reader<'a> {
    ground: &'a Ground,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    wanted: Missing,
    /// Threads that do not wait.
    running: usize,
    waiting: usize,
    reading: bool,
    /// Reads that have ended.
    ended: u64,
    failed: Option<Unavailable>,
}

impl Reader<'_> {
    /// Returns when all of `missing` has been read, or enough has been.
    fn read(&self, missing: Missing) -> Result<(), Unavailable> {
        let mut queue = lock(&self.queue);
        if queue.ended == SEEK_READS {
            return Ok(());
        }
        queue.wanted.extend(missing);
        queue.running -= 1;
        queue.waiting += 1;
        let before = queue.ended;
        while queue.ended == before {
            if queue.running > 0 || queue.reading {
                let waited = self.changed.wait(queue);
                queue = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            queue.reading = true;
            let wanted = std::mem::take(&mut queue.wanted);
            drop(queue);
            let read = self.ground.view.load_blocking(&self.ground.runtime, wanted);
            queue = lock(&self.queue);
            queue.reading = false;
            queue.ended += 1;
            queue.running += std::mem::take(&mut queue.waiting);
            queue.failed = read.err();
            self.changed.notify_all();
        }
        queue.failed.clone().map_or(Ok(()), Err)
    }
}

/// A thread that looks ahead, until it is dropped.
struct Running<'a>(&'a Reader<'a>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut queue = lock(&self.0.queue);
        queue.running -= 1;
        if queue.running == 0 {
            self.0.changed.notify_all();
        }
    }
}

/// The state as one thread's transactions see it.
struct Seeking<'a> {
    view: &'a CacheView,
    /// Absent: nothing is waited for.
    reader: Option<&'a Reader<'a>>,
    /// What was asked for and not waited for.
    noted: Mutex<Missing>,
}

impl<'a> Seeking<'a> {
    fn new(view: &'a CacheView, reader: Option<&'a Reader<'a>>) -> Self {
        Self {
            view,
            reader,
            noted: Mutex::default(),
        }
    }

    fn take_noted(&self) -> Missing {
        std::mem::take(&mut lock(&self.noted))
    }

    /// What is known, or is once it has been read; or nothing.
    fn ask<T: Default>(
        &self,
        known: impl Fn(&CacheView) -> Option<T>,
        note: impl FnOnce(&mut Missing),
    ) -> Result<T, Unavailable> {
        if let Some(value) = known(self.view) {
            return Ok(value);
        }
        let Some(reader) = self.reader else {
            note(&mut lock(&self.noted));
            return Ok(T::default());
        };
        let mut missing = Missing::default();
        note(&mut missing);
        reader.read(missing)?;
        // Not read any more, or forgotten again by a cache that is too small: whoever needs it reads it then.
        Ok(known(self.view).unwrap_or_default())
    }
}

impl StateView for &Seeking<'_> {
    fn account(&self, address: Address) -> Result<Option<Account>, Unavailable> {
        let key = StateKey::Account(address);
        self.ask(
            |view| view.known_account(address),
            |missing| missing.want(key),
        )
    }

    fn slot(&self, address: Address, slot: U256) -> Result<U256, Unavailable> {
        let key = StateKey::Slot(address, slot);
        self.ask(
            |view| view.known_slot(address, slot),
            |missing| missing.want(key),
        )
    }

    fn code(&self, hash: B256) -> Result<Code, Unavailable> {
        self.ask(
            |view| view.known_code(hash),
            |missing| missing.want_code(hash),
        )
    }

    fn block_hash(&self, number: u64) -> Result<B256, Unavailable> {
        self.ask(
            |view| view.known_block_hash(number),
            |missing| missing.want_block_hash(number),
        )
    }
}
