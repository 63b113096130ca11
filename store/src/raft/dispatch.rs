//! From many waiting commands to few log entries.
//!
//! One task takes what waits. On the leader it makes a log entry of it: at once when nothing is under way, and else when as
//! many commands wait as are under way, in at most
//! [`entries_in_flight`](super::config::MemberConfig::entries_in_flight) entries. So the batch grows with the load by
//! itself, and a disk or a network that is slow has more than one entry to work on. On another member it sends what waits
//! to the leader ([`forward`]). Another task awaits the decisions in log order and tells the callers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::config::{ENTRY_BYTES, ENTRY_COMMANDS, RETRY_PAUSE};
use super::core::{Core, Leadership};
use super::error::ProposeError;
use super::forward::Connection;
use super::network::MemberId;
use super::pending::{Outcome, Pending, Proposed};
use super::types::TypeConfig;
use crate::mutant::{self, Mutant};
use crate::runtime::Runtime;
use crate::state::{Batch, Command, Machine};

type Reply = oneshot::Receiver<ClientWriteResult<TypeConfig>>;

/// An entry of commands on its way through the log.
struct UnderWay {
    decided: Reply,
    commands: Vec<Pending>,
    _counted: Counted,
    _slot: OwnedSemaphorePermit,
}

/// How many commands are in entries under way.
#[derive(Debug, Default)]
struct Load {
    commands: AtomicUsize,
    /// Told when there are fewer.
    fewer: Notify,
}

/// A part of the load until it is dropped.
struct Counted(Arc<Load>, usize);

impl Load {
    fn add(self: &Arc<Self>, commands: usize) -> Counted {
        self.commands.fetch_add(commands, Ordering::Relaxed);
        Counted(self.clone(), commands)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.commands.fetch_sub(self.1, Ordering::Relaxed);
        self.0.fewer.notify_one();
    }
}

/// Takes waiting commands until the member ends.
pub async fn run(core: Arc<Core>) {
    let slots = Arc::new(Semaphore::new(core.config.entries_in_flight));
    let (under_way, decided) = mpsc::channel(core.config.entries_in_flight);
    Runtime::spawn(tell_decisions(core.clone(), decided));
    let mut dispatcher = Dispatcher {
        slots,
        under_way,
        load: Arc::default(),
        overflowing: false,
        connection: None,
        silent: None,
        core,
    };
    while dispatcher.core.is_running() {
        dispatcher.step().await;
    }
}

struct Dispatcher {
    core: Arc<Core>,
    slots: Arc<Semaphore>,
    under_way: mpsc::Sender<UnderWay>,
    load: Arc<Load>,
    /// True if more waited than the last entry could take.
    overflowing: bool,
    connection: Option<Connection>,
    /// The member whose last connection broke before it had answered anything.
    silent: Option<MemberId>,
}

impl Dispatcher {
    /// Waits for something to do under the present leadership, and does it. Returns early when the leadership changes.
    async fn step(&mut self) {
        let mut group = self.core.raft.server_metrics();
        // From here on a change is seen below.
        group.borrow_and_update();
        let leadership = self.core.leadership();
        self.keep_connection(&leadership);
        let core = self.core.clone();
        tokio::select! {
            biased;
            _ = core.until_end() => {}
            _ = group.changed() => {}
            () = self.serve(leadership) => {}
        }
    }

    /// Closes the connection to a leader of the past: what it has not answered is offered again.
    fn keep_connection(&mut self, leadership: &Leadership) {
        let keep = match (&self.connection, leadership) {
            (Some(connection), Leadership::Other(peer)) => connection.leads_to(peer),
            _ => false,
        };
        if !keep && let Some(connection) = self.connection.take() {
            self.silent = (!connection.has_served()).then(|| connection.leader());
            connection.close();
        }
    }

    async fn serve(&mut self, leadership: Leadership) {
        let core = self.core.clone();
        core.waiting.queue.ready().await;
        match leadership {
            Leadership::Own => {
                let Ok(slot) = self.slots.clone().acquire_owned().await else {
                    return;
                };
                self.worth_an_entry().await;
                self.log(slot).await;
            }
            Leadership::Other(peer) => {
                let again = self.silent == Some(peer.id);
                let connection = self
                    .connection
                    .get_or_insert_with(|| Connection::open(self.core.clone(), peer, again));
                let Some(slot) = connection.slot().await else {
                    Runtime::sleep(RETRY_PAUSE).await;
                    return;
                };
                let commands = core.waiting.queue.take(ENTRY_BYTES, ENTRY_COMMANDS);
                slot.send(fit_to_forward(&core, commands));
            }
            Leadership::Unknown => {
                Runtime::sleep(RETRY_PAUSE).await;
                core.waiting.drop_unwanted(Runtime::now());
                not_leading(&core);
            }
        }
    }

    /// Ready when as many commands wait as are under way, or more than fit into an entry. An entry costs the same whether
    /// it is small or large, and every small one would make those behind it wait.
    async fn worth_an_entry(&self) {
        loop {
            let under_way = self.load.commands.load(Ordering::Relaxed);
            if under_way == 0 || self.overflowing {
                return;
            }
            tokio::select! {
                biased;
                () = self.core.waiting.queue.holds(under_way) => return,
                () = self.load.fewer.notified() => {}
            }
        }
    }

    /// Makes one entry of what waits. No await between taking the commands and handing them on: a leadership change
    /// drops this future, and nothing may be lost with it.
    async fn log(&mut self, slot: OwnedSemaphorePermit) {
        // Callers that are ready now get into this entry.
        tokio::task::yield_now().await;
        let Ok(permit) = self.under_way.reserve().await else {
            return;
        };
        let core = &self.core;
        let taken = core.waiting.queue.take(ENTRY_BYTES, ENTRY_COMMANDS);
        self.overflowing = !core.waiting.queue.is_empty();
        let (mut commands, unchecked) = wanted(core, taken)
            .into_iter()
            .partition::<Vec<_>, _>(|pending| pending.command().is_some());
        // Those that were queued before this member led, or whose turn came after another's.
        unchecked
            .into_iter()
            .for_each(|pending| core.queue(pending));
        if commands.is_empty() {
            return;
        }
        let batch = core.stamps.batch(core, &commands);
        commands.iter_mut().for_each(Pending::offer);
        let (responder, decided) = ProgressResponder::complete_only();
        if mutant::on(Mutant::AnsweredBeforeCommit) {
            core.waiting
                .answer_early(&commands, core.shared.read(Machine::revision) + 1);
        }
        permit.send(UnderWay {
            decided,
            _counted: self.load.add(commands.len()),
            commands,
            _slot: slot,
        });
        metrics::histogram!("troika_batch_commands").record(batch.commands().len() as f64);
        // If this is dropped half way, the responder goes with it, and the commands are offered again.
        if core.raft.write(batch).responder(responder).await.is_err() {
            tracing::debug!("consensus has ended");
        }
    }
}

/// Ends the commands that nobody waits for, and hands back the others.
fn wanted(core: &Core, taken: Vec<Pending>) -> Vec<Pending> {
    let now = Runtime::now();
    let (wanted, left) = taken
        .into_iter()
        .partition::<Vec<_>, _>(|pending| pending.is_wanted(now));
    for pending in left {
        core.waiting
            .complete(pending, Err(ProposeError::Deadline), now);
    }
    wanted
}

/// Commands for the leader: those of this member's own callers. Those of other members go back to where they came from.
fn fit_to_forward(core: &Core, taken: Vec<Pending>) -> Vec<Pending> {
    let (remote, own) = wanted(core, taken)
        .into_iter()
        .partition::<Vec<_>, _>(Pending::is_remote);
    refuse_remote(core, remote);
    own
}

fn refuse_remote(core: &Core, remote: Vec<Pending>) {
    let now = Runtime::now();
    for pending in remote {
        let error = match pending.may_be_logged() {
            true => ProposeError::Unknown,
            false => ProposeError::NoLeader,
        };
        core.waiting.complete(pending, Err(error), now);
    }
}

/// Without a leader: commands of other members go back at once.
fn not_leading(core: &Core) {
    let queued = core.waiting.queue.take(usize::MAX, usize::MAX);
    let (remote, own) = queued
        .into_iter()
        .partition::<Vec<_>, _>(Pending::is_remote);
    core.waiting.queue.put_back(own);
    refuse_remote(core, remote);
}

/// Offers commands again whose entry or message came to nothing. Those that might then count twice end as unknown.
pub(super) fn offer_again(core: &Core, commands: Vec<Pending>) {
    let now = Runtime::now();
    if let Some(fault) = core.fault()
        && !core.is_running()
    {
        for pending in commands {
            core.waiting.complete(pending, Err(fault.clone()), now);
        }
        return;
    }
    let (again, unknown) = commands
        .into_iter()
        .partition::<Vec<_>, _>(|pending| pending.is_idempotent() || !pending.may_be_logged());
    for pending in unknown {
        core.waiting
            .complete(pending, Err(ProposeError::Unknown), now);
    }
    core.waiting.queue.put_back(again);
}

async fn tell_decisions(core: Arc<Core>, mut under_way: mpsc::Receiver<UnderWay>) {
    while let Some(entry) = under_way.recv().await {
        match entry.decided.await {
            Ok(Ok(mut written)) => {
                if mutant::on(Mutant::AnswersSwapped) {
                    written.data.0.reverse();
                }
                let (index, term) = (written.log_id.index, written.log_id.leader_id.term);
                let now = Runtime::now();
                debug_assert_eq!(written.data.0.len(), entry.commands.len());
                for (pending, answer) in entry.commands.into_iter().zip(written.data.0) {
                    let outcome: Outcome = Ok(Proposed {
                        answer,
                        log_index: index,
                        term,
                    });
                    core.waiting.complete(pending, outcome, now);
                }
            }
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => {
                entry.commands.iter().for_each(Pending::take_offer_back);
                offer_again(&core, entry.commands);
                // Mostly a hand-over or an election that this member does not know the end of yet.
                Runtime::sleep(RETRY_PAUSE).await;
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "an entry was discarded");
                offer_again(&core, entry.commands);
            }
            Err(_) => offer_again(&core, entry.commands),
        }
    }
}

/// The lowest feature level that understands these commands.
pub(super) fn batch_of(commands: Vec<Command>) -> Batch {
    let batch = Batch::new(1, commands);
    // Encoded here rather than in openraft's own task, which everything else waits for.
    batch.encode();
    batch
}
