//! openraft's messages as payloads of envelopes.
//!
//! Entries travel as they stand in the log file (see [`codec`](super::codec)), so a batch is encoded once in its life.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use prost::Message;
use troika_proto::log::v1::{LogId as WireLogId, Vote as WireVote};
use troika_proto::member::v1 as wire;

use super::codec;
use super::types::{LogId, TypeConfig, Vote};

/// A payload that cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("unreadable message: {0}")]
pub struct Unreadable(pub String);

/// Decodes one protobuf message.
pub fn decode<M: Message + Default>(payload: Bytes) -> Result<M, Unreadable> {
    M::decode(payload).map_err(|error| Unreadable(error.to_string()))
}

fn missing(field: &str) -> Unreadable {
    Unreadable(format!("{field} is missing"))
}

fn vote_from(vote: Option<WireVote>) -> Result<Vote, Unreadable> {
    vote.as_ref()
        .map(codec::vote_from_wire)
        .ok_or_else(|| missing("vote"))
}

fn id_from(id: Option<WireLogId>) -> Option<LogId> {
    id.as_ref().map(codec::log_id_from_wire)
}

fn id_to(id: &Option<LogId>) -> Option<WireLogId> {
    id.as_ref().map(codec::log_id_to_wire)
}

/// Encodes entries for a follower.
pub fn append_to(request: &AppendEntriesRequest<TypeConfig>) -> Bytes {
    wire::AppendRequest {
        vote: Some(codec::vote_to_wire(&request.vote)),
        previous: id_to(&request.prev_log_id),
        entries: request.entries.iter().map(codec::encode_entry).collect(),
        committed: id_to(&request.leader_commit),
    }
    .encode_to_vec()
    .into()
}

/// Decodes entries from the leader.
pub fn append_from(payload: Bytes) -> Result<AppendEntriesRequest<TypeConfig>, Unreadable> {
    let message: wire::AppendRequest = decode(payload)?;
    let entries = message.entries.into_iter().map(codec::decode_entry);
    Ok(AppendEntriesRequest {
        vote: vote_from(message.vote)?,
        prev_log_id: id_from(message.previous),
        entries: entries
            .collect::<Result<_, _>>()
            .map_err(|error| Unreadable(error.to_string()))?,
        leader_commit: id_from(message.committed),
    })
}

/// Encodes the answer to one message of an append stream.
pub fn appended_to(result: &StreamAppendResult<TypeConfig>) -> wire::AppendReply {
    use wire::append_reply::Result as Reply;
    let result = match result {
        Ok(last) => Reply::Flushed(wire::Flushed { last: id_to(last) }),
        Err(StreamAppendError::Conflict(id)) => Reply::Conflict(codec::log_id_to_wire(id)),
        Err(StreamAppendError::HigherVote(vote)) => Reply::HigherVote(codec::vote_to_wire(vote)),
    };
    wire::AppendReply {
        result: Some(result),
    }
}

/// Decodes the answer to one message of an append stream.
pub fn appended_from(payload: Bytes) -> Result<StreamAppendResult<TypeConfig>, Unreadable> {
    use wire::append_reply::Result as Reply;
    let message: wire::AppendReply = decode(payload)?;
    Ok(match message.result.ok_or_else(|| missing("result"))? {
        Reply::Flushed(flushed) => Ok(id_from(flushed.last)),
        Reply::Conflict(id) => Err(StreamAppendError::Conflict(codec::log_id_from_wire(&id))),
        Reply::HigherVote(vote) => Err(StreamAppendError::HigherVote(codec::vote_from_wire(&vote))),
    })
}

/// The same for a request outside a stream: openraft answers those in other words.
pub fn append_result(
    response: AppendEntriesResponse<TypeConfig>,
    previous: Option<LogId>,
    last: Option<LogId>,
) -> StreamAppendResult<TypeConfig> {
    match response {
        AppendEntriesResponse::Success => Ok(last),
        AppendEntriesResponse::PartialSuccess(id) => Ok(id),
        AppendEntriesResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote)),
        AppendEntriesResponse::Conflict => match previous {
            Some(id) => Err(StreamAppendError::Conflict(id)),
            // Nothing comes before the first entry, so nothing can conflict there.
            None => Ok(None),
        },
    }
}

/// Encodes a request for a vote.
pub fn vote_request_to(request: &VoteRequest<TypeConfig>) -> Bytes {
    wire::VoteRequest {
        vote: Some(codec::vote_to_wire(&request.vote)),
        last: id_to(&request.last_log_id),
        leadership_transfer: request.leadership_transfer,
    }
    .encode_to_vec()
    .into()
}

/// Decodes a request for a vote.
pub fn vote_request_from(payload: Bytes) -> Result<VoteRequest<TypeConfig>, Unreadable> {
    let message: wire::VoteRequest = decode(payload)?;
    let mut request = VoteRequest::new(vote_from(message.vote)?, id_from(message.last));
    request.leadership_transfer = message.leadership_transfer;
    Ok(request)
}

/// Encodes the answer to a request for a vote.
pub fn vote_reply_to(response: &VoteResponse<TypeConfig>) -> wire::VoteReply {
    wire::VoteReply {
        vote: Some(codec::vote_to_wire(&response.vote)),
        granted: response.vote_granted,
        last: id_to(&response.last_log_id),
    }
}

/// Decodes the answer to a request for a vote.
pub fn vote_reply_from(payload: Bytes) -> Result<VoteResponse<TypeConfig>, Unreadable> {
    let message: wire::VoteReply = decode(payload)?;
    let vote = vote_from(message.vote)?;
    Ok(VoteResponse::new(
        vote,
        id_from(message.last),
        message.granted,
    ))
}

/// Encodes the order to take over.
pub fn transfer_to(request: &TransferLeaderRequest<TypeConfig>) -> Bytes {
    wire::TransferRequest {
        from: Some(codec::vote_to_wire(request.from_leader())),
        to: *request.to_node_id(),
        last: request.last_log_id().map(codec::log_id_to_wire),
    }
    .encode_to_vec()
    .into()
}

/// Decodes the order to take over.
pub fn transfer_from(payload: Bytes) -> Result<TransferLeaderRequest<TypeConfig>, Unreadable> {
    let message: wire::TransferRequest = decode(payload)?;
    let from = vote_from(message.from)?;
    Ok(TransferLeaderRequest::new(
        from,
        message.to,
        id_from(message.last),
    ))
}

/// Encodes the answer to the order to take over.
pub fn transferred_to(response: &TransferLeaderResponse<TypeConfig>) -> wire::TransferReply {
    use openraft::raft::TransferLeaderError::{LogNotFlushed, VoteChanged};
    let refused = match response {
        Ok(()) => None,
        Err(VoteChanged { expected, actual }) => Some(wire::transfer_reply::Refused::VoteChanged(
            wire::VoteChanged {
                expected: Some(codec::vote_to_wire(expected)),
                actual: Some(codec::vote_to_wire(actual)),
            },
        )),
        Err(LogNotFlushed { expected, actual }) => Some(wire::transfer_reply::Refused::NotFlushed(
            wire::NotFlushed {
                expected: id_to(expected),
                actual: id_to(actual),
            },
        )),
    };
    wire::TransferReply { refused }
}

/// Decodes the answer to the order to take over.
pub fn transferred_from(payload: Bytes) -> Result<TransferLeaderResponse<TypeConfig>, Unreadable> {
    use openraft::raft::TransferLeaderError::{LogNotFlushed, VoteChanged};
    use wire::transfer_reply::Refused;
    let message: wire::TransferReply = decode(payload)?;
    Ok(match message.refused {
        None => Ok(()),
        Some(Refused::VoteChanged(changed)) => Err(VoteChanged {
            expected: vote_from(changed.expected)?,
            actual: vote_from(changed.actual)?,
        }),
        Some(Refused::NotFlushed(behind)) => Err(LogNotFlushed {
            expected: id_from(behind.expected),
            actual: id_from(behind.actual),
        }),
    })
}
