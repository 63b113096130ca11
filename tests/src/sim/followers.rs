//! Followers of the events: they watch a member, break off, and resume there or elsewhere.

use std::time::Duration;

use futures::StreamExt;
use tonic::{Code, Status};
use troika_proto::v1;
use troika_store::runtime::Runtime;
use troika_store::service::{self, Watched};
use troika_store::state::EventId;
use v1::rounds_server::Rounds as _;

use super::clients::{Client, patient};
use super::world::lock;

/// How long a follower listens before it thinks again of leaving.
const LISTEN: Duration = Duration::from_millis(700);

impl Client {
    /// Follows the events for ever.
    pub async fn follow(mut self) {
        // From the beginning.
        let mut after = EventId::default();
        loop {
            let Some((id, member)) = self.member() else {
                self.pause(50, 300).await;
                continue;
            };
            let request = v1::WatchRequest {
                after: Some(after.into()),
                all_shards: true,
                ..Default::default()
            };
            let oldest = member.clone();
            let call = async move { service::rounds(member).watch(patient(request)).await };
            match self.cluster.on(id, call).await {
                Some(Ok(stream)) => {
                    let end = self.listen(id, stream.into_inner(), &mut after).await;
                    if let Some(status) = end
                        && status.code() == Code::OutOfRange
                    {
                        after = oldest.read(|machine| machine.oldest_event());
                        self.note(6, after.revision, || {
                            format!("events up to {after:?} are gone at member {id}")
                        });
                    }
                }
                _ => self.pause(20, 200).await,
            }
        }
    }

    /// Listens until the stream ends, or the follower leaves.
    async fn listen(&mut self, id: u64, stream: Watched, after: &mut EventId) -> Option<Status> {
        let mut stream = Some(stream);
        let who = format!("member {id}");
        while let Some(mut watched) = stream.take() {
            let call = async move {
                let next = Runtime::timeout(LISTEN, watched.next()).await;
                (watched, next)
            };
            let (watched, next) = self.cluster.on(id, call).await?;
            match next {
                Ok(None) => return None,
                Ok(Some(Err(status))) => return Some(status),
                Ok(Some(Ok(message))) => {
                    self.heard(&who, &message, after);
                }
                Err(_) => {}
            }
            if !self.random.chance(80_000) {
                stream = Some(watched);
            }
        }
        None
    }

    fn heard(&self, who: &str, message: &v1::WatchResponse, after: &mut EventId) {
        for event in &message.events {
            let place = (*after != EventId::default()).then_some(*after);
            let seen = lock(&self.world.oracle).event(who, place, event);
            match seen {
                Ok(place) => *after = place,
                Err(what) => return self.world.violate(what),
            }
        }
        let progress = message.progress.map(EventId::from).unwrap_or_default();
        if progress < *after {
            let what = format!("{who} tells of {after:?}, and then of progress up to {progress:?}");
            self.world.violate(what);
        }
        // Without a filter nothing lies between the last event and the progress but, for one that has just begun, what was
        // forgotten.
        if *after != EventId::default() {
            let seen = lock(&self.world.oracle).progressed(who, *after, progress);
            if let Err(what) = seen {
                return self.world.violate(what);
            }
        }
        *after = (*after).max(progress);
        self.note(7, after.revision, || {
            format!("follows {who} up to {after:?}")
        });
    }
}
