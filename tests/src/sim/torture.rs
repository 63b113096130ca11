//! The files alone under power cuts: create, append, vote, truncate, purge, checkpoint, install a snapshot, restore.
//!
//! No consensus and no state machine: what was promised is a model of a few maps beside the disk. After every cut the
//! directory must open, and hold all that was promised; what was under way may be there or not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Builder;
use tokio::task::AbortHandle;
use troika_store::db::crash::CrashDisk;
use troika_store::db::directory::{self, Directory};
use troika_store::db::{
    DbError, Files, Identity, OpenError, Received, Record, SnapshotError, SnapshotReader,
    SnapshotWriter, StateFile,
};
use troika_store::runtime::{Gate, Hooks, Runtime, install};
use troika_store::state::Change;

use super::random::Random;

/// Power cuts that one disk lives through.
const CUTS_A_DISK: u64 = 20;
/// Keys of the state.
const KEYS: u64 = 24;
/// Records that one checkpoint changes.
const CHANGES: u64 = 6;
/// The key after which every version of the state appends one record.
const APPENDED: u64 = 1 << 32;
/// Appended records that are kept; older ones go in one range.
const KEPT: u64 = 24;
/// The cluster that all disks belong to.
const CLUSTER: [u8; 16] = [7; 16];
/// The member that all disks belong to.
const MEMBER: u64 = 1;

/// What was seen in how many cuts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tortured {
    /// Power cuts.
    pub cuts: u64,
    /// Of those, at or in the making of a directory or its restore.
    pub in_the_making: u64,
    /// Snapshots installed.
    pub installed: u64,
    /// Acknowledged changes of the log that were looked for afterwards.
    pub promises: u64,
}

/// Cuts the power `cuts` times.
///
/// # Errors
/// What was lost or did not open, with the disk's seed.
pub fn torture(first_seed: u64, cuts: u64) -> Result<Tortured, String> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| error.to_string())?;
    let mut seen = Tortured::default();
    let mut seed = first_seed;
    while seen.cuts < cuts {
        let random = Random::new(seed);
        let _installed = install(Rc::new(Inline(RefCell::new(random.clone()))));
        let mut disk = Tested {
            random,
            disk: CrashDisk::new(),
            promised: Promised::default(),
            seen,
        };
        let lived = runtime.block_on(disk.live());
        seen = disk.seen;
        lived.map_err(|what| format!("disk of seed {seed}, after {} cuts: {what}", seen.cuts))?;
        seed += 1;
    }
    Ok(seen)
}

/// Runs blocking work at once and everything without delay.
struct Inline(RefCell<Random>);

struct Open;

impl Gate for Open {
    fn enter(&mut self, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
    fn leave(&mut self) {}
}

impl Hooks for Inline {
    fn gate(&self) -> Box<dyn Gate> {
        Box::new(Open)
    }
    fn spawned(&self, _task: AbortHandle) {}
    fn random_u64(&self) -> u64 {
        self.0.borrow_mut().draw()
    }
    fn blocking_cost(&self) -> Duration {
        Duration::ZERO
    }
}

/// What the disk owes.
#[derive(Clone, Debug, Default)]
struct Promised {
    /// Entries by index: acknowledged, not truncated or purged since.
    entries: BTreeMap<u64, Bytes>,
    /// Acknowledged vote; later ones may be there as well.
    vote: u64,
    /// No entry is above this one: what was cut off stays so.
    ceiling: u64,
    /// Purges that were asked for reach no further.
    purge_asked: u64,
    /// The state's version: acknowledged.
    version: u64,
    /// The newest version that was asked for.
    version_asked: u64,
}

struct Tested {
    random: Random,
    disk: CrashDisk,
    promised: Promised,
    seen: Tortured,
}

fn lost(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Value of a key at a version of the state: that of the last version that changed it.
fn value(key: u64, version: u64) -> Option<Bytes> {
    let wrote = (1..=version)
        .rev()
        .find(|v| changed(*v).any(|changed| changed == key))?;
    // Sizes differ, so that pages split and merge.
    let len = 8 + (key * 131 + wrote * 37) % 900;
    Some(Bytes::from(vec![(key ^ wrote) as u8; len as usize]))
}

fn changed(version: u64) -> impl Iterator<Item = u64> {
    (0..CHANGES).map(move |i| (version * 7 + i * 5 + version / 3) % KEYS)
}

fn changes(from: u64, to: u64) -> Vec<Change> {
    let keys: std::collections::BTreeSet<u64> = (from + 1..=to).flat_map(changed).collect();
    let change = |key: u64| Some(Change::Put(bytes_of(key), value(key, to)?));
    let changed = keys.into_iter().filter_map(change);
    let appended = (from + 1..=to).map(|version| {
        let (key, value) = appended(version);
        Change::Append(bytes_of(key), value)
    });
    let gone = Change::DeleteRange(
        bytes_of(APPENDED),
        bytes_of(APPENDED + to.saturating_sub(KEPT)),
    );
    changed.chain(appended).chain([gone]).collect()
}

fn bytes_of(key: u64) -> Vec<u8> {
    key.to_be_bytes().to_vec()
}

/// The record that a version appends.
fn appended(version: u64) -> (u64, Bytes) {
    let len = 1 + version * 211 % 1_900;
    let value = vec![version as u8; len as usize];
    (APPENDED + version, value.into())
}

/// All records at a version of the state, ascending.
fn records(version: u64) -> Vec<(Vec<u8>, Bytes)> {
    let changed = (0..KEYS).filter_map(|key| Some((key, value(key, version)?)));
    let kept = version.saturating_sub(KEPT).max(1)..=version;
    let all = changed.chain(kept.map(appended));
    all.map(|(key, value)| (bytes_of(key), value)).collect()
}

fn entry(index: u64, term: u64) -> Record {
    let len = 16 + (index * 97 + term * 13) % 700;
    let mut bytes = vec![term as u8; len as usize];
    bytes[..8].copy_from_slice(&index.to_be_bytes());
    Record {
        index,
        bytes: bytes.into(),
    }
}

/// A snapshot's bytes at a version of the state, as another member would send it.
fn snapshot(version: u64) -> Result<Vec<Bytes>, DbError> {
    let source = CrashDisk::new();
    StateFile::create(&source)?;
    let state = StateFile::open(Arc::new(source), Arc::new(()))?;
    state.write(changes(0, version), &version.to_be_bytes())?;
    let reader = SnapshotReader::new(Arc::new(state.view()?), CLUSTER)?;
    let Some(mut reader) = reader else {
        return Ok(Vec::new());
    };
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame()? {
        frames.push(frame);
    }
    Ok(frames)
}

fn receive(files: &Arc<dyn Files>, version: u64) -> Result<Received, Lost> {
    let mut writer = SnapshotWriter::new(files.clone())?;
    for frame in snapshot(version)? {
        writer.push(&frame)?;
    }
    Ok(writer.finish()?)
}

/// Something failed under way, as it must once the power has gone.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl From<DbError> for Lost {
    fn from(error: DbError) -> Self {
        Self::Open(error.into())
    }
}

impl Tested {
    fn files(&self) -> Arc<dyn Files> {
        Arc::new(self.disk.clone())
    }

    async fn live(&mut self) -> Result<(), String> {
        if self.random.chance(100_000) {
            self.restore()?;
        }
        for _ in 0..CUTS_A_DISK {
            let patience = self.random.below(if self.seen.cuts.is_multiple_of(3) {
                30
            } else {
                240
            });
            match self.random.chance(850_000) {
                true => self.disk.cut_after(patience),
                false => self.disk.fail_after(patience, io::ErrorKind::StorageFull),
            }
            match Directory::open(self.files(), MEMBER, None).await {
                Ok(directory) => {
                    // Ends with the power.
                    let _ = self.work(&directory).await;
                    self.disk.cut_after(0);
                    drop(directory);
                    settle().await;
                }
                Err(_) => self.seen.in_the_making += 1,
            }
            self.cut();
            self.look().await?;
        }
        Ok(())
    }

    fn cut(&mut self) {
        self.seen.cuts += 1;
        self.disk.power_cut(self.random.draw());
    }

    /// Makes the directory from a backup, however often the power goes.
    fn restore(&mut self) -> Result<(), String> {
        let version = self.random.between(1, 40);
        let identity = Identity {
            member: MEMBER,
            incarnation: [3; 16],
            cluster: Some(CLUSTER),
        };
        loop {
            self.disk.cut_after(self.random.below(150));
            let files = self.files();
            let done = directory::restore::<Lost>(
                &files,
                &identity,
                || receive(&files, version),
                |_| Ok(Bytes::copy_from_slice(&1_u64.to_be_bytes())),
            );
            self.cut();
            self.seen.in_the_making += 1;
            let there = Identity::read(&self.disk).map_err(lost)?.is_some();
            if done.is_ok() && !there {
                return Err("a restored directory is gone".into());
            }
            if there {
                self.promised.version = version;
                self.promised.version_asked = version;
                self.promised.vote = 1;
                return Ok(());
            }
        }
    }

    /// Random work until something fails.
    async fn work(&mut self, directory: &Directory) -> Result<(), Lost> {
        let mut term = self.promised.vote + 1;
        let last = directory.recovered.last.as_ref().map(|record| record.index);
        let purged = directory.recovered.purged.as_ref().map(|(index, _)| *index);
        let mut next = last.max(purged).map_or(1, |index| index + 1);
        for _ in 0..60 {
            match self.random.below(12) {
                0 => {
                    term += 1;
                    let vote = Bytes::copy_from_slice(&term.to_be_bytes());
                    directory.log.save_vote(vote).await?;
                    self.promised.vote = term;
                }
                1 if next > 3 => {
                    let from = next - self.random.between(1, 2);
                    if from > self.promised.purge_asked {
                        self.promised.entries.retain(|index, _| *index < from);
                        directory.log.truncate_from(from)?;
                        next = from;
                    }
                }
                2 => {
                    let upto = next.saturating_sub(self.random.between(1, 6));
                    if upto > self.promised.purge_asked {
                        self.promised.purge_asked = upto;
                        self.promised.entries.retain(|index, _| *index > upto);
                        directory.log.purge(upto, Bytes::from_static(b"id"))?;
                    }
                }
                3 | 4 => self.checkpoint(&directory.state)?,
                5 if self.random.chance(150_000) => self.install(directory)?,
                _ => {
                    let count = self.random.between(1, 5);
                    let records: Vec<Record> = (next..next + count)
                        .map(|index| entry(index, term))
                        .collect();
                    let (told, heard) = tokio::sync::oneshot::channel();
                    let done = move |result| drop(told.send(result));
                    directory
                        .log
                        .append(records.clone(), Box::new(done))
                        .await?;
                    next += count;
                    self.promised.ceiling = self.promised.ceiling.max(next - 1);
                    if self.random.chance(700_000) {
                        let written = heard.await;
                        if !matches!(written, Ok(Ok(()))) {
                            return Ok(());
                        }
                        let kept = records
                            .into_iter()
                            .map(|record| (record.index, record.bytes));
                        self.promised.entries.extend(kept);
                        // What was asked for before is done, what was cut off is gone.
                        self.promised.ceiling = next - 1;
                    }
                }
            }
        }
        Ok(())
    }

    fn checkpoint(&mut self, state: &StateFile) -> Result<(), DbError> {
        let (from, to) = (self.promised.version, self.promised.version_asked + 1);
        self.promised.version_asked = to;
        state.write(changes(from, to), &to.to_be_bytes())?;
        self.promised.version = to;
        Ok(())
    }

    fn install(&mut self, directory: &Directory) -> Result<(), Lost> {
        let version = self.promised.version_asked + self.random.between(1, 20);
        let received = receive(&directory.files(), version)?;
        self.promised.version_asked = version;
        directory.state.replace(&received)?;
        self.promised.version = version;
        self.seen.installed += 1;
        Ok(())
    }

    /// The directory opens and holds what was promised.
    async fn look(&mut self) -> Result<(), String> {
        let directory = Directory::open(self.files(), MEMBER, None).await;
        let directory = directory.map_err(|error| format!("it does not open: {error}"))?;
        let vote = number(directory.recovered.vote.as_ref());
        if vote < self.promised.vote {
            return Err(format!("vote {} became {vote}", self.promised.vote));
        }
        self.promised.vote = vote;
        let purged = directory
            .recovered
            .purged
            .as_ref()
            .map_or(0, |(index, _)| *index);
        if purged > self.promised.purge_asked {
            return Err(format!("purged up to {purged}, which nobody asked for"));
        }
        self.look_at_ends(&directory, purged)?;
        self.seen.promises += self.promised.entries.len() as u64;
        if let (Some(first), Some(last)) = (
            self.promised.entries.keys().next().copied(),
            self.promised.entries.keys().next_back().copied(),
        ) {
            let read = directory.log.read(first, last + 1, usize::MAX).await;
            let read = read.map_err(|error| format!("entries {first} to {last}: {error}"))?;
            for (bytes, index) in read.iter().zip(first..) {
                // Between two acknowledged entries there may be one that was not: then it is whatever was asked last.
                if self
                    .promised
                    .entries
                    .get(&index)
                    .is_some_and(|promised| promised != bytes)
                {
                    return Err(format!("entry {index} has changed"));
                }
            }
        }
        self.look_at_state(&directory.state)?;
        drop(directory);
        settle().await;
        self.disk.kill();
        Ok(())
    }

    /// The log begins after what is purged, and ends where it was last cut off or appended to.
    fn look_at_ends(&mut self, directory: &Directory, purged: u64) -> Result<(), String> {
        let recovered = &directory.recovered;
        let last = recovered.last.as_ref().map_or(0, |record| record.index);
        if last > self.promised.ceiling {
            return Err(format!(
                "entry {last} is there, and the log was cut off or ended at {}",
                self.promised.ceiling
            ));
        }
        let kept = last.saturating_sub(purged);
        if recovered.entries != kept {
            return Err(format!(
                "{} entries are said to be there, purged up to {purged} and with the last at {last}: that makes {kept}",
                recovered.entries
            ));
        }
        self.promised.ceiling = last.max(purged);
        Ok(())
    }

    fn look_at_state(&mut self, state: &StateFile) -> Result<(), String> {
        let view = state.view().map_err(lost)?;
        let version = number(view.applied().map_err(lost)?.as_ref());
        if version < self.promised.version || version > self.promised.version_asked {
            return Err(format!(
                "the state is of version {version}, promised {}, asked for {}",
                self.promised.version, self.promised.version_asked
            ));
        }
        let mut expected = records(version).into_iter();
        let mut strange = None;
        let look = |key: &[u8], value: Bytes| {
            let same = expected.next() == Some((key.to_vec(), value));
            if !same {
                strange = Some(key.to_vec());
            }
            same
        };
        view.visit(None, look).map_err(lost)?;
        if let Some(key) = strange.or(expected.next().map(|(key, _)| key)) {
            return Err(format!(
                "key {key:?} at version {version} is not what was written"
            ));
        }
        self.promised.version = version;
        self.promised.version_asked = version;
        Ok(())
    }
}

fn number(bytes: Option<&Bytes>) -> u64 {
    let bytes = bytes.and_then(|bytes| bytes[..].try_into().ok());
    bytes.map_or(0, u64::from_be_bytes)
}

/// Lets the log's writer end.
async fn settle() {
    for _ in 0..4 {
        Runtime::sleep(Duration::from_millis(1)).await;
    }
}
