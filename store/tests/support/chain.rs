//! A cluster in this process whose rounds may be sealed at once, and what a client asks of it over gRPC.

use alloy_primitives::{Address, U256};
use tonic::transport::Channel;
use troika_proto::limits::MIN_SHARD_GAS;
use troika_proto::v1::cluster_client::ClusterClient;
use troika_proto::v1::rounds_client::RoundsClient;
use troika_proto::v1::state_client::StateClient;
use troika_proto::{
    AccountDiff, ChainConfig, Diff, Genesis, GenesisAccount, LockRule, Receipt, Shard, ShardBody,
    Spec, v1,
};
use troika_store::service::limits::AHEAD_SLOTS;
use troika_store::testing::TestCluster;

pub const SHARDS: u32 = 4;

pub fn contract() -> Address {
    Address::with_last_byte(0xcc)
}

/// A contract with more slots than are answered ahead.
pub fn crowded() -> Address {
    Address::with_last_byte(0xce)
}

/// The code of both contracts.
pub const CODE: [u8; 2] = [0x60, 0x01];

pub fn genesis() -> Genesis {
    let account = GenesisAccount {
        balance: U256::from(1_000_000),
        nonce: 1,
        code: CODE.into(),
        ..GenesisAccount::default()
    };
    let slots = 0..=AHEAD_SLOTS as u64;
    let crowd = GenesisAccount {
        storage: slots.map(|n| (U256::from(n), U256::from(1))).collect(),
        ..account.clone()
    };
    Genesis {
        config: ChainConfig {
            chain_id: 7,
            shards: SHARDS,
            shard_gas_limit: MIN_SHARD_GAS,
            lock_rule: LockRule::Commuting,
            elasticity: 1,
            beneficiary: Address::ZERO,
            propose_after_ms: 0,
            seal_after_ms: 0,
            seconds_per_slot: 0,
            spec: Spec::Osaka,
            genesis_base_fee: 0,
            genesis_timestamp: 0,
            registry: Address::ZERO,
            epoch_length: 0,
            share_cap: 0,
            fixed: None,
        },
        accounts: [(contract(), account), (crowded(), crowd)].into(),
    }
}

/// A shard that writes one slot.
pub fn shard(index: u32, slot: u64, value: u64) -> Shard {
    let changed = AccountDiff {
        slots: [(U256::from(slot), U256::from(value))].into(),
        ..AccountDiff::default()
    };
    let body = ShardBody {
        transactions: vec![vec![0x7f, index as u8, slot as u8, value as u8].into()],
        receipts: vec![Receipt {
            success: true,
            cumulative_gas: 21_000,
            ..Receipt::default()
        }],
        diff: Diff {
            accounts: [(contract(), changed)].into(),
        },
    };
    Shard::new(index, body, U256::ZERO, LockRule::Commuting)
}

pub fn submission(round: u64, executor: &str, shard: &Shard) -> v1::SubmitRequest {
    v1::SubmitRequest {
        round,
        shard: shard.header.index,
        executor: executor.to_owned(),
        header: Some((&shard.header).into()),
        body: Some((&shard.body).into()),
        ..Default::default()
    }
}

pub struct Chain {
    pub cluster: TestCluster,
    channels: Vec<Channel>,
}

impl Chain {
    pub async fn start() -> Self {
        let cluster = TestCluster::start(3).await;
        let mut channels = Vec::new();
        for member in 0..3 {
            channels.push(cluster.connect(member).await);
        }
        let chain = Self { cluster, channels };
        let request = v1::InitChainRequest {
            meta: None,
            genesis: Some((&genesis()).into()),
        };
        let started = chain.cluster(0).init_chain(request).await.unwrap();
        assert!(started.into_inner().started);
        chain
    }

    pub fn rounds(&self, member: usize) -> RoundsClient<Channel> {
        RoundsClient::new(self.channels[member].clone())
    }

    pub fn state(&self, member: usize) -> StateClient<Channel> {
        StateClient::new(self.channels[member].clone())
    }

    pub fn cluster(&self, member: usize) -> ClusterClient<Channel> {
        ClusterClient::new(self.channels[member].clone())
    }

    pub async fn open(&self) -> u64 {
        let request = v1::OpenRoundRequest {
            kind: v1::RoundKind::Build.into(),
            opener: "test".to_owned(),
            ..Default::default()
        };
        let answer = self.rounds(1).open(request).await.unwrap().into_inner();
        answer.round.unwrap().round
    }

    pub async fn seal(&self, round: u64) -> v1::SealRoundResponse {
        let request = v1::SealRoundRequest { meta: None, round };
        self.rounds(2).seal(request).await.unwrap().into_inner()
    }

    pub async fn submit(&self, member: usize, request: v1::SubmitRequest) -> v1::SubmitResponse {
        let answer = self.rounds(member).submit(request).await;
        answer.unwrap().into_inner()
    }

    /// State hash of the leader, which has applied everything that was answered.
    pub fn state_hash(&self) -> String {
        let leader = &self.cluster.members[self.cluster.leader()].handle;
        leader.read(|machine| machine.state_hash().to_string())
    }
}
