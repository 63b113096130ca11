//! A network in memory between members, which a test cuts, stalls and heals.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use troika_store::raft::Door;
use troika_store::raft::network::{Envelope, Incoming, Lane, Network, NetworkError, Outgoing};
use troika_store::runtime::Runtime;

use super::address;

/// Knows every door, and which of them cannot reach each other.
#[derive(Default)]
pub struct Hub {
    pub(super) doors: Mutex<BTreeMap<String, Door>>,
    cut: Mutex<BTreeSet<(String, String)>>,
    /// Addresses to and from which messages wait.
    stalled: watch::Sender<BTreeSet<String>>,
    /// From whom and to whom answers on streams wait.
    held: watch::Sender<BTreeSet<(String, String)>>,
    /// Bytes of messages on streams that wait, and the most that ever waited at once.
    withheld: AtomicUsize,
    most_withheld: AtomicUsize,
    /// Ends what runs between two members when they are cut.
    links: Mutex<BTreeMap<(String, String), CancellationToken>>,
}

impl Hub {
    fn link(&self, from: &str, to: &str) -> CancellationToken {
        let mut links = self.links.lock().unwrap();
        links.entry((from.into(), to.into())).or_default().clone()
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        let cut = self.cut.lock().unwrap();
        cut.contains(&(from.into(), to.into())) || cut.contains(&(to.into(), from.into()))
    }

    pub(super) fn break_links(&self, touches: impl Fn(&str, &str) -> bool) {
        let mut links = self.links.lock().unwrap();
        links.retain(|(from, to), token| {
            let broken = touches(from, to);
            if broken {
                token.cancel();
            }
            !broken
        });
    }

    /// Cuts two members off each other.
    pub fn cut(&self, one: u64, other: u64) {
        let (one, other) = (address(one), address(other));
        self.cut
            .lock()
            .unwrap()
            .insert((one.clone(), other.clone()));
        self.break_links(|from, to| (from == one && to == other) || (from == other && to == one));
    }

    /// Messages to and from this member wait from now on: it is there, and nothing gets through.
    pub fn stall(&self, id: u64) {
        self.stalled.send_modify(|stalled| {
            stalled.insert(address(id));
        });
    }

    /// Answers of one member on streams of the other wait from now on, and messages that are no answers do not.
    pub fn hold_answers(&self, from: u64, to: u64) {
        self.held.send_modify(|held| {
            held.insert((address(from), address(to)));
        });
    }

    /// Those answers get through, now that they are late.
    pub fn let_answers_through(&self, from: u64, to: u64) {
        self.held.send_modify(|held| {
            held.remove(&(address(from), address(to)));
        });
    }

    /// Ready when an answer on a stream gets through.
    async fn answerable(&self, from: &str, to: &str) {
        let way = (from.to_owned(), to.to_owned());
        let mut held = self.held.subscribe();
        // The sender is in `self`, so it lives.
        assert!(held.wait_for(|held| !held.contains(&way)).await.is_ok());
    }

    /// The most bytes of messages that have waited on streams at once.
    pub fn most_withheld(&self) -> usize {
        self.most_withheld.load(Ordering::Relaxed)
    }

    /// Ready when a message of a stream gets through.
    async fn withhold(&self, from: &str, to: &str, bytes: usize) {
        let withheld = self.withheld.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.most_withheld.fetch_max(withheld, Ordering::Relaxed);
        self.passable(from, to).await;
        self.withheld.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Everybody reaches everybody again.
    pub fn heal(&self) {
        self.cut.lock().unwrap().clear();
        self.stalled.send_modify(BTreeSet::clear);
    }

    /// Ready when messages get through between two members.
    async fn passable(&self, from: &str, to: &str) {
        let mut stalled = self.stalled.subscribe();
        let free = stalled.wait_for(|stalled| !stalled.contains(from) && !stalled.contains(to));
        // The sender is in `self`, so it lives.
        assert!(free.await.is_ok());
    }
}

/// One process's end of the network. Dead once its process is.
pub(super) struct Wire {
    pub(super) hub: Arc<Hub>,
    pub(super) own: String,
    pub(super) dead: CancellationToken,
}

impl Wire {
    fn door(&self, address: &str) -> Result<(Door, CancellationToken), NetworkError> {
        let unreachable = |reason: &str| NetworkError::Unreachable {
            address: address.into(),
            reason: reason.into(),
        };
        if self.dead.is_cancelled() || self.hub.is_cut(&self.own, address) {
            return Err(unreachable("cut"));
        }
        let doors = self.hub.doors.lock().unwrap();
        let door = doors
            .get(address)
            .cloned()
            .ok_or_else(|| unreachable("nobody is there"))?;
        Ok((door, self.hub.link(&self.own, address)))
    }
}

impl Network for Wire {
    fn call(
        &self,
        address: &str,
        _lane: Lane,
        message: Envelope,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Envelope, NetworkError>> {
        let door = self.door(address);
        let (hub, own, address) = (self.hub.clone(), self.own.clone(), address.to_owned());
        async move {
            let (door, link) = door?;
            let passable = hub.passable(&own, &address);
            if Runtime::timeout(timeout, passable).await.is_err() {
                return Err(NetworkError::Timeout { address, timeout });
            }
            // In a task of its own, as a server runs it: a caller that gives up does not stop it.
            let answer = Runtime::spawn(async move { door.call(message).await });
            let unreachable = || NetworkError::Unreachable {
                address: address.clone(),
                reason: "cut".into(),
            };
            tokio::select! {
                biased;
                () = link.cancelled() => Err(unreachable()),
                answer = Runtime::timeout(timeout, answer) => match answer {
                    Ok(Ok(answer)) => Ok(answer),
                    Ok(Err(_)) => Err(unreachable()),
                    Err(_) => Err(NetworkError::Timeout { address: address.clone(), timeout }),
                },
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
        let door = self.door(address);
        let (hub, own, address) = (self.hub.clone(), self.own.clone(), address.to_owned());
        async move {
            let (door, link) = door?;
            // Both ways through queues, as over a wire: each end runs by itself.
            let (to_door, requests) = tokio::sync::mpsc::channel(16);
            let (to_caller, answers) = tokio::sync::mpsc::channel(16);
            let ended = link.clone();
            let to = address.clone();
            let (answering, caller) = (hub.clone(), own.clone());
            Runtime::spawn(async move {
                let mut outgoing = Box::pin(outgoing.take_until(ended.cancelled_owned()));
                while let Some(message) = outgoing.next().await {
                    tokio::select! {
                        biased;
                        () = to_door.closed() => return,
                        () = hub.withhold(&own, &to, message.payload.len()) => {}
                    }
                    if to_door.send(message).await.is_err() {
                        return;
                    }
                }
            });
            let requests = tokio_stream::wrappers::ReceiverStream::new(requests).boxed();
            Runtime::spawn(async move {
                let replies = door
                    .stream(requests)
                    .take_until(link.clone().cancelled_owned());
                // A caller that goes away ends it, also where no reply comes.
                let gone = to_caller.clone();
                let mut replies = Box::pin(replies.take_until(gone.closed()));
                while let Some(reply) = replies.next().await {
                    answering.answerable(&address, &caller).await;
                    if to_caller.send(Ok(reply)).await.is_err() {
                        return;
                    }
                }
                if link.is_cancelled() {
                    let reason = "cut".into();
                    let _ = to_caller
                        .send(Err(NetworkError::Unreachable { address, reason }))
                        .await;
                }
            });
            Ok(tokio_stream::wrappers::ReceiverStream::new(answers).boxed())
        }
        .boxed()
    }
}
