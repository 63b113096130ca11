//! Decoding, senders, and the checks that need no state.

use super::*;
use alloy_consensus::{EthereumTxEnvelope, TxEip2930, TxEip4844, TxEip7702, TxLegacy};
use alloy_eips::eip7702::{Authorization, SignedAuthorization};
use troika_proto::LockKey;

pub(super) fn authorize(n: u8, address: Address, nonce: u64) -> SignedAuthorization {
    let authorization = Authorization {
        chain_id: U256::from(CHAIN_ID),
        address,
        nonce,
    };
    let hash = authorization.signature_hash();
    let signer = signer(n);
    let (signature, id) = signer
        .credential()
        .sign_prehash_recoverable(hash.as_slice())
        .expect("a signature");
    authorization.into_signed((signature, id).into())
}

pub(super) fn delegating(n: u8, nonce: u64, list: Vec<SignedAuthorization>) -> TxEip7702 {
    TxEip7702 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 200_000,
        max_fee_per_gas: u128::from(BASE_FEE) + TIP,
        max_priority_fee_per_gas: TIP,
        to: somebody(n),
        value: U256::ZERO,
        access_list: Default::default(),
        authorization_list: list,
        input: Bytes::new(),
    }
}

fn legacy(chain_id: Option<u64>) -> TxLegacy {
    TxLegacy {
        chain_id,
        nonce: 0,
        gas_price: u128::from(BASE_FEE) + TIP,
        gas_limit: 21_000,
        to: TxKind::Call(somebody(9)),
        value: U256::from(1),
        input: Bytes::new(),
    }
}

fn blob() -> TxEip4844 {
    TxEip4844 {
        chain_id: CHAIN_ID,
        gas_limit: 21_000,
        max_fee_per_gas: u128::from(BASE_FEE) + TIP,
        max_fee_per_blob_gas: 10,
        to: somebody(9),
        blob_versioned_hashes: vec![B256::with_last_byte(1) | B256::right_padding_from(&[1])],
        ..TxEip4844::default()
    }
}

#[test]
fn every_type_gives_its_sender_and_its_hash() {
    let berlin = TxEip2930 {
        chain_id: CHAIN_ID,
        gas_limit: 30_000,
        gas_price: 5,
        ..TxEip2930::default()
    };
    let list = vec![authorize(2, somebody(3), 0)];
    let all = [
        sign(1, legacy(Some(CHAIN_ID))),
        sign(1, legacy(None)),
        sign(1, berlin),
        sign(1, plain(0, TxKind::Create, 0, vec![0])),
        sign(1, delegating(1, 0, list)),
    ];
    for (transaction, tx_type) in all.iter().zip([0, 0, 1, 2, 4]) {
        assert_eq!(transaction.sender, sender(1));
        assert_eq!(transaction.tx_type(), tx_type);
        assert_eq!(
            transaction.hash,
            alloy_primitives::keccak256(&transaction.raw)
        );
    }
    assert_eq!(all[4].authorities().collect::<Vec<_>>(), [sender(2)]);
}

#[test]
fn what_a_transaction_reads_for_certain_is_known_beforehand() {
    let mut tx = plain(0, TxKind::Call(somebody(9)), 1, vec![]);
    let item = alloy_eips::eip2930::AccessListItem {
        address: somebody(8),
        storage_keys: vec![B256::with_last_byte(5)],
    };
    tx.access_list = vec![item].into();
    let reads: Vec<LockKey> = sign(1, tx).known_reads().collect();
    let expected = [
        LockKey::account(sender(1)),
        LockKey::account(somebody(9)),
        LockKey::account(somebody(8)),
        LockKey::slot(somebody(8), U256::from(5)),
    ];
    assert_eq!(reads, expected);
}

#[test]
fn a_handed_on_sender_is_taken_as_it_is() {
    let known = transfer(1, 0, somebody(9), 1);
    let handed = Transaction::with_sender(known.raw.clone(), known.sender).expect("decodes");
    assert_eq!((handed.hash, handed.sender), (known.hash, known.sender));
}

#[test]
fn bytes_that_are_no_transaction_are_refused_with_the_reason() {
    let raw = transfer(1, 0, somebody(9), 1).raw.to_vec();
    let refusal = |bytes: Vec<u8>| Transaction::recover(bytes.into()).map(|t| t.sender);
    assert!(matches!(refusal(vec![]), Err(TxError::Undecodable(_))));
    assert!(matches!(refusal(vec![5, 1]), Err(TxError::Undecodable(_))));
    let cut = raw[..raw.len() - 1].to_vec();
    assert!(matches!(refusal(cut), Err(TxError::Undecodable(_))));
    let mut longer = raw.clone();
    longer.push(0);
    assert!(matches!(refusal(longer), Err(TxError::Undecodable(_))));
    let huge = vec![2; 128 * 1024 + 1];
    assert_eq!(
        refusal(huge),
        Err(TxError::TooLarge {
            size: 128 * 1024 + 1
        })
    );
    // A changed byte of the signature gives another sender or none; never the same.
    let mut forged = raw;
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_ne!(refusal(forged), Ok(sender(1)));
}

#[test]
fn a_signature_with_a_high_s_is_refused() {
    let envelope = transfer(1, 0, somebody(9), 1).envelope.clone();
    let EthereumTxEnvelope::Eip1559(signed) = envelope else {
        panic!("another type")
    };
    let (tx, signature, _) = signed.into_parts();
    let order = U256::from_str_radix(
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
        16,
    )
    .expect("a number");
    let high = Signature::new(signature.r(), order - signature.s(), !signature.v());
    let raw = Bytes::from(Envelope::from(tx.into_signed(high)).encoded_2718());
    assert_eq!(
        Transaction::recover(raw).map(|t| t.sender),
        Err(TxError::Signature)
    );
}

#[test]
fn blobs_are_refused_but_in_a_replay() {
    let transaction = sign(1, blob());
    assert_eq!(rules().check(&transaction), Err(Invalid::Blob));
    let replay = Rules {
        allow_blobs: true,
        ..rules()
    };
    assert_eq!(replay.check(&transaction), Ok(()));
    // With a sidecar it is no envelope at all; the message is the same in kind.
    let sidecar = Transaction::recover(Bytes::from_static(&[3, 0xc0]));
    assert_eq!(sidecar.map(|t| t.sender), Err(TxError::Blob));
}

#[test]
fn another_chains_transaction_is_refused_and_an_unprotected_one_is_not() {
    let other = sign(1, legacy(Some(CHAIN_ID + 1)));
    assert_eq!(
        rules().check(&other),
        Err(Invalid::ChainId {
            found: CHAIN_ID + 1,
            expected: CHAIN_ID
        })
    );
    let unprotected = sign(1, legacy(None));
    assert_eq!(unprotected.chain_id(), None);
    assert_eq!(rules().check(&unprotected), Ok(()));
}

#[test]
fn what_no_state_makes_valid_is_refused_without_one() {
    let with = |change: fn(&mut TxEip1559)| {
        let mut tx = plain(0, TxKind::Call(somebody(9)), 0, vec![]);
        change(&mut tx);
        rules().check(&sign(1, tx)).expect_err("refused")
    };
    let low = with(|tx| tx.gas_limit = 20_999);
    assert_eq!(
        low,
        Invalid::IntrinsicGas {
            found: 20_999,
            needed: 21_000
        }
    );
    assert!(matches!(
        with(|tx| tx.gas_limit = 30_000_001),
        Invalid::GasAboveShard { .. }
    ));
    assert!(matches!(
        with(|tx| tx.gas_limit = (1 << 24) + 1),
        Invalid::GasAboveCap {
            cap: 16_777_216,
            ..
        }
    ));
    assert!(matches!(
        with(|tx| tx.max_priority_fee_per_gas = tx.max_fee_per_gas + 1),
        Invalid::TipAboveFee { .. }
    ));
    assert_eq!(with(|tx| tx.nonce = u64::MAX), Invalid::NonceMax);
    // EIP-7623's floor: ten gas for each of four tokens of a byte.
    assert!(matches!(
        with(|tx| {
            tx.input = vec![1; 1000].into();
            tx.gas_limit = 21_000 + 16_000;
        }),
        Invalid::IntrinsicGas { .. }
    ));
}

#[test]
fn many_are_recovered_in_order_and_none_twice() {
    let known: Vec<_> = (0..40).map(|i| transfer(1, i, somebody(9), 1)).collect();
    let mut raw: Vec<Bytes> = known.iter().map(|t| t.raw.clone()).collect();
    raw.insert(7, Bytes::from_static(b"nothing"));
    let cache = RecoveryCache::new(1 << 20);
    let first = cache.recover_all(&raw);
    assert!(first[7].is_err());
    let hashes = |all: &[Result<Arc<Transaction>, TxError>]| -> Vec<B256> {
        all.iter().flatten().map(|t| t.hash).collect()
    };
    assert_eq!(
        hashes(&first),
        known.iter().map(|t| t.hash).collect::<Vec<_>>()
    );
    let again = cache.recover_all(&raw);
    let pairs = first.iter().flatten().zip(again.iter().flatten());
    for (a, b) in pairs {
        assert!(Arc::ptr_eq(a, b), "recovered twice");
    }
}

#[test]
fn the_recovery_cache_keeps_within_its_bytes() {
    let raw: Vec<Bytes> = (0..20)
        .map(|i| transfer(1, i, somebody(9), 1).raw.clone())
        .collect();
    let one = Transaction::recover(raw[0].clone())
        .expect("decodes")
        .size();
    let cache = RecoveryCache::new(5 * one + one / 2);
    for bytes in &raw {
        cache.recover(bytes.clone()).expect("decodes");
        assert!(cache.bytes() <= 5 * one + one / 2);
    }
    assert!(cache.bytes() > 3 * one, "evicts more than it must");
}
