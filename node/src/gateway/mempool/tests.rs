use super::*;
use proptest::prelude::*;

const RICH: U256 = U256::MAX;

fn sender(n: u8) -> Address {
    Address::repeat_byte(n)
}

fn at(nonce: u64) -> SenderState {
    SenderState {
        nonce,
        balance: RICH,
    }
}

/// A transaction whose hash follows from its sender, nonce and fee.
fn pooled(n: u8, nonce: u64, fee: u128, bytes: usize) -> Pooled {
    let mut id = vec![n];
    id.extend(nonce.to_be_bytes());
    id.extend(fee.to_be_bytes());
    Pooled {
        hash: alloy_primitives::keccak256(&id),
        sender: sender(n),
        nonce,
        fee_cap: fee,
        tip_cap: fee,
        cost: U256::from(1000),
        raw: vec![0; bytes].into(),
    }
}

fn pool() -> Mempool {
    Mempool::new(Limits::default())
}

fn ready(pool: &Mempool, n: u8) -> Vec<u64> {
    pool.ready(sender(n)).map(|p| p.nonce).collect()
}

fn refuse(pool: &mut Mempool, hash: B256, round: u64) -> AfterRefusal {
    pool.refused(hash, round, true, "a held lock")
}

#[test]
fn ready_transactions_follow_the_account_without_a_gap() {
    let mut pool = pool();
    for nonce in [7, 5, 9, 6] {
        pool.add(pooled(1, nonce, 10, 100), at(5)).unwrap();
    }
    assert_eq!(ready(&pool, 1), [5, 6, 7]);
    assert_eq!(pool.next_nonce(sender(1), 5), 8);
    pool.add(pooled(1, 8, 10, 100), at(5)).unwrap();
    assert_eq!(ready(&pool, 1), [5, 6, 7, 8, 9]);
    assert_eq!(pool.next_nonce(sender(1), 5), 10);
}

#[test]
fn a_transaction_below_the_base_fee_holds_back_what_follows() {
    let mut pool = pool();
    for (nonce, fee) in [(0, 20), (1, 5), (2, 20)] {
        pool.add(pooled(1, nonce, fee, 100), at(0)).unwrap();
    }
    pool.take_changed();
    pool.set_base_fee(10);
    assert_eq!(ready(&pool, 1), [0]);
    assert!(pool.take_changed().contains(&sender(1)));
    assert_eq!(
        pool.counts(),
        Counts {
            ready: 1,
            queued: 2,
            bytes: 3 * (100 + POOLED_OVERHEAD_BYTES)
        }
    );
    pool.set_base_fee(5);
    assert_eq!(ready(&pool, 1), [0, 1, 2]);
}

#[test]
fn nonces_too_low_or_too_far_ahead_are_refused_by_name() {
    let mut pool = pool();
    let low = pool.add(pooled(1, 4, 10, 100), at(5)).unwrap_err();
    assert_eq!(low.to_string(), "nonce too low: next nonce 5, tx nonce 4");
    pool.add(pooled(1, 5 + MAX_NONCES_AHEAD - 1, 10, 100), at(5))
        .unwrap();
    let high = pool
        .add(pooled(1, 5 + MAX_NONCES_AHEAD, 10, 100), at(5))
        .unwrap_err();
    assert!(high.to_string().contains("at most 4096 ahead"), "{high}");
}

#[test]
fn the_balance_must_cover_the_worst_case() {
    let mut pool = pool();
    let poor = SenderState {
        nonce: 0,
        balance: U256::from(999),
    };
    let error = pool.add(pooled(1, 0, 10, 100), poor).unwrap_err();
    assert_eq!(
        error.to_string(),
        "insufficient funds for gas * price + value: balance 999, tx cost 1000, overshot 1"
    );
}

#[test]
fn a_replacement_pays_ten_percent_more_in_both_caps() {
    let mut pool = pool();
    let first = pooled(1, 0, 100, 100);
    pool.add(first.clone(), at(0)).unwrap();
    assert_eq!(pool.add(first.clone(), at(0)), Err(Reject::AlreadyKnown));
    let low = pool.add(pooled(1, 0, 109, 100), at(0)).unwrap_err();
    assert!(
        low.to_string()
            .starts_with("replacement transaction underpriced"),
        "{low}"
    );
    let mut low_tip = pooled(1, 0, 150, 100);
    low_tip.tip_cap = 100;
    assert!(pool.add(low_tip, at(0)).is_err());
    let second = pooled(1, 0, 110, 100);
    pool.add(second.clone(), at(0)).unwrap();
    assert_eq!(pool.len(), 1);
    assert_eq!(
        pool.drop_reason(&first.hash),
        Some(&DropReason::Replaced(second.hash))
    );
}

#[test]
fn a_sealed_block_removes_what_it_included_and_what_it_made_stale() {
    let mut pool = pool();
    let all: Vec<Pooled> = (0..4).map(|nonce| pooled(1, nonce, 10, 100)).collect();
    for p in &all {
        pool.add(p.clone(), at(0)).unwrap();
    }
    let included = HashSet::from([all[0].hash]);
    pool.sealed(sender(1), 2, &included);
    assert_eq!(ready(&pool, 1), [2, 3]);
    assert_eq!(pool.drop_reason(&all[0].hash), None);
    assert_eq!(pool.drop_reason(&all[1].hash), Some(&DropReason::Stale(1)));
    pool.sealed(sender(1), 4, &HashSet::from([all[2].hash, all[3].hash]));
    assert!(pool.is_empty());
    assert_eq!(pool.counts(), Counts::default());
}

#[test]
fn a_full_pool_evicts_what_pays_least_and_is_behind_the_least() {
    let unit = 100 + POOLED_OVERHEAD_BYTES;
    let mut pool = Mempool::new(Limits {
        pool_bytes: 4 * unit,
        ..Limits::default()
    });
    pool.add(pooled(1, 0, 50, 100), at(0)).unwrap();
    pool.add(pooled(1, 1, 900, 100), at(0)).unwrap();
    pool.add(pooled(2, 0, 60, 100), at(0)).unwrap();
    pool.add(pooled(3, 1, 990, 100), at(0)).unwrap();
    // Behind a gap: first to go, whatever it pays.
    pool.add(pooled(4, 0, 70, 100), at(0)).unwrap();
    let gapped = pooled(3, 1, 990, 100).hash;
    assert_eq!(pool.drop_reason(&gapped), Some(&DropReason::Evicted));
    // Then the tail of the queue that is held back by the cheapest, so that no gap is made.
    pool.add(pooled(5, 0, 70, 100), at(0)).unwrap();
    assert_eq!(ready(&pool, 1), [0]);
    // What pays no more than the rest is refused and changes nothing.
    let before = (pool.counts(), ready(&pool, 1), ready(&pool, 2));
    assert_eq!(
        pool.add(pooled(6, 0, 40, 100), at(0)),
        Err(Reject::PoolFull)
    );
    assert_eq!(
        pool.add(pooled(6, 0, 50, 100), at(0)),
        Err(Reject::PoolFull)
    );
    assert_eq!(before, (pool.counts(), ready(&pool, 1), ready(&pool, 2)));
}

#[test]
fn one_sender_cannot_fill_the_pool() {
    let mut pool = Mempool::new(Limits {
        sender_bytes: 3 * (100 + POOLED_OVERHEAD_BYTES),
        ..Limits::default()
    });
    for nonce in 0..3 {
        pool.add(pooled(1, nonce, 10, 100), at(0)).unwrap();
    }
    assert_eq!(
        pool.add(pooled(1, 3, 10, 100), at(0)),
        Err(Reject::SenderFull)
    );
    // A replacement frees what it replaces.
    pool.add(pooled(1, 2, 20, 100), at(0)).unwrap();
}

#[test]
fn three_refusals_age_and_ageing_keeps_from_being_dropped() {
    let mut pool = pool();
    let p = pooled(1, 0, 10, 100);
    pool.add(p.clone(), at(0)).unwrap();
    assert_eq!(refuse(&mut pool, p.hash, 1), AfterRefusal::Kept);
    // The second and third executor of the shard say the same.
    assert_eq!(refuse(&mut pool, p.hash, 1), AfterRefusal::Ignored);
    assert_eq!(refuse(&mut pool, p.hash, 2), AfterRefusal::Kept);
    for round in 3..100 {
        assert_eq!(refuse(&mut pool, p.hash, round), AfterRefusal::Aged);
    }
    assert_eq!(pool.aged().count(), 1);
    pool.sealed(sender(1), 1, &HashSet::from([p.hash]));
    assert_eq!(pool.aged().count(), 0);
}

#[test]
fn without_room_to_age_the_sixteenth_refusal_drops_with_the_reason() {
    let mut pool = pool();
    for n in 0..MAX_AGED as u8 {
        let p = pooled(n, 0, 10, 100);
        pool.add(p.clone(), at(0)).unwrap();
        for round in 1..=3 {
            refuse(&mut pool, p.hash, round);
        }
    }
    assert_eq!(pool.aged().count(), MAX_AGED);
    let late = pooled(200, 0, 10, 100);
    pool.add(late.clone(), at(0)).unwrap();
    for round in 1..16 {
        assert_eq!(refuse(&mut pool, late.hash, round), AfterRefusal::Kept);
    }
    let reason = DropReason::RefusedTooOften("a held lock".into());
    assert_eq!(
        refuse(&mut pool, late.hash, 16),
        AfterRefusal::Dropped(reason.clone())
    );
    assert_eq!(pool.drop_reason(&late.hash), Some(&reason));
}

#[test]
fn waiting_for_the_base_fee_is_no_refusal() {
    let mut pool = pool();
    let p = pooled(1, 0, 10, 100);
    pool.add(p.clone(), at(0)).unwrap();
    pool.set_base_fee(11);
    for round in 1..100 {
        let after = pool.refused(p.hash, round, false, "fee cap below the base fee");
        assert_eq!(after, AfterRefusal::Ignored);
    }
    assert_eq!(pool.len(), 1);
}

#[test]
fn waiting_for_an_earlier_transaction_is_no_refusal() {
    let mut pool = pool();
    let (first, second) = (pooled(1, 0, 10, 100), pooled(1, 1, 10, 100));
    pool.add(first.clone(), at(0)).unwrap();
    pool.add(second.clone(), at(0)).unwrap();
    for round in 1..100 {
        let after = pool.refused(second.hash, round, false, "nonce too high");
        assert_eq!(after, AfterRefusal::Ignored);
    }
    for round in 1..16 {
        assert_eq!(
            pool.refused(first.hash, round, false, "funds"),
            AfterRefusal::Kept
        );
    }
    let dropped = pool.refused(first.hash, 16, false, "funds");
    assert_eq!(
        dropped,
        AfterRefusal::Dropped(DropReason::RefusedTooOften("funds".into()))
    );
    assert_eq!(pool.len(), 1);
}

#[test]
fn nobody_waits_for_what_the_account_is_past() {
    let mut pool = pool();
    pool.add(pooled(1, 0, 10, 100), at(0)).unwrap();
    // The seals between were missed: the account says more than the queue.
    pool.add(pooled(1, 3, 10, 100), at(3)).unwrap();
    assert_eq!(ready(&pool, 1), [3]);
    let stale = pooled(1, 0, 10, 100).hash;
    assert_eq!(pool.drop_reason(&stale), Some(&DropReason::Stale(0)));
}

#[derive(Clone, Debug)]
enum Step {
    Add(u8, u64, u128, usize),
    Seal(u8, u64),
    BaseFee(u64),
    Refuse(u8, u64, u128, u64),
    Invalid(u8, u64, u128),
}

fn step() -> impl Strategy<Value = Step> {
    let (who, nonce, fee) = (
        0..4u8,
        0..12u64,
        prop::sample::select(vec![5u128, 6, 10, 20, 40]),
    );
    prop_oneof![
        8 => (who.clone(), nonce.clone(), fee.clone(), 0..300usize).prop_map(|(a, b, c, d)| Step::Add(a, b, c, d)),
        2 => (who.clone(), nonce.clone()).prop_map(|(a, b)| Step::Seal(a, b)),
        1 => (0..30u64).prop_map(Step::BaseFee),
        2 => (who.clone(), nonce.clone(), fee.clone(), 1..60u64).prop_map(|(a, b, c, d)| Step::Refuse(a, b, c, d)),
        1 => (who, nonce, fee).prop_map(|(a, b, c)| Step::Invalid(a, b, c)),
    ]
}

/// What must hold after every step.
fn check(pool: &Mempool, nonces: &[u64; 4], limits: Limits) {
    let mut bytes = 0;
    let mut count = 0;
    for n in 0..4u8 {
        let queue: Vec<&Pooled> = pool.queue(sender(n)).collect();
        let sender_bytes: usize = queue.iter().map(|p| p.charged_bytes()).sum();
        assert!(sender_bytes <= limits.sender_bytes);
        bytes += sender_bytes;
        count += queue.len();
        assert!(queue.windows(2).all(|w| w[0].nonce < w[1].nonce));
        assert!(queue.iter().all(|p| p.nonce >= nonces[n as usize]));
        assert!(queue.iter().all(|p| pool.get(&p.hash) == Some(*p)));
        let ready: Vec<u64> = pool.ready(sender(n)).map(|p| p.nonce).collect();
        let expected = (nonces[n as usize]..).take(ready.len());
        assert!(
            ready.iter().copied().eq(expected),
            "ready follows the account"
        );
        assert!(
            pool.ready(sender(n))
                .all(|p| p.fee_cap >= pool.base_fee.into())
        );
    }
    assert!(bytes <= limits.pool_bytes);
    assert_eq!((bytes, count), (pool.counts().bytes, pool.len()));
    assert_eq!(pool.worths.len(), pool.queues.len());
}

proptest! {
    #[test]
    fn order_and_limits_hold_whatever_happens(steps in prop::collection::vec(step(), 1..120)) {
        let limits = Limits {
            nonces_ahead: 8,
            sender_bytes: 6 * 700,
            pool_bytes: 14 * 700,
        };
        let mut pool = Mempool::new(limits);
        let mut nonces = [0u64; 4];
        for step in steps {
            match step {
                Step::Add(n, nonce, fee, bytes) => {
                    let before = format!("{:?}{:?}{:?}", pool.by_hash.keys().collect::<BTreeSet<_>>(), pool.worths, pool.bytes);
                    let new = pooled(n, nonce, fee, bytes);
                    if pool.add(new, at(nonces[n as usize])).is_err() {
                        let after = format!("{:?}{:?}{:?}", pool.by_hash.keys().collect::<BTreeSet<_>>(), pool.worths, pool.bytes);
                        prop_assert_eq!(before, after, "a refusal changes nothing");
                    }
                }
                Step::Seal(n, nonce) => {
                    let nonce = nonce.max(nonces[n as usize]);
                    nonces[n as usize] = nonce;
                    pool.sealed(sender(n), nonce, &HashSet::new());
                }
                Step::BaseFee(fee) => pool.set_base_fee(fee),
                Step::Refuse(n, nonce, fee, round) => {
                    pool.refused(pooled(n, nonce, fee, 0).hash, round, round % 2 == 0, "x");
                }
                Step::Invalid(n, nonce, fee) => {
                    pool.invalid(pooled(n, nonce, fee, 0).hash, "x");
                }
            }
            check(&pool, &nonces, limits);
        }
    }
}
