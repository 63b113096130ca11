//! Submissions: what executors say about a shard, before it is checked.
//!
//! Of the proposals of a shard one goes into the log and the others are answered with its winner, so the costly part,
//! comparing a header with its body, is left to the member that logs, and done only for the proposal whose turn it is.
//! Until then a submission is carried as it came: as the caller's request, or still encoded where another member has
//! forwarded it.

use super::command::{AcceptShard, Command, ReportDissent};
use super::decision::RoundId;
use super::machine::Machine;
use crate::mutant::{self, Mutant};
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;
use troika_proto::limits::{MAX_REASON_BYTES, MAX_SHARD_MESSAGE_BYTES, MAX_SHARDS};
use troika_proto::wire::{at_most, check_name, required};
use troika_proto::{B256, LockRule, Malformed, Shard, ShardBody, ShardFault, ShardHeader, v1};

/// One submission whose small parts are checked.
#[derive(Debug)]
pub struct Submission {
    round: RoundId,
    shard: u32,
    bytes: usize,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Request(Box<v1::SubmitRequest>),
    Encoded(Bytes),
}

/// What a submission is checked against.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ground {
    /// The chain's.
    pub rule: LockRule,
    /// VERIFY: the hash that the header gives.
    pub expected: Option<B256>,
}

/// Why a submission makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SubmissionFault {
    /// A field is not what it must be, or exceeds a limit.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The header is not that of the body.
    #[error(transparent)]
    Shard(#[from] ShardFault),
}

/// Executors that must agree where the caller does not say how many there are: one alone never voids a block.
const UNKNOWN_OWNERS: u32 = 2;

impl Submission {
    /// Checks the names, the numbers and the size.
    ///
    /// # Errors
    /// [`Malformed`] naming the field or the limit.
    pub fn parse(request: v1::SubmitRequest) -> Result<Self, Malformed> {
        check_name("executor", &request.executor)?;
        if request.shard >= MAX_SHARDS {
            let problem = format!("is {}, expected below {MAX_SHARDS}", request.shard);
            return Err(Malformed::new("shard", problem));
        }
        let bytes = request.encoded_len();
        at_most("bytes of the request", bytes, MAX_SHARD_MESSAGE_BYTES)?;
        match (&request.header, &request.body) {
            (None, None) if !request.failure.is_empty() => {
                at_most("failure", request.failure.len(), MAX_REASON_BYTES)?;
            }
            (header, body) => {
                if !request.failure.is_empty() {
                    let problem = "is given beside header or body: send one or the other";
                    return Err(Malformed::new("failure", problem));
                }
                let header = required("header", header.as_ref())?;
                if header.index != request.shard {
                    let problem = format!("is {}, but shard is {}", header.index, request.shard);
                    return Err(Malformed::new("header.index", problem));
                }
                required("body", body.as_ref())?;
            }
        }
        Ok(Self {
            round: request.round,
            shard: request.shard,
            bytes,
            form: Form::Request(Box::new(request)),
        })
    }

    /// A submission that another member has parsed and forwarded.
    pub fn encoded(round: RoundId, shard: u32, bytes: Bytes) -> Self {
        Self {
            round,
            shard,
            bytes: bytes.len(),
            form: Form::Encoded(bytes),
        }
    }

    /// The round.
    pub fn round(&self) -> RoundId {
        self.round
    }

    /// The shard.
    pub fn shard(&self) -> u32 {
        self.shard
    }

    /// Bytes of the request: what queues are bounded by.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The request's bytes, for another member.
    pub fn encode(&self) -> Bytes {
        match &self.form {
            Form::Request(request) => request.encode_to_vec().into(),
            Form::Encoded(bytes) => bytes.clone(),
        }
    }

    /// The costly part: compares the header with the body, and says what the log is to carry.
    ///
    /// # Errors
    /// [`SubmissionFault`] naming the field that is malformed or that differs.
    pub fn check(self, ground: Ground) -> Result<Command, SubmissionFault> {
        let request = match self.form {
            Form::Request(request) => *request,
            Form::Encoded(bytes) => {
                let request = v1::SubmitRequest::decode(bytes)
                    .map_err(|error| Malformed::new("submission", error.to_string()))?;
                let parsed = Self::parse(request)?;
                // Who waits for a shard hears of that shard and no other.
                if (parsed.round, parsed.shard) != (self.round, self.shard) {
                    let problem = "is not of the round and shard that it was forwarded for";
                    return Err(Malformed::new("submission", problem).into());
                }
                return parsed.check(ground);
            }
        };
        let executor: Arc<str> = request.executor.into();
        let owners = match request.owners {
            0 => UNKNOWN_OWNERS,
            named => named,
        };
        let dissent = |computed, reason| {
            Command::ReportDissent(Arc::new(ReportDissent {
                round: self.round,
                shard: self.shard,
                executor: executor.clone(),
                computed,
                reason,
                owners,
            }))
        };
        let Some(header) = &request.header else {
            return Ok(dissent(None, request.failure));
        };
        let header = ShardHeader::try_from(header).map_err(|e| e.within("header"))?;
        let body = required("body", request.body.as_ref())?;
        let body = ShardBody::try_from(body).map_err(|e| e.within("body"))?;
        let checked = match mutant::on(Mutant::CreditsLeftOut) {
            true => Shard {
                hash: header.hash(),
                header,
                body,
            },
            false => Shard::check(header, body, ground.rule)?,
        };
        if ground.expected.is_some_and(|hash| hash != checked.hash) {
            return Ok(dissent(Some(checked.hash), String::new()));
        }
        let accept = AcceptShard::new(self.round, executor, Arc::new(checked));
        Ok(Command::AcceptShard(accept))
    }
}

impl Machine {
    /// What submissions for a shard are checked against here and now.
    pub fn ground(&self, round: RoundId, shard: u32) -> Ground {
        let checked = self.round(round).and_then(|found| found.checked.as_ref());
        let chain = self.current_chain();
        Ground {
            rule: chain.map_or_else(LockRule::default, |chain| chain.config.lock_rule),
            expected: checked.and_then(|c| c.shard_hashes.get(shard as usize).copied()),
        }
    }
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
    type Case = (&'static str, fn(&mut v1::SubmitRequest));

    #[test]
    fn a_bad_submission_is_refused_with_the_name_of_the_field() {
        assert!(Submission::parse(submit()).is_ok());
        let cases: Vec<Case> = vec![
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
            ("bytes of the request", |s| {
                let junk = Bytes::from(vec![1; MAX_SHARD_MESSAGE_BYTES]);
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
    fn a_header_that_is_not_the_bodys_is_found_when_it_is_checked_forwarded_or_not() {
        let cases: Vec<Case> = vec![
            ("header.gas_used", |s| {
                s.header.as_mut().unwrap().gas_used = 1;
            }),
            ("header.diff_root", |s| {
                s.header.as_mut().unwrap().diff_root = Bytes::from_static(&[1; 31]);
            }),
            ("body.diff", |s| s.body.as_mut().unwrap().diff = None),
            ("body.receipts", |s| {
                let body = s.body.as_mut().unwrap();
                body.transactions.push(Bytes::from_static(&[1]));
            }),
        ];
        for (field, spoil) in cases {
            let mut request = submit();
            spoil(&mut request);
            let direct = Submission::parse(request).unwrap();
            let forwarded = Submission::encoded(1, 3, direct.encode());
            for submission in [direct, forwarded] {
                let error = submission.check(Ground::default()).unwrap_err();
                assert!(error.to_string().starts_with(field), "{error}");
            }
        }
    }

    #[test]
    fn what_another_member_forwards_is_what_it_was_sent() {
        let direct = Submission::parse(submit()).unwrap();
        let forwarded = Submission::encoded(direct.round(), direct.shard(), direct.encode());
        assert_eq!(forwarded.bytes(), direct.bytes());
        let check = |submission: Submission| submission.check(Ground::default()).unwrap();
        assert_eq!(check(direct), check(forwarded));
    }

    #[test]
    fn a_submission_is_not_taken_for_another_shard_than_it_was_forwarded_for() {
        let direct = Submission::parse(submit()).unwrap();
        for (round, shard) in [(1, 4), (2, 3)] {
            let strayed = Submission::encoded(round, shard, direct.encode());
            let error = strayed.check(Ground::default()).unwrap_err();
            assert!(error.to_string().starts_with("submission"), "{error}");
        }
    }

    #[test]
    fn junk_that_another_member_forwards_is_refused() {
        let junk = Submission::encoded(1, 3, Bytes::from_static(b"\xff\xff\xff"));
        assert!(matches!(
            junk.check(Ground::default()),
            Err(SubmissionFault::Malformed(_))
        ));
    }

    #[test]
    fn an_outcome_that_is_not_the_headers_is_a_dissent() {
        let submission = Submission::parse(submit()).unwrap();
        let ground = Ground {
            expected: Some(B256::repeat_byte(7)),
            ..Ground::default()
        };
        let Command::ReportDissent(dissent) = submission.check(ground).unwrap() else {
            panic!("a dissent");
        };
        assert_eq!((dissent.round, dissent.shard, dissent.owners), (1, 3, 2));
        assert!(dissent.computed.is_some());
    }
}
