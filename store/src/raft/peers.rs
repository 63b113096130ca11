//! Calling other members: puts the envelope around a payload, sends it, and reads the answer's head.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use troika_proto::member::v1 as wire;

use super::identity::Identity;
use super::network::{Envelope, Incoming, Kind, Lane, MemberId, Network, NetworkError, Outgoing};
use super::types::MemberNode;
use super::wire::decode;
use crate::mutant::{self, Mutant};

/// Why another member gave no useful answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// No answer.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// It does not take the message.
    #[error("member {member} refuses: {}", refused.message)]
    Refused {
        /// Who.
        member: MemberId,
        /// Why.
        refused: wire::Refused,
    },
    /// It answers something that makes no sense.
    #[error("member {member} answers nonsense: {reason}")]
    Nonsense {
        /// Who.
        member: MemberId,
        /// What is wrong.
        reason: String,
    },
}

/// Where a member is and which directory is meant.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its id.
    pub id: MemberId,
    /// HOST:PORT.
    pub address: String,
    /// 16 bytes; empty only for a hello.
    pub incarnation: Bytes,
}

impl Peer {
    /// The peer that the membership describes.
    pub fn new(id: MemberId, node: &MemberNode) -> Self {
        Self {
            id,
            address: node.peer_addr.clone(),
            incarnation: Bytes::copy_from_slice(&node.incarnation),
        }
    }

    /// Somebody at an address, who is still to be asked who it is.
    pub fn stranger(id: MemberId, address: &str) -> Self {
        Self {
            id,
            address: address.into(),
            incarnation: Bytes::new(),
        }
    }
}

/// The way out to other members. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    identity: Arc<Identity>,
    network: Arc<dyn Network>,
}

impl Peers {
    /// Over this network, under this identity.
    pub fn new(identity: Arc<Identity>, network: Arc<dyn Network>) -> Self {
        Self { identity, network }
    }

    /// Who calls.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Puts an envelope around a payload.
    pub fn envelope(&self, to: &Peer, kind: Kind, payload: Bytes) -> Envelope {
        self.identity
            .envelope(to.id, to.incarnation.clone(), kind, payload)
    }

    /// One message, one answer.
    pub async fn call(
        &self,
        to: &Peer,
        lane: Lane,
        kind: Kind,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let envelope = self.envelope(to, kind, payload);
        let answer = self
            .network
            .call(&to.address, lane, envelope, timeout)
            .await?;
        open(to, kind, answer)
    }

    /// The same with messages.
    pub async fn ask<A: Message + Default>(
        &self,
        to: &Peer,
        kind: Kind,
        request: &impl Message,
        timeout: Duration,
    ) -> Result<A, CallError> {
        let payload = request.encode_to_vec().into();
        let answer = self.call(to, Lane::Control, kind, payload, timeout).await?;
        decode(answer).map_err(|error| nonsense(to, error))
    }

    /// A stream each way; `outgoing` is of [`Peers::envelope`]'s making, and answers are read with [`open`].
    pub async fn stream(
        &self,
        to: &Peer,
        lane: Lane,
        outgoing: Outgoing,
    ) -> Result<Incoming, CallError> {
        Ok(self
            .network
            .stream(to.id, &to.address, lane, outgoing)
            .await?)
    }
}

/// The payload of an answer, if it is one of `kind` from the member that was meant.
pub fn open(from: &Peer, kind: Kind, answer: Envelope) -> Result<Bytes, CallError> {
    if answer.kind == Kind::Refused as u32 {
        let refused = decode(answer.payload).map_err(|error| nonsense(from, error))?;
        return Err(CallError::Refused {
            member: from.id,
            refused,
        });
    }
    let expected = from.incarnation.is_empty()
        || answer.from_incarnation == from.incarnation
        || mutant::on(Mutant::WipedVoterReturns);
    if answer.kind != kind as u32 || answer.from != from.id || !expected {
        let reason = format!("kind {} from member {}", answer.kind, answer.from);
        return Err(nonsense(from, reason));
    }
    Ok(answer.payload)
}

/// An answer that cannot be read.
pub fn nonsense(from: &Peer, reason: impl ToString) -> CallError {
    CallError::Nonsense {
        member: from.id,
        reason: reason.to_string(),
    }
}
