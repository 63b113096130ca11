//! Ethereum's JSON-RPC over HTTP and WebSocket, on one port.
//!
//! One file a family of methods; [`shapes`] makes Ethereum's JSON of sealed blocks, [`error`] its codes. Handlers parse,
//! ask the gateway, and shape the answer; nothing here decides anything about transactions.
//!
//! `latest`, `safe`, `finalized` and `pending` all name the newest sealed block: what is sealed is final, and
//! there is no block in between. Only the nonce of `eth_getTransactionCount` counts what is pending.

mod calls;
mod error;
mod fees;
mod filters;
mod logs;
mod reads;
mod service;
pub mod shapes;
mod subscribe;
mod transactions;
mod troika;
mod txpool;

pub use filters::Filters;

use super::limits::{
    MAX_BATCH, MAX_CONNECTIONS, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, MAX_SUBSCRIPTIONS,
};
use super::{Gateway, StartError};
use jsonrpsee::RpcModule;
use jsonrpsee::server::middleware::rpc::RpcServiceBuilder;
use jsonrpsee::server::{BatchRequestConfig, Server, ServerConfig, ServerHandle};
use jsonrpsee::types::{ErrorObjectOwned, Params, SubscriptionId};
use serde::Serialize;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tower_http::cors::CorsLayer;

/// What a handler answers.
type Answer<T> = Result<T, ErrorObjectOwned>;

/// Starts serving. Any origin may call: what can be done here needs a signature, or is public.
pub(super) async fn serve(
    gateway: Arc<Gateway>,
    address: SocketAddr,
) -> Result<(ServerHandle, SocketAddr), StartError> {
    let config = ServerConfig::builder()
        .max_request_body_size(MAX_REQUEST_BYTES)
        .max_response_body_size(MAX_RESPONSE_BYTES)
        .max_connections(MAX_CONNECTIONS)
        .max_subscriptions_per_connection(MAX_SUBSCRIPTIONS)
        .set_batch_request_config(BatchRequestConfig::Limit(MAX_BATCH))
        .set_id_provider(HexIds::default())
        .set_tcp_no_delay(true)
        .build();
    let middleware = tower::ServiceBuilder::new().layer(CorsLayer::permissive());
    let module = module(gateway.clone());
    let mut names: Vec<&'static str> = module.method_names().collect();
    names.sort_unstable();
    let names: service::Names = names.into();
    let requests = RpcServiceBuilder::new()
        .layer_fn(move |inner| service::Requests::new(inner, gateway.clone(), names.clone()));
    let listen = |error| StartError::Listen(address, error);
    let server = Server::builder()
        .set_config(config)
        .set_http_middleware(middleware)
        .set_rpc_middleware(requests)
        .build(address)
        .await
        .map_err(listen)?;
    let bound = server.local_addr().map_err(listen)?;
    Ok((server.start(module), bound))
}

/// All methods.
fn module(gateway: Arc<Gateway>) -> RpcModule<Gateway> {
    let mut module = RpcModule::from_arc(gateway);
    reads::register(&mut module);
    transactions::register(&mut module);
    fees::register(&mut module);
    calls::register(&mut module);
    logs::register(&mut module);
    filters::register(&mut module);
    subscribe::register(&mut module);
    troika::register(&mut module);
    txpool::register(&mut module);
    module
}

/// Registers a method.
fn method<F, Fut, R>(module: &mut RpcModule<Gateway>, name: &'static str, handler: F)
where
    F: Fn(Arc<Gateway>, Params<'static>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Answer<R>> + Send + 'static,
    R: Serialize + Clone + Send + 'static,
{
    let registered = module.register_async_method(name, move |params, gateway, _| {
        handler(gateway, params.into_owned())
    });
    registered.expect("each method is registered once");
}

/// Subscription ids as Ethereum's clients expect them: strings of hex digits.
#[derive(Debug, Default)]
struct HexIds {
    count: AtomicU64,
    random: RandomState,
}

impl jsonrpsee::core::traits::IdProvider for HexIds {
    fn next_id(&self) -> SubscriptionId<'static> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        format!("{:#x}", self.random.hash_one(count)).into()
    }
}
