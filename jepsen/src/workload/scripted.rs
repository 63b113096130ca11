//! Scripted clients: they stand in for executors, and know nothing of execution.

use super::{CALL_TIMEOUT, Shared, contract_address};
use crate::client::{Client, key_text, proposal};
use crate::history::{Acquire, Get, Kind, Op, Open, Outcome, Prune, Seal, Submit};
use crate::options::Workload;
use crate::plan::{Choice, EXECUTORS, Operation, operation};
use alloy_primitives::{Address, U256};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use troika_proto::{LockKey, LockRule, Shard};

/// Rounds that a prune leaves.
const KEEP_ROUNDS: u64 = 20;
/// Bytes that make proposals large enough for logs to be purged within a run, so that members come back by a snapshot.
const PRUNE_PADDING: usize = 16 << 10;

/// One client: its planned operations one after the other, until told to stop.
pub struct Scripted {
    shared: Arc<Shared>,
    /// Clients by member id.
    clients: HashMap<u32, Client>,
    /// Its process id now: a time-out retires it.
    process: u64,
    last: Option<(Submit, Arc<Shard>)>,
    /// Bytes that every proposal is made larger by.
    padding: usize,
}

impl Scripted {
    /// A client that has not called yet.
    pub fn new(shared: Arc<Shared>) -> Self {
        let process = shared.recorder.new_process();
        Self {
            shared,
            clients: HashMap::new(),
            process,
            last: None,
            padding: 0,
        }
    }

    /// Runs client number `n` until the load ends.
    ///
    /// # Errors
    /// A member's address is none.
    pub async fn run(mut self, workload: Workload, n: u64, pause: Duration) -> anyhow::Result<()> {
        if workload == Workload::Prune {
            self.padding = PRUNE_PADDING;
        }
        for k in 0.. {
            if self.shared.stopped() {
                break;
            }
            let planned = operation(self.shared.seed, workload, self.shared.shards, n, k);
            let client = self.client(planned.member)?;
            if !self.call(&client, &planned).await {
                self.process = self.shared.recorder.new_process();
            }
            tokio::time::sleep(pause.mul_f64(planned.pause as f64 / 1_000.0)).await;
        }
        Ok(())
    }

    fn client(&mut self, draw: u64) -> anyhow::Result<Client> {
        let members = self.shared.members();
        let (id, address) = &members[(draw % members.len() as u64) as usize];
        if !self.clients.contains_key(id) {
            let client = Client::new(address, CALL_TIMEOUT)?;
            self.clients.insert(*id, client);
        }
        Ok(self.clients[id].clone())
    }

    fn invoke(&self, op: Op) -> Op {
        let recorder = &self.shared.recorder;
        recorder.record(self.process, Kind::Invoke, op.clone(), "");
        op
    }

    /// One call. False if its outcome is unknown.
    async fn call(&mut self, client: &Client, planned: &Operation) -> bool {
        let shared = self.shared.clone();
        let process = self.process;
        let newest = shared.round.load(Ordering::Relaxed).max(1);
        let round = newest.saturating_sub(planned.back).max(1);
        match planned.choice {
            Choice::Open => {
                let asked = self.invoke(Op::Open(Open::default()));
                let answer = client.open().await;
                if let Ok(Open { round: Some(n), .. }) = &answer {
                    shared.heard_of(*n);
                }
                shared.complete(process, asked, answer.map(Op::Open))
            }
            Choice::Seal => {
                let asked = self.invoke(Op::Seal(Seal {
                    round: newest,
                    seen: None,
                    refused: None,
                    meta: None,
                }));
                let answer = client.seal(newest).await;
                shared.complete(process, asked, answer.map(Op::Seal))
            }
            Choice::Get => {
                let linearizable = planned.linearizable;
                let asked = self.invoke(Op::Get(Get {
                    round,
                    linearizable,
                    seen: None,
                    meta: None,
                }));
                let answer = client.get(round, linearizable).await;
                shared.complete(process, asked, answer.map(Op::Get))
            }
            Choice::Prune => {
                let below = newest.saturating_sub(KEEP_ROUNDS).max(1);
                let asked = Op::Prune(Prune {
                    below,
                    pruned_below: None,
                });
                let asked = self.invoke(asked);
                let answer = client.prune(below).await;
                shared.complete(process, asked, answer.map(Op::Prune))
            }
            Choice::Check => self.check(client, planned).await,
            Choice::Acquire => {
                let keys = lock_keys(planned);
                let call = Acquire {
                    round,
                    shard: planned.shard,
                    keys: keys.iter().map(key_text).collect(),
                    outcome: None,
                    meta: None,
                };
                let asked = self.invoke(Op::Acquire(call.clone()));
                let answer = client.acquire(&call, &keys).await;
                shared.complete(process, asked, answer.map(Op::Acquire))
            }
            Choice::Submit | Choice::Resubmit | Choice::Steal => {
                let (call, shard) = self.submission(planned, round);
                self.last = Some((call.clone(), shard.clone()));
                let asked = self.invoke(Op::Submit(call.clone()));
                let answer = client.submit(&call, &shard).await;
                let closed = matches!(
                    &answer,
                    Ok(Submit { outcome: Some(Outcome::Refused(code)), .. }) if code.contains("CLOSED")
                );
                if closed && planned.reopen {
                    // The round ended without this client hearing of the next one.
                    if let Ok(Open { round: Some(n), .. }) = client.open().await {
                        shared.heard_of(n);
                    }
                }
                shared.complete(process, asked, answer.map(Op::Submit))
            }
        }
    }

    /// Opens the check of a block that nobody has made, and gives it up. False if an outcome is unknown.
    async fn check(&self, client: &Client, planned: &Operation) -> bool {
        let Ok(Some((header, hashes))) = client.sibling(planned.nonce).await else {
            return true; // Nothing that counts was asked.
        };
        let asked = self.invoke(Op::Open(Open {
            checks: Some(header.hash()),
            ..Open::default()
        }));
        let answer = client.check(&header, &hashes).await;
        let round = answer.as_ref().ok().and_then(|open| open.round);
        let known = self
            .shared
            .complete(self.process, asked, answer.map(Op::Open));
        let Some(round) = round else {
            return known;
        };
        let asked = self.invoke(Op::Void(Seal {
            round,
            seen: None,
            refused: None,
            meta: None,
        }));
        let answer = client.void(round).await;
        self.shared
            .complete(self.process, asked, answer.map(Op::Void))
    }

    fn submission(&mut self, planned: &Operation, round: u64) -> (Submit, Arc<Shard>) {
        let executor = EXECUTORS[planned.executor].to_owned();
        match (planned.choice, self.last.take()) {
            (Choice::Resubmit, Some(last)) => last,
            (Choice::Steal, Some((call, shard))) => (Submit { executor, ..call }, shard),
            _ => {
                let slots = slots(planned);
                let shard = proposal(planned.shard, planned.nonce, self.padding, &slots);
                let keys = shard.body.diff.lock_keys(LockRule::Commuting);
                let call = Submit {
                    round,
                    shard: planned.shard,
                    executor,
                    hash: shard.hash,
                    keys: keys.iter().map(key_text).collect(),
                    outcome: None,
                    meta: None,
                };
                (call, Arc::new(shard))
            }
        }
    }
}

fn slots(planned: &Operation) -> Vec<(Address, U256, U256)> {
    let slots = planned.slots.iter();
    slots
        .map(|(contract, key, value)| (contract_address(*contract), *key, *value))
        .collect()
}

fn lock_keys(planned: &Operation) -> Vec<LockKey> {
    let keys = slots(planned).into_iter();
    let mut keys: Vec<LockKey> = keys.map(|(c, key, _)| LockKey::slot(c, key)).collect();
    keys.sort();
    keys.dedup();
    keys
}
