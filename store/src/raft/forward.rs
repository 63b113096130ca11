//! Commands on their way to the leader, and those that come to this member while it leads.
//!
//! One stream a leader, many commands a message, answers in any order. When the stream breaks, the leader changes, or
//! nothing is answered for [`FORWARD_STALL`], what is unanswered is offered again to whoever leads then: every command
//! but one may be logged twice (see [`Pending::is_idempotent`]).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use troika_proto::member::v1 as wire;

use super::config::{FORWARD_MESSAGES, FORWARD_STALL};
use super::core::{Core, Leadership};
use super::dispatch::{batch_of, offer_again};
use super::error::ProposeError;
use super::network::{Envelope, Kind, Lane, MemberId};
use super::peers::{CallError, Peer, open};
use super::pending::{Caller, Collector, Outcome, Pending, Proposed, Work, lock};
use super::wire::decode;
use crate::runtime::Runtime;
use crate::state::{Answer, Batch, Submission};

/// What was sent and is not answered. `None` once the connection is closed.
type Unanswered = Mutex<Option<BTreeMap<u64, Pending>>>;

/// The stream to one leader.
pub struct Connection {
    link: Arc<Sending>,
}

struct Sending {
    core: Arc<Core>,
    peer: Peer,
    unanswered: Unanswered,
    next_id: Mutex<u64>,
    messages: mpsc::Sender<Envelope>,
    closed: watch::Sender<bool>,
    has_served: AtomicBool,
}

/// The right to send one message.
pub struct Slot<'a> {
    sending: &'a Sending,
    permit: mpsc::Permit<'a, Envelope>,
}

impl Connection {
    /// Starts a stream to the leader. `again`: the one before broke before anything was answered, which has been said.
    pub fn open(core: Arc<Core>, peer: Peer, again: bool) -> Self {
        let (messages, outgoing) = mpsc::channel(FORWARD_MESSAGES);
        let link = Arc::new(Sending {
            core,
            peer,
            unanswered: Mutex::new(Some(BTreeMap::new())),
            next_id: Mutex::new(0),
            messages,
            closed: watch::Sender::new(false),
            has_served: AtomicBool::new(false),
        });
        Runtime::spawn(read_answers(link.clone(), outgoing, again));
        Self { link }
    }

    /// True if this is an open stream to that member.
    pub fn leads_to(&self, peer: &Peer) -> bool {
        self.link.peer.id == peer.id
            && self.link.peer.incarnation == peer.incarnation
            && !*self.link.closed.borrow()
    }

    /// Whom it leads to.
    pub fn leader(&self) -> MemberId {
        self.link.peer.id
    }

    /// True once anything was answered.
    pub fn has_served(&self) -> bool {
        self.link.has_served.load(Ordering::Relaxed)
    }

    /// Waits until a message may be sent; `None` if the stream is closed.
    pub async fn slot(&self) -> Option<Slot<'_>> {
        let mut closed = self.link.closed.subscribe();
        let permit = tokio::select! {
            biased;
            () = until_closed(&mut closed) => return None,
            permit = self.link.messages.reserve() => permit.ok()?,
        };
        Some(Slot {
            sending: &self.link,
            permit,
        })
    }

    /// Gives the stream up.
    pub fn close(self) {
        self.link.close();
    }
}

impl Slot<'_> {
    /// Sends commands.
    pub fn send(self, commands: Vec<Pending>) {
        if commands.is_empty() {
            return;
        }
        let now = Runtime::now();
        let mut forwarded = Vec::with_capacity(commands.len());
        let mut batch = Vec::with_capacity(commands.len());
        let mut unanswered = lock(&self.sending.unanswered);
        let Some(table) = unanswered.as_mut() else {
            drop(unanswered);
            return offer_again(&self.sending.core, commands);
        };
        let mut next_id = lock(&self.sending.next_id);
        for mut pending in commands {
            *next_id += 1;
            let patience = pending.deadline.saturating_duration_since(now);
            let submission = match &pending.work {
                Work::Command(command) => {
                    batch.push(command.clone());
                    None
                }
                Work::Submission(submission) => Some(wire::ForwardedSubmission {
                    round: submission.round(),
                    shard: submission.shard(),
                    request: submission.encode(),
                }),
            };
            forwarded.push(wire::Forwarded {
                id: *next_id,
                patience_ms: patience.as_millis().min(u128::from(u32::MAX)) as u32,
                submission,
            });
            pending.offer();
            table.insert(*next_id, pending);
        }
        drop((next_id, unanswered));
        let request = wire::ForwardRequest {
            forwarded,
            batch: batch_of(batch).encode(),
        };
        let payload = request.encode_to_vec().into();
        self.permit.send(self.sending.core.peers.envelope(
            &self.sending.peer,
            Kind::Forward,
            payload,
        ));
    }
}

impl Sending {
    /// Gives the stream up: what is unanswered is offered again.
    fn close(&self) {
        self.closed.send_replace(true);
        let unanswered = lock(&self.unanswered).take();
        let unanswered: Vec<_> = unanswered
            .into_iter()
            .flat_map(BTreeMap::into_values)
            .collect();
        if !unanswered.is_empty() {
            tracing::debug!(
                leader = self.peer.id,
                commands = unanswered.len(),
                "unanswered commands are offered again"
            );
            offer_again(&self.core, unanswered);
        }
    }

    fn waits(&self) -> bool {
        lock(&self.unanswered)
            .as_ref()
            .is_some_and(|table| !table.is_empty())
    }

    fn answered(&self, payload: Bytes) -> Result<(), CallError> {
        let nonsense = |reason: String| super::peers::nonsense(&self.peer, reason);
        self.has_served.store(true, Ordering::Relaxed);
        let reply: wire::ForwardReply =
            decode(payload).map_err(|error| nonsense(error.to_string()))?;
        let answers =
            Answer::decode_all(reply.answers).map_err(|error| nonsense(error.to_string()))?;
        let good = reply.outcomes.iter().filter(|o| o.fault.is_none()).count();
        if good != answers.len() {
            // Before anything is taken from the table: what is unanswered is offered again when the stream is closed.
            return Err(nonsense(format!(
                "{} answers to {good} decisions",
                answers.len()
            )));
        }
        let mut answers = answers.into_iter();
        let now = Runtime::now();
        let mut again = Vec::new();
        for outcome in reply.outcomes {
            let answer = outcome.fault.is_none().then(|| answers.next()).flatten();
            let pending = lock(&self.unanswered)
                .as_mut()
                .and_then(|table| table.remove(&outcome.id));
            let Some(pending) = pending else {
                continue;
            };
            match (outcome.fault, answer) {
                (None, None) => again.push(pending),
                (None, Some(answer)) => {
                    let proposed = Proposed {
                        answer,
                        log_index: outcome.log_index,
                        term: outcome.term,
                    };
                    self.core.waiting.complete(pending, Ok(proposed), now);
                }
                (Some(fault), _) => match error_of(&fault) {
                    Some(error) => self.core.waiting.complete(pending, Err(error), now),
                    None => {
                        if fault.code() != wire::forward_fault::Code::UnknownOutcome {
                            pending.take_offer_back();
                        }
                        again.push(pending);
                    }
                },
            }
        }
        if !again.is_empty() {
            offer_again(&self.core, again);
            // It does not lead any more: start again with whoever does.
            self.close();
        }
        Ok(())
    }
}

/// The error that a fault ends with; `None` if the command may be offered again.
fn error_of(fault: &wire::ForwardFault) -> Option<ProposeError> {
    use wire::forward_fault::Code;
    match fault.code() {
        Code::NotLeader | Code::UnknownOutcome | Code::Unspecified => None,
        Code::Overloaded => Some(ProposeError::Overloaded {
            limit: "QUEUE_BYTES of the leader",
            value: fault.value,
            unit: "bytes",
        }),
        Code::NoSpace => Some(ProposeError::NoSpace(fault.message.clone())),
        Code::Malformed => Some(ProposeError::Invalid(fault.message.clone())),
        Code::Deadline => Some(ProposeError::Deadline),
    }
}

async fn until_closed(closed: &mut watch::Receiver<bool>) {
    // An error says that the sender has gone, which is as closed as can be.
    let _ = closed.wait_for(|closed| *closed).await;
}

async fn read_answers(sending: Arc<Sending>, outgoing: mpsc::Receiver<Envelope>, again: bool) {
    let mut closed = sending.closed.subscribe();
    tokio::select! {
        biased;
        () = until_closed(&mut closed) => {}
        result = read_all(&sending, outgoing) => {
            if let Err(error) = result {
                match again {
                    true => tracing::debug!(leader = sending.peer.id, %error, "the leader is still away"),
                    false => tracing::info!(leader = sending.peer.id, %error, "the stream to the leader broke"),
                }
                // Not at once: the leader may be on its way back or out.
                Runtime::sleep(super::config::RETRY_PAUSE).await;
            }
        }
    }
    sending.close();
}

async fn read_all(sending: &Sending, outgoing: mpsc::Receiver<Envelope>) -> Result<(), CallError> {
    let outgoing = ReceiverStream::new(outgoing).boxed();
    let opening = sending
        .core
        .peers
        .stream(&sending.peer, Lane::Forward, outgoing);
    let stalled = || {
        CallError::Network(super::network::NetworkError::Timeout {
            address: sending.peer.address.clone(),
            timeout: FORWARD_STALL,
        })
    };
    let mut incoming = Runtime::timeout(FORWARD_STALL, opening)
        .await
        .map_err(|_| stalled())??;
    loop {
        let waits = sending.waits();
        match Runtime::timeout(FORWARD_STALL, incoming.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(answer)) => {
                sending.answered(open(&sending.peer, Kind::Forward, answer?)?)?;
            }
            Err(_) if waits && sending.waits() => return Err(stalled()),
            Err(_) => {}
        }
    }
}

/// Commands that another member forwards to this one, and their outcomes.
pub fn serve(
    core: Arc<Core>,
    mut requests: BoxStream<'static, Envelope>,
    first: Envelope,
) -> BoxStream<'static, Envelope> {
    let collector = Arc::new(Collector::default());
    let (head, from) = (first.clone(), collector.clone());
    let reader = core.clone();
    let ended = Arc::new(Semaphore::new(0));
    let end = ended.clone();
    Runtime::spawn(async move {
        let mut next = Some(first);
        while let Some(request) = next {
            if let Err(error) = accept(&reader, &from, request.payload) {
                tracing::warn!(member = request.from, %error, "forwarded commands cannot be read");
                break;
            }
            next = requests.next().await;
        }
        from.abandon();
        end.close();
    });
    let answers = futures::stream::unfold((core, collector, head, ended), |state| async move {
        let (core, collector, head, ended) = state;
        let outcomes = tokio::select! {
            biased;
            outcomes = collector.take() => outcomes,
            _ = ended.acquire() => return None,
            _ = core.until_end() => return None,
        };
        let reply = reply_to(&core, outcomes);
        let answer = core.peers.identity().answer(&head, Kind::Forward, &reply);
        Some((answer, (core, collector, head, ended)))
    });
    answers.boxed()
}

/// Queues what a message holds.
fn accept(core: &Arc<Core>, collector: &Arc<Collector>, payload: Bytes) -> Result<(), String> {
    let request: wire::ForwardRequest = decode(payload).map_err(|error| error.to_string())?;
    let now = Runtime::now();
    if !core.leads() {
        for forwarded in request.forwarded {
            collector.put(forwarded.id, Err(ProposeError::NoLeader));
        }
        return Ok(());
    }
    let batch = match Batch::decode(request.batch) {
        Ok(batch) => batch,
        Err(error) => {
            for forwarded in request.forwarded {
                collector.put(forwarded.id, Err(ProposeError::Invalid(error.to_string())));
            }
            return Ok(());
        }
    };
    let mut commands = batch.commands().iter();
    for forwarded in request.forwarded {
        let work = match forwarded.submission {
            Some(s) => Work::Submission(Box::new(Submission::encoded(s.round, s.shard, s.request))),
            None => {
                let command = commands.next();
                let command = command.ok_or("the batch has fewer commands than are announced")?;
                Work::Command(command.clone())
            }
        };
        let patience = Duration::from_millis(forwarded.patience_ms.into());
        let caller = Caller::Remote {
            id: forwarded.id,
            to: collector.clone(),
        };
        if let Err((outcome, _)) = core.offer(work, now + patience, caller) {
            collector.put(forwarded.id, outcome);
        }
    }
    Ok(())
}

fn reply_to(core: &Core, outcomes: Vec<(u64, Outcome)>) -> wire::ForwardReply {
    let mut answers = Vec::with_capacity(outcomes.len());
    let leader = match core.leadership() {
        Leadership::Other(peer) => peer.id,
        _ => 0,
    };
    let outcomes = outcomes.into_iter().map(|(id, outcome)| match outcome {
        Ok(proposed) => {
            answers.push(proposed.answer);
            wire::ForwardOutcome {
                id,
                fault: None,
                log_index: proposed.log_index,
                term: proposed.term,
            }
        }
        Err(error) => wire::ForwardOutcome {
            id,
            fault: Some(fault_of(error, leader)),
            log_index: 0,
            term: 0,
        },
    });
    let outcomes = outcomes.collect();
    wire::ForwardReply {
        outcomes,
        answers: Answer::encode_all(&answers),
    }
}

fn fault_of(error: ProposeError, leader: u64) -> wire::ForwardFault {
    use wire::forward_fault::Code;
    let value = match &error {
        ProposeError::Overloaded { value, .. } => *value,
        _ => 0,
    };
    let code = match &error {
        ProposeError::NoLeader | ProposeError::Stopping => Code::NotLeader,
        ProposeError::Deadline => Code::Deadline,
        ProposeError::Unknown | ProposeError::Failed(_) => Code::UnknownOutcome,
        ProposeError::Overloaded { .. } => Code::Overloaded,
        ProposeError::NoSpace(_) => Code::NoSpace,
        ProposeError::Invalid(_) => Code::Malformed,
    };
    wire::ForwardFault {
        code: code.into(),
        message: error.to_string(),
        leader,
        value,
    }
}
