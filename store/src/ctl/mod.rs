//! The command line client of a store: what an operator types and a developer scripts.
//!
//! It talks gRPC to any member and knows nothing of consensus or storage. Every command reads its arguments into the
//! checked vocabulary first ([`parse`], [`genesis`], [`proposal`]), makes its calls ([`client`]), and prints one value as
//! a table or as JSON ([`output`], [`show`]). Exit codes are part of the interface ([`exit`]): scripts may rely on them.
//!
//! This is a process of its own that no simulation runs, so it uses tokio directly.
#![allow(
    clippy::disallowed_methods,
    reason = "a client process: never part of a simulation"
)]

mod args;
mod bench;
mod block_file;
mod certs;
mod chain;
mod client;
mod cluster;
pub mod exit;
pub mod genesis;
mod output;
mod parse;
pub mod proposal;
mod rounds;
mod show;
mod submit;
mod watch;

pub use args::Cli;

use args::Command;
use clap::CommandFactory;
use client::Client;
use exit::{CtlError, Outcome};
use output::Output;
use std::process::ExitCode;

/// Runs one command to its end and says how it went. Answers go to standard output, errors to standard error.
pub fn main(cli: Cli) -> ExitCode {
    if let Command::Completion { shell } = cli.command {
        let mut command = Cli::command();
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, "troikactl", &mut script);
        output::line(String::from_utf8_lossy(&script).trim_end());
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return CtlError::Failed(format!("cannot start the runtime: {error}")).report();
        }
    };
    let code = match runtime.block_on(run(cli)) {
        Ok(outcome) => outcome.into(),
        Err(error) => error.report(),
    };
    // A watch may still hold a connection: nothing of it is worth waiting for.
    runtime.shutdown_background();
    code
}

async fn run(cli: Cli) -> Result<Outcome, CtlError> {
    let out = Output::new(cli.global.output);
    if let Command::Certs(args) = &cli.command {
        return certs::make(&out, args);
    }
    let client = Client::new(&cli.global)?;
    match cli.command {
        Command::Status => cluster::status(&client, &out).await,
        Command::Health { wait } => cluster::health(&client, &out, wait).await,
        Command::Member { command } => cluster::member(&client, &out, command).await,
        Command::Leader { command } => cluster::leader(&client, &out, command).await,
        Command::Init { genesis } => cluster::init(&client, &out, &genesis).await,
        Command::Prune { below } => cluster::prune(&client, &out, below).await,
        Command::Backup { file } => cluster::backup(&client, &out, &file).await,
        Command::Round { command } => rounds::round(&client, &out, command).await,
        Command::Lock { command } => rounds::lock(&client, &out, command).await,
        Command::Submit(args) => submit::submit(&client, &out, args).await,
        Command::Head { linearizable } => chain::head(&client, &out, linearizable).await,
        Command::Block { block } => chain::block(&client, &out, &block).await,
        Command::Shard(args) => chain::shard(&client, &out, &args).await,
        Command::State { command } => chain::state(&client, &out, command).await,
        Command::Find { hash } => chain::find(&client, &out, hash).await,
        Command::Watch(args) => watch::watch(&client, &out, args).await,
        Command::Bench { command } => bench::run(&cli.global, command).await,
        // Both need no cluster, and were done before there was a client.
        Command::Certs(_) | Command::Completion { .. } => Ok(Outcome::Yes),
    }
}
