//! The state cache: what executions have read, kept at the head and carried along by sealed diffs.
//!
//! Bounded in bytes and cut into parts, each under its own lock and each consistent in itself: a part knows which block
//! its values belong to. When a block seals, its diff is applied part by part; what it overwrites is kept for a few
//! blocks, so that the parent's state stays readable while the next round runs. A view of a block that a part cannot
//! answer for (an older one, another branch) misses, and is answered by the store.

mod part;
mod view;

pub use part::Value;
pub use view::{CacheView, Missing};

use super::limits::{CACHE_PARTS, UNDO_BLOCKS};
use crate::execution::{Code, code_of};
use crate::store_client::StateKey;
use alloy_primitives::map::HashMap;
use part::Part;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use troika_proto::{Address, B256, Bytes, Diff, Header, U256};

/// Share of the bound that codes may take.
const CODE_SHARE: usize = 4;
/// Most headers whose parents are remembered, for BLOCKHASH.
const LINKS: usize = 1_024;

/// The cache of one executor.
pub struct StateCache {
    parts: Vec<Mutex<Part>>,
    codes: Mutex<Codes>,
    links: Mutex<HashMap<B256, (u64, B256)>>,
    /// Calls of the store for what was not known.
    reads: AtomicU64,
}

#[derive(Default)]
struct Codes {
    young: HashMap<B256, Arc<Held>>,
    old: HashMap<B256, Arc<Held>>,
    young_bytes: usize,
    old_bytes: usize,
    limit_bytes: usize,
}

/// A code, which is analysed when it is first asked for: much of what is read ahead never is.
struct Held {
    bytes: Bytes,
    analysed: OnceLock<Code>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StateCache {
    /// An empty cache of at most `limit_bytes`, about.
    pub fn new(limit_bytes: usize) -> Self {
        let of_codes = limit_bytes / CODE_SHARE;
        let of_a_part = (limit_bytes - of_codes) / CACHE_PARTS;
        let parts = (0..CACHE_PARTS).map(|_| Mutex::new(Part::new(of_a_part, UNDO_BLOCKS)));
        Self {
            parts: parts.collect(),
            codes: Mutex::new(Codes {
                limit_bytes: of_codes,
                ..Codes::default()
            }),
            links: Mutex::new(HashMap::default()),
            reads: AtomicU64::new(0),
        }
    }

    /// Calls of the store so far, each for everything that was missing at that moment.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn count_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// Goes over to `block`, a child of `parent`, by what its shards changed. `fees` are credited to `payee`.
    ///
    /// Where the cache does not stand at `parent` it starts anew, empty.
    pub fn advance(&self, parent: B256, block: B256, diffs: &[&Diff], payee: Address, fees: U256) {
        let mut changes: Vec<Vec<part::Change<'_>>> = Vec::new();
        changes.resize_with(CACHE_PARTS, Vec::new);
        for (address, account) in diffs.iter().flat_map(|diff| &diff.accounts) {
            let itself = account.nonce.is_some() || account.code.is_some();
            if itself || !account.balance.is_zero() {
                let index = part_of(&StateKey::Account(*address));
                changes[index].push(part::Change::Account(*address, account));
            }
            for (key, value) in &account.slots {
                let index = part_of(&StateKey::Slot(*address, *key));
                changes[index].push(part::Change::Slot(*address, *key, *value));
            }
            if let Some(code) = account.code.as_ref().filter(|code| !code.is_empty()) {
                self.insert_code(troika_proto::keccak(code), code);
            }
        }
        if !fees.is_zero() {
            let index = part_of(&StateKey::Account(payee));
            changes[index].push(part::Change::Fees(payee, fees));
        }
        for (part, changes) in self.parts.iter().zip(changes) {
            lock(part).advance(parent, block, &changes);
        }
    }

    /// Starts anew at `block`, empty.
    pub fn reset(&self, block: B256) {
        for part in &self.parts {
            lock(part).reset(block);
        }
    }

    /// The value of a key at `block`, if it is known.
    pub fn get(&self, block: B256, key: &StateKey) -> Option<Value> {
        lock(&self.parts[part_of(key)]).get(block, key)
    }

    /// Keeps a value that was read at `block`; `false` if there is no place for that block.
    pub fn insert(&self, block: B256, key: StateKey, value: Value) -> bool {
        lock(&self.parts[part_of(&key)]).insert(block, key, value)
    }

    /// A code, if it is known.
    pub fn code(&self, hash: B256) -> Option<Code> {
        let held = lock(&self.codes).get(hash)?;
        let analysed = held.analysed.get_or_init(|| code_of(held.bytes.clone()));
        Some(analysed.clone())
    }

    /// True if a code is known.
    pub fn has_code(&self, hash: B256) -> bool {
        lock(&self.codes).get(hash).is_some()
    }

    /// Keeps a copy of a code: what it came in is the whole message of a read, which would stay with it.
    pub fn insert_code(&self, hash: B256, code: &[u8]) {
        let (bytes, analysed) = (Bytes::copy_from_slice(code), OnceLock::new());
        lock(&self.codes).insert(hash, Arc::new(Held { bytes, analysed }));
    }

    /// Remembers a header's place in the chain.
    pub fn link(&self, hash: B256, header: &Header) {
        let mut links = lock(&self.links);
        if links.len() >= LINKS {
            // Keep the newer half by number.
            let mut numbers: Vec<u64> = links.values().map(|(number, _)| *number).collect();
            let (_, median, _) = numbers.select_nth_unstable(LINKS / 2);
            let median = *median;
            links.retain(|_, (number, _)| *number > median);
        }
        links.insert(hash, (header.number, header.parent_hash));
    }

    fn parent(&self, hash: B256) -> Option<(u64, B256)> {
        lock(&self.links).get(&hash).copied()
    }

    /// Bytes in use, about.
    pub fn bytes(&self) -> usize {
        let codes = {
            let codes = lock(&self.codes);
            codes.young_bytes + codes.old_bytes
        };
        codes + self.parts.iter().map(|p| lock(p).bytes()).sum::<usize>()
    }
}

impl Codes {
    /// What is used stays.
    fn get(&mut self, hash: B256) -> Option<Arc<Held>> {
        if let Some(held) = self.young.get(&hash) {
            return Some(held.clone());
        }
        let held = self.old.remove(&hash)?;
        self.old_bytes = self.old_bytes.saturating_sub(code_bytes(&held.bytes));
        self.insert(hash, held.clone());
        Some(held)
    }

    fn insert(&mut self, hash: B256, held: Arc<Held>) {
        let bytes = code_bytes(&held.bytes);
        if self.young.insert(hash, held).is_none() {
            self.young_bytes += bytes;
        }
        if self.young_bytes > self.limit_bytes / 2 {
            self.old = std::mem::take(&mut self.young);
            self.old_bytes = std::mem::take(&mut self.young_bytes);
        }
    }
}

/// Code, its jump table and the maps' own share.
fn code_bytes(code: &Bytes) -> usize {
    code.len() + code.len() / 8 + 128
}

/// The part that holds a key: by bytes that are as good as random.
fn part_of(key: &StateKey) -> usize {
    let mix = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0usize, |mix, b| mix.wrapping_mul(31) ^ usize::from(*b))
    };
    let mixed = match key {
        StateKey::Account(address) => mix(&address[16..]),
        StateKey::Slot(address, slot) => {
            mix(&address[16..]) ^ mix(&slot.to_be_bytes::<32>()[28..]).wrapping_mul(0x9e37)
        }
    };
    mixed % CACHE_PARTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::Account;
    use troika_proto::{AccountDiff, Delta};

    fn address(n: u8) -> Address {
        Address::repeat_byte(n)
    }

    fn block(n: u8) -> B256 {
        B256::repeat_byte(n)
    }

    fn account(balance: u64) -> Value {
        Value::Account(Some(Account {
            balance: U256::from(balance),
            nonce: 1,
            ..Account::default()
        }))
    }

    fn rise(n: u8, by: u64) -> Diff {
        let change = AccountDiff {
            balance: Delta::rise(U256::from(by)),
            ..AccountDiff::default()
        };
        Diff {
            accounts: [(address(n), change)].into(),
        }
    }

    #[test]
    fn reads_follow_the_sealed_diff_and_the_parent_stays_readable() {
        let cache = StateCache::new(1 << 20);
        cache.reset(block(1));
        let key = StateKey::Account(address(7));
        assert!(cache.insert(block(1), key, account(10)));
        cache.advance(block(1), block(2), &[&rise(7, 5)], address(9), U256::ZERO);
        cache.advance(block(2), block(3), &[&rise(7, 5)], address(9), U256::ZERO);
        assert_eq!(cache.get(block(1), &key), Some(account(10)));
        assert_eq!(cache.get(block(2), &key), Some(account(15)));
        assert_eq!(cache.get(block(3), &key), Some(account(20)));
    }

    #[test]
    fn a_change_of_an_unknown_balance_is_a_miss_not_a_guess() {
        let cache = StateCache::new(1 << 20);
        cache.reset(block(1));
        cache.advance(block(1), block(2), &[&rise(7, 5)], address(9), U256::ZERO);
        let key = StateKey::Account(address(7));
        assert_eq!(cache.get(block(2), &key), None);
        // A late answer about the parent does not become the head's value.
        assert!(cache.insert(block(1), key, account(10)));
        assert_eq!(cache.get(block(1), &key), Some(account(10)));
        assert_eq!(cache.get(block(2), &key), None);
    }

    #[test]
    fn another_branch_sees_nothing_of_this_one() {
        let cache = StateCache::new(1 << 20);
        cache.reset(block(1));
        let key = StateKey::Slot(address(7), U256::from(3));
        cache.insert(block(1), key, Value::Slot(U256::from(4)));
        assert_eq!(cache.get(block(99), &key), None);
        assert!(!cache.insert(block(99), key, Value::Slot(U256::from(5))));
        assert_eq!(cache.get(block(1), &key), Some(Value::Slot(U256::from(4))));
        cache.advance(block(50), block(51), &[], address(9), U256::ZERO);
        assert_eq!(cache.get(block(51), &key), None);
    }

    #[test]
    fn fees_reach_a_payee_that_is_known() {
        let cache = StateCache::new(1 << 20);
        cache.reset(block(1));
        let key = StateKey::Account(address(9));
        cache.insert(block(1), key, account(10));
        cache.advance(
            block(1),
            block(2),
            &[&rise(9, 5)],
            address(9),
            U256::from(7),
        );
        assert_eq!(cache.get(block(2), &key), Some(account(22)));
        assert_eq!(cache.get(block(1), &key), Some(account(10)));
    }

    #[test]
    fn what_several_shards_change_of_one_account_adds_up() {
        let cache = StateCache::new(1 << 20);
        cache.reset(block(1));
        let key = StateKey::Account(address(7));
        assert!(cache.insert(block(1), key, account(10)));
        let mut fall = rise(7, 0);
        let spent = fall.accounts.get_mut(&address(7)).expect("an account");
        spent.balance = Delta::fall(U256::from(9));
        spent.nonce = Some(2);
        let diffs = [&rise(7, 5), &fall, &rise(7, 1)];
        cache.advance(block(1), block(2), &diffs, address(9), U256::ZERO);
        let Some(Value::Account(Some(found))) = cache.get(block(2), &key) else {
            panic!("it is known");
        };
        assert_eq!((found.balance, found.nonce), (U256::from(7), 2));
        assert_eq!(cache.get(block(1), &key), Some(account(10)));
    }

    #[test]
    fn an_account_that_is_emptied_does_not_exist() {
        let cache = StateCache::new(1 << 20);
        cache.reset(block(1));
        let key = StateKey::Account(address(9));
        cache.insert(block(1), key, Value::Account(None));
        cache.advance(block(1), block(2), &[&rise(9, 5)], address(8), U256::ZERO);
        let Some(Value::Account(Some(found))) = cache.get(block(2), &key) else {
            panic!("a paid account exists");
        };
        assert_eq!(found.balance, U256::from(5));
    }

    #[test]
    fn the_bound_holds() {
        let cache = StateCache::new(1 << 20);
        cache.reset(block(1));
        for n in 0..100_000u64 {
            let key = StateKey::Slot(address((n % 251) as u8), U256::from(n));
            cache.insert(block(1), key, Value::Slot(U256::from(n)));
        }
        assert!(cache.bytes() <= 1 << 20);
        assert!(cache.bytes() > 1 << 18);
    }

    /// What a chain of blocks does to a cache that is always asked, with reads that come late, forks, restarts and
    /// values that are forgotten: an answer is right, or there is none.
    mod against_a_model {
        use super::*;
        use proptest::prelude::*;

        #[derive(Clone, Debug)]
        enum Step {
            /// A block upon the `n`th newest that there is, which the cache follows if it becomes the head.
            Block(u8, Vec<(u8, u64)>, u64),
            /// The value of a key at the `n`th newest block is read from the store, perhaps late.
            Read(u8, u8),
            /// The executor starts anew at the head.
            Restart,
        }

        fn step() -> impl Strategy<Value = Step> {
            let changes = proptest::collection::vec((0..6u8, 1..9u64), 0..4);
            prop_oneof![
                4 => (0..3u8, changes, 0..3u64).prop_map(|(on, c, fees)| Step::Block(on, c, fees)),
                8 => (0..12u8, 0..7u8).prop_map(|(at, key)| Step::Read(at, key)),
                1 => Just(Step::Restart),
            ]
        }

        /// The balances after each block, oldest first.
        type Chain = Vec<(B256, Vec<u64>)>;

        fn newest(chain: &Chain, back: u8) -> (B256, Vec<u64>) {
            chain[chain.len() - 1 - usize::from(back).min(chain.len() - 1)].clone()
        }

        proptest! {
            #[test]
            fn answers_are_right_or_absent(
                steps in proptest::collection::vec(step(), 1..80),
                limit in prop_oneof![Just(1usize << 12), Just(1 << 20)],
            ) {
                const PAYEE: u8 = 6;
                let cache = StateCache::new(limit);
                let mut chain: Chain = vec![(block(0), vec![10; 7])];
                let mut head = block(0);
                cache.reset(head);
                for (number, step) in (1u64..).zip(steps) {
                    match step {
                        Step::Block(on, changes, fees) => {
                            let (parent, mut balances) = newest(&chain, on);
                            let mut diff = Diff::default();
                            for (key, by) in changes {
                                let account = diff.accounts.entry(address(key)).or_default();
                                let more = U256::from(by) + account.balance.amount();
                                account.balance = Delta::rise(more);
                                balances[usize::from(key)] += by;
                            }
                            balances[usize::from(PAYEE)] += fees;
                            let hash = B256::from(U256::from(number << 8));
                            // A block on another one than the head: a fork, whose state is not kept; or, now and
                            // then, the head jumps there.
                            if parent == head || number % 5 == 0 {
                                cache.advance(parent, hash, &[&diff], address(PAYEE), U256::from(fees));
                                head = hash;
                            }
                            chain.push((hash, balances));
                        }
                        Step::Read(back, key) => {
                            let (at, balances) = newest(&chain, back);
                            let value = account(balances[usize::from(key)]);
                            cache.insert(at, StateKey::Account(address(key)), value);
                        }
                        Step::Restart => cache.reset(head),
                    }
                    for (at, balances) in &chain {
                        for key in 0..7u8 {
                            let found = cache.get(*at, &StateKey::Account(address(key)));
                            let right = account(balances[usize::from(key)]);
                            prop_assert!(found.is_none_or(|found| found == right), "{found:?}");
                        }
                    }
                }
            }
        }
    }
}
