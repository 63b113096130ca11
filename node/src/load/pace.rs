//! How much of the load is due now. Pure.

use std::time::Duration;

/// Most transactions that are handed over in one go.
pub const MAX_BATCH: usize = 1_000;

/// When to send how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Transactions a second; `None`: as fast as they are taken.
    pub rate: Option<u32>,
    /// Most transactions that are under way: handed over and not yet seen in a sealed block. It leaves room in the
    /// pools for everybody else, and keeps every sender's queue short.
    pub window: usize,
}

impl Pace {
    /// How many transactions to hand over now, when `sent` were handed over since the start, `elapsed` ago, and
    /// `under_way` of them are not in a sealed block yet.
    pub fn due(&self, elapsed: Duration, sent: u64, under_way: u64) -> usize {
        let room = self.window.saturating_sub(under_way as usize);
        let wanted = match self.rate {
            None => MAX_BATCH,
            Some(rate) => {
                let by_now = (elapsed.as_secs_f64() * f64::from(rate)) as u64;
                by_now.saturating_sub(sent) as usize
            }
        };
        wanted.min(room).min(MAX_BATCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_on_the_average() {
        let pace = Pace {
            rate: Some(40),
            window: 1_000,
        };
        let mut sent = 0;
        for tick in 1..=1_000 {
            sent += pace.due(Duration::from_millis(tick * 10), sent, 0) as u64;
        }
        assert_eq!(sent, 400);
    }

    #[test]
    fn what_is_under_way_never_exceeds_the_window() {
        let pace = Pace {
            rate: None,
            window: 2_500,
        };
        let (mut sent, mut under_way) = (0, 0);
        for tick in 0..10 {
            let due = pace.due(Duration::from_millis(tick), sent, under_way) as u64;
            assert!(due <= MAX_BATCH as u64);
            sent += due;
            under_way += due;
        }
        assert_eq!(under_way, 2_500);
        assert_eq!(pace.due(Duration::from_secs(1), sent, under_way), 0);
        assert_eq!(pace.due(Duration::from_secs(1), sent, under_way - 100), 100);
    }
}
