//! 0x11, address -> balance (32 bytes big-endian), nonce (8 bytes big-endian), code hash (32 bytes, absent without code).
//!
//! An account as it is at the base block. Lives while the account exists. Also inside layers.

use super::Corrupt;
use crate::state::layers::Account;
use bytes::Bytes;
use troika_proto::{B256, U256};

/// The record's bytes.
pub fn encode(account: &Account) -> Bytes {
    let mut bytes = Vec::with_capacity(72);
    bytes.extend(account.balance.to_be_bytes::<32>());
    bytes.extend(account.nonce.to_be_bytes());
    if let Some(code_hash) = &account.code_hash {
        bytes.extend(code_hash);
    }
    bytes.into()
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`Corrupt`] for any other length.
pub fn decode(bytes: &[u8]) -> Result<Account, Corrupt> {
    let wrong = || Corrupt::new("account", format!("is {} bytes", bytes.len()));
    let (balance, rest) = bytes.split_first_chunk::<32>().ok_or_else(wrong)?;
    let (nonce, rest) = rest.split_first_chunk::<8>().ok_or_else(wrong)?;
    let code_hash = match rest.len() {
        0 => None,
        32 => Some(B256::from_slice(rest)),
        _ => return Err(wrong()),
    };
    Ok(Account {
        balance: U256::from_be_bytes(*balance),
        nonce: u64::from_be_bytes(*nonce),
        code_hash,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn survives_the_round_trip(
            balance in any::<[u8; 32]>(),
            nonce in any::<u64>(),
            code in any::<Option<[u8; 32]>>(),
        ) {
            let account = Account {
                balance: U256::from_be_bytes(balance),
                nonce,
                code_hash: code.map(B256::from),
            };
            prop_assert_eq!(decode(&encode(&account)).unwrap(), account);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(account) = decode(&bytes) {
                prop_assert_eq!(encode(&account).to_vec(), bytes);
            }
        }
    }
}
