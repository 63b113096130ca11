//! Keccak-256, the hash of everything that Troika defines itself.

use alloy_primitives::B256;
use sha3::{Digest, Keccak256};

/// Keccak-256 of `bytes` (Ethereum's, not NIST's SHA3-256).
pub fn keccak(bytes: impl AsRef<[u8]>) -> B256 {
    B256::from_slice(&Keccak256::digest(bytes.as_ref()))
}
