//! `troikactl`: the command line client of a Troika store. Everything is in [`troika_store::ctl`].

use clap::Parser;
use std::process::ExitCode;
use troika_store::ctl;

fn main() -> ExitCode {
    ctl::main(ctl::Cli::parse())
}
