//! Troika's node: executors, the JSON-RPC gateway, and a whole cluster in one process.

pub mod execution;
pub mod gateway;
pub mod store_client;
