//! Opening the next BUILD round: a race as well, in which losing costs one call.

use super::super::limits::{OPEN_SPREAD, RETRY_MAX, RETRY_MIN};
use super::super::shared::Shared;
use crate::store_client::{Opened, Round};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use troika_proto::B256;

/// Opens a round on `parent`, unless `heard` (somebody else's was heard of) comes first; tells `rounds` of it.
pub async fn open(
    shared: Arc<Shared>,
    parent: B256,
    next_round: u64,
    heard: CancellationToken,
    rounds: mpsc::Sender<Round>,
) {
    let opening = async {
        sleep(shared.stagger(parent.as_slice(), OPEN_SPREAD)).await;
        let mut pause = RETRY_MIN;
        loop {
            let reservations = shared.pool.reservations(parent, next_round).await;
            let answer = shared
                .client
                .open_build(Some(parent), &shared.name, wall_clock_ms(), &reservations)
                .await;
            match answer {
                Ok(Opened::Round(round, by_us)) => {
                    tracing::debug!(round = round.number, by_us, "opened");
                    let _ = rounds.send(*round).await;
                    return;
                }
                // The head has moved on, or the store does not follow yet: the watch tells which.
                Ok(Opened::Refused(refusal)) => tracing::debug!(%parent, %refusal, "not opened"),
                Err(error) => tracing::warn!(%parent, %error, "opening failed"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    };
    tokio::select! {
        biased;
        () = heard.cancelled() => {}
        () = opening => {}
    }
}

/// Milliseconds since 1970.
fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
