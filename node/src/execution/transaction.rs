//! A signed transaction with its sender.

use alloy_consensus::crypto::secp256k1;
use alloy_consensus::transaction::SignerRecoverable;
use alloy_consensus::{EthereumTxEnvelope, Transaction as _, TxEip4844};
use alloy_eips::eip2718::{Decodable2718, Encodable2718};
use alloy_eips::eip7702::{RecoveredAuthority, RecoveredAuthorization, SignedAuthorization};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use troika_proto::LockKey;
use troika_proto::limits::MAX_TRANSACTION_BYTES;

/// The decoded envelope. Blob transactions decode too (without a sidecar), since replayed blocks hold some;
/// [`Rules::check`](super::Rules::check) refuses them everywhere else.
pub type Envelope = EthereumTxEnvelope<TxEip4844>;

/// EIP-2718 type of blob transactions.
pub(super) const BLOB_TYPE: u8 = 3;

/// A transaction whose envelope was decoded and whose sender is known. Cheap to share behind an `Arc`.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The EIP-2718 envelope, as it is hashed and stored.
    pub raw: Bytes,
    /// Keccak-256 of `raw`.
    pub hash: B256,
    /// Who signed it.
    pub sender: Address,
    /// The decoded envelope.
    pub envelope: Envelope,
    /// EIP-7702 authorizations with their authorities: recovering one costs as much as recovering a sender.
    pub(super) authorizations: Vec<RecoveredAuthorization>,
}

/// Why bytes are no transaction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TxError {
    /// Longer than any transaction may be.
    #[error("transaction: {size} bytes, at most {MAX_TRANSACTION_BYTES} (MAX_TRANSACTION_BYTES)")]
    TooLarge {
        /// Bytes of the envelope.
        size: usize,
    },
    /// Not an EIP-2718 envelope of a known type.
    #[error("transaction: {0}")]
    Undecodable(String),
    /// A blob transaction in its network form.
    #[error("transaction type 3 (blobs) is not supported by this chain")]
    Blob,
    /// The signature gives no sender.
    #[error("transaction: invalid signature")]
    Signature,
}

impl Transaction {
    /// Decodes an EIP-2718 envelope and recovers its sender (some 55 us).
    ///
    /// # Errors
    /// [`TxError`]: too long, undecodable, not in canonical form, or wrongly signed.
    pub fn recover(raw: Bytes) -> Result<Self, TxError> {
        let envelope = decode(&raw)?;
        let sender = envelope.recover_signer().map_err(|_| TxError::Signature)?;
        Ok(Self::assemble(raw, envelope, sender))
    }

    /// Decodes an EIP-2718 envelope and takes `sender` at its word: for what a gateway of the same operator has
    /// recovered before. Never for somebody else's block.
    ///
    /// # Errors
    /// [`TxError`]: too long, undecodable or not in canonical form.
    pub fn with_sender(raw: Bytes, sender: Address) -> Result<Self, TxError> {
        Ok(Self::assemble(raw.clone(), decode(&raw)?, sender))
    }

    fn assemble(raw: Bytes, envelope: Envelope, sender: Address) -> Self {
        let authorizations = envelope.authorization_list().unwrap_or(&[]);
        Self {
            hash: keccak256(&raw),
            raw,
            sender,
            authorizations: authorizations.iter().map(recover_authority).collect(),
            envelope,
        }
    }

    /// EIP-2718 type; 0 for legacy.
    pub fn tx_type(&self) -> u8 {
        self.envelope.tx_type() as u8
    }

    /// The sender's transaction count that it needs.
    pub fn nonce(&self) -> u64 {
        self.envelope.nonce()
    }

    /// Most gas that it may use.
    pub fn gas_limit(&self) -> u64 {
        self.envelope.gas_limit()
    }

    /// Recipient; `None` creates a contract.
    pub fn to(&self) -> Option<Address> {
        self.envelope.to()
    }

    /// Recipient or creation.
    pub fn kind(&self) -> TxKind {
        self.envelope.kind()
    }

    /// Wei sent along.
    pub fn value(&self) -> U256 {
        self.envelope.value()
    }

    /// Call data or init code.
    pub fn input(&self) -> &Bytes {
        self.envelope.input()
    }

    /// `None`: a legacy transaction without replay protection, valid on any chain.
    pub fn chain_id(&self) -> Option<u64> {
        self.envelope.chain_id()
    }

    /// Most wei per gas that the sender pays in all.
    pub fn max_fee(&self) -> u128 {
        self.envelope.max_fee_per_gas()
    }

    /// Most wei per gas that the sender pays above the base fee.
    pub fn max_tip(&self) -> u128 {
        self.envelope.priority_fee_or_price()
    }

    /// Wei per gas that the sender pays at `base_fee`.
    pub fn effective_price(&self, base_fee: u64) -> u128 {
        self.envelope.effective_gas_price(Some(base_fee))
    }

    /// Wei per gas for the beneficiary at `base_fee`; `None` if the transaction does not cover the base fee.
    pub fn effective_tip(&self, base_fee: u64) -> Option<u128> {
        self.envelope.effective_tip_per_gas(base_fee)
    }

    /// Most wei that leave the sender: gas limit times the highest price, plus the value. Saturating.
    pub fn max_cost(&self) -> U256 {
        U256::from(self.max_fee())
            .saturating_mul(U256::from(self.gas_limit()))
            .saturating_add(self.value())
    }

    /// Authorities of its EIP-7702 authorizations whose signatures are good: their nonce and code may change.
    pub fn authorities(&self) -> impl Iterator<Item = Address> + '_ {
        self.authorizations
            .iter()
            .filter_map(RecoveredAuthorization::authority)
    }

    /// What it reads for certain, whatever it does: sender, recipient, authorities and its access list. For fetching
    /// ahead.
    pub fn known_reads(&self) -> impl Iterator<Item = LockKey> + '_ {
        let accounts = std::iter::once(self.sender).chain(self.to());
        let list = self.envelope.access_list().map_or(&[][..], |l| &l.0);
        let listed = list.iter().flat_map(|item| {
            let slots = item.storage_keys.iter();
            let slot = |key: &B256| LockKey::slot(item.address, U256::from_be_bytes(key.0));
            std::iter::once(LockKey::account(item.address)).chain(slots.map(slot))
        });
        let accounts = accounts.chain(self.authorities());
        accounts.map(LockKey::account).chain(listed)
    }

    /// Memory that it takes, about, in bytes.
    pub fn size(&self) -> usize {
        // The envelope borrows nothing from `raw`: call data and lists stand in memory twice.
        size_of::<Self>() + 2 * self.raw.len() + self.authorizations.len() * 128
    }
}

fn decode(raw: &Bytes) -> Result<Envelope, TxError> {
    if raw.len() > MAX_TRANSACTION_BYTES {
        return Err(TxError::TooLarge { size: raw.len() });
    }
    let envelope = match Envelope::decode_2718_exact(raw) {
        Ok(envelope) => envelope,
        // Wallets send blobs with their sidecar, which is no envelope of a block.
        Err(_) if raw.first() == Some(&BLOB_TYPE) => return Err(TxError::Blob),
        Err(error) => return Err(TxError::Undecodable(error.to_string())),
    };
    // Two byte strings for one transaction would have two hashes.
    if envelope.encoded_2718() != raw.as_ref() {
        return Err(TxError::Undecodable("not in canonical form".to_owned()));
    }
    Ok(envelope)
}

/// As EIP-7702 demands: a high `s` or a bad parity makes the authorization void, not the transaction.
fn recover_authority(signed: &SignedAuthorization) -> RecoveredAuthorization {
    let authority = signed
        .signature()
        .ok()
        .and_then(|s| secp256k1::recover_signer(&s, signed.inner().signature_hash()).ok())
        .map_or(RecoveredAuthority::Invalid, RecoveredAuthority::Valid);
    RecoveredAuthorization::new_unchecked(signed.inner().clone(), authority)
}
