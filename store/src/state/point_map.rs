//! A map for single lookups.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash};

/// A hash map without iteration, so that its order can never reach a decision. The hasher is SipHash with a fixed key:
/// equal on all members, and keys that collide take an attacker real work to find.
#[derive(Clone, Debug)]
pub(super) struct PointMap<K, V>(HashMap<K, V, BuildHasherDefault<DefaultHasher>>);

impl<K, V> Default for PointMap<K, V> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<K: Eq + Hash, V> PointMap<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key)
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0.insert(key, value)
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.0.remove(key)
    }
}

impl<K: Eq + Hash, V: Default> PointMap<K, V> {
    pub(super) fn or_default(&mut self, key: K) -> &mut V {
        self.0.entry(key).or_default()
    }
}
