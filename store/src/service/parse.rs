//! Requests into checked commands. What is malformed is refused here with the name of its field, before it costs more.

use crate::state::{
    AcquireLocks, Command, OpenRound, OpenTarget, ReportDissent, RoundKind, VoidReason,
    ascending_keys,
};
use prost::Message;
use std::sync::Arc;
use troika_proto::limits::{MAX_GENESIS_BYTES, MAX_REASON_BYTES, MAX_RESERVATIONS, MAX_SHARDS};
use troika_proto::wire::{at_most, check_name, hash, required};
use troika_proto::{Genesis, Header, LockKey, Malformed, v1};

/// A report that an accepted shard comes out differently.
///
/// # Errors
/// [`Malformed`] naming the field.
pub fn report_dissent(request: v1::ReportDissentRequest) -> Result<ReportDissent, Malformed> {
    check_name("executor", &request.executor)?;
    shard_index("shard", request.shard)?;
    at_most("reason", request.reason.len(), MAX_REASON_BYTES)?;
    let computed = match request.computed.is_empty() {
        true => None,
        false => Some(hash("computed", &request.computed)?),
    };
    Ok(ReportDissent {
        round: request.round,
        shard: request.shard,
        executor: request.executor.into(),
        computed,
        reason: request.reason,
        // One voice alone never voids a block this way.
        owners: 2,
    })
}

fn shard_index(field: &str, index: u32) -> Result<u32, Malformed> {
    if index < MAX_SHARDS {
        return Ok(index);
    }
    let problem = format!("is {index}, expected below {MAX_SHARDS}");
    Err(Malformed::new(field, problem))
}

/// An opening.
///
/// # Errors
/// [`Malformed`] naming the field.
pub fn open_round(request: &v1::OpenRoundRequest) -> Result<Command, Malformed> {
    check_name("opener", &request.opener)?;
    let target = match RoundKind::try_from(request.kind())? {
        RoundKind::Build => build_target(request)?,
        RoundKind::Verify => verify_target(request)?,
    };
    Ok(Command::OpenRound(Arc::new(OpenRound {
        opener: request.opener.as_str().into(),
        clock_ms: request.clock_ms,
        target,
    })))
}

fn absent(field: &str, is_absent: bool, kind: &str) -> Result<(), Malformed> {
    if is_absent {
        return Ok(());
    }
    Err(Malformed::new(field, format!("must be absent for {kind}")))
}

fn build_target(request: &v1::OpenRoundRequest) -> Result<OpenTarget, Malformed> {
    absent("header", request.header.is_none(), "BUILD")?;
    absent("shard_hashes", request.shard_hashes.is_empty(), "BUILD")?;
    let parent = match request.parent.is_empty() {
        true => None,
        false => Some(hash("parent", &request.parent)?),
    };
    at_most("reservations", request.reservations.len(), MAX_RESERVATIONS)?;
    let mut reservations = Vec::with_capacity(request.reservations.len());
    for (i, reservation) in request.reservations.iter().enumerate() {
        let field = || format!("reservations[{i}]");
        let key = required("key", reservation.key.as_ref()).map_err(|e| e.within(field()))?;
        let key = LockKey::try_from(key).map_err(|e| e.within(field()))?;
        let shard = shard_index("shard", reservation.shard).map_err(|e| e.within(field()))?;
        reservations.push((key, shard));
    }
    Ok(OpenTarget::Build {
        parent,
        reservations,
    })
}

fn verify_target(request: &v1::OpenRoundRequest) -> Result<OpenTarget, Malformed> {
    absent("parent", request.parent.is_empty(), "VERIFY")?;
    absent("reservations", request.reservations.is_empty(), "VERIFY")?;
    let header = required("header", request.header.as_ref())?;
    let header = Header::try_from(header).map_err(|e| e.within("header"))?;
    at_most(
        "shard_hashes",
        request.shard_hashes.len(),
        MAX_SHARDS as usize,
    )?;
    let mut shard_hashes = Vec::with_capacity(request.shard_hashes.len());
    for (i, bytes) in request.shard_hashes.iter().enumerate() {
        shard_hashes.push(hash(&format!("shard_hashes[{i}]"), bytes)?);
    }
    Ok(OpenTarget::Verify {
        header: Arc::new(header),
        shard_hashes: shard_hashes.into(),
    })
}

/// Locks to be taken ahead.
///
/// # Errors
/// [`Malformed`] naming the field.
pub fn acquire_locks(request: &v1::AcquireLocksRequest) -> Result<AcquireLocks, Malformed> {
    if request.keys.is_empty() {
        return Err(Malformed::new("keys", "is empty, expected at least one"));
    }
    Ok(AcquireLocks {
        round: request.round,
        shard: shard_index("shard", request.shard)?,
        keys: ascending_keys(&request.keys)?,
    })
}

/// A round to be given up.
///
/// # Errors
/// [`Malformed`] naming the field.
pub fn void_round(request: &v1::VoidRoundRequest) -> Result<Command, Malformed> {
    let reason = VoidReason::try_from(request.reason())?;
    if !matches!(reason, VoidReason::Unavailable | VoidReason::Abandoned) {
        let problem = "must be UNAVAILABLE or ABANDONED: the store itself finds the others";
        return Err(Malformed::new("reason", problem));
    }
    Ok(Command::VoidRound {
        round: request.round,
        reason,
        waited_ms: 0,
    })
}

/// A genesis.
///
/// # Errors
/// [`Malformed`] naming the field or the limit.
pub fn init_chain(request: &v1::InitChainRequest) -> Result<Arc<Genesis>, Malformed> {
    let genesis = required("genesis", request.genesis.as_ref())?;
    at_most("bytes of genesis", genesis.encoded_len(), MAX_GENESIS_BYTES)?;
    let genesis = Genesis::try_from(genesis).map_err(|e| e.within("genesis"))?;
    Ok(Arc::new(genesis))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field, and a mistake in it.
    type Case<T> = (&'static str, fn(&mut T));

    #[test]
    fn a_bad_opening_is_refused_with_the_name_of_the_field() {
        let build = v1::OpenRoundRequest {
            kind: v1::RoundKind::Build.into(),
            opener: "a".to_owned(),
            ..Default::default()
        };
        assert!(open_round(&build).is_ok());
        let cases: Vec<Case<v1::OpenRoundRequest>> = vec![
            ("kind", |o| o.kind = 0),
            ("kind", |o| o.kind = 77),
            ("opener", |o| o.opener = "é".to_owned()),
            ("parent", |o| o.parent = bytes::Bytes::from_static(&[1; 3])),
            ("header", |o| o.header = Some(v1::Header::default())),
            ("reservations", |o| {
                o.reservations = vec![v1::Reservation::default(); MAX_RESERVATIONS + 1];
            }),
            ("reservations[0].key", |o| {
                o.reservations = vec![v1::Reservation::default()];
            }),
            ("header", |o| o.kind = v1::RoundKind::Verify.into()),
        ];
        for (field, spoil) in cases {
            let mut request = build.clone();
            spoil(&mut request);
            let error = open_round(&request).unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
    }

    #[test]
    fn locks_must_be_named_and_ascend() {
        let key = |last: u8| v1::LockKey {
            address: bytes::Bytes::from([[0; 19].as_slice(), &[last]].concat()),
            slot: bytes::Bytes::new(),
        };
        let request = |keys: Vec<v1::LockKey>| v1::AcquireLocksRequest {
            meta: None,
            round: 1,
            shard: 0,
            keys,
        };
        assert!(acquire_locks(&request(vec![key(1), key(2)])).is_ok());
        for (keys, field) in [
            (vec![], "keys"),
            (vec![key(2), key(1)], "keys[1]"),
            (vec![key(1), key(1)], "keys[1]"),
            (vec![v1::LockKey::default()], "keys[0].address"),
        ] {
            assert_eq!(acquire_locks(&request(keys)).unwrap_err().field, field);
        }
    }

    #[test]
    fn only_what_a_caller_may_know_voids_a_round() {
        let request = |reason: v1::VoidReason| v1::VoidRoundRequest {
            meta: None,
            round: 1,
            reason: reason.into(),
        };
        assert!(void_round(&request(v1::VoidReason::Abandoned)).is_ok());
        assert!(void_round(&request(v1::VoidReason::Unavailable)).is_ok());
        for reason in [
            v1::VoidReason::Unspecified,
            v1::VoidReason::Stale,
            v1::VoidReason::Invalid,
        ] {
            assert_eq!(void_round(&request(reason)).unwrap_err().field, "reason");
        }
    }
}
