//! What the tests of several modules share.

mod store;

pub(crate) use store::{FakeStore, State};
