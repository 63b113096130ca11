//! `troikactl`: the command line client of a Troika store. Everything is in [`troika_store::ctl`].

use clap::Parser;
use std::process::ExitCode;
use troika_store::ctl;

/// A node allocates from many threads; glibc's allocator took a fifth of the time under load.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ctl::main(ctl::Cli::parse())
}
