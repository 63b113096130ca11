//! Calls over the wire, and what becomes of them: `ok`, provably not carried out, or unknown.

use crate::history::{
    Acquire, Get, Held, Key, Meta, Open, Outcome, Prune, RoundSeen, Seal, Submit, Winner,
};
use alloy_primitives::{Address, B256, U256, keccak256};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use troika_proto::v1::cluster_client::ClusterClient;
use troika_proto::v1::rounds_client::RoundsClient;
use troika_proto::v1::state_client::StateClient;
use troika_proto::v1::{self, acquire_locks_response, submit_response};
use troika_proto::{AccountDiff, Diff, Header, LockKey, LockRule, Shard, ShardBody, shards_root};

/// What became of a call that was not answered.
#[derive(Debug)]
pub enum Failure {
    /// It was provably not carried out.
    Not(String),
    /// Nobody knows.
    Unknown(String),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let text = format!("{:?}: {}", status.code(), status.message());
        // Our own words for "nobody listens there": the request was not sent.
        if status.code() == Code::Unavailable && status.message() == "tcp connect error" {
            return Self::Not(text);
        }
        match status.code() {
            // The store refuses these before anything is logged.
            Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::OutOfRange
            | Code::PermissionDenied
            | Code::Unimplemented => Self::Not(text),
            _ => Self::Unknown(text),
        }
    }
}

/// A client of one member. Reconnects by itself.
#[derive(Clone)]
pub struct Client {
    rounds: RoundsClient<Channel>,
    cluster: ClusterClient<Channel>,
    state: StateClient<Channel>,
    timeout: Duration,
}

/// A channel to `address` that connects when it is used.
///
/// # Errors
/// The address is not one.
pub fn channel(address: &str, timeout: Duration) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(Duration::from_secs(1))
        .timeout(timeout)
        .tcp_nodelay(true);
    Ok(endpoint.connect_lazy())
}

/// Where and when, from the wire.
pub fn meta(meta: Option<v1::ReplyMeta>) -> Option<Meta> {
    meta.map(|m| Meta {
        member: m.member,
        leader: m.leader,
        term: m.term,
        log_index: m.log_index,
        revision: m.revision,
    })
}

fn hash(bytes: &[u8]) -> B256 {
    // A hash of another length is itself a finding: it agrees with nothing.
    B256::try_from(bytes).unwrap_or(B256::repeat_byte(0xff))
}

/// A lock key as text.
pub fn key_text(key: &LockKey) -> Key {
    match key.slot {
        None => format!("{:#x}", key.address),
        Some(slot) => format!("{:#x}/{slot:#x}", key.address),
    }
}

fn wire_key_text(key: &v1::LockKey) -> Key {
    LockKey::try_from(key).map_or_else(|e| format!("malformed {e}"), |k| key_text(&k))
}

/// A winner from the wire.
pub fn winner(w: v1::Winner) -> Winner {
    Winner {
        hash: hash(&w.shard_hash),
        executor: w.executor,
        revision: w.revision,
    }
}

fn conflict(conflict: v1::Conflict) -> Outcome {
    let held = conflict.held.into_iter().map(|h| Held {
        key: h.key.as_ref().map(wire_key_text).unwrap_or_default(),
        shard: h.shard,
        revision: h.revision,
    });
    Outcome::Conflict(held.collect())
}

fn refused(refusal: &v1::Refusal) -> Outcome {
    Outcome::Refused(refusal.code().as_str_name().to_owned())
}

/// A round from the wire.
pub fn round(round: &v1::Round) -> RoundSeen {
    let status = match round.status() {
        v1::RoundStatus::Open => "open",
        v1::RoundStatus::Sealed => "sealed",
        v1::RoundStatus::Void => "void",
        v1::RoundStatus::Unspecified => "unspecified",
    };
    let winners = round.winners.iter().filter_map(|s| {
        let w = s.winner.clone()?;
        Some((s.shard, winner(w)))
    });
    RoundSeen {
        status: status.to_owned(),
        winners: winners.collect(),
        block: (!round.block_hash.is_empty()).then(|| hash(&round.block_hash)),
        opened_at: round.opened_at,
        closed_at: round.closed_at,
    }
}

/// A proposal that writes `slots` of contracts: (contract, slot, value). Its transaction is `nonce` and `padding` zeros.
pub fn proposal(index: u32, nonce: u64, padding: usize, slots: &[(Address, U256, U256)]) -> Shard {
    let mut transaction = nonce.to_be_bytes().to_vec();
    transaction.resize(transaction.len() + padding, 0);
    let mut diff = Diff::default();
    for (contract, key, value) in slots {
        let account: &mut AccountDiff = diff.accounts.entry(*contract).or_default();
        account.slots.insert(*key, *value);
    }
    let body = ShardBody {
        transactions: vec![transaction.into()],
        receipts: vec![troika_proto::Receipt {
            tx_type: 2,
            success: true,
            cumulative_gas: 21_000,
            logs: Vec::new(),
        }],
        diff,
    };
    Shard::new(index, body, U256::ZERO, LockRule::Commuting)
}

impl Client {
    /// A client of the member at `address` (HOST:PORT).
    ///
    /// # Errors
    /// The address is not one.
    pub fn new(address: &str, timeout: Duration) -> anyhow::Result<Self> {
        let limit = troika_proto::limits::MAX_MESSAGE_BYTES;
        let channel = channel(address, timeout)?;
        let rounds = RoundsClient::new(channel.clone()).max_decoding_message_size(limit);
        Ok(Self {
            rounds,
            cluster: ClusterClient::new(channel.clone()),
            state: StateClient::new(channel),
            timeout,
        })
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(self.timeout);
        request
    }

    /// Opens a round on the head.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn open(&self) -> Result<Open, Failure> {
        let request = v1::OpenRoundRequest {
            kind: v1::RoundKind::Build.into(),
            opener: "jepsen".to_owned(),
            ..Default::default()
        };
        self.open_as(request).await
    }

    async fn open_as(&self, request: v1::OpenRoundRequest) -> Result<Open, Failure> {
        let request = self.request(request);
        let reply = self.rounds.clone().open(request).await?.into_inner();
        let round = reply.round.as_ref();
        if let (None, Some(refusal)) = (round, &reply.refusal) {
            return Err(Failure::Not(refusal.message.clone()));
        }
        Ok(Open {
            checks: None,
            round: round.map(|r| r.round),
            parent: round.map(|r| hash(&r.parent)),
            opened_at: round.map(|r| r.opened_at),
            meta: meta(reply.meta),
        })
    }

    /// A block that nobody has made: the head's sibling, with shards of which only the hashes are known. `None` before there
    /// is a block.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn sibling(&self, nonce: u64) -> Result<Option<(Header, Vec<B256>)>, Failure> {
        let request = self.request(v1::HeadRequest::default());
        let reply = self.state.clone().head(request).await?.into_inner();
        let shards = reply.config.map_or(0, |config| config.shards);
        let Some(Ok(mut header)) = reply.header.as_ref().map(Header::try_from) else {
            return Ok(None);
        };
        if header.number == 0 {
            return Ok(None);
        }
        let hash =
            |shard: u32| keccak256([nonce.to_be_bytes(), u64::from(shard).to_be_bytes()].concat());
        let hashes: Vec<B256> = (0..shards).map(hash).collect();
        header.shards_root = shards_root(&hashes);
        Ok(Some((header, hashes)))
    }

    /// Opens a round that checks somebody else's block.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn check(&self, header: &Header, shard_hashes: &[B256]) -> Result<Open, Failure> {
        let request = v1::OpenRoundRequest {
            kind: v1::RoundKind::Verify.into(),
            opener: "jepsen".to_owned(),
            header: Some(header.into()),
            shard_hashes: shard_hashes.iter().map(|h| h.to_vec().into()).collect(),
            ..Default::default()
        };
        let open = self.open_as(request).await?;
        Ok(Open {
            checks: Some(header.hash()),
            ..open
        })
    }

    /// Gives up a check.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn void(&self, number: u64) -> Result<Seal, Failure> {
        let request = self.request(v1::VoidRoundRequest {
            meta: None,
            round: number,
            reason: v1::VoidReason::Abandoned.into(),
        });
        let reply = self.rounds.clone().void(request).await?.into_inner();
        Ok(Seal {
            round: number,
            seen: reply.round.as_ref().map(round),
            refused: reply.refusal.map(|r| r.code().as_str_name().to_owned()),
            meta: meta(reply.meta),
        })
    }

    /// Submits a proposal.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn submit(&self, call: &Submit, shard: &Shard) -> Result<Submit, Failure> {
        let request = self.request(v1::SubmitRequest {
            round: call.round,
            shard: call.shard,
            executor: call.executor.clone(),
            header: Some((&shard.header).into()),
            body: Some((&shard.body).into()),
            ..Default::default()
        });
        let reply = self.rounds.clone().submit(request).await?.into_inner();
        let won = reply.won;
        let outcome = match reply.outcome {
            Some(submit_response::Outcome::Winner(w)) => Outcome::Winner {
                winner: winner(w),
                won,
            },
            Some(submit_response::Outcome::Conflict(c)) => conflict(c),
            Some(submit_response::Outcome::Refusal(r)) => refused(&r),
            other => {
                return Err(Failure::Unknown(format!(
                    "a reply without outcome: {other:?}"
                )));
            }
        };
        Ok(Submit {
            outcome: Some(outcome),
            meta: meta(reply.meta),
            ..call.clone()
        })
    }

    /// Acquires locks.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn acquire(&self, call: &Acquire, keys: &[LockKey]) -> Result<Acquire, Failure> {
        let request = self.request(v1::AcquireLocksRequest {
            meta: None,
            round: call.round,
            shard: call.shard,
            keys: keys.iter().map(|k| (*k).into()).collect(),
        });
        let reply = self
            .rounds
            .clone()
            .acquire_locks(request)
            .await?
            .into_inner();
        let outcome = match reply.outcome {
            Some(acquire_locks_response::Outcome::Acquired(_)) => Outcome::Acquired,
            Some(acquire_locks_response::Outcome::Conflict(c)) => conflict(c),
            Some(acquire_locks_response::Outcome::Winner(w)) => Outcome::Winner {
                winner: winner(w),
                won: false,
            },
            Some(acquire_locks_response::Outcome::Refusal(r)) => refused(&r),
            None => return Err(Failure::Unknown("a reply without outcome".to_owned())),
        };
        Ok(Acquire {
            outcome: Some(outcome),
            meta: meta(reply.meta),
            ..call.clone()
        })
    }

    /// Seals a round.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn seal(&self, number: u64) -> Result<Seal, Failure> {
        let request = self.request(v1::SealRoundRequest {
            meta: None,
            round: number,
        });
        let reply = self.rounds.clone().seal(request).await?.into_inner();
        Ok(Seal {
            round: number,
            seen: reply.round.as_ref().map(round),
            refused: reply.refusal.map(|r| r.code().as_str_name().to_owned()),
            meta: meta(reply.meta),
        })
    }

    /// Reads a round.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn get(&self, number: u64, linearizable: bool) -> Result<Get, Failure> {
        let request = self.request(v1::GetRoundRequest {
            meta: None,
            round: number,
            linearizable,
        });
        let reply = self.rounds.clone().get(request).await?.into_inner();
        Ok(Get {
            round: number,
            linearizable,
            seen: reply.round.as_ref().map(round),
            meta: meta(reply.meta),
        })
    }

    /// Forgets rounds below a number.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn prune(&self, below: u64) -> Result<Prune, Failure> {
        let request = self.request(v1::PruneRequest {
            meta: None,
            below_round: below,
        });
        let reply = self.cluster.clone().prune(request).await?.into_inner();
        Ok(Prune {
            below,
            pruned_below: Some(reply.pruned_below),
        })
    }
}
