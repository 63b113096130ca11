//! What deciding costs: one acceptance, a refused racer, and taking locks beside a million others.
#![allow(
    missing_docs,
    reason = "criterion's macros make undocumented functions"
)]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use troika_proto::{
    AccountDiff, Address, ChainConfig, Diff, Genesis, GenesisAccount, LockKey, LockRule, Shard,
    ShardBody, Spec, U256, limits,
};
use troika_store::state::{
    AcceptShard, AcquireLocks, Command, Decision, Machine, OpenRound, OpenTarget,
};

const SHARDS: u32 = 4096;
const CONTRACT: Address = Address::repeat_byte(1);

fn machine() -> Machine {
    let account = GenesisAccount {
        nonce: 1,
        ..GenesisAccount::default()
    };
    let config = ChainConfig {
        chain_id: 1,
        shards: SHARDS,
        shard_gas_limit: limits::MIN_SHARD_GAS,
        lock_rule: LockRule::Commuting,
        elasticity: 1,
        beneficiary: Address::ZERO,
        propose_after_ms: 0,
        seal_after_ms: 0,
        seconds_per_slot: 0,
        spec: Spec::Osaka,
        genesis_base_fee: 0,
        genesis_timestamp: 0,
        registry: Address::ZERO,
        epoch_length: 0,
        share_cap: 0,
        fixed: None,
    };
    let genesis = Genesis {
        config,
        accounts: BTreeMap::from([(CONTRACT, account)]),
    };
    let mut machine = Machine::new();
    apply(&mut machine, &Command::InitChain(Arc::new(genesis)));
    machine
}

fn apply(machine: &mut Machine, command: &Command) -> Decision {
    machine.apply(command).expect("no fault").decision
}

fn open(machine: &mut Machine) -> u64 {
    let target = OpenTarget::Build {
        parent: None,
        reservations: Vec::new(),
    };
    let open = OpenRound {
        opener: "bench".into(),
        clock_ms: 0,
        target,
    };
    match apply(machine, &Command::OpenRound(Arc::new(open))) {
        Decision::Opened { round, .. } => round,
        other => panic!("not opened: {other:?}"),
    }
}

/// A proposal of 256 bytes that writes four slots of its own.
fn proposal(round: u64, shard: u32) -> Command {
    let slots = (0..4).map(|i| (U256::from(shard * 4 + i), U256::from(round)));
    let account = AccountDiff {
        slots: slots.collect(),
        ..AccountDiff::default()
    };
    let body = ShardBody {
        transactions: vec![vec![7; 256].into()],
        receipts: vec![Default::default()],
        diff: Diff {
            accounts: BTreeMap::from([(CONTRACT, account)]),
        },
    };
    let shard = Shard::new(shard, body, U256::ZERO, LockRule::Commuting);
    Command::AcceptShard(AcceptShard::new(round, "racer".into(), Arc::new(shard)))
}

fn decide(c: &mut Criterion) {
    c.bench_function("a round of 4096 shards, won and sealed", |b| {
        let ready = || {
            let mut machine = machine();
            let round = open(&mut machine);
            let proposals: Vec<_> = (0..SHARDS).map(|s| proposal(round, s)).collect();
            (machine, proposals)
        };
        b.iter_batched(
            ready,
            |(mut machine, proposals)| {
                for proposal in &proposals {
                    black_box(apply(&mut machine, proposal));
                }
                (machine, proposals)
            },
            BatchSize::LargeInput,
        );
    });
    let mut machine = machine();
    let round = open(&mut machine);
    let late = proposal(round, 0);
    apply(&mut machine, &late);
    c.bench_function("a losing racer's answer", |b| {
        b.iter(|| black_box(apply(&mut machine, &late)));
    });
}

fn locks(c: &mut Criterion) {
    let mut machine = machine();
    let round = open(&mut machine);
    let key = |n: u64| LockKey::slot(CONTRACT, U256::from(n));
    let acquire = |shard, keys: Vec<LockKey>| {
        Command::AcquireLocks(AcquireLocks {
            round,
            shard,
            keys: keys.into(),
        })
    };
    for chunk in 0..16 {
        let first = chunk * (1 << 16);
        apply(
            &mut machine,
            &acquire(0, (first..first + (1 << 16)).map(key).collect()),
        );
    }
    let contended = acquire(1, vec![key(5), key(500_000)]);
    c.bench_function("a refused lock in a table of a million", |b| {
        b.iter(|| black_box(apply(&mut machine, &contended)));
    });
    let mut next = 1 << 40;
    c.bench_function("a lock taken in a table of a million", |b| {
        b.iter(|| {
            next += 1;
            black_box(apply(&mut machine, &acquire(1, vec![key(next)])))
        });
    });
}

criterion_group!(benches, decide, locks);
criterion_main!(benches);
