//! Consensus: many commands from many callers become one log.
//!
//! A command's way, top to bottom: [`handle`] takes it in, [`pending`] lets it wait (and keeps all but one proposal of a
//! shard waiting), [`dispatch`] makes log entries of what waits or [`forward`]s it to the leader, openraft orders and
//! replicates the entries over [`link`], [`log_store`] makes them durable, [`machine_store`] applies them, and the answer
//! goes back the same way.
//!
//! Around that: [`identity`] and [`door`] decide whose messages are taken, [`bootstrap`] forms the group, [`admin`]
//! changes it, [`reads`] makes reads linearizable, [`stamps`] knows the time, [`care`] watches. [`member`] starts all of
//! it from what it is given; [`network`] is the way out, over gRPC in [`tonic_network`].
//!
//! Nothing above this module sees openraft's traits, and nothing in it knows what a command means, but for two facts: a
//! winner is for ever, and times are stamped here.

pub mod admin;
pub mod bootstrap;
pub mod care;
pub mod codec;
pub mod compaction;
pub mod config;
mod core;
mod dispatch;
pub mod door;
pub mod error;
mod forward;
pub mod handle;
mod handover;
pub mod identity;
pub mod inspect;
mod journal;
mod link;
pub mod log_store;
pub mod machine_store;
pub mod member;
pub mod network;
mod peers;
mod pending;
mod reads;
pub mod restore;
pub mod shared;
mod snapshot;
pub mod snapshot_data;
mod stamps;
pub mod status;
pub mod storage;
pub mod tonic_network;
pub mod types;
mod waiting;
mod wire;

pub use config::MemberConfig;
pub use door::Door;
pub use error::{AdminError, ProposeError, Stopped};
pub use handle::{Handle, Position};
pub use member::{Deps, Member, StartError};
pub use pending::Proposed;
pub use status::{MemberInfo, MemberStatus, Role};
