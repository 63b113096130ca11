//! What the process tells its operator: log lines on standard error, and numbers for Prometheus.

use std::io::IsTerminal;
use std::net::SocketAddr;

use metrics_exporter_prometheus::PrometheusBuilder;
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
    let usual = "info,openraft=error";
    let filter = EnvFilter::try_from_env("TROIKA_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match form {
        LogForm::Text => lines.init(),
        LogForm::Json => lines.json().init(),
    }
}

/// Serves `/metrics`.
///
/// # Errors
/// A text that names the address.
pub fn serve_metrics(address: SocketAddr) -> Result<(), String> {
    let installed = PrometheusBuilder::new()
        .with_http_listener(address)
        .install();
    installed.map_err(|error| format!("cannot serve metrics on {address}: {error}"))
}
