//! A load from outside: signed transfers over a gateway's JSON-RPC, and the question whether all were included.

use alloy_primitives::{B256, hex};
use alloy_provider::{Provider, RootProvider};
use anyhow::{Context, bail};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use troika_node::dev::genesis::CHAIN_ID;
use troika_node::load::accounts::load_accounts;
use troika_node::load::{Generator, Mix};
use troika_node::store_client::{StateKey, StateValue, StoreClient};

/// Seed of the transfers.
const SEED: u64 = 17;
/// Transactions are signed in batches of this many.
const BATCH: usize = 200;
/// A transaction that the gateway does not take is offered again for this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Transfers on their way.
pub struct Load {
    stop: watch::Sender<bool>,
    task: JoinHandle<anyhow::Result<Sent>>,
}

/// What the gateway took.
#[derive(Clone, Debug)]
pub struct Sent {
    /// For each sender its next nonce, once all are included.
    nonces: Vec<u64>,
    /// How many.
    pub count: u64,
}

impl Load {
    /// Sends `rate` transfers a second to the gateway at `rpc` until it is stopped.
    pub fn start(rpc: &str, rate: u32) -> Self {
        let (stop, stopped) = watch::channel(false);
        let rpc = rpc.to_owned();
        Self {
            stop,
            task: tokio::spawn(send(rpc, rate, stopped)),
        }
    }

    /// Stops sending.
    ///
    /// # Errors
    /// A transaction that the gateway did not take.
    pub async fn stop(self) -> anyhow::Result<Sent> {
        self.stop.send_replace(true);
        self.task.await.context("the load panicked")?
    }
}

async fn send(rpc: String, rate: u32, stopped: watch::Receiver<bool>) -> anyhow::Result<Sent> {
    let provider: RootProvider = RootProvider::new_http(rpc.parse()?);
    let senders = Mix::Transfers.senders() as usize;
    let mut generator = Generator::new(Mix::Transfers, CHAIN_ID, SEED, vec![0; senders]);
    let mut nonces = vec![0; senders];
    let mut count = 0;
    let mut ahead = Vec::new().into_iter();
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*stopped.borrow() {
        ticks.tick().await;
        let signed = match ahead.next() {
            Some(signed) => signed,
            None => {
                ahead = generator.sign_many(BATCH).into_iter();
                continue;
            }
        };
        offer(&provider, &signed.raw).await?;
        nonces[signed.sender] += 1;
        count += 1;
    }
    Ok(Sent { nonces, count })
}

/// Until the gateway takes it.
async fn offer(provider: &RootProvider, raw: &[u8]) -> anyhow::Result<()> {
    let raw = hex::encode_prefixed(raw);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer: Result<B256, _> = provider
            .raw_request("eth_sendRawTransaction".into(), [raw.clone()])
            .await;
        match answer {
            Ok(_) => return Ok(()),
            // An earlier try whose answer was lost may have succeeded.
            Err(error) if error.to_string().contains("already known") => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                bail!("the gateway does not take a transfer: {error}")
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

impl Sent {
    /// Waits until everything that was sent is in sealed blocks.
    ///
    /// # Errors
    /// Something is missing after `within`; the message says how much.
    pub async fn wait_included(&self, store: &StoreClient, within: Duration) -> anyhow::Result<()> {
        let accounts = load_accounts(self.nonces.len() as u32);
        let keys: Vec<_> = accounts
            .iter()
            .map(|account| StateKey::Account(account.address))
            .collect();
        let deadline = Instant::now() + within;
        loop {
            let read = store.read(None, &keys, &[]).await?;
            let nonce = |value: &StateValue| match value {
                StateValue::Account(Some(account)) => account.nonce,
                _ => 0,
            };
            let nonces: Vec<_> = read.values.iter().map(nonce).collect();
            if nonces == self.nonces {
                return Ok(());
            }
            if Instant::now() > deadline {
                let included: u64 = nonces.iter().sum();
                bail!("{included} of {} transfers are included", self.count);
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}
