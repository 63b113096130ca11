//! Requests into checked commands. What is malformed is refused here with the name of its field, before it costs more.

use super::status::Fault;
use crate::mutant::{self, Mutant};
use crate::state::{
    AcquireLocks, Command, OpenRound, OpenTarget, RoundId, RoundKind, VoidReason, ascending_keys,
};
use prost::Message;
use std::sync::Arc;
use troika_proto::limits::{
    MAX_GENESIS_BYTES, MAX_REASON_BYTES, MAX_RESERVATIONS, MAX_SHARD_MESSAGE_BYTES, MAX_SHARDS,
};
use troika_proto::wire::{at_most, check_name, hash, required};
use troika_proto::{
    B256, Genesis, Header, LockKey, LockRule, Malformed, Shard, ShardBody, ShardHeader, v1,
};

/// A submission whose small parts are checked. Its body is not: most submissions lose, and are answered without it.
#[derive(Debug)]
pub struct Submission {
    /// The round.
    pub round: RoundId,
    /// The shard.
    pub shard: u32,
    /// Who submits.
    pub executor: Arc<str>,
    /// What it says.
    pub content: Content,
}

/// What an executor says about a shard.
#[derive(Debug)]
pub enum Content {
    /// Its version.
    Proposal(Box<Unchecked>),
    /// VERIFY: it cannot be executed.
    Failure {
        /// Why.
        reason: String,
        /// How many executors own the shard, as the caller is configured.
        owners: u32,
    },
}

/// A proposal whose header has not been compared with its body.
#[derive(Debug)]
pub struct Unchecked {
    /// What the caller says the body hashes to.
    pub header: ShardHeader,
    /// The header's hash: the shard's, if the body is its.
    pub hash: B256,
    /// The body as it came.
    pub body: v1::ShardBody,
    /// Bytes of the whole request.
    pub bytes: usize,
    /// See [`Content::Failure`].
    pub owners: u32,
}

impl Submission {
    /// Checks the names, the numbers and the size.
    ///
    /// # Errors
    /// [`Malformed`] naming the field or the limit.
    pub fn parse(request: v1::SubmitRequest) -> Result<Self, Malformed> {
        check_name("executor", &request.executor)?;
        shard_index("shard", request.shard)?;
        let bytes = request.encoded_len();
        at_most("bytes of the request", bytes, MAX_SHARD_MESSAGE_BYTES)?;
        let content = match (request.header, request.body) {
            (None, None) if !request.failure.is_empty() => {
                at_most("failure", request.failure.len(), MAX_REASON_BYTES)?;
                Content::Failure {
                    reason: request.failure,
                    owners: owners(request.owners),
                }
            }
            (header, body) => {
                if !request.failure.is_empty() {
                    let problem = "is given beside header or body: send one or the other";
                    return Err(Malformed::new("failure", problem));
                }
                let header = required("header", header)?;
                let header = ShardHeader::try_from(&header).map_err(|e| e.within("header"))?;
                if header.index != request.shard {
                    let problem = format!("is {}, but shard is {}", header.index, request.shard);
                    return Err(Malformed::new("header.index", problem));
                }
                Content::Proposal(Box::new(Unchecked {
                    hash: header.hash(),
                    header,
                    body: required("body", body)?,
                    bytes,
                    owners: owners(request.owners),
                }))
            }
        };
        Ok(Self {
            round: request.round,
            shard: request.shard,
            executor: request.executor.into(),
            content,
        })
    }
}

/// Executors that must agree where the caller does not say how many there are: one alone never voids a block.
const UNKNOWN_OWNERS: u32 = 2;

fn owners(named: u32) -> u32 {
    if named == 0 { UNKNOWN_OWNERS } else { named }
}

impl Unchecked {
    /// Parses the body and compares the header with it: the costly part.
    ///
    /// # Errors
    /// [`Fault`] naming the field that is malformed or that differs.
    pub fn check(self, rule: LockRule) -> Result<Shard, Fault> {
        let body = ShardBody::try_from(&self.body).map_err(|e| e.within("body"))?;
        if mutant::on(Mutant::CreditsLeftOut) {
            return Ok(Shard {
                hash: self.hash,
                header: self.header,
                body,
            });
        }
        Ok(Shard::check(self.header, body, rule)?)
    }
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
    use troika_proto::U256;

    fn submit() -> v1::SubmitRequest {
        let shard = Shard::new(3, ShardBody::default(), U256::ZERO, LockRule::Commuting);
        v1::SubmitRequest {
            round: 1,
            shard: 3,
            executor: "a".to_owned(),
            header: Some((&shard.header).into()),
            body: Some((&shard.body).into()),
            ..Default::default()
        }
    }

    /// A field, and a mistake in it.
    type Case<T> = (&'static str, fn(&mut T));

    #[test]
    fn a_bad_submission_is_refused_with_the_name_of_the_field() {
        assert!(Submission::parse(submit()).is_ok());
        let cases: Vec<Case<v1::SubmitRequest>> = vec![
            ("executor", |s| s.executor = String::new()),
            ("executor", |s| s.executor = "no spaces".to_owned()),
            ("executor", |s| s.executor = "x".repeat(65)),
            ("shard", |s| s.shard = MAX_SHARDS),
            ("header", |s| s.header = None),
            ("header.index", |s| s.shard = 4),
            ("body", |s| s.body = None),
            ("failure", |s| s.failure = "both".to_owned()),
            ("failure", |s| {
                (s.header, s.body) = (None, None);
                s.failure = "x".repeat(MAX_REASON_BYTES + 1);
            }),
            ("header.diff_root", |s| {
                s.header.as_mut().unwrap().diff_root = bytes::Bytes::from_static(&[1; 31]);
            }),
            ("bytes of the request", |s| {
                let junk = bytes::Bytes::from(vec![1; MAX_SHARD_MESSAGE_BYTES]);
                s.body.as_mut().unwrap().transactions.push(junk);
            }),
        ];
        for (field, spoil) in cases {
            let mut request = submit();
            spoil(&mut request);
            let error = Submission::parse(request).unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
    }

    #[test]
    fn a_header_that_is_not_the_bodys_is_found_when_the_body_is_checked() {
        let cases: Vec<Case<v1::SubmitRequest>> = vec![
            ("header.gas_used", |s| {
                s.header.as_mut().unwrap().gas_used = 1;
            }),
            ("body.diff", |s| s.body.as_mut().unwrap().diff = None),
            ("body.receipts", |s| {
                let body = s.body.as_mut().unwrap();
                body.transactions.push(bytes::Bytes::from_static(&[1]));
            }),
        ];
        for (field, spoil) in cases {
            let mut request = submit();
            spoil(&mut request);
            let Content::Proposal(proposal) = Submission::parse(request).unwrap().content else {
                panic!("a proposal");
            };
            let error = proposal.check(LockRule::Commuting).unwrap_err();
            assert!(error.to_string().starts_with(field), "{error}");
        }
    }

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
