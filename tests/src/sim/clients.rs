//! A client: calls the services of members, and asks again until somebody answers.
//!
//! It speaks the messages of the wire and calls the services themselves, so all that a member does for a caller but the
//! transport is simulated: parsing, checks, forwarding, deadlines, answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost::Message;
use tonic::{Code, Request, Response, Status};
use troika_proto::v1;
use troika_store::raft::Handle;
use troika_store::runtime::Runtime;

use super::cluster::Cluster;
use super::durable;
use super::random::Random;
use super::trace::digest;
use super::world::{World, lock};

/// How long a client waits for one answer before it asks somebody else.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// A client.
pub struct Client {
    /// Its name, which is its executor's.
    pub name: Arc<str>,
    /// Where it lives.
    pub world: Arc<World>,
    /// Whom it asks.
    pub cluster: Cluster,
    /// Its randomness.
    pub random: Random,
    /// Makers stop when this is set.
    pub quiet: Arc<AtomicBool>,
}

/// An answer that says where it comes from.
pub trait Answer: Message + std::fmt::Debug {
    /// The head of the answer.
    fn meta(&self) -> v1::ReplyMeta;
}

macro_rules! answers {
    ($($answer:ident)*) => {
        $(impl Answer for v1::$answer {
            fn meta(&self) -> v1::ReplyMeta {
                self.meta.unwrap_or_default()
            }
        })*
    };
}

answers! {
    InitChainResponse OpenRoundResponse SubmitResponse AcquireLocksResponse SealRoundResponse PruneResponse
    HeadResponse GetRoundResponse ShardResponse
}

/// A request that a caller waits for as long as it has patience.
pub fn patient<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

impl Client {
    /// Adds what was heard to the trace.
    pub fn note(&self, what: u64, number: u64, tell: impl FnOnce() -> String) {
        let name = digest(self.name.as_bytes());
        self.world.note(&[6, name, what, number], || {
            format!("{}: {}", self.name, tell())
        });
    }

    /// True when no more blocks are to be made.
    pub fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    /// Waits.
    pub async fn pause(&mut self, low: u64, high: u64) {
        let pause = self.random.millis(low, high);
        Runtime::sleep(pause).await;
    }

    /// A running member.
    pub fn member(&mut self) -> Option<(u64, Handle)> {
        let running = self.cluster.running();
        self.random.pick(&running).cloned()
    }

    /// One call of one member; `None` where there was no answer. What no member may answer is a violation.
    pub async fn call<T, D>(&self, id: u64, call: D) -> Option<Result<T, Status>>
    where
        T: Answer + Send + 'static,
        D: Future<Output = Result<Response<T>, Status>> + Send + 'static,
    {
        let answer = self.cluster.on(id, call).await;
        match answer {
            None => {
                self.note(3, id, || format!("member {id} died under the call"));
                None
            }
            Some(Ok(answer)) => {
                let answer = answer.into_inner();
                self.note(1, digest(&answer.encode_to_vec()), || {
                    format!("member {id} answers {answer:?}")
                });
                Some(Ok(answer))
            }
            Some(Err(status)) => {
                self.note(2, id ^ (status.code() as u64) << 32, || {
                    format!(
                        "member {id} answers {:?}: {}",
                        status.code(),
                        status.message()
                    )
                });
                match status.code() {
                    Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => None,
                    Code::DataLoss if self.cluster.is_rotten(id) => None,
                    Code::InvalidArgument | Code::DataLoss | Code::Internal | Code::Unknown => {
                        self.world.violate(format!("member {id} answers {status}"));
                        None
                    }
                    _ => Some(Err(status)),
                }
            }
        }
    }

    /// Asks until there is an answer, each time somebody else. `None` where the answer is that there is none.
    pub async fn ask<T, D>(&self, random: &mut Random, call: impl Fn(Handle) -> D) -> Option<T>
    where
        T: Answer + Send + 'static,
        D: Future<Output = Result<Response<T>, Status>> + Send + 'static,
    {
        loop {
            let running = self.cluster.running();
            if let Some((id, handle)) = random.pick(&running).cloned()
                && let Some(answer) = self.call(id, call(handle)).await
            {
                let answer = answer.ok()?;
                let meta = answer.meta();
                lock(&self.world.oracle).replied(meta.revision);
                durable::check(&self.world, &self.cluster, &meta);
                return Some(answer);
            }
            let pause = random.millis(10, 200);
            Runtime::sleep(pause).await;
        }
    }
}
