//! The calls of `troika.v1.Rounds`.

use super::{FakeStore, bytes_hash};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use troika_proto::wire::hash_bytes;
use troika_proto::{Shard, ShardBody, ShardHeader, v1};

#[tonic::async_trait]
impl v1::rounds_server::Rounds for FakeStore {
    async fn open(
        &self,
        request: Request<v1::OpenRoundRequest>,
    ) -> Result<Response<v1::OpenRoundResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.up()?;
        let head = state.head;
        if !request.parent.is_empty() && bytes_hash(&request.parent) != head {
            let refusal = Some(refusal(v1::RefusalCode::WrongParent));
            return Ok(Response::new(v1::OpenRoundResponse {
                meta: state.meta(),
                refusal,
                ..Default::default()
            }));
        }
        let (number, opened) = match state.open_round() {
            Some(number) => (number, false),
            None => {
                let number = state.open(&request.opener, request.clock_ms);
                state.reserve(number, &request.reservations)?;
                (number, true)
            }
        };
        let reply = v1::OpenRoundResponse {
            meta: state.meta(),
            round: state.wire_round(number),
            opened,
            refusal: None,
        };
        drop(state);
        self.announce();
        Ok(Response::new(reply))
    }

    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        use v1::submit_response::Outcome;
        let request = request.into_inner();
        if self.frozen.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
        let mut state = self.up()?;
        let rule = state.genesis.config.lock_rule;
        let header = ShardHeader::try_from(&request.header.unwrap_or_default())
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let body = ShardBody::try_from(&request.body.unwrap_or_default())
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let shard = Shard::check(header, body, rule)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let hash = hash_bytes(shard.hash);
        let count = shard.body.transactions.len();
        let (number, index) = (request.round, request.shard);
        let (outcome, accepted) = match state.rounds.get(&number) {
            None => (
                Outcome::Refusal(refusal(v1::RefusalCode::UnknownRound)),
                false,
            ),
            Some(round) => {
                let held: Vec<_> = shard
                    .body
                    .diff
                    .lock_keys(rule)
                    .into_iter()
                    .filter_map(|key| Some((key, *round.locks.get(&key)?)))
                    .filter(|(_, (holder, _))| *holder != index)
                    .map(|(key, (shard, revision))| v1::LockHolder {
                        key: Some(key.into()),
                        shard,
                        revision,
                    })
                    .collect();
                match round.winners.get(&index) {
                    Some(winner) => (Outcome::Winner(winner.clone()), false),
                    None if round.block.is_some() => (
                        Outcome::Refusal(refusal(v1::RefusalCode::RoundClosed)),
                        false,
                    ),
                    None if !held.is_empty() => (Outcome::Conflict(v1::Conflict { held }), false),
                    None => {
                        let mut kinds = state.accept(number, index, &request.executor, shard);
                        kinds.extend(state.seal_if_complete(number));
                        state.happened(kinds);
                        let winner = state.rounds[&number].winners[&index].clone();
                        (Outcome::Winner(winner), true)
                    }
                }
            }
        };
        let executor = request.executor;
        let won = matches!(&outcome, Outcome::Winner(w) if w.executor == executor && w.shard_hash == hash);
        state
            .submissions
            .push((number, index, executor, count, accepted));
        let reply = v1::SubmitResponse {
            meta: state.meta(),
            outcome: Some(outcome),
            won,
        };
        drop(state);
        self.announce();
        Ok(Response::new(reply))
    }

    type SubmitStreamStream = ReceiverStream<Result<v1::SubmitStreamResponse, Status>>;

    async fn submit_stream(
        &self,
        _request: Request<Streaming<v1::SubmitRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn acquire_locks(
        &self,
        _request: Request<v1::AcquireLocksRequest>,
    ) -> Result<Response<v1::AcquireLocksResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn get(
        &self,
        request: Request<v1::GetRoundRequest>,
    ) -> Result<Response<v1::GetRoundResponse>, Status> {
        let state = self.up()?;
        let round = state.wire_round(request.into_inner().round);
        let round = round.ok_or_else(|| Status::not_found("no such round"))?;
        Ok(Response::new(v1::GetRoundResponse {
            meta: state.meta(),
            round: Some(round),
        }))
    }

    async fn list(
        &self,
        request: Request<v1::ListRoundsRequest>,
    ) -> Result<Response<v1::ListRoundsResponse>, Status> {
        let state = self.up()?;
        let request = request.into_inner();
        let open = |number: &u64| !request.open_only || state.rounds[number].block.is_none();
        let rounds = state
            .rounds
            .range(request.from..)
            .map(|(number, _)| *number);
        let rounds = rounds.filter(open).filter_map(|n| state.wire_round(n));
        Ok(Response::new(v1::ListRoundsResponse {
            meta: state.meta(),
            rounds: rounds.collect(),
        }))
    }

    async fn list_locks(
        &self,
        request: Request<v1::ListLocksRequest>,
    ) -> Result<Response<v1::ListLocksResponse>, Status> {
        let state = self.up()?;
        let round = state.rounds.get(&request.into_inner().round);
        let round = round.ok_or_else(|| Status::not_found("no such round"))?;
        let locks: BTreeMap<_, _> = round.locks.iter().collect();
        let locks = locks
            .into_iter()
            .map(|(key, (shard, revision))| v1::LockHolder {
                key: Some((*key).into()),
                shard: *shard,
                revision: *revision,
            });
        Ok(Response::new(v1::ListLocksResponse {
            meta: state.meta(),
            locks: locks.collect(),
            more: false,
        }))
    }

    async fn seal(
        &self,
        request: Request<v1::SealRoundRequest>,
    ) -> Result<Response<v1::SealRoundResponse>, Status> {
        let number = request.into_inner().round;
        let mut state = self.up()?;
        let seal_after = Duration::from_millis(state.genesis.config.seal_after_ms);
        let shards = state.genesis.config.shards;
        let round = &state.rounds[&number];
        if round.block.is_none() {
            if round.opened.elapsed() < seal_after {
                return Ok(Response::new(v1::SealRoundResponse {
                    meta: state.meta(),
                    round: None,
                    refusal: Some(refusal(v1::RefusalCode::TooEarly)),
                }));
            }
            let mut kinds = Vec::new();
            for index in 0..shards {
                if !state.rounds[&number].winners.contains_key(&index) {
                    kinds.extend(state.accept(number, index, "", Shard::empty(index)));
                }
            }
            kinds.extend(state.seal_if_complete(number));
            state.happened(kinds);
        }
        let reply = v1::SealRoundResponse {
            meta: state.meta(),
            round: state.wire_round(number),
            refusal: None,
        };
        drop(state);
        self.announce();
        Ok(Response::new(reply))
    }

    async fn void(
        &self,
        _request: Request<v1::VoidRoundRequest>,
    ) -> Result<Response<v1::VoidRoundResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn report_dissent(
        &self,
        request: Request<v1::ReportDissentRequest>,
    ) -> Result<Response<v1::ReportDissentResponse>, Status> {
        use v1::report_dissent_response::Outcome;
        let request = request.into_inner();
        let mut state = self.up()?;
        let place = (request.round, request.shard);
        state.dissent.push((place, request.executor));
        Ok(Response::new(v1::ReportDissentResponse {
            meta: state.meta(),
            outcome: Some(Outcome::Noted(true)),
        }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        drop(self.up()?);
        let (sender, receiver) = mpsc::channel(4);
        let store = self.clone();
        let wanted = move |event: &v1::Event| match &event.kind {
            Some(v1::event::Kind::ShardAccepted(accepted)) => {
                let range = request.first_shard..=request.last_shard;
                let none = range == (0..=0) && !request.only_shard_zero;
                request.all_shards || (!none && range.contains(&accepted.shard))
            }
            _ => true,
        };
        tokio::spawn(async move {
            let mut changes = store.version.subscribe();
            let mut after = match request.after {
                Some(after) => (after.revision, after.ordinal),
                None => (store.state().revision, u32::MAX),
            };
            loop {
                changes.borrow_and_update();
                let reply = {
                    let state = store.state();
                    let id = |e: &v1::Event| e.id.map(|id| (id.revision, id.ordinal));
                    let events = state.events.iter().filter(|e| id(e) > Some(after));
                    let events: Vec<_> = events.filter(|e| wanted(e)).cloned().collect();
                    after = after.max((state.revision, u32::MAX));
                    v1::WatchResponse {
                        meta: state.meta(),
                        events,
                        progress: Some(v1::EventId {
                            revision: after.0,
                            ordinal: after.1,
                        }),
                    }
                };
                // A store that is down cuts its streams.
                let cut = store.down.load(Ordering::Acquire);
                if cut || sender.send(Ok(reply)).await.is_err() {
                    return;
                }
                let _ = tokio::time::timeout(Duration::from_secs(1), changes.changed()).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn refusal(code: v1::RefusalCode) -> v1::Refusal {
    v1::Refusal {
        code: code.into(),
        message: "fake".to_owned(),
    }
}
