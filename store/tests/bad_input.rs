//! Whatever comes in is taken whole or refused: no panic, no state changed by what is refused, nothing damaged taken for
//! something sound. The inputs are sound ones with damage, which get further in than noise does.

mod support;

use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use prost::Message;
use support::*;
use troika_proto::{LockKey, LockRule, ShardHeader, v1};
use troika_store::db::crash::CrashDisk;
use troika_store::db::{Files, SnapshotWriter};
use troika_store::raft::codec;
use troika_store::service::parse;
use troika_store::state::{
    AcquireLocks, Batch, Command, Decision, Ground, Machine, Submission, VoidReason,
};

/// A change to some bytes.
#[derive(Clone, Debug)]
enum Damage {
    Flip(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Cut(usize),
    Copy { from: usize, len: usize, to: usize },
}

fn any_damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        6 => (any::<usize>(), 1u8..).prop_map(|(at, by)| Damage::Flip(at, by)),
        2 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        2 => any::<usize>().prop_map(Damage::Remove),
        1 => any::<usize>().prop_map(Damage::Cut),
        1 => (any::<usize>(), 1usize..64, any::<usize>())
            .prop_map(|(from, len, to)| Damage::Copy { from, len, to }),
    ]
}

fn damaged(bytes: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for damage in damages {
        let length = bytes.len().max(1);
        match *damage {
            _ if bytes.is_empty() => {}
            Damage::Flip(at, by) => bytes[at % length] ^= by,
            Damage::Insert(at, byte) => bytes.insert(at % length, byte),
            Damage::Remove(at) => {
                bytes.remove(at % length);
            }
            Damage::Cut(at) => bytes.truncate(at % length),
            Damage::Copy { from, len, to } => {
                let from = from % length;
                let piece = bytes[from..(from + len).min(length)].to_vec();
                let to = to % length;
                bytes.splice(to..to, piece);
            }
        }
    }
    bytes
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    proptest::collection::vec(any_damage(), 1..6)
}

/// A submission as it travels.
fn submission() -> v1::SubmitRequest {
    let Command::AcceptShard(accept) = proposal(1, 2, 2, 1, "a") else {
        unreachable!()
    };
    v1::SubmitRequest {
        round: 1,
        shard: 2,
        executor: "a".into(),
        header: Some((&accept.proposal.header).into()),
        body: Some((&accept.proposal.body).into()),
        ..Default::default()
    }
}

fn history() -> Vec<Command> {
    let init = Command::InitChain(Arc::new(genesis()));
    let locks = AcquireLocks {
        round: 1,
        shard: 3,
        keys: [LockKey::account(account(3))].into(),
    };
    let mut commands = vec![init, open_round(), Command::AcquireLocks(locks)];
    commands.extend((0..4).map(|shard| proposal(1, shard, shard, 1, "a")));
    commands.push(Command::SealRound {
        round: 1,
        waited_ms: 1_000,
    });
    commands.push(Command::VoidRound {
        round: 1,
        reason: VoidReason::Abandoned,
        waited_ms: 0,
    });
    commands.push(Command::Prune { below_round: 1 });
    commands
}

/// A backup of a member with some blocks.
fn backup() -> &'static [u8] {
    static BACKUP: OnceLock<Vec<u8>> = OnceLock::new();
    BACKUP.get_or_init(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let cluster = Cluster::start(1).await;
            init(cluster.handle(1)).await;
            blocks(cluster.handle(1), 1, 3).await;
            let mut snapshot = cluster.handle(1).backup().await.unwrap();
            let mut bytes = Vec::new();
            while let Some(frame) = snapshot.next_frame().await.unwrap() {
                bytes.extend_from_slice(&frame);
            }
            cluster.shutdown().await;
            bytes
        })
    })
}

/// Takes a snapshot in, in pieces of that size; true if it is whole.
fn taken(bytes: &[u8], piece: usize) -> bool {
    let files: Arc<dyn Files> = Arc::new(CrashDisk::new());
    let mut writer = SnapshotWriter::new(files).unwrap();
    for piece in bytes.chunks(piece) {
        if writer.push(piece).is_err() {
            return false;
        }
    }
    writer.finish().is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_damaged_submission_is_refused_or_is_another_sound_one(damages in damages()) {
        let bytes = damaged(&submission().encode_to_vec(), &damages);
        let Ok(request) = v1::SubmitRequest::decode(&bytes[..]) else { return Ok(()) };
        let header = request.header.as_ref().map(ShardHeader::try_from);
        let announced = header.and_then(Result::ok).map(|header| header.hash());
        for rule in [LockRule::Commuting, LockRule::Strict] {
            let Ok(submission) = Submission::parse(request.clone()) else { return Ok(()) };
            let forwarded = Submission::encoded(1, 2, submission.encode());
            for submission in [submission, forwarded] {
                if let Ok(Command::AcceptShard(accept)) = submission.check(Ground { rule, expected: None }) {
                    prop_assert_eq!(Some(accept.proposal.hash), announced);
                }
            }
        }
    }

    #[test]
    fn no_bytes_make_a_request_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(request) = v1::SubmitRequest::decode(&bytes[..]) {
            let parsed = Submission::parse(request);
            let _ = parsed.map(|submission| submission.check(Ground::default()).is_ok());
        }
        if let Ok(request) = v1::OpenRoundRequest::decode(&bytes[..]) {
            let _ = parse::open_round(&request);
        }
        if let Ok(request) = v1::AcquireLocksRequest::decode(&bytes[..]) {
            let _ = parse::acquire_locks(&request);
        }
        if let Ok(request) = v1::VoidRoundRequest::decode(&bytes[..]) {
            let _ = parse::void_round(&request);
        }
        if let Ok(request) = v1::InitChainRequest::decode(&bytes[..]) {
            let _ = parse::init_chain(&request);
        }
        let _ = codec::decode_entry(bytes.clone().into());
        let _ = codec::decode_meta(&bytes);
    }

    #[test]
    fn a_damaged_genesis_is_refused_or_is_another_sound_one(damages in damages()) {
        let request = v1::InitChainRequest { meta: None, genesis: Some((&genesis()).into()) };
        let bytes = damaged(&request.encode_to_vec(), &damages);
        let Ok(request) = v1::InitChainRequest::decode(&bytes[..]) else { return Ok(()) };
        let Ok(genesis) = parse::init_chain(&request) else { return Ok(()) };
        // What is let in the machine can start, or refuses.
        let mut machine = Machine::new();
        let before = machine.state_hash();
        let answer = machine.apply(&Command::InitChain(genesis)).unwrap();
        if matches!(answer.decision, Decision::Refused(_)) {
            prop_assert_eq!(machine.state_hash(), before);
        }
    }

    #[test]
    fn damaged_log_entries_are_refused_or_change_nothing_where_the_answer_is_no(
        damages in damages(), at in 0usize..10,
    ) {
        let commands = history();
        let at = at % commands.len();
        let mut machine = Machine::new();
        for command in &commands[..at] {
            machine.apply(command).unwrap();
        }
        let sound = Batch::new(1, commands[at..].to_vec()).encode();
        let Ok(batch) = Batch::decode(damaged(&sound, &damages).into()) else { return Ok(()) };
        for command in batch.commands() {
            let (revision, before) = (machine.revision(), machine.state_hash());
            let Ok(answer) = machine.apply(command) else { return Ok(()) };
            if matches!(answer.decision, Decision::Refused(_) | Decision::Conflict(_)) {
                prop_assert_eq!((machine.revision(), machine.state_hash()), (revision, before));
            }
        }
    }

    #[test]
    fn any_split_into_batches_gives_the_same_state(cuts in proptest::collection::vec(1usize..5, 1..12)) {
        let commands = history();
        let mut one = Machine::new();
        one.apply_batch(&Batch::new(1, commands.clone())).unwrap();
        let mut other = Machine::new();
        let mut rest = &commands[..];
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            let batch = Batch::new(1, now.to_vec());
            other.apply_batch(&Batch::decode(batch.encode()).unwrap()).unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(one.state_hash(), other.state_hash());
        prop_assert_eq!(one.revision(), other.revision());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_snapshot_is_taken_however_it_is_cut_and_a_damaged_one_never(
        damages in damages(), piece in 1usize..100_000,
    ) {
        let sound = backup();
        prop_assert!(taken(sound, piece.max(512)));
        let bytes = damaged(sound, &damages);
        if bytes != sound {
            prop_assert!(!taken(&bytes, piece.max(512)), "{damages:?}");
        }
    }
}

#[test]
fn a_length_that_nobody_may_claim_is_refused_before_it_is_waited_for() {
    let files: Arc<dyn Files> = Arc::new(CrashDisk::new());
    let mut writer = SnapshotWriter::new(files).unwrap();
    // The head of a frame: a length of 4 GiB, a checksum, a kind.
    let head = [0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 1];
    assert!(writer.push(&head).is_err());
    // The same in a message: no field is as long as it says.
    let claims = [0x2a, 0xff, 0xff, 0xff, 0xff, 0x0f];
    assert!(v1::SubmitRequest::decode(&claims[..]).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_moves_no_block_back_and_no_seal_forward() {
    let mut cluster = Cluster::named([1]);
    let clock = Arc::new(JumpingClock::default());
    clock.set(1_800_000_000_000);
    let config = cluster.config(1);
    let handle = cluster.try_run_with(config, clock.clone()).await.unwrap();
    cluster.leader().await;
    let mut patient = genesis();
    patient.config.seal_after_ms = 60_000;
    propose(&handle, Command::InitChain(Arc::new(patient))).await;
    let mut times = Vec::new();
    for (nonce, now) in [
        1_800_000_000_000,
        1_900_000_000_000,
        1_000_000_000_000,
        0,
        1_900_000_005_000,
    ]
    .into_iter()
    .enumerate()
    {
        clock.set(now);
        let round = open_at(&handle, u64::MAX).await;
        // The clock says that it is long over; the member has counted for itself.
        clock.set(now + 100_000_000);
        let early = handle
            .propose(Command::SealRound {
                round,
                waited_ms: 0,
            })
            .await
            .unwrap();
        assert!(
            matches!(&early.answer.decision, Decision::Refused(r) if r.message.contains("may end after")),
            "{early:?}"
        );
        let all = (0..SHARDS).map(|shard| {
            propose(
                &handle,
                proposal(round, shard, shard, nonce as u64 + 1, "a"),
            )
        });
        futures::future::join_all(all).await;
        times.push(handle.read(|m| m.round(round).unwrap().environment.timestamp));
    }
    assert_eq!(
        times,
        [
            1_800_000_000,
            1_900_000_000,
            1_900_000_000,
            1_900_000_000,
            1_900_000_005
        ]
    );
    cluster.shutdown().await;
}
