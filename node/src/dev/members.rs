//! Members of the store in this process, each with its gRPC servers on loopback.

use super::ports::{MemberPorts, Ports, loopback};
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use troika_store::clock::SystemClock;
use troika_store::db::DiskFiles;
use troika_store::raft::tonic_network::{self, TonicNetwork};
use troika_store::raft::{self, Deps, Handle, MemberConfig};
use troika_store::service;

/// HTTP/2 window of one stream, bytes: a whole shard fits.
const STREAM_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// HTTP/2 window of a connection, bytes.
const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;

/// A running member.
pub struct Member {
    handle: Handle,
    stop: CancellationToken,
    servers: [JoinHandle<Result<(), tonic::transport::Error>>; 2],
}

impl Member {
    /// Starts a member on each of `ports`, with its data in a folder of its own in `folder`.
    ///
    /// # Errors
    /// A port that is taken, or data that cannot be used.
    pub async fn start_all(folder: &Path, ports: &Ports) -> anyhow::Result<Vec<Self>> {
        let ids = 1..=ports.members.len() as u64;
        let addresses = ids.zip(&ports.members);
        let peers: BTreeMap<u64, String> = addresses
            .clone()
            .map(|(id, ports)| (id, loopback(ports.peer).to_string()))
            .collect();
        let mut members = Vec::new();
        for (id, own) in addresses {
            let data = folder.join(format!("member-{id}"));
            match Self::start(id, &data, *own, peers.clone()).await {
                Ok(member) => members.push(member),
                Err(error) => {
                    futures::future::join_all(members.into_iter().map(Self::stop)).await;
                    return Err(error.context(format!("member {id} in {}", data.display())));
                }
            }
        }
        Ok(members)
    }

    async fn start(
        id: u64,
        data: &Path,
        ports: MemberPorts,
        members: BTreeMap<u64, String>,
    ) -> anyhow::Result<Self> {
        let clients = listen(ports.client).await?;
        let peers = listen(ports.peer).await?;
        let peer_addr = loopback(ports.peer).to_string();
        let mut config = MemberConfig::new(id, peer_addr, loopback(ports.client).to_string());
        config.members = members;
        let handle = raft::Member::start(Deps {
            config,
            files: Arc::new(DiskFiles::create(data)?),
            clock: Arc::new(SystemClock),
            network: TonicNetwork::new(None),
            observer: None,
        })
        .await?;
        let stop = CancellationToken::new();
        let door = Routes::new(tonic_network::service(handle.door()));
        let servers = [
            serve(clients, service::routes(handle.clone()), stop.clone()),
            serve(peers, door, stop.clone()),
        ];
        Ok(Self {
            handle,
            stop,
            servers,
        })
    }

    /// Hands leadership over if it has it, and ends with everything on disk.
    pub async fn stop(self) {
        self.handle.shutdown().await;
        self.stop.cancel();
        for server in self.servers {
            // Open watches would hold back a graceful end for ever.
            server.abort();
            let _ = server.await;
        }
    }
}

async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let address = loopback(port);
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => bail!(
            "{address}, which this cluster's data belongs to, is taken: is the same chain running already?"
        ),
        Err(error) => Err(error).with_context(|| format!("listening on {address}")),
    }
}

fn serve(
    listener: TcpListener,
    routes: Routes,
    stop: CancellationToken,
) -> JoinHandle<Result<(), tonic::transport::Error>> {
    let server = Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_routes(routes);
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()))
}
