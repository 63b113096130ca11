//! Troika's node: what a process of `troika-node` does.
//!
//! Execution is pure (a block's transactions and a view of the state in, an outcome out); everything around it talks to
//! the store over gRPC alone. Only [`dev`], [`replay`] and [`verify`] link `troika-store`, to start members in their own
//! process, and even they speak to those members over loopback gRPC. (Two things are one for the store and the node: the
//! list of planted bugs in `troika_store::mutant`, which without their cargo feature are nothing, and how a certificate
//! names its holder's role.)

pub mod bench;
mod blocking;
pub mod cli;
pub mod dev;
pub mod execution;
pub mod executor;
pub mod follow;
pub mod gateway;
pub mod load;
pub mod replay;
pub mod serve;
pub mod store_client;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod verify;
