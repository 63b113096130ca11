//! The member network of the simulation: loss, delay, reorder between calls, duplicates, cuts.
//!
//! A message in flight belongs to nobody: it arrives, perhaps twice, also when its sender is dead by then. A stream keeps
//! its order, as a connection does; what is lost on it stalls it, and a stall of [`STALL`] or the death of an end breaks it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot};
use troika_store::raft::Door;
use troika_store::raft::network::{
    Envelope, Incoming, Kind, Lane, Network, NetworkError, Outgoing,
};
use troika_store::runtime::{Instant, Runtime};

use super::process::{Process, within};
use super::trace::digest;
use super::world::{Moment, World, lock};

/// Messages of a stream under way in one direction.
const WINDOW: usize = 16;
/// A connection that brings nothing through for so long is broken.
const STALL: Duration = Duration::from_secs(4);
/// A message that was repeated comes at most this much later.
const LATE_COPY_MS: u64 = 5_000;

/// The network as one process sees it.
pub struct SimNetwork {
    world: Arc<World>,
    process: Arc<Process>,
}

impl SimNetwork {
    /// The network of a process.
    pub fn new(world: Arc<World>, process: Arc<Process>) -> Arc<Self> {
        Arc::new(Self { world, process })
    }
}

/// The peer address of a member.
pub fn address(member: u64) -> String {
    format!("member-{member}:1")
}

fn member_at(address: &str) -> u64 {
    let number = address
        .strip_prefix("member-")
        .and_then(|rest| rest.strip_suffix(":1"));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn unreachable(address: &str, reason: &str) -> NetworkError {
    NetworkError::Unreachable {
        address: address.into(),
        reason: reason.into(),
    }
}

/// One direction between two members.
#[derive(Clone)]
struct Way {
    world: Arc<World>,
    from: u64,
    to: u64,
}

impl Way {
    fn back(&self) -> Self {
        let (from, to) = (self.to, self.from);
        Self {
            world: self.world.clone(),
            from,
            to,
        }
    }

    fn delay(&self) -> Duration {
        self.world.latency(self.world.plan.delay)
    }

    fn loses(&self) -> bool {
        self.world.is_cut(self.from, self.to) || self.world.fault(self.world.plan.lost_per_million)
    }

    fn note(&self, event: u64, what: &str, message: &Envelope) {
        let numbers = [
            4,
            event,
            self.from,
            self.to,
            u64::from(message.kind),
            digest(&message.payload),
        ];
        self.world.note(&numbers, || {
            let kind = Kind::from_number(message.kind);
            format!(
                "{} -> {}: {kind:?} ({} bytes) {what}",
                self.from,
                self.to,
                message.payload.len()
            )
        });
    }

    fn door(&self) -> Option<(Arc<Process>, Door)> {
        let doors = lock(&self.world.doors);
        let (process, door) = doors.get(&address(self.to))?;
        process.is_alive().then(|| (process.clone(), door.clone()))
    }
}

/// Brings a call to its receiver and the answer back. Runs in nobody's process.
async fn carry(
    way: Way,
    message: Envelope,
    reply: oneshot::Sender<Result<Envelope, NetworkError>>,
) {
    let delay = way.delay();
    if way.loses() {
        way.note(1, "lost", &message);
        return;
    }
    if way.world.fault(way.world.plan.twice_per_million) {
        Runtime::spawn(repeat(way.clone(), message.clone()));
    }
    Runtime::sleep(delay).await;
    if way.world.is_cut(way.from, way.to) {
        return way.note(1, "lost", &message);
    }
    let Some((process, answer)) = deliver(&way, message) else {
        let _ = reply.send(Err(unreachable(&address(way.to), "nobody listens there")));
        return;
    };
    let Ok(answer) = answer.await else {
        let _ = reply.send(Err(unreachable(&address(way.to), "it died")));
        return;
    };
    let back = way.back();
    if matches!(Kind::from_number(answer.kind), Some(Kind::Vote)) {
        way.world.strike_now(&process, Moment::Voted);
    }
    let delay = back.delay();
    if back.loses() {
        return back.note(1, "lost", &answer);
    }
    Runtime::sleep(delay).await;
    if way.world.is_cut(back.from, back.to) {
        return back.note(1, "lost", &answer);
    }
    back.note(2, "answered", &answer);
    // The caller may have given up.
    let _ = reply.send(Ok(answer));
}

async fn repeat(way: Way, message: Envelope) {
    let later = way.world.random().millis(0, LATE_COPY_MS);
    Runtime::sleep(later).await;
    if !way.world.is_cut(way.from, way.to)
        && let Some((_, answer)) = deliver(&way, message)
    {
        // Nobody waits for a copy's answer.
        let _ = answer.await;
    }
}

/// Hands a message to whoever has the receiver's address now, in their process.
fn deliver(way: &Way, message: Envelope) -> Option<(Arc<Process>, oneshot::Receiver<Envelope>)> {
    let (process, door) = way.door()?;
    way.note(3, "arrives", &message);
    let (reply, answer) = oneshot::channel();
    within(&process, || {
        Runtime::spawn(async move {
            // Whoever waited may be gone.
            let _ = reply.send(door.call(message).await);
        })
    });
    Some((process, answer))
}

/// A message of a stream with the time at which it arrives.
enum Packet {
    Message(Instant, Envelope),
    End,
}

/// Carries one direction of a stream in order. Ends with true after [`Packet::End`], with false when the connection broke.
async fn convey(
    way: Way,
    mut packets: mpsc::Receiver<Packet>,
    out: mpsc::Sender<Envelope>,
) -> bool {
    while let Some(packet) = packets.recv().await {
        let Packet::Message(due, message) = packet else {
            return true;
        };
        Runtime::sleep_until(due).await;
        if way.world.fault(way.world.plan.lost_per_million / 8) {
            way.note(4, "breaks its connection", &message);
            return false;
        }
        let stalled = Runtime::now() + STALL;
        while way.world.is_cut(way.from, way.to) {
            if Runtime::now() > stalled {
                way.note(4, "breaks its connection after a stall", &message);
                return false;
            }
            Runtime::sleep(Duration::from_millis(50)).await;
        }
        way.note(5, "arrives on its stream", &message);
        if out.send(message).await.is_err() {
            return false;
        }
    }
    false
}

/// Feeds a direction from one end, in that end's process.
async fn pump(
    way: Way,
    mut messages: BoxStream<'static, Envelope>,
    out: mpsc::Sender<Packet>,
    process: Arc<Process>,
) {
    let mut due = Runtime::now();
    while let Some(message) = messages.next().await {
        if message.kind == Kind::Append as u32 {
            way.world.strike_now(&process, Moment::Appended);
        }
        due = due.max(Runtime::now() + way.delay());
        if out.send(Packet::Message(due, message)).await.is_err() {
            return;
        }
    }
    // Whoever listened may be gone.
    let _ = out.send(Packet::End).await;
}

fn receiver<T: Send + 'static>(queue: mpsc::Receiver<T>) -> BoxStream<'static, T> {
    stream::unfold(queue, |mut queue| async move {
        queue.recv().await.map(|next| (next, queue))
    })
    .boxed()
}

/// Both directions of a stream; the answers of the far end.
fn connect(way: &Way, near: &Arc<Process>, outgoing: Outgoing) -> Option<Incoming> {
    let (far, door) = way.door()?;
    let world = way.world.clone();
    let (to_wire, on_wire) = mpsc::channel(WINDOW);
    let (to_door, at_door) = mpsc::channel(WINDOW);
    let (from_door, answers) = mpsc::channel(WINDOW);
    let (to_caller, at_caller) = mpsc::channel::<Envelope>(WINDOW);
    within(near, || {
        Runtime::spawn(pump(way.clone(), outgoing, to_wire, near.clone()))
    });
    let replies = door.stream(receiver(at_door));
    within(&far, || {
        Runtime::spawn(pump(way.back(), replies, from_door, far.clone()))
    });
    let (broken, breaks) = oneshot::channel();
    let target = address(way.to);
    let (there, back) = (way.clone(), way.back());
    within(&world.own, || {
        Runtime::spawn(async move {
            let there = convey(there, on_wire, to_door);
            let back = convey(back, answers, to_caller);
            futures::pin_mut!(there, back);
            // The way there may end first, when all is sent; the way back ends the stream.
            let whole = tokio::select! {
                biased;
                whole = &mut back => whole,
                sent = &mut there => match sent {
                    true => back.await,
                    false => false,
                },
            };
            // The caller may be gone.
            let _ = broken.send(whole);
        })
    });
    let tail = async move {
        match breaks.await {
            Ok(true) => None,
            _ => Some(Err(unreachable(&target, "the connection broke"))),
        }
    };
    let tail = stream::once(tail).filter_map(futures::future::ready);
    Some(receiver(at_caller).map(Ok).chain(tail).boxed())
}

impl Network for SimNetwork {
    fn call(
        &self,
        address: &str,
        _lane: Lane,
        message: Envelope,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Envelope, NetworkError>> {
        let way = Way {
            world: self.world.clone(),
            from: self.process.member,
            to: member_at(address),
        };
        let address = address.to_owned();
        async move {
            let deadline = Runtime::now() + timeout;
            let (reply, answer) = oneshot::channel();
            let world = way.world.clone();
            way.note(6, "sent", &message);
            within(&world.own, || Runtime::spawn(carry(way, message, reply)));
            match Runtime::timeout_at(deadline, answer).await {
                Ok(Ok(answer)) => answer,
                // Lost: the caller waits in vain.
                Ok(Err(_)) => {
                    Runtime::sleep_until(deadline).await;
                    Err(NetworkError::Timeout { address, timeout })
                }
                Err(_) => Err(NetworkError::Timeout { address, timeout }),
            }
        }
        .boxed()
    }

    fn stream(
        &self,
        _to: u64,
        address: &str,
        _lane: Lane,
        outgoing: Outgoing,
    ) -> BoxFuture<'static, Result<Incoming, NetworkError>> {
        let way = Way {
            world: self.world.clone(),
            from: self.process.member,
            to: member_at(address),
        };
        let (address, near) = (address.to_owned(), self.process.clone());
        async move {
            // A handshake there and back.
            Runtime::sleep(way.delay() + way.delay()).await;
            if way.loses() || way.back().loses() {
                Runtime::sleep(Duration::from_secs(1)).await;
                return Err(unreachable(&address, "no handshake"));
            }
            connect(&way, &near, outgoing)
                .ok_or_else(|| unreachable(&address, "nobody listens there"))
        }
        .boxed()
    }
}
