//! Connections to the members, and the one way in which calls are made: deadline, failover, back-off.

use super::limits::{
    ATTEMPT_TIMEOUT, BACKOFF_MAX, BACKOFF_MIN, CALL_DEADLINE, CONNECT_TIMEOUT,
    CONNECTION_WINDOW_BYTES, EXHAUSTED_RETRIES, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT,
    STREAM_WINDOW_BYTES,
};
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};
use troika_proto::{Malformed, v1};

/// How to reach the store.
#[derive(Clone, Debug)]
pub struct Options {
    /// One URL a member, for instance `http://127.0.0.1:7101`. A missing scheme means `http` (`https` with TLS).
    pub endpoints: Vec<String>,
    /// Longest that a call takes, its retries included.
    pub deadline: Duration,
    /// Longest that one attempt at one member takes.
    pub attempt_timeout: Duration,
    /// Set for TLS; with an identity in it for mutual TLS.
    pub tls: Option<ClientTlsConfig>,
}

impl Options {
    /// These members, over plain text, with the usual deadlines.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            deadline: CALL_DEADLINE,
            attempt_timeout: ATTEMPT_TIMEOUT,
            tls: None,
        }
    }
}

/// Why a call got no answer that can be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The options cannot work.
    #[error("store endpoints: {0}")]
    Options(String),
    /// No member answered before the deadline. What was asked for may or may not have happened.
    #[error(
        "{call}: no store member answered within {waited_ms} ms ({attempts} attempts; last: {last})"
    )]
    Unavailable {
        /// The call.
        call: &'static str,
        /// Milliseconds.
        waited_ms: u64,
        /// How often it was tried.
        attempts: u32,
        /// What went wrong last.
        last: String,
    },
    /// What was asked for is older than what is kept.
    #[error("{call}: no longer kept: {message}")]
    Pruned {
        /// The call.
        call: &'static str,
        /// The member's words.
        message: String,
    },
    /// A member refused the call as it stands; asking again does not help.
    #[error("{call}: {code:?}: {message}")]
    Rejected {
        /// The call.
        call: &'static str,
        /// gRPC's code.
        code: Code,
        /// The member's words.
        message: String,
    },
    /// The chain has not been started.
    #[error("the store has no chain yet: it must be started with a genesis first")]
    NoChain,
    /// A member's reply is not what the protocol says.
    #[error("reply of the store: {0}")]
    Malformed(#[from] Malformed),
}

/// One member.
struct Member {
    url: String,
    /// For calls.
    calls: Channel,
    /// For watches, so that a large shard on its way never delays an event.
    streams: Channel,
}

struct Inner {
    members: Vec<Member>,
    /// Index of the member that answered last.
    preferred: AtomicUsize,
    /// Newest revision that any reply has named.
    revision: AtomicU64,
    options: Options,
}

/// The typed client. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct StoreClient {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for StoreClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreClient")
            .field("endpoints", &self.inner.options.endpoints)
            .finish_non_exhaustive()
    }
}

impl StoreClient {
    /// A client for these members. Connections come up with the first call; must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Options`] where there is no endpoint or one is not a URL.
    pub fn new(options: Options) -> Result<Self, StoreError> {
        if options.endpoints.is_empty() {
            return Err(StoreError::Options("at least one is needed".to_owned()));
        }
        let members = options.endpoints.iter().map(|url| member(url, &options));
        let members = members.collect::<Result<Vec<_>, _>>()?;
        // Clients start at different members, so that three executors do not all lean on the first.
        let start = random_below(members.len() as u64) as usize;
        Ok(Self {
            inner: Arc::new(Inner {
                members,
                preferred: AtomicUsize::new(start),
                revision: AtomicU64::new(0),
                options,
            }),
        })
    }

    /// Newest revision that any reply or event has named.
    pub fn revision(&self) -> u64 {
        self.inner.revision.load(Ordering::Acquire)
    }

    /// Asks members from now on not to answer reads from a state older than `revision`.
    pub fn saw_revision(&self, revision: u64) {
        self.inner.revision.fetch_max(revision, Ordering::AcqRel);
    }

    /// The endpoints, as given.
    pub fn endpoints(&self) -> &[String] {
        &self.inner.options.endpoints
    }

    /// Meta of a request that any state may answer.
    pub(super) fn any_state(&self) -> Option<v1::RequestMeta> {
        Some(v1::RequestMeta::default())
    }

    /// Meta of a read: not older than what this client has seen.
    pub(super) fn monotonic(&self) -> Option<v1::RequestMeta> {
        Some(v1::RequestMeta {
            min_revision: self.revision(),
            ..v1::RequestMeta::default()
        })
    }

    /// The streams channel of the `n`th member from the preferred one on, and its URL.
    pub(super) fn stream_channel(&self, n: usize) -> (Channel, &str) {
        let inner = &self.inner;
        let index = (inner.preferred.load(Ordering::Relaxed) + n) % inner.members.len();
        let member = &inner.members[index];
        (member.streams.clone(), &member.url)
    }

    pub(super) fn member_channels(&self) -> impl Iterator<Item = (&str, Channel)> {
        let members = self.inner.members.iter();
        members.map(|member| (member.url.as_str(), member.calls.clone()))
    }

    /// Makes a call that is safe to repeat, until an answer or the deadline.
    pub(super) async fn call<R, Fut>(
        &self,
        call: &'static str,
        attempt: impl Fn(Channel) -> Fut,
    ) -> Result<R, StoreError>
    where
        R: Reply,
        Fut: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        let inner = &self.inner;
        let started = Instant::now();
        let deadline = started + inner.options.deadline;
        let first = inner.preferred.load(Ordering::Relaxed);
        let mut pause = Backoff::default();
        let mut exhausted = 0;
        let mut attempts = 0;
        loop {
            let index = (first + attempts as usize) % inner.members.len();
            let member = &inner.members[index];
            let until = deadline.min(Instant::now() + inner.options.attempt_timeout);
            let status = match timeout_at(until, attempt(member.calls.clone())).await {
                Ok(Ok(reply)) => {
                    let reply = reply.into_inner();
                    if let Some(meta) = reply.meta() {
                        self.saw_revision(meta.revision);
                    }
                    inner.preferred.store(index, Ordering::Relaxed);
                    return Ok(reply);
                }
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            attempts += 1;
            exhausted += u32::from(status.code() == Code::ResourceExhausted);
            if !worth_repeating(status.code()) || exhausted > EXHAUSTED_RETRIES {
                return Err(final_error(call, &status));
            }
            tracing::debug!(call, member = %member.url, %status, "attempt failed");
            // The other members are asked at once; only a whole turn without an answer is paused after.
            let paused = (attempts as usize).is_multiple_of(inner.members.len());
            let wait = if paused { pause.next() } else { Duration::ZERO };
            if Instant::now() + wait >= deadline {
                return Err(StoreError::Unavailable {
                    call,
                    waited_ms: started.elapsed().as_millis() as u64,
                    attempts,
                    last: format!("{}: {}", member.url, status.message()),
                });
            }
            sleep(wait).await;
        }
    }
}

fn member(url: &str, options: &Options) -> Result<Member, StoreError> {
    let scheme = if options.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let url = if url.contains("://") {
        url.to_owned()
    } else {
        format!("{scheme}://{url}")
    };
    let endpoint = Endpoint::from_shared(url.clone())
        .map_err(|e| StoreError::Options(format!("{url:?} is not a URL: {e}")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let endpoint = match &options.tls {
        Some(tls) => endpoint
            .tls_config(tls.clone())
            .map_err(|e| StoreError::Options(format!("TLS of {url}: {e}")))?,
        None => endpoint,
    };
    Ok(Member {
        calls: endpoint.connect_lazy(),
        streams: endpoint.connect_lazy(),
        url,
    })
}

/// Another member, or the same one later, may do better. Everything in here is safe to repeat.
fn worth_repeating(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::DataLoss
            | Code::ResourceExhausted
    )
}

fn final_error(call: &'static str, status: &Status) -> StoreError {
    let message = status.message().to_owned();
    match status.code() {
        Code::OutOfRange => StoreError::Pruned { call, message },
        code => StoreError::Rejected {
            call,
            code,
            message,
        },
    }
}

/// `None` where the member says that there is no such thing.
pub(super) fn found<R>(result: Result<R, StoreError>) -> Result<Option<R>, StoreError> {
    match result {
        Ok(reply) => Ok(Some(reply)),
        Err(StoreError::Rejected {
            code: Code::NotFound,
            ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Pauses that double from [`BACKOFF_MIN`] to [`BACKOFF_MAX`], with jitter.
#[derive(Debug)]
pub(super) struct Backoff {
    whole: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { whole: BACKOFF_MIN }
    }
}

impl Backoff {
    pub(super) fn next(&mut self) -> Duration {
        let half = self.whole / 2;
        let jitter = Duration::from_micros(random_below(half.as_micros() as u64 + 1));
        self.whole = (self.whole * 2).min(BACKOFF_MAX);
        half + jitter
    }

    pub(super) fn reset(&mut self) {
        self.whole = BACKOFF_MIN;
    }
}

/// A number below `bound` (0 where that is 0), good enough for jitter: std's hasher is keyed at random.
pub(crate) fn random_below(bound: u64) -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(bound);
    hasher.finish() % bound.max(1)
}

/// A reply that says where and when it was answered.
pub(super) trait Reply {
    fn meta(&self) -> Option<&v1::ReplyMeta>;
}

macro_rules! replies {
    ($($reply:ident)*) => {$(
        impl Reply for v1::$reply {
            fn meta(&self) -> Option<&v1::ReplyMeta> {
                self.meta.as_ref()
            }
        }
    )*};
}

replies! {
    OpenRoundResponse SubmitResponse AcquireLocksResponse GetRoundResponse ListRoundsResponse ListLocksResponse
    SealRoundResponse VoidRoundResponse HeadResponse BlockResponse ShardResponse ReadResponse BlockDiffResponse
    FindTransactionResponse ReportDissentResponse InitChainResponse StatusResponse MembersResponse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..12).map(|_| backoff.next()).collect();
        assert!(pauses[0] >= BACKOFF_MIN / 2 && pauses[0] <= BACKOFF_MIN);
        assert!(pauses.iter().all(|p| *p <= BACKOFF_MAX));
        assert!(pauses[11] >= BACKOFF_MAX / 2);
        backoff.reset();
        assert!(backoff.next() <= BACKOFF_MIN);
    }

    #[tokio::test]
    async fn endpoints_that_cannot_work_are_refused() {
        assert!(matches!(
            StoreClient::new(Options::new(Vec::<String>::new())),
            Err(StoreError::Options(_))
        ));
        assert!(matches!(
            StoreClient::new(Options::new(["http://[broken"])),
            Err(StoreError::Options(_))
        ));
        assert!(StoreClient::new(Options::new(["127.0.0.1:1"])).is_ok());
    }

    #[tokio::test]
    async fn a_call_ends_at_its_deadline() {
        let mut options = Options::new(["127.0.0.1:1", "127.0.0.1:2"]);
        options.deadline = Duration::from_millis(200);
        let client = StoreClient::new(options).unwrap();
        let started = Instant::now();
        let error = client.head().await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { attempts, .. } if attempts >= 2));
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}
