//! What these tests share: clusters, transactions, and blocks that nobody's executors made.

use alloy_consensus::TxEip1559;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, address, hex};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use troika_node::cli::PolicyName;
use troika_node::dev::cluster::{Cluster, Plan};
use troika_node::dev::genesis::{CHAIN_ID, genesis};
use troika_node::execution::{MemoryView, Rules, Transaction, execute_shard};
use troika_node::executor::Body;
use troika_node::load::accounts::Keyed;
use troika_node::store_client::{Place, StoreClient};
use troika_node::verify::assemble::ForeignBlock;
use troika_proto::{BlockTotals, Environment, Genesis, GenesisAccount, Header, Shard};

/// Longest that anything here is waited for.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Pause between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(20);

/// `slot 0 += 1`
pub const HOT_A: Address = address!("00000000000000000000000000000000000000a0");
/// The same code at another address.
pub const HOT_B: Address = address!("00000000000000000000000000000000000000b0");
/// Calls both.
pub const HOT_BOTH: Address = address!("00000000000000000000000000000000000000ab");
/// `slot 0 = clz(1)`: an opcode that Osaka brought. By the rules before it runs out of gas.
pub const NEW_OPCODE: Address = address!("0000000000000000000000000000000000000c12");

const COUNTER_CODE: [u8; 10] = hex!("60005460010160005500");
const NEW_OPCODE_CODE: [u8; 6] = hex!("60011e5f5500");

/// Calls A and B, each with all gas that may be passed on.
fn both_code() -> Bytes {
    let mut code = Vec::new();
    for callee in [HOT_A, HOT_B] {
        // PUSH0 five times (out size, out offset, in size, in offset, value), PUSH20 callee, GAS, CALL, POP
        code.extend([0x5f; 5]);
        code.push(0x73);
        code.extend(callee);
        code.extend([0x5a, 0xf1, 0x50]);
    }
    code.into()
}

/// A development chain's genesis with the contracts of these tests.
pub fn genesis_of(shards: u32, block_time: Duration) -> Genesis {
    let mut genesis = genesis(shards, block_time);
    let codes = [
        (HOT_A, Bytes::from_static(&COUNTER_CODE)),
        (HOT_B, Bytes::from_static(&COUNTER_CODE)),
        (HOT_BOTH, both_code()),
        (NEW_OPCODE, Bytes::from_static(&NEW_OPCODE_CODE)),
    ];
    for (address, code) in codes {
        let account = GenesisAccount {
            nonce: 1,
            code,
            ..GenesisAccount::default()
        };
        genesis.accounts.insert(address, account);
    }
    genesis
}

/// One member, and executors of every shard.
pub fn plan(genesis: &Genesis, executors: u32) -> Plan {
    log();
    Plan {
        genesis: genesis.clone(),
        members: 1,
        executors,
        data: None,
        rpc: ([127, 0, 0, 1], 0).into(),
        policy: PolicyName::Writes,
        build: true,
    }
}

/// Shows what is logged where `TROIKA_LOG` asks for it, for instance `troika_node=debug`.
fn log() {
    if let Ok(filter) = std::env::var("TROIKA_LOG") {
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter);
        // Another test of this process may have done it before.
        subscriber.with_test_writer().try_init().ok();
    }
}

/// Started whole.
pub async fn start(plan: Plan) -> Cluster {
    let cluster = Cluster::start_without_executors(plan).await;
    let mut cluster = cluster.expect("the cluster starts");
    cluster.start_executors().await.expect("executors start");
    cluster
}

/// A cluster that makes no blocks and checks others'.
pub async fn checker(genesis: &Genesis, executors: u32) -> Cluster {
    let plan = Plan {
        build: false,
        ..plan(genesis, executors)
    };
    start(plan).await
}

/// A signed call or transfer.
pub fn transaction(sender: &Keyed, nonce: u64, to: Address, wei: u64) -> Arc<Transaction> {
    let raw = sender.sign(TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 200_000,
        max_fee_per_gas: 10_000_000_000,
        max_priority_fee_per_gas: 1_000,
        to: TxKind::Call(to),
        value: U256::from(wei),
        access_list: Default::default(),
        input: Bytes::new(),
    });
    Arc::new(Transaction::recover(raw).expect("signed"))
}

/// Waits until `look` answers something.
pub async fn until<R>(what: &str, mut look: impl AsyncFnMut() -> Option<R>) -> R {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(result) = look().await {
            return result;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        sleep(POLL).await;
    }
}

/// Hands transactions to the cluster's gateway, which takes all of them.
pub async fn send(cluster: &Cluster, transactions: &[Arc<Transaction>]) {
    let raws = transactions.iter().map(|tx| tx.raw.clone()).collect();
    for answer in cluster.gateway().submit(raws).await {
        answer.expect("taken");
    }
}

/// Waits until it is in a block of the chain.
pub async fn included(store: &StoreClient, hash: B256) -> Place {
    until("the transaction is included", async || {
        let places = store.find_transaction(hash).await.expect("answers");
        let canonical: Vec<_> = places.into_iter().filter(|p| p.canonical).collect();
        assert!(canonical.len() <= 1, "included twice: {canonical:?}");
        canonical.first().copied()
    })
    .await
}

/// The transactions of a shard, as they are handed in.
fn body(shard: &Shard) -> Body {
    let transactions = shard.body.transactions.clone();
    Body::bound(&shard.header, transactions).expect("its own")
}

/// Blocks by hand on the genesis of a chain.
pub struct Forge {
    pub genesis: Genesis,
    pub parent: Header,
    rules: Rules,
    view: MemoryView,
}

impl Forge {
    pub fn new(genesis: &Genesis) -> Self {
        Self {
            rules: Rules::of(&genesis.config),
            view: MemoryView::of(genesis),
            parent: genesis.header(),
            genesis: genesis.clone(),
        }
    }

    /// Of a block `seconds` after genesis.
    pub fn environment(&self, seconds: u64) -> Environment {
        let clock_ms = (self.parent.timestamp + seconds) * 1_000;
        let config = &self.genesis.config;
        config.environment(&self.parent, self.parent.hash(), clock_ms)
    }

    /// What these transactions make.
    pub fn shard(&self, seconds: u64, index: u32, transactions: &[Arc<Transaction>]) -> Shard {
        let environment = self.environment(seconds);
        let shard = execute_shard(&self.rules, &environment, index, transactions, &self.view);
        shard.expect("executable")
    }

    /// The block of these shards. With `edit` something in its header is made wrong.
    pub fn block(
        &self,
        seconds: u64,
        shards: &[Shard],
        edit: impl FnOnce(&mut Header),
    ) -> ForeignBlock {
        let environment = self.environment(seconds);
        let hashes: Vec<B256> = shards.iter().map(|shard| shard.hash).collect();
        let totals = BlockTotals::of(shards.iter().map(|shard| &shard.header), &hashes);
        let mut header = Header {
            parent_hash: self.parent.hash(),
            beneficiary: environment.beneficiary,
            transactions_root: totals.transactions_root,
            receipts_root: totals.receipts_root,
            logs_bloom: totals.logs_bloom,
            number: environment.number,
            gas_limit: environment.gas_limit,
            gas_used: totals.gas_used,
            timestamp: environment.timestamp,
            shards_root: totals.shards_root,
            prev_randao: environment.prev_randao,
            base_fee: environment.base_fee,
            ..Header::default()
        };
        edit(&mut header);
        ForeignBlock {
            round: 1,
            hash: header.hash(),
            header,
            shard_hashes: hashes,
            bodies: (0..).zip(shards.iter().map(body)).collect(),
        }
    }
}
