//! Watches: everything that happens, in order, from any point that is still kept.
//!
//! A watcher is a place in the history, nothing more. Whenever its connection can take more, the next events after that
//! place are read from the applied state, a bounded number at a time; so a slow watcher holds nothing back and queues
//! nothing. One that falls behind what is kept is told so, with the oldest revision.

use super::context::Context;
use super::limits::{WATCH_BYTES, WATCH_SILENCE};
use super::room::Share;
use super::status::Fault;
use crate::mutant::{self, Mutant};
use crate::runtime::Runtime;
use crate::state::{EventId, Machine};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::watch::Receiver;
use tonic::Status;
use troika_proto::{Malformed, v1};
use v1::event::Kind;

/// Which shard events a watcher wants. All other events always come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    All,
    None,
    Range(u32, u32),
}

impl Filter {
    fn parse(request: &v1::WatchRequest) -> Result<Self, Malformed> {
        let (first, last) = (request.first_shard, request.last_shard);
        if first > last {
            let problem = format!("is {last}, below first_shard {first}");
            return Err(Malformed::new("last_shard", problem));
        }
        Ok(match (request.all_shards, first, last) {
            (true, ..) => Self::All,
            (false, 0, 0) if !request.only_shard_zero => Self::None,
            (false, first, last) => Self::Range(first, last),
        })
    }

    fn takes(self, event: &v1::Event) -> bool {
        let shard = match &event.kind {
            Some(Kind::ShardAccepted(accepted)) => accepted.shard,
            Some(Kind::LocksAcquired(locks)) => locks.shard,
            _ => return true,
        };
        match self {
            Self::All => true,
            Self::None => false,
            Self::Range(first, last) => (first..=last).contains(&shard),
        }
    }
}

/// A watcher's place in the history.
struct Watcher {
    context: Context,
    filter: Filter,
    after: EventId,
    revisions: Receiver<u64>,
    /// Nothing was said yet: the first message tells the watcher where it stands.
    fresh: bool,
    ended: bool,
    _share: Share,
}

/// Follows the history.
pub(super) fn watch(
    context: Context,
    request: &v1::WatchRequest,
) -> Result<BoxStream<'static, Result<v1::WatchResponse, Status>>, Fault> {
    let filter = Filter::parse(request)?;
    // Subscribed before anything is read: no change between the two can be missed.
    let revisions = context.handle().revisions();
    let after = match &request.after {
        Some(id) => resumed(EventId::from(*id)),
        None => context.read(Machine::newest_event),
    };
    let watcher = Watcher {
        _share: context.room().watchers.take(1)?,
        context,
        filter,
        after,
        revisions,
        fresh: true,
        ended: false,
    };
    let stream = futures::stream::unfold(watcher, |mut watcher| async move {
        let message = watcher.next().await?;
        Some((message.map_err(Status::from), watcher))
    });
    Ok(stream.boxed())
}

/// Where a watch that has seen everything up to `after` goes on: there.
fn resumed(mut after: EventId) -> EventId {
    if mutant::on(Mutant::WatchSkips) {
        after.revision += 1;
    }
    if mutant::on(Mutant::WatchRepeats) {
        after.revision = after.revision.saturating_sub(1);
    }
    after
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<v1::WatchResponse, Fault>> {
        if self.ended {
            return None;
        }
        loop {
            self.revisions.borrow_and_update();
            let page = self.context.read(|m| page(m, self.after, self.filter));
            let page = match page {
                Ok(page) => page,
                Err(fault) => {
                    self.ended = true;
                    return Some(Err(fault));
                }
            };
            let silent = page.events.is_empty() && !std::mem::take(&mut self.fresh);
            self.after = page.progress;
            if !silent {
                return Some(Ok(self.message(page.events)));
            }
            if page.more {
                continue;
            }
            match Runtime::timeout(WATCH_SILENCE, self.revisions.changed()).await {
                Ok(Ok(())) => {}
                // The member ends; the watcher goes on at another.
                Ok(Err(_)) => return None,
                Err(_) => return Some(Ok(self.message(Vec::new()))),
            }
        }
    }

    fn message(&self, events: Vec<v1::Event>) -> v1::WatchResponse {
        let newest = *self.revisions.borrow();
        let lag = newest.saturating_sub(self.after.revision);
        metrics::histogram!("troika_watch_lag_revisions").record(lag as f64);
        v1::WatchResponse {
            meta: self.context.meta(),
            events,
            progress: Some(self.after.into()),
        }
    }
}

/// Some of the events after a place.
struct Page {
    events: Vec<v1::Event>,
    /// Everything up to here is in `events` or was filtered out.
    progress: EventId,
    more: bool,
}

fn page(machine: &Machine, after: EventId, filter: Filter) -> Result<Page, Fault> {
    let found = machine.events_after(after, WATCH_BYTES);
    let mut events = found.map_err(|gone| Fault::Pruned(format!("after: {gone}")))?;
    let last = events.last().and_then(|event| event.id).map(EventId::from);
    events.retain(|event| filter.takes(event));
    let progress = last.unwrap_or_else(|| after.max(machine.oldest_event()));
    Ok(Page {
        events,
        progress,
        more: progress < machine.newest_event(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(first_shard: u32, last_shard: u32, all_shards: bool) -> v1::WatchRequest {
        v1::WatchRequest {
            first_shard,
            last_shard,
            all_shards,
            ..Default::default()
        }
    }

    #[test]
    fn a_filter_takes_its_shards_and_everything_else() {
        let event = |kind| v1::Event {
            id: None,
            kind: Some(kind),
        };
        let shard = |shard| {
            event(Kind::ShardAccepted(v1::ShardAccepted {
                round: 1,
                shard,
                winner: None,
            }))
        };
        let opened = event(Kind::RoundOpened(v1::Round::default()));
        let shard_zero = v1::WatchRequest {
            only_shard_zero: true,
            ..request(0, 0, false)
        };
        let cases = [
            (request(0, 0, true), [true, true]),
            (request(0, 0, false), [false, false]),
            (request(0, 1, false), [true, false]),
            (request(1, 4, false), [false, true]),
            (shard_zero, [true, false]),
        ];
        for (request, takes) in cases {
            let filter = Filter::parse(&request).unwrap();
            assert_eq!([filter.takes(&shard(0)), filter.takes(&shard(2))], takes);
            assert!(filter.takes(&opened));
        }
        let error = Filter::parse(&request(3, 2, false)).unwrap_err();
        assert_eq!(error.field, "last_shard");
    }
}
