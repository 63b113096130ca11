//! Faults that take a member away for good: damaged or lost data, and changes of membership.
//!
//! A member whose data was damaged counts as failed. It must not come back as if nothing had happened: it refuses to start
//! and names what is wrong, or what was damaged was nothing that it needs. A member that has lost its data must be refused
//! under its old id. Either is then removed, and another joins under a new id.

use super::{Installed, Nemesist};
use crate::checker::Finding;
use crate::cluster::Role;
use crate::options::Fault;
use crate::plan::pick;
use crate::synthetic::Random;
use crate::workload::status;
use anyhow::{Context, Result, bail};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use troika_proto::v1;
use troika_proto::v1::cluster_client::ClusterClient;

/// How long a damaged or wiped member has to notice.
const NOTICE: Duration = Duration::from_secs(8);
/// How long a change of membership may take, with all other members up.
const CHANGE: Duration = Duration::from_secs(30);
/// Longest call of a change of membership.
const CALL: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
/// Bits that flip.
const FLIPS: u64 = 64;
/// Why no other member can take a place.
const NO_IDS: &str = "all ids of this run have been used";
/// Words of which a member that refuses damaged data must say one.
const NAMING: [&str; 10] = [
    "checksum",
    "corrupt",
    "damaged",
    "truncated",
    "invalid",
    "missing",
    "shorter",
    "magic",
    "torn",
    "repair",
];

impl Nemesist {
    /// Flips bits in a file of a member, or cuts its end off, while it is down.
    pub(super) async fn damage(&mut self, fault: Fault, random: &mut Random) -> Result<Installed> {
        if !self.cluster.has_new_id() {
            return Installed::skipped(NO_IDS);
        }
        let id = self.any_member(random);
        let role = Role::Member(id);
        self.cluster.kill(role)?;
        let files = largest_files(&self.cluster.data(id))?;
        let file = pick(random, &[0, 1], 1)[0].min(files.len() - 1);
        let file = &files[file];
        let what = match fault {
            Fault::BitFlip => flip_bits(file, random)?,
            _ => truncate(file, random)?,
        };
        let before = self.logged(role);
        self.cluster.start(role)?;
        self.cluster.forgive(role);
        let ended = self.ends_within(role, NOTICE).await;
        let said = self.logged(role).split_off(before.len());
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !ended {
            // What was damaged is not in use, or was mended from a copy. The checkers see what comes of it.
            let detail = format!("{role}, {name}: {what}; it started all the same");
            return Installed::yes(detail, [role]);
        }
        let lower = said.to_lowercase();
        let line = said.lines().next_back().unwrap_or("").to_owned();
        if !NAMING.iter().any(|word| lower.contains(word)) {
            self.shared.found(Finding::new(
                "damage/named",
                format!("{role}, {name}: {what}; it ended without naming the damage: {line}"),
                vec![],
            ));
        }
        let new = self.replace(id).await?;
        let detail =
            format!("{role}, {name}: {what}; it refused ({line}); member {new} took its place");
        Installed::yes(detail, [role, Role::Member(new)])
    }

    /// A member loses its data and comes back under its old id.
    pub(super) async fn wipe(&mut self, random: &mut Random) -> Result<Installed> {
        if !self.cluster.has_new_id() {
            return Installed::skipped(NO_IDS);
        }
        let id = self.any_member(random);
        let role = Role::Member(id);
        self.cluster.kill(role)?;
        empty(&self.cluster.data(id))?;
        let before = self.logged(role);
        self.cluster.start(role)?;
        self.cluster.forgive(role);
        let ended = self.ends_within(role, NOTICE).await;
        let said = self.logged(role).split_off(before.len());
        let line = said.lines().next_back().unwrap_or("").to_owned();
        if !ended {
            let address = self.cluster.address(role);
            let applied = status(&address).await.map_or(0, |s| s.applied_index);
            // A founder asks the founders that are left who it is. One that has nobody to ask waits to be asked, and refuses
            // every message, because none is for it.
            let members = self.cluster.members();
            let others = members.iter().filter(|other| **other != id);
            let can_ask = self.cluster.is_founder(id)
                && others.copied().any(|other| self.cluster.is_founder(other));
            if applied > 0 || can_ask {
                self.shared.found(Finding::new(
                    "identity/accepted",
                    format!(
                        "{role} lost its data, came back under its old id and was not refused within {NOTICE:?}, now at log index \
                         {applied}"
                    ),
                    vec![],
                ));
            }
        }
        let new = self.replace(id).await?;
        let what = if ended {
            format!("refused ({line})")
        } else {
            "waited outside".to_owned()
        };
        let detail = format!("{role} came back empty: {what}; member {new} took its place");
        Installed::yes(detail, [role, Role::Member(new)])
    }

    /// A member joins and gets a vote, and an old one is removed.
    pub(super) async fn change_membership(&mut self, random: &mut Random) -> Result<Installed> {
        if !self.cluster.has_new_id() {
            return Installed::skipped(NO_IDS);
        }
        let old = self.any_member(random);
        let new = self.join().await?;
        self.remove(old).await?;
        let detail = format!("member {new} joined, member {old} was removed");
        Installed::yes(detail, [Role::Member(new), Role::Member(old)])
    }

    /// Removes a member that is lost and lets another join. Answers its id.
    async fn replace(&mut self, old: u32) -> Result<u32> {
        self.remove(old).await?;
        self.join().await
    }

    /// Starts a member under a new id and gives it a vote.
    async fn join(&mut self) -> Result<u32> {
        let id = self.cluster.new_id().context(NO_IDS)?;
        let role = Role::Member(id);
        self.cluster.start(role)?;
        let peer_addr = self.cluster.peer_address(id);
        let client_addr = self.cluster.address(role);
        let added = self
            .change(|mut cluster| {
                let request = v1::AddLearnerRequest {
                    meta: None,
                    id: id.into(),
                    peer_addr: peer_addr.clone(),
                    client_addr: client_addr.clone(),
                };
                async move { cluster.add_learner(request).await }
            })
            .await;
        if let Err(e) = added {
            self.cluster.retire(id);
            return Err(e.context(format!("adding member {id}")));
        }
        self.cluster.enlist(id);
        let promoted = self
            .change(|mut cluster| {
                let request = v1::PromoteRequest {
                    meta: None,
                    id: id.into(),
                };
                async move { cluster.promote(request).await }
            })
            .await;
        self.shared.set_members(self.cluster.member_addresses());
        promoted.with_context(|| format!("promoting member {id}"))?;
        Ok(id)
    }

    /// Takes a member out and ends its process.
    async fn remove(&mut self, id: u32) -> Result<()> {
        let removed = self
            .change(|mut cluster| {
                let request = v1::RemoveRequest {
                    meta: None,
                    id: id.into(),
                };
                async move { cluster.remove(request).await }
            })
            .await;
        removed.with_context(|| format!("removing member {id}"))?;
        self.cluster.retire(id);
        self.shared.set_members(self.cluster.member_addresses());
        Ok(())
    }

    /// Asks one member after the other until one does it.
    async fn change<F, A>(&self, ask: F) -> Result<()>
    where
        F: Fn(ClusterClient<tonic::transport::Channel>) -> A,
        A: Future<Output = Result<tonic::Response<v1::MembersResponse>, tonic::Status>>,
    {
        let deadline = Instant::now() + CHANGE;
        let mut last = String::new();
        while Instant::now() < deadline {
            for (id, address) in self.shared.members() {
                let cluster = ClusterClient::new(crate::client::channel(&address, CALL)?);
                match ask(cluster).await {
                    Ok(_) => return Ok(()),
                    Err(e) => last = format!("member {id}: {:?}: {}", e.code(), e.message()),
                }
            }
            tokio::time::sleep(POLL).await;
        }
        let text = format!("not within {} s; the last said {last}", CHANGE.as_secs());
        let (up, all) = (self.up_members().len(), self.cluster.members().len());
        if up * 2 > all {
            let text = format!(
                "a change of membership was not done with {up} of {all} members up: {text}"
            );
            self.shared
                .found(Finding::new("operator/refused", text, vec![]));
        }
        bail!("{text}")
    }

    pub(super) async fn ends_within(&mut self, role: Role, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            if self.cluster.has_ended(role) {
                return true;
            }
            tokio::time::sleep(POLL).await;
        }
        false
    }

    fn logged(&self, role: Role) -> String {
        let log = std::fs::read(self.cluster.log(role)).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }
}

/// The files of a data directory, largest first: the log and the state machine.
fn largest_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)?.flatten() {
        let meta = entry.metadata()?;
        if meta.is_file() && meta.len() > 0 {
            files.push((meta.len(), entry.path()));
        }
    }
    files.sort();
    if files.is_empty() {
        bail!("{} is empty", dir.display());
    }
    Ok(files.into_iter().rev().map(|(_, path)| path).collect())
}

fn flip_bits(file: &Path, random: &mut Random) -> Result<String> {
    let mut open = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)?;
    let size = open.metadata()?.len();
    for _ in 0..FLIPS {
        let at = random.below(size);
        let mut byte = [0];
        open.seek(SeekFrom::Start(at))?;
        open.read_exact(&mut byte)?;
        byte[0] ^= 1 << random.below(8);
        open.seek(SeekFrom::Start(at))?;
        open.write_all(&byte)?;
    }
    open.sync_all()?;
    Ok(format!("{FLIPS} bits of {size} bytes flipped"))
}

fn truncate(file: &Path, random: &mut Random) -> Result<String> {
    let open = std::fs::OpenOptions::new().write(true).open(file)?;
    let size = open.metadata()?.len();
    let left = size / 4 + random.below((size / 2).max(1));
    open.set_len(left)?;
    open.sync_all()?;
    Ok(format!("cut from {size} to {left} bytes"))
}

/// Removes all that is in a directory, not the directory: it may be a file system of its own.
fn empty(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir)?.flatten() {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(path)?;
        } else {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}
