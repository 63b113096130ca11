//! The storage under openraft's own suite, under restarts, and under power cuts.

use std::{collections::BTreeMap, io, sync::Arc};

use bytes::Bytes;
use openraft::{
    EntryPayload, RaftLogReader, StorageError,
    async_runtime::Oneshot,
    storage::{
        IOFlushed, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine,
    },
    testing::log::{StoreBuilder, Suite},
};

use super::*;
use crate::{
    db::{crash::CrashDisk, log_file::LOG, state_file::STATE},
    raft::types::{Entry, LogId, Membership, TypeConfig, Vote, log_id},
    runtime::Runtime,
    state::{Batch, Command, Machine, StateHash},
};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, MachineStore, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, MachineStore), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let files = crate::db::DiskFiles::create(directory.path()).unwrap();
        let storage = Storage::open(Arc::new(files), 1, None, None).await.unwrap();
        Ok((directory, storage.log, storage.machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openrafts_own_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}

async fn open(disk: &CrashDisk) -> Storage {
    Storage::open(Arc::new(disk.clone()), 1, None, None)
        .await
        .unwrap()
}

/// Opens the disk once nobody of the process before it holds it any more.
async fn reopen(disk: &CrashDisk, storage: Storage) -> Storage {
    drop(storage);
    disk.kill();
    open(disk).await
}

fn blank(term: u64, index: u64) -> Entry {
    Entry {
        log_id: log_id(term, 1, index),
        payload: EntryPayload::Blank,
    }
}

/// An entry that changes the state: a command that is never refused.
fn change(index: u64) -> Entry {
    let batch = Batch::new(1, vec![Command::RaiseRevision { by: 1 }]);
    Entry {
        log_id: log_id(1, 1, index),
        payload: EntryPayload::Normal(batch),
    }
}

/// The state hash after that many [`change`]s.
fn state_hash_after(changes: u64) -> StateHash {
    let mut machine = Machine::new();
    for index in 1..=changes {
        if let EntryPayload::Normal(batch) = change(index).payload {
            machine.apply_batch(&batch).unwrap();
        }
    }
    machine.state_hash()
}

async fn append(log: &mut LogStore, entries: Vec<Entry>) -> Result<(), io::Error> {
    log.blocking_append(entries).await.map_err(io::Error::other)
}

async fn indices(log: &mut LogStore) -> Vec<(u64, u64)> {
    let entries = log.try_get_log_entries(..).await.unwrap();
    entries
        .iter()
        .map(|entry| (entry.log_id.leader_id.term, entry.log_id.index))
        .collect()
}

async fn apply(machine: &mut MachineStore, entries: Vec<Entry>) -> Result<(), io::Error> {
    let items = entries.into_iter().map(|entry| Ok((entry, None)));
    machine.apply(futures::stream::iter(items)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn vote_log_purge_truncation_and_commit_survive_a_restart() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    let incarnation = storage.identity.incarnation;
    storage
        .log
        .save_vote(&Vote::new_committed(3, 1))
        .await
        .unwrap();
    append(
        &mut storage.log,
        (1..=20).map(|index| blank(3, index)).collect(),
    )
    .await
    .unwrap();
    storage
        .log
        .truncate_after(Some(log_id(3, 1, 15)))
        .await
        .unwrap();
    append(&mut storage.log, vec![blank(4, 16)]).await.unwrap();
    storage
        .log
        .save_committed(Some(log_id(3, 1, 12)))
        .await
        .unwrap();
    storage.log.purge(log_id(3, 1, 10)).await.unwrap();
    storage.log.file().flush().await.unwrap();

    let mut storage = reopen(&disk, storage).await;
    assert_eq!(storage.identity.incarnation, incarnation);
    assert_eq!(
        storage.log.read_vote().await.unwrap(),
        Some(Vote::new_committed(3, 1))
    );
    assert_eq!(
        storage.log.read_committed().await.unwrap(),
        Some(log_id(3, 1, 12))
    );
    let state = storage.log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(3, 1, 10)));
    assert_eq!(state.last_log_id, Some(log_id(4, 1, 16)));
    let expected = [(3, 11), (3, 12), (3, 13), (3, 14), (3, 15), (4, 16)];
    assert_eq!(indices(&mut storage.log).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_beyond_the_last_entry_leaves_an_empty_log_that_goes_on_behind_it() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    append(
        &mut storage.log,
        (1..=5).map(|index| blank(1, index)).collect(),
    )
    .await
    .unwrap();
    storage.log.purge(log_id(2, 1, 100)).await.unwrap();
    for round in 0..2 {
        let state = storage.log.get_log_state().await.unwrap();
        assert_eq!(
            state.last_purged_log_id,
            Some(log_id(2, 1, 100)),
            "round {round}"
        );
        assert_eq!(state.last_log_id, Some(log_id(2, 1, 100)));
        assert_eq!(indices(&mut storage.log).await, []);
        storage.log.file().flush().await.unwrap();
        storage = reopen(&disk, storage).await;
    }
    append(&mut storage.log, vec![blank(2, 101)]).await.unwrap();
    storage = reopen(&disk, storage).await;
    assert_eq!(indices(&mut storage.log).await, [(2, 101)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_big_purge_is_removed_in_pieces_and_stays_done() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    append(
        &mut storage.log,
        (1..=5_000).map(|index| blank(1, index)).collect(),
    )
    .await
    .unwrap();
    storage.log.purge(log_id(1, 1, 4_990)).await.unwrap();
    storage.log.file().flush().await.unwrap();
    let mut storage = reopen(&disk, storage).await;
    assert_eq!(indices(&mut storage.log).await.len(), 10);
    assert_eq!(indices(&mut storage.log).await[0], (1, 4_991));
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_follow_the_flush() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    append(&mut storage.log, vec![blank(1, 1)]).await.unwrap();
    disk.fail_after(0, io::ErrorKind::StorageFull);
    let (sender, flushed) = <openraft_rt_tokio::TokioOneshot as Oneshot>::channel();
    storage
        .log
        .append([blank(1, 2)], IOFlushed::signal(sender))
        .await
        .unwrap();
    // Readable at once, and never acknowledged.
    assert_eq!(indices(&mut storage.log).await, [(1, 1), (1, 2)]);
    let error = flushed.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_failed_write_is_the_last() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    disk.fail_after(0, io::ErrorKind::StorageFull);
    let error = storage.log.save_vote(&Vote::new(2, 1)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(storage.log.read_vote().await.unwrap(), None);
    let alarm = storage.alarm.wait().await;
    assert!(alarm.to_string().contains("log.redb"), "{alarm}");
    // The disk is well again; the member is not.
    disk.fail_after(u64::MAX / 2, io::ErrorKind::Other);
    assert!(append(&mut storage.log, vec![blank(2, 1)]).await.is_err());
    assert!(storage.log.save_vote(&Vote::new(3, 1)).await.is_err());
    assert!(storage.log.purge(log_id(1, 1, 1)).await.is_err());
    assert!(storage.shared.checkpoint().await.is_err());
    assert!(apply(&mut storage.machine, vec![change(1)]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_comes_back_from_checkpoint_and_log() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    let entries: Vec<Entry> = (1..=40).map(change).collect();
    append(&mut storage.log, entries.clone()).await.unwrap();
    apply(&mut storage.machine, entries[..30].to_vec())
        .await
        .unwrap();
    storage.shared.checkpoint().await.unwrap();
    apply(&mut storage.machine, entries[30..].to_vec())
        .await
        .unwrap();
    let (index, hash) = storage.shared.state_hash();
    assert_eq!(index, 40);

    let mut storage = reopen(&disk, storage).await;
    let (applied, _) = storage.machine.applied_state().await.unwrap();
    assert_eq!(applied, Some(log_id(1, 1, 30)));
    let rest = storage.log.try_get_log_entries(31..).await.unwrap();
    apply(&mut storage.machine, rest).await.unwrap();
    assert_eq!(storage.shared.state_hash(), (40, hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_ahead_of_its_own_log_is_taken_up() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    append(&mut storage.log, (1..=5).map(change).collect())
        .await
        .unwrap();
    // A follower may apply what a majority has before its own disk has it; then the power goes.
    apply(&mut storage.machine, (1..=9).map(change).collect())
        .await
        .unwrap();
    storage.shared.checkpoint().await.unwrap();
    let mut storage = reopen(&disk, storage).await;
    openraft::storage::StorageHelper::new(&mut storage.log, &mut storage.machine)
        .with_id(1)
        .get_initial_state()
        .await
        .unwrap();
    let state = storage.log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 1, 9)));
    append(&mut storage.log, vec![change(10)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_streamed_checked_and_installed() {
    let (from, to) = (CrashDisk::new(), CrashDisk::new());
    let mut source = open(&from).await;
    apply(&mut source.machine, (1..=500).map(change).collect())
        .await
        .unwrap();
    let mut builder = source.machine.get_snapshot_builder().await;
    let mut snapshot = builder.build_snapshot().await.unwrap();
    // What is applied later does not change the snapshot.
    let (_, hash) = source.shared.state_hash();
    apply(&mut source.machine, (501..=600).map(change).collect())
        .await
        .unwrap();
    source.shared.checkpoint().await.unwrap();

    let mut target = open(&to).await;
    let mut receiver = target.shared.receive().await.unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = snapshot.snapshot.next_frame().await.unwrap() {
        assert!(frame.len() <= crate::limits::SNAPSHOT_FRAME_BYTES);
        frames.push(frame.clone());
        receiver.push(frame).await.unwrap();
    }
    let (meta, data) = receiver.finish().await.unwrap();
    assert_eq!(meta, snapshot.meta);
    target.machine.install_snapshot(&meta, data).await.unwrap();
    assert_eq!(target.shared.state_hash(), (500, hash));
    let target = reopen(&to, target).await;
    assert_eq!(target.shared.state_hash(), (500, hash));

    // Any damage is noticed, and leaves nothing behind.
    for at in 0..frames.len() {
        let mut receiver = target.shared.receive().await.unwrap();
        let mut refused = false;
        for (i, frame) in frames.iter().enumerate() {
            let mut bytes = frame.to_vec();
            if i == at {
                bytes[12] ^= 1;
            }
            refused |= receiver.push(Bytes::from(bytes)).await.is_err();
        }
        assert!(refused && receiver.finish().await.is_err());
    }
    let mut receiver = target.shared.receive().await.unwrap();
    for frame in &frames[..frames.len() - 1] {
        receiver.push(frame.clone()).await.unwrap();
    }
    assert!(
        receiver
            .finish()
            .await
            .unwrap_err()
            .to_string()
            .contains("cut off")
    );
    assert_eq!(target.files.list().unwrap(), ["identity", LOG, STATE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_snapshot_is_refused() {
    let (from, to) = (CrashDisk::new(), CrashDisk::new());
    let source = open(&from).await;
    source.shared.set_cluster([1; 16]);
    source.shared.checkpoint().await.unwrap();
    let mut snapshot = source.shared.snapshot().await.unwrap().unwrap();
    let target = open(&to).await;
    target.shared.set_cluster([2; 16]);
    let mut receiver = target.shared.receive().await.unwrap();
    let head = snapshot.snapshot.next_frame().await.unwrap().unwrap();
    let error = receiver.push(head).await.unwrap_err().to_string();
    assert!(error.contains("cluster 0101"), "{error}");
    let mut receiver = target.shared.receive().await.unwrap();
    let error = receiver
        .push(Bytes::from_static(b"GIF89a and then some"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not a snapshot"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_at_the_start() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    append(&mut storage.log, (1..=49).map(change).collect())
        .await
        .unwrap();
    append(&mut storage.log, vec![change(50)]).await.unwrap();
    apply(&mut storage.machine, (1..=50).map(change).collect())
        .await
        .unwrap();
    storage.shared.checkpoint().await.unwrap();
    drop(storage);
    disk.kill();
    let bits = 8 * disk.len(LOG).unwrap() as usize;
    let mut named = 0;
    for step in 0..1_000 {
        let bit = (step * 7_919 * 8 + step) % bits;
        let disk = disk.copy();
        disk.flip(LOG, bit);
        match Storage::open(Arc::new(disk), 1, None, None).await {
            // A bit that no record uses; or one of the newest commit, which after a crash cannot be told from a torn one.
            Ok(mut storage) => assert!(indices(&mut storage.log).await.len() >= 49, "bit {bit}"),
            Err(error) => {
                assert!(error.to_string().contains("log.redb"), "{error}");
                named += 1;
            }
        }
    }
    assert!(named > 0, "no flip hit a record");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_file_and_an_emptied_one_are_refused() {
    let disk = CrashDisk::new();
    drop(open(&disk).await);
    disk.kill();
    disk.truncate(LOG, 0);
    let error = Storage::open(Arc::new(disk.clone()), 1, None, None)
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("it is empty"), "{error}");
    disk.kill();
    disk.remove(LOG).unwrap();
    let error = Storage::open(Arc::new(disk.clone()), 1, None, None)
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("has lost log.redb"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_member_or_cluster_is_kept_out() {
    let disk = CrashDisk::new();
    let first = open(&disk).await;
    let again = Storage::open(Arc::new(disk.clone()), 1, None, None)
        .await
        .err()
        .unwrap();
    assert!(matches!(again, OpenError::InUse), "{again}");
    drop(first);
    disk.kill();
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    let other = Storage::open(files.clone(), 2, None, None)
        .await
        .err()
        .unwrap();
    assert!(matches!(other, OpenError::OtherMember { .. }), "{other}");
    disk.kill();
    crate::db::directory::join_cluster(&disk, [5; 16]).unwrap();
    let other = Storage::open(files.clone(), 1, Some([6; 16]), None)
        .await
        .err()
        .unwrap();
    assert!(matches!(other, OpenError::OtherCluster { .. }), "{other}");
    disk.kill();
    let storage = Storage::open(files, 1, Some([5; 16]), None).await.unwrap();
    assert_eq!(storage.identity.cluster, Some([5; 16]));
}

/// What the outside was told before the power went.
#[derive(Debug, Default)]
struct Promised {
    vote: Option<Vote>,
    /// Term by index of every acknowledged entry that was not truncated since.
    entries: BTreeMap<u64, u64>,
    purged: Option<LogId>,
}

/// Writes until the power goes, and notes what was acknowledged.
async fn work(storage: &mut Storage, promised: &mut Promised, steps: u64) -> Result<(), io::Error> {
    let mut next = storage
        .log
        .get_log_state()
        .await?
        .last_log_id
        .map_or(1, |id| id.index + 1);
    let mut applied = storage
        .machine
        .applied_state()
        .await?
        .0
        .map_or(0, |id| id.index);
    for step in 0..steps {
        let term = 1;
        match step % 7 {
            0 => {
                let vote = Vote::new(step + 1, step % 3 + 1);
                storage.log.save_vote(&vote).await?;
                promised.vote = Some(vote);
            }
            4 if next > applied + 3 => {
                let keep = log_id(term, 1, next - 2);
                // From here on the entries behind it may be there or not.
                promised.entries.retain(|index, _| *index <= keep.index);
                storage.log.truncate_after(Some(keep)).await?;
                next = keep.index + 1;
            }
            5 => {
                let upto = next - 1;
                let entries = storage.log.try_get_log_entries(applied + 1..=upto).await?;
                apply(&mut storage.machine, entries).await?;
                applied = upto;
                storage.shared.checkpoint().await?;
            }
            6 if applied > 4 => {
                let upto = log_id(term, 1, applied - 3);
                promised.entries.retain(|index, _| *index > upto.index);
                storage.log.purge(upto).await?;
                promised.purged = promised.purged.max(Some(upto));
            }
            _ => {
                let entries: Vec<Entry> = (next..next + 3).map(change).collect();
                append(&mut storage.log, entries).await?;
                promised
                    .entries
                    .extend((next..next + 3).map(|index| (index, term)));
                next += 3;
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn no_power_cut_loses_what_was_acknowledged_or_keeps_a_member_down() {
    let first_seed = Runtime::random_u64() >> 16;
    let rounds = std::env::var("TROIKA_POWER_CUTS").map_or(60, |text| text.parse().unwrap());
    for seed in first_seed..first_seed + rounds {
        let disk = CrashDisk::new();
        let mut promised = Promised::default();
        for cut in 0..4u64 {
            disk.cut_after((seed ^ (cut * 0x9e37)) % 260);
            let files: Arc<dyn Files> = Arc::new(disk.clone());
            if let Ok(mut storage) = Storage::open(files, 1, None, None).await {
                let _ = work(&mut storage, &mut promised, 40).await;
                disk.cut_after(0);
                drop(storage);
            }
            disk.power_cut(seed.wrapping_mul(31) + cut);
            let mut storage = Storage::open(Arc::new(disk.clone()), 1, None, None)
                .await
                .unwrap_or_else(|error| panic!("seed {seed}, cut {cut}: {error}"));
            let vote = storage.log.read_vote().await.unwrap();
            assert!(
                vote >= promised.vote,
                "seed {seed}, cut {cut}: {vote:?} {promised:?}"
            );
            promised.vote = vote;
            let there: BTreeMap<u64, u64> = indices(&mut storage.log)
                .await
                .into_iter()
                .map(|(term, index)| (index, term))
                .collect();
            let purged = storage.log.purged_index();
            for index in promised.entries.keys() {
                let kept = there.contains_key(index) || *index <= purged;
                assert!(
                    kept,
                    "seed {seed}, cut {cut}: entry {index} is lost: {there:?}"
                );
            }
            let applied = storage.machine.applied_state().await.unwrap().0;
            let applied = applied.map_or(0, |id| id.index);
            assert!(
                applied >= purged,
                "seed {seed}, cut {cut}: purged {purged}, applied {applied}"
            );
            assert_eq!(
                storage.shared.state_hash(),
                (applied, state_hash_after(applied))
            );
            drop(storage);
            disk.kill();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_kept_with_the_state() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    let node = crate::raft::types::MemberNode {
        peer_addr: "a:1".into(),
        ..Default::default()
    };
    let membership = Membership::new(vec![[1].into()], BTreeMap::from([(1, node)])).unwrap();
    let entry = Entry {
        log_id: log_id(1, 1, 1),
        payload: EntryPayload::Membership(membership.clone()),
    };
    apply(&mut storage.machine, vec![entry]).await.unwrap();
    storage.shared.checkpoint().await.unwrap();
    let mut storage = reopen(&disk, storage).await;
    let (_, stored) = storage.machine.applied_state().await.unwrap();
    assert_eq!(stored.membership(), &membership);
    assert_eq!(stored.log_id(), &Some(log_id(1, 1, 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_becomes_a_new_cluster_whose_fences_lie_ahead() {
    let (old, new) = (CrashDisk::new(), CrashDisk::new());
    let mut source = open(&old).await;
    source.shared.set_cluster([1; 16]);
    apply(&mut source.machine, (1..=30).map(change).collect())
        .await
        .unwrap();
    let revision = source.shared.read(Machine::revision);
    source.shared.checkpoint().await.unwrap();
    let mut snapshot = source.shared.snapshot().await.unwrap().unwrap();
    let mut backup = Vec::new();
    while let Some(frame) = snapshot.snapshot.next_frame().await.unwrap() {
        backup.extend_from_slice(&frame);
    }

    let files: Arc<dyn Files> = Arc::new(new.clone());
    let cut = crate::raft::restore::restore(&files, &backup[..backup.len() - 1], 7, "a:1", "a:2");
    assert!(cut.unwrap_err().to_string().contains("cut off"));
    let identity = crate::raft::restore::restore(&files, &backup[..], 7, "a:1", "a:2").unwrap();
    assert_ne!(identity.cluster, Some([1; 16]));
    let again = crate::raft::restore::restore(&files, &backup[..], 7, "a:1", "a:2").unwrap_err();
    assert!(
        again.to_string().contains("already holds a member"),
        "{again}"
    );

    let mut storage = Storage::open(files, 7, identity.cluster, None)
        .await
        .unwrap();
    let raised = storage.shared.read(Machine::revision);
    assert_eq!(raised, revision + crate::raft::restore::RESTORE_RAISE);
    let (applied, membership) = storage.machine.applied_state().await.unwrap();
    assert_eq!(applied, Some(log_id(1, 1, 30)));
    assert_eq!(membership.voter_ids().collect::<Vec<_>>(), [7]);
    assert_eq!(
        membership.get_node(&7).unwrap().incarnation,
        identity.incarnation
    );
    assert_eq!(
        storage.log.read_vote().await.unwrap(),
        Some(Vote::new(2, 7))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn inspecting_tells_the_state_at_an_index_and_changes_nothing() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    let incarnation = storage.identity.incarnation;
    append(&mut storage.log, (1..=40).map(change).collect())
        .await
        .unwrap();
    apply(&mut storage.machine, (1..=20).map(change).collect())
        .await
        .unwrap();
    storage.shared.checkpoint().await.unwrap();
    storage.log.save_vote(&Vote::new(9, 2)).await.unwrap();
    let in_use = crate::raft::inspect::inspect(&disk, None).unwrap_err();
    assert!(matches!(in_use, OpenError::InUse), "{in_use}");
    drop(storage);
    // As a crash leaves it: both databases need repair.
    disk.power_cut(1);
    let before = [disk.read(LOG).unwrap(), disk.read(STATE).unwrap()];
    for (at, index) in [(None, 20), (Some(33), 33), (Some(1_000), 40), (Some(3), 20)] {
        let found = crate::raft::inspect::inspect(&disk, at).unwrap();
        assert_eq!(
            (found.index, found.state_hash),
            (index, state_hash_after(index)),
            "{at:?}"
        );
        assert_eq!(found.identity.incarnation, incarnation);
        assert_eq!((found.entries, found.vote), (40, Some(Vote::new(9, 2))));
        assert_eq!(found.last, Some(log_id(1, 1, 40)));
        assert!(
            found
                .records
                .values()
                .map(|records| records.count)
                .sum::<u64>()
                > 0
        );
    }
    assert!(before == [disk.read(LOG).unwrap(), disk.read(STATE).unwrap()]);
    let empty = crate::raft::inspect::inspect(&CrashDisk::new(), None).unwrap_err();
    assert!(matches!(empty, OpenError::Empty), "{empty}");
}
