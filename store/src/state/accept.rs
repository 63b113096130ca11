//! Accepting shards, taking locks ahead, and noting dissent.

use super::command::{AcceptShard, AcquireLocks, ReportDissent, RoundKind};
use super::decision::{Decision, Holder, Refusal, Winner};
use super::evidence::{Evidence, VoidReason};
use super::history::{EventKind, LocksEvent};
use super::layers::{Account, StateAt};
use super::limits::{MAX_DISSENT_PER_SHARD, MAX_HELD_KEYS};
use super::machine::{Machine, no_chain};
use super::records::{RecordKey, Value, held, round as record};
use super::round::{Accepted, CompactWinner, Dissent, Live, Lock, Round, digest_held};
use crate::mutant::{self, Mutant};
use std::sync::Arc;
use troika_proto::v1::RefusalCode;
use troika_proto::{
    AccountDiff, Address, B256, ChainConfig, Diff, Environment, LockKey, LockRule, Shard, U256,
    keccak,
};

impl Machine {
    pub(super) fn accept_shard(&mut self, accept: &AcceptShard) -> Result<Decision, Refusal> {
        if let Some(winner) = self.decided(accept.round, accept.shard)? {
            return Ok(Decision::Winner(winner));
        }
        let live = self.live.get(&accept.round).ok_or_else(no_chain)?;
        match &live.round.checked {
            None => self.accept_built(accept),
            Some(checked) => {
                let expected = checked.shard_hashes[accept.shard as usize];
                self.accept_checked(accept, expected)
            }
        }
    }

    fn accept_built(&mut self, accept: &AcceptShard) -> Result<Decision, Refusal> {
        let chain = self.chain()?;
        let live = self.live.get(&accept.round).ok_or_else(no_chain)?;
        let diff = &accept.proposal.body.diff;
        let conflicts: Vec<_> = lock_keys(diff, chain.config.lock_rule)
            .filter(|key| key.slot.is_none() || !mutant::on(Mutant::SlotConflictAccepted))
            .filter_map(|key| live.other_holder(&key, accept.shard))
            .filter(|holder| !self.is_expired(holder))
            .collect();
        if !conflicts.is_empty() {
            return Ok(Decision::Conflict(conflicts));
        }
        self.check_proposal(live, accept)?;
        Ok(self.take(accept))
    }

    /// VERIFY: the proposal is good if its hash is the header's, and then shows what the block is.
    fn accept_checked(
        &mut self,
        accept: &AcceptShard,
        expected: B256,
    ) -> Result<Decision, Refusal> {
        let proposal = &accept.proposal;
        if proposal.hash != expected {
            // Who submits another outcome as a proposal does not say how many own the shard: one voice is not enough.
            return self.report_dissent(&ReportDissent {
                round: accept.round,
                shard: accept.shard,
                executor: accept.executor.clone(),
                computed: Some(proposal.hash),
                reason: String::new(),
                owners: 2,
            });
        }
        let chain = self.chain()?;
        let live = self.live.get(&accept.round).ok_or_else(no_chain)?;
        let conflict = lock_keys(&proposal.body.diff, chain.config.lock_rule)
            .find_map(|key| live.other_holder(&key, accept.shard));
        let evidence = match (conflict, self.check_proposal(live, accept)) {
            (Some(holder), _) => Evidence::DoubleWrite {
                key: holder.key,
                first_shard: holder.shard.min(accept.shard),
                second_shard: holder.shard.max(accept.shard),
            },
            // The header's hash covers the diff and the fees, so the block itself breaks the rule.
            (None, Err(refusal)) => Evidence::BadShard {
                shard: accept.shard,
                expected,
                computed: None,
                executors: vec![accept.executor.clone()],
                reason: refusal.message,
            },
            (None, Ok(())) => return Ok(self.take(accept)),
        };
        self.change();
        self.close_void(accept.round, VoidReason::Invalid, Some(evidence));
        Ok(Decision::Closed(accept.round))
    }

    /// The rules of the chain that one shard can break by itself.
    fn check_proposal(&self, live: &Live, accept: &AcceptShard) -> Result<(), Refusal> {
        let chain = self.chain()?;
        let shard = &accept.proposal;
        if shard.header.index != accept.shard {
            let message = format!(
                "the header's index is {}, the shard is {}",
                shard.header.index, accept.shard
            );
            return Err(Refusal::new(RefusalCode::BadDiff, message));
        }
        let parent = chain.layers.at(&live.round.parent).ok_or_else(no_chain)?;
        check_shard(&chain.config, &live.round.environment, &parent, shard)
    }

    /// Accepts: the decision, the locks and perhaps the seal, in one step.
    fn take(&mut self, accept: &AcceptShard) -> Decision {
        let revision = self.change();
        let executor = self.executor_number(&accept.executor);
        let rule = self.chain.as_ref().map(|chain| chain.config.lock_rule);
        let (id, shard) = (accept.round, accept.shard);
        let accepted = Arc::new(Accepted {
            accept: accept.clone(),
            revision,
        });
        let winner = CompactWinner {
            hash: accept.proposal.hash,
            revision,
            executor,
        };
        let decision = Decision::Winner(self.winner(&winner));
        let Some(live) = self.live.get_mut(&id) else {
            return decision;
        };
        for (at, keys) in live.release_ahead(shard) {
            self.items.remove(digest_held(id, shard, at, &keys));
            self.generation.delete(RecordKey::Held {
                round: id,
                shard,
                revision: at,
            });
        }
        let encoded = accept.encoded().clone();
        live.accept(accepted, winner, rule.unwrap_or_default());
        self.items.add(live.round.digest_winner(shard, &winner));
        let complete = live.undecided == 0;
        let key = RecordKey::Shard { round: id, shard };
        self.generation.put(key, Value::Shard(encoded, revision));
        self.tell(EventKind::ShardAccepted { round: id, shard });
        if complete {
            self.complete(id);
        }
        decision
    }

    pub(super) fn acquire_locks(&mut self, acquire: &AcquireLocks) -> Result<Decision, Refusal> {
        let (id, shard) = (acquire.round, acquire.shard);
        if let Some(winner) = self.decided(id, shard)? {
            return Ok(Decision::Winner(winner));
        }
        let live = self.live.get(&id).ok_or_else(no_chain)?;
        if live.round.kind != RoundKind::Build {
            let message = "locks are taken ahead in BUILD rounds only";
            return Err(Refusal::new(RefusalCode::WrongKind, message));
        }
        let keys = acquire.keys.iter();
        let conflicts: Vec<_> = keys
            .filter_map(|key| live.other_holder(key, shard))
            .filter(|holder| !self.is_expired(holder))
            .collect();
        if !conflicts.is_empty() {
            return Ok(Decision::Conflict(conflicts));
        }
        let new = acquire.keys.iter().filter(|key| !live.locks.contains(key));
        let new: Arc<[LockKey]> = new.copied().collect();
        if new.is_empty() {
            return Ok(Decision::Acquired);
        }
        if live.held_keys + new.len() > MAX_HELD_KEYS {
            let message = format!("MAX_HELD_KEYS: round {id} holds at most {MAX_HELD_KEYS} keys");
            return Err(Refusal::new(RefusalCode::Limit, message));
        }
        let revision = self.change();
        self.items.add(digest_held(id, shard, revision, &new));
        let key = RecordKey::Held {
            round: id,
            shard,
            revision,
        };
        self.generation.put(key, Value::Encoded(held::encode(&new)));
        if let Some(live) = self.live.get_mut(&id) {
            live.take_ahead(shard, revision, &new);
        }
        self.tell(EventKind::LocksAcquired(Arc::new(LocksEvent {
            round: id,
            shard,
            keys: new,
        })));
        Ok(Decision::Acquired)
    }

    /// The mistake of [`Mutant::LocksExpire`]; without it never true.
    fn is_expired(&self, holder: &Holder) -> bool {
        mutant::on(Mutant::LocksExpire) && holder.revision + 8 < self.revision
    }

    pub(super) fn report_dissent(&mut self, report: &ReportDissent) -> Result<Decision, Refusal> {
        let (id, shard) = (report.round, report.shard);
        if let Some(winner) = self.decided(id, shard)? {
            return self.dissent_from(&winner, report);
        }
        let live = self.live.get(&id).ok_or_else(no_chain)?;
        let Some(checked) = &live.round.checked else {
            let message = "dissent is reported in VERIFY rounds only";
            return Err(Refusal::new(RefusalCode::WrongKind, message));
        };
        let expected = checked.shard_hashes[shard as usize];
        if report.computed == Some(expected) {
            let message = "the outcome is the header's own: submit the shard instead";
            return Err(Refusal::new(RefusalCode::BadDiff, message));
        }
        if !is_new(&live.round, report)? {
            return Ok(Decision::Noted);
        }
        let about = live.round.dissent.iter().filter(|d| d.shard == shard);
        let same = about.filter(|d| d.computed == report.computed);
        let mut executors: Vec<_> = same.map(|d| d.executor.clone()).collect();
        executors.push(report.executor.clone());
        self.change();
        self.note(report);
        if executors.len() < 2 && report.owners > 1 {
            return Ok(Decision::Noted);
        }
        let evidence = Evidence::BadShard {
            shard,
            expected,
            computed: report.computed,
            executors,
            reason: report.reason.clone(),
        };
        self.close_void(id, VoidReason::Invalid, Some(evidence));
        Ok(Decision::Noted)
    }

    /// A decided shard stays what it is. An executor that ran its transactions again and came to something else is
    /// noted beside it, for the divergence alarm; so is a late checker.
    fn dissent_from(
        &mut self,
        winner: &Winner,
        report: &ReportDissent,
    ) -> Result<Decision, Refusal> {
        let agrees = report.computed == Some(winner.shard_hash);
        // Nobody made what the sealing filled in.
        if agrees || winner.executor.is_empty() {
            return Ok(Decision::Winner(winner.clone()));
        }
        let round = self.round(report.round).ok_or_else(no_chain)?;
        if is_new(round, report)? {
            self.change();
            self.note(report);
        }
        Ok(Decision::Noted)
    }

    fn note(&mut self, report: &ReportDissent) {
        let dissent = Dissent {
            shard: report.shard,
            executor: report.executor.clone(),
            computed: report.computed,
            reason: report.reason.clone(),
        };
        let (id, items) = (report.round, &mut self.items);
        let value = if let Some(live) = self.live.get_mut(&id) {
            live.round.add_dissent(dissent, items);
            Value::Encoded(record::encode(&live.round))
        } else if let Some(closed) = self.closed.get_mut(&id) {
            Arc::make_mut(closed).add_dissent(dissent, items);
            Value::Round(closed.clone())
        } else {
            return;
        };
        self.generation.put(RecordKey::Round(id), value);
    }
}

/// False where that executor has spoken about the shard before: its first word stands.
fn is_new(round: &Round, report: &ReportDissent) -> Result<bool, Refusal> {
    let about = round.dissent.iter().filter(|d| d.shard == report.shard);
    if about.clone().any(|d| d.executor == report.executor) {
        return Ok(false);
    }
    if about.count() >= MAX_DISSENT_PER_SHARD {
        let message = format!("MAX_DISSENT_PER_SHARD: {MAX_DISSENT_PER_SHARD} reports stand");
        return Err(Refusal::new(RefusalCode::Limit, message));
    }
    Ok(true)
}

impl Live {
    /// Records an acceptance and takes all locks of its diff.
    pub(super) fn accept(
        &mut self,
        accepted: Arc<Accepted>,
        winner: CompactWinner,
        rule: LockRule,
    ) {
        let shard = accepted.accept.shard;
        let lock = Lock {
            shard,
            revision: winner.revision,
        };
        for key in lock_keys(&accepted.accept.proposal.body.diff, rule) {
            self.locks.insert(key, lock);
        }
        self.round.winners[shard as usize] = winner;
        self.accepted[shard as usize] = Some(accepted);
        self.undecided -= 1;
    }
}

/// The lock keys of a diff, ascending, without collecting them.
pub(super) fn lock_keys(diff: &Diff, rule: LockRule) -> impl Iterator<Item = LockKey> + '_ {
    diff.accounts.iter().flat_map(move |(address, account)| {
        let itself = account
            .locks_itself(rule)
            .then(|| LockKey::account(*address));
        let slots = account.slots.keys();
        itself
            .into_iter()
            .chain(slots.map(|key| LockKey::slot(*address, *key)))
    })
}

/// Rules 7 and 8 of the chain, and that every change is one.
fn check_shard(
    config: &ChainConfig,
    environment: &Environment,
    parent: &StateAt<'_>,
    shard: &Shard,
) -> Result<(), Refusal> {
    let header = &shard.header;
    if header.gas_used > config.shard_gas_limit {
        let message = format!(
            "gas used {} is above the shard's {}",
            header.gas_used, config.shard_gas_limit
        );
        return Err(Refusal::new(RefusalCode::GasLimit, message));
    }
    // A product of two 64-bit numbers fits.
    let burned = U256::from(header.gas_used) * U256::from(environment.base_fee);
    let minted = header.fees.checked_add(burned);
    if minted.is_none_or(|minted| shard.body.diff.makes_money(minted))
        && !mutant::on(Mutant::DiffMakesMoney)
    {
        let message = format!(
            "balance changes, fees of {} and a burned base fee of {burned} add up to more than zero",
            header.fees
        );
        return Err(Refusal::new(RefusalCode::MakesMoney, message));
    }
    for (address, diff) in &shard.body.diff.accounts {
        check_account(parent, address, diff)?;
    }
    Ok(())
}

fn check_account(
    parent: &StateAt<'_>,
    address: &Address,
    diff: &AccountDiff,
) -> Result<(), Refusal> {
    let refuse = |message: String| Err(Refusal::new(RefusalCode::BadDiff, message));
    let before = parent.account(address).unwrap_or_default();
    let Some(balance) = diff.balance.apply(before.balance) else {
        let message = format!(
            "{address} has {}, which a change by {}{} leaves out of range",
            before.balance,
            if diff.balance.is_fall() { "-" } else { "+" },
            diff.balance.amount()
        );
        return Err(Refusal::new(RefusalCode::Overdraft, message));
    };
    if let Some(nonce) = diff.nonce.filter(|nonce| *nonce <= before.nonce) {
        let message = format!(
            "nonce of {address} is {}, cannot become {nonce}",
            before.nonce
        );
        return refuse(message);
    }
    let code_hash = match &diff.code {
        None => before.code_hash,
        Some(code) => (!code.is_empty()).then(|| keccak(code)),
    };
    if diff.code.is_some() && code_hash == before.code_hash {
        return refuse(format!("code of {address} does not change"));
    }
    for (key, value) in &diff.slots {
        if parent.slot(address, key) == *value {
            return refuse(format!("slot {key:#x} of {address} is {value:#x} already"));
        }
    }
    let after = Account {
        balance,
        nonce: diff.nonce.unwrap_or(before.nonce),
        code_hash,
    };
    if !diff.slots.is_empty() && !after.exists() {
        return refuse(format!("{address} has storage but does not exist"));
    }
    Ok(())
}
