//! The door for users: Ethereum JSON-RPC in front of a cluster.

pub mod limits;
pub mod mempool;
pub mod routing;
