//! What comes in from other members: checked here, then handed to consensus or to whom it is for.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use troika_proto::member::v1::{self as wire, refused::Code};

use super::config::{ADMIN_TIMEOUT, CALL_TIMEOUT};
use super::core::{Core, Leadership};
use super::error::AdminError;
use super::identity::Verdict;
use super::network::{Envelope, Kind};
use super::wire as messages;
use super::{admin, bootstrap, forward, snapshot};
use crate::mutant::{self, Mutant};
use crate::runtime::Runtime;

/// A member's door for other members. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    core: Arc<Core>,
}

/// A refusal to be.
struct No(Code, String);

impl No {
    fn malformed(error: impl ToString) -> Self {
        Self(Code::Malformed, error.to_string())
    }

    fn not_ready(error: impl ToString) -> Self {
        Self(Code::NotReady, error.to_string())
    }
}

impl Door {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// One message, one answer.
    pub async fn call(&self, envelope: Envelope) -> Envelope {
        if let Err(No(code, message)) = self.admit(&envelope).await {
            return self.refuse(&envelope, code, message);
        }
        match self.answer(&envelope).await {
            Ok((kind, payload)) => {
                let identity = self.core.peers.identity();
                identity.envelope(
                    envelope.from,
                    envelope.from_incarnation.clone(),
                    kind,
                    payload,
                )
            }
            Err(No(code, message)) => self.refuse(&envelope, code, message),
        }
    }

    /// A stream each way. What the first message is decides what the stream is for.
    pub fn stream(&self, incoming: BoxStream<'static, Envelope>) -> BoxStream<'static, Envelope> {
        let door = self.clone();
        let opening = async move {
            let mut incoming = incoming;
            match incoming.next().await {
                Some(first) => door.open(first, incoming).await,
                None => futures::stream::empty().boxed(),
            }
        };
        futures::stream::once(opening).flatten().boxed()
    }

    async fn open(
        self,
        first: Envelope,
        rest: BoxStream<'static, Envelope>,
    ) -> BoxStream<'static, Envelope> {
        if let Err(No(code, message)) = self.admit(&first).await {
            let refusal = self.refuse(&first, code, message);
            return futures::stream::iter([refusal]).boxed();
        }
        let core = self.core.clone();
        let (kind, from, incarnation) = (first.kind, first.from, first.from_incarnation.clone());
        // A stream keeps to its sender, so the rest needs no more than the same head.
        let rest = rest.take_while(move |next| {
            let same = next.from == from && next.from_incarnation == incarnation;
            futures::future::ready(same)
        });
        match Kind::from_number(kind) {
            Some(Kind::Append) => self.append(first, rest.boxed()),
            Some(Kind::Forward) => forward::serve(core, rest.boxed(), first),
            Some(Kind::SnapshotBegin) => snapshot::receive(core, first, rest.boxed()),
            _ => {
                let message = format!("kind {kind} does not open a stream");
                let refusal = self.refuse(&first, Code::Malformed, message);
                futures::stream::iter([refusal]).boxed()
            }
        }
    }

    /// Log entries, answered in order once they are on disk.
    fn append(
        &self,
        first: Envelope,
        rest: BoxStream<'static, Envelope>,
    ) -> BoxStream<'static, Envelope> {
        let head = Envelope {
            payload: Bytes::new(),
            ..first.clone()
        };
        let hearing = self.core.clone();
        let requests = futures::stream::iter([first])
            .chain(rest)
            .map(move |message| {
                hearing.note_leader();
                let read = messages::append_from(message.payload);
                read.inspect_err(
                    |error| tracing::warn!(from = message.from, %error, "entries cannot be read"),
                )
            });
        // What cannot be read ends the stream; the leader sends it again from what is acknowledged.
        let requests = requests.take_while(|request| futures::future::ready(request.is_ok()));
        let requests = requests.filter_map(|request| futures::future::ready(request.ok()));
        let core = self.core.clone();
        let answers = core.raft.stream_append(requests).map(move |appended| {
            let identity = core.peers.identity();
            match appended {
                Ok(result) => identity.answer(&head, Kind::Append, &messages::appended_to(&result)),
                Err(fatal) => identity.refuse(&head, Code::NotReady, fatal.to_string(), None),
            }
        });
        answers.boxed()
    }

    /// Checks the head of a message, and becomes a member of the cluster that it is the first message of.
    async fn admit(&self, envelope: &Envelope) -> Result<(), No> {
        if let Some(fault) = self.core.fault()
            && !self.core.is_running()
        {
            return Err(No::not_ready(fault));
        }
        let identity = self.core.peers.identity();
        let known = self.core.known_incarnation(envelope.from);
        match identity.judge(envelope, known) {
            Verdict::Take => Ok(()),
            Verdict::Adopt(cluster) => identity
                .adopt(cluster)
                .await
                .map_err(|error| No(Code::WrongCluster, error)),
            Verdict::Refuse(code, message) => Err(No(code, message)),
        }
    }

    fn refuse(&self, envelope: &Envelope, code: Code, message: String) -> Envelope {
        let (from, kind) = (envelope.from, envelope.kind);
        match self.core.fault() {
            // An orderly end is no news.
            Some(_) => tracing::debug!(from, kind, %message, "message refused at the end"),
            None => {
                tracing::warn!(from, kind, %message, "message refused");
                metrics::counter!("troika_member_messages_refused").increment(1);
            }
        }
        let identity = self.core.peers.identity();
        identity.refuse(envelope, code, message, self.core.leader())
    }

    async fn answer(&self, envelope: &Envelope) -> Result<(Kind, Bytes), No> {
        let core = &self.core;
        let payload = envelope.payload.clone();
        let kind = Kind::from_number(envelope.kind)
            .ok_or_else(|| No::malformed(format!("kind {} is unknown here", envelope.kind)))?;
        let answer = match kind {
            Kind::Hello => bootstrap::hello_reply(core, envelope.from).encode_to_vec(),
            Kind::Append => {
                let request = messages::append_from(payload).map_err(No::malformed)?;
                let previous = request.prev_log_id;
                let last = request.entries.last().map(|entry| entry.log_id);
                let last = last.or(previous);
                core.note_leader();
                let appended = core
                    .raft
                    .append_entries(request)
                    .await
                    .map_err(No::not_ready)?;
                let result = messages::append_result(appended, previous, last);
                messages::appended_to(&result).encode_to_vec()
            }
            Kind::Vote => {
                let request = messages::vote_request_from(payload).map_err(No::malformed)?;
                let vote = core.raft.vote(request).await.map_err(No::not_ready)?;
                messages::vote_reply_to(&vote).encode_to_vec()
            }
            Kind::PreVote => {
                let request = messages::vote_request_from(payload).map_err(No::malformed)?;
                let mut vote = core.raft.pre_vote(request).await.map_err(No::not_ready)?;
                vote.vote_granted |= mutant::on(Mutant::PreVoteGranted);
                messages::vote_reply_to(&vote).encode_to_vec()
            }
            Kind::TransferLeader => {
                let request = messages::transfer_from(payload).map_err(No::malformed)?;
                let done = core
                    .raft
                    .handle_transfer_leader(request)
                    .await
                    .map_err(No::not_ready)?;
                messages::transferred_to(&done).encode_to_vec()
            }
            Kind::ReadIndex => self.read_index().await?.encode_to_vec(),
            Kind::Admin => self.admin(payload).await?.encode_to_vec(),
            Kind::StateHashes => super::care::own_hashes(core).encode_to_vec(),
            Kind::SnapshotBegin
            | Kind::SnapshotChunk
            | Kind::SnapshotEnd
            | Kind::Forward
            | Kind::Refused => {
                return Err(No::malformed(format!("{kind:?} is no call")));
            }
        };
        Ok((kind, answer.into()))
    }

    fn must_lead(&self) -> Result<(), No> {
        match self.core.leadership() {
            Leadership::Own => Ok(()),
            _ => Err(No(
                Code::NotLeader,
                format!("member {} does not lead", self.core.id()),
            )),
        }
    }

    async fn read_index(&self) -> Result<wire::ReadIndexReply, No> {
        self.must_lead()?;
        let deadline = Runtime::now() + CALL_TIMEOUT;
        let index = self
            .core
            .reads
            .index(deadline)
            .await
            .map_err(No::not_ready)?;
        Ok(wire::ReadIndexReply { index })
    }

    async fn admin(&self, payload: Bytes) -> Result<wire::AdminReply, No> {
        self.must_lead()?;
        let request = messages::decode(payload).map_err(No::malformed)?;
        let operation =
            admin::from_wire(request).ok_or_else(|| No::malformed("no operation is named"))?;
        let deadline = Runtime::now() + ADMIN_TIMEOUT;
        match admin::on_leader(&self.core, &operation, deadline).await {
            Ok(admin::Done::ElsewhereNow) => {
                let message = format!("member {} has handed over", self.core.id());
                Err(No(Code::NotLeader, message))
            }
            // Perhaps done and perhaps not: whoever asks may ask again.
            Err(AdminError::Unavailable(error)) => Err(No::not_ready(error)),
            done => Ok(admin::reply(done.map(drop))),
        }
    }
}
