//! `troika-store`: a member of the replicated store, and what is done to its data directory while it does not run.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use troika_store::db::{DiskFiles, Files};
use troika_store::raft::config::ENTRIES_IN_FLIGHT;
use troika_store::raft::types::LogId;
use troika_store::raft::{MemberConfig, Stopped, inspect, restore};
use troika_store::server::{self, log, tls::Tls};
use troika_store::service::access::Role;
use troika_store::state::RecordKey;

/// A node allocates from many threads; glibc's allocator took a fifth of the time under load.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long freed memory is kept for the next who asks, milliseconds. With mimalloc's own second a member under load is half
/// as large again; with none it is an eighth slower.
const KEEP_FREED_MS: std::ffi::c_long = 100;

#[allow(unsafe_code)] // The crate has no safe wrapper for the allocator's options.
fn set_up_allocator() {
    /// `mi_option_purge_delay` in `mimalloc.h`.
    const PURGE_DELAY: std::ffi::c_int = 15;
    unsafe extern "C" {
        /// What an option is where the environment (`MIMALLOC_PURGE_DELAY`) does not say.
        safe fn mi_option_set_default(option: std::ffi::c_int, value: std::ffi::c_long);
    }
    mi_option_set_default(PURGE_DELAY, KEEP_FREED_MS);
}

/// A member of Troika's replicated store.
#[derive(Parser)]
#[command(name = "troika-store", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a member.
    Serve(Box<Serve>),
    /// Check a data directory, print what is in it and its state hash.
    Inspect(Inspect),
    /// Make the data directory of the first member of a new cluster from a backup.
    Restore(Restore),
    /// List the bugs that can be planted in this build (JSON).
    #[cfg(feature = "mutants")]
    #[command(hide = true)]
    Mutants,
}

#[derive(Args)]
struct Serve {
    /// This member's id, at least 1. Never use one twice in a cluster's life.
    #[arg(long, env = "TROIKA_ID")]
    id: u64,
    /// Data directory. Made if it is not there.
    #[arg(long, env = "TROIKA_DATA")]
    data: PathBuf,
    /// HOST:PORT for clients.
    #[arg(long, env = "TROIKA_LISTEN", default_value = "127.0.0.1:7001")]
    listen: String,
    /// HOST:PORT for other members.
    #[arg(long, env = "TROIKA_PEER_LISTEN", default_value = "127.0.0.1:7101")]
    peer_listen: String,
    /// HOST:PORT under which clients reach this member, if it is not where it listens.
    #[arg(long)]
    advertise: Option<String>,
    /// The members that form the cluster, this one included: 1=HOST:PORT,2=HOST:PORT,... Their addresses for members.
    #[arg(long, env = "TROIKA_MEMBERS", value_delimiter = ',', value_parser = member)]
    members: Vec<(u64, String)>,
    /// Start empty and wait to be added to a cluster that runs (`troikactl member add`).
    #[arg(long)]
    join: bool,
    /// Allow plain text on addresses other than loopback, for --metrics also beside TLS.
    #[arg(long)]
    insecure: bool,
    /// The authority that signs the certificates of members and clients (PEM). With --cert and --key: TLS.
    #[arg(long, env = "TROIKA_CACERT", value_name = "FILE", requires_all = ["cert", "key"])]
    cacert: Option<PathBuf>,
    /// This member's certificate (PEM): subject CN=member-ID, OU=member; names member-ID and those in --listen.
    #[arg(long, env = "TROIKA_CERT", value_name = "FILE", requires_all = ["cacert", "key"])]
    cert: Option<PathBuf>,
    /// The key of this member's certificate (PEM).
    #[arg(long, env = "TROIKA_KEY", value_name = "FILE", requires_all = ["cacert", "cert"])]
    key: Option<PathBuf>,
    /// With TLS: let clients without a certificate in, with this role. Otherwise they are refused.
    #[arg(long, value_name = "ROLE", requires = "cacert", value_parser = anonymous)]
    anonymous: Option<Role>,
    /// How log lines look. TROIKA_LOG chooses levels.
    #[arg(long, value_enum, default_value = "text")]
    log: log::LogForm,
    /// HOST:PORT for Prometheus (`/metrics`).
    #[arg(long)]
    metrics: Option<SocketAddr>,
    /// Pause between two heartbeats, milliseconds.
    #[arg(long, default_value_t = 200)]
    heartbeat_ms: u64,
    /// Shortest silence of the leader after which an election begins, milliseconds; the longest is a third more.
    #[arg(long, default_value_t = 1_500)]
    election_ms: u64,
    /// Free bytes on the disk below which writes are refused.
    #[arg(long, default_value_t = 256 << 20)]
    reserve_bytes: u64,
    /// Log entries that a leader has under way before further commands gather in the next one. Fewer: larger entries.
    #[arg(long, default_value_t = ENTRIES_IN_FLIGHT, value_parser = in_flight)]
    entries_in_flight: usize,
    /// Bytes of the log kept behind a checkpoint for members that lag; one that lacks more is sent the state.
    #[arg(long, default_value_t = troika_store::limits::LOG_KEEP_BYTES)]
    log_keep_bytes: u64,
}

#[derive(Args)]
struct Inspect {
    /// Data directory of a member that does not run.
    #[arg(long)]
    data: PathBuf,
    /// Compute the state at this log index instead of at the checkpoint.
    #[arg(long)]
    at: Option<u64>,
}

#[derive(Args)]
struct Restore {
    /// The backup, as `troikactl backup` wrote it.
    file: PathBuf,
    /// An empty data directory.
    #[arg(long)]
    data: PathBuf,
    /// Id of the new cluster's first member.
    #[arg(long, default_value_t = 1)]
    id: u64,
    /// HOST:PORT under which other members will reach it.
    #[arg(long, default_value = "127.0.0.1:7101")]
    peer_listen: String,
    /// HOST:PORT under which clients will reach it.
    #[arg(long, default_value = "127.0.0.1:7001")]
    listen: String,
}

fn in_flight(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=64) => Ok(count),
        _ => Err("expected a number from 1 to 64".to_owned()),
    }
}

fn member(text: &str) -> Result<(u64, String), String> {
    let (id, address) = text
        .split_once('=')
        .ok_or("a member is written ID=HOST:PORT")?;
    let id = id
        .parse()
        .map_err(|_| format!("{id} is not a member id (1 or higher)"))?;
    if id == 0 || !address.contains(':') {
        return Err("a member is written ID=HOST:PORT, with an id of at least 1".into());
    }
    Ok((id, address.to_owned()))
}

/// A role for clients that show no certificate.
fn anonymous(text: &str) -> Result<Role, String> {
    match Role::from_name(text) {
        Some(role) if role != Role::Member => Ok(role),
        _ => Err("expected reader, executor or admin".into()),
    }
}

fn main() -> ExitCode {
    set_up_allocator();
    let done = match Cli::parse().command {
        Command::Serve(arguments) => return serve(*arguments),
        Command::Inspect(arguments) => print_inspection(&arguments),
        Command::Restore(arguments) => run_restore(&arguments),
        #[cfg(feature = "mutants")]
        Command::Mutants => print(&format!("{}\n", troika_store::mutant::json())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => fail(&message),
    }
}

/// A reader who has seen enough, like `head`, is no failure.
fn print(text: &str) -> Result<(), String> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Tells the operator. Without a reader there is nobody to tell.
fn complain(message: &dyn std::fmt::Display) {
    writeln!(std::io::stderr(), "troika-store: {message}").ok();
}

fn fail(message: &str) -> ExitCode {
    complain(&message);
    ExitCode::FAILURE
}

fn serve(arguments: Serve) -> ExitCode {
    log::start(arguments.log);
    if let Err(message) = troika_store::mutant::plant(&arguments.id.to_string()) {
        return fail(&message);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    match runtime.block_on(run(arguments)) {
        Ok(Stopped::Requested) => ExitCode::SUCCESS,
        Ok(why) => {
            complain(&why);
            ExitCode::from(why.exit_code())
        }
        Err(message) => fail(&message),
    }
}

async fn run(arguments: Serve) -> Result<Stopped, String> {
    let tls = match (&arguments.cert, &arguments.key, &arguments.cacert) {
        (Some(cert), Some(key), Some(cacert)) => {
            Tls::load(cert, key, cacert, arguments.anonymous).map_err(|e| e.to_string())?
        }
        _ => Tls::off(),
    };
    if let Some(address) = arguments.metrics {
        if !arguments.insecure && !address.ip().is_loopback() {
            return Err(format!(
                "--metrics: {address} is not a loopback address, and numbers are always served in plain text: give \
                 --insecure if that is meant"
            ));
        }
        server::prometheus::serve(address)?;
    }
    let clients = server::bind(&arguments.listen)
        .await
        .map_err(|e| e.to_string())?;
    let peers = server::bind(&arguments.peer_listen)
        .await
        .map_err(|e| e.to_string())?;
    for listener in [&clients, &peers] {
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        server::check_exposure(address, &tls, arguments.insecure).map_err(|e| e.to_string())?;
    }
    let config = config(&arguments);
    let started = server::start(config, &arguments.data, clients, peers, tls).await;
    let server = started.map_err(|error| error.to_string())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    tokio::select! {
        biased;
        why = server.stopped() => return Ok(why),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: leadership is handed over first");
    let handle = server.handle.clone();
    server.shutdown().await;
    Ok(handle.stopped().await)
}

fn config(arguments: &Serve) -> MemberConfig {
    let members: std::collections::BTreeMap<_, _> = arguments.members.iter().cloned().collect();
    // The members' own list says how they reach this one.
    let peer_addr = members
        .get(&arguments.id)
        .unwrap_or(&arguments.peer_listen)
        .clone();
    let client_addr = arguments
        .advertise
        .as_ref()
        .unwrap_or(&arguments.listen)
        .clone();
    let mut config = MemberConfig::new(arguments.id, peer_addr, client_addr);
    config.members = members;
    config.join = arguments.join;
    config.entries_in_flight = arguments.entries_in_flight;
    config.heartbeat = Duration::from_millis(arguments.heartbeat_ms);
    config.election = Duration::from_millis(arguments.election_ms);
    config.reserve_bytes = arguments.reserve_bytes;
    config.log_keep_bytes = arguments.log_keep_bytes;
    config
}

fn print_inspection(arguments: &Inspect) -> Result<(), String> {
    let files = DiskFiles::open(&arguments.data).map_err(|error| error.to_string())?;
    let found = inspect::inspect(&files, arguments.at).map_err(|error| error.to_string())?;
    let mut text = String::new();
    macro_rules! say {
        ($($part:tt)*) => { writeln!(text, $($part)*).expect("a string takes everything") };
    }
    let hex = troika_store::raft::identity::hex;
    let cluster = found
        .identity
        .cluster
        .map_or_else(|| "none yet".to_owned(), |id| hex(&id));
    let id = |id: Option<LogId>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
    say!("member         {}", found.identity.member);
    say!("cluster        {cluster}");
    say!("incarnation    {}", hex(&found.identity.incarnation));
    say!(
        "vote           {}",
        found
            .vote
            .map_or_else(|| "none".to_owned(), |vote| vote.to_string())
    );
    say!(
        "log            {} entries, {} bytes",
        found.entries,
        found.entry_bytes
    );
    say!("  purged up to {}", id(found.purged));
    say!("  committed    {} or later", id(found.committed));
    say!("  last         {}", id(found.last));
    let checkpoint = found.checkpoint.as_ref();
    say!(
        "checkpoint     {}",
        id(checkpoint.and_then(|meta| meta.last_log_id))
    );
    for (member, node) in checkpoint
        .iter()
        .flat_map(|meta| meta.last_membership.nodes())
    {
        say!(
            "  member {member}     {} (incarnation {})",
            node.peer_addr,
            hex(&node.incarnation)
        );
    }
    for (kind, records) in &found.records {
        say!(
            "  {:<28} {}, {} bytes",
            RecordKey::kind_name(*kind),
            records.count,
            records.bytes
        );
    }
    say!("state at index {}", found.index);
    say!("  revision     {}", found.revision);
    say!("  state hash   {}", hex(&found.state_hash.to_bytes()));
    print(&text)
}

fn run_restore(arguments: &Restore) -> Result<(), String> {
    let name = arguments.file.display();
    let backup =
        std::fs::File::open(&arguments.file).map_err(|error| format!("{name}: {error}"))?;
    let files = DiskFiles::create(&arguments.data).map_err(|error| error.to_string())?;
    let files: Arc<dyn Files> = Arc::new(files);
    let identity = restore::restore(
        &files,
        backup,
        arguments.id,
        &arguments.peer_listen,
        &arguments.listen,
    )
    .map_err(|error| format!("{name}: {error}"))?;
    let cluster = troika_store::raft::identity::hex(&identity.cluster.unwrap_or_default());
    let member = identity.member;
    print(&format!(
        "restored into a new cluster {cluster}, whose only member is {member}\n\
         start it with: troika-store serve --id {member} --data {} --members {member}={}\n",
        arguments.data.display(),
        arguments.peer_listen
    ))
}
