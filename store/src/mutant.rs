//! Planted bugs, for the simulation and the fault suite to catch.
//!
//! A test that has never failed proves little. Each [`Mutant`] is a mistake that somebody could really make, planted with
//! one `if mutant::on(..)` where it would be made. Without the cargo feature `mutants` [`on`] is a constant `false` and
//! nothing of it is compiled; with it, and without debug assertions, this file does not compile, so that no release build
//! can hold one. `docs/testing.md` has the table of who catches what.
//!
//! A process chooses its mutant at its start by the environment: `TROIKA_MUTANT=name`, or `name@who` for one process alone
//! (`who`: the id of a member, the name of an executor or gateway). A simulation sets it for its thread, task by task.

use std::str::FromStr;

#[cfg(all(feature = "mutants", not(debug_assertions)))]
compile_error!(
    "the feature `mutants` plants bugs: it is for builds with debug assertions only (profiles `dev` and `checked`)"
);

/// Where a planted bug is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a member.
    Store,
    /// In an executor or a gateway (and, where both must be wrong for it, in the members too).
    Node,
}

macro_rules! mutants {
    ($($place:ident $variant:ident $name:literal $about:literal;)*) => {
        /// A planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant {
            $(#[doc = $about] $variant,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name, which never changes.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What is wrong with it, in one line.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)* }
            }

            /// Where it is.
            pub const fn place(self) -> Place {
                match self { $(Self::$variant => Place::$place,)* }
            }
        }
    };
}

mutants! {
    // The log and the files.
    Store AckBeforeFsync "ack-before-fsync" "Entries and votes count as written before they are.";
    Store FsyncSkipped "fsync-skipped" "No file is ever synced.";
    Store VoteNotPersisted "vote-not-persisted" "A vote is kept in memory only.";
    Store TruncateForgotten "truncate-forgotten" "Entries of a lost term are cut off in memory, not in the file.";
    Store PurgeMarkLost "purge-mark-lost" "Entries are purged, and the file still says that they are there.";
    Store CreatedInPlace "created-in-place" "A file is made under its final name, whatever is there.";
    Store CheckpointInTwoSteps "checkpoint-in-two-steps" "The state and the log id that it is of are written in two transactions.";
    Store CheckpointAheadOfState "checkpoint-ahead-of-state" "A checkpoint names what was applied when it was written, and holds what was applied when it began.";
    Store SnapshotOffByOne "snapshot-off-by-one" "A checkpoint, and so a snapshot, names the log index after its own.";
    Store SnapshotWithoutLocks "snapshot-without-locks" "Locks that undecided shards hold are not taken over from a checkpoint or snapshot.";
    Store DecidedOverwritten "decided-overwritten" "After a restart the shards that an open round has accepted count as undecided.";
    Store DeltaAppliedTwice "delta-applied-twice" "Balance changes accepted before a restart are applied twice when their block seals.";
    Store RevisionReused "revision-reused" "After a restart the last revision is given out again.";
    Store ColdMissesFrozen "cold-misses-frozen" "While a checkpoint is being written, what it writes cannot be read.";
    // Consensus around the machine.
    Store WipedVoterReturns "wiped-voter-returns" "A member that lost its data is let back in under its old id.";
    Store PreVoteGranted "pre-vote-granted" "Whoever asks whether it could win an election is told yes.";
    Store ApplyReordered "apply-reordered" "The commands of an entry are applied in reverse order (plant it in one member).";
    Store AnsweredBeforeCommit "answered-before-commit" "Who waits behind a proposal of the same shard hears that it won before it is committed.";
    Store AnswersSwapped "answers-swapped" "The answers of an entry are given to its callers in reverse order.";
    Store StaleUndecided "stale-undecided" "A linearizable read is answered from whatever this member has applied.";
    Store ReadWithoutQuorum "read-without-quorum" "A leader answers linearizable reads without asking whether it still leads.";
    // Decisions.
    Store LoserToldItWon "loser-told-it-won" "Whoever submits to a decided shard hears that it won.";
    Store SlotConflictAccepted "slot-conflict-accepted" "Two shards may write one storage slot.";
    Store LocksDroppedAtLeaderChange "locks-dropped-at-leader-change" "A new leader's first entry frees all keys that undecided shards hold.";
    Store LocksExpire "locks-expire" "A lock is forgotten some revisions after it was taken.";
    Store LockReleaseForgotten "lock-release-forgotten" "Keys that a shard took ahead and did not write stay locked after its acceptance.";
    Store SealedEarly "sealed-early" "A round may be sealed at once.";
    Store WatchSkips "watch-skips" "A watch that resumes misses an event.";
    Store WatchRepeats "watch-repeats" "A watch that resumes sends its last event again.";
    // Executors and gateways.
    Node FeedOwnProposal "feed-own-proposal" "The feed sends the executor's own proposal, whoever has won.";
    Node FeedBeforeCommit "feed-before-commit" "The feed sends a proposal as accepted when it is made.";
    Node ProposesAtOnce "proposes-at-once" "An executor proposes when a round opens, without waiting for pending transactions.";
    Node IncludedTwice "included-twice" "A transaction whose nonce was used is executed again.";
    Node DiffMakesMoney "diff-makes-money" "Every shard with a transaction pays an ether to nobody's loss.";
    Node CreditsLeftOut "credits-left-out" "The diff root does not cover credits.";
}

impl FromStr for Mutant {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|mutant| mutant.name() == name);
        found.copied().ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|mutant| mutant.name()).collect();
            format!("there is no mutant {name}; there are {}", known.join(", "))
        })
    }
}

/// The environment variable that chooses a process's mutant.
pub const VARIABLE: &str = "TROIKA_MUTANT";

/// True if this bug is planted here and now.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn on(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use chosen::{on, set};

#[cfg(feature = "mutants")]
mod chosen {
    use super::Mutant;
    use std::cell::Cell;
    use std::sync::OnceLock;

    pub(super) static PROCESS: OnceLock<Mutant> = OnceLock::new();

    thread_local! {
        static THREAD: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// True if this bug is planted here and now.
    pub fn on(mutant: Mutant) -> bool {
        THREAD.get() == Some(mutant) || PROCESS.get() == Some(&mutant)
    }

    /// Plants a bug in this thread until the next call; what was planted before.
    pub fn set(mutant: Option<Mutant>) -> Option<Mutant> {
        THREAD.replace(mutant)
    }
}

/// Plants the bug that the environment names, if it is meant for `who`. To be called once, at a process's start.
///
/// # Errors
/// There is no such bug, or this build has none.
pub fn plant(who: &str) -> Result<(), String> {
    let Ok(value) = std::env::var(VARIABLE) else {
        return Ok(());
    };
    let (name, only) = match value.split_once('@') {
        Some((name, only)) => (name, Some(only)),
        None => (value.as_str(), None),
    };
    let mutant = Mutant::from_str(name).map_err(|error| format!("{VARIABLE}: {error}"))?;
    if only.is_none_or(|only| only == who) {
        start(mutant)?;
    }
    Ok(())
}

#[cfg(feature = "mutants")]
fn start(mutant: Mutant) -> Result<(), String> {
    tracing::warn!(mutant = mutant.name(), "a bug is planted in this process");
    // A second call plants what the first did: the environment has not changed.
    let _ = chosen::PROCESS.set(mutant);
    Ok(())
}

#[cfg(not(feature = "mutants"))]
fn start(mutant: Mutant) -> Result<(), String> {
    Err(format!(
        "{VARIABLE}={}: this build has no planted bugs; build with --features mutants",
        mutant.name()
    ))
}

/// The list for programs, as JSON: name, what it is, and where.
#[cfg(feature = "mutants")]
pub fn json() -> String {
    let rows = Mutant::ALL.iter().map(|mutant| {
        serde_json::json!({
            "name": mutant.name(),
            "about": mutant.about(),
            "place": match mutant.place() { Place::Store => "store", Place::Node => "node" },
        })
    });
    serde_json::Value::Array(rows.collect()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_name_is_its_own_and_found_again() {
        let names: BTreeSet<_> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
        assert_eq!(names.len(), Mutant::ALL.len());
        for mutant in Mutant::ALL {
            assert_eq!(mutant.name().parse(), Ok(*mutant));
            let plain = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(mutant.name().chars().all(plain), "{}", mutant.name());
        }
        assert!(
            Mutant::from_str("nothing")
                .unwrap_err()
                .contains("watch-skips")
        );
    }

    #[test]
    fn nothing_is_planted_unless_asked_for() {
        assert!(Mutant::ALL.iter().all(|mutant| !on(*mutant)));
    }
}
