//! What a member's services hold at a time, over all its clients: bounded, and refused at once beyond.

use super::limits::{BACKUPS, READ_BYTES, SUBMIT_BYTES, SUBMIT_STREAMS, WATCHERS};
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
    /// Bytes of answers to reads that are being made.
    pub(super) reads: Bound,
}

impl Room {
    pub(super) fn new() -> Self {
        Self {
            submissions: Bound::new("SUBMIT_BYTES", SUBMIT_BYTES, "bytes"),
            streams: Bound::new("SUBMIT_STREAMS", SUBMIT_STREAMS, "streams"),
            watchers: Bound::new("WATCHERS", WATCHERS, "watches"),
            backups: Bound::new("BACKUPS", BACKUPS, "backups"),
            reads: Bound::new("READ_BYTES", READ_BYTES, "bytes"),
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
        let mut share = Share {
            of: self.clone(),
            amount: 0,
        };
        share.grow(amount)?;
        Ok(share)
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// A part of a bound.
#[derive(Debug)]
pub(super) struct Share {
    of: Bound,
    amount: usize,
}

impl Share {
    /// Takes more. As with the first, nobody is refused who has all that is taken.
    pub(super) fn grow(&mut self, by: usize) -> Result<(), Fault> {
        let fits = |used: usize| {
            let after = used + by;
            (used == self.amount || after <= self.of.most).then_some(after)
        };
        let taken = self
            .of
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        if taken.is_err() {
            return Err(Fault::Exhausted {
                limit: self.of.name,
                value: self.of.most,
                unit: self.of.unit,
            });
        }
        self.amount += by;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.used.fetch_sub(self.amount, Ordering::Relaxed);
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

    #[test]
    fn a_share_grows_as_far_as_others_leave_room() {
        let bound = Bound::new("THINGS", 10, "things");
        let mut first = bound.take(4).unwrap();
        let second = bound.take(4).unwrap();
        assert!(first.grow(3).is_err());
        first.grow(2).unwrap();
        drop(second);
        first.grow(20).unwrap();
        assert_eq!(bound.used(), 26);
        drop(first);
        assert_eq!(bound.used(), 0);
    }
}
