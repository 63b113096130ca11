//! Conversion between wire and checked types. What is malformed is refused with the name of the field.

mod chain;
mod diff;
mod evidence;
mod shard;

pub use chain::check_name;
pub use evidence::{evidence_text, key_text};
pub use shard::whole_bloom;

use alloy_primitives::{Address, B256, U256};
use bytes::{Bytes, BytesMut};

/// A message that is not what `docs/protocol.md` says it must be. Maps to `INVALID_ARGUMENT`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Malformed {
    /// Path of the field, for instance `body.diff.accounts[3].address`.
    pub field: String,
    /// What was found and what was expected.
    pub problem: String,
}

impl Malformed {
    /// A field and what is wrong with it.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// A required field that is absent.
    pub fn missing(field: impl Into<String>) -> Self {
        Self::new(field, "is missing")
    }

    /// The same problem, seen from the message that holds the field.
    #[must_use]
    pub fn within(mut self, outer: impl std::fmt::Display) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }
}

/// A required message field.
///
/// # Errors
/// [`Malformed`] if it is absent.
pub fn required<T>(field: &str, value: Option<T>) -> Result<T, Malformed> {
    value.ok_or_else(|| Malformed::missing(field))
}

/// Exactly `N` bytes.
///
/// # Errors
/// [`Malformed`] for any other length.
pub fn fixed<const N: usize>(field: &str, bytes: &[u8]) -> Result<[u8; N], Malformed> {
    bytes
        .try_into()
        .map_err(|_| Malformed::new(field, format!("is {} bytes, expected {N}", bytes.len())))
}

/// A 32-byte hash.
///
/// # Errors
/// [`Malformed`] for any other length.
pub fn hash(field: &str, bytes: &[u8]) -> Result<B256, Malformed> {
    fixed::<32>(field, bytes).map(B256::from)
}

/// A 20-byte address.
///
/// # Errors
/// [`Malformed`] for any other length.
pub fn address(field: &str, bytes: &[u8]) -> Result<Address, Malformed> {
    fixed::<20>(field, bytes).map(Address::from)
}

/// An unsigned big-endian number of at most 32 bytes without leading zeros.
///
/// # Errors
/// [`Malformed`] if it is longer or starts with a zero byte.
pub fn number(field: &str, bytes: &[u8]) -> Result<U256, Malformed> {
    if bytes.len() > 32 {
        return Err(Malformed::new(
            field,
            format!("is {} bytes, expected at most 32", bytes.len()),
        ));
    }
    if bytes.first() == Some(&0) {
        return Err(Malformed::new(field, "has a leading zero byte"));
    }
    Ok(U256::from_be_slice(bytes))
}

/// The wire form of a number: big-endian without leading zeros.
pub fn number_bytes(value: U256) -> Bytes {
    Bytes::from(value.to_be_bytes_trimmed_vec())
}

/// The wire form of a hash.
pub fn hash_bytes(hash: B256) -> Bytes {
    Bytes::copy_from_slice(hash.as_slice())
}

/// The wire form of an address.
pub fn address_bytes(address: Address) -> Bytes {
    Bytes::copy_from_slice(address.as_slice())
}

/// Makes the many small byte fields of a large message out of few allocations.
pub(crate) struct Arena(BytesMut);

impl Arena {
    /// Room for about `bytes`; more is allocated as needed.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(BytesMut::with_capacity(bytes))
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Bytes {
        self.concat([bytes])
    }

    pub(crate) fn concat<'a>(&mut self, parts: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
        parts
            .into_iter()
            .for_each(|part| self.0.extend_from_slice(part));
        if self.0.is_empty() {
            return Bytes::new();
        }
        self.0.split().freeze()
    }

    /// As [`number_bytes`].
    pub(crate) fn number(&mut self, value: U256) -> Bytes {
        let all = value.to_be_bytes::<32>();
        self.bytes(&all[32 - value.byte_len()..])
    }
}

/// At most `limit` items.
///
/// # Errors
/// [`Malformed`] naming the limit.
pub fn at_most(field: &str, len: usize, limit: usize) -> Result<(), Malformed> {
    if len > limit {
        return Err(Malformed::new(
            field,
            format!("has {len}, the limit is {limit}"),
        ));
    }
    Ok(())
}

/// Checks that `next` follows `last`, and keeps it.
fn ascending<K: Ord + Copy>(field: &str, last: &mut Option<K>, next: K) -> Result<(), Malformed> {
    if last.is_some_and(|last| last >= next) {
        return Err(Malformed::new(field, "is out of order or a duplicate"));
    }
    *last = Some(next);
    Ok(())
}
