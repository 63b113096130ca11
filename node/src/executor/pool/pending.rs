//! The pending set: what every gateway has handed in, by sender, in nonce order. Pure, without clock and IO.
//!
//! Each gateway's set stands for itself, so that its reconnect can replace it. Where two gateways know one sender, the
//! first by name says where the sender's queue goes, so that one executor never takes it into two shards of one round.

use super::super::limits::{GATEWAY_SILENCE, RECENT_BYTES};
use super::aged::AgedSet;
use super::recent::Recent;
use crate::execution::Transaction;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::time::Instant;
use troika_proto::{Address, B256, LockKey};

/// Most routes of one sender that lie ahead.
const ROUTES: usize = 16;

/// A gateway's stream. A later one of the same gateway has a higher number and replaces the earlier.
pub type StreamId = u64;

/// What one gateway says about one sender.
#[derive(Default)]
struct Part {
    transactions: BTreeMap<u64, Arc<Transaction>>,
    /// First round -> shard. Never empty once the sender was added.
    routes: BTreeMap<u64, u32>,
}

#[derive(Default)]
struct Sender {
    /// By gateway name.
    parts: BTreeMap<Arc<str>, Part>,
    /// When it last changed: its place in [`Pending::changed`] ...
    version: u64,
    /// ... under each of these shards.
    indexed: Vec<u32>,
}

struct Gateway {
    stream: StreamId,
    connected: bool,
    synced: bool,
    /// When it last said anything.
    heard: Instant,
}

/// How far this executor knows what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// All that any gateway has.
    All,
    /// All but what a gateway has that is silent or away. What is known may be proposed; but not that there is nothing: an
    /// empty proposal is made sooner than any other, and would win against those who know more.
    Partly,
    /// Some gateway has not sent its whole set yet, or none ever has.
    NotYet,
}

/// Why a transaction was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The pool holds as many bytes as it may.
    #[error("the executor's pending pool is full ({0} bytes)")]
    Bytes(usize),
    /// The sender has as many as it may.
    #[error("the executor keeps at most {limit} transactions of one sender, {sender} has them")]
    Sender {
        /// How many.
        limit: usize,
        /// Whose.
        sender: Address,
    },
}

/// What to execute next, best first.
#[derive(Default)]
pub struct Selection {
    /// A queue a sender, in nonce order; senders by what they pay.
    pub queues: Vec<Vec<Arc<Transaction>>>,
    /// True if there is more than was asked for.
    pub more: bool,
    /// Ask for what changed after this the next time, unless there was more.
    pub version: u64,
}

/// What to select.
pub struct Select<'a> {
    /// The shard.
    pub shard: u32,
    /// The round: routes of other rounds are ignored.
    pub round: u64,
    /// Wei per gas: who pays less is left out.
    pub base_fee: u64,
    /// Only senders that changed after this version.
    pub since: u64,
    /// Next nonce of senders that were taken before: what is below is left out.
    pub taken: &'a HashMap<Address, u64>,
    /// Stop once this much gas was selected.
    pub gas: u64,
}

/// The pending set of all gateways.
pub struct Pending {
    limit_bytes: usize,
    sender_limit: usize,
    bytes: usize,
    count: usize,
    version: u64,
    gateways: BTreeMap<Arc<str>, Gateway>,
    senders: HashMap<Address, Sender>,
    hashes: HashMap<B256, (Address, u64)>,
    /// Shard -> version -> sender: who may be for that shard, in the order of change.
    changed: HashMap<u32, BTreeMap<u64, Address>>,
    ever_synced: bool,
    /// Transactions that were refused too often.
    pub(super) aged: AgedSet,
    /// The round that is being made.
    round: u64,
    /// What left lately, whoever said so first: the chain or the gateway.
    recent: Recent,
}

impl Pending {
    /// An empty pool of at most `limit_bytes`, `sender_limit` transactions a sender.
    pub fn new(limit_bytes: usize, sender_limit: usize) -> Self {
        Self {
            limit_bytes,
            sender_limit,
            bytes: 0,
            count: 0,
            version: 0,
            gateways: BTreeMap::new(),
            senders: HashMap::new(),
            hashes: HashMap::new(),
            changed: HashMap::new(),
            ever_synced: false,
            aged: AgedSet::default(),
            round: 0,
            recent: Recent::new(RECENT_BYTES),
        }
    }

    /// A gateway's stream begins: what it sent on earlier ones is forgotten.
    pub fn connect(&mut self, gateway: &Arc<str>, stream: StreamId, now: Instant) {
        self.forget(gateway);
        self.aged.forget(gateway);
        let state = Gateway {
            stream,
            connected: true,
            synced: false,
            heard: now,
        };
        self.gateways.insert(gateway.clone(), state);
    }

    /// The gateway's snapshot is complete.
    pub fn synced(&mut self, gateway: &str, stream: StreamId) {
        if let Some(state) = self.current(gateway, stream) {
            state.synced = true;
            self.ever_synced = true;
        }
    }

    /// The stream ended. The set stays until the gateway returns or [`Self::expire`] is called; an older stream's
    /// end says nothing.
    pub fn disconnect(&mut self, gateway: &str, stream: StreamId) {
        if let Some(state) = self.current(gateway, stream) {
            state.connected = false;
        }
    }

    /// Forgets a gateway that has not returned since that stream.
    pub fn expire(&mut self, gateway: &Arc<str>, stream: StreamId) {
        if self
            .current(gateway, stream)
            .is_some_and(|state| !state.connected)
        {
            self.forget(gateway);
            self.aged.forget(gateway);
            self.gateways.remove(gateway);
        }
    }

    /// True if this is the gateway's newest stream: messages of older ones are void.
    pub fn is_current(&mut self, gateway: &str, stream: StreamId) -> bool {
        self.current(gateway, stream).is_some()
    }

    fn current(&mut self, gateway: &str, stream: StreamId) -> Option<&mut Gateway> {
        let state = self.gateways.get_mut(gateway)?;
        (state.stream == stream).then_some(state)
    }

    /// The gateway has said something.
    pub fn hear(&mut self, gateway: &str, stream: StreamId, now: Instant) {
        if let Some(state) = self.current(gateway, stream) {
            state.heard = now;
        }
    }

    /// How far it is known now what waits.
    pub fn heard(&self, now: Instant) -> Heard {
        let mut connected = self.gateways.values().filter(|g| g.connected).peekable();
        if !self.ever_synced {
            return Heard::NotYet;
        }
        if connected.peek().is_none() {
            return Heard::Partly;
        }
        connected.fold(Heard::All, |heard, gateway| {
            let silent = now.saturating_duration_since(gateway.heard) > GATEWAY_SILENCE;
            match (heard, gateway.synced) {
                (Heard::NotYet, _) | (_, false) => Heard::NotYet,
                (_, true) if silent => Heard::Partly,
                (heard, true) => heard,
            }
        })
    }

    /// Takes a transaction over. One of the same sender and nonce is replaced.
    ///
    /// # Errors
    /// [`Full`]: it was not taken.
    pub fn add(&mut self, gateway: &Arc<str>, transaction: Arc<Transaction>) -> Result<(), Full> {
        let size = transaction.size();
        if self.bytes + size > self.limit_bytes {
            return Err(Full::Bytes(self.limit_bytes));
        }
        let (address, nonce) = (transaction.sender, transaction.nonce());
        let sender = self.senders.entry(address).or_default();
        let part = sender.parts.entry(gateway.clone()).or_default();
        if part.transactions.len() >= self.sender_limit && !part.transactions.contains_key(&nonce) {
            return Err(Full::Sender {
                limit: self.sender_limit,
                sender: address,
            });
        }
        self.hashes.insert(transaction.hash, (address, nonce));
        self.bytes += size;
        self.count += 1;
        if let Some(old) = part.transactions.insert(nonce, transaction) {
            self.gone(&old);
        }
        self.touch(address);
        Ok(())
    }

    /// True if a fair part of what was full is free again.
    pub fn has_room(&self, full: &Full) -> bool {
        match full {
            Full::Bytes(limit) => self.bytes < limit / 4 * 3,
            Full::Sender { limit, sender } => {
                let parts = self.senders.get(sender).into_iter();
                let counts = parts.flat_map(|s| s.parts.values().map(|p| p.transactions.len()));
                counts.max().unwrap_or(0) < limit / 4 * 3
            }
        }
    }

    /// The round that is being made.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Sends a sender's queue to `shard` from `from_round` on. Nothing is known of a sender without transactions.
    pub fn route(&mut self, gateway: &str, address: Address, shard: u32, from_round: u64) {
        let sender = self.senders.get_mut(&address);
        let Some(part) = sender.and_then(|sender| sender.parts.get_mut(gateway)) else {
            return;
        };
        if part.routes.insert(from_round, shard) == Some(shard) {
            return;
        }
        // What no round from now on can use is forgotten, which bounds the routes.
        if let Some((newest, _)) = part.routes.range(..=self.round).next_back() {
            let newest = *newest;
            part.routes = part.routes.split_off(&newest);
        }
        while part.routes.len() > ROUTES {
            part.routes.pop_first();
        }
        self.touch(address);
    }

    /// `round` is being made now.
    pub fn set_round(&mut self, round: u64) {
        self.round = self.round.max(round);
    }

    /// Forgets transactions by hash: those that this gateway has handed in.
    pub fn remove(&mut self, gateway: &str, hash: B256) {
        let Some((address, nonce)) = self.hashes.get(&hash).copied() else {
            return;
        };
        let Some(sender) = self.senders.get_mut(&address) else {
            return;
        };
        let Some(part) = sender.parts.get_mut(gateway) else {
            return;
        };
        if let Entry::Occupied(entry) = part.transactions.entry(nonce)
            && entry.get().hash == hash
        {
            let old = entry.remove();
            self.gone(&old);
        }
        self.drop_if_empty(address);
    }

    /// Forgets a transaction whoever handed it in.
    pub fn remove_everywhere(&mut self, transaction: &Transaction) {
        let gateways: Vec<_> = match self.senders.get(&transaction.sender) {
            Some(sender) => sender.parts.keys().cloned().collect(),
            None => return,
        };
        for gateway in gateways {
            self.remove(&gateway, transaction.hash);
        }
    }

    /// The sender's nonce is `nonce` now: forgets what is below.
    pub fn advance(&mut self, address: Address, nonce: u64) {
        self.aged.advance(address, nonce);
        let Some(sender) = self.senders.get_mut(&address) else {
            return;
        };
        let mut old = Vec::new();
        for part in sender.parts.values_mut() {
            let kept = part.transactions.split_off(&nonce);
            old.extend(std::mem::replace(&mut part.transactions, kept).into_values());
        }
        for transaction in old {
            self.gone(&transaction);
        }
        self.drop_if_empty(address);
    }

    /// Who handed the transaction in.
    pub fn gateways_of(&self, transaction: &Transaction) -> Vec<Arc<str>> {
        let Some(sender) = self.senders.get(&transaction.sender) else {
            return Vec::new();
        };
        let knows = |part: &Part| {
            let known = part.transactions.get(&transaction.nonce());
            known.is_some_and(|known| known.hash == transaction.hash)
        };
        let parts = sender.parts.iter().filter(|(_, part)| knows(part));
        parts.map(|(gateway, _)| gateway.clone()).collect()
    }

    /// The shard to which the sender's queue goes in `round`.
    pub fn shard_of(&self, address: Address, round: u64) -> Option<u32> {
        self.senders.get(&address)?.shard_in(round)
    }

    /// Keys to reserve in `round`, each for one shard.
    pub fn reservations(&self, round: u64) -> Vec<(LockKey, u32)> {
        self.aged.reservations(|aged| {
            let told = (aged.from_round <= round).then_some(aged.shard);
            self.shard_of(aged.sender, round).or(told)
        })
    }

    /// A transaction that is pending, or was lately.
    pub fn get(&self, hash: B256) -> Option<Arc<Transaction>> {
        if let Some((address, nonce)) = self.hashes.get(&hash) {
            let parts = self.senders.get(address)?.parts.values();
            let mut known = parts.filter_map(|part| part.transactions.get(nonce));
            return known.find(|t| t.hash == hash).cloned();
        }
        self.recent.get(&hash).cloned()
    }

    /// Transactions in the pool.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Bytes in the pool.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Selects what to execute next.
    pub fn select(&self, wanted: &Select<'_>) -> Selection {
        let mut selection = Selection {
            version: self.version,
            ..Selection::default()
        };
        let Some(changed) = self.changed.get(&wanted.shard) else {
            return selection;
        };
        let mut heads: Vec<(u128, Address, &Sender)> = changed
            .range(wanted.since + 1..)
            .filter_map(|(_, address)| {
                let sender = self.senders.get(address)?;
                if sender.shard_in(wanted.round) != Some(wanted.shard) {
                    return None;
                }
                let head = sender.queue(wanted.taken.get(address).copied()).next()?;
                Some((head.effective_tip(wanted.base_fee)?, *address, sender))
            })
            .collect();
        // The address breaks ties, so that executors with one pending set come to one order.
        heads.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut gas = 0u64;
        for (_, address, sender) in heads {
            if gas >= wanted.gas {
                selection.more = true;
                break;
            }
            let mut queue = Vec::new();
            for transaction in sender.queue(wanted.taken.get(&address).copied()) {
                if gas >= wanted.gas {
                    selection.more = true;
                    break;
                }
                gas = gas.saturating_add(transaction.gas_limit());
                queue.push(transaction.clone());
            }
            selection.queues.push(queue);
        }
        selection
    }

    /// The pool has changed since `version` in what may concern `shard`.
    pub fn has_changed(&self, shard: u32, version: u64) -> bool {
        let changed = self.changed.get(&shard);
        changed.is_some_and(|changed| changed.range(version + 1..).next().is_some())
    }

    fn forget(&mut self, gateway: &Arc<str>) {
        let known = self.senders.iter();
        let known = known.filter(|(_, sender)| sender.parts.contains_key(gateway));
        let addresses: Vec<_> = known.map(|(address, _)| *address).collect();
        for address in addresses {
            let sender = self.senders.get_mut(&address);
            let Some(part) = sender.and_then(|sender| sender.parts.remove(gateway)) else {
                continue;
            };
            for transaction in part.transactions.values() {
                self.gone(transaction);
            }
            self.touch(address);
        }
    }

    /// Accounts for a transaction that left a part.
    fn gone(&mut self, transaction: &Arc<Transaction>) {
        self.bytes -= transaction.size();
        self.count -= 1;
        let elsewhere = !self.gateways_of(transaction).is_empty();
        if !elsewhere {
            self.hashes.remove(&transaction.hash);
            self.recent.insert(transaction.clone());
        }
    }

    /// Gives the sender a new place in the order of change, or none where nothing is left of it.
    fn touch(&mut self, address: Address) {
        let Some(sender) = self.senders.get_mut(&address) else {
            return;
        };
        self.version += 1;
        let before = std::mem::replace(&mut sender.version, self.version);
        for shard in sender.indexed.drain(..) {
            if let Some(changed) = self.changed.get_mut(&shard) {
                changed.remove(&before);
            }
        }
        if sender.parts.is_empty() {
            self.senders.remove(&address);
            return;
        }
        let routes = sender.parts.values().flat_map(|p| p.routes.values());
        let mut shards: Vec<u32> = routes.copied().collect();
        shards.sort_unstable();
        shards.dedup();
        for shard in &shards {
            let changed = self.changed.entry(*shard).or_default();
            changed.insert(self.version, address);
        }
        sender.indexed = shards;
    }

    /// Routes outlive transactions only as long as another transaction may need them: a gateway names the route with
    /// every addition.
    fn drop_if_empty(&mut self, address: Address) {
        let Some(sender) = self.senders.get_mut(&address) else {
            return;
        };
        if sender.parts.values().all(|p| p.transactions.is_empty()) {
            sender.parts.clear();
            self.touch(address);
        }
    }
}

impl Sender {
    /// The first gateway by name that has something of this sender decides.
    fn shard_in(&self, round: u64) -> Option<u32> {
        let part = self.parts.values().find(|p| !p.transactions.is_empty())?;
        let newest = part.routes.range(..=round).next_back();
        newest.map(|(_, shard)| *shard)
    }

    /// Transactions in nonce order, as far as they follow one another: from `next` on, or else from the first.
    fn queue(&self, next: Option<u64>) -> impl Iterator<Item = &Arc<Transaction>> {
        let mut expected = next;
        let mut from = next.unwrap_or(0);
        std::iter::from_fn(move || {
            let nexts = self.parts.values();
            let nexts = nexts.filter_map(|part| part.transactions.range(from..).next());
            // min_by_key takes the first of equals: the first gateway by name.
            let (nonce, transaction) = nexts.min_by_key(|(nonce, _)| **nonce)?;
            if expected.is_some_and(|expected| expected != *nonce) {
                return None;
            }
            from = nonce.checked_add(1)?;
            expected = Some(from);
            Some(transaction)
        })
    }
}
