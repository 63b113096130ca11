//! The part of a chain's config that execution needs, and the checks that need no state.

use super::invalid::Invalid;
use super::transaction::{BLOB_TYPE, Transaction};
use alloy_primitives::B256;
use revm::context::{BlockEnv, CfgEnv};
use revm::context_interface::Cfg;
use revm::context_interface::block::BlobExcessGasAndPrice;
use revm::handler::validation::validate_initial_tx_gas;
use revm::primitives::U256;
use revm::primitives::hardfork::SpecId;
use troika_proto::{ChainConfig, Environment, LockRule, Spec};
use troika_store::mutant::{self, Mutant};

/// What stays the same for every shard of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The EVM's rules.
    pub spec: Spec,
    /// Whether credits lock.
    pub lock_rule: LockRule,
    /// Gas of one shard.
    pub shard_gas_limit: u64,
    /// True in a replay alone: blob transactions run as plain calls that BLOBHASH works in. Their blob gas costs one
    /// wei each and is burned.
    pub allow_blobs: bool,
}

impl Rules {
    /// The rules of a chain. Blobs are allowed where the environment is fixed: in replays.
    pub fn of(config: &ChainConfig) -> Self {
        Self {
            chain_id: config.chain_id,
            spec: config.spec,
            lock_rule: config.lock_rule,
            shard_gas_limit: config.shard_gas_limit,
            allow_blobs: config.fixed.is_some(),
        }
    }

    /// Checks what no state can change: chain id, type, gas limit, intrinsic gas, fee order. A transaction that
    /// passes may still be refused by [`Builder::push`](super::Builder::push).
    ///
    /// A legacy transaction without a chain id passes, as in any Ethereum block; whether a door takes it is the
    /// door's choice.
    ///
    /// # Errors
    /// Why it can never be included in this chain.
    pub fn check(&self, tx: &Transaction) -> Result<(), Invalid> {
        self.check_shard(tx)?;
        match tx.chain_id() {
            Some(found) if found != self.chain_id => {
                return Err(Invalid::ChainId {
                    found,
                    expected: self.chain_id,
                });
            }
            _ => {}
        }
        if tx.max_tip() > tx.max_fee() {
            return Err(Invalid::TipAboveFee {
                tip: tx.max_tip(),
                max_fee: tx.max_fee(),
            });
        }
        let gas = tx.gas_limit();
        let cap = self.transaction_gas_cap();
        if gas > cap {
            return Err(Invalid::GasAboveCap { found: gas, cap });
        }
        let spec = self.spec_id();
        let env = super::evm::tx_env(tx);
        validate_initial_tx_gas(&env, spec, false, false, cap, None)
            .map_err(|e| Invalid::of(e, tx.sender, super::evm::fees(tx, 0)))?;
        if tx.nonce() == u64::MAX {
            return Err(Invalid::NonceMax);
        }
        Ok(())
    }

    /// The part of [`Rules::check`] that is Troika's own: revm does not know it.
    pub(super) fn check_shard(&self, tx: &Transaction) -> Result<(), Invalid> {
        if tx.tx_type() == BLOB_TYPE && !self.allow_blobs {
            return Err(Invalid::Blob);
        }
        if tx.gas_limit() > self.shard_gas_limit {
            return Err(Invalid::GasAboveShard {
                found: tx.gas_limit(),
                limit: self.shard_gas_limit,
            });
        }
        Ok(())
    }

    /// Most gas of one transaction: EIP-7825's cap from Osaka on, and never more than a shard's.
    pub fn transaction_gas_cap(&self) -> u64 {
        self.cfg().tx_gas_limit_cap().min(self.shard_gas_limit)
    }

    /// revm's name of the spec.
    pub(super) fn spec_id(&self) -> SpecId {
        match self.spec {
            Spec::Berlin => SpecId::BERLIN,
            Spec::London => SpecId::LONDON,
            Spec::Paris => SpecId::MERGE,
            Spec::Shanghai => SpecId::SHANGHAI,
            Spec::Cancun => SpecId::CANCUN,
            Spec::Prague => SpecId::PRAGUE,
            Spec::Osaka => SpecId::OSAKA,
        }
    }

    pub(super) fn cfg(&self) -> CfgEnv {
        let mut cfg = CfgEnv::new_with_spec(self.spec_id()).with_chain_id(self.chain_id);
        cfg.disable_nonce_check = mutant::on(Mutant::IncludedTwice);
        cfg
    }
}

/// The environment as revm wants it. Before the merge the DIFFICULTY opcode reads what later is PREVRANDAO.
pub(super) fn block_env(environment: &Environment) -> BlockEnv {
    BlockEnv {
        number: U256::from(environment.number),
        beneficiary: environment.beneficiary,
        timestamp: U256::from(environment.timestamp),
        gas_limit: environment.gas_limit,
        basefee: environment.base_fee,
        difficulty: U256::from_be_bytes(environment.prev_randao.0),
        prevrandao: Some(B256::from(environment.prev_randao)),
        // revm refuses to run without; with no excess, blob gas costs one wei.
        blob_excess_gas_and_price: Some(BlobExcessGasAndPrice {
            excess_blob_gas: 0,
            blob_gasprice: 1,
        }),
        slot_num: 0,
    }
}
