//! The token and the market of the demo load, allocated in genesis. Sources and byte code stand in `node/contracts/`.

use alloy_primitives::{Address, Bytes, U256, address, hex, keccak256};
use alloy_sol_types::{SolCall, SolValue, sol};
use std::collections::BTreeMap;
use troika_proto::GenesisAccount;

sol! {
    /// ERC-20, what of it the load calls.
    function transfer(address to, uint256 value) external returns (bool);
    /// `Pair.sol`: sells one token for the other.
    function swap(bool zeroForOne, uint256 amountIn, uint256 minimumOut) external returns (uint256 amountOut);
}

/// The token that is transferred, and that the market calls token 0.
pub const TOKEN_0: Address = address!("0000000000000000000000000000000000070000");
/// The market's token 1.
pub const TOKEN_1: Address = address!("0000000000000000000000000000000000070001");
/// The market.
pub const PAIR: Address = address!("0000000000000000000000000000000000070002");

/// Storage slots of `Token.sol`.
const BALANCE_OF: u64 = 0;
const ALLOWANCE: u64 = 1;
const TOTAL_SUPPLY: u64 = 2;

/// One token in its smallest unit.
pub const ONE_TOKEN: u64 = 1_000_000_000_000_000_000;
/// Tokens that every holder starts with.
const TOKENS_EACH: u64 = 1_000_000;
/// Tokens of each kind that the market starts with.
const RESERVE: u64 = 100_000_000;

fn code(text: &str) -> Bytes {
    hex::decode(text.trim())
        .expect("the checked-in byte code is hexadecimal")
        .into()
}

/// Slot of `mapping[key]` where the mapping stands at `slot`.
fn mapping(key: Address, slot: U256) -> U256 {
    keccak256((key, slot).abi_encode()).into()
}

fn tokens(count: u64) -> U256 {
    U256::from(count) * U256::from(ONE_TOKEN)
}

fn token(holders: &[Address]) -> GenesisAccount {
    let mut storage = BTreeMap::new();
    for holder in holders {
        storage.insert(
            mapping(*holder, U256::from(BALANCE_OF)),
            tokens(TOKENS_EACH),
        );
        let allowed: U256 = mapping(*holder, U256::from(ALLOWANCE));
        // Unlimited: the market may always take what a holder sells.
        storage.insert(mapping(PAIR, allowed), U256::MAX);
    }
    storage.insert(mapping(PAIR, U256::from(BALANCE_OF)), tokens(RESERVE));
    let supply = tokens(RESERVE) + tokens(TOKENS_EACH) * U256::from(holders.len());
    storage.insert(U256::from(TOTAL_SUPPLY), supply);
    GenesisAccount {
        nonce: 1,
        code: code(include_str!("../../contracts/Token.hex")),
        storage,
        ..GenesisAccount::default()
    }
}

fn pair() -> GenesisAccount {
    let storage = BTreeMap::from([
        (U256::from(0), U256::from_be_slice(TOKEN_0.as_slice())),
        (U256::from(1), U256::from_be_slice(TOKEN_1.as_slice())),
        (U256::from(2), tokens(RESERVE)),
        (U256::from(3), tokens(RESERVE)),
    ]);
    GenesisAccount {
        nonce: 1,
        code: code(include_str!("../../contracts/Pair.hex")),
        storage,
        ..GenesisAccount::default()
    }
}

/// Both tokens and the market, with `holders` owning tokens that the market may take.
pub fn allocation(holders: &[Address]) -> Vec<(Address, GenesisAccount)> {
    vec![
        (TOKEN_0, token(holders)),
        (TOKEN_1, token(holders)),
        (PAIR, pair()),
    ]
}

/// Call data of a token transfer.
pub fn transfer_call(to: Address, value: U256) -> Bytes {
    transferCall { to, value }.abi_encode().into()
}

/// Call data of a swap at whatever price there is.
pub fn swap_call(zero_for_one: bool, amount_in: U256) -> Bytes {
    swapCall {
        zeroForOne: zero_for_one,
        amountIn: amount_in,
        minimumOut: U256::ZERO,
    }
    .abi_encode()
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_data_has_the_selectors_that_the_contracts_answer_to() {
        let transfer = transfer_call(PAIR, U256::ONE);
        assert_eq!(transfer[..4], keccak256("transfer(address,uint256)")[..4]);
        let swap = swap_call(true, U256::ONE);
        assert_eq!(swap[..4], keccak256("swap(bool,uint256,uint256)")[..4]);
        let token = code(include_str!("../../contracts/Token.hex"));
        let pair = code(include_str!("../../contracts/Pair.hex"));
        let holds = |code: &Bytes, data: &Bytes| code.windows(4).any(|w| w == &data[..4]);
        assert!(holds(&token, &transfer));
        assert!(holds(&pair, &swap));
    }

    #[test]
    fn the_supply_is_the_sum_of_all_balances() {
        let holders = [TOKEN_1, Address::repeat_byte(7)];
        let account = token(&holders);
        let balances = holders
            .iter()
            .chain([&PAIR])
            .map(|holder| account.storage[&mapping(*holder, U256::from(BALANCE_OF))]);
        assert_eq!(
            balances.sum::<U256>(),
            account.storage[&U256::from(TOTAL_SUPPLY)]
        );
    }
}
