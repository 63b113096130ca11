//! A member as a process, or as a part of one: its two listeners around the value that [`Member`] is.
//!
//! [`start`] opens the data directory, serves other members on one address and clients on another, and returns a
//! [`Server`]. Nothing here ends the process: [`Server::stopped`] tells when and why the member has ended, and `main`
//! makes an exit code of it.

pub mod certificate;
mod connections;
pub mod edge;
pub mod log;
pub mod prometheus;
pub mod tls;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::clock::SystemClock;
use crate::db::DiskFiles;
use crate::raft::tonic_network::{
    self, CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES, TonicNetwork,
};
use crate::raft::{Deps, Handle, Member, MemberConfig, StartError, Stopped};
use crate::runtime::Runtime;
use edge::{Admission, Edge};
use std::time::Duration;
use tls::Tls;

/// Most calls and streams of one connection at a time.
const STREAMS_PER_CONNECTION: u32 = 4_096;
/// Most connections of a listener. One more is closed as soon as it is made.
const CONNECTIONS: usize = 4_096;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Silence of a connection after which it is asked for a sign of life, and how long that may take: a client that is gone
/// without a word must not keep its watch for ever.
const PING: Duration = Duration::from_secs(20);

/// Why a member could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The member does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The data directory cannot be made or opened.
    #[error("cannot open the data directory {path}: {error}")]
    Directory {
        /// The directory.
        path: String,
        /// The system's words.
        error: std::io::Error,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// HOST:PORT.
        address: String,
        /// The system's words.
        error: std::io::Error,
    },
    /// Certificates or keys cannot be used.
    #[error("TLS: {0}")]
    Tls(String),
    /// Plain text beyond this machine was not asked for.
    #[error(
        "{0} is not a loopback address: give --cacert, --cert and --key for TLS, or --insecure for plain text"
    )]
    PlainText(SocketAddr),
}

/// A member that is served.
pub struct Server {
    /// The member.
    pub handle: Handle,
    /// Where clients reach it.
    pub client_addr: SocketAddr,
    /// Where members reach it.
    pub peer_addr: SocketAddr,
    listeners: Vec<JoinHandle<()>>,
}

/// Binds an address for [`start`].
///
/// # Errors
/// [`ServeError::Listen`].
pub async fn bind(address: &str) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| ServeError::Listen {
        address: address.into(),
        error,
    })
}

/// Refuses plain text beyond this machine unless it was asked for.
///
/// # Errors
/// [`ServeError::PlainText`].
pub fn check_exposure(address: SocketAddr, tls: &Tls, insecure: bool) -> Result<(), ServeError> {
    match tls.is_on() || insecure || address.ip().is_loopback() {
        true => Ok(()),
        false => Err(ServeError::PlainText(address)),
    }
}

/// Starts a member on a directory and serves it on two bound addresses.
///
/// # Errors
/// See [`ServeError`]. Nothing runs then.
pub async fn start(
    config: MemberConfig,
    data: &Path,
    clients: TcpListener,
    peers: TcpListener,
    tls: Tls,
) -> Result<Server, ServeError> {
    tls.check_member(config.id)?;
    let path = data.to_owned();
    let files = Runtime::spawn_blocking(move || DiskFiles::create(&path)).await;
    let files = files.map_err(|error| ServeError::Directory {
        path: data.display().to_string(),
        error,
    })?;
    let listening = |listener: &TcpListener| {
        listener.local_addr().map_err(|error| ServeError::Listen {
            address: "a bound listener".into(),
            error,
        })
    };
    let (client_addr, peer_addr) = (listening(&clients)?, listening(&peers)?);
    let deps = Deps {
        files: Arc::new(files),
        clock: Arc::new(SystemClock),
        network: TonicNetwork::new(tls.client()),
        observer: None,
        config,
    };
    let handle = Member::start(deps).await?;
    let mut door = tonic::service::Routes::builder();
    door.add_service(tonic_network::service(handle.door()));
    let listeners = vec![
        listen(handle.clone(), peers, door.routes(), &tls, tls.members())?,
        listen(
            handle.clone(),
            clients,
            crate::service::routes(handle.clone()),
            &tls,
            tls.clients(),
        )?,
    ];
    Runtime::spawn(prometheus::keep(handle.clone()));
    tracing::info!(id = handle.id(), clients = %client_addr, members = %peer_addr, "serving");
    Ok(Server {
        handle,
        client_addr,
        peer_addr,
        listeners,
    })
}

/// Serves routes until the member has ended.
fn listen(
    handle: Handle,
    listener: TcpListener,
    routes: tonic::service::Routes,
    tls: &Tls,
    admission: Admission,
) -> Result<JoinHandle<()>, ServeError> {
    let mut server = tonic::transport::Server::builder()
        .layer(Edge(admission))
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION);
    if let Some(tls) = tls.server(admission) {
        server = server
            .tls_config(tls)
            .map_err(|error| ServeError::Tls(error.to_string()))?;
    }
    let incoming = connections::accepted(listener, CONNECTIONS);
    Ok(Runtime::spawn(async move {
        let ended = handle.clone();
        let serving = server.add_routes(routes).serve_with_incoming(incoming);
        // Connections stay open as long as clients like; the member's end ends them.
        tokio::select! {
            biased;
            _ = ended.stopped() => {}
            served = serving => if let Err(error) = served {
                tracing::error!(%error, "a listener has ended");
            },
        }
    }))
}

impl Server {
    /// Ready when the member has ended, with the reason.
    pub async fn stopped(&self) -> Stopped {
        self.handle.stopped().await
    }

    /// Stops in order: see [`Handle::shutdown`].
    pub async fn shutdown(self) {
        self.handle.shutdown().await;
        for listener in self.listeners {
            // It ends with the member.
            let _ = listener.await;
        }
    }
}
