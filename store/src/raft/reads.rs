//! Linearizable reads on any member: the leader confirms that it leads and names a log index; whoever has applied up to
//! it may answer from its own state.
//!
//! Readers share the question: while one is asked, all that arrive wait for the next one.

use std::sync::{Arc, Mutex};

use openraft::raft::ReadPolicy;
use tokio::sync::{Notify, oneshot};
use troika_proto::member::v1 as wire;

use super::config::{CALL_TIMEOUT, RETRY_PAUSE};
use super::core::{Core, Leadership};
use super::error::ProposeError;
use super::network::Kind;
use super::pending::lock;
use crate::mutant::{self, Mutant};
use crate::runtime::{Instant, Runtime};

struct Reader {
    deadline: Instant,
    reply: oneshot::Sender<Result<u64, ProposeError>>,
}

/// Readers that wait for an index.
#[derive(Default)]
pub struct Reads {
    readers: Mutex<Vec<Reader>>,
    more: Notify,
}

impl Reads {
    /// The index up to which the log must be applied for a read that begins now.
    pub async fn index(&self, deadline: Instant) -> Result<u64, ProposeError> {
        let (reply, index) = oneshot::channel();
        lock(&self.readers).push(Reader { deadline, reply });
        self.more.notify_one();
        match Runtime::timeout_at(deadline, index).await {
            Ok(Ok(index)) => index,
            Ok(Err(_)) => Err(ProposeError::Stopping),
            Err(_) => Err(ProposeError::NoLeader),
        }
    }

    async fn take(&self) -> Vec<Reader> {
        loop {
            let readers = std::mem::take(&mut *lock(&self.readers));
            if !readers.is_empty() {
                return readers;
            }
            self.more.notified().await;
        }
    }
}

/// Asks for indices until the member ends.
pub async fn run(core: Arc<Core>) {
    loop {
        let readers = tokio::select! {
            biased;
            _ = core.until_end() => return,
            readers = core.reads.take() => readers,
        };
        let patience = readers.iter().map(|reader| reader.deadline).max();
        let Some(deadline) = patience else { continue };
        let index = tokio::select! {
            biased;
            _ = core.until_end() => return,
            index = ask(&core, deadline) => index,
        };
        for reader in readers {
            // A reader that has gone wants nothing.
            let _ = reader.reply.send(index.clone());
        }
    }
}

async fn ask(core: &Core, deadline: Instant) -> Result<u64, ProposeError> {
    loop {
        let index = match core.leadership() {
            Leadership::Own => own_index(core).await,
            Leadership::Other(peer) => {
                let request = wire::Hello::default();
                let reply = core
                    .peers
                    .ask(&peer, Kind::ReadIndex, &request, CALL_TIMEOUT)
                    .await;
                reply.ok().map(|reply: wire::ReadIndexReply| reply.index)
            }
            Leadership::Unknown => None,
        };
        if let Some(index) = index {
            return Ok(index);
        }
        if Runtime::now() + RETRY_PAUSE >= deadline {
            return Err(ProposeError::NoLeader);
        }
        Runtime::sleep(RETRY_PAUSE).await;
    }
}

/// The index that this member names as the leader; None if it cannot prove that it leads.
async fn own_index(core: &Core) -> Option<u64> {
    if mutant::on(Mutant::ReadWithoutQuorum) {
        return Some(*core.shared.applied().borrow());
    }
    let asking = core.raft.get_read_linearizer(ReadPolicy::ReadIndex);
    match Runtime::timeout(CALL_TIMEOUT, asking).await {
        Ok(Ok(linearizer)) => Some(linearizer.read_log_id().index()),
        Ok(Err(error)) => {
            tracing::debug!(%error, "cannot confirm the leadership for a read");
            None
        }
        Err(_) => None,
    }
}
