//! Puts what feeds send together again: blocks with the transactions of each of their shards. Pure.
//!
//! Nothing is believed and little is checked: a block that is wrong is to reach the store, which finds out why. Only what
//! cannot be put together at all is a problem of the feed's.

use std::collections::BTreeMap;
use troika_proto::wire::{Malformed, hash, required};
use troika_proto::{B256, Bytes, Header, Shard, v1};
use v1::feed_item::Item;

/// Most bytes of transactions that wait for the rest of their block.
const MAX_WAITING_BYTES: usize = 512 * 1024 * 1024;
/// Most rounds that wait for the rest of their block.
const MAX_WAITING_ROUNDS: usize = 1_024;

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
    /// The list that the header commits to, or should.
    pub shard_hashes: Vec<B256>,
    /// The transactions of each shard that was asked for; none for an empty one.
    pub bodies: BTreeMap<u32, Vec<Bytes>>,
}

/// A round of which not everything has come.
#[derive(Debug, Default)]
struct Waiting {
    bodies: BTreeMap<u32, Vec<Bytes>>,
    block: Option<(Header, Vec<B256>)>,
}

/// Puts blocks together from any number of feeds of one cluster.
#[derive(Debug)]
pub struct Assembler {
    /// By feed: rounds up to this one have come whole.
    complete: Vec<u64>,
    /// First and last shard whose transactions are wanted.
    shards: (u32, u32),
    /// All rounds below it are dealt with.
    next: u64,
    rounds: BTreeMap<u64, Waiting>,
    bytes: usize,
}

impl ForeignBlock {
    /// Transactions that it came with.
    pub fn transactions(&self) -> usize {
        self.bodies.values().map(Vec::len).sum()
    }
}

impl Assembler {
    /// For so many feeds, from a round on; of these shards (first and last) the transactions are wanted.
    pub fn new(feeds: usize, from_round: u64, shards: (u32, u32)) -> Self {
        Self {
            shards,
            complete: vec![0; feeds.max(1)],
            next: from_round,
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
                    *complete = (*complete).max(up_to);
                }
            }
            // It was dealt with before a reconnect.
            _ if round < self.next => return Ok(Vec::new()),
            Item::Shard(shard) => {
                let body = required("shard.body", shard.body).map_err(malformed)?;
                let bytes = body
                    .transactions
                    .iter()
                    .map(|t| t.len() + 64)
                    .sum::<usize>();
                let bodies = &mut self.rounds.entry(round).or_default().bodies;
                let transactions = body.transactions.into_iter().map(Bytes::from).collect();
                if bodies.insert(shard.index, transactions).is_none() {
                    self.bytes += bytes;
                }
            }
            Item::Block(block) => {
                let block = parse(&block).map_err(malformed)?;
                self.rounds.entry(round).or_default().block = Some(block);
            }
            Item::Void(_) => self.forget(round),
        }
        if self.bytes > MAX_WAITING_BYTES || self.rounds.len() > MAX_WAITING_ROUNDS {
            return Err(Problem::TooMuch);
        }
        self.whole()
    }

    /// The first wanted shard that is not empty and has not come.
    fn missing(&self, waiting: &Waiting, hashes: &[B256]) -> Option<u32> {
        let (first, last) = self.shards;
        let mut wanted = (first..=last).zip(hashes.iter().skip(first as usize));
        let absent = wanted.find(|(index, hash)| {
            !waiting.bodies.contains_key(index) && Shard::empty(*index).hash != **hash
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
        let complete = self.complete.iter().copied().min().unwrap_or_default();
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
            let mut bodies = self.rounds.remove(&round).unwrap_or_default().bodies;
            self.bytes -= size(bodies.values());
            let last = self
                .shards
                .1
                .min(shard_hashes.len().saturating_sub(1) as u32);
            let mut body = |index| (index, bodies.remove(&index).unwrap_or_default());
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
        self.next = self.next.max(complete + 1);
        while let Some((round, _)) = self.rounds.first_key_value()
            && *round < self.next
        {
            let round = *round;
            self.forget(round);
        }
        Ok(whole)
    }
}

fn size<'a>(bodies: impl Iterator<Item = &'a Vec<Bytes>>) -> usize {
    bodies.flatten().map(|t| t.len() + 64).sum()
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

    fn shard(round: u64, index: u32, transaction: u8) -> v1::FeedItem {
        let body = v1::ShardBody {
            transactions: vec![vec![transaction].into()],
            ..v1::ShardBody::default()
        };
        let shard = v1::FeedShard {
            index,
            body: Some(body),
            ..v1::FeedShard::default()
        };
        item(round, Item::Shard(shard))
    }

    fn item(round: u64, item: Item) -> v1::FeedItem {
        v1::FeedItem {
            round,
            item: Some(item),
        }
    }

    /// A block whose shard 1 is empty.
    fn block(round: u64) -> v1::FeedItem {
        let header = Header {
            number: round,
            ..Header::default()
        };
        let hashes = [B256::repeat_byte(7), Shard::empty(1).hash];
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
        assert!(assembler.take(0, shard(1, 0, 5)).unwrap().is_empty());
        let whole = assembler.take(0, block(1)).unwrap();
        assert_eq!(whole.len(), 1);
        let bodies = BTreeMap::from([(0, vec![Bytes::from(vec![5])]), (1, vec![])]);
        assert_eq!(whole[0].bodies, bodies);
        assert_eq!(whole[0].hash, whole[0].header.hash());
        // The other order, and a repeat after a reconnect.
        assert!(assembler.take(0, block(2)).unwrap().is_empty());
        assert_eq!(assembler.take(0, shard(2, 0, 6)).unwrap().len(), 1);
        assembler.take(0, item(2, Item::CaughtUp(2))).unwrap();
        assert_eq!(assembler.next_round(), 3);
        assert!(assembler.take(0, block(2)).unwrap().is_empty());
        assert_eq!((assembler.bytes, assembler.rounds.len()), (0, 0));
    }

    #[test]
    fn feeds_of_parts_make_the_whole_and_one_that_withholds_is_named() {
        let mut assembler = Assembler::new(2, 1, (0, 1));
        assembler.take(1, block(1)).unwrap();
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
    fn of_a_range_only_its_shards_are_waited_for() {
        let mut assembler = Assembler::new(1, 1, (1, 1));
        let whole = assembler.take(0, block(1)).unwrap();
        assert_eq!(whole[0].bodies, BTreeMap::from([(1, vec![])]));
    }

    #[test]
    fn a_void_round_leaves_nothing_behind() {
        let mut assembler = Assembler::new(1, 1, (0, 1));
        assembler.take(0, shard(1, 0, 5)).unwrap();
        let void = Item::Void(v1::VoidReason::Stale.into());
        assert!(assembler.take(0, item(1, void)).unwrap().is_empty());
        assert_eq!((assembler.bytes, assembler.rounds.len()), (0, 0));
    }
}
