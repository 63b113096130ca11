//! `troika-node dev`: a whole cluster in one process, for people who want to see it run.

pub mod genesis;
