//! Load for a development chain: who sends, what they send, and how fast.
//!
//! Everything here is deterministic: the accounts are derived from a fixed seed, and a [`Generator`] with the same seed
//! and the same starting nonces signs the same transactions, byte for byte. The accounts are never the ten of the test
//! mnemonic, so that a person who plays with those is not in the load's way.
//!
//! [`accounts`] derives keys, [`contracts`] allocates the token and the market of the demo, [`generate`] signs, and
//! [`drive`] hands the signed bytes to a gateway at the wanted pace and knows afterwards whether all were included.
//! Nothing here knows of the gateway.

pub mod accounts;
pub mod contracts;
pub mod drive;
pub mod generate;
pub mod pace;

pub use accounts::Keyed;
pub use generate::{Generator, Mix};

use std::fmt;
use std::str::FromStr;

/// Highest rate that can be asked for, transactions a second.
pub const MAX_RATE: u32 = 1_000_000;
/// Rate of the demo load, transactions a second.
pub const DEMO_RATE: u32 = 40;

/// What load a run is put under (`--load`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// None.
    None,
    /// A gentle mix of transfers, token transfers and swaps, [`DEMO_RATE`] a second.
    Demo,
    /// Plain transfers, signed ahead, as fast as the cluster takes them.
    Max,
    /// Plain transfers at this rate, transactions a second.
    Rate(u32),
}

impl Load {
    /// Transactions a second; `None` where there is no limit.
    pub fn rate(self) -> Option<u32> {
        match self {
            Self::None => Some(0),
            Self::Demo => Some(DEMO_RATE),
            Self::Max => None,
            Self::Rate(rate) => Some(rate),
        }
    }

    /// What is sent.
    pub fn mix(self) -> Mix {
        if self == Self::Demo {
            Mix::Demo
        } else {
            Mix::Transfers
        }
    }
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => return Ok(Self::None),
            "demo" => return Ok(Self::Demo),
            "max" => return Ok(Self::Max),
            _ => {}
        }
        match text.parse::<u32>() {
            Ok(0) => Ok(Self::None),
            Ok(rate) if rate <= MAX_RATE => Ok(Self::Rate(rate)),
            Ok(rate) => Err(format!(
                "{rate} transactions a second is above the limit of {MAX_RATE}; `max` sends as fast as the cluster takes it"
            )),
            Err(_) => Err(
                "expected `demo`, `none`, `max` or a number of transactions a second".to_owned(),
            ),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Demo => f.write_str("demo"),
            Self::Max => f.write_str("max"),
            Self::Rate(rate) => write!(f, "{rate}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_parsed_as_it_is_printed() {
        for load in [Load::None, Load::Demo, Load::Max, Load::Rate(250)] {
            assert_eq!(load.to_string().parse::<Load>(), Ok(load));
        }
        assert_eq!("0".parse::<Load>(), Ok(Load::None));
    }

    #[test]
    fn a_senseless_load_is_refused_with_what_was_expected() {
        let error = "fast".parse::<Load>().unwrap_err();
        assert!(error.contains("`demo`"), "{error}");
        let error = "2000000".parse::<Load>().unwrap_err();
        assert!(error.contains("1000000"), "{error}");
        assert!("-3".parse::<Load>().is_err());
    }
}
