//! The service `State`: blocks, shards and the chain's state.
//!
//! Small values are in memory; bodies and headers are cold records, read a few at a time without the machine's lock.

use super::context::Context;
use super::limits::RECORDS_PER_READ;
use super::reads;
use super::room::Share;
use super::rounds::{missing, no_round};
use super::status::Fault;
use crate::db::DbError;
use crate::runtime::{Instant, Runtime};
use crate::state::{Machine, RecordKey, RefusalCode, RoundId, Winner, records};
use bytes::Bytes;
use prost::Message;
use tonic::{Request, Response, Status};
use troika_proto::limits::MAX_MESSAGE_BYTES;
use troika_proto::record::v1 as record;
use troika_proto::v1::state_server::State;
use troika_proto::wire::{hash, hash_bytes, number, number_bytes};
use troika_proto::{B256, Diff, Header, Malformed, Shard, U256, v1};

/// See the module.
pub(super) struct StateService {
    context: Context,
}

/// A sealed block: its header and the round that made it.
struct Sealed {
    hash: B256,
    header: Header,
    round: RoundId,
}

impl StateService {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    async fn cold(&self, key: RecordKey) -> Result<Option<Bytes>, Fault> {
        let found = self.context.handle().cold(key).await;
        found.map_err(unreadable)
    }

    /// A sealed block by its hash; asks the quorum where this member does not know it.
    async fn block_by_hash(&self, hash: B256, deadline: Instant) -> Result<Sealed, Fault> {
        for attempt in 0..2 {
            if let Some(sealed) = self.known_block(hash).await? {
                return Ok(sealed);
            }
            if attempt == 0 {
                self.context.linearize(true, deadline).await?;
            }
        }
        Err(Fault::NotFound(format!("there is no block {hash}")))
    }

    async fn known_block(&self, hash: B256) -> Result<Option<Sealed>, Fault> {
        if let Some(block) = self.context.read(|m| m.held_block(&hash)) {
            return Ok(Some(Sealed {
                hash,
                header: (*block.header).clone(),
                round: block.round,
            }));
        }
        let Some(bytes) = self.cold(RecordKey::Block(hash)).await? else {
            return Ok(None);
        };
        let (header, round) = records::block::decode(&bytes).map_err(damaged)?;
        Ok(Some(Sealed {
            hash,
            header,
            round,
        }))
    }

    async fn find_block(
        &self,
        request: &v1::BlockRequest,
        deadline: Instant,
    ) -> Result<Sealed, Fault> {
        use v1::block_request::Which;
        let hash = match &request.which {
            None => return Err(Malformed::missing("hash or number").into()),
            Some(Which::Hash(bytes)) => hash("hash", bytes)?,
            Some(Which::Number(number)) => {
                let found = self.context.read(|m| block_at(m, *number));
                match found {
                    Err(Fault::NotFound(_) | Fault::NoChain) => {
                        self.context.linearize(true, deadline).await?;
                        self.context.read(|m| block_at(m, *number))?
                    }
                    found => found?,
                }
            }
        };
        self.block_by_hash(hash, deadline).await
    }

    /// An accepted shard as it was submitted. Its bytes are added to the `share`.
    async fn accepted(
        &self,
        round: RoundId,
        shard: u32,
        winner: &Winner,
        share: &mut Share,
    ) -> Result<(v1::ShardHeader, v1::ShardBody), Fault> {
        let record = self.cold(RecordKey::Shard { round, shard }).await?;
        share.grow(record.as_ref().map_or(0, Bytes::len))?;
        self.open(round, shard, winner, record)
    }

    /// The accepted shards of a round from `first` on, as `winners` says who made them; a few at a time, so that no more
    /// of a block is in memory than is looked at. Their bytes are added to the `share`.
    async fn some_accepted(
        &self,
        round: RoundId,
        first: u32,
        winners: &[Winner],
        share: &mut Share,
    ) -> Result<Vec<(v1::ShardHeader, v1::ShardBody)>, Fault> {
        let indices = (first..).take(winners.len());
        let keys: Vec<_> = indices
            .clone()
            .map(|shard| RecordKey::Shard { round, shard })
            .collect();
        let records = self.context.handle().cold_all(&keys).await;
        let records = records.map_err(unreadable)?;
        share.grow(records.iter().flatten().map(Bytes::len).sum())?;
        let found = indices.zip(winners).zip(records);
        found
            .map(|((shard, winner), record)| self.open(round, shard, winner, record))
            .collect()
    }

    /// A shard's record, opened. A shard that was filled at the seal is the empty one.
    fn open(
        &self,
        round: RoundId,
        shard: u32,
        winner: &Winner,
        record: Option<Bytes>,
    ) -> Result<(v1::ShardHeader, v1::ShardBody), Fault> {
        let Some(bytes) = record else {
            let empty = Shard::empty(shard);
            if winner.shard_hash == empty.hash {
                return Ok(((&empty.header).into(), (&empty.body).into()));
            }
            // It was pruned between the two looks, or the record is lost.
            self.context
                .read(|m| m.decided(round, shard))
                .map_err(missing)?;
            return Err(Fault::Damaged(format!(
                "the record of shard {shard} of round {round} is missing: ask another member"
            )));
        };
        let record::Shard { accepted, .. } = records::shard::decode_wire(bytes).map_err(damaged)?;
        let accepted = accepted.unwrap_or_default();
        Ok((
            accepted.header.unwrap_or_default(),
            accepted.body.unwrap_or_default(),
        ))
    }

    /// All winners of a sealed round.
    fn winners(&self, round: RoundId) -> Result<Vec<Winner>, Fault> {
        self.context.read(|m| {
            let found = m.round(round).ok_or_else(|| no_round(m, round))?;
            let shards = 0..found.shards();
            Ok(shards
                .filter_map(|shard| m.winner_of(round, shard))
                .collect())
        })
    }

    async fn block_diff(
        &self,
        block: B256,
        deadline: Instant,
    ) -> Result<v1::BlockDiffResponse, Fault> {
        let sealed = self.block_by_hash(block, deadline).await?;
        let mut share = self.context.room().reads.take(0)?;
        let mut bodies = Vec::new();
        let mut fees = U256::ZERO;
        let winners = match sealed.round {
            0 => Vec::new(),
            round => self.winners(round)?,
        };
        let mut bytes = 0;
        for (part, winners) in winners.chunks(RECORDS_PER_READ).enumerate() {
            let first = (part * RECORDS_PER_READ) as u32;
            let accepted = self.some_accepted(sealed.round, first, winners, &mut share);
            for (header, body) in accepted.await? {
                fees = fees.saturating_add(number("fees", &header.fees).map_err(bad_record)?);
                bytes += body.diff.as_ref().map_or(0, Message::encoded_len);
                bodies.extend(body.diff);
            }
            if bytes > MAX_MESSAGE_BYTES {
                return Err(Fault::TooLarge(format!(
                    "the diff of block {block} is above MAX_MESSAGE_BYTES ({MAX_MESSAGE_BYTES} bytes): read it shard by shard"
                )));
            }
        }
        let merge = move || -> Result<Diff, Fault> {
            let mut merged = Diff::default();
            for diff in &bodies {
                let diff = Diff::try_from(diff).map_err(bad_record)?;
                merged
                    .merge(&diff)
                    .map_err(|e| Fault::Damaged(e.to_string()))?;
            }
            Ok(merged)
        };
        let merged = Runtime::spawn_blocking(merge).await?;
        Ok(v1::BlockDiffResponse {
            meta: self.context.meta(),
            diff: Some((&merged).into()),
            fees: number_bytes(fees),
            parent: hash_bytes(sealed.header.parent_hash),
        })
    }

    /// Why the state at a block cannot be read.
    async fn not_held(&self, block: B256) -> Result<Fault, Fault> {
        let oldest = self.context.read(Machine::oldest_state);
        Ok(match self.known_block(block).await? {
            Some(sealed) => Fault::Pruned(format!(
                "block: the state of block {} ({block}) is no longer kept; the oldest is that of block {oldest}",
                sealed.header.number
            )),
            None => Fault::NotFound(format!("block: there is no block {block}")),
        })
    }

    /// Where a transaction stands, newest first.
    async fn places(&self, hash: B256) -> Result<Vec<v1::TransactionPlace>, Fault> {
        let mut places = Vec::new();
        for key in self.context.read(|m| m.transaction_keys(hash)) {
            if let Some(bytes) = self.cold(key).await? {
                let place = records::transaction::decode(&bytes).map_err(damaged)?;
                places.extend(self.context.read(|m| place_to_wire(m, place)));
            }
        }
        Ok(places)
    }
}

fn unreadable(error: DbError) -> Fault {
    Fault::Damaged(format!("this member cannot read a record: {error}"))
}

fn damaged(error: records::Corrupt) -> Fault {
    Fault::Damaged(format!("this member cannot read a record: {error}"))
}

fn bad_record(error: Malformed) -> Fault {
    Fault::Damaged(format!("this member cannot read a record: {error}"))
}

/// Hash of the block with this number on the head's chain.
fn block_at(machine: &Machine, number: u64) -> Result<B256, Fault> {
    let chain = machine.current_chain().ok_or(Fault::NoChain)?;
    if let Some((hash, _)) = machine.canonical_block(number) {
        return Ok(hash);
    }
    let head = chain.head.header.number;
    Err(if number > head {
        Fault::NotFound(format!(
            "number: there is no block {number}; the head is {head}"
        ))
    } else {
        Fault::Pruned(format!(
            "number: block {number} is forgotten, with its round"
        ))
    })
}

fn place_to_wire(machine: &Machine, place: records::Place) -> Option<v1::TransactionPlace> {
    let round = machine.round(place.round)?;
    let number = round.environment.number;
    Some(v1::TransactionPlace {
        block_hash: hash_bytes(round.block_hash),
        block_number: number,
        round: place.round,
        shard: place.shard,
        index: place.index,
        canonical: machine.is_canonical(number, &round.block_hash),
    })
}

#[tonic::async_trait]
impl State for StateService {
    async fn head(
        &self,
        request: Request<v1::HeadRequest>,
    ) -> Result<Response<v1::HeadResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        self.context
            .linearize(request.linearizable, deadline)
            .await?;
        let mut response = v1::HeadResponse {
            cluster_id: Bytes::copy_from_slice(&self.context.handle().cluster_id()),
            ..Default::default()
        };
        (response.meta, ()) = self.context.look(|m| {
            let Some(chain) = m.current_chain() else {
                return;
            };
            response.config = Some((&*chain.config).into());
            response.genesis_hash = hash_bytes(chain.genesis_hash);
            response.block_hash = hash_bytes(chain.head.hash);
            response.header = Some((&*chain.head.header).into());
            response.open_round = m.open_build_round().unwrap_or(0);
            response.oldest_state = m.oldest_state();
            response.pruned_below = m.pruned_below();
        });
        Ok(Response::new(response))
    }

    async fn block(
        &self,
        request: Request<v1::BlockRequest>,
    ) -> Result<Response<v1::BlockResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        let sealed = self.find_block(&request, deadline).await?;
        let number = sealed.header.number;
        let canonical = self.context.read(|m| m.is_canonical(number, &sealed.hash));
        let mut shards = Vec::new();
        let winners = match sealed.round {
            0 => Vec::new(),
            // The header may outlive its round: BLOCKHASH needs it.
            round => match self.winners(round) {
                Err(Fault::Pruned(_)) => Vec::new(),
                winners => winners?,
            },
        };
        for (part, winners) in winners.chunks(RECORDS_PER_READ).enumerate() {
            let first = (part * RECORDS_PER_READ) as u32;
            // Of each part only the headers are kept.
            let mut share = self.context.room().reads.take(0)?;
            let accepted = self.some_accepted(sealed.round, first, winners, &mut share);
            let accepted = accepted.await?;
            let found = (first..).zip(winners).zip(accepted);
            shards.extend(found.map(|((index, winner), (header, _))| v1::BlockShard {
                index,
                winner: Some(winner.into()),
                header: Some(header),
            }));
        }
        Ok(Response::new(v1::BlockResponse {
            meta: self.context.meta(),
            hash: hash_bytes(sealed.hash),
            header: Some((&sealed.header).into()),
            round: sealed.round,
            shards,
            canonical,
        }))
    }

    async fn shard(
        &self,
        request: Request<v1::ShardRequest>,
    ) -> Result<Response<v1::ShardResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        let (round, shard) = (request.round, request.shard);
        let mut found = self.context.read(|m| decided(m, round, shard));
        if let Err(Fault::NotFound(_)) = found {
            self.context.linearize(true, deadline).await?;
            found = self.context.read(|m| decided(m, round, shard));
        }
        let winner = found?;
        let mut share = self.context.room().reads.take(0)?;
        let accepted = self.accepted(round, shard, &winner, &mut share);
        let (header, body) = accepted.await?;
        let body = v1::ShardBody {
            transactions: if request.transactions {
                body.transactions
            } else {
                Vec::new()
            },
            receipts: if request.receipts {
                body.receipts
            } else {
                Vec::new()
            },
            diff: body.diff.filter(|_| request.diff),
        };
        Ok(Response::new(v1::ShardResponse {
            meta: self.context.meta(),
            winner: Some((&winner).into()),
            header: Some(header),
            body: Some(body),
        }))
    }

    async fn read(
        &self,
        request: Request<v1::ReadRequest>,
    ) -> Result<Response<v1::ReadResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        self.context
            .linearize(request.linearizable, deadline)
            .await?;
        match reads::read(&self.context, &request, deadline).await? {
            Ok(response) => Ok(Response::new(response)),
            Err(block) => Err(self.not_held(block).await?.into()),
        }
    }

    async fn block_diff(
        &self,
        request: Request<v1::BlockDiffRequest>,
    ) -> Result<Response<v1::BlockDiffResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        let block = hash("block", &request.block).map_err(Fault::from)?;
        Ok(Response::new(
            Self::block_diff(self, block, deadline).await?,
        ))
    }

    async fn find_transaction(
        &self,
        request: Request<v1::FindTransactionRequest>,
    ) -> Result<Response<v1::FindTransactionResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.context.admit(&metadata, request.meta.as_ref()).await?;
        let hash = hash("hash", &request.hash).map_err(Fault::from)?;
        let places = self.places(hash).await?;
        Ok(Response::new(v1::FindTransactionResponse {
            meta: self.context.meta(),
            places,
        }))
    }
}

/// The winner of a shard, or why there is none.
fn decided(machine: &Machine, round: RoundId, shard: u32) -> Result<Winner, Fault> {
    match machine.decided(round, shard) {
        Ok(Some(winner)) => Ok(winner),
        Ok(None) => Err(Fault::NotFound(format!(
            "shard {shard} of round {round} is not decided yet"
        ))),
        Err(refusal) if refusal.code == RefusalCode::ShardOutOfRange => {
            Err(Malformed::new("shard", refusal.message).into())
        }
        Err(refusal) => Err(missing(refusal)),
    }
}
