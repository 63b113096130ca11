//! A shard in the making.

use super::evm::{Engine, Executed, Mode, Ran};
use super::header;
use super::invalid::Invalid;
use super::overlay::{Change, Overlay};
use super::rules::Rules;
use super::transaction::Transaction;
use super::view::{StateView, Unavailable};
use alloy_primitives::map::HashSet;
use alloy_primitives::{B256, U256};
use std::sync::Arc;
use troika_proto::limits::{MAX_SHARD_MESSAGE_BYTES, MAX_SHARD_TRANSACTIONS};
use troika_proto::{Address, Delta, Diff, Environment, LockKey, Log, Receipt, Shard, ShardBody};
use troika_store::mutant::{self, Mutant};

/// Bytes of a shard's message that its header, its framing and a caller's own fields may take.
const MESSAGE_RESERVE_BYTES: usize = 256 * 1024;
/// Most bytes that a changed account (without code) takes in a shard's message.
const ACCOUNT_BYTES: usize = 128;
/// Most bytes that a changed slot takes in a shard's message.
const SLOT_BYTES: usize = 80;
/// Most bytes that a receipt (without logs) takes in a shard's message.
const RECEIPT_BYTES: usize = 32;
/// Most bytes that a log (without data) takes in a shard's message.
const LOG_BYTES: usize = 176;

/// What became of a transaction that was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Push {
    /// It stands in the shard.
    Included {
        /// Gas used, after refunds.
        gas: u64,
        /// False if it was reverted or ran out of gas: it pays all the same.
        success: bool,
    },
    /// It does not fit what is left of the shard (gas, transactions or bytes): try another shard or another round.
    Full,
    /// It would write a key that was barred: it left no trace.
    Held(LockKey),
    /// Not executable as things stand, but maybe later.
    Skip(Invalid),
    /// Never executable on this chain: forget it.
    Drop(Invalid),
}

impl Push {
    /// True if the transaction stands in the shard.
    pub fn is_included(&self) -> bool {
        matches!(self, Self::Included { .. })
    }
}

/// A transaction that stood in the shard and does no more.
#[derive(Clone, Debug)]
pub struct Removed {
    /// Which.
    pub transaction: Arc<Transaction>,
    /// Why, as if it had been pushed now. Where the state could not be read, it and all after it were not tried.
    pub reason: Result<Push, Unavailable>,
}

/// A transaction in the shard.
#[derive(Clone, Debug)]
struct Included {
    transaction: Arc<Transaction>,
    success: bool,
    gas: u64,
    logs: Vec<Log>,
    changes: Vec<Change>,
    fee: U256,
    burned: U256,
    bytes: usize,
}

/// What all included transactions come to.
#[derive(Clone, Debug, Default)]
struct Progress {
    included: Vec<Included>,
    gas: u64,
    bytes: usize,
    barred: HashSet<LockKey>,
}

/// One shard in the making, on one parent, in one environment. Transactions are appended; [`Builder::finish`] can be
/// called at any time and appending go on afterwards.
///
/// Transactions read the parent's state and what the same shard wrote before, never anything else.
#[derive(Clone, Debug)]
pub struct Builder<V: StateView> {
    rules: Rules,
    environment: Environment,
    overlay: Overlay<V>,
    progress: Progress,
}

impl<V: StateView> Builder<V> {
    /// An empty shard on the state that `view` shows. `environment` is what transactions see: of a replayed block
    /// the block's own (`ChainConfig::execution_environment`).
    pub fn new(rules: Rules, environment: Environment, view: V) -> Self {
        Self {
            rules,
            environment,
            overlay: Overlay::new(view),
            progress: Progress::default(),
        }
    }

    /// Executes `transaction` after those that are in, and includes it if it can be.
    ///
    /// # Errors
    /// [`Unavailable`]: the state could not be read; the builder is as it was and the same call may be made again.
    pub fn push(&mut self, transaction: &Arc<Transaction>) -> Result<Push, Unavailable> {
        if let Some(refusal) = self.progress.refuse(&self.rules, transaction) {
            return Ok(refusal);
        }
        let mut engine = Engine::new(
            &self.rules,
            &self.environment,
            Mode::Shard,
            &mut self.overlay,
        );
        self.progress.push(&self.rules, &mut engine, transaction)
    }

    /// Pushes one after the other, faster than by [`Builder::push`], until `go_on` answers false.
    ///
    /// # Errors
    /// [`Unavailable`], as for [`Builder::push`]; what was pushed before stays in.
    pub fn push_all<'t>(
        &mut self,
        transactions: impl IntoIterator<Item = &'t Arc<Transaction>>,
        mut go_on: impl FnMut(&'t Arc<Transaction>, Push) -> bool,
    ) -> Result<(), Unavailable> {
        let mut engine = Engine::new(
            &self.rules,
            &self.environment,
            Mode::Shard,
            &mut self.overlay,
        );
        for transaction in transactions {
            let push = self.progress.push(&self.rules, &mut engine, transaction)?;
            if !go_on(transaction, push) {
                break;
            }
        }
        Ok(())
    }

    /// Bars `keys` for this shard: another shard holds them. Transactions that make the shard write one are taken
    /// out, what came after the first of them is executed again, and later pushes that would write one are
    /// [`Push::Held`]. Answers what is out now, in the order in which it stood.
    pub fn bar(&mut self, keys: impl IntoIterator<Item = LockKey>) -> Vec<Removed> {
        self.progress.barred.extend(keys);
        let rule = self.rules.lock_rule;
        let taken: HashSet<LockKey> = self
            .progress
            .barred
            .iter()
            .filter(|key| self.overlay.is_locked(key, rule))
            .copied()
            .collect();
        let writes_taken = |t: &Included| {
            let mut keys = t.changes.iter().filter_map(Change::key);
            keys.any(|key| taken.contains(&key))
        };
        match self.progress.included.iter().position(writes_taken) {
            Some(first) if !taken.is_empty() => self.rebuild(first, |_| true),
            _ => Vec::new(),
        }
    }

    /// Takes out the transactions of these hashes and executes again what came after the first of them. Answers
    /// what else fell out by that.
    pub fn without(&mut self, hashes: &std::collections::HashSet<B256>) -> Vec<Removed> {
        let out = |t: &Transaction| hashes.contains(&t.hash);
        let mut included = self.progress.included.iter();
        match included.position(|t| out(&t.transaction)) {
            Some(first) => self.rebuild(first, |t| !out(t)),
            None => Vec::new(),
        }
    }

    /// Executes again from the `first` transaction on, without those that `keep` refuses.
    fn rebuild(&mut self, first: usize, keep: impl Fn(&Transaction) -> bool) -> Vec<Removed> {
        let again = self.progress.included.split_off(first);
        let mut transactions = Vec::with_capacity(again.len());
        for included in again.into_iter().rev() {
            self.progress.gas -= included.gas;
            self.progress.bytes -= included.bytes;
            self.overlay.undo(included.changes);
            transactions.push(included.transaction);
        }
        let mut removed = Vec::new();
        let mut unavailable = None;
        let mut engine = Engine::new(
            &self.rules,
            &self.environment,
            Mode::Shard,
            &mut self.overlay,
        );
        for transaction in transactions.into_iter().rev().filter(|t| keep(t)) {
            let reason = match &unavailable {
                Some(error) => Err(Unavailable::clone(error)),
                None => self.progress.push(&self.rules, &mut engine, &transaction),
            };
            match reason {
                Ok(Push::Included { .. }) => continue,
                Ok(_) => {}
                Err(ref error) => unavailable = Some(error.clone()),
            }
            removed.push(Removed {
                transaction,
                reason,
            });
        }
        removed
    }

    /// The shard as it stands, under `index`: header, hash and body.
    pub fn finish(&self, index: u32) -> Shard {
        let mut cumulative_gas = 0;
        let included = &self.progress.included;
        let receipt = |t: &Included| {
            cumulative_gas += t.gas;
            Receipt {
                tx_type: t.transaction.tx_type(),
                success: t.success,
                cumulative_gas,
                logs: t.logs.clone(),
            }
        };
        let mut body = ShardBody {
            receipts: included.iter().map(receipt).collect(),
            transactions: included.iter().map(|t| t.transaction.raw.clone()).collect(),
            diff: self.diff(),
        };
        if mutant::on(Mutant::DiffMakesMoney) && !included.is_empty() {
            let lucky = body.diff.accounts.entry(Address::repeat_byte(0xee));
            lucky.or_default().balance = Delta::rise(U256::from(10).pow(U256::from(18)));
        }
        let mut shard = header::shard(index, body, self.fees(), self.rules.lock_rule);
        if mutant::on(Mutant::CreditsLeftOut) {
            let mut covered = shard.body.diff.clone();
            covered.accounts.retain(|_, account| !account.is_credit());
            shard.header.diff_root = covered.root(self.rules.lock_rule);
            shard.hash = shard.header.hash();
        }
        shard
    }

    /// The net changes against the parent, fees left out.
    pub fn diff(&self) -> Diff {
        self.overlay.diff()
    }

    /// Priority fees so far, wei.
    pub fn fees(&self) -> U256 {
        let fees = self.progress.included.iter().map(|t| t.fee);
        fees.fold(U256::ZERO, U256::saturating_add)
    }

    /// Base fees (and, in a replay, blob fees) so far, wei: gone for ever.
    pub fn burned(&self) -> U256 {
        let burned = self.progress.included.iter().map(|t| t.burned);
        burned.fold(U256::ZERO, U256::saturating_add)
    }

    /// Gas used so far, after refunds.
    pub fn gas_used(&self) -> u64 {
        self.progress.gas
    }

    /// Gas limit that a next transaction may still have.
    pub fn gas_left(&self) -> u64 {
        self.rules.shard_gas_limit.saturating_sub(self.progress.gas)
    }

    /// Number of transactions in the shard.
    pub fn len(&self) -> usize {
        self.progress.included.len()
    }

    /// True if the shard has no transaction.
    pub fn is_empty(&self) -> bool {
        self.progress.included.is_empty()
    }

    /// The transactions in the shard, in order.
    pub fn transactions(&self) -> impl ExactSizeIterator<Item = &Arc<Transaction>> {
        self.progress.included.iter().map(|t| &t.transaction)
    }

    /// What each transaction wrote, by its index in the shard: the keys that it would lock if it stood alone,
    /// ascending.
    pub fn writes(&self) -> Vec<Vec<LockKey>> {
        let included = self.progress.included.iter();
        included.map(|t| write_keys(&t.changes)).collect()
    }

    /// Success and gas of each transaction, in order.
    pub fn outcomes(&self) -> impl ExactSizeIterator<Item = (bool, u64)> + '_ {
        self.progress.included.iter().map(|t| (t.success, t.gas))
    }

    /// Everything that was read on the way (written things too): what another run on a like state will ask for.
    pub fn reads(&self) -> HashSet<LockKey> {
        self.overlay.reads()
    }
}

impl Progress {
    /// Refusals that need no execution. What revm checks anyway is left to it.
    fn refuse(&self, rules: &Rules, transaction: &Transaction) -> Option<Push> {
        if let Err(invalid) = rules.check_shard(transaction) {
            return Some(Push::Drop(invalid));
        }
        let full = self.included.len() >= MAX_SHARD_TRANSACTIONS
            || self.gas + transaction.gas_limit() > rules.shard_gas_limit;
        full.then_some(Push::Full)
    }

    fn push<V: StateView>(
        &mut self,
        rules: &Rules,
        engine: &mut Engine<'_, V>,
        transaction: &Arc<Transaction>,
    ) -> Result<Push, Unavailable> {
        if let Some(refusal) = self.refuse(rules, transaction) {
            return Ok(refusal);
        }
        let executed = match engine.run(transaction)? {
            Ran::Executed(executed) => executed,
            Ran::Invalid(invalid) => {
                // What no state can cure says more than what revm met first.
                let invalid = rules.check(transaction).err().unwrap_or(invalid);
                return Ok(if invalid.is_permanent() {
                    Push::Drop(invalid)
                } else {
                    Push::Skip(invalid)
                });
            }
        };
        let bytes = message_bytes(transaction, &executed);
        let refusal = self.refuse_executed(rules, engine, &executed.changes, bytes);
        if let Some(refusal) = refusal {
            engine.overlay().undo(executed.changes);
            return Ok(refusal);
        }
        let gas = executed.result.tx_gas_used();
        let success = executed.result.is_success();
        self.gas += gas;
        self.bytes += bytes;
        self.included.push(Included {
            transaction: transaction.clone(),
            success,
            gas,
            logs: executed.result.into_logs().into_iter().map(log).collect(),
            changes: executed.changes,
            fee: executed.fee,
            burned: executed.burned,
            bytes,
        });
        Ok(Push::Included { gas, success })
    }

    /// Refusals that only show once the transaction was executed.
    fn refuse_executed<V: StateView>(
        &self,
        rules: &Rules,
        engine: &mut Engine<'_, V>,
        changes: &[Change],
        bytes: usize,
    ) -> Option<Push> {
        let budget = MAX_SHARD_MESSAGE_BYTES - MESSAGE_RESERVE_BYTES;
        if bytes > budget {
            return Some(Push::Drop(Invalid::TooBig(bytes)));
        }
        if self.bytes + bytes > budget {
            return Some(Push::Full);
        }
        if self.barred.is_empty() {
            return None;
        }
        let overlay = engine.overlay();
        let keys = changes.iter().filter_map(Change::key);
        keys.filter(|key| self.barred.contains(key) && overlay.is_locked(key, rules.lock_rule))
            .min()
            .map(Push::Held)
    }
}

/// The keys that `changes` would lock by themselves, ascending.
pub(super) fn write_keys(changes: &[Change]) -> Vec<LockKey> {
    let mut keys: Vec<LockKey> = changes.iter().filter_map(Change::key).collect();
    keys.sort_unstable();
    keys
}

/// Most bytes that the transaction adds to the message that carries the shard.
fn message_bytes(transaction: &Transaction, executed: &Executed) -> usize {
    let changes = executed.changes.iter().map(|change| match change {
        Change::Account { .. } => ACCOUNT_BYTES,
        Change::Slot { .. } => SLOT_BYTES,
    });
    let logs = executed.result.logs().iter();
    // New code can be no longer than what the gas for it pays: 200 gas a byte.
    let code = (executed.result.tx_gas_used() / 200) as usize;
    transaction.raw.len()
        + RECEIPT_BYTES
        + code
        + changes.sum::<usize>()
        + logs.map(|l| LOG_BYTES + l.data.data.len()).sum::<usize>()
}

fn log(log: alloy_primitives::Log) -> Log {
    let (topics, data) = log.data.split();
    Log {
        address: log.address,
        topics,
        data,
    }
}
