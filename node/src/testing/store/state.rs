//! The calls of `troika.v1.State`.

use super::{FakeStore, bytes_hash};
use crate::execution::StateView;
use std::sync::atomic::Ordering;
use tonic::{Request, Response, Status};
use troika_proto::wire::{hash_bytes, number_bytes};
use troika_proto::{Address, U256, v1};

#[tonic::async_trait]
impl v1::state_server::State for FakeStore {
    async fn head(
        &self,
        _request: Request<v1::HeadRequest>,
    ) -> Result<Response<v1::HeadResponse>, Status> {
        let state = self.up()?;
        Ok(Response::new(v1::HeadResponse {
            meta: state.meta(),
            config: Some((&state.genesis.config).into()),
            genesis_hash: hash_bytes(state.genesis.header().hash()),
            block_hash: hash_bytes(state.head),
            header: Some((&state.blocks[&state.head].header).into()),
            open_round: state.open_round().unwrap_or(0),
            ..v1::HeadResponse::default()
        }))
    }

    async fn block(
        &self,
        request: Request<v1::BlockRequest>,
    ) -> Result<Response<v1::BlockResponse>, Status> {
        let state = self.up()?;
        use v1::block_request::Which;
        let hash = match request.into_inner().which {
            Some(Which::Hash(hash)) => bytes_hash(&hash),
            // There are no forks here.
            Some(Which::Number(number)) => {
                let mut blocks = state.blocks.iter();
                let found = blocks.find(|(_, block)| block.header.number == number);
                *found.ok_or_else(|| Status::not_found("no such block"))?.0
            }
            None => return Err(Status::invalid_argument("which: is missing")),
        };
        let block = state.blocks.get(&hash);
        let block = block.ok_or_else(|| Status::not_found("no such block"))?;
        let round = state.rounds.get(&block.round);
        let shards = round.into_iter().flat_map(|r| r.shards.iter());
        let shards = shards.map(|(index, shard)| v1::BlockShard {
            index: *index,
            winner: round.and_then(|r| r.winners.get(index).cloned()),
            header: Some((&shard.header).into()),
        });
        Ok(Response::new(v1::BlockResponse {
            meta: state.meta(),
            hash: hash_bytes(hash),
            header: Some((&block.header).into()),
            round: block.round,
            shards: shards.collect(),
            canonical: true,
        }))
    }

    async fn shard(
        &self,
        request: Request<v1::ShardRequest>,
    ) -> Result<Response<v1::ShardResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.up()?;
        state.shard_reads += 1;
        if request.diff && !request.transactions {
            if self.no_diffs.load(Ordering::Acquire) {
                return Err(Status::not_found("no diffs"));
            }
            state.diff_reads.push((request.round, request.shard));
        }
        let round = state.rounds.get(&request.round);
        let shard = round.and_then(|r| {
            Some((
                r.winners.get(&request.shard)?,
                r.shards.get(&request.shard)?,
            ))
        });
        let (winner, shard) = shard.ok_or_else(|| Status::not_found("undecided"))?;
        let mut body = v1::ShardBody::from(&shard.body);
        if !request.diff {
            body.diff = None;
        }
        Ok(Response::new(v1::ShardResponse {
            meta: state.meta(),
            winner: Some(winner.clone()),
            header: Some((&shard.header).into()),
            body: Some(body),
        }))
    }

    async fn read(
        &self,
        request: Request<v1::ReadRequest>,
    ) -> Result<Response<v1::ReadResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.up()?;
        state.state_reads += 1;
        let accounts = request.keys.iter().filter(|key| key.slot.is_empty());
        let accounts = accounts.map(|key| Address::from_slice(&key.address));
        state.accounts_read.extend(accounts);
        let hash = bytes_hash(&request.block);
        let block = state.blocks.get(&hash);
        let view = &block
            .ok_or_else(|| Status::out_of_range("the block is no longer kept"))?
            .state;
        let values = request.keys.iter().map(|key| {
            let address = Address::from_slice(&key.address);
            if key.slot.is_empty() {
                match view.account(address).expect("memory") {
                    None => v1::StateValue::default(),
                    Some(account) => v1::StateValue {
                        exists: true,
                        balance: number_bytes(account.balance),
                        nonce: account.nonce,
                        code_hash: if account.has_code() {
                            hash_bytes(account.code_hash)
                        } else {
                            bytes::Bytes::new()
                        },
                        slot: bytes::Bytes::new(),
                    },
                }
            } else {
                let slot = view.slot(address, U256::from_be_slice(&key.slot));
                v1::StateValue {
                    slot: number_bytes(slot.expect("memory")),
                    ..v1::StateValue::default()
                }
            }
        });
        let codes = request.codes.iter().map(|code| {
            let code = view.code(bytes_hash(code));
            code.map(|code| code.original_bytes().into())
                .unwrap_or_default()
        });
        let accounts = request.keys.iter().filter(|key| key.slot.is_empty());
        let wanted =
            accounts.filter(|_| request.ahead_bytes > 0 && self.ahead.load(Ordering::Relaxed));
        let ahead = wanted.filter_map(|key| {
            let address = Address::from_slice(&key.address);
            let account = state.genesis.accounts.get(&address)?;
            let slots = account.storage.iter().map(|(slot, value)| v1::SlotValue {
                slot: hash_bytes((*slot).into()),
                value: number_bytes(*value),
            });
            Some(v1::AccountAhead {
                address: key.address.clone(),
                account: Some(v1::StateValue {
                    exists: true,
                    balance: number_bytes(account.balance),
                    nonce: account.nonce,
                    code_hash: hash_bytes(troika_proto::keccak(&account.code)),
                    slot: bytes::Bytes::new(),
                }),
                code: account.code.clone().into(),
                slots: slots.collect(),
                whole: true,
            })
        });
        Ok(Response::new(v1::ReadResponse {
            meta: state.meta(),
            block: request.block.clone(),
            values: values.collect(),
            codes: codes.collect(),
            ahead: ahead.collect(),
        }))
    }

    async fn block_diff(
        &self,
        request: Request<v1::BlockDiffRequest>,
    ) -> Result<Response<v1::BlockDiffResponse>, Status> {
        let mut state = self.up()?;
        state.block_diff_reads += 1;
        let hash = bytes_hash(&request.into_inner().block);
        let block = state.blocks.get(&hash);
        let block = block.ok_or_else(|| Status::not_found("no such block"))?;
        Ok(Response::new(v1::BlockDiffResponse {
            meta: state.meta(),
            diff: Some((&block.diff).into()),
            fees: number_bytes(block.fees),
            parent: hash_bytes(block.header.parent_hash),
        }))
    }

    async fn find_transaction(
        &self,
        request: Request<v1::FindTransactionRequest>,
    ) -> Result<Response<v1::FindTransactionResponse>, Status> {
        let state = self.up()?;
        let hash = bytes_hash(&request.into_inner().hash);
        let mut places = Vec::new();
        for (number, round) in &state.rounds {
            let Some(block) = round.block else { continue };
            for (shard, accepted) in &round.shards {
                let raws = accepted.body.transactions.iter();
                let mut hashes = raws.map(alloy_primitives::keccak256);
                places.extend(
                    hashes
                        .position(|h| h == hash)
                        .map(|index| v1::TransactionPlace {
                            block_hash: hash_bytes(block),
                            block_number: state.blocks[&block].header.number,
                            round: *number,
                            shard: *shard,
                            index: index as u32,
                            canonical: true,
                        }),
                );
            }
        }
        Ok(Response::new(v1::FindTransactionResponse {
            meta: state.meta(),
            places,
        }))
    }
}
