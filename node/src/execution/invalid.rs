//! Why a transaction cannot stand at a place in a shard. The wording is what Ethereum's tools look for.

use alloy_primitives::{Address, U256};
use revm::context::result::InvalidTransaction;

/// Why a transaction is not executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A later transaction of the sender was executed already.
    #[error("nonce too low: next nonce {expected}, tx nonce {found}")]
    NonceTooLow {
        /// The sender's transaction count.
        expected: u64,
        /// The transaction's nonce.
        found: u64,
    },
    /// An earlier transaction of the sender is missing.
    #[error("nonce too high: next nonce {expected}, tx nonce {found}")]
    NonceTooHigh {
        /// The sender's transaction count.
        expected: u64,
        /// The transaction's nonce.
        found: u64,
    },
    /// EIP-2681.
    #[error("nonce has max value")]
    NonceMax,
    /// The sender cannot pay for gas and value.
    #[error(
        "insufficient funds for gas * price + value: address {address} have {have} want {want}"
    )]
    Funds {
        /// The sender.
        address: Address,
        /// Its balance, wei.
        have: U256,
        /// What the transaction may cost at most, wei.
        want: U256,
    },
    /// Gas times price plus value leaves 256 bits.
    #[error("insufficient funds for gas * price + value: the sum overflows")]
    CostOverflow,
    /// EIP-1559.
    #[error(
        "max fee per gas less than block base fee: maxFeePerGas: {max_fee}, baseFee: {base_fee}"
    )]
    FeeBelowBase {
        /// Wei per gas.
        max_fee: u128,
        /// Wei per gas.
        base_fee: u64,
    },
    /// EIP-1559.
    #[error(
        "max priority fee per gas higher than max fee per gas: maxPriorityFeePerGas: {tip}, maxFeePerGas: {max_fee}"
    )]
    TipAboveFee {
        /// Wei per gas.
        tip: u128,
        /// Wei per gas.
        max_fee: u128,
    },
    /// Less gas than any execution of it needs.
    #[error("intrinsic gas too low: gas {found}, minimum needed {needed}")]
    IntrinsicGas {
        /// The transaction's gas limit.
        found: u64,
        /// What it costs before its first instruction.
        needed: u64,
    },
    /// Fits no shard.
    #[error("exceeds block gas limit: gas {found}, shard gas limit {limit}")]
    GasAboveShard {
        /// The transaction's gas limit.
        found: u64,
        /// The chain's shard gas limit.
        limit: u64,
    },
    /// EIP-7825.
    #[error("transaction gas limit too high (cap: {cap}, tx: {found})")]
    GasAboveCap {
        /// The transaction's gas limit.
        found: u64,
        /// The spec's cap for one transaction.
        cap: u64,
    },
    /// EIP-3860.
    #[error("max initcode size exceeded")]
    InitCodeSize,
    /// EIP-3607.
    #[error("sender not an eoa: address {0}")]
    SenderHasCode(Address),
    /// EIP-155.
    #[error("invalid chain id for signer: have {found} want {expected}")]
    ChainId {
        /// The transaction's.
        found: u64,
        /// The chain's.
        expected: u64,
    },
    /// Blobs are for replayed blocks alone.
    #[error("transaction type not supported: blob transactions (type 3) are refused by this chain")]
    Blob,
    /// The chain's spec does not know this type yet.
    #[error("transaction type not supported: type {0}")]
    Type(u8),
    /// EIP-7702.
    #[error("EIP-7702 transaction with empty auth list")]
    NoAuthorizations,
    /// Before Cancun: the diff of a shard cannot say that a whole storage is gone.
    #[error("destroys contract {0}, which is older than the shard: not supported")]
    DestroysOlder(Address),
    /// Too big for an otherwise empty shard's message.
    #[error("transaction makes {0} bytes of diff and receipts: no shard holds as much")]
    TooBig(usize),
    /// Anything else that revm refuses.
    #[error("{0}")]
    Other(String),
}

impl Invalid {
    /// True if no later state makes it valid: keeping the transaction is pointless.
    pub fn is_permanent(&self) -> bool {
        !matches!(
            self,
            Self::NonceTooHigh { .. } | Self::Funds { .. } | Self::FeeBelowBase { .. }
        )
    }

    /// Translates revm's refusal of a transaction of `sender`.
    pub(super) fn of(error: InvalidTransaction, sender: Address, fees: Fees) -> Self {
        use InvalidTransaction as E;
        match error {
            E::NonceTooLow { tx, state } => Self::NonceTooLow {
                expected: state,
                found: tx,
            },
            E::NonceTooHigh { tx, state } => Self::NonceTooHigh {
                expected: state,
                found: tx,
            },
            E::NonceOverflowInTransaction => Self::NonceMax,
            E::LackOfFundForMaxFee { fee, balance } => Self::Funds {
                address: sender,
                have: *balance,
                want: *fee,
            },
            E::OverflowPaymentInTransaction => Self::CostOverflow,
            E::GasPriceLessThanBasefee => Self::FeeBelowBase {
                max_fee: fees.max_fee,
                base_fee: fees.base_fee,
            },
            E::PriorityFeeGreaterThanMaxFee => Self::TipAboveFee {
                tip: fees.tip,
                max_fee: fees.max_fee,
            },
            E::CallGasCostMoreThanGasLimit {
                initial_gas,
                gas_limit,
            } => Self::IntrinsicGas {
                found: gas_limit,
                needed: initial_gas,
            },
            E::GasFloorMoreThanGasLimit {
                gas_floor,
                gas_limit,
            } => Self::IntrinsicGas {
                found: gas_limit,
                needed: gas_floor,
            },
            E::TxGasLimitGreaterThanCap { gas_limit, cap } => Self::GasAboveCap {
                found: gas_limit,
                cap,
            },
            E::CreateInitCodeSizeLimit => Self::InitCodeSize,
            E::RejectCallerWithCode => Self::SenderHasCode(sender),
            E::EmptyAuthorizationList => Self::NoAuthorizations,
            E::Eip2930NotSupported => Self::Type(1),
            E::Eip1559NotSupported => Self::Type(2),
            E::Eip4844NotSupported => Self::Type(3),
            E::Eip7702NotSupported => Self::Type(4),
            other => Self::Other(other.to_string()),
        }
    }
}

/// What a message about fees names.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fees {
    pub(super) max_fee: u128,
    pub(super) tip: u128,
    pub(super) base_fee: u64,
}
