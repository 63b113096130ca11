//! Reading ahead: the state that the next round's first transactions of a shard ask for, as soon as this round's shard is
//! decided and nothing is left to do for it.
//!
//! They will run on this round's block, which is not there yet. Its parent's state serves as well: what the block
//! changes of it, the cache carries along when it seals.

use super::super::limits::APPEND_INTERVAL;
use super::super::pool::Select;
use super::super::seek::seek;
use super::super::shared::Shared;
use super::super::verify::Ground;
use super::Race;
use super::staged::Part;
use crate::execution::{Transaction, Unavailable};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::time::sleep;
use troika_proto::{Address, Diff};

/// Reads ahead for `shard`, of which `part` was accepted, until a shard's worth of gas is looked at or the round closes.
pub async fn read_ahead(shared: Arc<Shared>, race: Arc<Race>, shard: u32, part: &Part) {
    let closed = race.closed.clone();
    let mut pool = shared.pool.changes();
    let mut ahead = Ahead::new(shared, race, shard, part.diff());
    let reading = async {
        while ahead.gas > 0 {
            pool.borrow_and_update();
            match turn(ahead).await {
                Some(after) => ahead = after,
                None => return,
            }
            if pool.changed().await.is_err() {
                return;
            }
            sleep(APPEND_INTERVAL).await;
        }
    };
    tokio::select! {
        biased;
        () = closed.cancelled() => {}
        () = reading => {}
    }
}

/// One look at what is pending, on a blocking thread; `None` where the store does not answer.
async fn turn(mut ahead: Ahead) -> Option<Ahead> {
    let permit = ahead.shared.permits.clone().acquire_owned().await.ok();
    let looking = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let looked = ahead.look();
        looked.map(|()| ahead)
    });
    match looking.await {
        Ok(Ok(ahead)) => Some(ahead),
        Ok(Err(error)) => {
            tracing::debug!(%error, "reading ahead");
            None
        }
        Err(error) => {
            tracing::debug!(%error, "reading ahead");
            None
        }
    }
}

struct Ahead {
    shared: Arc<Shared>,
    race: Arc<Race>,
    shard: u32,
    ground: Ground,
    /// Next nonce of the senders that the accepted shard holds.
    taken: HashMap<Address, u64>,
    /// Everything up to this version of the pool was looked at.
    since: u64,
    /// What is still looked at.
    gas: u64,
}

impl Ahead {
    fn new(shared: Arc<Shared>, race: Arc<Race>, shard: u32, accepted: &Diff) -> Self {
        let nonces = accepted.accounts.iter();
        let taken = nonces.filter_map(|(address, account)| Some((*address, account.nonce?)));
        Self {
            ground: race.ground(&shared),
            taken: taken.collect(),
            since: 0,
            gas: shared.rules.shard_gas_limit,
            shared,
            race,
            shard,
        }
    }

    fn look(&mut self) -> Result<(), Unavailable> {
        let selection = self.shared.pool.pending().select(&Select {
            shard: self.shard,
            round: self.race.round.number + 1,
            base_fee: self.race.environment.base_fee,
            since: self.since,
            taken: &self.taken,
            gas: self.gas,
        });
        self.since = selection.version;
        let transactions: Vec<Arc<Transaction>> = selection.queues.into_iter().flatten().collect();
        let gas = transactions.iter().map(|t| t.gas_limit());
        self.gas = gas.fold(self.gas, u64::saturating_sub);
        let (view, runtime) = (&self.ground.view, &self.ground.runtime);
        if !view.prefetch_blocking(runtime, &transactions)? {
            return Ok(());
        }
        // Who calls what is not known here will read slots that are not known either.
        seek(&self.ground, &transactions, Default::default())
    }
}
