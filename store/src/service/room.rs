//! What a member's services hold at a time, over all its clients: bounded, and refused at once beyond.

use super::limits::{BACKUPS, SUBMIT_BYTES, SUBMIT_STREAMS, WATCHERS};
use super::status::Fault;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bounds of one member. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Room {
    /// Bytes of submissions that are checked or wait for their decision.
    pub(super) submissions: Bound,
    pub(super) streams: Bound,
    pub(super) watchers: Bound,
    pub(super) backups: Bound,
}

impl Room {
    pub(super) fn new() -> Self {
        Self {
            submissions: Bound::new("SUBMIT_BYTES", SUBMIT_BYTES, "bytes"),
            streams: Bound::new("SUBMIT_STREAMS", SUBMIT_STREAMS, "streams"),
            watchers: Bound::new("WATCHERS", WATCHERS, "watches"),
            backups: Bound::new("BACKUPS", BACKUPS, "backups"),
        }
    }
}

/// So much of something, and no more.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    name: &'static str,
    most: usize,
    unit: &'static str,
    used: Arc<AtomicUsize>,
}

impl Bound {
    fn new(name: &'static str, most: usize, unit: &'static str) -> Self {
        Self {
            name,
            most,
            unit,
            used: Arc::default(),
        }
    }

    /// Shows how much is in use under this name.
    pub(super) fn show(&self, metric: &'static str) {
        metrics::gauge!(metric).set(self.used() as f64);
    }

    /// Takes some, given back when the share is dropped. What alone is more than there is goes alone.
    pub(super) fn take(&self, amount: usize) -> Result<Share, Fault> {
        let fits = |used: usize| {
            let after = used + amount;
            (used == 0 || after <= self.most).then_some(after)
        };
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        match taken {
            Ok(_) => Ok(Share {
                used: self.used.clone(),
                amount,
            }),
            Err(_) => Err(Fault::Exhausted {
                limit: self.name,
                value: self.most,
                unit: self.unit,
            }),
        }
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// A part of a bound.
#[derive(Debug)]
pub(super) struct Share {
    used: Arc<AtomicUsize>,
    amount: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn what_is_taken_is_bounded_and_given_back() {
        let bound = Bound::new("THINGS", 10, "things");
        let first = bound.take(6).unwrap();
        let second = bound.take(4).unwrap();
        let refused = bound.take(1).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.to_string().contains("THINGS"), "{refused}");
        drop(first);
        let third = bound.take(6).unwrap();
        drop((second, third));
        assert_eq!(bound.used(), 0);
        assert!(bound.take(11).is_ok(), "alone");
    }
}
