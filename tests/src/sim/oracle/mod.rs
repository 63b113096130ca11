//! What must hold, checked as it is seen. Whoever sees something first fixes it for all that come after.

#[cfg(test)]
mod tests;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use std::sync::Arc;

use prost::Message;
use troika_proto::{Address, B256, Delta, LockKey, LockRule, Shard, U256, v1};
use troika_store::state::{EventId, Machine, StateHash, Winner};

use super::chain::{BENEFICIARY, genesis};
use super::trace::digest;

type Verdict = Result<(), String>;
type Slot = (u64, u32);

/// What is known so far.
#[derive(Debug, Default)]
pub struct Oracle {
    applied: BTreeMap<u64, StateHash>,
    winners: BTreeMap<Slot, Winner>,
    /// Winners that a client was told.
    acknowledged: BTreeMap<Slot, B256>,
    /// Every proposal that was made, by its hash.
    proposals: BTreeMap<B256, Arc<Shard>>,
    /// Locks of accepted shards.
    written: BTreeMap<(u64, LockKey), u32>,
    /// Locks that a client was told it holds, with the revision of the answer.
    held: BTreeMap<(u64, LockKey), (u32, u64)>,
    /// Round, shard, key: somebody has asked for this lock, perhaps in vain.
    asked: BTreeSet<(u64, u32, LockKey)>,
    /// Round, key, shard that was named as its holder, revision of the answer.
    conflicts: BTreeSet<(u64, LockKey, u32, u64)>,
    /// Newest revision that anybody was told.
    newest: u64,
    events: BTreeMap<EventId, u64>,
    /// The event that follows an event.
    successors: BTreeMap<EventId, EventId>,
    accounts: BTreeMap<(B256, Address), Option<(u64, U256)>>,
    /// Where followers were told that there is nothing more: after the first place, up to the second. None overlap.
    skipped: BTreeMap<EventId, EventId>,
    blocks: BTreeMap<u64, B256>,
    /// Rounds below are forgotten.
    pruned: u64,
    replies: u64,
}

fn agree<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    known: &mut BTreeMap<K, V>,
    what: &str,
    who: &str,
    key: K,
    value: V,
) -> Verdict {
    match known.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(value);
            Ok(())
        }
        Entry::Occupied(entry) if *entry.get() == value => Ok(()),
        Entry::Occupied(entry) => Err(format!(
            "{what} {:?}: {who} says {value:?}, and it was {:?}",
            entry.key(),
            entry.get()
        )),
    }
}

impl Oracle {
    /// A member has applied an entry.
    pub fn applied(&mut self, who: &str, index: u64, hash: StateHash) -> Verdict {
        agree(&mut self.applied, "state hash at index", who, index, hash)
    }

    /// A proposal is about to be made.
    pub fn proposes(&mut self, shard: &Arc<Shard>) {
        self.proposals.insert(shard.hash, shard.clone());
    }

    /// What the proposal of this hash writes; nothing for the empty shard, which nobody made.
    fn writes(&self, hash: &B256) -> Vec<LockKey> {
        let made = self.proposals.get(hash);
        made.map_or_else(Vec::new, |shard| {
            shard.body.diff.lock_keys(LockRule::Commuting)
        })
    }

    /// A shard's winner was seen: in a reply, a read or an event.
    pub fn winner(&mut self, who: &str, slot: Slot, winner: &Winner) -> Verdict {
        if let Some(known) = self.winners.get(&slot) {
            return match known == winner {
                true => Ok(()),
                false => Err(format!(
                    "two winners of {slot:?}: {who} says {winner:?}, and it was {known:?}"
                )),
            };
        }
        self.winners.insert(slot, winner.clone());
        for key in self.writes(&winner.shard_hash) {
            let holder = self.written.entry((slot.0, key)).or_insert(slot.1);
            if *holder != slot.1 {
                return Err(format!(
                    "round {}: shards {holder} and {} both write {key:?}",
                    slot.0, slot.1
                ));
            }
        }
        Ok(())
    }

    /// A client was told a winner.
    pub fn acknowledged(&mut self, who: &str, slot: Slot, winner: &Winner) -> Verdict {
        self.acknowledged.insert(slot, winner.shard_hash);
        self.winner(who, slot, winner)
    }

    /// A client was told that it holds a lock.
    pub fn holds(&mut self, round: u64, shard: u32, key: LockKey, revision: u64) {
        self.held.entry((round, key)).or_insert((shard, revision));
    }

    /// A client is about to ask for a lock.
    pub fn acquires(&mut self, round: u64, shard: u32, key: LockKey) {
        self.asked.insert((round, shard, key));
    }

    /// A client was told that `shard` holds a key, as of `revision`.
    pub fn conflicts(&mut self, round: u64, shard: u32, key: LockKey, revision: u64) {
        self.conflicts.insert((round, key, shard, revision));
    }

    /// Keys of a round that somebody was told it holds.
    pub fn held_in(&self, round: u64) -> BTreeSet<LockKey> {
        let lowest = LockKey::account(Address::ZERO);
        let held = self.held.range((round, lowest)..(round + 1, lowest));
        held.map(|((_, key), _)| *key).collect()
    }

    /// The newest round in which anything was decided.
    pub fn newest_round(&self) -> u64 {
        self.winners.last_key_value().map_or(0, |(slot, _)| slot.0)
    }

    /// Decided shards of the last rounds.
    pub fn decided_lately(&self, rounds: u64) -> Vec<Slot> {
        let from = self.newest_round().saturating_sub(rounds).max(self.pruned);
        self.winners
            .range((from, 0)..)
            .map(|(slot, _)| *slot)
            .collect()
    }

    /// Shards of a round whose winner a client was told.
    pub fn acknowledged_of(&self, round: u64) -> Vec<u32> {
        let of_round = self.acknowledged.range((round, 0)..(round + 1, 0));
        of_round.map(|(slot, _)| slot.1).collect()
    }

    /// A reply named a revision.
    pub fn replied(&mut self, revision: u64) {
        self.replies += 1;
        self.newest = self.newest.max(revision);
    }

    /// Replies so far.
    pub fn replies(&self) -> u64 {
        self.replies
    }

    /// The newest revision that anybody was told: what a linearizable read that begins now must show.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// A linearizable read that began when `newest` was known has seen `revision`.
    pub fn read(&mut self, who: &str, newest: u64, revision: u64) -> Verdict {
        if revision < newest {
            return Err(format!(
                "a linearizable read at {who} saw revision {revision}, and {newest} was answered before it began"
            ));
        }
        self.newest = self.newest.max(revision);
        Ok(())
    }

    /// An account was read at a block.
    pub fn account(
        &mut self,
        who: &str,
        block: B256,
        address: Address,
        seen: Option<(u64, U256)>,
    ) -> Verdict {
        agree(
            &mut self.accounts,
            "account at block",
            who,
            (block, address),
            seen,
        )
    }

    /// A block of the head's chain was seen.
    pub fn block(&mut self, who: &str, number: u64, hash: B256) -> Verdict {
        agree(&mut self.blocks, "block", who, number, hash)
    }

    /// A follower that has seen everything up to `after` was given `event` next.
    pub fn event(
        &mut self,
        who: &str,
        after: Option<EventId>,
        event: &v1::Event,
    ) -> Result<EventId, String> {
        let id = event.id.ok_or("an event has no id")?;
        let id = EventId {
            revision: id.revision,
            ordinal: id.ordinal,
        };
        if after.is_some_and(|after| after >= id) {
            return Err(format!("{who} was given event {id:?} after {after:?}"));
        }
        let skipped = self.skipped.range(..id).next_back();
        if let Some((from, to)) = skipped.filter(|(_, to)| **to >= id) {
            return Err(format!(
                "{who} gave event {id:?}, and a follower at {from:?} was told that nothing more came up to {to:?}"
            ));
        }
        agree(
            &mut self.events,
            "event",
            who,
            id,
            digest(&event.encode_to_vec()),
        )?;
        if let Some(after) = after {
            agree(&mut self.successors, "the event after", who, after, id)?;
        }
        if let Some(v1::event::Kind::ShardAccepted(accepted)) = &event.kind {
            let winner = accepted
                .winner
                .as_ref()
                .ok_or("an acceptance names no winner")?;
            let winner = Winner::try_from(winner).map_err(|error| error.to_string())?;
            self.winner(who, (accepted.round, accepted.shard), &winner)?;
        }
        Ok(id)
    }

    /// A follower that has seen everything up to `after` was told that nothing more came up to `upto`.
    pub fn progressed(&mut self, who: &str, after: EventId, upto: EventId) -> Verdict {
        if upto <= after {
            return Ok(());
        }
        let between = (Bound::Excluded(after), Bound::Included(upto));
        if let Some((id, _)) = self.events.range(between).next() {
            return Err(format!(
                "{who} told a follower at {after:?} that nothing more came up to {upto:?}, and there is event {id:?}"
            ));
        }
        let (mut from, mut to) = (after, upto);
        let before = self.skipped.range(..=from).next_back();
        if let Some((start, end)) = before.filter(|(_, end)| **end >= from) {
            (from, to) = (*start, to.max(*end));
        }
        // What begins within is swallowed.
        while let Some((start, end)) = self.skipped.range(from..=to).next() {
            let (start, end) = (*start, *end);
            to = to.max(end);
            self.skipped.remove(&start);
        }
        self.skipped.insert(from, to);
        Ok(())
    }

    /// Rounds below this one may be forgotten from now on.
    pub fn prunes(&mut self, below: u64) {
        self.pruned = self.pruned.max(below);
    }

    /// A member, after everything, knows every decision that was acknowledged or seen.
    pub fn remembers(&self, who: &str, machine: &Machine) -> Verdict {
        for (slot, hash) in &self.acknowledged {
            let known = machine.winner_of(slot.0, slot.1);
            let forgotten = known.is_none() && slot.0 < self.pruned;
            if !forgotten && known.as_ref().map(|winner| winner.shard_hash) != Some(*hash) {
                return Err(format!(
                    "{who} knows {known:?} of {slot:?}, and {hash} was acknowledged"
                ));
            }
        }
        for (slot, winner) in &self.winners {
            let known = machine.winner_of(slot.0, slot.1);
            let forgotten = known.is_none() && slot.0 < self.pruned;
            if !forgotten && known.as_ref() != Some(winner) {
                return Err(format!(
                    "{who} knows {known:?} of {slot:?}, and {winner:?} was seen"
                ));
            }
        }
        Ok(())
    }

    /// No accepted shard writes what another held before.
    pub fn locks_excluded(&self) -> Verdict {
        for ((round, key), (shard, held_at)) in &self.held {
            let Some(writer) = self
                .written
                .get(&(*round, *key))
                .filter(|writer| *writer != shard)
            else {
                continue;
            };
            let written_at = self
                .winners
                .get(&(*round, *writer))
                .map_or(0, |winner| winner.revision);
            let released_at = self
                .winners
                .get(&(*round, *shard))
                .map_or(u64::MAX, |winner| winner.revision);
            if written_at > *held_at && written_at < released_at {
                return Err(format!(
                    "round {round}: shard {shard} held {key:?} from revision {held_at} on, and shard {writer} wrote it at {written_at}"
                ));
            }
        }
        Ok(())
    }

    /// Whoever was named as the holder of a key held it.
    pub fn conflicts_were_real(&self) -> Verdict {
        for (round, key, shard, revision) in &self.conflicts {
            let winner = self.winners.get(&(*round, *shard));
            let decided = winner.filter(|winner| winner.revision <= *revision);
            let holds = match decided {
                Some(winner) => self.writes(&winner.shard_hash).contains(key),
                None => {
                    let reserved = self.held.get(&(*round, *key));
                    self.asked.contains(&(*round, *shard, *key))
                        || reserved.is_some_and(|(holder, _)| holder == shard)
                }
            };
            if !holds {
                return Err(format!(
                    "round {round}: shard {shard} was named as the holder of {key} at revision {revision}, and was not: \
                     {winner:?}"
                ));
            }
        }
        Ok(())
    }

    /// The state at the head is the genesis and every accepted diff of its chain, once each, and the fees. False where that
    /// cannot be counted any more, because the beginning is forgotten.
    pub fn money_is_conserved(&self, who: &str, machine: &Machine) -> Result<bool, String> {
        let Some(chain) = machine.current_chain() else {
            return Ok(false);
        };
        let genesis = genesis(chain.config.shards, chain.config.seal_after_ms as u32);
        let mut accounts: BTreeMap<Address, (u64, U256)> = BTreeMap::new();
        for (address, account) in genesis.accounts {
            accounts.insert(address, (account.nonce, account.balance));
        }
        for number in 1..=chain.head.header.number {
            let Some((_, round)) = machine.canonical_block(number) else {
                // Forgotten with its round, and the sum with it.
                return Ok(false);
            };
            for shard in 0..chain.config.shards {
                // That nobody saw it is no reason to trust it.
                let seen = self.winners.get(&(round, shard)).cloned();
                let Some(winner) = seen.or_else(|| machine.winner_of(round, shard)) else {
                    if machine.round(round).is_none() {
                        // Forgotten, and the sum with it.
                        return Ok(false);
                    }
                    return Err(format!(
                        "{who}: block {number} of round {round} has no winner of shard {shard}"
                    ));
                };
                if winner.executor.is_empty() {
                    // Undecided when the round was sealed: empty.
                    continue;
                }
                let made = self.proposals.get(&winner.shard_hash).ok_or_else(|| {
                    format!("{who}: nobody proposed the winner {winner:?} of ({round}, {shard})")
                })?;
                for (address, change) in &made.body.diff.accounts {
                    let account = accounts.entry(*address).or_default();
                    account.0 = change.nonce.unwrap_or(account.0);
                    account.1 = change.balance.apply(account.1).ok_or("an overdraft")?;
                }
                let payee = accounts.entry(BENEFICIARY).or_default();
                payee.1 = Delta::rise(made.header.fees)
                    .apply(payee.1)
                    .ok_or("an overflow")?;
            }
        }
        let state = machine
            .state_at(&chain.head.hash)
            .ok_or("the head has no state")?;
        for (address, expected) in accounts {
            let found = state
                .account(&address)
                .map(|account| (account.nonce, account.balance));
            if found.unwrap_or_default() != expected {
                return Err(format!(
                    "{who}: {address} has nonce and balance {found:?}, and its accepted changes add up to {expected:?}"
                ));
            }
        }
        Ok(true)
    }

    /// One line about how much was checked.
    pub fn summary(&self) -> String {
        format!(
            "{} entries, {} decisions, {} events, {} replies, {} blocks",
            self.applied.len(),
            self.winners.len(),
            self.events.len(),
            self.replies,
            self.blocks.len()
        )
    }
}
