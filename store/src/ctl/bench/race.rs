//! The shard race: for every slot, that is every (round, shard), several submissions of different proposals, of which one
//! wins. Rounds are opened as the ones before fill up; with its last shard a round seals itself.
//!
//! A **lane** is one submission at a time; a client has as many lanes as its window. Lanes take submissions from one
//! counter, so the racers of a slot come from different lanes at about the same time.

use super::pool::Pool;
use super::report::{Line, Seen};
use super::{connect, open_round, prepare_chain, rounds_of, seal_round};
use crate::ctl::args::{Format, Global, RaceArgs};
use crate::ctl::client::Client;
use crate::ctl::exit::{CtlError, Outcome};
use crate::ctl::output::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;
use tonic::{Code, Status};
use troika_proto::v1;
use troika_proto::v1::rounds_client::RoundsClient;
use troika_proto::whole::Whole;
use v1::submit_response::Outcome as Answer;

/// How long one submission may take before the benchmark gives up.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause before a submission that met a limit of the store is sent again.
const LIMIT_PAUSE: Duration = Duration::from_millis(1);

/// What all lanes share.
struct Race {
    pool: Pool,
    client: Client,
    shards: u64,
    racers: u64,
    slots: u64,
    prune_behind: u64,
    /// The next submission: slot * racers + racer.
    next: AtomicU64,
    /// Slots whose winner has been heard of.
    decided: AtomicU64,
    /// First eight bytes of the hash that won each slot, 0 while undecided.
    winners: Vec<AtomicU64>,
    /// Submissions that the store turned away at a limit, and that were sent again.
    retries: AtomicU64,
    /// Numbers of the rounds of this race so far; the last one is open.
    rounds: watch::Sender<Vec<u64>>,
}

pub(super) async fn run(global: &Global, args: RaceArgs) -> Result<Outcome, CtlError> {
    let client = Client::new(global)?;
    prepare_chain(&client, args.shards).await?;
    let channels = connect(global, args.clients).await?;
    let warm_up = args
        .warmup
        .unwrap_or_else(|| (args.slots / 10).min(args.shards.into()));
    if warm_up > 0 {
        let mut warm = args.clone();
        warm.slots = warm_up;
        play(&client, &channels, &warm).await?;
    }
    let (line, _) = play(&client, &channels, &args).await?;
    let json = args.json || global.output == Format::Json;
    line.print(&Output::new(if json {
        Format::Json
    } else {
        Format::Table
    }));
    Ok(Outcome::Yes)
}

/// Plays one race to its end and checks it.
async fn play(
    client: &Client,
    channels: &[Channel],
    args: &RaceArgs,
) -> Result<(Line, u64), CtlError> {
    let run = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |since| since.as_micros() as u64);
    let a = args.clone();
    let pool = tokio::task::spawn_blocking(move || {
        Pool::new(run, a.shards, a.slots, a.racers, a.bytes as usize)
    })
    .await
    .map_err(|e| CtlError::Failed(format!("preparing proposals: {e}")))?;
    let race = Arc::new(Race {
        pool,
        client: client.clone(),
        shards: args.shards.into(),
        racers: args.racers.into(),
        slots: args.slots,
        prune_behind: args.prune_behind,
        next: AtomicU64::new(0),
        decided: AtomicU64::new(0),
        winners: (0..args.slots).map(|_| AtomicU64::new(0)).collect(),
        retries: AtomicU64::new(0),
        rounds: watch::Sender::default(),
    });
    let lanes = lanes(channels, args).await?;

    let started = Instant::now();
    let first = open_round(client).await?;
    race.rounds.send_modify(|rounds| rounds.push(first));
    let mut tasks = tokio::task::JoinSet::new();
    for lane in lanes {
        tasks.spawn(run_lane(lane, race.clone()));
    }
    let mut seen = Seen::new();
    while let Some(done) = tasks.join_next().await {
        let one = done.map_err(|e| CtlError::Failed(format!("a lane broke: {e}")))??;
        seen.add(&one);
    }
    let rounds = race.rounds.borrow().clone();
    let last = rounds.last().copied().unwrap_or(first);
    if !race.slots.is_multiple_of(race.shards) {
        seal_round(client, last).await?;
    }
    let seconds = started.elapsed().as_secs_f64();

    if seen.wins() != args.slots {
        return Err(CtlError::Failed(format!(
            "{} winners for {} slots",
            seen.wins(),
            args.slots
        )));
    }
    let line = Line::race(args, &seen, seconds)
        .with("rounds", rounds.len() as u64)
        .with("shards", race.shards)
        .with("retries", race.retries.load(Ordering::Relaxed));
    Ok((line, last))
}

/// One submission at a time: a call of its own, or a place on its client's stream.
enum Lane {
    Call(RoundsClient<Whole<Channel>>),
    Stream {
        id: u64,
        requests: mpsc::Sender<v1::SubmitRequest>,
        answers: mpsc::Receiver<Result<v1::SubmitResponse, Status>>,
    },
}

impl Lane {
    async fn submit(
        &mut self,
        mut request: v1::SubmitRequest,
    ) -> Result<v1::SubmitResponse, Status> {
        match self {
            Self::Call(client) => client
                .submit(request)
                .await
                .map(tonic::Response::into_inner),
            Self::Stream {
                id,
                requests,
                answers,
            } => {
                request.id = *id;
                let ended = || Status::unavailable("the stream ended");
                requests.send(request).await.map_err(|_| ended())?;
                answers.recv().await.ok_or_else(ended)?
            }
        }
    }
}

/// The lanes of all clients; neighbours belong to different clients.
async fn lanes(channels: &[Channel], args: &RaceArgs) -> Result<Vec<Lane>, CtlError> {
    let mut by_client = Vec::with_capacity(channels.len());
    for channel in channels {
        let client = rounds_of(channel);
        by_client.push(if args.stream {
            stream_lanes(client, args.window).await?
        } else {
            (0..args.window)
                .map(|_| Lane::Call(client.clone()))
                .collect()
        });
    }
    let mut lanes = Vec::new();
    for _ in 0..args.window {
        lanes.extend(by_client.iter_mut().filter_map(Vec::pop));
    }
    Ok(lanes)
}

/// Opens one stream, and a task that hands its answers to the lanes that asked.
async fn stream_lanes(
    mut client: RoundsClient<Whole<Channel>>,
    window: u32,
) -> Result<Vec<Lane>, CtlError> {
    let (requests, queue) = mpsc::channel(window as usize);
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(queue);
    let mut incoming = client.submit_stream(outgoing).await?.into_inner();
    let mut lanes = Vec::new();
    let mut lane_answers = Vec::new();
    for id in 0..window {
        let (sender, answers) = mpsc::channel(1);
        lane_answers.push(sender);
        lanes.push(Lane::Stream {
            id: id.into(),
            requests: requests.clone(),
            answers,
        });
    }
    tokio::spawn(async move {
        let failure = loop {
            match incoming.message().await {
                Ok(Some(answer)) => {
                    let Some(lane) = lane_answers.get(answer.id as usize) else {
                        break Status::internal("an answer to a request that was never sent");
                    };
                    let result = answer
                        .response
                        .ok_or_else(|| Status::new(Code::from(answer.code), answer.message));
                    // A lane that is gone has given up already.
                    lane.send(result).await.ok();
                }
                Ok(None) => return,
                Err(status) => break status,
            }
        };
        for lane in lane_answers {
            lane.send(Err(failure.clone())).await.ok();
        }
    });
    Ok(lanes)
}

async fn run_lane(mut lane: Lane, race: Arc<Race>) -> Result<Seen, CtlError> {
    let mut seen = Seen::new();
    let mut rounds = race.rounds.subscribe();
    loop {
        let n = race.next.fetch_add(1, Ordering::Relaxed);
        let (slot, racer) = (n / race.racers, n % race.racers);
        if slot >= race.slots {
            return Ok(seen);
        }
        let index = (slot / race.shards) as usize;
        // Submissions of later rounds wait here; those of this round were all taken before, so the wait ends.
        let opened = rounds.wait_for(|rounds| rounds.len() > index);
        let round = match tokio::time::timeout(SUBMIT_TIMEOUT, opened).await {
            Ok(Ok(rounds)) => rounds[index],
            _ => return Err(CtlError::Deadline("no next round was opened".to_owned())),
        };
        let (won, micros) = race.submit(&mut lane, slot, racer, round).await?;
        seen.record(won, micros);
    }
}

impl Race {
    async fn submit(
        &self,
        lane: &mut Lane,
        slot: u64,
        racer: u64,
        round: u64,
    ) -> Result<(bool, u64), CtlError> {
        let mut request = self.pool.request(slot, racer, round);
        let sent = Instant::now();
        let answer = loop {
            match tokio::time::timeout(SUBMIT_TIMEOUT, lane.submit(request)).await {
                Ok(Ok(answer)) => break answer,
                Ok(Err(status)) if status.code() == Code::ResourceExhausted => {
                    self.retries.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(LIMIT_PAUSE).await;
                    request = self.pool.request(slot, racer, round);
                }
                Ok(Err(status)) => return Err(status.into()),
                Err(_) => return Err(CtlError::Deadline(format!("slot {slot}: no answer"))),
            }
        };
        let micros = sent.elapsed().as_micros() as u64;
        match answer.outcome {
            Some(Answer::Winner(winner)) => self.heard(slot, &winner).await?,
            other => {
                return Err(CtlError::Failed(format!(
                    "slot {slot}, racer {racer}: expected a winner, got {other:?}"
                )));
            }
        }
        Ok((answer.won, micros))
    }

    /// Notes a slot's winner, checks that all racers hear the same one, and opens the next round after the last.
    async fn heard(&self, slot: u64, winner: &v1::Winner) -> Result<(), CtlError> {
        let head = winner.shard_hash.first_chunk::<8>().copied();
        let hash = u64::from_be_bytes(head.unwrap_or_default()).max(1);
        let place = &self.winners[slot as usize];
        match place.compare_exchange(0, hash, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {}
            Err(other) if other == hash => return Ok(()),
            Err(_) => {
                return Err(CtlError::Failed(format!(
                    "slot {slot}: two racers heard of different winners"
                )));
            }
        }
        let decided = self.decided.fetch_add(1, Ordering::AcqRel) + 1;
        if decided.is_multiple_of(self.shards) && decided < self.slots {
            let round = open_round(&self.client).await?;
            self.rounds.send_modify(|rounds| rounds.push(round));
            if self.prune_behind > 0 && round > self.prune_behind {
                self.prune(round - self.prune_behind).await?;
            }
        }
        Ok(())
    }

    async fn prune(&self, below_round: u64) -> Result<(), CtlError> {
        let request = v1::PruneRequest {
            meta: None,
            below_round,
        };
        self.client
            .afresh()
            .call(|a| {
                let request = a.request(request.clone());
                async move { a.cluster().prune(request).await }
            })
            .await
            .map(|_| ())
    }
}
