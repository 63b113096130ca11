//! A generation: every record that changed since the last checkpoint.
//!
//! Filling one is cheap: values are small or shared (`Arc`), nothing is encoded. [`Generation::changes`] encodes, off the
//! apply thread, one record after the other in ascending order of key.

use super::records::{RecordKey, Value};
use bytes::Bytes;
use std::collections::BTreeMap;

/// One change to the records of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The record has this value.
    Put(Vec<u8>, Bytes),
    /// The same for a record that was not there before, nor any between it and the one before it: a hint to whoever writes.
    Append(Vec<u8>, Bytes),
    /// The record is gone, if it was there.
    Delete(Vec<u8>),
    /// All records from the first key up to, not including, the second are gone.
    DeleteRange(Vec<u8>, Vec<u8>),
}

/// Records changed since the last checkpoint.
#[derive(Debug, Default)]
pub struct Generation {
    /// Hot records, in the order in which they changed; the last of a key counts.
    journal: Vec<(RecordKey, Option<Value>)>,
    /// Cold records: looked up before they are written.
    cold: BTreeMap<RecordKey, Value>,
    /// Ranges that are gone. They apply last: what is forgotten never comes back.
    ranges: Vec<(RecordKey, RecordKey)>,
    bytes: usize,
}

impl Generation {
    /// Bytes that it will write, nearly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        self.journal.is_empty() && self.cold.is_empty() && self.ranges.is_empty()
    }

    /// A cold record as this generation has it: `None` if it says nothing about it, `Some(None)` if it is gone.
    pub fn cold(&self, key: &RecordKey) -> Option<Option<Bytes>> {
        if self.ranges.iter().any(|(from, to)| from <= key && key < to) {
            return Some(None);
        }
        self.cold.get(key).map(Value::encode)
    }

    /// Encodes everything, ascending by key, ranges last. To be applied in this order, in one transaction.
    pub fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        // A stable sort keeps the changes of one key in their order; only the last of a run is handed out.
        let mut order: Vec<u32> = (0..self.journal.len() as u32).collect();
        order.sort_by_key(|i| &self.journal[*i as usize].0);
        let last_of_key = (0..order.len()).filter_map(move |at| {
            let (key, value) = &self.journal[order[at] as usize];
            let next = order.get(at + 1).map(|i| &self.journal[*i as usize].0);
            (next != Some(key)).then_some((key, value))
        });
        let hot = last_of_key.map(
            |(key, value)| match value.as_ref().and_then(Value::encode) {
                Some(bytes) => Change::Put(key.to_bytes(), bytes),
                None => Change::Delete(key.to_bytes()),
            },
        );
        let cold = self
            .cold
            .iter()
            .map(|(key, value)| match (value.encode(), key) {
                // Accepted once, and later rounds come after.
                (Some(bytes), RecordKey::Shard { .. }) => Change::Append(key.to_bytes(), bytes),
                (Some(bytes), _) => Change::Put(key.to_bytes(), bytes),
                (None, _) => Change::Delete(key.to_bytes()),
            });
        let ranges = self
            .ranges
            .iter()
            .map(|(from, to)| Change::DeleteRange(from.to_bytes(), to.to_bytes()));
        hot.chain(cold).chain(ranges)
    }

    pub(super) fn put(&mut self, key: RecordKey, value: Value) {
        self.bytes += value.approximate_bytes();
        if key.is_cold() {
            self.cold.insert(key, value);
        } else {
            self.journal.push((key, Some(value)));
        }
    }

    pub(super) fn delete(&mut self, key: RecordKey) {
        self.bytes += 32;
        if key.is_cold() {
            self.cold.insert(key, Value::Gone);
        } else {
            self.journal.push((key, None));
        }
    }

    pub(super) fn delete_range(&mut self, from: RecordKey, to: RecordKey) {
        self.bytes += 64;
        while let Some((key, _)) = self.cold.range(from..to).next() {
            let key = *key;
            self.cold.remove(&key);
        }
        self.ranges.push((from, to));
    }
}
