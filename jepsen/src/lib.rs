//! The fault suite: real processes, real faults, recorded histories, checked.
//!
//! It shares nothing with what it tests but the wire (`troika-proto`): it would find a mistake in a shared client or a
//! shared type, which a suite built on them could not.
//!
//! A run ([`run`]) starts a [`cluster`] of processes, on hosts of its own where the machine allows it ([`net`], [`disk`]),
//! loads it ([`workload`], through [`client`]) and breaks it ([`nemesis`]) as its seed decides ([`plan`]), and records
//! everything ([`recorder`], [`history`], [`disks`]). [`checker`] are pure functions from a history to findings, [`logs`] looks at
//! what processes said, [`verdict`] judges; [`report`] shows it to a person, [`serve`] many of them. [`suite`] and
//! [`mutants`] are many runs. [`synthetic`] makes histories of a correct store, to test the checkers themselves
//! ([`self_test`]).

pub mod checker;
pub mod client;
pub mod cluster;
pub mod disk;
pub mod disks;
pub mod doctor;
pub mod edn;
pub mod history;
pub mod logs;
pub mod mutants;
pub mod nemesis;
pub mod net;
pub mod options;
pub mod plan;
pub mod recorder;
pub mod registers;
pub mod report;
pub mod run;
pub mod self_test;
pub mod serve;
pub mod suite;
pub mod synthetic;
pub mod verdict;
pub mod workload;
