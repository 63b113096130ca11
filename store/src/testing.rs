//! A cluster of members in this process, reached over gRPC on loopback: for tests, here and in crates above.
//!
//! Members keep their files in temporary folders on disk and talk over real connections, so what is tested is what is
//! deployed, but for the process boundary.

use crate::raft::{Handle, MemberConfig};
use crate::runtime::Runtime;
use crate::server::{self, Server, tls::Tls};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};

/// How long a cluster may take until it has a leader.
const READY: Duration = Duration::from_secs(20);
/// Timings of test members: quick, and still far above what a busy machine delays.
const HEARTBEAT: Duration = Duration::from_millis(150);
const ELECTION: Duration = Duration::from_millis(2_100);

/// One member with its servers.
pub struct TestMember {
    /// The member itself.
    pub handle: Handle,
    /// Where clients reach it.
    pub client_addr: SocketAddr,
    server: Server,
}

/// Members of one cluster.
pub struct TestCluster {
    /// By id, from 1.
    pub members: Vec<TestMember>,
    folder: PathBuf,
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        // A folder that stays is no harm to any test.
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

impl TestCluster {
    /// Starts `size` members and waits until they have a leader that all of them know.
    ///
    /// # Panics
    /// If the cluster does not come about: then no test can go on.
    pub async fn start(size: u64) -> Self {
        let id = Runtime::random_u64();
        let folder = std::env::temp_dir().join(format!("troika-test-{id:016x}"));
        let mut bound = BTreeMap::new();
        for id in 1..=size {
            let peer = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let client = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            bound.insert(id, (peer, client));
        }
        let addresses = bound.iter().map(|(id, (peer, _))| {
            let address = peer.local_addr().expect("a bound address");
            (*id, address.to_string())
        });
        let addresses: BTreeMap<u64, String> = addresses.collect();
        let mut members = Vec::new();
        for (id, (peer, client)) in bound {
            let data = folder.join(id.to_string());
            members.push(start_member(id, &addresses, &data, peer, client).await);
        }
        let cluster = Self { members, folder };
        cluster.ready().await;
        cluster
    }

    /// Waits until every member knows the same leader and has caught up.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn ready(&self) {
        let deadline = Runtime::now() + READY;
        loop {
            let status: Vec<_> = self.members.iter().map(|m| m.handle.status()).collect();
            let leader = status[0].leader;
            if leader != 0 && status.iter().all(|s| s.leader == leader && s.caught_up) {
                return;
            }
            assert!(Runtime::now() < deadline, "no leader in time: {status:?}");
            Runtime::sleep(Duration::from_millis(20)).await;
        }
    }

    /// URLs of all members, for clients.
    pub fn urls(&self) -> Vec<String> {
        let members = self.members.iter();
        members
            .map(|m| format!("http://{}", m.client_addr))
            .collect()
    }

    /// A connection to a member, counted from 0.
    ///
    /// # Panics
    /// If it cannot be reached.
    pub async fn connect(&self, member: usize) -> Channel {
        let endpoint = Endpoint::from_shared(self.urls()[member].clone()).expect("a URL");
        endpoint.connect().await.expect("the member listens")
    }

    /// The member that leads, counted from 0.
    pub fn leader(&self) -> usize {
        let leader = self.members[0].handle.status().leader;
        let led = self.members.iter().position(|m| m.handle.id() == leader);
        led.unwrap_or_default()
    }

    /// Stops all members in order, as an operator would.
    pub async fn stop(mut self) {
        for member in self.members.drain(..) {
            member.server.shutdown().await;
        }
    }
}

async fn start_member(
    id: u64,
    peers: &BTreeMap<u64, String>,
    data: &Path,
    peer: TcpListener,
    client: TcpListener,
) -> TestMember {
    let client_addr = client.local_addr().expect("a bound address");
    let mut config = MemberConfig::new(id, peers[&id].clone(), client_addr.to_string());
    config.members = peers.clone();
    config.heartbeat = HEARTBEAT;
    config.election = ELECTION;
    config.reserve_bytes = 0;
    let server = server::start(config, data, client, peer, Tls::off())
        .await
        .expect("the member starts");
    TestMember {
        handle: server.handle.clone(),
        client_addr,
        server,
    }
}
