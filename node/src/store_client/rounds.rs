//! The calls of `troika.v1.Rounds`.

use super::convert::holders;
use super::transport::{StoreClient, StoreError, found};
use super::types::{Acquired, LockHolder, Opened, Refusal, Reported, Round, Seal, Submitted};
use tonic::transport::Channel;
use troika_proto::limits::{MAX_MESSAGE_BYTES, MAX_REASON_BYTES};
use troika_proto::whole::Whole;
use troika_proto::wire::{hash_bytes, required};
use troika_proto::{B256, Header, LockKey, Shard, v1};
use v1::rounds_client::RoundsClient;

pub(super) fn rounds(channel: Channel) -> RoundsClient<Whole<Channel>> {
    RoundsClient::new(Whole(channel))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

impl StoreClient {
    /// Opens the BUILD round on `parent` (`None`: on the head), or answers the one that is there.
    ///
    /// `clock_ms` is the opener's wall clock, milliseconds since 1970. `reservations`: keys kept for named shards.
    ///
    /// # Errors
    /// [`StoreError`] without an answer.
    pub async fn open_build(
        &self,
        parent: Option<B256>,
        opener: &str,
        clock_ms: u64,
        reservations: &[(LockKey, u32)],
    ) -> Result<Opened, StoreError> {
        let reservations = reservations.iter().map(|(key, shard)| v1::Reservation {
            key: Some((*key).into()),
            shard: *shard,
        });
        self.open(v1::OpenRoundRequest {
            meta: self.any_state(),
            kind: v1::RoundKind::Build.into(),
            parent: parent.map(hash_bytes).unwrap_or_default(),
            opener: opener.to_owned(),
            clock_ms,
            reservations: reservations.collect(),
            ..v1::OpenRoundRequest::default()
        })
        .await
    }

    /// Opens a VERIFY round for somebody else's block, or answers the one that is open for it.
    ///
    /// # Errors
    /// [`StoreError`] without an answer.
    pub async fn open_verify(
        &self,
        opener: &str,
        header: &Header,
        shard_hashes: &[B256],
    ) -> Result<Opened, StoreError> {
        self.open(v1::OpenRoundRequest {
            meta: self.any_state(),
            kind: v1::RoundKind::Verify.into(),
            opener: opener.to_owned(),
            header: Some(header.into()),
            shard_hashes: shard_hashes.iter().map(|h| hash_bytes(*h)).collect(),
            ..v1::OpenRoundRequest::default()
        })
        .await
    }

    async fn open(&self, request: v1::OpenRoundRequest) -> Result<Opened, StoreError> {
        let reply = self
            .call("open round", |channel| {
                let request = request.clone();
                async move { rounds(channel).open(request).await }
            })
            .await?;
        if let Some(refusal) = reply.refusal {
            return Ok(Opened::Refused(refusal.into()));
        }
        let round = Round::try_from(required("round", reply.round)?)?;
        Ok(Opened::Round(Box::new(round), reply.opened))
    }

    /// Submits one version of a shard. Safe to repeat: a decided shard answers its winner, for ever.
    ///
    /// # Errors
    /// [`StoreError`] without an answer; the submission may then have been accepted all the same.
    pub async fn submit(
        &self,
        round: u64,
        executor: &str,
        shard: &Shard,
    ) -> Result<Submitted, StoreError> {
        self.submit_checked(round, executor, 0, shard).await
    }

    /// VERIFY: submits what executing a shard came to. `owners`: how many executors own it (0: unknown, two must agree
    /// before an outcome that is not the header's counts).
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub async fn submit_checked(
        &self,
        round: u64,
        executor: &str,
        owners: u32,
        shard: &Shard,
    ) -> Result<Submitted, StoreError> {
        let reply = self
            .call("submit shard", |channel| {
                let request = v1::SubmitRequest {
                    meta: self.any_state(),
                    round,
                    shard: shard.header.index,
                    executor: executor.to_owned(),
                    header: Some((&shard.header).into()),
                    body: Some((&shard.body).into()),
                    owners,
                    ..v1::SubmitRequest::default()
                };
                async move { rounds(channel).submit(request).await }
            })
            .await?;
        submitted(reply)
    }

    /// VERIFY: reports that a shard cannot be executed, and why (at most 1,024 bytes are sent). `owners` as for
    /// [`Self::submit_checked`].
    ///
    /// # Errors
    /// [`StoreError`] without an answer.
    pub async fn submit_failure(
        &self,
        round: u64,
        shard: u32,
        executor: &str,
        owners: u32,
        reason: &str,
    ) -> Result<Submitted, StoreError> {
        let request = v1::SubmitRequest {
            meta: self.any_state(),
            round,
            shard,
            executor: executor.to_owned(),
            failure: shortened(reason),
            owners,
            ..v1::SubmitRequest::default()
        };
        let reply = self
            .call("submit failure", |channel| {
                let request = request.clone();
                async move { rounds(channel).submit(request).await }
            })
            .await?;
        submitted(reply)
    }

    /// The divergence alarm: executing an accepted shard again came to `computed` (`None`: it cannot be executed, for
    /// `reason`). Safe to repeat.
    ///
    /// # Errors
    /// [`StoreError`] without an answer.
    pub async fn report_dissent(
        &self,
        round: u64,
        shard: u32,
        executor: &str,
        computed: Option<B256>,
        reason: &str,
    ) -> Result<Reported, StoreError> {
        use v1::report_dissent_response::Outcome;
        let request = v1::ReportDissentRequest {
            meta: self.any_state(),
            round,
            shard,
            executor: executor.to_owned(),
            computed: computed.map(hash_bytes).unwrap_or_default(),
            reason: match computed {
                Some(_) => String::new(),
                None => shortened(reason),
            },
        };
        let reply = self
            .call("report dissent", |channel| {
                let request = request.clone();
                async move { rounds(channel).report_dissent(request).await }
            })
            .await?;
        Ok(match required("outcome", reply.outcome)? {
            Outcome::Noted(_) => Reported::Noted,
            Outcome::Winner(winner) => Reported::Agrees(winner.try_into()?),
            Outcome::Refusal(refusal) => Reported::Refused(refusal.into()),
        })
    }

    /// Takes locks ahead, all or nothing. BUILD only. `keys` ascending.
    ///
    /// # Errors
    /// [`StoreError`] without an answer.
    pub async fn acquire_locks(
        &self,
        round: u64,
        shard: u32,
        keys: &[LockKey],
    ) -> Result<Acquired, StoreError> {
        use v1::acquire_locks_response::Outcome;
        let request = v1::AcquireLocksRequest {
            meta: self.any_state(),
            round,
            shard,
            keys: keys.iter().map(|key| (*key).into()).collect(),
        };
        let reply = self
            .call("acquire locks", |channel| {
                let request = request.clone();
                async move { rounds(channel).acquire_locks(request).await }
            })
            .await?;
        Ok(match required("outcome", reply.outcome)? {
            Outcome::Acquired(_) => Acquired::All,
            Outcome::Conflict(conflict) => Acquired::Conflict(holders("held", &conflict.held)?),
            Outcome::Winner(winner) => Acquired::Decided(winner.try_into()?),
            Outcome::Refusal(refusal) => Acquired::Refused(refusal.into()),
        })
    }

    /// One round; `None` where there is none of that number. `linearizable`: asks the quorum first.
    ///
    /// # Errors
    /// [`StoreError`] without an answer; [`StoreError::Pruned`] for one that is forgotten.
    pub async fn round(&self, round: u64, linearizable: bool) -> Result<Option<Round>, StoreError> {
        let request = v1::GetRoundRequest {
            meta: self.monotonic(),
            round,
            linearizable,
        };
        let reply = self.call("get round", |channel| {
            let request = request.clone();
            async move { rounds(channel).get(request).await }
        });
        let Some(reply) = found(reply.await)? else {
            return Ok(None);
        };
        Ok(reply.round.map(Round::try_from).transpose()?)
    }

    /// Rounds from `from` on, ascending, at most `limit` (0: 100), without their winners.
    ///
    /// # Errors
    /// [`StoreError`] without an answer.
    pub async fn rounds(
        &self,
        from: u64,
        limit: u32,
        open_only: bool,
    ) -> Result<Vec<Round>, StoreError> {
        let request = v1::ListRoundsRequest {
            meta: self.monotonic(),
            from,
            limit,
            linearizable: false,
            open_only,
        };
        let reply = self
            .call("list rounds", |channel| {
                let request = request.clone();
                async move { rounds(channel).list(request).await }
            })
            .await?;
        let rounds = reply.rounds.into_iter().map(Round::try_from);
        Ok(rounds.collect::<Result<_, _>>()?)
    }

    /// Locks held in an open round, ascending, one page from after `after` on; `true` if there are more.
    ///
    /// # Errors
    /// [`StoreError`] without an answer.
    pub async fn locks(
        &self,
        round: u64,
        after: Option<LockKey>,
        limit: u32,
    ) -> Result<(Vec<LockHolder>, bool), StoreError> {
        let request = v1::ListLocksRequest {
            meta: self.monotonic(),
            round,
            after: after.map(Into::into),
            limit,
            linearizable: false,
        };
        let reply = self
            .call("list locks", |channel| {
                let request = request.clone();
                async move { rounds(channel).list_locks(request).await }
            })
            .await?;
        Ok((holders("locks", &reply.locks)?, reply.more))
    }

    /// Seals a BUILD round, filling undecided shards with the empty one.
    ///
    /// # Errors
    /// [`StoreError`] without an answer; the round may then have been sealed all the same.
    pub async fn seal(&self, round: u64) -> Result<Seal, StoreError> {
        let request = v1::SealRoundRequest {
            meta: self.any_state(),
            round,
        };
        let reply = self
            .call("seal round", |channel| {
                let request = request.clone();
                async move { rounds(channel).seal(request).await }
            })
            .await?;
        closed(reply.round, reply.refusal)
    }

    /// Gives up a VERIFY round, as UNAVAILABLE or ABANDONED.
    ///
    /// # Errors
    /// [`StoreError`] without an answer; the round may then be void all the same.
    pub async fn void(&self, round: u64, reason: v1::VoidReason) -> Result<Seal, StoreError> {
        let request = v1::VoidRoundRequest {
            meta: self.any_state(),
            round,
            reason: reason.into(),
        };
        let reply = self
            .call("void round", |channel| {
                let request = request.clone();
                async move { rounds(channel).void(request).await }
            })
            .await?;
        closed(reply.round, reply.refusal)
    }
}

/// What fits a reason on the wire.
fn shortened(reason: &str) -> String {
    reason[..reason.floor_char_boundary(MAX_REASON_BYTES)].to_owned()
}

fn closed(round: Option<v1::Round>, refusal: Option<v1::Refusal>) -> Result<Seal, StoreError> {
    match refusal {
        Some(refusal) => Ok(Seal::Refused(Refusal::from(refusal))),
        None => Ok(Seal::Closed(Box::new(
            required("round", round)?.try_into()?,
        ))),
    }
}

fn submitted(reply: v1::SubmitResponse) -> Result<Submitted, StoreError> {
    use v1::submit_response::Outcome;
    Ok(match required("outcome", reply.outcome)? {
        Outcome::Winner(winner) => Submitted::Decided {
            winner: winner.try_into()?,
            won: reply.won,
        },
        Outcome::Conflict(conflict) => Submitted::Conflict(holders("held", &conflict.held)?),
        Outcome::Refusal(refusal) => Submitted::Refused(refusal.into()),
        Outcome::Noted(_) => Submitted::Noted,
    })
}
