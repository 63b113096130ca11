//! The fault suite: real processes, real faults, recorded histories, checked.
//!
//! It shares nothing with what it tests but the wire (`troika-proto`): it would find a mistake in a shared client or a
//! shared type, which a suite built on them could not.
//!
//! [`history`] is what a run leaves; [`checker`] are pure functions from a history to findings; [`synthetic`] makes
//! histories of a correct store, and breaks them, to test the checkers themselves.

pub mod checker;
pub mod edn;
pub mod history;
pub mod synthetic;
