//! VERIFY rounds: checking a block that somebody else made.
//!
//! For each of its shards the executor takes the transactions that were handed in ([`Bodies`]; their hash binds them to the
//! block), recovers their senders
//! (nobody is taken at his word here), executes them on the parent, and submits what came of it. An outcome that is not
//! the header's is submitted all the same: the store notes it as dissent, and two executors of different identity that
//! agree make the block invalid. A round that nobody can finish is given up at its deadline.

use super::limits::{BODIES_BYTES, RETRY_MAX, RETRY_MIN, VERIFY_DEADLINE};
use super::shared::{Busy, Shared};
use super::verify::{Outcome, Task, execute};
use crate::execution::Transaction;
use crate::store_client::{Round, Seal, Submitted};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use troika_proto::{B256, Bytes, ShardHeader, ordered_root, v1};

/// The transactions of a shard, and the shard hash that binds them: another list of transactions has another hash. Without
/// that binding whoever hands in something else could make a good block look wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Body {
    shard_hash: B256,
    transactions: Vec<Bytes>,
}

impl Body {
    /// `None` where `header` commits to other transactions.
    pub fn bound(header: &ShardHeader, transactions: Vec<Bytes>) -> Option<Self> {
        let bound = header.transaction_count as usize == transactions.len()
            && header.transactions_root == ordered_root(&transactions);
        bound.then(|| Self {
            shard_hash: header.hash(),
            transactions,
        })
    }

    /// Of the empty shard at `index`.
    pub fn empty(index: u32) -> Self {
        Self {
            shard_hash: ShardHeader::empty(index).hash(),
            transactions: Vec::new(),
        }
    }

    /// The shard hash.
    pub fn shard_hash(&self) -> B256 {
        self.shard_hash
    }

    /// The EIP-2718 envelopes, in order.
    pub fn transactions(&self) -> &[Bytes] {
        &self.transactions
    }

    /// Memory that it takes, about, in bytes.
    pub fn size(&self) -> usize {
        self.transactions
            .iter()
            .map(|t| t.len() + 64)
            .sum::<usize>()
            + 128
    }
}

/// Transactions of shards to be checked, by the shard hash that the header's list gives. Bounded in bytes, oldest out
/// first.
#[derive(Default)]
pub struct Bodies {
    held: Mutex<Held>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct Held {
    by_hash: HashMap<B256, Arc<Body>>,
    order: VecDeque<B256>,
    bytes: usize,
}

impl Bodies {
    /// Hands in the transactions of a shard.
    pub fn offer(&self, body: Body) {
        if self.held().take(body, BODIES_BYTES) {
            self.version.send_modify(|version| *version += 1);
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The transactions of a shard, as soon as they are handed in.
    async fn wait_for(&self, shard_hash: B256) -> Arc<Body> {
        let mut changes = self.version.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(body) = self.held().by_hash.get(&shard_hash) {
                return body.clone();
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Held {
    /// `false` if it is there already: what one hash binds is one body.
    fn take(&mut self, body: Body, limit_bytes: usize) -> bool {
        let (hash, size) = (body.shard_hash, body.size());
        if self.by_hash.contains_key(&hash) {
            return false;
        }
        self.by_hash.insert(hash, Arc::new(body));
        self.order.push_back(hash);
        self.bytes += size;
        while self.bytes > limit_bytes
            && self.order.len() > 1
            && let Some(oldest) = self.order.pop_front()
        {
            let gone = self.by_hash.remove(&oldest);
            self.bytes -= gone.map_or(0, |body| body.size());
        }
        true
    }
}

/// A VERIFY round that this executor takes part in. Dropped, it stops.
pub struct Verifying {
    /// As it was opened.
    pub round: Arc<Round>,
    closed: CancellationToken,
    shards: BTreeMap<u32, Check>,
}

/// The check of one shard.
#[derive(Clone)]
struct Check {
    over: CancellationToken,
    /// What this executor computed.
    computed: Arc<OnceLock<B256>>,
}

impl Drop for Verifying {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl Verifying {
    /// Takes part in `round`.
    pub fn start(shared: &Arc<Shared>, round: Round) -> Self {
        let closed = shared.stop.child_token();
        let round = Arc::new(round);
        // Every executor begins at another shard, and goes on from there.
        let mut own: Vec<u32> = shared.own().collect();
        let occasion = |shard: u32| [round.number.to_be_bytes(), u64::from(shard).to_be_bytes()];
        own.sort_by_key(|shard| shared.stagger(&occasion(*shard).concat(), Duration::from_secs(1)));
        let mut shards = BTreeMap::new();
        for shard in own {
            let state = Check {
                over: closed.child_token(),
                computed: Arc::default(),
            };
            if !round.winners.contains_key(&shard) {
                tokio::spawn(check(shared.clone(), round.clone(), shard, state.clone()));
            }
            shards.insert(shard, state);
        }
        tokio::spawn(give_up(shared.clone(), round.number, closed.clone()));
        Self {
            round,
            closed,
            shards,
        }
    }

    /// A shard has been decided: whoever works on it stops. Answers what was computed of it here.
    pub fn decided(&self, shard: u32) -> Option<B256> {
        let state = self.shards.get(&shard)?;
        state.over.cancel();
        state.computed.get().copied()
    }
}

async fn check(shared: Arc<Shared>, round: Arc<Round>, shard: u32, state: Check) {
    let Some(expected) = round.shard_hashes.get(shard as usize).copied() else {
        return;
    };
    let checking = async {
        let body = shared.bodies.wait_for(expected).await;
        let _busy = Busy::new(&shared.busy);
        let mut pause = RETRY_MIN;
        loop {
            let outcome = outcome(&shared, &round, shard, &body, &state.over).await;
            if let Outcome::Shard(computed) = &outcome {
                // The first outcome stands: executing is deterministic.
                state.computed.get_or_init(|| computed.hash);
            }
            match submit(&shared, &round, shard, expected, &outcome).await {
                Ok(()) => return,
                Err(problem) => {
                    tracing::debug!(round = round.number, shard, problem, "not checked yet");
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    };
    tokio::select! {
        biased;
        () = state.over.cancelled() => {}
        () = checking => {}
    }
}

/// Executes what was handed in, on the round's parent.
async fn outcome(
    shared: &Arc<Shared>,
    round: &Round,
    shard: u32,
    body: &Arc<Body>,
    over: &CancellationToken,
) -> Outcome {
    let raw = body.clone();
    let recovered = tokio::task::spawn_blocking(move || {
        let transactions = crate::execution::recover_all(raw.transactions())
            .into_iter()
            .map(|t| t.map(Arc::new));
        transactions.collect::<Result<Vec<Arc<Transaction>>, _>>()
    });
    let transactions = match recovered.await {
        Ok(Ok(transactions)) => transactions,
        Ok(Err(problem)) => return Outcome::Impossible(problem.to_string()),
        Err(error) => return Outcome::Unavailable(error.to_string()),
    };
    let task = Task {
        parent: round.parent,
        environment: round.environment.clone(),
        index: shard,
        transactions,
    };
    execute(shared, task, over).await
}

/// Says what came of a shard. An error: nothing is known of it yet.
async fn submit(
    shared: &Shared,
    round: &Round,
    shard: u32,
    expected: B256,
    outcome: &Outcome,
) -> Result<(), String> {
    let (client, name, owners) = (&shared.client, &shared.name, shared.owners);
    let answer = match outcome {
        Outcome::Shard(outcome) => {
            client
                .submit_checked(round.number, name, owners, outcome)
                .await
        }
        Outcome::Impossible(reason) => {
            client
                .submit_failure(round.number, shard, name, owners, reason)
                .await
        }
        Outcome::Unavailable(reason) => return Err(reason.clone()),
    };
    match answer.map_err(|e| e.to_string())? {
        // The store has it already.
        Submitted::Noted => {
            let stats = &shared.stats;
            stats.diverged(
                round.number,
                shard,
                "the block's producer",
                expected,
                &outcome.to_string(),
            );
        }
        Submitted::Decided { winner, .. } => {
            let agrees = matches!(outcome, Outcome::Shard(ours) if ours.hash == winner.shard_hash);
            if !agrees {
                shared.alarm(round.number, shard, &winner, outcome);
            }
        }
        answer => tracing::debug!(round = round.number, shard, ?answer, "checked"),
    }
    Ok(())
}

/// Gives the round up at its deadline, as UNAVAILABLE.
async fn give_up(shared: Arc<Shared>, round: u64, closed: CancellationToken) {
    let giving_up = async {
        sleep(VERIFY_DEADLINE).await;
        let mut pause = RETRY_MIN;
        loop {
            match shared.client.void(round, v1::VoidReason::Unavailable).await {
                Ok(Seal::Closed(_)) => return,
                Ok(Seal::Refused(refusal)) => tracing::debug!(round, %refusal, "not given up"),
                Err(error) => tracing::warn!(round, %error, "giving up failed"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    };
    tokio::select! {
        biased;
        () = closed.cancelled() => {}
        () = giving_up => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use troika_proto::{LockRule, ShardBody, U256};

    fn header(transactions: &[Bytes]) -> ShardHeader {
        let body = ShardBody {
            transactions: transactions.to_vec(),
            ..ShardBody::default()
        };
        ShardHeader::of(0, &body, U256::ZERO, LockRule::Commuting)
    }

    fn body(n: u8, bytes: usize) -> Body {
        let transactions = vec![Bytes::from(vec![n; bytes])];
        Body::bound(&header(&transactions), transactions).expect("its own")
    }

    #[test]
    fn only_the_transactions_that_a_header_commits_to_are_bound_to_its_hash() {
        let (one, other) = (Bytes::from_static(&[1]), Bytes::from_static(&[2]));
        let both = [one.clone(), other.clone()];
        let header = header(&both);
        let bound = Body::bound(&header, both.to_vec()).expect("its own");
        assert_eq!(bound.shard_hash(), header.hash());
        for altered in [
            vec![other.clone(), one.clone()],
            vec![one.clone()],
            vec![one, other, Bytes::new()],
        ] {
            assert_eq!(Body::bound(&header, altered), None);
        }
        assert_eq!(
            Body::empty(3).shard_hash(),
            troika_proto::Shard::empty(3).hash
        );
    }

    #[test]
    fn bodies_are_bounded_in_bytes_however_often_one_is_offered() {
        let limit = 3 * body(0, 1_000).size();
        let mut held = Held::default();
        for n in 0..20 {
            assert!(held.take(body(n, 1_000), limit));
            assert!(!held.take(body(n, 1_000), limit), "it is there already");
            let bytes: usize = held.by_hash.values().map(|body| body.size()).sum();
            assert_eq!((held.bytes, held.order.len()), (bytes, held.by_hash.len()));
            assert!(bytes <= limit);
        }
        assert_eq!(held.by_hash.len(), 3);
        // One that is larger than the limit alone is kept: somebody waits for it.
        assert!(held.take(body(99, 10_000), limit));
        assert_eq!(held.by_hash.len(), 1);
    }
}
