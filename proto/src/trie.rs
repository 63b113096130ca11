//! The ordered tries of Ethereum, and the two-level trie over a diff.

use crate::diff::Diff;
use crate::hash::keccak;
use crate::lock::LockRule;
use alloy_primitives::B256;
use alloy_rlp::{BufMut, Encodable, Header as RlpHeader};
use alloy_trie::{HashBuilder, Nibbles};

/// Root of a trie without a leaf.
pub const EMPTY_ROOT: B256 = alloy_trie::EMPTY_ROOT_HASH;

/// Root of the ordered trie (RLP of the index -> item) over byte strings, as Ethereum's transactions root.
pub fn ordered_root<T: AsRef<[u8]>>(items: &[T]) -> B256 {
    alloy_trie::root::ordered_trie_root_with_encoder(items, |item, out| {
        out.put_slice(item.as_ref());
    })
}

/// Root of the ordered trie over 32-byte hashes, each leaf the RLP of the hash.
pub fn ordered_root_of_hashes(hashes: &[B256]) -> B256 {
    alloy_trie::root::ordered_trie_root_with_encoder(hashes, |hash, out| hash.encode(out))
}

/// Root of the two-level trie that commits to every change of a diff.
///
/// `keccak(address)` -> RLP of `[sign, size, nonce or empty, code hash or empty, locked, slots root]`, and below it
/// `keccak(slot as 32 bytes)` -> RLP of the new value, zero included. `sign` is 1 for a fall, else 0; `locked` is 1
/// where the account itself takes a lock under `rule`.
pub(crate) fn diff_root(diff: &Diff, rule: LockRule) -> B256 {
    let leaves = diff.accounts.iter().map(|(address, account)| {
        let slots = account.slots.iter().map(|(key, value)| {
            let mut leaf = Vec::with_capacity(33);
            value.encode(&mut leaf);
            (keccak(key.to_be_bytes::<32>()), leaf)
        });
        let slots_root = sorted_root(slots.collect());
        // A changed nonce is never zero, so zero, whose RLP is the empty string, says "unchanged".
        let nonce = account.nonce.unwrap_or(0);
        let mut payload = Vec::with_capacity(96);
        u8::from(account.balance.is_fall()).encode(&mut payload);
        account.balance.amount().encode(&mut payload);
        nonce.encode(&mut payload);
        match &account.code {
            Some(code) => keccak(code).encode(&mut payload),
            None => EMPTY.encode(&mut payload),
        }
        u8::from(account.locks_itself(rule)).encode(&mut payload);
        slots_root.encode(&mut payload);
        let mut leaf = Vec::with_capacity(payload.len() + 4);
        RlpHeader {
            list: true,
            payload_length: payload.len(),
        }
        .encode(&mut leaf);
        leaf.extend_from_slice(&payload);
        (keccak(address), leaf)
    });
    sorted_root(leaves.collect())
}

const EMPTY: &[u8] = &[];

/// Root over (hashed key, leaf) pairs in any order. The keys are distinct.
fn sorted_root(mut leaves: Vec<(B256, Vec<u8>)>) -> B256 {
    if leaves.is_empty() {
        return EMPTY_ROOT;
    }
    leaves.sort_unstable_by_key(|(key, _)| *key);
    let mut builder = HashBuilder::default();
    for (key, leaf) in &leaves {
        builder.add_leaf(Nibbles::unpack(key), leaf);
    }
    builder.root()
}
