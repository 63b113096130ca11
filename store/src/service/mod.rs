//! The gRPC services: what clients call, on any member.
//!
//! Every handler has three beats: **parse** ([`parse`]: the request into checked values, naming what is malformed),
//! **do** (propose a command, or read applied state), **answer** (back to the wire). One file per service:
//! [`rounds`], [`state`], [`cluster`]; submissions and watches, which carry the load, have files of their own
//! ([`submit`], [`watch`]). [`status`] is the one table from faults to codes, [`limits`] holds every bound.
//!
//! What a handler must never do: hold the machine's lock across an await or for longer than one answer takes, answer
//! "not decided" or "conflict" from this member's own state, or wait without the call's deadline.

pub mod access;
mod ahead;
mod cluster;
mod context;
mod health;
pub mod limits;
pub mod parse;
mod reads;
mod room;
mod rounds;
mod state;
pub mod status;
mod submit;
mod watch;

pub use cluster::resident_bytes;
pub use health::READY_SERVICE;
use health::report_health;

use crate::raft::Handle;
use context::Context;
use futures::stream::BoxStream;
use tonic::Status;
use tonic::service::Routes;
use troika_proto::DESCRIPTORS;
use troika_proto::limits::MAX_MESSAGE_BYTES;
use troika_proto::v1::WatchResponse;
use troika_proto::v1::cluster_server::{self, ClusterServer};
use troika_proto::v1::rounds_server::{self, RoundsServer};
use troika_proto::v1::state_server::{self, StateServer};

/// What [`Rounds::watch`](rounds_server::Rounds::watch) of [`rounds()`] streams.
pub type Watched = BoxStream<'static, Result<WatchResponse, Status>>;

/// The service `Rounds` for callers in the same process: a simulation's clients call it without a server.
pub fn rounds(handle: Handle) -> impl rounds_server::Rounds<WatchStream = Watched> {
    rounds::RoundsService::new(Context::new(handle))
}

/// The service `State` for callers in the same process.
pub fn state(handle: Handle) -> impl state_server::State {
    state::StateService::new(Context::new(handle))
}

/// The service `Cluster` for callers in the same process.
pub fn cluster(handle: Handle) -> impl cluster_server::Cluster {
    cluster::ClusterService::new(Context::new(handle))
}

/// Everything that a member offers to clients: `Rounds`, `State`, `Cluster`, health and reflection.
///
/// Health follows the member until it has ended.
pub fn routes(handle: Handle) -> Routes {
    let context = Context::new(handle);
    let (reporter, health) = tonic_health::server::health_reporter();
    report_health(context.clone(), reporter);
    let mut routes = Routes::builder();
    routes
        .add_service(
            RoundsServer::new(rounds::RoundsService::new(context.clone()))
                .max_decoding_message_size(limits::ROUNDS_REQUEST_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            StateServer::new(state::StateService::new(context.clone()))
                .max_decoding_message_size(limits::STATE_REQUEST_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            ClusterServer::new(cluster::ClusterService::new(context))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(health);
    // The descriptors are compiled in, so this fails in every test or never.
    match tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()
    {
        Ok(reflection) => {
            routes.add_service(reflection);
        }
        Err(error) => tracing::error!(%error, "no reflection"),
    }
    routes.routes()
}
