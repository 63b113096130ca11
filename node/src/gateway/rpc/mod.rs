//! JSON-RPC.
use super::{Gateway, StartError};
use std::net::SocketAddr;
use std::sync::Arc;
pub(super) async fn serve(
    gateway: Arc<Gateway>,
    address: SocketAddr,
) -> Result<(jsonrpsee::server::ServerHandle, SocketAddr), StartError> {
    let _ = gateway;
    let s = jsonrpsee::server::Server::builder()
        .build(address)
        .await
        .map_err(|e| StartError::Listen(address, e))?;
    let a = s.local_addr().map_err(|e| StartError::Listen(address, e))?;
    Ok((s.start(jsonrpsee::RpcModule::new(())), a))
}
