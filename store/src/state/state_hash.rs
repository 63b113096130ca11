//! The state hash: the sum of the digests of everything that the machine holds, modulo 2^256.
//!
//! A sum does not depend on order and is changed in constant time, and it can be computed again from the records on
//! load. It guards against members that differ by a mistake or a flipped bit, not against an adversary who chooses what is
//! summed: for that, blocks have their own hashes. The digest of an item is therefore a fast mixer and not Keccak.

use std::fmt;
use troika_proto::{Address, B256, U256};

/// Hash of a machine's whole state.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct StateHash(U256);

impl StateHash {
    /// As 32 bytes, big-endian.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0.to_be_bytes()
    }

    /// Reads what [`StateHash::to_bytes`] wrote.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(U256::from_be_bytes(bytes))
    }

    pub(super) fn add(&mut self, digest: Digest) {
        self.0 = self.0.wrapping_add(digest.finish());
    }

    pub(super) fn remove(&mut self, digest: Digest) {
        self.0 = self.0.wrapping_sub(digest.finish());
    }
}

impl fmt::Debug for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:064x}", self.0)
    }
}

/// What is summed. The first word of each digest, so that items of different kinds never look alike. Persisted: numbers
/// are never reused.
#[derive(Clone, Copy)]
#[repr(u64)]
pub(super) enum Item {
    Counters = 1,
    Chain = 2,
    Executor = 3,
    Barred = 4,
    RoundOpened = 5,
    RoundClosed = 6,
    Winner = 7,
    Held = 8,
    Dissent = 9,
    Canonical = 10,
    LayerAccount = 11,
    LayerSlot = 12,
    BaseAccount = 13,
    BaseSlot = 14,
    Code = 15,
    Event = 16,
    Layer = 17,
}

/// Odd constants without structure: the fractional parts of the square roots of 2, 3, 5 and 7.
const MULTIPLIERS: [u64; 4] = [
    0x6a09_e667_f3bc_c909,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
];

/// The digest of one item, word by word.
#[derive(Clone, Copy)]
pub(super) struct Digest([u64; 4]);

impl Digest {
    pub(super) fn new(item: Item) -> Self {
        Self(MULTIPLIERS).word(item as u64)
    }

    #[must_use]
    pub(super) fn word(mut self, word: u64) -> Self {
        for (lane, multiplier) in self.0.iter_mut().zip(MULTIPLIERS) {
            let product = u128::from(*lane ^ word) * u128::from(multiplier);
            *lane = (product as u64 ^ (product >> 64) as u64).wrapping_add(lane.rotate_left(23));
        }
        self
    }

    #[must_use]
    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        let mut digest = self.word(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            digest = digest.word(u64::from_le_bytes(word));
        }
        digest
    }

    #[must_use]
    pub(super) fn hash(self, hash: &B256) -> Self {
        self.bytes(hash.as_slice())
    }

    #[must_use]
    pub(super) fn address(self, address: &Address) -> Self {
        self.bytes(address.as_slice())
    }

    #[must_use]
    pub(super) fn number(self, number: &U256) -> Self {
        number.as_limbs().iter().fold(self, |d, limb| d.word(*limb))
    }

    fn finish(self) -> U256 {
        // Two more rounds, so that the last word reaches every bit of every lane.
        let Self(lanes) = self.word(0x5bd1_e995).word(0x27d4_eb2f);
        U256::from_limbs(lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_changes_is_free_and_removal_undoes() {
        let a = Digest::new(Item::Code).word(1);
        let b = Digest::new(Item::Code).word(2);
        let (mut ab, mut ba) = (StateHash::default(), StateHash::default());
        ab.add(a);
        ab.add(b);
        ba.add(b);
        ba.add(a);
        assert_eq!(ab, ba);
        ab.remove(a);
        ab.remove(b);
        assert_eq!(ab, StateHash::default());
    }

    #[test]
    fn one_flipped_bit_changes_every_lane() {
        let base = Digest::new(Item::Winner).word(7).word(0).finish();
        for bit in 0..64 {
            let other = Digest::new(Item::Winner).word(7).word(1 << bit).finish();
            let pairs = base.as_limbs().iter().zip(other.as_limbs());
            assert!(pairs.into_iter().all(|(a, b)| a != b), "bit {bit}");
        }
    }
}
