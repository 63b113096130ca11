//! Proposals by hand: a shard out of what somebody wants written, without an EVM.
//!
//! The store checks that header, body and sums belong together; it does not decode transactions. So any bytes can stand
//! for transactions, and a developer can run a race from a shell.
//!
//! ```json
//! {
//!   "transactions": ["0x01", "0x02"],
//!   "gas": 21000,
//!   "writes": { "0x00…cc/0x0": "0x2a" },
//!   "balances": { "0x00…aa": "-5", "0x00…bb": "+5" },
//!   "nonces": { "0x00…aa": 1 },
//!   "codes": {},
//!   "fees": "0",
//!   "payer": "0x00…aa"
//! }
//! ```

use super::args::SubmitArgs;
use super::genesis::Number;
use super::parse;
use alloy_primitives::{Address, Bytes, U256};
use serde::Deserialize;
use std::collections::BTreeMap;
use troika_proto::{Delta, Diff, LockRule, Receipt, Shard, ShardBody};

/// Most bytes of a proposal file: hex doubles what the wire's limit allows.
pub const MAX_PROPOSAL_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// What somebody wants a shard to hold.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proposal {
    /// Bytes that stand for transactions. Empty: the empty shard, which must change nothing.
    pub transactions: Vec<Bytes>,
    /// Gas used by each transaction, at least 1.
    pub gas: u64,
    /// `ADDRESS/SLOT` -> value.
    writes: BTreeMap<String, Number>,
    /// Address -> `+WEI` or `-WEI`.
    balances: BTreeMap<Address, String>,
    /// Address -> new nonce.
    nonces: BTreeMap<Address, u64>,
    /// Address -> new code.
    codes: BTreeMap<Address, Bytes>,
    /// Priority fees, wei.
    fees: Number,
    /// Whose balance pays the fees and the burned base fee.
    payer: Option<Address>,
}

impl Default for Proposal {
    fn default() -> Self {
        Self {
            transactions: Vec::new(),
            gas: 21_000,
            writes: BTreeMap::new(),
            balances: BTreeMap::new(),
            nonces: BTreeMap::new(),
            codes: BTreeMap::new(),
            fees: Number::default(),
            payer: None,
        }
    }
}

impl From<&SubmitArgs> for Proposal {
    fn from(args: &SubmitArgs) -> Self {
        let writes = args.write.iter();
        let balances = args.balance.iter().map(|b| {
            let sign = if b.delta.is_fall() { "-" } else { "+" };
            (b.address, format!("{sign}{}", b.delta.amount()))
        });
        let mut proposal = Self {
            transactions: args.tx.clone(),
            gas: args.gas,
            writes: writes
                .map(|w| (format!("{}/{:#x}", w.address, w.slot), Number(w.value)))
                .collect(),
            balances: balances.collect(),
            nonces: args.nonce.iter().map(|n| (n.address, n.nonce)).collect(),
            codes: args
                .code
                .iter()
                .map(|c| (c.address, c.code.clone()))
                .collect(),
            fees: Number(args.fees),
            payer: args.payer,
        };
        if proposal.transactions.is_empty() {
            proposal.transactions.push(proposal.made_up(&args.executor));
        }
        proposal
    }
}

impl Proposal {
    /// A transaction for who did not give one: different for every executor and every list of changes. It starts with a
    /// byte that no EIP-2718 envelope has.
    fn made_up(&self, executor: &str) -> Bytes {
        let changes = (&self.writes, &self.balances, &self.nonces);
        let mut text = format!("{executor}: {changes:?}").into_bytes();
        text.truncate(1024);
        text.insert(0, 0x7f);
        text.into()
    }

    /// The shard at `index`, valid in a round with this `base_fee` (wei per gas).
    ///
    /// # Errors
    /// A sentence that says what does not add up and what to do.
    pub fn shard(&self, index: u32, base_fee: u64, rule: LockRule) -> Result<Shard, String> {
        let mut diff = self.diff()?;
        let gas = self
            .gas
            .checked_mul(self.transactions.len() as u64)
            .filter(|_| self.gas > 0)
            .ok_or("gas: must be at least 1, and all transactions together fit 64 bits")?;
        let burned = U256::from(base_fee) * U256::from(gas);
        let due = burned
            .checked_add(self.fees.0)
            .ok_or("fees: leave 256 bits")?;
        if let Some(payer) = self.payer {
            add_delta(&mut diff, payer, Delta::fall(due))?;
        }
        diff.accounts.retain(|_, account| !account.is_empty());
        if diff.makes_money(due) {
            return Err(format!(
                "the balance changes do not pay for {due} wei of fees ({} gas at a base fee of {base_fee}, and {} of \
                 priority fees): name who pays with --payer, or let balances fall",
                gas, self.fees.0
            ));
        }
        let receipts = self.transactions.iter().enumerate().map(|(i, tx)| Receipt {
            tx_type: tx.first().copied().filter(|first| *first <= 4).unwrap_or(0),
            success: true,
            cumulative_gas: self.gas * (i as u64 + 1),
            logs: Vec::new(),
        });
        let body = ShardBody {
            transactions: self.transactions.clone(),
            receipts: receipts.collect(),
            diff,
        };
        Ok(Shard::new(index, body, self.fees.0, rule))
    }

    fn diff(&self) -> Result<Diff, String> {
        let mut diff = Diff::default();
        for (place, value) in &self.writes {
            let key = parse::key(place)?;
            let slot = key
                .slot
                .ok_or_else(|| format!("writes: {place:?} is not of the form ADDRESS/SLOT"))?;
            let changed = diff.accounts.entry(key.address).or_default();
            changed.slots.insert(slot, value.0);
        }
        for (address, change) in &self.balances {
            add_delta(&mut diff, *address, parse::delta(change)?)?;
        }
        for (address, nonce) in &self.nonces {
            diff.accounts.entry(*address).or_default().nonce = Some(*nonce);
        }
        for (address, code) in &self.codes {
            diff.accounts.entry(*address).or_default().code = Some(code.clone());
        }
        Ok(diff)
    }
}

fn add_delta(diff: &mut Diff, address: Address, delta: Delta) -> Result<(), String> {
    let account = diff.accounts.entry(address).or_default();
    account.balance = account
        .balance
        .checked_add(delta)
        .ok_or_else(|| format!("the balance of {address} leaves 256 bits"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(text: &str) -> Proposal {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_proposal_by_hand_passes_the_stores_own_check() {
        let proposal = proposal(
            r#"{"transactions": ["0x01", "0x7f02"], "writes": {"0x00000000000000000000000000000000000000cc/0x1": "0x2a"},
                "balances": {"0x00000000000000000000000000000000000000aa": "-5", "0x00000000000000000000000000000000000000bb": "+5"},
                "payer": "0x00000000000000000000000000000000000000aa"}"#,
        );
        let shard = proposal.shard(3, 7, LockRule::Commuting).unwrap();
        assert_eq!(shard.header.index, 3);
        assert_eq!(shard.header.gas_used, 42_000);
        let payer = shard.body.diff.accounts.values().next().unwrap();
        assert_eq!(payer.balance, Delta::fall(U256::from(5 + 7 * 42_000)));
        let again = Shard::check(
            shard.header.clone(),
            shard.body.clone(),
            LockRule::Commuting,
        );
        assert_eq!(again.unwrap().hash, shard.hash);
    }

    #[test]
    fn a_proposal_that_nobody_pays_for_is_refused_with_what_is_due() {
        let proposal = proposal(r#"{"transactions": ["0x01"]}"#);
        let error = proposal.shard(0, 2, LockRule::Commuting).unwrap_err();
        assert!(
            error.contains("42000 wei") && error.contains("--payer"),
            "{error}"
        );
        assert!(proposal.shard(0, 0, LockRule::Commuting).is_ok());
    }
}
