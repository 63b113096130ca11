//! The stream of events, resumed across reconnects and members without a gap or a repeat.

use super::limits::{ATTEMPT_TIMEOUT, WATCH_LAG, WATCH_SILENCE};
use super::rounds::rounds;
use super::transport::{Backoff, StoreClient};
use super::types::{Event, EventId};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status, Streaming};
use troika_proto::v1;

/// Which shards' events to send; events of rounds and blocks always come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardFilter {
    /// Every shard's.
    All,
    /// None.
    None,
    /// First to last index, both included.
    Range(u32, u32),
}

/// Events in order, and how far they lead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WatchBatch {
    /// May be empty: a sign of life and of progress.
    pub events: Vec<Event>,
    /// Everything up to here has been seen or filtered out.
    pub progress: EventId,
}

/// Why a watch cannot go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WatchError {
    /// Events between the resume point and the oldest that is kept are gone: read the state anew and watch from there.
    #[error("the history after revision {after} is no longer kept: {message}", after = after.revision)]
    Gone {
        /// Where the watch stood.
        after: EventId,
        /// The member's words.
        message: String,
    },
    /// A member refuses the watch as it stands.
    #[error("watch refused: {0}")]
    Rejected(String),
}

/// A watch that resumes by itself.
///
/// [`Watch::next`] may be dropped and called again at any time; nothing is lost.
pub struct Watch {
    client: StoreClient,
    filter: ShardFilter,
    /// Resume strictly after it; `None` until a watch "from now on" has been told where now is.
    after: Option<EventId>,
    /// Which member, counted from the client's preferred one.
    turn: usize,
    stream: Option<Streaming<v1::WatchResponse>>,
    backoff: Backoff,
    pause: Option<Duration>,
    /// When the member was last heard of.
    heard: Instant,
    /// A revision known from elsewhere that this member has yet to reach, and since when.
    owed: Option<(u64, Instant)>,
}

impl StoreClient {
    /// Watches events strictly after `after` (`None`: from now on). Connects on the first [`Watch::next`].
    pub fn watch(&self, after: Option<EventId>, filter: ShardFilter) -> Watch {
        Watch {
            client: self.clone(),
            filter,
            after,
            turn: 0,
            stream: None,
            backoff: Backoff::default(),
            pause: None,
            heard: Instant::now(),
            owed: None,
        }
    }
}

impl Watch {
    /// Everything up to here has been answered by [`Self::next`].
    pub fn progress(&self) -> Option<EventId> {
        self.after
    }

    /// The next events. Waits as long as it takes; members that fail, fall silent or lag are left for others.
    ///
    /// # Errors
    /// [`WatchError`] where the watch cannot go on at any member.
    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        loop {
            if let Some(pause) = self.pause {
                sleep(pause).await;
                self.pause = None;
            }
            if self.stream.is_none() && !self.connect().await? {
                continue;
            }
            let Some(stream) = &mut self.stream else {
                continue;
            };
            // Short waits, so that a member that lags is noticed although it gives signs of life.
            match timeout(WATCH_SILENCE.min(WATCH_LAG), stream.message()).await {
                Ok(Ok(Some(reply))) => {
                    if let Some(batch) = self.take(reply) {
                        return Ok(batch);
                    }
                }
                Ok(Ok(None)) => self.leave("the member ended the stream", true),
                Ok(Err(status)) => self.failed(&status)?,
                Err(_) => self.silent(),
            }
        }
    }

    /// Connects at the member whose turn it is; `false` if it failed.
    async fn connect(&mut self) -> Result<bool, WatchError> {
        let (channel, url) = self.client.stream_channel(self.turn);
        tracing::debug!(member = url, after = ?self.after, "watching");
        let (first_shard, last_shard) = match self.filter {
            ShardFilter::Range(first, last) => (first, last),
            ShardFilter::All | ShardFilter::None => (0, 0),
        };
        let request = v1::WatchRequest {
            meta: None,
            after: self.after.map(Into::into),
            first_shard,
            last_shard,
            all_shards: self.filter == ShardFilter::All,
            only_shard_zero: matches!(self.filter, ShardFilter::Range(..)),
        };
        let mut client = rounds(channel);
        match timeout(ATTEMPT_TIMEOUT, client.watch(request)).await {
            Ok(Ok(reply)) => {
                self.stream = Some(reply.into_inner());
                self.heard = Instant::now();
                self.owed = None;
                Ok(true)
            }
            Ok(Err(status)) => self.failed(&status).map(|()| false),
            Err(_) => {
                self.leave("no answer in time", true);
                Ok(false)
            }
        }
    }

    /// Takes a reply over; `None` where it holds nothing new.
    fn take(&mut self, reply: v1::WatchResponse) -> Option<WatchBatch> {
        let mut events = Vec::with_capacity(reply.events.len());
        let mut progress = self.after.unwrap_or_default();
        for event in reply.events {
            match Event::try_from(event) {
                // What was seen before (a member may repeat after a reconnect) is not passed on again.
                Ok(event) if self.after.is_some_and(|after| event.id <= after) => {}
                Ok(event) => {
                    progress = progress.max(event.id);
                    events.push(event);
                }
                Err(problem) => {
                    // Not to be skipped: what another member sends may be sound.
                    tracing::error!(%problem, "a store member sent a malformed event");
                    self.leave("malformed event", true);
                    return None;
                }
            }
        }
        if let Some(id) = reply.progress {
            progress = progress.max(id.into());
        }
        self.backoff.reset();
        self.heard = Instant::now();
        if let Some(meta) = &reply.meta {
            self.client.saw_revision(meta.revision);
        }
        let moved = self.after != Some(progress);
        self.after = Some(progress);
        self.check_lag();
        (moved || !events.is_empty()).then_some(WatchBatch { events, progress })
    }

    fn failed(&mut self, status: &Status) -> Result<(), WatchError> {
        let message = status.message().to_owned();
        match status.code() {
            Code::OutOfRange => Err(WatchError::Gone {
                after: self.after.unwrap_or_default(),
                message,
            }),
            Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied => {
                Err(WatchError::Rejected(message))
            }
            _ => {
                self.leave(&message, true);
                Ok(())
            }
        }
    }

    fn silent(&mut self) {
        if self.heard.elapsed() >= WATCH_SILENCE {
            self.leave("silent", false);
        } else {
            self.check_lag();
        }
    }

    /// Leaves a member that does not reach, in good time, a revision that another one has named.
    fn check_lag(&mut self) {
        let reached = self.after.map_or(u64::MAX, |after| after.revision);
        match self.owed {
            Some((owed, since)) if reached < owed => {
                if since.elapsed() >= WATCH_LAG {
                    self.leave("behind the other members", false);
                }
            }
            _ => {
                let known = self.client.revision();
                self.owed = (reached < known).then(|| (known, Instant::now()));
            }
        }
    }

    /// Goes on at the next member, after a pause where this one failed.
    fn leave(&mut self, why: &str, pause: bool) {
        tracing::debug!(why, "watch goes on at another member");
        self.stream = None;
        self.owed = None;
        self.turn = self.turn.wrapping_add(1);
        self.pause = pause.then(|| self.backoff.next());
    }
}
