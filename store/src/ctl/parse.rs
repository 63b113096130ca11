//! What people type, into checked values. Every message says what was expected.

use alloy_primitives::{Address, B256, Bytes, U256};
use std::time::Duration;
use troika_proto::{Delta, LockKey, v1};

/// `ADDRESS/SLOT=VALUE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotWrite {
    pub(super) address: Address,
    pub(super) slot: U256,
    pub(super) value: U256,
}

/// `ADDRESS=+WEI` or `ADDRESS=-WEI`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BalanceChange {
    pub(super) address: Address,
    pub(super) delta: Delta,
}

/// `ADDRESS=NONCE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NonceChange {
    pub(super) address: Address,
    pub(super) nonce: u64,
}

/// `ADDRESS=HEX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CodeChange {
    pub(super) address: Address,
    pub(super) code: Bytes,
}

/// `KEY@SHARD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reserve {
    pub(super) key: LockKey,
    pub(super) shard: u32,
}

/// `A-B`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShardRange {
    pub(super) first: u32,
    pub(super) last: u32,
}

/// A block, by what people call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockRef {
    Head,
    Number(u64),
    Hash(B256),
}

/// Hex, with or without `0x`.
pub(super) fn hex_bytes(text: &str) -> Result<Bytes, String> {
    alloy_primitives::hex::decode(text)
        .map(Bytes::from)
        .map_err(|e| format!("{text:?} is not hex: {e}"))
}

pub(super) fn cluster_id(text: &str) -> Result<Bytes, String> {
    let bytes = hex_bytes(text)?;
    match bytes.len() {
        16 => Ok(bytes),
        other => Err(format!(
            "{text:?} is {other} bytes, a cluster id is 16 bytes in hex"
        )),
    }
}

pub(super) fn address(text: &str) -> Result<Address, String> {
    let bytes = hex_bytes(text)?;
    Address::try_from(bytes.as_ref()).map_err(|_| {
        format!(
            "{text:?} is {} bytes, an address is 20 bytes in hex",
            bytes.len()
        )
    })
}

pub(super) fn hash(text: &str) -> Result<B256, String> {
    let bytes = hex_bytes(text)?;
    B256::try_from(bytes.as_ref()).map_err(|_| {
        format!(
            "{text:?} is {} bytes, a hash is 32 bytes in hex",
            bytes.len()
        )
    })
}

/// A number of at most 256 bits, decimal or `0x` and hex.
pub(super) fn number(text: &str) -> Result<U256, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) if !hex.is_empty() => U256::from_str_radix(hex, 16),
        _ => U256::from_str_radix(text, 10),
    };
    if text.is_empty() {
        return Err("a number is missing".to_owned());
    }
    parsed.map_err(|_| format!("{text:?} is not a number of at most 256 bits, decimal or 0x-hex"))
}

/// `ADDRESS` (the account) or `ADDRESS/SLOT`.
pub(super) fn key(text: &str) -> Result<LockKey, String> {
    Ok(match text.split_once('/') {
        None => LockKey::account(address(text)?),
        Some((account, slot)) => LockKey::slot(address(account)?, number(slot)?),
    })
}

fn halves<'a>(text: &'a str, mark: char, form: &str) -> Result<(&'a str, &'a str), String> {
    text.split_once(mark)
        .ok_or_else(|| format!("{text:?} is not of the form {form}"))
}

pub(super) fn slot_write(text: &str) -> Result<SlotWrite, String> {
    let form = "ADDRESS/SLOT=VALUE";
    let (place, value) = halves(text, '=', form)?;
    let (account, slot) = halves(place, '/', form)?;
    Ok(SlotWrite {
        address: address(account)?,
        slot: number(slot)?,
        value: number(value)?,
    })
}

/// `+WEI`, `-WEI` or `WEI`.
pub(super) fn delta(text: &str) -> Result<Delta, String> {
    Ok(match text.strip_prefix('-') {
        Some(size) => Delta::fall(number(size)?),
        None => Delta::rise(number(text.strip_prefix('+').unwrap_or(text))?),
    })
}

pub(super) fn balance(text: &str) -> Result<BalanceChange, String> {
    let (account, change) = halves(text, '=', "ADDRESS=+WEI or ADDRESS=-WEI")?;
    Ok(BalanceChange {
        address: address(account)?,
        delta: delta(change)?,
    })
}

pub(super) fn nonce_change(text: &str) -> Result<NonceChange, String> {
    let (account, nonce) = halves(text, '=', "ADDRESS=NONCE")?;
    let nonce = nonce
        .parse()
        .map_err(|_| format!("{nonce:?} is not a nonce"))?;
    Ok(NonceChange {
        address: address(account)?,
        nonce,
    })
}

pub(super) fn code_change(text: &str) -> Result<CodeChange, String> {
    let (account, code) = halves(text, '=', "ADDRESS=HEX")?;
    Ok(CodeChange {
        address: address(account)?,
        code: hex_bytes(code)?,
    })
}

pub(super) fn reserve(text: &str) -> Result<Reserve, String> {
    let (key_text, shard) = halves(text, '@', "KEY@SHARD")?;
    Ok(Reserve {
        key: key(key_text)?,
        shard: shard
            .parse()
            .map_err(|_| format!("{shard:?} is not a shard index"))?,
    })
}

pub(super) fn shard_range(text: &str) -> Result<ShardRange, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let index = |s: &str| {
        s.parse::<u32>()
            .map_err(|_| format!("{text:?} is not a range of shards: A-B, or one index"))
    };
    let range = ShardRange {
        first: index(first)?,
        last: index(last)?,
    };
    if range.first > range.last {
        return Err(format!("{text:?} ends before it begins"));
    }
    Ok(range)
}

pub(super) fn block_ref(text: &str) -> Result<BlockRef, String> {
    if text == "head" {
        return Ok(BlockRef::Head);
    }
    if let Ok(number) = text.parse() {
        return Ok(BlockRef::Number(number));
    }
    hash(text)
        .map(BlockRef::Hash)
        .map_err(|_| format!("{text:?} is neither a block number nor a block hash nor \"head\""))
}

pub(super) fn event_id(text: &str) -> Result<v1::EventId, String> {
    let (revision, ordinal) = text.split_once('.').unwrap_or((text, ""));
    let bad = || format!("{text:?} is not of the form REVISION or REVISION.ORDINAL");
    Ok(v1::EventId {
        revision: revision.parse().map_err(|_| bad())?,
        // Without an ordinal: after everything of that revision. Revision 0 has no events.
        ordinal: match ordinal {
            "" if revision == "0" => 0,
            "" => u32::MAX,
            ordinal => ordinal.parse().map_err(|_| bad())?,
        },
    })
}

/// `500ms`, `10s`, `2m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration: 500ms, 10s or 2m");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let count: u64 = text[..digits].parse().map_err(|_| bad())?;
    let millis = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(bad()),
    };
    count
        .checked_mul(millis)
        .filter(|ms| (1..=86_400_000).contains(ms))
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is not between 1ms and a day"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0x00000000000000000000000000000000000000aa";

    #[test]
    fn what_is_typed_becomes_what_is_meant() {
        let account = address(A).unwrap();
        assert_eq!(key(A), Ok(LockKey::account(account)));
        assert_eq!(
            key(&format!("{A}/0x10")),
            Ok(LockKey::slot(account, U256::from(16)))
        );
        let write = slot_write(&format!("{A}/7=0xff")).unwrap();
        assert_eq!((write.slot, write.value), (U256::from(7), U256::from(255)));
        assert_eq!(delta("-5"), Ok(Delta::fall(U256::from(5))));
        assert_eq!(delta("+5"), Ok(Delta::rise(U256::from(5))));
        assert_eq!(shard_range("2-4"), Ok(ShardRange { first: 2, last: 4 }));
        assert_eq!(block_ref("17"), Ok(BlockRef::Number(17)));
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(
            event_id("5.2"),
            Ok(v1::EventId {
                revision: 5,
                ordinal: 2
            })
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_form_expected() {
        assert!(
            slot_write("0xaa=1")
                .unwrap_err()
                .contains("ADDRESS/SLOT=VALUE")
        );
        assert!(address("0xaabb").unwrap_err().contains("20 bytes"));
        assert!(number("").is_err() && number("0x").is_err() && number("12z").is_err());
        assert!(shard_range("4-2").unwrap_err().contains("before"));
        assert!(duration("10").is_err() && duration("0s").is_err() && duration("ms").is_err());
        assert!(reserve(A).unwrap_err().contains("KEY@SHARD"));
    }
}
