//! What the process tells its operator line by line, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogForm {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. The environment variable `TROIKA_LOG` chooses levels, as in `info,troika_store=debug`.
pub fn start(form: LogForm) {
    // What these two call errors is the end of a member that was asked to end; why one ends otherwise, it says itself.
    let usual =
        "info,openraft=error,openraft::raft::raft_inner=off,openraft::raft::stream_append=off";
    let filter = EnvFilter::try_from_env("TROIKA_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Without a reader there is nobody to tell that a line is lost: telling it would end the member.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match form {
        LogForm::Text => lines.init(),
        LogForm::Json => lines.json().init(),
    }
}
