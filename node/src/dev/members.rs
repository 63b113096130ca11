//! Members of the store in this process, each with its gRPC servers on loopback.

use super::ports::{MemberPorts, Ports, loopback};
use std::collections::BTreeMap;
use std::path::Path;
use troika_store::raft::MemberConfig;
use troika_store::server::tls::Tls;
use troika_store::server::{self, Server};

/// Starts a member on each of `ports`, with its data in a folder of its own in `folder`.
///
/// # Errors
/// A port that is taken, or data that cannot be used.
pub async fn start_members(folder: &Path, ports: &Ports) -> anyhow::Result<Vec<Server>> {
    let addresses = (1..).zip(&ports.members);
    let peers: BTreeMap<u64, String> = addresses
        .clone()
        .map(|(id, ports)| (id, loopback(ports.peer).to_string()))
        .collect();
    let mut members = Vec::new();
    for (id, own) in addresses {
        let data = folder.join(format!("member-{id}"));
        match start_member(id, &data, *own, peers.clone()).await {
            Ok(member) => members.push(member),
            Err(error) => {
                stop_members(members).await;
                return Err(error.context(format!("member {id} in {}", data.display())));
            }
        }
    }
    Ok(members)
}

/// Stops all of them, each after handing leadership over if it has it.
pub async fn stop_members(members: Vec<Server>) {
    futures::future::join_all(members.into_iter().map(Server::shutdown)).await;
}

async fn start_member(
    id: u64,
    data: &Path,
    ports: MemberPorts,
    members: BTreeMap<u64, String>,
) -> anyhow::Result<Server> {
    let (client_addr, peer_addr) = (loopback(ports.client), loopback(ports.peer));
    let clients = server::bind(&client_addr.to_string()).await?;
    let peers = server::bind(&peer_addr.to_string()).await?;
    let mut config = MemberConfig::new(id, peer_addr.to_string(), client_addr.to_string());
    config.members = members;
    Ok(server::start(config, data, clients, peers, Tls::off()).await?)
}
