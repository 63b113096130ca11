//! Transfers through the gateway, as a wallet makes them: signed, sent over JSON-RPC, looked for.
//!
//! The accounts are a closed system: all money stays among them and the beneficiary, but for the base fees, which are
//! burned and stand in the headers. One transaction in four calls a contract that counts its calls in one slot: each such
//! call reads what the one before it wrote, so that a lost update would show.

use super::{CALL_TIMEOUT, Shared};
use crate::client::Failure;
use crate::history::{Kind, Op, Receipt, Transfer};
use crate::plan;
use alloy_consensus::crypto::secp256k1::{recover_signer, sign_message};
use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, address, keccak256};
use anyhow::{Context, Result};
use jsonrpsee::core::client::{ClientT, Error as RpcError};
use jsonrpsee::http_client::{HttpClient, HttpClientBuilder};
use jsonrpsee::rpc_params;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use troika_proto::GenesisAccount;

/// Accounts that pay: one a client, as many as there may be clients.
pub const ACCOUNTS: u32 = 256;
/// Receives the fees.
pub const BENEFICIARY: Address = address!("00000000000000000000000000000000000bebe0");
/// Counts its calls in slot 0.
pub const COUNTER: Address = address!("00000000000000000000000000000000c0c0c0c0");
/// `slot 0 += 1`
const COUNTER_CODE: [u8; 10] = [0x60, 0x00, 0x54, 0x60, 0x01, 0x01, 0x60, 0x00, 0x55, 0x00];
/// Wei that every account starts with.
pub const START_WEI: u128 = 1_000_000_000_000_000_000_000;
/// Transactions that a client leaves without a receipt before it waits.
const UNSEEN: usize = 8;
/// Rounds of looking for a receipt before the chain is asked for the nonce and what is missing is sent again.
const LOOKS: u32 = 25;

/// The accounts and the counter, as genesis has them.
pub fn genesis_accounts() -> BTreeMap<Address, GenesisAccount> {
    let paying = (0..ACCOUNTS).map(|n| {
        let balance = U256::from(START_WEI);
        let account = GenesisAccount {
            balance,
            ..GenesisAccount::default()
        };
        (account_address(n), account)
    });
    let counter = GenesisAccount {
        nonce: 1,
        code: COUNTER_CODE.to_vec().into(),
        ..GenesisAccount::default()
    };
    paying.chain([(COUNTER, counter)]).collect()
}

fn secret(n: u32) -> B256 {
    keccak256(format!("troika jepsen account {n}"))
}

/// Address of account `n`.
pub fn account_address(n: u32) -> Address {
    static ADDRESSES: std::sync::OnceLock<Vec<Address>> = std::sync::OnceLock::new();
    let all = ADDRESSES.get_or_init(|| {
        let hash = keccak256(b"whose key is this?");
        let address = |n| {
            let signature = sign_message(secret(n), hash).expect("a hash is a key but for 2^-128");
            recover_signer(&signature, hash).expect("what was signed can be recovered")
        };
        (0..ACCOUNTS).map(address).collect()
    });
    all[n as usize]
}

/// Transaction `nonce` of account `sender`, signed: the same bytes whenever it is made.
pub fn transaction(seed: u64, sender: u32, nonce: u64) -> (B256, Bytes) {
    let mut random = plan::random(seed, "transfer", (u64::from(sender) << 40) + nonce);
    let counts = random.one_in(4);
    // A popular payee now and then: credits must not conflict.
    let payee = if random.one_in(3) {
        0
    } else {
        random.below(u64::from(ACCOUNTS)) as u32
    };
    let transaction = TxEip1559 {
        chain_id: 1337,
        nonce,
        gas_limit: if counts { 60_000 } else { 21_000 },
        max_fee_per_gas: 1_000_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000 + u128::from(random.below(1_000)),
        to: TxKind::Call(if counts {
            COUNTER
        } else {
            account_address(payee)
        }),
        value: if counts {
            U256::ZERO
        } else {
            U256::from(1 + random.below(1_000_000))
        },
        ..TxEip1559::default()
    };
    let signature = sign_message(secret(sender), transaction.signature_hash());
    let signature = signature.expect("a hash is a key but for 2^-128");
    let envelope = TxEnvelope::Eip1559(transaction.into_signed(signature));
    let bytes: Bytes = envelope.encoded_2718().into();
    (keccak256(&bytes), bytes)
}

/// True if transaction `nonce` of `sender` calls the counter.
pub fn counts(seed: u64, sender: u32, nonce: u64) -> bool {
    plan::random(seed, "transfer", (u64::from(sender) << 40) + nonce).one_in(4)
}

/// A JSON-RPC client of the gateway.
///
/// # Errors
/// The address is not one.
pub fn rpc(address: &str) -> Result<HttpClient> {
    let client = HttpClientBuilder::default().request_timeout(CALL_TIMEOUT);
    client.build(format!("http://{address}")).context("gateway")
}

async fn ask(rpc: &HttpClient, method: &str, param: Value) -> Result<Value, Failure> {
    let params = if param.is_null() {
        rpc_params![]
    } else {
        rpc_params![param]
    };
    match rpc.request::<Value, _>(method, params).await {
        Ok(value) => Ok(value),
        Err(RpcError::Call(e)) => Err(Failure::Not(format!("{}: {}", e.code(), e.message()))),
        Err(e) => Err(Failure::Unknown(e.to_string())),
    }
}

/// Sends a transaction and records the call. False if its outcome is unknown; an error if the gateway refuses it.
async fn send(
    shared: &Shared,
    rpc: &HttpClient,
    process: u64,
    sender: u32,
    nonce: u64,
) -> Result<(), Failure> {
    let (tx, bytes) = transaction(shared.seed, sender, nonce);
    let op = Op::Transfer(Transfer { tx, sender, nonce });
    shared
        .recorder
        .record(process, Kind::Invoke, op.clone(), "");
    let answer = ask(
        rpc,
        "eth_sendRawTransaction",
        Value::String(bytes.to_string()),
    )
    .await;
    let answer = match answer {
        Ok(_) => Ok(op.clone()),
        // It has it already: a retry saw its own success.
        Err(Failure::Not(why)) if why.contains("known") => Ok(op.clone()),
        Err(e) => Err(e),
    };
    let failed = match &answer {
        Ok(_) => Ok(()),
        Err(Failure::Not(why)) => Err(Failure::Not(why.clone())),
        Err(Failure::Unknown(why)) => Err(Failure::Unknown(why.clone())),
    };
    shared.complete(process, op, answer);
    failed
}

/// Asks for a transaction's receipt; records it if there is one.
async fn look(shared: &Shared, rpc: &HttpClient, process: u64, tx: B256) -> bool {
    let answer = ask(
        rpc,
        "eth_getTransactionReceipt",
        Value::String(tx.to_string()),
    )
    .await;
    let Ok(receipt) = answer else { return false };
    let number = receipt["blockNumber"].as_str();
    let number = number.and_then(|n| u64::from_str_radix(n.trim_start_matches("0x"), 16).ok());
    let hash = receipt["blockHash"].as_str().and_then(|h| h.parse().ok());
    let (Some(block), Some(hash)) = (number, hash) else {
        return false;
    };
    shared.saw(process, Op::Receipt(Receipt { tx, block, hash }));
    true
}

/// One payer: sends its transactions in nonce order, looks for them, and sends again what the gateway has lost.
pub async fn payer(shared: Arc<Shared>, sender: u32, pause: Duration) -> Result<u64> {
    let rpc = rpc(shared.gateway.as_deref().context("no gateway")?)?;
    let mut process = shared.recorder.new_process();
    let mut next = 0;
    // Not seen in a block yet, oldest first.
    let mut unseen: std::collections::VecDeque<u64> = std::collections::VecDeque::new();
    let mut looked = 0;
    while !shared.stopped() {
        if unseen.len() < UNSEEN {
            match send(&shared, &rpc, process, sender, next).await {
                Ok(()) => {
                    unseen.push_back(next);
                    next += 1;
                }
                Err(Failure::Unknown(_)) => process = shared.recorder.new_process(),
                Err(Failure::Not(why)) if why.contains("too low") => {
                    // Included by a call whose answer was lost.
                    next += 1;
                }
                Err(Failure::Not(_)) => {}
            }
        }
        if let Some(oldest) = unseen.front().copied() {
            let (tx, _) = transaction(shared.seed, sender, oldest);
            if look(&shared, &rpc, process, tx).await {
                unseen.pop_front();
                looked = 0;
            } else {
                looked += 1;
            }
            if looked > LOOKS {
                // A gateway that was killed has forgotten what was pending.
                looked = 0;
                for nonce in unseen.clone() {
                    if let Err(Failure::Unknown(_)) =
                        send(&shared, &rpc, process, sender, nonce).await
                    {
                        process = shared.recorder.new_process();
                    }
                }
            }
        }
        tokio::time::sleep(pause).await;
    }
    Ok(next)
}

/// Sends again what is not included of `sender`'s first `count` transactions, given the nonce that the store knows.
pub async fn send_again(shared: &Shared, sender: u32, from: u64, count: u64) -> Result<()> {
    let rpc = rpc(shared.gateway.as_deref().context("no gateway")?)?;
    for nonce in from..count {
        let process = shared.recorder.new_process();
        // A refusal is recorded; what counts is whether the transaction comes to be included.
        let _ = send(shared, &rpc, process, sender, nonce).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_its_senders_and_the_same_every_time() {
        let (hash, bytes) = transaction(7, 3, 5);
        assert_eq!(transaction(7, 3, 5), (hash, bytes.clone()));
        assert_ne!(transaction(7, 3, 6).0, hash);
        assert_ne!(transaction(8, 3, 5).0, hash);
        use alloy_consensus::transaction::SignerRecoverable;
        use alloy_eips::eip2718::Decodable2718;
        let envelope = TxEnvelope::decode_2718(&mut &bytes[..]).unwrap();
        assert_eq!(envelope.recover_signer().unwrap(), account_address(3));
    }

    #[test]
    fn the_plan_knows_which_transactions_count() {
        let counting = (0..400).filter(|nonce| counts(7, 1, *nonce)).count();
        assert!((50..150).contains(&counting), "{counting}");
        for nonce in 0..50 {
            let (_, bytes) = transaction(7, 1, nonce);
            let calls = bytes.windows(20).any(|w| w == COUNTER.as_slice());
            assert_eq!(calls, counts(7, 1, nonce));
        }
    }
}
