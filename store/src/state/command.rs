//! Commands: what a log entry carries, already checked.
//!
//! A command is decoded once per member. Its large parts are behind `Arc`s, so that the batcher, the log's tail, the
//! machine and the checkpoint share one copy.

use super::decision::{Revision, RoundId};
use super::evidence::VoidReason;
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{self, WireType};
use std::sync::Arc;
use troika_proto::log::v1 as log;
use troika_proto::wire::{at_most, check_name, hash, hash_bytes, required};
use troika_proto::{
    B256, Genesis, Header, LockKey, Malformed, Shard, ShardBody, ShardHeader, keccak, limits, v1,
};

/// What a round is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoundKind {
    /// Making a block.
    Build,
    /// Checking somebody else's block.
    Verify,
}

/// One change that the log asks of the machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Starts the chain.
    InitChain(Arc<Genesis>),
    /// Opens a round.
    OpenRound(Arc<OpenRound>),
    /// Takes locks ahead of a proposal, all or nothing.
    AcquireLocks(AcquireLocks),
    /// Asks that a shard be accepted.
    AcceptShard(AcceptShard),
    /// Seals a BUILD round, filling what is undecided with the empty shard.
    SealRound {
        /// The round.
        round: RoundId,
        /// How long the leader has known the round, by its monotonic clock, milliseconds.
        waited_ms: u64,
    },
    /// Gives up a VERIFY round.
    VoidRound {
        /// The round.
        round: RoundId,
        /// Unavailable or abandoned.
        reason: VoidReason,
        /// As in `SealRound`.
        waited_ms: u64,
    },
    /// Forgets rounds.
    Prune {
        /// Rounds below this number.
        below_round: RoundId,
    },
    /// Raises the feature level; never lowers it.
    SetFeatureLevel {
        /// The new level.
        level: u32,
    },
    /// VERIFY: an executor's outcome that is not the header's.
    ReportDissent(Arc<ReportDissent>),
    /// After a restore: raises the revision, so that fences never run backwards.
    RaiseRevision {
        /// By how much.
        by: Revision,
    },
}

/// See [`Command::OpenRound`].
#[derive(Clone, Debug, PartialEq)]
pub struct OpenRound {
    /// Who opens it.
    pub opener: Arc<str>,
    /// min(opener's clock, leader's clock), milliseconds since 1970, stamped before logging.
    pub clock_ms: u64,
    /// What is opened.
    pub target: OpenTarget,
}

/// What an opening asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum OpenTarget {
    /// A block to be made.
    Build {
        /// `None`: the head.
        parent: Option<B256>,
        /// Keys that are locked for shards from the start; the first mention of a key counts.
        reservations: Vec<(LockKey, u32)>,
    },
    /// A block to be checked.
    Verify {
        /// The block's header.
        header: Arc<Header>,
        /// The hash of every shard, in index order.
        shard_hashes: Arc<[B256]>,
    },
}

/// See [`Command::AcquireLocks`].
#[derive(Clone, Debug, PartialEq)]
pub struct AcquireLocks {
    /// The round.
    pub round: RoundId,
    /// The shard that will hold them.
    pub shard: u32,
    /// Ascending, without duplicates.
    pub keys: Arc<[LockKey]>,
}

/// See [`Command::AcceptShard`]. Its fields are not changed once it is made: its bytes are there already.
#[derive(Clone, Debug, PartialEq)]
pub struct AcceptShard {
    /// The round.
    pub round: RoundId,
    /// The shard: equal to the proposal's index.
    pub shard: u32,
    /// Who made the proposal.
    pub executor: Arc<str>,
    /// Header, hash and body, which belong together.
    pub proposal: Arc<Shard>,
    /// Keccak-256 of each transaction, in order: computed off the apply thread.
    pub transaction_hashes: Arc<[B256]>,
    /// All of this as a `troika.log.v1.AcceptShard`. Encoded once in the cluster's life: entries, followers and checkpoints
    /// carry these bytes on.
    encoded: Bytes,
}

impl AcceptShard {
    /// A proposal with the hashes of its transactions. Hashes and encodes: not for the apply thread.
    pub fn new(round: RoundId, executor: Arc<str>, proposal: Arc<Shard>) -> Self {
        let hashes = proposal.body.transactions.iter().map(keccak).collect();
        let mut accept = Self {
            round,
            shard: proposal.header.index,
            executor,
            proposal,
            transaction_hashes: hashes,
            encoded: Bytes::new(),
        };
        accept.encoded = accept.to_wire().encode_to_vec().into();
        accept
    }

    /// The same proposal for another round.
    #[must_use]
    pub fn in_round(&self, round: RoundId) -> Self {
        Self::new(round, self.executor.clone(), self.proposal.clone())
    }
}

/// See [`Command::ReportDissent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportDissent {
    /// The round.
    pub round: RoundId,
    /// The shard.
    pub shard: u32,
    /// Who computed another outcome.
    pub executor: Arc<str>,
    /// The hash it computed; `None` where the shard cannot be executed.
    pub computed: Option<B256>,
    /// Why it cannot be executed.
    pub reason: String,
    /// How many executors own the shard, as far as the leader knows; at least 1.
    pub owners: u32,
}

impl RoundKind {
    fn to_wire(self) -> v1::RoundKind {
        match self {
            Self::Build => v1::RoundKind::Build,
            Self::Verify => v1::RoundKind::Verify,
        }
    }
}

impl From<RoundKind> for v1::RoundKind {
    fn from(kind: RoundKind) -> Self {
        kind.to_wire()
    }
}

impl TryFrom<v1::RoundKind> for RoundKind {
    type Error = Malformed;

    fn try_from(kind: v1::RoundKind) -> Result<Self, Malformed> {
        match kind {
            v1::RoundKind::Build => Ok(Self::Build),
            v1::RoundKind::Verify => Ok(Self::Verify),
            v1::RoundKind::Unspecified => Err(Malformed::new("kind", "is not BUILD or VERIFY")),
        }
    }
}

/// Number of `accept_shard` in `troika.log.v1.Command`.
const ACCEPT_SHARD_TAG: u32 = 4;

/// Appends a message that is encoded already, as field `tag`.
pub(super) fn put_message(to: &mut BytesMut, tag: u32, message: &[u8]) {
    encoding::encode_key(tag, WireType::LengthDelimited, to);
    encoding::encode_varint(message.len() as u64, to);
    to.put_slice(message);
}

/// The bytes of field `tag`, if `bytes` hold that field and nothing else.
fn message_of(mut bytes: Bytes, tag: u32) -> Option<Bytes> {
    let (found, WireType::LengthDelimited) = encoding::decode_key(&mut bytes).ok()? else {
        return None;
    };
    let length = encoding::decode_varint(&mut bytes).ok()?;
    (found == tag && length == bytes.len() as u64).then_some(bytes)
}

/// Conversion to and from the log's encoding.
impl Command {
    /// Bytes that the command takes, nearly: what batches and queues are bounded by.
    pub fn approximate_bytes(&self) -> usize {
        const SMALL: usize = 64;
        match self {
            Self::AcceptShard(accept) => SMALL + accept.approximate_bytes(),
            Self::AcquireLocks(acquire) => SMALL + acquire.keys.len() * 56,
            Self::OpenRound(open) => match &open.target {
                OpenTarget::Build { reservations, .. } => SMALL + reservations.len() * 60,
                OpenTarget::Verify { shard_hashes, .. } => 1024 + shard_hashes.len() * 34,
            },
            Self::InitChain(genesis) => {
                let accounts = genesis.accounts.values();
                1024 + accounts
                    .map(|a| 128 + a.code.len() + a.storage.len() * 70)
                    .sum::<usize>()
            }
            Self::ReportDissent(report) => SMALL + report.reason.len(),
            _ => SMALL,
        }
    }

    /// The bytes of the `troika.log.v1.Command`.
    pub(super) fn encode(&self) -> Bytes {
        if let Self::AcceptShard(accept) = self {
            let mut bytes = BytesMut::with_capacity(accept.encoded.len() + 8);
            put_message(&mut bytes, ACCEPT_SHARD_TAG, &accept.encoded);
            return bytes.freeze();
        }
        self.to_wire().encode_to_vec().into()
    }

    /// Reads what [`Command::encode`] wrote. `None` for a kind that this member does not know.
    pub(super) fn decode(bytes: Bytes) -> Result<Option<Self>, Malformed> {
        if let Some(accept) = message_of(bytes.clone(), ACCEPT_SHARD_TAG) {
            return Ok(Some(Self::AcceptShard(AcceptShard::decode(accept)?)));
        }
        let command = log::Command::decode(bytes)
            .map_err(|error| Malformed::new("command", error.to_string()))?;
        command.kind.map(Self::from_wire).transpose()
    }

    fn to_wire(&self) -> log::Command {
        use log::command::Kind;
        let kind = match self {
            Self::InitChain(genesis) => Kind::InitChain(log::InitChain {
                genesis: Some((&**genesis).into()),
            }),
            Self::OpenRound(open) => Kind::OpenRound(open.to_wire()),
            Self::AcquireLocks(acquire) => Kind::AcquireLocks(log::AcquireLocks {
                round: acquire.round,
                shard: acquire.shard,
                keys: acquire.keys.iter().map(|key| (*key).into()).collect(),
            }),
            Self::AcceptShard(accept) => Kind::AcceptShard(accept.to_wire()),
            Self::SealRound { round, waited_ms } => Kind::SealRound(log::SealRound {
                round: *round,
                waited_ms: *waited_ms,
            }),
            Self::VoidRound {
                round,
                reason,
                waited_ms,
            } => Kind::VoidRound(log::VoidRound {
                round: *round,
                reason: v1::VoidReason::from(*reason).into(),
                waited_ms: *waited_ms,
            }),
            Self::Prune { below_round } => Kind::Prune(log::Prune {
                below_round: *below_round,
            }),
            Self::SetFeatureLevel { level } => {
                Kind::SetFeatureLevel(log::SetFeatureLevel { level: *level })
            }
            Self::ReportDissent(report) => Kind::ReportDissent(report.to_wire()),
            Self::RaiseRevision { by } => Kind::RaiseRevision(log::RaiseRevision { by: *by }),
        };
        log::Command { kind: Some(kind) }
    }

    fn from_wire(kind: log::command::Kind) -> Result<Self, Malformed> {
        use log::command::Kind;
        Ok(match kind {
            Kind::InitChain(init) => {
                let genesis = required("genesis", init.genesis.as_ref())?;
                Self::InitChain(Arc::new(Genesis::try_from(genesis)?))
            }
            Kind::OpenRound(open) => Self::OpenRound(Arc::new(OpenRound::from_wire(&open)?)),
            Kind::AcquireLocks(acquire) => Self::AcquireLocks(AcquireLocks {
                round: acquire.round,
                shard: acquire.shard,
                keys: ascending_keys(&acquire.keys)?,
            }),
            Kind::AcceptShard(accept) => {
                Self::AcceptShard(AcceptShard::decode(accept.encode_to_vec().into())?)
            }
            Kind::SealRound(seal) => Self::SealRound {
                round: seal.round,
                waited_ms: seal.waited_ms,
            },
            Kind::VoidRound(void) => Self::VoidRound {
                round: void.round,
                reason: VoidReason::try_from(void.reason())?,
                waited_ms: void.waited_ms,
            },
            Kind::Prune(prune) => Self::Prune {
                below_round: prune.below_round,
            },
            Kind::SetFeatureLevel(set) => Self::SetFeatureLevel { level: set.level },
            Kind::ReportDissent(report) => {
                Self::ReportDissent(Arc::new(ReportDissent::from_wire(&report)?))
            }
            Kind::RaiseRevision(raise) => Self::RaiseRevision { by: raise.by },
        })
    }
}

/// Lock keys that must ascend, as calls and the log carry them.
///
/// # Errors
/// [`Malformed`] naming the first key that is out of order, or the limit.
pub fn ascending_keys(keys: &[v1::LockKey]) -> Result<Arc<[LockKey]>, Malformed> {
    at_most("keys", keys.len(), limits::MAX_ACQUIRE_KEYS)?;
    let mut checked: Vec<LockKey> = Vec::with_capacity(keys.len());
    for (i, key) in keys.iter().enumerate() {
        let key = LockKey::try_from(key).map_err(|e| e.within(format_args!("keys[{i}]")))?;
        if checked.last().is_some_and(|last| *last >= key) {
            return Err(Malformed::new(
                format!("keys[{i}]"),
                "is out of order or a duplicate",
            ));
        }
        checked.push(key);
    }
    Ok(checked.into())
}

impl OpenRound {
    fn to_wire(&self) -> log::OpenRound {
        let mut wire = log::OpenRound {
            opener: self.opener.to_string(),
            clock_ms: self.clock_ms,
            ..log::OpenRound::default()
        };
        match &self.target {
            OpenTarget::Build {
                parent,
                reservations,
            } => {
                wire.set_kind(v1::RoundKind::Build);
                wire.parent = parent.map(hash_bytes).unwrap_or_default();
                let reservations = reservations.iter().map(|(key, shard)| v1::Reservation {
                    key: Some((*key).into()),
                    shard: *shard,
                });
                wire.reservations = reservations.collect();
            }
            OpenTarget::Verify {
                header,
                shard_hashes,
            } => {
                wire.set_kind(v1::RoundKind::Verify);
                wire.header = Some((&**header).into());
                wire.shard_hashes = shard_hashes.iter().map(|h| hash_bytes(*h)).collect();
            }
        }
        wire
    }

    fn from_wire(wire: &log::OpenRound) -> Result<Self, Malformed> {
        check_name("opener", &wire.opener)?;
        let target = match RoundKind::try_from(wire.kind())? {
            RoundKind::Build => {
                at_most(
                    "reservations",
                    wire.reservations.len(),
                    limits::MAX_RESERVATIONS,
                )?;
                let mut reservations = Vec::with_capacity(wire.reservations.len());
                for reservation in &wire.reservations {
                    let key = required("reservations.key", reservation.key.as_ref())?;
                    reservations.push((LockKey::try_from(key)?, reservation.shard));
                }
                OpenTarget::Build {
                    parent: match wire.parent.is_empty() {
                        true => None,
                        false => Some(hash("parent", &wire.parent)?),
                    },
                    reservations,
                }
            }
            RoundKind::Verify => {
                at_most(
                    "shard_hashes",
                    wire.shard_hashes.len(),
                    limits::MAX_SHARDS as usize,
                )?;
                let header = required("header", wire.header.as_ref())?;
                let hashes = wire.shard_hashes.iter().map(|h| hash("shard_hashes", h));
                OpenTarget::Verify {
                    header: Arc::new(Header::try_from(header).map_err(|e| e.within("header"))?),
                    shard_hashes: hashes.collect::<Result<_, _>>()?,
                }
            }
        };
        Ok(Self {
            opener: wire.opener.as_str().into(),
            clock_ms: wire.clock_ms,
            target,
        })
    }
}

impl AcceptShard {
    /// What it takes in memory, nearly: its bytes, which the decoded parts share, and what decoding adds.
    pub(super) fn approximate_bytes(&self) -> usize {
        const DECODED: usize = 3_072;
        let body = &self.proposal.body;
        let slots = body.diff.accounts.values().map(|a| a.slots.len());
        DECODED
            + self.encoded.len()
            + body.transactions.len() * 160
            + body.diff.accounts.len() * 256
            + slots.sum::<usize>() * 72
    }

    fn to_wire(&self) -> log::AcceptShard {
        log::AcceptShard {
            round: self.round,
            shard: self.shard,
            executor: self.executor.to_string(),
            header: Some((&self.proposal.header).into()),
            body: Some((&self.proposal.body).into()),
            hash: hash_bytes(self.proposal.hash),
            transaction_hashes: self.transaction_hashes.concat().into(),
        }
    }

    /// The bytes of the `troika.log.v1.AcceptShard`.
    pub(super) fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// Trusts that header, hashes and body belong together: that was checked before logging, and the entry's checksum
    /// holds since.
    pub(super) fn decode(encoded: Bytes) -> Result<Self, Malformed> {
        let wire = log::AcceptShard::decode(encoded.clone())
            .map_err(|error| Malformed::new("accept_shard", error.to_string()))?;
        check_name("executor", &wire.executor)?;
        let header = required("header", wire.header.as_ref())?;
        let header = ShardHeader::try_from(header).map_err(|e| e.within("header"))?;
        let body = required("body", wire.body.as_ref())?;
        let body = ShardBody::try_from(body).map_err(|e| e.within("body"))?;
        if header.index != wire.shard {
            return Err(Malformed::new("header.index", "is not the shard's"));
        }
        let hash = hash("hash", &wire.hash)?;
        let hashes = wire.transaction_hashes.chunks(32).map(B256::try_from);
        let hashes = hashes.collect::<Result<Arc<[B256]>, _>>();
        let hashes = hashes.ok().filter(|h| h.len() == body.transactions.len());
        let transaction_hashes = hashes.ok_or_else(|| {
            Malformed::new("transaction_hashes", "are not one for each transaction")
        })?;
        Ok(Self {
            round: wire.round,
            shard: wire.shard,
            executor: wire.executor.as_str().into(),
            proposal: Arc::new(Shard { header, hash, body }),
            transaction_hashes,
            encoded,
        })
    }
}

impl ReportDissent {
    fn to_wire(&self) -> log::ReportDissent {
        log::ReportDissent {
            round: self.round,
            shard: self.shard,
            executor: self.executor.to_string(),
            computed: self.computed.map(hash_bytes).unwrap_or_default(),
            reason: self.reason.clone(),
            owners: self.owners,
        }
    }

    fn from_wire(wire: &log::ReportDissent) -> Result<Self, Malformed> {
        check_name("executor", &wire.executor)?;
        at_most("reason", wire.reason.len(), limits::MAX_REASON_BYTES)?;
        Ok(Self {
            round: wire.round,
            shard: wire.shard,
            executor: wire.executor.as_str().into(),
            computed: match wire.computed.is_empty() {
                true => None,
                false => Some(hash("computed", &wire.computed)?),
            },
            reason: wire.reason.clone(),
            owners: wire.owners.max(1),
        })
    }
}
