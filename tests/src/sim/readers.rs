//! Readers on every member: of the quorum's truth, of what a member has applied, and of the bodies of accepted shards.

use tonic::{Code, Status};
use troika_proto::{Address, B256, LockRule, Shard, ShardBody, ShardHeader, U256, v1};
use troika_store::service;
use troika_store::state::{Machine, Winner};
use v1::rounds_server::Rounds as _;
use v1::state_server::State as _;

use super::chain::payer;
use super::clients::{Answer, Client, patient};
use super::oracle::Oracle;
use super::world::lock;

/// Rounds back from the newest that readers look at.
const LOOK_BACK: u64 = 6;

impl Client {
    /// Reads for ever.
    pub async fn read(mut self) {
        loop {
            self.pause(20, 400).await;
            match self.random.below(10) {
                0..3 => self.read_head().await,
                3..6 => self.read_round().await,
                6..8 => self.read_body().await,
                _ => self.look_at_member().await,
            }
        }
    }

    /// The head, as the quorum has it.
    async fn read_head(&mut self) {
        let Some((id, member)) = self.member() else {
            return;
        };
        let newest = lock(&self.world.oracle).newest();
        let request = v1::HeadRequest {
            linearizable: true,
            ..Default::default()
        };
        let call = async move { service::state(member).head(patient(request)).await };
        if let Some(Ok(head)) = self.call(id, call).await {
            self.fresh(id, newest, &head);
        }
    }

    /// A recent round, as the quorum has it.
    async fn read_round(&mut self) {
        let Some((id, member)) = self.member() else {
            return;
        };
        let (newest, round) = {
            let oracle = lock(&self.world.oracle);
            (oracle.newest(), oracle.newest_round())
        };
        let round = round.saturating_sub(self.random.below(LOOK_BACK)).max(1);
        let acknowledged = lock(&self.world.oracle).acknowledged_of(round);
        let request = v1::GetRoundRequest {
            round,
            linearizable: true,
            ..Default::default()
        };
        let call = async move { service::rounds(member).get(patient(request)).await };
        let Some(Ok(answer)) = self.call(id, call).await else {
            return;
        };
        self.fresh(id, newest, &answer);
        let found = answer.round.unwrap_or_default();
        for shard in acknowledged {
            if !found.winners.iter().any(|winner| winner.shard == shard) {
                self.world.violate(format!(
                    "a linearizable read at member {id} says that round {round} shard {shard} is undecided, and its winner \
                     was told before"
                ));
            }
        }
        self.winners(id, round, &found.winners);
    }

    fn winners(&self, id: u64, round: u64, winners: &[v1::ShardStatus]) {
        let who = format!("member {id}");
        for status in winners {
            let Some(Ok(winner)) = status.winner.as_ref().map(Winner::try_from) else {
                self.world
                    .violate(format!("{who} names no winner of {status:?}"));
                continue;
            };
            self.world
                .check(|oracle| oracle.winner(&who, (round, status.shard), &winner));
        }
    }

    fn fresh(&self, id: u64, newest: u64, answer: &impl Answer) {
        let revision = answer.meta().revision;
        self.world
            .check(|oracle| oracle.read(&format!("member {id}"), newest, revision));
    }

    /// An accepted shard with its body, which must be the one that was accepted.
    async fn read_body(&mut self) {
        let Some((id, member)) = self.member() else {
            return;
        };
        let decided = lock(&self.world.oracle).decided_lately(LOOK_BACK);
        let Some((round, shard)) = self.random.pick(&decided).copied() else {
            return;
        };
        let request = v1::ShardRequest {
            round,
            shard,
            transactions: true,
            receipts: true,
            diff: true,
            ..Default::default()
        };
        let call = async move { service::state(member).shard(patient(request)).await };
        let found = match self.call(id, call).await {
            Some(Ok(found)) => found,
            // It knows who won, and has nothing of it. (What is damaged it calls so.)
            Some(Err(status)) if is_missing(&status) => {
                let what = status.message();
                self.world.violate(format!("member {id}: {what}"));
                return;
            }
            // A member that is behind has not got it yet.
            _ => return,
        };
        if let Err(what) = self.check_body((round, shard), found) {
            self.world
                .violate(format!("member {id}, round {round} shard {shard}: {what}"));
        }
    }

    fn check_body(&self, slot: (u64, u32), found: v1::ShardResponse) -> Result<(), String> {
        let Some(winner) = &found.winner else {
            return Ok(());
        };
        let winner = Winner::try_from(winner).map_err(|error| error.to_string())?;
        let header = found.header.as_ref().ok_or("no header")?;
        let header = ShardHeader::try_from(header).map_err(|error| error.to_string())?;
        let body = found.body.as_ref().ok_or("no body")?;
        let body = ShardBody::try_from(body).map_err(|error| error.to_string())?;
        let read =
            Shard::check(header, body, LockRule::Commuting).map_err(|error| error.to_string())?;
        if read.hash != winner.shard_hash {
            return Err(format!(
                "the body is that of {}, not of {winner:?}",
                read.hash
            ));
        }
        lock(&self.world.oracle).winner("a body", slot, &winner)
    }

    /// What a member has applied, however far behind it is.
    async fn look_at_member(&mut self) {
        let Some((id, member)) = self.member() else {
            return;
        };
        let account = payer(0);
        let call = async move { member.read(|machine| look(machine, account)) };
        let Some(seen) = self.cluster.on(id, call).await else {
            return;
        };
        self.note(5, seen.revision, || {
            format!("member {id} is at revision {}", seen.revision)
        });
        let who = format!("member {id}");
        self.world.check(|oracle| seen.check(&who, account, oracle));
    }
}

fn is_missing(status: &Status) -> bool {
    status.code() == Code::DataLoss && status.message().contains("is missing")
}

/// A head's number and hash, and an account's nonce and balance there.
type SeenHead = (u64, B256, Option<(u64, U256)>);

/// What one look saw.
struct Seen {
    revision: u64,
    head: Option<SeenHead>,
    winners: Vec<((u64, u32), Winner)>,
}

fn look(machine: &Machine, account: Address) -> Seen {
    let head = machine.current_chain().map(|chain| {
        let (number, hash) = (chain.head.header.number, chain.head.hash);
        let state = machine
            .state_at(&hash)
            .and_then(|state| state.account(&account));
        (
            number,
            hash,
            state.map(|account| (account.nonce, account.balance)),
        )
    });
    let from = machine.next_round().saturating_sub(LOOK_BACK);
    let shards = machine
        .current_chain()
        .map_or(0, |chain| chain.config.shards);
    let slots = machine
        .rounds(from)
        .flat_map(|round| (0..shards).map(move |shard| (round, shard)));
    let winners = slots.filter_map(|slot| Some((slot, machine.winner_of(slot.0, slot.1)?)));
    Seen {
        revision: machine.revision(),
        head,
        winners: winners.collect(),
    }
}

impl Seen {
    fn check(&self, who: &str, account: Address, oracle: &mut Oracle) -> Result<(), String> {
        for (slot, winner) in &self.winners {
            oracle.winner(who, *slot, winner)?;
        }
        if let Some((number, hash, seen)) = self.head {
            oracle.block(who, number, hash)?;
            oracle.account(who, hash, account, seen)?;
        }
        Ok(())
    }
}
