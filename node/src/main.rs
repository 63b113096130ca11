//! `troika-node`: see `troika-node --help` and the README.

use clap::Parser;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use troika_node::cli::{BenchCommand, Cli, Command};
use troika_node::dev::genesis;
use troika_node::{bench, dev, follow, replay, serve, verify};

/// A node allocates from many threads; glibc's allocator took a fifth of the time under load.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(&cli);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(cli.command)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("troika-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// False: it ran, and what it ran for did not come true; it has said so.
async fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Dev(args) => {
            troika_store::mutant::plant("dev").map_err(anyhow::Error::msg)?;
            return dev::run(args).await;
        }
        Command::Replay(args) => return replay::run(args).await,
        Command::Executor(args) => serve::executor(args).await?,
        Command::Gateway(args) => serve::gateway(args).await?,
        Command::Follow(args) => follow::run(args).await?,
        Command::Verify(args) => return verify::run(args).await,
        Command::Export(args) => verify::export::run(&args).await?,
        Command::Genesis(args) => {
            let genesis = genesis::genesis(args.shards, args.block_time);
            writeln!(
                std::io::stdout().lock(),
                "{:#}",
                genesis::readable(&genesis)
            )?;
        }
        Command::Bench(BenchCommand::Execute(args)) => bench::execute(&args)?,
        Command::Bench(BenchCommand::Transfers(args)) => bench::transfers(&args).await?,
        Command::Bench(BenchCommand::Cold(args)) => bench::cold(&args).await?,
    }
    Ok(true)
}

/// Processes of a cluster tell what they do; commands for people keep quiet unless something is wrong.
fn log_to_stderr(cli: &Cli) {
    let usual = match cli.command {
        Command::Executor(_) | Command::Gateway(_) => "info",
        // Consensus complains of its own end; what matters of it, the members say.
        _ => "error,openraft=off",
    };
    let filter = cli.log.as_deref().unwrap_or(usual);
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // Where nobody reads the log any more, complaining of it would end the process.
        .log_internal_errors(false)
        .init();
}
