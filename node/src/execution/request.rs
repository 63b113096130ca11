//! JSON-RPC's requests, as revm wants them.

use super::invalid::Invalid;
use super::overlay::Overlay;
use super::rules::Rules;
use super::simulate::CallError;
use super::view::StateView;
use alloy_primitives::{Address, B256, TxKind};
use alloy_rpc_types_eth::TransactionRequest;
use alloy_rpc_types_eth::state::AccountOverride;
use revm::context::TxEnv;
use revm::context::either::Either;

/// The request as revm wants it, without gas limit and nonce.
pub(super) fn request_env(rules: &Rules, request: &TransactionRequest) -> Result<TxEnv, CallError> {
    let wrong = |what: &str| Err(CallError::Request(what.to_owned()));
    if request.blob_versioned_hashes.is_some() || request.max_fee_per_blob_gas.is_some() {
        return Err(Invalid::Blob.into());
    }
    if request.gas_price.is_some()
        && (request.max_fee_per_gas.is_some() || request.max_priority_fee_per_gas.is_some())
    {
        return wrong("both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified");
    }
    let Ok(input) = request.input.unique_input() else {
        return wrong("both \"data\" and \"input\" are set and not equal");
    };
    if let Some(found) = request.chain_id.filter(|id| *id != rules.chain_id) {
        return Err(CallError::Invalid(Invalid::ChainId {
            found,
            expected: rules.chain_id,
        }));
    }
    let kind = request.to.unwrap_or(TxKind::Create);
    let authorizations = request.authorization_list.as_deref().unwrap_or(&[]);
    let dynamic = request.max_fee_per_gas.is_some() || request.max_priority_fee_per_gas.is_some();
    let tx_type = match () {
        () if request.authorization_list.is_some() => 4,
        () if dynamic => 2,
        () if request.access_list.is_some() => 1,
        () => 0,
    };
    if tx_type == 4 && kind.is_create() {
        return wrong("an authorization list needs a recipient");
    }
    Ok(TxEnv {
        tx_type,
        caller: request.from.unwrap_or_default(),
        gas_limit: 0,
        gas_price: request
            .gas_price
            .or(request.max_fee_per_gas)
            .unwrap_or_default(),
        kind,
        value: request.value.unwrap_or_default(),
        data: input.cloned().unwrap_or_default(),
        nonce: request.nonce.unwrap_or_default(),
        chain_id: Some(rules.chain_id),
        access_list: request.access_list.clone().unwrap_or_default(),
        gas_priority_fee: (tx_type == 2 || tx_type == 4)
            .then(|| request.max_priority_fee_per_gas.unwrap_or_default()),
        blob_hashes: Vec::new(),
        max_fee_per_blob_gas: 0,
        authorization_list: authorizations.iter().cloned().map(Either::Left).collect(),
    })
}

/// Puts other things in an account's place before a call.
pub(super) fn apply_override<V: StateView>(
    overlay: &mut Overlay<V>,
    address: Address,
    change: &AccountOverride,
) -> Result<(), CallError> {
    if change.move_precompile_to.is_some() {
        let what = "state override: moving a precompile is not supported";
        return Err(CallError::Request(what.to_owned()));
    }
    let slots = match (&change.state, &change.state_diff) {
        (Some(_), Some(_)) => {
            let what =
                format!("state override: account {address} has both 'state' and 'stateDiff'");
            return Err(CallError::Request(what));
        }
        (Some(all), None) | (None, Some(all)) => Some(all),
        (None, None) => None,
    };
    let slots = slots.into_iter().flatten();
    overlay.replace(
        address,
        |account| {
            account.balance = change.balance.unwrap_or(account.balance);
            account.nonce = change.nonce.unwrap_or(account.nonce);
        },
        change.code.clone(),
        change.state.is_some(),
        slots.map(|(key, value): (&B256, &B256)| ((*key).into(), (*value).into())),
    )?;
    Ok(())
}
