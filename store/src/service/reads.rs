//! Reads of the state at a block.

use super::ahead;
use super::context::Context;
use super::limits::{AHEAD_BYTES, READ_KEYS_PER_LOOK};
use super::status::Fault;
use crate::runtime::Instant;
use crate::state::{Account, Machine};
use bytes::Bytes;
use troika_proto::limits::{MAX_READ_CODES, MAX_READ_KEYS};
use troika_proto::wire::{at_most, hash, hash_bytes, number_bytes};
use troika_proto::{B256, LockKey, Malformed, v1};

/// Answers a read, or names the block whose state is not held here.
///
/// # Errors
/// [`Fault`]: the request makes no sense, or there is no chain yet.
pub(super) async fn read(
    context: &Context,
    request: &v1::ReadRequest,
    deadline: Instant,
) -> Result<Result<v1::ReadResponse, B256>, Fault> {
    let keys = state_keys(&request.keys)?;
    let codes = code_hashes(&request.codes)?;
    let block = match request.block.is_empty() {
        true => context
            .read(|m| m.current_chain().map(|c| c.head.hash))
            .ok_or(Fault::NoChain)?,
        false => hash("block", &request.block)?,
    };
    let is_held = || context.read(|m| m.state_at(&block).is_some());
    if !is_held() {
        // Perhaps this member lags; the quorum knows.
        context.linearize(true, deadline).await?;
    }
    let mut values = Vec::with_capacity(keys.len());
    for part in keys.chunks(READ_KEYS_PER_LOOK) {
        if !context.read(|m| read_keys(m, &block, part, &mut values)) {
            return Ok(Err(block));
        }
    }
    if keys.is_empty() && !is_held() {
        return Ok(Err(block));
    }
    let codes = context.read(|m| {
        let code = |hash: &B256| m.code(hash).unwrap_or_default();
        codes.iter().map(code).collect()
    });
    let most = (request.ahead_bytes as usize).min(AHEAD_BYTES);
    // A favour, which is not done where many are asked at a time.
    let ahead = match context.room().reads.take(most) {
        Ok(_share) => ahead::of(context, block, (&keys, &values), most),
        Err(_) => Vec::new(),
    };
    Ok(Ok(v1::ReadResponse {
        meta: context.meta(),
        block: hash_bytes(block),
        values,
        codes,
        ahead,
    }))
}

fn code_hashes(codes: &[Bytes]) -> Result<Vec<B256>, Malformed> {
    at_most("codes", codes.len(), MAX_READ_CODES)?;
    let codes = codes.iter().enumerate();
    codes
        .map(|(i, code)| hash(&format!("codes[{i}]"), code))
        .collect()
}

fn state_keys(keys: &[v1::StateKey]) -> Result<Vec<LockKey>, Malformed> {
    at_most("keys", keys.len(), MAX_READ_KEYS)?;
    let checked = keys.iter().enumerate().map(|(i, key)| {
        // A lock key has the same two fields, and the same form.
        let key = v1::LockKey {
            address: key.address.clone(),
            slot: key.slot.clone(),
        };
        LockKey::try_from(&key).map_err(|e| e.within(format_args!("keys[{i}]")))
    });
    checked.collect()
}

/// Reads some keys at a block; false if its state is not held.
fn read_keys(
    machine: &Machine,
    block: &B256,
    keys: &[LockKey],
    values: &mut Vec<v1::StateValue>,
) -> bool {
    let Some(state) = machine.state_at(block) else {
        return false;
    };
    values.extend(keys.iter().map(|key| match &key.slot {
        Some(slot) => v1::StateValue {
            slot: number_bytes(state.slot(&key.address, slot)),
            ..Default::default()
        },
        None => account_value(state.account(&key.address)),
    }));
    true
}

/// An account as reads answer it.
pub(super) fn account_value(account: Option<Account>) -> v1::StateValue {
    account.map_or_else(v1::StateValue::default, |account| v1::StateValue {
        exists: true,
        balance: number_bytes(account.balance),
        nonce: account.nonce,
        code_hash: account.code_hash.map_or_else(Bytes::new, hash_bytes),
        slot: Bytes::new(),
    })
}
