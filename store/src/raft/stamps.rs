//! Times, which only the leader knows and only before a command is logged: `apply` has no clock.
//!
//! A round's age is counted by the leader's monotonic clock from the moment that this member applied its opening, also
//! while it did not lead; it is never overstated. The opening's wall-clock time is the earlier of the opener's and the
//! leader's; that time never runs backwards along a chain is the environment's care.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::config::KNOWN_ROUNDS;
use super::core::Core;
use super::dispatch::batch_of;
use super::pending::{Pending, lock};
use crate::clock::Clock;
use crate::runtime::{Instant, Runtime};
use crate::state::{Batch, Command, OpenRound, RoundId};

/// What stamping needs to remember.
#[derive(Default)]
pub struct Stamps {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// When this member applied the opening of each of the newest rounds.
    opened: BTreeMap<RoundId, Instant>,
}

impl Known {
    fn waited_ms(&self, round: RoundId, now: Instant) -> u64 {
        // Of a round that is forgotten so much is known: it was opened before those after it.
        let opened = self.opened.range(round..).next();
        opened.map_or(0, |(_, opened)| {
            now.saturating_duration_since(*opened).as_millis() as u64
        })
    }

    fn stamp(&self, command: &Command, clock: &dyn Clock, now: Instant) -> Command {
        match command {
            Command::SealRound { round, .. } => Command::SealRound {
                round: *round,
                waited_ms: self.waited_ms(*round, now),
            },
            Command::VoidRound { round, reason, .. } => Command::VoidRound {
                round: *round,
                reason: *reason,
                waited_ms: self.waited_ms(*round, now),
            },
            Command::OpenRound(open) => Command::OpenRound(Arc::new(OpenRound {
                clock_ms: earlier(open.clock_ms, clock.now_ms()),
                ..OpenRound::clone(open)
            })),
            other => other.clone(),
        }
    }

    fn learn(&mut self, rounds: impl Iterator<Item = RoundId>, now: Instant) {
        for round in rounds {
            self.opened.entry(round).or_insert(now);
        }
        while self.opened.len() > KNOWN_ROUNDS {
            self.opened.pop_first();
        }
    }
}

/// The earlier of the opener's and the leader's clock. An opener without a clock says 0.
fn earlier(opener_ms: u64, leader_ms: u64) -> u64 {
    match opener_ms {
        0 => leader_ms,
        _ => opener_ms.min(leader_ms),
    }
}

impl Stamps {
    /// Commands with their stamps, as they are logged.
    pub(super) fn batch(&self, core: &Core, commands: &[Pending]) -> Batch {
        let now = Runtime::now();
        let known = lock(&self.known);
        let stamped = commands
            .iter()
            .filter_map(Pending::command)
            .map(|command| known.stamp(command, &*core.clock, now));
        let stamped = stamped.collect();
        drop(known);
        batch_of(stamped)
    }
}

/// Notes the openings as they are applied, until the member ends.
pub async fn follow(core: Arc<Core>) {
    let mut revisions = core.shared.revisions();
    let mut next = 0;
    loop {
        revisions.borrow_and_update();
        let now = Runtime::now();
        let rounds = core.shared.read(|machine| machine.next_round());
        if rounds > next {
            let first = next.max(rounds.saturating_sub(KNOWN_ROUNDS as u64));
            lock(&core.stamps.known).learn(first..rounds, now);
            next = rounds;
        }
        tokio::select! {
            biased;
            _ = core.until_end() => return,
            changed = revisions.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Debug)]
    struct At(u64);

    impl Clock for At {
        fn now_ms(&self) -> u64 {
            self.0
        }
    }

    fn seal(round: RoundId) -> Command {
        Command::SealRound {
            round,
            waited_ms: u64::MAX,
        }
    }

    #[test]
    fn the_age_of_a_round_is_the_leaders_and_never_the_callers() {
        let mut known = Known::default();
        let start = Runtime::now();
        known.learn(1..3, start);
        let now = start + Duration::from_millis(1_500);
        known.learn(2..4, now);
        let stamped = [1, 2, 3, 9].map(|round| known.stamp(&seal(round), &At(0), now));
        let waited = stamped.map(|command| match command {
            Command::SealRound { waited_ms, .. } => waited_ms,
            other => panic!("{other:?}"),
        });
        assert_eq!(waited, [1_500, 1_500, 0, 0]);
    }

    #[test]
    fn stamps_take_the_earlier_clock_and_remember_no_wrong_one() {
        assert_eq!(earlier(0, 1_000), 1_000);
        assert_eq!(earlier(2_000, 3_000), 2_000);
        // A leader's clock that was an hour ahead leaves nothing behind once it is mended.
        assert_eq!(earlier(9_000, 3_600_000), 9_000);
        assert_eq!(earlier(0, 3_600_000), 3_600_000);
        assert_eq!(earlier(0, 4_000), 4_000);
    }

    #[test]
    fn a_round_that_is_forgotten_still_grows_older() {
        let mut known = Known::default();
        let start = Runtime::now();
        known.learn(0..1, start);
        let later = start + Duration::from_millis(500);
        known.learn(1..KNOWN_ROUNDS as u64 + 1, later);
        let now = later + Duration::from_millis(700);
        assert_eq!(known.waited_ms(0, now), 700);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut known = Known::default();
        known.learn(0..KNOWN_ROUNDS as u64 + 10, Runtime::now());
        assert_eq!(known.opened.len(), KNOWN_ROUNDS);
        assert_eq!(
            known.opened.first_key_value().map(|(round, _)| *round),
            Some(10)
        );
    }
}
