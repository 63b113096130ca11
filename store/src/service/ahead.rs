//! What a read answers ahead of being asked for.
//!
//! Whoever executes on a state that it does not know learns what to ask for next only from what it was answered last: an
//! account's code, then its slots, then the accounts that these name. Each such step is a call. So an answer may bring along,
//! for the accounts that it tells of, their code and the whole of their storage where that is small, and the same of the
//! accounts with code that those point to: proxies name what is behind them, pairs their tokens, routers their factories.

use super::context::Context;
use super::limits::{AHEAD_ACCOUNTS, AHEAD_CODES, AHEAD_POINTERS, AHEAD_SLOTS};
use super::reads::account_value;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use troika_proto::wire::{address_bytes, hash_bytes, number_bytes};
use troika_proto::{Address, B256, LockKey, v1};

/// Accounts with code at `block`: those that `keys` and their `values` name, then whom those point to, nearest first, until
/// `most_bytes` are reached.
pub(super) fn of(
    context: &Context,
    block: B256,
    (keys, values): (&[LockKey], &[v1::StateValue]),
    most_bytes: usize,
) -> Vec<v1::AccountAhead> {
    let (mut ahead, mut bytes, mut codes) = (Vec::new(), 0, BTreeSet::new());
    if most_bytes == 0 {
        return ahead;
    }
    let mut next = Accounts::default();
    for (key, value) in keys.iter().zip(values) {
        match key.slot {
            None if value.code_hash.is_empty() => {}
            None => next.visit(key.address),
            Some(_) => next.visit_in(&value.slot),
        }
    }
    while bytes < most_bytes
        && let Some(address) = next.queue.pop_front()
    {
        let Some((hash, mut account)) = account(context, block, address) else {
            continue;
        };
        let slots = account.slots.iter();
        slots.for_each(|slot| next.visit_in(&slot.value));
        match codes.insert(hash) {
            true => {
                let named = context.pointers().of(hash, &account.code);
                named.iter().for_each(|address| next.visit(*address));
            }
            false => account.code.clear(),
        }
        bytes += account.encoded_len();
        ahead.push(account);
    }
    ahead
}

/// The addresses that codes name: to find them takes longer than everything else here, and codes never change.
#[derive(Default)]
pub(super) struct Pointers(Mutex<BTreeMap<B256, Arc<[Address]>>>);

impl Pointers {
    fn of(&self, hash: B256, code: &[u8]) -> Arc<[Address]> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known().get(&hash) {
            return found.clone();
        }
        let mut found = Vec::new();
        words_in_code(code, |word| {
            let room = found.len() < AHEAD_POINTERS;
            found.extend(address_in(word).filter(|_| room));
        });
        let found: Arc<[Address]> = found.into();
        let mut known = known();
        if known.len() >= AHEAD_CODES {
            known.clear();
        }
        known.insert(hash, found.clone());
        found
    }
}

/// Accounts that are to be looked at, each once.
#[derive(Default)]
struct Accounts {
    queue: VecDeque<Address>,
    seen: BTreeSet<Address>,
}

impl Accounts {
    fn visit(&mut self, address: Address) {
        if self.seen.len() < AHEAD_ACCOUNTS && self.seen.insert(address) {
            self.queue.push_back(address);
        }
    }

    /// The address that a number may hold, in its last 20 bytes.
    fn visit_in(&mut self, number: &[u8]) {
        address_in(number).into_iter().for_each(|a| self.visit(a));
    }
}

/// An account, and its code's hash. `None` where it has no code, and where the block's state is gone meanwhile.
fn account(context: &Context, block: B256, address: Address) -> Option<(B256, v1::AccountAhead)> {
    context.read(|machine| {
        let state = machine.state_at(&block)?;
        let account = state.account(&address)?;
        let hash = account.code_hash?;
        let storage = state.storage(&address, AHEAD_SLOTS);
        let whole = storage.is_some();
        let slots = storage.into_iter().flatten();
        let slots = slots.map(|(slot, value)| v1::SlotValue {
            slot: hash_bytes(slot.into()),
            value: number_bytes(value),
        });
        let ahead = v1::AccountAhead {
            address: address_bytes(address),
            account: Some(account_value(Some(account))),
            code: machine.code(&hash)?,
            slots: slots.collect(),
            whole,
        };
        Some((hash, ahead))
    })
}

/// The address that a number may hold. Where several values share a slot, the first is in the last bytes. An address that
/// begins or ends with a zero is less likely than a number that does.
fn address_in(number: &[u8]) -> Option<Address> {
    let address = number.last_chunk::<20>()?;
    (address[0] != 0 && address[19] != 0).then(|| address.into())
}

/// What a code pushes onto its stack as addresses or as whole words.
fn words_in_code(code: &[u8], mut each: impl FnMut(&[u8])) {
    const PUSH1: u8 = 0x60;
    const PUSH20: u8 = 0x73;
    const PUSH32: u8 = 0x7f;
    let mut at = 0;
    while let Some(opcode) = code.get(at) {
        at += 1;
        if (PUSH1..=PUSH32).contains(opcode) {
            let end = at + usize::from(opcode - PUSH1) + 1;
            if let (PUSH20 | PUSH32, Some(word)) = (*opcode, code.get(at..end)) {
                each(word);
            }
            at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_names_what_it_pushes() {
        let (one, word, hidden) = ([0x11; 20], [0x22; 32], [0x73; 20]);
        let mut code = vec![0x5b, 0x73];
        code.extend(one);
        code.push(0x7f);
        code.extend(word);
        // Inside the data of another push.
        code.push(0x7e);
        code.extend([[0x73].as_slice(), &hidden, &[1; 10]].concat());
        // Cut short.
        code.extend([0x73, 1, 2, 3]);
        let mut found = Vec::new();
        words_in_code(&code, |word| found.push(word.to_vec()));
        assert_eq!(found, [one.to_vec(), word.to_vec()]);
    }

    #[test]
    fn small_and_round_numbers_hold_no_addresses() {
        assert_eq!(address_in(&[]), None);
        assert_eq!(address_in(&[7; 19]), None);
        let address = [7; 20];
        assert_eq!(address_in(&address), Some(address.into()));
        let packed = [[1; 3].as_slice(), &address].concat();
        assert_eq!(address_in(&packed), Some(address.into()));
        let round = [[7; 19].as_slice(), &[0]].concat();
        assert_eq!(address_in(&round), None);
    }
}
