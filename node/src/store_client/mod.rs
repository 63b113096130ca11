//! The typed client of the store: what every other part of the node uses to speak to it.
//!
//! One [`StoreClient`] holds a multiplexed connection to each member. A call goes to the member that answered last and,
//! when that one fails, on to the next with a back-off, until the call's deadline. That is safe because the store is
//! built for it: decisions are write-once, so a repeated call is answered with what was decided (a lost race names its
//! winner, a second opener gets the first's round). The few calls that are not safe to repeat are not in here.
//!
//! Replies are parsed once, here; everything that leaves this module is a checked value. A refusal is a value too
//! ([`Refusal`]), only a call that got no answer is an error ([`StoreError`]).
//!
//! Reads are monotonic: the client remembers the newest revision that any reply has named and asks members not to answer
//! from an older state, so that a switch of members never shows an older head. [`Watch`] is the stream of events; it
//! survives reconnects and members without a gap or a repeat.
//!
//! It knows nothing of executing, of pending transactions or of JSON-RPC.

mod cluster;
mod convert;
mod limits;
mod read;
mod rounds;
mod state;
mod transport;
mod types;
mod watch;

pub use cluster::{InitOutcome, MemberInfo};
pub use read::{AccountState, Ahead, StateKey, StateValue, StateValues};
pub use state::{BlockId, ShardParts};
pub use transport::{Options, StoreClient, StoreError};
pub use types::{
    AcceptedShard, Acquired, Block, BlockDiff, BlockShard, Event, EventId, EventKind, Head,
    LockHolder, Opened, Place, Refusal, RefusalCode, Reported, Round, RoundKind, RoundStatus, Seal,
    Submitted, Winner,
};
pub use watch::{ShardFilter, Watch, WatchBatch, WatchError};
