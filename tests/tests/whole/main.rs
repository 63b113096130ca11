//! Whole clusters in this process: members, executors and a gateway over gRPC and JSON-RPC on loopback, as `dev` runs
//! them. One binary, because linking all of it takes long.

mod failure;
mod fixture;
mod race;
mod rpc;
mod tls;
mod verify;
