//! One winner: every claim about a slot names the same shard hash, for ever, and the winner was really submitted.

use super::{Claim, Facts, Finding, Slot};
use crate::history::{Entry, Kind, Op, Outcome};

/// Checks agreement, validity, and that "you won" is said to the winner alone.
pub fn check(history: &[Entry], facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (slot, claims) in &facts.claims {
        findings.extend(flip(*slot, claims));
        findings.extend(never_submitted(*slot, claims, facts));
    }
    findings.extend(history.iter().filter_map(false_victory));
    findings
}

/// Two claims about one slot that name different hashes, makers or fences.
fn flip((round, shard): Slot, claims: &[Claim<'_>]) -> Option<Finding> {
    let first = claims.first()?;
    if let Some(other) = claims.iter().find(|c| c.hash != first.hash) {
        return Some(Finding::new(
            "agreement/flip",
            format!(
                "round {round} shard {shard}: entry {} names the winner {}, entry {} names {}",
                first.entry, first.hash, other.entry, other.hash
            ),
            vec![first.entry, other.entry],
        ));
    }
    let mut whole = claims.iter().filter(|c| c.winner.is_some());
    let first = whole.next()?;
    let other = whole.find(|c| c.winner != first.winner)?;
    Some(Finding::new(
        "agreement/fence",
        format!(
            "round {round} shard {shard}: one hash, but entry {} says {:?} and entry {} says {:?}",
            first.entry, first.winner, other.entry, other.winner
        ),
        vec![first.entry, other.entry],
    ))
}

/// A winner that nobody submitted. The empty fill has no executor and is not submitted.
fn never_submitted(slot: Slot, claims: &[Claim<'_>], facts: &Facts<'_>) -> Option<Finding> {
    if facts.proposals.is_empty() {
        return None; // Real executors propose in this run: the history does not hold their calls.
    }
    let claim = claims.iter().find(|c| c.winner.is_some())?;
    let winner = claim.winner?;
    if winner.executor.is_empty() {
        return None;
    }
    let (round, shard) = slot;
    match facts.proposals.get(&(slot, winner.hash)) {
        Some(proposal) if !proposal.executors.contains(&winner.executor.as_str()) => {
            Some(Finding::new(
                "agreement/maker",
                format!(
                    "round {round} shard {shard}: {} is said to have made {}, but never submitted it",
                    winner.executor, winner.hash
                ),
                vec![claim.entry],
            ))
        }
        Some(proposal) if proposal.first > claim.entry => Some(Finding::new(
            "agreement/premature",
            format!(
                "round {round} shard {shard}: {} won before it was first submitted",
                winner.hash
            ),
            vec![claim.entry, proposal.first],
        )),
        Some(_) => None,
        None => Some(Finding::new(
            "agreement/validity",
            format!(
                "round {round} shard {shard}: the winner {} was never submitted",
                winner.hash
            ),
            vec![claim.entry],
        )),
    }
}

/// "You won" must be said to the winner alone, and always to the winner.
fn false_victory(entry: &Entry) -> Option<Finding> {
    let Op::Submit(submit) = &entry.op else {
        return None;
    };
    let Some(Outcome::Winner { winner, won }) = &submit.outcome else {
        return None;
    };
    let is_winner = winner.hash == submit.hash && winner.executor == submit.executor;
    (entry.kind == Kind::Ok && *won != is_winner).then(|| {
        Finding::new(
            "agreement/victory",
            format!(
                "round {} shard {}: {} was told that it {}, but the winner is {} by {:?}",
                submit.round,
                submit.shard,
                submit.executor,
                if *won { "won" } else { "lost" },
                winner.hash,
                winner.executor
            ),
            vec![entry.index],
        )
    })
}
