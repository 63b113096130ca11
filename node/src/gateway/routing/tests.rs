use super::history::log_of;
use super::*;
use alloy_primitives::U256;
use proptest::prelude::*;
use std::collections::BTreeMap;
use troika_proto::{AccountDiff, Diff, Receipt};

fn who(n: u8) -> Address {
    Address::repeat_byte(n)
}

fn slot(n: u8) -> LockKey {
    LockKey::slot(who(250), U256::from(n))
}

fn estimate(sender: u8, recipient: u8, gas: u64, writes: &[u8]) -> Estimate {
    Estimate {
        sender: who(sender),
        recipient: Some(who(recipient)),
        gas,
        writes: writes.iter().map(|n| slot(*n)).collect(),
    }
}

fn run(policy: Policy, transactions: &[Estimate], shards: u32, cap_percent: u32) -> Vec<u32> {
    policy(&Pending {
        transactions,
        shards,
        cap_percent,
        cap_floor_gas: 0,
        occupied: &Occupied::default(),
    })
}

fn loads(transactions: &[Estimate], assigned: &[u32], shards: u32) -> Vec<u64> {
    let mut loads = vec![0; shards as usize];
    for (estimate, shard) in transactions.iter().zip(assigned) {
        loads[*shard as usize] += estimate.gas;
    }
    loads
}

#[test]
fn writers_of_one_key_go_together_and_strangers_apart() {
    let pending = [
        estimate(1, 90, 100, &[1]),
        estimate(2, 91, 100, &[2]),
        estimate(3, 92, 100, &[1]),
        estimate(4, 93, 100, &[2, 3]),
        estimate(5, 94, 100, &[3]),
    ];
    let shards = run(by_writes, &pending, 2, 100);
    assert_eq!(shards[0], shards[2]);
    assert_eq!((shards[1], shards[3]), (shards[4], shards[4]));
    assert_ne!(shards[0], shards[1]);
}

#[test]
fn components_keep_who_pays_one_address_together() {
    let pending = [
        estimate(1, 9, 100, &[]),
        estimate(2, 8, 100, &[]),
        estimate(3, 9, 100, &[]),
    ];
    let shards = run(by_components, &pending, 2, 100);
    assert_eq!(shards[0], shards[2]);
    assert_ne!(shards[0], shards[1]);
    // By writes they are strangers: credits commute.
    let shards = run(by_writes, &pending, 3, 100);
    assert_ne!(shards[0], shards[2]);
}

#[test]
fn a_group_above_the_cap_is_cut_between_senders() {
    let pending: Vec<Estimate> = (1..=8).map(|n| estimate(n, 90, 100, &[1])).collect();
    let whole = run(by_writes, &pending, 4, 100);
    assert!(whole.iter().all(|shard| *shard == whole[0]));
    let cut = run(by_writes, &pending, 4, 50);
    let mut loads = loads(&pending, &cut, 4);
    loads.sort_unstable();
    assert_eq!(loads, [0, 0, 400, 400]);
}

#[test]
fn new_writers_of_a_placed_key_go_where_it_is() {
    let mut router = Router::new(by_writes, 4, 1_000);
    let first = router.route(&[estimate(1, 90, 100, &[1])], 7);
    let home = first[&who(1)];
    assert_eq!(home.from_round, 7);
    // The shard is not the emptiest, but the key is there.
    let second = router.route(&[estimate(2, 90, 10, &[1]), estimate(3, 90, 10, &[2])], 8);
    assert_eq!(second[&who(2)].shard, home.shard);
    assert_ne!(second[&who(3)].shard, home.shard);
    // What is placed stays: its queue must not be split.
    assert!(router.route(&[estimate(2, 90, 10, &[2])], 9).is_empty());
    // With its transactions gone the key has no home any more.
    router.refresh(who(1), &[]);
    router.refresh(who(2), &[]);
    assert_eq!(router.place(who(1)), None);
    assert_eq!(router.loads().iter().sum::<u64>(), 10);
}

#[test]
fn a_conflicting_sender_follows_the_holder_from_a_named_round_on() {
    let mut router = Router::new(by_writes, 4, 1_000);
    let at = router.route(&[estimate(1, 90, 100, &[1])], 5)[&who(1)].shard;
    let holder = (at + 1) % 4;
    let moved = router.follow(who(1), holder, 7, 6).expect("it moves");
    assert_eq!(
        moved,
        Placed {
            shard: holder,
            from_round: 7
        }
    );
    assert_eq!(router.loads()[holder as usize], 100);
    assert_eq!(router.loads()[at as usize], 0);
    // A refusal of a round before the move says nothing about the new place.
    assert_eq!(router.follow(who(1), (at + 2) % 4, 8, 6), None);
    assert_eq!(router.follow(who(1), 99, 8, 7), None);
    router.refresh(who(1), &[]);
    assert!(router.loads().iter().all(|gas| *gas == 0));
}

#[test]
fn history_knows_the_hot_slots_of_the_contracts_a_call_touches() {
    let (router, pool) = (who(10), who(11));
    let call = (router, [1, 2, 3, 4]);
    let mut history = History::new();
    for block in 0..4u64 {
        let receipt = Receipt {
            logs: vec![log_of(pool)],
            ..Default::default()
        };
        let mut change = AccountDiff::default();
        // Slot 8 changes with every swap, another one is the trader's own.
        change.slots.insert(U256::from(8), U256::from(block));
        change.slots.insert(U256::from(1000 + block), U256::from(1));
        let diff = Diff {
            accounts: BTreeMap::from([(pool, change)]),
        };
        history.learn([(Some(call), &receipt)].into_iter(), &diff);
    }
    assert!(history.knows(&call));
    assert_eq!(
        history.expected(&call),
        [LockKey::slot(pool, U256::from(8))]
    );
    assert!(history.expected(&(who(12), [0; 4])).is_empty());
}

fn pending() -> impl Strategy<Value = Vec<Estimate>> {
    let keys = prop::collection::vec(0..12u8, 0..3);
    let one = (1..20u8, 30..40u8, 1..1000u64, keys);
    prop::collection::vec(
        one.prop_map(|(sender, to, gas, keys)| estimate(sender, to, gas, &keys)),
        0..80,
    )
}

proptest! {
    #[test]
    fn no_sender_is_split_and_the_cap_holds(
        pending in pending(), shards in 1..9u32, cap_percent in 1..=100u32,
    ) {
        for (name, policy) in POLICIES {
            let assigned = run(policy, &pending, shards, cap_percent);
            prop_assert_eq!(assigned.len(), pending.len(), "all are assigned");
            prop_assert!(assigned.iter().all(|shard| *shard < shards));
            let mut of_sender = BTreeMap::new();
            let mut largest_sender = BTreeMap::<Address, u64>::new();
            for (estimate, shard) in pending.iter().zip(&assigned) {
                let known = of_sender.entry(estimate.sender).or_insert(*shard);
                prop_assert_eq!(known, shard, "{} splits a sender", name);
                *largest_sender.entry(estimate.sender).or_default() += estimate.gas;
            }
            // Least-loaded first: a shard exceeds the larger of cap and share by one part at most, and a part exceeds
            // the cap only where a single sender does.
            let total: u64 = pending.iter().map(|e| e.gas).sum();
            let cap = (total * u64::from(cap_percent) / 100).max(total.div_ceil(shards.into()));
            let largest = largest_sender.values().copied().max().unwrap_or(0);
            let share = total / u64::from(shards);
            let bound = cap.max(share + cap.max(largest));
            prop_assert!(loads(&pending, &assigned, shards).iter().all(|gas| *gas <= bound));
        }
    }

    #[test]
    fn without_a_cap_writers_of_one_key_are_never_apart(pending in pending(), shards in 1..9u32) {
        let assigned = run(by_writes, &pending, shards, 100);
        let mut homes = BTreeMap::new();
        for (estimate, shard) in pending.iter().zip(&assigned) {
            for key in &estimate.writes {
                prop_assert_eq!(*homes.entry(*key).or_insert(*shard), *shard);
            }
        }
    }

    #[test]
    fn the_router_releases_all_that_it_holds(pending in pending()) {
        let mut router = Router::new(by_writes, 4, 1_000);
        for batch in pending.chunks(7) {
            router.route(batch, 1);
        }
        for estimate in &pending {
            router.follow(estimate.sender, (estimate.gas % 4) as u32, 3, 2);
        }
        let total: u64 = pending.iter().map(|e| e.gas).sum();
        prop_assert_eq!(router.loads().iter().sum::<u64>(), total);
        for estimate in &pending {
            router.refresh(estimate.sender, &[]);
        }
        prop_assert_eq!(router.loads().iter().sum::<u64>(), 0);
        let all_fresh = router.route(&pending, 9);
        prop_assert!(pending.iter().all(|e| all_fresh.contains_key(&e.sender)));
    }
}
