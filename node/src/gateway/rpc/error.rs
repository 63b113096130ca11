//! Errors with the codes and words that Ethereum's tools look for: Geth's.

use crate::execution::CallError;
use crate::gateway::SubmitError;
use crate::store_client::StoreError;
use alloy_primitives::Bytes;
use alloy_sol_types::{Panic, Revert, SolError, decode_revert_reason};
use jsonrpsee::types::ErrorObjectOwned;
use jsonrpsee::types::error::{INTERNAL_ERROR_CODE, INVALID_PARAMS_CODE};

/// Geth's code for most of what goes wrong.
const SERVER_ERROR: i32 = -32_000;
/// A call was reverted; the data is what it returned.
const REVERTED: i32 = 3;
/// Geth's code for blocks that are no longer kept.
const PRUNED: i32 = 4_444;
/// EIP-1474: what was asked for exceeds a limit.
const LIMIT_EXCEEDED: i32 = -32_005;

/// The request is wrong as it stands.
pub(super) fn invalid_params(message: impl Into<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(INVALID_PARAMS_CODE, message, None::<()>)
}

/// The request is fine and the answer is no.
pub(super) fn server(message: impl Into<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(SERVER_ERROR, message, None::<()>)
}

/// A named limit.
pub(super) fn limit(message: impl Into<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(LIMIT_EXCEEDED, message, None::<()>)
}

/// No fault of the client.
pub(super) fn internal(message: impl ToString) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(INTERNAL_ERROR_CODE, message.to_string(), None::<()>)
}

/// No such block, or its state is no longer kept.
pub(super) fn no_block() -> ErrorObjectOwned {
    server("header not found")
}

/// A block of the chain that is no longer kept.
pub(super) fn pruned(number: u64) -> ErrorObjectOwned {
    let message = format!("pruned history unavailable: block {number} is no longer kept");
    ErrorObjectOwned::owned(PRUNED, message, None::<()>)
}

/// A call reverted. The reason is told where it is one that Solidity writes; other data is the caller's to decode.
pub(super) fn reverted(output: &Bytes) -> ErrorObjectOwned {
    let known = output.starts_with(&Revert::SELECTOR) || output.starts_with(&Panic::SELECTOR);
    let reason = known.then(|| decode_revert_reason(output)).flatten();
    let message = match reason {
        Some(reason) => format!(
            "execution reverted: {}",
            reason.trim_start_matches("revert: ")
        ),
        None => "execution reverted".to_owned(),
    };
    ErrorObjectOwned::owned(REVERTED, message, Some(output))
}

pub(super) fn store(error: StoreError) -> ErrorObjectOwned {
    match error {
        StoreError::Pruned { message, .. } => server(format!("state is no longer kept: {message}")),
        other => internal(other),
    }
}

pub(super) fn call(error: CallError) -> ErrorObjectOwned {
    match error {
        CallError::Unavailable(error) => internal(error),
        CallError::Request(message) => invalid_params(message),
        CallError::Reverted(output) => reverted(&output),
        other => server(other.to_string()),
    }
}

pub(super) fn submit(error: SubmitError) -> ErrorObjectOwned {
    match error {
        SubmitError::Store(error) => store(error),
        SubmitError::Stopping => internal(error),
        other => server(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revert_names_its_reason_where_solidity_wrote_one() {
        let message = |output: Vec<u8>| reverted(&output.into()).message().to_owned();
        let reason = Revert::from("too late").abi_encode();
        assert_eq!(message(reason), "execution reverted: too late");
        assert_eq!(message(Vec::new()), "execution reverted");
        assert_eq!(message(b"abcd".to_vec()), "execution reverted");
    }
}
