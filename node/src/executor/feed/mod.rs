//! The feed: accepted shards and headers, as read from the store, to peers whose range overlaps the executor's.
//!
//! [`RoundBook`] keeps the outline of recent rounds as the watch tells it; [`Source`] gives the outline of any round and
//! the shards themselves, from memory or from the store; each subscriber has a task of its own with a cursor over the
//! round numbers, so that a slow one holds back nobody: it is simply further behind, and reads the store. What is sent
//! follows from the store's write-once decisions alone; that is why a restart cannot contradict it.

mod book;
mod service;
mod source;
mod subscriber;

pub use book::{Close, RoundBook};
pub use service::FeedService;
pub use source::Source;
