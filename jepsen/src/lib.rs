//! The fault suite: real processes, real faults, recorded histories, checked.
//!
//! It shares nothing with what it tests but the wire (`troika-proto`): it would find a mistake in a shared client or a
//! shared type, which a suite built on them could not.
//!
//! A run ([`run`]) starts a [`cluster`] of processes, on hosts of its own where the machine allows it ([`net`]), loads it
//! ([`workload`], through [`client`]), breaks it ([`nemesis`]), and records everything ([`recorder`], [`history`]).
//! [`checker`] are pure functions from a history to findings; [`report`] shows them to a person; [`synthetic`] makes
//! histories of a correct store, to test the checkers themselves.

pub mod checker;
pub mod client;
pub mod cluster;
pub mod edn;
pub mod history;
pub mod nemesis;
pub mod net;
pub mod options;
pub mod recorder;
pub mod report;
pub mod run;
pub mod synthetic;
pub mod workload;
