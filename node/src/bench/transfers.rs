//! `troika-node bench transfers`: plain transfers from outside, over JSON-RPC, against this node or any other.
//!
//! The ten accounts of the test mnemonic, which every development node funds, sign everything before the clock starts.
//! Each connection serves some of the senders, in batches, in order of nonce, and keeps no sender further ahead of the
//! chain than [`AHEAD`]. The clock stops when the latest block has every sender's last nonce.

use crate::cli::BenchTransfersArgs;
use crate::load::accounts::dev_accounts;
use crate::load::generate::{Planned, Signed, sign_all};
use alloy_consensus::TxEip1559;
use alloy_primitives::{Address, TxKind, U64, U256};
use anyhow::{Context, bail};
use jsonrpsee::core::client::ClientT;
use jsonrpsee::core::params::BatchRequestBuilder;
use jsonrpsee::http_client::{HttpClient, HttpClientBuilder};
use jsonrpsee::rpc_params;
use serde_json::json;
use std::time::{Duration, Instant};

/// Transactions of one sender that may wait for inclusion: what mempools of the usual nodes take.
const AHEAD: u64 = 2_048;
/// Pause between two looks at how far the chain is.
const LOOK: Duration = Duration::from_millis(25);
/// How long nothing may move before the run is given up.
const STALL: Duration = Duration::from_secs(60);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(60);
/// Pause before a batch is sent again that a full or restarting node did not take whole.
const AGAIN: Duration = Duration::from_millis(20);
/// Highest fee per gas, wei, as a multiple of the node's own proposal.
const FEE_HEADROOM: u64 = 20;
/// Gas of a transfer.
const GAS: u64 = 21_000;

/// Sends, waits for inclusion, prints.
///
/// # Errors
/// The node cannot be reached, refuses a transfer for good, or stops including.
pub async fn transfers(args: &BenchTransfersArgs) -> anyhow::Result<()> {
    let client = connect(&args.rpc)?;
    let chain: U64 = client.request("eth_chainId", rpc_params![]).await?;
    let price: U256 = client.request("eth_gasPrice", rpc_params![]).await?;
    let senders = dev_accounts();
    let addresses: Vec<Address> = senders.iter().map(|sender| sender.address).collect();
    let first = nonces(&client, &addresses).await?;
    let fee = u128::try_from(price * U256::from(FEE_HEADROOM)).context("the gas price")?;
    let planned = (0..args.transfers).map(|n| {
        let sender = (n % senders.len() as u64) as usize;
        let nonce = first[sender] + n / senders.len() as u64;
        Planned {
            sender,
            transaction: TxEip1559 {
                chain_id: chain.to(),
                nonce,
                gas_limit: GAS,
                max_fee_per_gas: fee.max(1),
                max_priority_fee_per_gas: fee.clamp(1, 1_000_000_000),
                to: TxKind::Call(Address::from_word(U256::from(0xfeed_0000 + n).into())),
                value: U256::from(1),
                ..TxEip1559::default()
            },
        }
    });
    let signed = sign_all(&senders, planned.collect());
    let mut queues = vec![Vec::new(); senders.len()];
    for one in signed {
        queues[one.sender].push(one);
    }
    let goals: Vec<u64> = queues
        .iter()
        .zip(&first)
        .map(|(queue, first)| first + queue.len() as u64)
        .collect();

    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    let connections = args.connections.min(senders.len() as u32) as usize;
    for connection in 0..connections {
        let own = queues.iter().skip(connection).step_by(connections);
        let feed = Feed {
            client: connect(&args.rpc)?,
            batch: args.batch as usize,
            queues: own.cloned().collect(),
            senders: addresses
                .iter()
                .skip(connection)
                .step_by(connections)
                .copied()
                .collect(),
        };
        tasks.spawn(feed.run());
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let sent = started.elapsed();
    wait_for(&client, &addresses, &goals).await?;
    print(args, sent, started.elapsed());
    Ok(())
}

fn connect(url: &str) -> anyhow::Result<HttpClient> {
    HttpClientBuilder::default()
        .request_timeout(CALL)
        .max_request_size(64 << 20)
        .build(url)
        .with_context(|| format!("--rpc {url}"))
}

/// The next nonce of every account at the latest block.
async fn nonces(client: &HttpClient, addresses: &[Address]) -> anyhow::Result<Vec<u64>> {
    let mut batch = BatchRequestBuilder::new();
    for address in addresses {
        batch.insert("eth_getTransactionCount", rpc_params![address, "latest"])?;
    }
    let answers = client.batch_request::<U64>(batch).await?;
    let answers = answers.into_iter().map(|answer| match answer {
        Ok(count) => Ok(count.to()),
        Err(error) => bail!("eth_getTransactionCount: {error}"),
    });
    answers.collect()
}

/// Waits until the latest block has every nonce.
async fn wait_for(client: &HttpClient, addresses: &[Address], goals: &[u64]) -> anyhow::Result<()> {
    let mut moved = (0, Instant::now());
    loop {
        // A gateway that is being restarted answers again soon.
        if let Ok(now) = nonces(client, addresses).await {
            if now.iter().zip(goals).all(|(now, goal)| now >= goal) {
                return Ok(());
            }
            let sum: u64 = now.iter().sum();
            if sum > moved.0 {
                moved = (sum, Instant::now());
            }
        }
        if moved.1.elapsed() > STALL {
            bail!("nothing was included for {} s", STALL.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// One connection with its senders.
struct Feed {
    client: HttpClient,
    batch: usize,
    senders: Vec<Address>,
    queues: Vec<Vec<Signed>>,
}

impl Feed {
    async fn run(self) -> anyhow::Result<()> {
        let mut at = vec![0; self.queues.len()];
        let mut included = nonces(&self.client, &self.senders).await?;
        let mut moved = Instant::now();
        loop {
            let mut idle = true;
            for (i, queue) in self.queues.iter().enumerate() {
                let Some(next) = queue.get(at[i]) else {
                    continue;
                };
                if next.nonce >= included[i] + AHEAD {
                    continue;
                }
                let end = (at[i] + self.batch).min(queue.len());
                let taken = self.send(&queue[at[i]..end]).await?;
                at[i] += taken;
                idle &= taken == 0;
            }
            if at
                .iter()
                .zip(&self.queues)
                .all(|(at, queue)| *at == queue.len())
            {
                return Ok(());
            }
            if idle {
                if moved.elapsed() > STALL {
                    bail!("no transfer was taken for {} s", STALL.as_secs());
                }
                tokio::time::sleep(LOOK).await;
                if let Ok(now) = nonces(&self.client, &self.senders).await {
                    included = now;
                }
            } else {
                moved = Instant::now();
            }
        }
    }

    /// Sends a batch; how many of its first were taken.
    async fn send(&self, part: &[Signed]) -> anyhow::Result<usize> {
        let mut batch = BatchRequestBuilder::new();
        for one in part {
            batch.insert("eth_sendRawTransaction", rpc_params![&one.raw])?;
        }
        let Ok(answers) = self.client.batch_request::<String>(batch).await else {
            // Not reached or broken off: what was taken is known already when it is sent again.
            tokio::time::sleep(AGAIN).await;
            return Ok(0);
        };
        let mut taken = 0;
        for answer in answers.into_iter() {
            match answer {
                Ok(_) => taken += 1,
                Err(error) => {
                    let text = error.message();
                    if text.contains("already known") || text.contains("nonce too low") {
                        taken += 1;
                        continue;
                    }
                    if text.contains("full") || text.contains("limit") || text.contains("ahead") {
                        tokio::time::sleep(AGAIN).await;
                        break;
                    }
                    bail!("eth_sendRawTransaction: {text}");
                }
            }
        }
        Ok(taken)
    }
}

fn print(args: &BenchTransfersArgs, sent: Duration, included: Duration) {
    let rate = |time: Duration| args.transfers as f64 / time.as_secs_f64().max(1e-9);
    if args.json {
        let line = json!({
            "transfers": args.transfers,
            "connections": args.connections,
            "batch": args.batch,
            "seconds": included.as_secs_f64(),
            "sent_per_s": rate(sent).round(),
            "included_per_s": rate(included).round(),
        });
        println!("{line}");
        return;
    }
    println!(
        "{} transfers over {} connections in batches of {}",
        args.transfers, args.connections, args.batch
    );
    println!(
        "taken      {:>8.2} s {:>9.0} a second",
        sent.as_secs_f64(),
        rate(sent)
    );
    println!(
        "included   {:>8.2} s {:>9.0} a second",
        included.as_secs_f64(),
        rate(included)
    );
}
