//! A member as a value: started from what it is given, ended by a returned event.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use tokio::sync::watch;

use super::config::MemberConfig;
use super::core::{Core, Raft};
use super::handle::Handle;
use super::identity::{ClusterId, Identity, SaveCluster};
use super::link::Links;
use super::machine_store::Shared;
use super::network::Network;
use super::peers::Peers;
use super::reads::{self, Reads};
use super::shared::Observer;
use super::stamps::{self, Stamps};
use super::storage::Storage;
use super::waiting::Waiting;
use super::{bootstrap, care, compaction, dispatch};
use crate::clock::Clock;
use crate::db::directory::join_cluster;
use crate::db::{Files, Identity as DirectoryIdentity, OpenError};
use crate::runtime::Runtime;

/// What a member needs from outside. It touches nothing else.
pub struct Deps {
    /// How it is set up.
    pub config: MemberConfig,
    /// Its data directory.
    pub files: Arc<dyn Files>,
    /// The wall clock, which only stamps commands.
    pub clock: Arc<dyn Clock>,
    /// The way to other members.
    pub network: Arc<dyn Network>,
    /// Told of every applied entry; for tests.
    pub observer: Option<Observer>,
}

/// Why a member could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The configuration cannot be.
    #[error("{0}")]
    Config(String),
    /// The files hold something that consensus cannot start from.
    #[error("cannot start from what the data directory holds: {0}")]
    Recovery(String),
}

/// A replicated store's process, or what would be one.
pub struct Member;

impl Member {
    /// Opens the data directory and takes part. Returns when the member can be reached, which is before it belongs to a
    /// group: [`Handle::status`] tells, and [`Handle::stopped`] when and why it has ended.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing runs then.
    pub async fn start(deps: Deps) -> Result<Handle, StartError> {
        let config = deps.config;
        check(&config, &deps.files).await?;
        let consensus = Arc::new(config.consensus().map_err(StartError::Config)?);
        let storage = Storage::open(deps.files.clone(), config.id, None, deps.observer).await?;
        let (own, shared) = (storage.identity, storage.shared);
        let understood = shared.understand(config.max_feature_level);
        understood.map_err(|fault| StartError::Recovery(fault.to_string()))?;
        let save = save_cluster(deps.files.clone(), shared.clone());
        let identity = Identity::new(config.id, own.incarnation, own.cluster, save);
        let peers = Peers::new(Arc::new(identity), deps.network);
        let links = Links::new(peers.clone());
        let log = storage.log;
        let raft = Raft::new(config.id, consensus, links, log.clone(), storage.machine)
            .await
            .map_err(|error| StartError::Recovery(error.to_string()))?;
        let keep = config.log_keep_bytes;
        let compaction = compaction::run(raft.clone(), shared.clone(), log.clone(), keep);
        let core = Arc::new(Core {
            waiting: Waiting::new(config.queue_bytes),
            config,
            peers,
            raft,
            shared,
            log: log.file().clone(),
            alarm: storage.alarm,
            files: deps.files,
            clock: deps.clock,
            reads: Reads::default(),
            stamps: Stamps::default(),
            changing: tokio::sync::Mutex::new(()),
            refusing: watch::Sender::new(String::new()),
            heard: Mutex::new(Runtime::now()),
            free_bytes: AtomicU64::new(0),
            state_bytes: AtomicU64::new(0),
            ended: watch::Sender::new(None),
            stopping: watch::Sender::new(false),
        });
        run(&core);
        let ended = core.clone();
        Runtime::spawn(async move {
            // It holds what it waits for, so it would not end by itself.
            tokio::select! {
                biased;
                _ = ended.until_end() => {}
                () = compaction => {}
            }
        });
        Ok(Handle { core })
    }
}

/// Refuses what cannot be before anything is made. A member that belongs to a cluster already needs nobody named: its log
/// says who there is.
async fn check(config: &MemberConfig, files: &Arc<dyn Files>) -> Result<(), StartError> {
    if config.id == 0 {
        return Err(StartError::Config("a member's id is at least 1".to_owned()));
    }
    if config.join || config.members.contains_key(&config.id) {
        return Ok(());
    }
    let files = files.clone();
    let identity = Runtime::spawn_blocking(move || DirectoryIdentity::read(&*files)).await?;
    match identity.and_then(|identity| identity.cluster) {
        Some(_) => Ok(()),
        None => Err(StartError::Config(format!(
            "the members named do not hold this one ({}): add it, or use --join for a group that is there",
            config.id
        ))),
    }
}

fn save_cluster(files: Arc<dyn Files>, shared: Arc<Shared>) -> SaveCluster {
    Box::new(move |cluster: ClusterId| {
        let (files, shared) = (files.clone(), shared.clone());
        async move {
            let saving = move || join_cluster(&*files, cluster);
            Runtime::spawn_blocking(saving)
                .await
                .map_err(|error| error.to_string())?;
            shared.set_cluster(cluster);
            Ok(())
        }
        .boxed()
    })
}

/// Starts the member's tasks. Each ends with the member.
fn run(core: &Arc<Core>) {
    Runtime::spawn(dispatch::run(core.clone()));
    Runtime::spawn(reads::run(core.clone()));
    Runtime::spawn(stamps::follow(core.clone()));
    Runtime::spawn(care::watch_consensus(core.clone()));
    Runtime::spawn(care::watch_disk(core.clone()));
    Runtime::spawn(care::watch_membership(core.clone()));
    Runtime::spawn(care::watch_space(core.clone()));
    Runtime::spawn(care::drop_unwanted(core.clone()));
    Runtime::spawn(care::compare(core.clone()));
    let task = core.clone();
    Runtime::spawn(async move {
        bootstrap::run(task.clone()).await;
        bootstrap::stay(task).await;
    });
}
