//! `troika-node executor` and `troika-node gateway`: one part of a cluster as a process of its own.

use crate::cli::{ExecutorArgs, GatewayArgs};
use crate::executor::{Executor, ExecutorConfig};
use crate::gateway::{self, Gateway};
use crate::store_client::{StoreClient, StoreError};
use crate::tls::{Tls, store_options, urls};
use crate::verify::{self, peers};
use anyhow::{Context, bail};
use metrics_exporter_prometheus::PrometheusBuilder;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use troika_store::mutant::plant;

/// Pause before a gateway looks again whether the store is there.
const START_PAUSE: Duration = Duration::from_millis(500);

/// Runs an executor until it is told to stop.
///
/// # Errors
/// Arguments that cannot work, or an address that cannot be listened on.
pub async fn executor(args: ExecutorArgs) -> anyhow::Result<()> {
    let tls = Tls::read(&args.tls)?;
    refuse_plain_text(args.listen, tls.is_some(), args.insecure)?;
    serve_metrics(args.metrics)?;
    let name = args
        .name
        .unwrap_or_else(|| format!("executor-{}", args.listen.port()));
    plant(&name).map_err(anyhow::Error::msg)?;
    let store = store_options(&args.store.store, tls.as_ref())?;
    let peers = peers::at(&args.peers, tls.as_ref())?;
    let shards = (args.shards.first, args.shards.last);
    let mut config = ExecutorConfig::new(name, store, shards, args.listen);
    config.tls = tls.as_ref().map(Tls::server);
    config.owners = args.owners;
    config.build = !args.check_only;
    let store = StoreClient::new(config.store.clone())?;
    let executor = Executor::start(config).await?;
    tokio::select! {
        stopped = told_to_stop() => stopped?,
        () = verify::follow_peers(&peers, &store, &executor), if !peers.is_empty() => {}
    }
    executor.shutdown().await;
    Ok(())
}

/// Runs a gateway until it is told to stop.
///
/// # Errors
/// Arguments that cannot work, or an address that cannot be listened on.
pub async fn gateway(args: GatewayArgs) -> anyhow::Result<()> {
    let tls = Tls::read(&args.tls)?;
    // JSON-RPC is plain text in any case: who wants TLS there puts a proxy before it.
    refuse_plain_text(args.rpc, false, args.insecure)?;
    serve_metrics(args.metrics)?;
    let name = args
        .name
        .unwrap_or_else(|| format!("gateway-{}", args.rpc.port()));
    plant(&name).map_err(anyhow::Error::msg)?;
    let store = StoreClient::new(store_options(&args.store.store, tls.as_ref())?)?;
    let config = gateway::Config {
        name,
        store,
        executors: urls(&args.executors, tls.as_ref())?,
        executor_tls: tls.as_ref().map(Tls::client),
        rpc: args.rpc,
        policy: args.policy.policy(),
    };
    let handle = loop {
        match Gateway::start(config.clone()).await {
            Ok(handle) => break handle,
            // Started before the store, or before the chain: that is no reason to end.
            Err(gateway::StartError::Store(
                error @ (StoreError::NoChain | StoreError::Unavailable { .. }),
            )) => {
                tracing::warn!(%error, "waiting for the store");
                tokio::select! {
                    stopped = told_to_stop() => return stopped,
                    () = sleep(START_PAUSE) => {}
                }
            }
            Err(error) => return Err(error.into()),
        }
    };
    tracing::info!(rpc = %handle.rpc_addr(), "gateway serves");
    told_to_stop().await?;
    handle.shutdown().await;
    Ok(())
}

/// Plain text is for loopback, or for those who ask for it.
fn refuse_plain_text(listen: SocketAddr, tls: bool, insecure: bool) -> anyhow::Result<()> {
    if listen.ip().is_loopback() || tls || insecure {
        return Ok(());
    }
    bail!(
        "{listen} is not on loopback and would be served in plain text: give --cacert, --cert and --key, or --insecure"
    )
}

fn serve_metrics(listen: Option<SocketAddr>) -> anyhow::Result<()> {
    let Some(listen) = listen else {
        return Ok(());
    };
    PrometheusBuilder::new()
        .with_http_listener(listen)
        .install()
        .with_context(|| format!("serving metrics on {listen}"))
}

/// Ctrl-C, or what an init system sends.
async fn told_to_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays_on_loopback_unless_asked_for() {
        let loopback = "127.0.0.1:1".parse().expect("an address");
        let public = "0.0.0.0:1".parse().expect("an address");
        assert!(refuse_plain_text(loopback, false, false).is_ok());
        assert!(refuse_plain_text(public, true, false).is_ok());
        assert!(refuse_plain_text(public, false, true).is_ok());
        let error = refuse_plain_text(public, false, false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("--insecure") && error.contains("0.0.0.0:1"),
            "{error}"
        );
    }
}
