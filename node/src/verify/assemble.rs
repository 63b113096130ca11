//! Puts what feeds send together again: blocks with the transactions of each of their shards. Pure.
//!
//! Nothing is believed: transactions that a shard's hash does not bind, and lists of shard hashes that a header does not
//! commit to, count as not sent, so that no feed can make another's good block look wrong. Nothing more is checked: a block
//! that is wrong is to reach the store, which finds out why.

use crate::executor::Body;
use std::collections::{BTreeMap, BTreeSet};
use troika_proto::wire::{Malformed, hash, required};
use troika_proto::{B256, Bytes, Header, ShardHeader, shards_root, v1};
use v1::feed_item::Item;

/// Most bytes of transactions that wait for the rest of their block.
const MAX_WAITING_BYTES: usize = 512 * 1024 * 1024;
/// Most rounds that wait for the rest of their block.
const MAX_WAITING_ROUNDS: usize = 1_024;
/// Most rounds ahead of the slowest feed that are remembered as handed out.
const MAX_DONE_ROUNDS: usize = 65_536;

/// Why blocks cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It cannot be read.
    #[error("round {round}: {problem}")]
    Malformed {
        /// Its round.
        round: u64,
        /// What is wrong with it.
        problem: Malformed,
    },
    /// It says that it has sent everything, and has not.
    #[error("round {round}: the feed is past it and has not sent shard {shard} of block {block}")]
    Incomplete {
        /// The round.
        round: u64,
        /// The block.
        block: B256,
        /// The first shard that is missing.
        shard: u32,
    },
    /// More is begun than is ever ended.
    #[error(
        "more than {MAX_WAITING_BYTES} bytes or {MAX_WAITING_ROUNDS} rounds wait for the rest of their blocks"
    )]
    TooMuch,
}

/// A block that somebody else made.
#[derive(Clone, Debug, PartialEq)]
pub struct ForeignBlock {
    /// Its maker's round.
    pub round: u64,
    /// Its hash, computed from the header.
    pub hash: B256,
    /// Its header.
    pub header: Header,
    /// The list that the header commits to.
    pub shard_hashes: Vec<B256>,
    /// The transactions of each shard that was asked for; none for an empty one.
    pub bodies: BTreeMap<u32, Body>,
}

/// A round of which not everything has come.
#[derive(Debug, Default)]
struct Waiting {
    /// By index and hash: of two feeds one may be wrong, and which the block tells.
    bodies: BTreeMap<(u32, B256), Body>,
    block: Option<(Header, Vec<B256>)>,
}

/// Puts blocks together from any number of feeds of one cluster.
#[derive(Debug)]
pub struct Assembler {
    /// By feed: rounds up to this one have come whole. `None` while it is away.
    complete: Vec<Option<u64>>,
    /// First and last shard whose transactions are wanted.
    shards: (u32, u32),
    /// All rounds below it are dealt with.
    next: u64,
    /// Rounds from there on whose blocks were handed out: a slower feed still tells of them.
    done: BTreeSet<u64>,
    rounds: BTreeMap<u64, Waiting>,
    bytes: usize,
}

impl ForeignBlock {
    /// Transactions that it came with.
    pub fn transactions(&self) -> usize {
        self.bodies
            .values()
            .map(|body| body.transactions().len())
            .sum()
    }
}

impl Assembler {
    /// For so many feeds, from a round on; of these shards (first and last) the transactions are wanted.
    pub fn new(feeds: usize, from_round: u64, shards: (u32, u32)) -> Self {
        Self {
            shards,
            complete: vec![Some(0); feeds.max(1)],
            next: from_round,
            done: BTreeSet::new(),
            rounds: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// All rounds below it are dealt with: where to subscribe from.
    pub fn next_round(&self) -> u64 {
        self.next
    }

    /// Takes an item of a feed; answers the blocks that are whole by it, in the order of their rounds.
    ///
    /// # Errors
    /// [`Problem`].
    pub fn take(&mut self, feed: usize, item: v1::FeedItem) -> Result<Vec<ForeignBlock>, Problem> {
        let round = item.round;
        let malformed = |problem| Problem::Malformed { round, problem };
        match required("item", item.item).map_err(malformed)? {
            Item::CaughtUp(up_to) => {
                if let Some(complete) = self.complete.get_mut(feed) {
                    *complete = (*complete).max(Some(up_to));
                }
            }
            // It was dealt with: before a reconnect, or from another feed.
            _ if round < self.next || self.done.contains(&round) => return Ok(Vec::new()),
            Item::Shard(shard) => {
                let index = shard.index;
                match bound(shard).map_err(malformed)? {
                    Some(body) => {
                        let size = body.size();
                        let bodies = &mut self.rounds.entry(round).or_default().bodies;
                        if bodies.insert((index, body.shard_hash()), body).is_none() {
                            self.bytes += size;
                        }
                    }
                    None => tracing::warn!(
                        feed,
                        round,
                        index,
                        "a feed sends transactions that the shard's header does not commit to"
                    ),
                }
            }
            Item::Block(block) => {
                let (header, hashes) = parse(&block).map_err(malformed)?;
                if shards_root(&hashes) == header.shards_root {
                    self.rounds.entry(round).or_default().block = Some((header, hashes));
                } else {
                    tracing::warn!(
                        feed,
                        round,
                        "a feed sends a list of shards that the block's header does not commit to"
                    );
                }
            }
            Item::Void(_) => self.forget(round),
        }
        if self.bytes > MAX_WAITING_BYTES || self.rounds.len() > MAX_WAITING_ROUNDS {
            return Err(Problem::TooMuch);
        }
        self.whole()
    }

    /// A feed is away, and nobody waits for it until it has caught up again. Answers as [`Self::take`].
    ///
    /// # Errors
    /// [`Problem`].
    pub fn away(&mut self, feed: usize) -> Result<Vec<ForeignBlock>, Problem> {
        if let Some(complete) = self.complete.get_mut(feed) {
            *complete = None;
        }
        self.whole()
    }

    /// The first wanted shard that is not empty and has not come.
    fn missing(&self, waiting: &Waiting, hashes: &[B256]) -> Option<u32> {
        let (first, last) = self.shards;
        let mut wanted = (first..=last).zip(hashes.iter().skip(first as usize));
        let absent = wanted.find(|(index, hash)| {
            !waiting.bodies.contains_key(&(*index, **hash))
                && ShardHeader::empty(*index).hash() != **hash
        });
        absent.map(|(index, _)| index)
    }

    fn forget(&mut self, round: u64) {
        if let Some(gone) = self.rounds.remove(&round) {
            self.bytes -= size(gone.bodies.values());
        }
    }

    /// Takes out what is whole.
    fn whole(&mut self) -> Result<Vec<ForeignBlock>, Problem> {
        let present = self.complete.iter().flatten();
        let complete = present.copied().min().unwrap_or_default();
        let mut blocks = Vec::new();
        for (round, waiting) in &self.rounds {
            let Some((header, hashes)) = &waiting.block else {
                continue;
            };
            match self.missing(waiting, hashes) {
                None => blocks.push((*round, header.clone(), hashes.clone())),
                Some(shard) if *round <= complete => {
                    return Err(Problem::Incomplete {
                        round: *round,
                        block: header.hash(),
                        shard,
                    });
                }
                Some(_) => {}
            }
        }
        let whole = blocks.into_iter().map(|(round, header, shard_hashes)| {
            self.done.insert(round);
            let mut bodies = self.rounds.remove(&round).unwrap_or_default().bodies;
            self.bytes -= size(bodies.values());
            let last = self
                .shards
                .1
                .min(shard_hashes.len().saturating_sub(1) as u32);
            let mut body = |index: u32| {
                let hash = shard_hashes.get(index as usize);
                let sent = hash.and_then(|hash| bodies.remove(&(index, *hash)));
                (index, sent.unwrap_or_else(|| Body::empty(index)))
            };
            ForeignBlock {
                round,
                hash: header.hash(),
                header,
                bodies: (self.shards.0..=last).map(&mut body).collect(),
                shard_hashes,
            }
        });
        let whole = whole.collect();
        // What waits for nothing of a round that is past was void, or never sealed.
        self.next = self.next.max(complete.saturating_add(1));
        self.done = self.done.split_off(&self.next);
        while self.done.len() > MAX_DONE_ROUNDS {
            self.done.pop_first();
        }
        while let Some((round, _)) = self.rounds.first_key_value()
            && *round < self.next
        {
            let round = *round;
            self.forget(round);
        }
        Ok(whole)
    }
}

fn size<'a>(bodies: impl Iterator<Item = &'a Body>) -> usize {
    bodies.map(Body::size).sum()
}

/// The shard's transactions; `None` where its header commits to others.
fn bound(shard: v1::FeedShard) -> Result<Option<Body>, Malformed> {
    let header = ShardHeader::try_from(&required("shard.header", shard.header)?)?;
    let body = required("shard.body", shard.body)?;
    let transactions = body.transactions.into_iter().map(Bytes::from).collect();
    Ok(Body::bound(&header, transactions))
}

fn parse(block: &v1::FeedBlock) -> Result<(Header, Vec<B256>), Malformed> {
    let header = Header::try_from(required("block.header", block.header.as_ref())?)?;
    let hashes = block.shard_hashes.iter();
    let hashes = hashes.map(|h| hash("block.shard_hashes", h));
    Ok((header, hashes.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use troika_proto::wire::hash_bytes;
    use troika_proto::{LockRule, ShardBody, U256};

    /// The header of a shard 0 with one transaction.
    fn header(transaction: u8) -> ShardHeader {
        let body = ShardBody {
            transactions: vec![vec![transaction].into()],
            ..ShardBody::default()
        };
        ShardHeader::of(0, &body, U256::ZERO, LockRule::Commuting)
    }

    fn sent(round: u64, header: &ShardHeader, transaction: u8) -> v1::FeedItem {
        let body = v1::ShardBody {
            transactions: vec![vec![transaction].into()],
            ..v1::ShardBody::default()
        };
        let shard = v1::FeedShard {
            index: header.index,
            header: Some(header.into()),
            body: Some(body),
            ..v1::FeedShard::default()
        };
        item(round, Item::Shard(shard))
    }

    fn shard(round: u64, transaction: u8) -> v1::FeedItem {
        sent(round, &header(transaction), transaction)
    }

    fn item(round: u64, item: Item) -> v1::FeedItem {
        v1::FeedItem {
            round,
            item: Some(item),
        }
    }

    /// A block whose shard 0 has this transaction, and whose shard 1 is empty.
    fn block(round: u64, transaction: u8) -> v1::FeedItem {
        let hashes = [header(transaction).hash(), ShardHeader::empty(1).hash()];
        let header = Header {
            number: round,
            shards_root: shards_root(&hashes),
            ..Header::default()
        };
        let block = v1::FeedBlock {
            header: Some((&header).into()),
            shard_hashes: hashes.map(hash_bytes).to_vec(),
            ..v1::FeedBlock::default()
        };
        item(round, Item::Block(block))
    }

    #[test]
    fn a_block_is_whole_once_header_and_all_shards_that_are_not_empty_have_come() {
        let mut assembler = Assembler::new(1, 1, (0, 1));
        assert!(assembler.take(0, shard(1, 5)).unwrap().is_empty());
        let whole = assembler.take(0, block(1, 5)).unwrap();
        assert_eq!(whole.len(), 1);
        let five = Body::bound(&header(5), vec![vec![5].into()]).unwrap();
        let bodies = BTreeMap::from([(0, five), (1, Body::empty(1))]);
        assert_eq!(whole[0].bodies, bodies);
        assert_eq!(whole[0].hash, whole[0].header.hash());
        // The other order, and a repeat after a reconnect.
        assert!(assembler.take(0, block(2, 6)).unwrap().is_empty());
        assert_eq!(assembler.take(0, shard(2, 6)).unwrap().len(), 1);
        assembler.take(0, item(2, Item::CaughtUp(2))).unwrap();
        assert_eq!(assembler.next_round(), 3);
        assert!(assembler.take(0, block(2, 6)).unwrap().is_empty());
        assert_eq!((assembler.bytes, assembler.rounds.len()), (0, 0));
    }

    #[test]
    fn feeds_of_parts_make_the_whole_and_one_that_withholds_is_named() {
        let mut assembler = Assembler::new(2, 1, (0, 1));
        assembler.take(1, block(1, 5)).unwrap();
        // The other feed has the missing shard, and is not past the round.
        assembler.take(1, item(1, Item::CaughtUp(1))).unwrap();
        let problem = assembler.take(0, item(1, Item::CaughtUp(1))).unwrap_err();
        assert!(matches!(
            problem,
            Problem::Incomplete {
                round: 1,
                shard: 0,
                ..
            }
        ));
    }

    #[test]
    fn what_is_not_bound_to_the_block_counts_as_not_sent_and_another_feed_makes_up_for_it() {
        let mut assembler = Assembler::new(2, 1, (0, 1));
        // Another transaction under the good header, and one with a header of its own.
        assert!(
            assembler
                .take(0, sent(1, &header(5), 6))
                .unwrap()
                .is_empty()
        );
        assert!(assembler.take(0, shard(1, 7)).unwrap().is_empty());
        // The good header with another list.
        let mut other = block(1, 5);
        if let Some(Item::Block(block)) = &mut other.item {
            block.shard_hashes.pop();
        }
        assert!(assembler.take(0, other).unwrap().is_empty());
        assert!(assembler.take(0, block(1, 5)).unwrap().is_empty());
        let whole = assembler.take(1, shard(1, 5)).unwrap();
        assert_eq!(whole[0].bodies[&0].shard_hash(), header(5).hash());
        assert_eq!(
            whole[0].bodies[&0].transactions(),
            [Bytes::from_static(&[5])]
        );
        assert_eq!((assembler.bytes, assembler.rounds.len()), (0, 0));
        // Alone it is the one that withholds.
        let mut assembler = Assembler::new(1, 1, (0, 1));
        assembler.take(0, sent(1, &header(5), 6)).unwrap();
        assembler.take(0, block(1, 5)).unwrap();
        assert!(assembler.take(0, item(1, Item::CaughtUp(1))).is_err());
    }

    #[test]
    fn a_feed_that_is_away_is_not_waited_for_until_it_has_caught_up_again() {
        let mut assembler = Assembler::new(2, 1, (0, 1));
        assembler.take(1, shard(3, 5)).unwrap();
        assembler.take(1, item(3, Item::CaughtUp(3))).unwrap();
        // The round was never sealed: only the other feed could still say otherwise.
        assert_eq!((assembler.next_round(), assembler.rounds.len()), (1, 1));
        assembler.away(0).unwrap();
        assert_eq!((assembler.next_round(), assembler.rounds.len()), (4, 0));
        assembler.take(0, item(2, Item::CaughtUp(2))).unwrap();
        assembler.take(1, item(9, Item::CaughtUp(9))).unwrap();
        assert_eq!(assembler.next_round(), 4);
    }

    #[test]
    fn what_a_slower_feed_tells_of_a_block_that_was_whole_before_is_passed_over() {
        let mut assembler = Assembler::new(2, 1, (0, 1));
        // One shard from each feed, the block from the quicker one.
        assert!(assembler.take(1, shard(1, 5)).unwrap().is_empty());
        assert_eq!(assembler.take(0, block(1, 5)).unwrap().len(), 1);
        assembler.take(0, item(1, Item::CaughtUp(1))).unwrap();
        // The slower one says what is left to it, which is not all of the block.
        assert!(assembler.take(1, block(1, 5)).unwrap().is_empty());
        assembler.take(1, item(1, Item::CaughtUp(1))).unwrap();
        assert_eq!(assembler.next_round(), 2);
        assert!(assembler.done.is_empty(), "complete rounds take no memory");
    }

    #[test]
    fn of_a_range_only_its_shards_are_waited_for() {
        let mut assembler = Assembler::new(1, 1, (1, 1));
        let whole = assembler.take(0, block(1, 5)).unwrap();
        assert_eq!(whole[0].bodies, BTreeMap::from([(1, Body::empty(1))]));
    }

    #[test]
    fn a_void_round_leaves_nothing_behind() {
        let mut assembler = Assembler::new(1, 1, (0, 1));
        assembler.take(0, shard(1, 5)).unwrap();
        let void = Item::Void(v1::VoidReason::Stale.into());
        assert!(assembler.take(0, item(1, void)).unwrap().is_empty());
        assert_eq!((assembler.bytes, assembler.rounds.len()), (0, 0));
    }
}
