//! Checks what a feed sends against itself. Pure.

use alloy_primitives::B256;
use std::collections::{BTreeMap, BTreeSet};
use troika_proto::{BlockTotals, Header, LockRule, Shard, ShardHeader, shards_root, v1, wire};

/// Something that a feed must never send.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It cannot be read at all.
    #[error("round {round}: {problem}")]
    Malformed {
        /// Its round.
        round: u64,
        /// What was wrong with it.
        problem: String,
    },
    /// A body that its header does not commit to, or a header that its hash does not.
    #[error("round {round}, shard {shard}: {problem}")]
    Shard {
        /// Its round.
        round: u64,
        /// Its index.
        shard: u32,
        /// What differs.
        problem: String,
    },
    /// A block header that contradicts its hash or its shards.
    #[error("round {round}, block {number}: {problem}")]
    Block {
        /// Its round.
        round: u64,
        /// The block's number.
        number: u64,
        /// What differs.
        problem: String,
    },
}

/// A checked item, to be printed.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // names as in `proto/troika/v1/feed.proto`
pub enum Checked {
    Shard {
        round: u64,
        header: Box<ShardHeader>,
        hash: B256,
        executor: String,
        revision: u64,
    },
    Block {
        round: u64,
        hash: B256,
        header: Box<Header>,
        /// Shards of this block that were received and checked.
        shards: usize,
        head: bool,
    },
    Void {
        round: u64,
        reason: v1::VoidReason,
    },
}

/// A round of which not everything has been sent yet.
#[derive(Debug, Default)]
struct Partial {
    shards: BTreeMap<u32, (B256, ShardHeader)>,
    block: Option<(u64, Vec<B256>)>,
    void: bool,
    /// What the present connection has told of it.
    told: Told,
}

/// What of a round came over one connection: nothing may come twice.
#[derive(Debug, Default)]
struct Told {
    shards: BTreeSet<u32>,
    /// Its block, or that it is void.
    end: bool,
}

/// Follows one feed over any number of connections: an item that comes again after a reconnect is passed over once it
/// is seen to be the same. On one connection nothing comes twice.
#[derive(Debug)]
pub struct Checker {
    rule: LockRule,
    shards: u32,
    /// All rounds below this one are complete.
    next_round: u64,
    rounds: BTreeMap<u64, Partial>,
}

impl Checker {
    /// A checker for a chain with this lock rule and number of shards, that starts at `from_round`.
    pub fn new(rule: LockRule, shards: u32, from_round: u64) -> Self {
        Self {
            rule,
            shards,
            next_round: from_round,
            rounds: BTreeMap::new(),
        }
    }

    /// The first round that is not known to be complete: where to subscribe from.
    pub fn next_round(&self) -> u64 {
        self.next_round
    }

    /// A new connection begins, subscribed from [`Self::next_round`] on.
    pub fn connected(&mut self) {
        for round in self.rounds.values_mut() {
            round.told = Told::default();
        }
    }

    /// Checks one item. `None`: nothing to print.
    ///
    /// # Errors
    /// [`Fault`] if the feed sent what it must never send.
    pub fn accept(&mut self, item: &v1::FeedItem) -> Result<Option<Checked>, Fault> {
        let round = item.round;
        let Some(kind) = &item.item else {
            return Err(Fault::Malformed {
                round,
                problem: "an item without content".into(),
            });
        };
        match kind {
            v1::feed_item::Item::CaughtUp(complete) => {
                self.next_round = self.next_round.max(complete + 1);
                self.rounds = self.rounds.split_off(&self.next_round);
                Ok(None)
            }
            _ if round < self.next_round => Err(Fault::Malformed {
                round,
                problem: format!(
                    "comes although rounds below {} are complete or were not asked for",
                    self.next_round
                ),
            }),
            v1::feed_item::Item::Shard(shard) => self.shard(round, shard),
            v1::feed_item::Item::Block(block) => self.block(round, block),
            v1::feed_item::Item::Void(reason) => {
                let known = self.rounds.entry(round).or_default();
                known.end(round)?;
                let first = !std::mem::replace(&mut known.void, true);
                let reason = v1::VoidReason::try_from(*reason).unwrap_or_default();
                Ok(first.then_some(Checked::Void { round, reason }))
            }
        }
    }

    fn shard(&mut self, round: u64, sent: &v1::FeedShard) -> Result<Option<Checked>, Fault> {
        let index = sent.index;
        let fault = |problem: String| Fault::Shard {
            round,
            shard: index,
            problem,
        };
        let winner = sent
            .winner
            .as_ref()
            .ok_or_else(|| fault("winner: is missing".into()))?;
        let hash = wire::hash("winner.shard_hash", &winner.shard_hash)
            .map_err(|m| fault(m.to_string()))?;
        let shard = parse_shard(sent, self.rule).map_err(fault)?;
        if shard.header.index != index || index >= self.shards {
            return Err(fault(format!(
                "its header says index {}",
                shard.header.index
            )));
        }
        if shard.hash != hash {
            return Err(fault(format!(
                "hashes to {}, the winner is {hash}",
                shard.hash
            )));
        }
        let known = self.rounds.entry(round).or_default();
        let again = !known.told.shards.insert(index);
        if let Some((before, _)) = known.shards.get(&index) {
            if *before != hash {
                return Err(fault(format!("was {before} before and is {hash} now")));
            }
            if again {
                return Err(fault("came twice on one connection".into()));
            }
            return Ok(None);
        }
        if let Some((_, hashes)) = &known.block
            && hashes.get(index as usize) != Some(&hash)
        {
            return Err(fault(format!("{hash} is not in the block that was sent")));
        }
        known.shards.insert(index, (hash, shard.header.clone()));
        Ok(Some(Checked::Shard {
            round,
            header: Box::new(shard.header),
            hash,
            executor: winner.executor.clone(),
            revision: winner.revision,
        }))
    }

    fn block(&mut self, round: u64, sent: &v1::FeedBlock) -> Result<Option<Checked>, Fault> {
        let malformed = |problem: wire::Malformed| Fault::Malformed {
            round,
            problem: problem.to_string(),
        };
        let hash = wire::hash("block.hash", &sent.hash).map_err(malformed)?;
        let header = wire::required("block.header", sent.header.as_ref()).map_err(malformed)?;
        let header = Header::try_from(header).map_err(malformed)?;
        let hashes = sent
            .shard_hashes
            .iter()
            .map(|h| wire::hash("block.shard_hashes", h))
            .collect::<Result<Vec<_>, _>>()
            .map_err(malformed)?;
        let known = self.rounds.entry(round).or_default();
        known.end(round)?;
        let received = known.shards.len();
        check_block(hash, &header, &hashes, &known.shards).map_err(|problem| Fault::Block {
            round,
            number: header.number,
            problem,
        })?;
        if let Some((_, before)) = &known.block {
            if *before == hashes {
                return Ok(None);
            }
            return Err(Fault::Block {
                round,
                number: header.number,
                problem: "was sent before with other shards".into(),
            });
        }
        known.block = Some((header.number, hashes));
        Ok(Some(Checked::Block {
            round,
            hash,
            header: Box::new(header),
            shards: received,
            head: sent.head,
        }))
    }
}

impl Partial {
    /// Its end is told.
    fn end(&mut self, round: u64) -> Result<(), Fault> {
        if std::mem::replace(&mut self.told.end, true) {
            let problem = "ended twice on one connection".into();
            return Err(Fault::Malformed { round, problem });
        }
        Ok(())
    }
}

fn parse_shard(sent: &v1::FeedShard, rule: LockRule) -> Result<Shard, String> {
    let header = sent.header.as_ref().ok_or("header: is missing")?;
    let body = sent.body.as_ref().ok_or("body: is missing")?;
    let header = ShardHeader::try_from(header).map_err(|m| m.to_string())?;
    let body = troika_proto::ShardBody::try_from(body).map_err(|m| m.to_string())?;
    Shard::check(header, body, rule).map_err(|fault| fault.to_string())
}

fn check_block(
    hash: B256,
    header: &Header,
    hashes: &[B256],
    shards: &BTreeMap<u32, (B256, ShardHeader)>,
) -> Result<(), String> {
    if header.hash() != hash {
        return Err(format!(
            "its header hashes to {}, not to {hash}",
            header.hash()
        ));
    }
    if shards_root(hashes) != header.shards_root {
        return Err("its header does not commit to its list of shard hashes".into());
    }
    for (index, (shard, _)) in shards {
        if hashes.get(*index as usize) != Some(shard) {
            return Err(format!(
                "shard {index} was sent as {shard}, the block lists another"
            ));
        }
    }
    if shards.len() != hashes.len() {
        // Not the whole block was asked for: its totals cannot be added up.
        return Ok(());
    }
    let totals = BlockTotals::of(shards.values().map(|(_, header)| header), hashes);
    let matches = totals.transactions_root == header.transactions_root
        && totals.receipts_root == header.receipts_root
        && totals.logs_bloom == header.logs_bloom
        && totals.gas_used == header.gas_used;
    if !matches {
        return Err("its roots, bloom or gas are not those of its shards".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use troika_proto::ShardBody;
    use v1::feed_item::Item;

    fn item(round: u64, item: Item) -> v1::FeedItem {
        v1::FeedItem {
            round,
            item: Some(item),
        }
    }

    fn feed_shard(shard: &Shard) -> v1::FeedShard {
        v1::FeedShard {
            index: shard.header.index,
            winner: Some(v1::Winner {
                shard_hash: wire::hash_bytes(shard.hash),
                executor: "executor-1".into(),
                revision: 7,
            }),
            header: Some(v1::ShardHeader::from(&shard.header)),
            body: Some(v1::ShardBody::from(&shard.body)),
        }
    }

    /// A shard that differs from the empty one: it pays somebody.
    fn shard(index: u32) -> Shard {
        let mut body = ShardBody::default();
        let account = troika_proto::AccountDiff {
            balance: troika_proto::Delta::rise(troika_proto::U256::from(5)),
            ..Default::default()
        };
        let address = troika_proto::Address::repeat_byte(3);
        body.diff.accounts.insert(address, account);
        Shard::new(index, body, troika_proto::U256::ZERO, LockRule::Commuting)
    }

    fn block(shards: &[Shard]) -> v1::FeedBlock {
        let hashes: Vec<_> = shards.iter().map(|s| s.hash).collect();
        let totals = BlockTotals::of(shards.iter().map(|s| &s.header), &hashes);
        let header = Header {
            number: 1,
            shards_root: totals.shards_root,
            transactions_root: totals.transactions_root,
            receipts_root: totals.receipts_root,
            gas_used: totals.gas_used,
            ..Header::default()
        };
        v1::FeedBlock {
            hash: wire::hash_bytes(header.hash()),
            header: Some(v1::Header::from(&header)),
            shard_hashes: hashes.iter().map(|h| wire::hash_bytes(*h)).collect(),
            head: true,
        }
    }

    fn checker() -> Checker {
        Checker::new(LockRule::Commuting, 2, 1)
    }

    #[test]
    fn a_whole_round_passes_and_a_repeat_after_a_reconnect_is_not_printed_twice() {
        let shards = [shard(0), Shard::empty(1)];
        let mut checker = checker();
        for first in [true, false] {
            checker.connected();
            for s in &shards {
                let checked = checker
                    .accept(&item(1, Item::Shard(feed_shard(s))))
                    .expect("good");
                assert_eq!(checked.is_some(), first);
            }
            let checked = checker
                .accept(&item(1, Item::Block(block(&shards))))
                .expect("good");
            assert_eq!(checked.is_some(), first);
        }
        assert_eq!(
            checker.accept(&item(1, Item::CaughtUp(1))).expect("good"),
            None
        );
        assert_eq!(checker.next_round(), 2);
        assert!(checker.rounds.is_empty(), "complete rounds take no memory");
    }

    #[test]
    fn what_comes_twice_on_one_connection_is_a_fault() {
        let shards = [shard(0), Shard::empty(1)];
        let told = || {
            let mut checker = checker();
            checker.connected();
            for sent in &shards {
                let sent = item(1, Item::Shard(feed_shard(sent)));
                assert!(checker.accept(&sent).expect("good").is_some());
            }
            checker
        };
        let again = item(1, Item::Shard(feed_shard(&shards[0])));
        let fault = told().accept(&again).unwrap_err();
        assert!(fault.to_string().contains("shard 0: came twice"), "{fault}");

        let end = item(1, Item::Block(block(&shards)));
        let void = item(1, Item::Void(v1::VoidReason::Stale.into()));
        for (first, second) in [(&end, &end), (&void, &void), (&end, &void)] {
            let mut checker = told();
            checker.accept(first).expect("good");
            let fault = checker.accept(second).unwrap_err();
            assert!(fault.to_string().contains("ended twice"), "{fault}");
        }

        // Complete rounds are not remembered, and need not be: they never come again, on no connection.
        let mut checker = told();
        checker.accept(&end).expect("good");
        checker.accept(&item(1, Item::CaughtUp(1))).expect("good");
        for _ in 0..2 {
            let fault = checker.accept(&again).unwrap_err();
            assert!(fault.to_string().contains("complete"), "{fault}");
            checker.connected();
        }
    }

    #[test]
    fn a_body_that_is_not_what_the_hash_covers_is_a_fault() {
        let mut sent = feed_shard(&shard(0));
        sent.body = Some(v1::ShardBody::from(&ShardBody::default()));
        let fault = checker().accept(&item(1, Item::Shard(sent))).unwrap_err();
        assert!(fault.to_string().contains("diff_root"), "{fault}");

        let mut sent = feed_shard(&shard(0));
        sent.winner.as_mut().expect("set").shard_hash = wire::hash_bytes(B256::repeat_byte(1));
        let fault = checker().accept(&item(1, Item::Shard(sent))).unwrap_err();
        assert!(fault.to_string().contains("the winner is"), "{fault}");
    }

    #[test]
    fn another_shard_under_the_same_round_and_index_is_a_fault() {
        let mut checker = checker();
        let first = item(1, Item::Shard(feed_shard(&shard(0))));
        checker.accept(&first).expect("good");
        let second = item(1, Item::Shard(feed_shard(&Shard::empty(0))));
        let fault = checker.accept(&second).unwrap_err();
        assert!(fault.to_string().contains("before"), "{fault}");
    }

    #[test]
    fn a_header_that_contradicts_its_shards_is_a_fault() {
        let shards = [shard(0), Shard::empty(1)];
        for (break_it, expected) in [
            (
                (|b| b.hash = wire::hash_bytes(B256::ZERO)) as fn(&mut v1::FeedBlock),
                "hashes to",
            ),
            (|b| b.shard_hashes.swap(0, 1), "does not commit"),
        ] {
            let mut checker = checker();
            for s in &shards {
                checker
                    .accept(&item(1, Item::Shard(feed_shard(s))))
                    .expect("good");
            }
            let mut sent = block(&shards);
            break_it(&mut sent);
            let fault = checker.accept(&item(1, Item::Block(sent))).unwrap_err();
            assert!(fault.to_string().contains(expected), "{fault}");
        }
    }

    #[test]
    fn a_block_of_other_shards_than_were_sent_is_a_fault() {
        let mut checker = checker();
        checker
            .accept(&item(1, Item::Shard(feed_shard(&shard(0)))))
            .expect("good");
        let others = [Shard::empty(0), Shard::empty(1)];
        let fault = checker
            .accept(&item(1, Item::Block(block(&others))))
            .unwrap_err();
        assert!(fault.to_string().contains("lists another"), "{fault}");
    }
}
