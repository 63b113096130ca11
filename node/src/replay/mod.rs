//! `troika-node replay`: real mainnet blocks through a cluster, compared with sequential execution.

pub mod measure;
