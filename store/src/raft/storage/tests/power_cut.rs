//! Whatever was acknowledged is there after a power cut at any moment.

use super::*;

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
