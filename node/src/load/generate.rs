//! Makes the load's transactions: the same seed and nonces give the same bytes.
//!
//! Planning is sequential and cheap, signing is neither: [`Generator::plan`] decides what is sent, [`sign_all`] signs a
//! batch on all cores.

use super::accounts::{Keyed, load_accounts};
use super::contracts;
use alloy_consensus::TxEip1559;
use alloy_primitives::{Address, Bytes, TxKind, U256, keccak256};

/// Senders of the demo mix.
pub const DEMO_SENDERS: u32 = 64;
/// Senders of plain transfers: enough that no queue grows long within a block.
pub const TRANSFER_SENDERS: u32 = 1_024;
/// Recipients that each sender of plain transfers pays in turn, so that the state stays bounded.
const RECIPIENTS_EACH: u64 = 4;
/// Offered above the base fee, wei per gas. Below what wallets offer, so that a person's transaction goes first.
const TIP: u128 = 1_000;
/// Most that is paid for gas, wei per gas. Not reached: the dev chain's base fee only falls.
const MAX_FEE: u128 = 10_000_000_000;
/// Gas limit of a plain transfer: what it uses.
const TRANSFER_GAS: u64 = 21_000;
/// Gas limit of a token transfer.
const TOKEN_GAS: u64 = 80_000;
/// Gas limit of a swap.
const SWAP_GAS: u64 = 180_000;

/// What a load is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Plain transfers only.
    Transfers,
    /// Half plain transfers, three tenths token transfers, two tenths swaps.
    Demo,
}

impl Mix {
    /// Accounts that send.
    pub fn senders(self) -> u32 {
        match self {
            Self::Transfers => TRANSFER_SENDERS,
            Self::Demo => DEMO_SENDERS,
        }
    }
}

/// A transaction that is decided but not signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Index of the sender among the generator's accounts.
    pub sender: usize,
    /// What it will sign.
    pub transaction: TxEip1559,
}

/// A signed transaction of the load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Index of the sender among the generator's accounts.
    pub sender: usize,
    /// The sender's nonce.
    pub nonce: u64,
    /// The EIP-2718 envelope.
    pub raw: Bytes,
}

/// An endless, deterministic series of transactions, the senders taking turns.
#[derive(Clone, Debug)]
pub struct Generator {
    mix: Mix,
    chain_id: u64,
    accounts: Vec<Keyed>,
    nonces: Vec<u64>,
    random: SplitMix,
    turn: usize,
}

impl Generator {
    /// A series for `chain_id`. `nonces` are the senders' next ones, as many as the mix has senders.
    pub fn new(mix: Mix, chain_id: u64, seed: u64, nonces: Vec<u64>) -> Self {
        let accounts = load_accounts(mix.senders());
        assert_eq!(accounts.len(), nonces.len(), "one nonce a sender");
        Self {
            mix,
            chain_id,
            accounts,
            nonces,
            random: SplitMix(seed),
            turn: 0,
        }
    }

    /// The senders.
    pub fn accounts(&self) -> &[Keyed] {
        &self.accounts
    }

    /// The nonces that the senders would use next: where they stand once everything made so far is included.
    pub fn nonces(&self) -> &[u64] {
        &self.nonces
    }

    /// Decides the next transaction.
    pub fn plan(&mut self) -> Planned {
        let sender = self.turn;
        self.turn = (self.turn + 1) % self.accounts.len();
        let nonce = self.nonces[sender];
        self.nonces[sender] += 1;
        let (to, value, input, gas_limit) = match self.mix {
            Mix::Transfers => self.transfer(sender, nonce),
            Mix::Demo => self.demo(sender, nonce),
        };
        let transaction = TxEip1559 {
            chain_id: self.chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas: MAX_FEE,
            max_priority_fee_per_gas: TIP,
            to: TxKind::Call(to),
            value,
            access_list: Default::default(),
            input,
        };
        Planned {
            sender,
            transaction,
        }
    }

    /// Decides and signs the next `count` transactions, on all cores.
    pub fn sign_many(&mut self, count: usize) -> Vec<Signed> {
        let planned: Vec<_> = (0..count).map(|_| self.plan()).collect();
        sign_all(&self.accounts, planned)
    }

    fn transfer(&self, sender: usize, nonce: u64) -> (Address, U256, Bytes, u64) {
        let to = recipient(sender as u64, nonce % RECIPIENTS_EACH);
        (to, U256::from(1), Bytes::new(), TRANSFER_GAS)
    }

    fn demo(&mut self, sender: usize, nonce: u64) -> (Address, U256, Bytes, u64) {
        let amount = U256::from(1 + self.random.below(1_000));
        match self.random.below(10) {
            0..=4 => self.transfer(sender, nonce),
            5..=7 => {
                let to = recipient(sender as u64, nonce % RECIPIENTS_EACH);
                let input = contracts::transfer_call(to, amount);
                (contracts::TOKEN_0, U256::ZERO, input, TOKEN_GAS)
            }
            _ => {
                let zero_for_one = self.random.below(2) == 0;
                let input = contracts::swap_call(zero_for_one, amount * U256::from(1_000_000));
                (contracts::PAIR, U256::ZERO, input, SWAP_GAS)
            }
        }
    }
}

/// An account that only receives.
fn recipient(sender: u64, number: u64) -> Address {
    Address::from_slice(&keccak256(format!("troika load recipient {sender} {number}"))[12..])
}

/// Signs `planned`, keeping the order, on as many threads as there are cores.
pub fn sign_all(accounts: &[Keyed], planned: Vec<Planned>) -> Vec<Signed> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let share = planned.len().div_ceil(threads).max(1);
    let sign = |part: &[Planned]| -> Vec<Signed> {
        let sign_one = |p: &Planned| Signed {
            sender: p.sender,
            nonce: p.transaction.nonce,
            raw: accounts[p.sender].sign(p.transaction.clone()),
        };
        part.iter().map(sign_one).collect()
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = planned
            .chunks(share)
            .map(|part| scope.spawn(move || sign(part)))
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("signing does not panic"))
            .collect()
    })
}

/// SplitMix64: small, fast, and the same everywhere for ever, which a library's generator does not promise.
#[derive(Clone, Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`. The bias is far below anything a load could show.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_consensus::transaction::SignerRecoverable;
    use alloy_consensus::{Transaction, TxEnvelope};
    use alloy_eips::eip2718::Decodable2718;
    use std::collections::BTreeSet;

    fn generator(mix: Mix, seed: u64) -> Generator {
        Generator::new(mix, 1337, seed, vec![0; mix.senders() as usize])
    }

    #[test]
    fn the_same_seed_signs_the_same_bytes() {
        let first = generator(Mix::Demo, 7).sign_many(200);
        assert_eq!(first, generator(Mix::Demo, 7).sign_many(200));
        assert_ne!(first, generator(Mix::Demo, 8).sign_many(200));
        // In batches as in one go: signing on several threads keeps the order.
        let mut batches = generator(Mix::Demo, 7);
        let mut parts = batches.sign_many(63);
        parts.extend(batches.sign_many(137));
        assert_eq!(first, parts);
    }

    #[test]
    fn signatures_are_the_senders_and_nonces_have_no_gap() {
        let mut generator = generator(Mix::Transfers, 1);
        let signed = generator.sign_many(2_100);
        let mut next = vec![0; generator.accounts().len()];
        for transaction in &signed {
            let envelope = TxEnvelope::decode_2718(&mut &transaction.raw[..]).expect("decodes");
            let sender = &generator.accounts()[transaction.sender];
            assert_eq!(envelope.recover_signer().expect("signed"), sender.address);
            assert_eq!(envelope.nonce(), next[transaction.sender]);
            assert_eq!(envelope.chain_id(), Some(1337));
            next[transaction.sender] += 1;
        }
        assert_eq!(next, generator.nonces());
    }

    #[test]
    fn the_demo_mixes_transfers_token_transfers_and_swaps() {
        let mut generator = generator(Mix::Demo, 3);
        let mut counts = [0; 3];
        for _ in 0..1_000 {
            let to = generator.plan().transaction.to.into_to();
            match to.expect("no creation") {
                contracts::PAIR => counts[2] += 1,
                contracts::TOKEN_0 => counts[1] += 1,
                _ => counts[0] += 1,
            }
        }
        assert!(
            counts[0] > 400 && counts[1] > 200 && counts[2] > 100,
            "{counts:?}"
        );
    }

    #[test]
    fn plain_transfers_touch_a_bounded_state() {
        let mut generator = generator(Mix::Transfers, 3);
        let recipients: BTreeSet<_> = (0..20_000)
            .map(|_| generator.plan().transaction.to.into_to())
            .collect();
        assert_eq!(
            recipients.len() as u64,
            u64::from(TRANSFER_SENDERS) * RECIPIENTS_EACH
        );
    }
}
