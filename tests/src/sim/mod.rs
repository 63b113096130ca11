//! The store in a deterministic simulation: real consensus, real files' content, real state machine, in one thread on
//! virtual time, with a network, disks and clocks that fail from one seed. The same seed is the same run, to the byte.
//!
//! [`plan`] draws what a seed means. [`process`] stands under the store's runtime, [`disk`] under its files, [`network`]
//! between its members. [`faults`] breaks things, [`clients`] use the store meanwhile, [`oracle`] checks what they and the
//! members see, [`heal`] checks that everything comes back. [`run()`] is one seed.

pub mod chain;
pub mod clients;
pub mod cluster;
pub mod disk;
pub mod durable;
pub mod faults;
pub mod followers;
pub mod heal;
pub mod makers;
pub mod mutants;
pub mod network;
pub mod oracle;
pub mod plan;
pub mod process;
pub mod random;
pub mod readers;
pub mod run;
pub mod torture;
pub mod trace;
pub mod world;

pub use plan::Plan;
pub use run::{Report, run};
