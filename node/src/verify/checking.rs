//! One block after the other through VERIFY rounds of a store.

use super::assemble::{Assembler, ForeignBlock};
use super::source::News;
use crate::executor::ExecutorHandle;
use crate::store_client::{
    Event, EventId, EventKind, Opened, RefusalCode, Round, RoundStatus, ShardFilter, StoreClient,
    Watch,
};
use anyhow::{Context, bail};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use troika_proto::wire::evidence_text;
use troika_proto::{B256, v1};

/// Longest that a round may take to end: executors give it up before.
const ROUND_DEADLINE: Duration = Duration::from_secs(60);
/// Without news a round is asked for this often.
const LOOK: Duration = Duration::from_secs(1);

/// What became of a block.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// All shards are good. `head`: it extends this store's chain; else it stands beside it.
    Imported {
        /// The round.
        round: u64,
        /// Whether it is the head now.
        head: bool,
    },
    /// It was imported before.
    Known,
    /// It is invalid, for good.
    Invalid {
        /// The round that found it; `None`: an earlier one.
        round: Option<u64>,
        /// What shows it, in words.
        because: String,
    },
    /// It could not be checked this time.
    Unchecked {
        /// The round.
        round: u64,
        /// Why.
        because: String,
    },
    /// Its parent is not held (yet).
    NoParent,
}

/// A block that cannot be checked is tried this often.
const ATTEMPTS: u32 = 3;
/// Most blocks that wait for their parents.
const MAX_ORPHANS: usize = 64;

/// Items of a source, put together and checked in the order in which blocks stand upon each other.
pub struct Stream<'a> {
    assembler: Assembler,
    checking: Checking<'a>,
    /// By parent.
    orphans: BTreeMap<B256, ForeignBlock>,
    ready: VecDeque<ForeignBlock>,
}

impl<'a> Stream<'a> {
    /// Of what `assembler` puts together.
    pub fn new(assembler: Assembler, checking: Checking<'a>) -> Self {
        Self {
            assembler,
            checking,
            orphans: BTreeMap::new(),
            ready: VecDeque::new(),
        }
    }

    /// Takes what a source tells; [`Self::next`] then has what is whole by it.
    ///
    /// # Errors
    /// A source that sends what cannot be put together.
    pub fn take(&mut self, news: News) -> anyhow::Result<()> {
        self.ready.extend(match news {
            News::Item(feed, item) => self.assembler.take(feed, *item)?,
            News::Away(feed) => self.assembler.away(feed)?,
        });
        Ok(())
    }

    /// Checks the next block, if one is whole and its parent is there.
    ///
    /// # Errors
    /// A store without an answer, a block that cannot be checked, too many without a parent.
    pub async fn next(&mut self) -> anyhow::Result<Option<(ForeignBlock, Verdict)>> {
        while let Some(block) = self.ready.pop_front() {
            let verdict = self.checked(&block).await?;
            if verdict == Verdict::NoParent {
                self.keep(block)?;
                continue;
            }
            // What stands on it comes next.
            if let Some(child) = self.orphans.remove(&block.hash) {
                self.ready.push_front(child);
            }
            return Ok(Some((block, verdict)));
        }
        Ok(None)
    }

    /// A block whose parent has never come, if there is one.
    pub fn orphan(&self) -> Option<&ForeignBlock> {
        self.orphans.values().next()
    }

    /// Keeps a block until its parent is there. (Of two on one parent the later: the other comes again with a new run.)
    fn keep(&mut self, block: ForeignBlock) -> anyhow::Result<()> {
        if self.orphans.len() >= MAX_ORPHANS {
            bail!(
                "more than {MAX_ORPHANS} blocks wait for parents: the source begins at block {}, after what this store holds",
                block.header.number
            );
        }
        self.orphans.insert(block.header.parent_hash, block);
        Ok(())
    }

    async fn checked(&mut self, block: &ForeignBlock) -> anyhow::Result<Verdict> {
        let mut attempt = 1;
        loop {
            let verdict = self.checking.check(block).await?;
            match &verdict {
                Verdict::Unchecked { because, .. } if attempt >= ATTEMPTS => bail!(
                    "block {} ({}) could not be checked in {ATTEMPTS} attempts: {because}",
                    block.header.number,
                    block.hash
                ),
                Verdict::Unchecked { .. } => attempt += 1,
                _ => return Ok(verdict),
            }
        }
    }
}

/// Opens VERIFY rounds and waits for their ends.
pub struct Checking<'a> {
    store: &'a StoreClient,
    executors: &'a [ExecutorHandle],
    watch: Watch,
    opener: String,
}

impl<'a> Checking<'a> {
    /// With these executors to hand transactions to, beside those that get them elsewhere.
    ///
    /// # Errors
    /// A store without an answer.
    pub async fn new(
        store: &'a StoreClient,
        executors: &'a [ExecutorHandle],
        opener: &str,
    ) -> anyhow::Result<Self> {
        let head = store.head().await?;
        let after = EventId::end_of(head.revision);
        Ok(Self {
            store,
            executors,
            watch: store.watch(Some(after), ShardFilter::None),
            opener: opener.to_owned(),
        })
    }

    /// Checks a block.
    ///
    /// # Errors
    /// A store without an answer, or a round that does not end.
    pub async fn check(&mut self, block: &ForeignBlock) -> anyhow::Result<Verdict> {
        for executor in self.executors {
            for body in block.bodies.values() {
                executor.offer(body.clone());
            }
        }
        let opened = self
            .store
            .open_verify(&self.opener, &block.header, &block.shard_hashes)
            .await?;
        let round = match opened {
            Opened::Round(round, _) => *round,
            Opened::Refused(refusal) => match refusal.code {
                RefusalCode::KnownBlock => return Ok(Verdict::Known),
                RefusalCode::WrongParent => return Ok(Verdict::NoParent),
                RefusalCode::Barred => {
                    return Ok(Verdict::Invalid {
                        round: None,
                        because: refusal.message,
                    });
                }
                _ => bail!(
                    "the store opens no round for block {}: {refusal}",
                    block.hash
                ),
            },
        };
        let number = round.number;
        match verdict_of(&round) {
            Some(verdict) => Ok(verdict),
            None => timeout(ROUND_DEADLINE, self.end_of(number))
                .await
                .with_context(|| format!("round {number} does not end"))?,
        }
    }

    async fn end_of(&mut self, number: u64) -> anyhow::Result<Verdict> {
        let mut looked = Instant::now();
        loop {
            let batch = timeout(LOOK, self.watch.next()).await;
            let events = match batch {
                Ok(Ok(batch)) => batch.events,
                // Whatever the watch could not tell, the round itself does.
                Ok(Err(_)) | Err(_) => Vec::new(),
            };
            if let Some(verdict) = events.into_iter().find_map(|event| ended(event, number)) {
                return Ok(verdict);
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                let round = self.store.round(number, false).await?;
                let round = round.with_context(|| format!("round {number} is gone"))?;
                if let Some(verdict) = verdict_of(&round) {
                    return Ok(verdict);
                }
            }
        }
    }
}

fn ended(event: Event, number: u64) -> Option<Verdict> {
    match event.kind {
        EventKind::RoundSealed { round, head, .. } if round == number => {
            Some(Verdict::Imported { round, head })
        }
        EventKind::RoundVoided {
            round,
            reason,
            evidence,
        } if round == number => Some(void(round, reason, evidence.as_deref())),
        _ => None,
    }
}

/// `None` while it is open.
fn verdict_of(round: &Round) -> Option<Verdict> {
    match round.status {
        RoundStatus::Open => None,
        RoundStatus::Sealed => Some(Verdict::Imported {
            round: round.number,
            head: true,
        }),
        RoundStatus::Void(reason) => Some(void(round.number, reason, round.evidence.as_ref())),
    }
}

fn void(round: u64, reason: v1::VoidReason, evidence: Option<&v1::Evidence>) -> Verdict {
    match evidence {
        Some(evidence) => Verdict::Invalid {
            round: Some(round),
            because: evidence_text(evidence),
        },
        None => Verdict::Unchecked {
            round,
            because: reason.as_str_name().to_owned(),
        },
    }
}
