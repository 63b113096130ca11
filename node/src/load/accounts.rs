//! Keys of the development chain: the ten accounts of the usual test mnemonic, and the load's own.

use alloy_consensus::crypto::secp256k1::sign_message;
use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, keccak256};
use alloy_signer_local::{MnemonicBuilder, PrivateKeySigner, coins_bip39::English};

/// The mnemonic that every development node uses. Its keys are public: never hold anything of value with them.
pub const TEST_MNEMONIC: &str = "test test test test test test test test test test test junk";
/// Accounts of the test mnemonic that get a balance.
pub const DEV_ACCOUNTS: u32 = 10;
/// From which the load's keys are derived.
const LOAD_SEED: &str = "troika load account";

/// A key and its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyed {
    /// The private key.
    pub secret: B256,
    /// Its address.
    pub address: Address,
}

impl Keyed {
    fn new(signer: &PrivateKeySigner) -> Self {
        Self {
            secret: signer.to_bytes(),
            address: signer.address(),
        }
    }

    /// Signs a transaction; the answer is its EIP-2718 envelope.
    pub fn sign(&self, transaction: TxEip1559) -> Bytes {
        let signature = sign_message(self.secret, transaction.signature_hash())
            .expect("a key that has an address signs");
        let envelope = TxEnvelope::Eip1559(transaction.into_signed(signature));
        envelope.encoded_2718().into()
    }
}

/// The accounts that a person plays with: the first ten of the test mnemonic.
pub fn dev_accounts() -> Vec<Keyed> {
    (0..DEV_ACCOUNTS)
        .map(|index| {
            let signer = MnemonicBuilder::<English>::default()
                .phrase(TEST_MNEMONIC)
                .index(index)
                .and_then(|builder| builder.build())
                .expect("the test mnemonic is valid");
            Keyed::new(&signer)
        })
        .collect()
}

/// The load's account number `index`.
pub fn load_account(index: u32) -> Keyed {
    let secret = keccak256(format!("{LOAD_SEED} {index}"));
    let signer = PrivateKeySigner::from_bytes(&secret).expect("a hash is a key but for 2^-128");
    Keyed::new(&signer)
}

/// The first `count` accounts of the load.
pub fn load_accounts(count: u32) -> Vec<Keyed> {
    (0..count).map(load_account).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{address, b256};

    #[test]
    fn the_ten_accounts_are_those_of_every_development_node() {
        let accounts = dev_accounts();
        assert_eq!(accounts.len(), 10);
        assert_eq!(
            accounts[0].address,
            address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266")
        );
        assert_eq!(
            accounts[0].secret,
            b256!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
        );
        assert_eq!(
            accounts[9].address,
            address!("a0Ee7A142d267C1f36714E4a8F75612F20a79720")
        );
    }

    #[test]
    fn the_load_has_accounts_of_its_own() {
        let dev = dev_accounts();
        let load = load_accounts(50);
        assert_eq!(load, load_accounts(50));
        for account in &load {
            assert!(dev.iter().all(|d| d.address != account.address));
        }
    }
}
