//! Calls, estimates, access lists and traces.

use super::*;
use alloy_primitives::hex;
use alloy_rpc_types_eth::TransactionRequest;
use alloy_rpc_types_eth::state::{AccountOverride, StateOverride};
use revm::precompile::{PrecompileSpecId, PrecompileStatus, Precompiles};
use troika_proto::LockKey;

const AT: Address = Address::repeat_byte(0xc0);

fn request(from: Address, to: Address, words: &[U256]) -> TransactionRequest {
    let input: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes::<32>()).collect();
    TransactionRequest {
        from: Some(from),
        to: Some(TxKind::Call(to)),
        input: Bytes::from(input).into(),
        ..TransactionRequest::default()
    }
}

/// Code that returns what `instructions` leave on the stack.
fn returns(instructions: &[u8]) -> Vec<u8> {
    let mut code = instructions.to_vec();
    code.extend([
        op::PUSH1,
        0,
        op::MSTORE,
        op::PUSH1,
        32,
        op::PUSH1,
        0,
        op::RETURN,
    ]);
    code
}

fn ask(view: &MemoryView, request: &TransactionRequest) -> Result<CallOutcome, CallError> {
    call(&rules(), &environment(), request, None, view)
}

fn estimate(view: &MemoryView, request: &TransactionRequest) -> Result<u64, CallError> {
    estimate_gas(&rules(), &environment(), request, None, view)
}

fn output(outcome: Result<CallOutcome, CallError>) -> U256 {
    match outcome {
        Ok(CallOutcome::Success { output, .. }) => U256::from_be_slice(&output),
        other => panic!("no output: {other:?}"),
    }
}

#[test]
fn a_call_without_a_price_is_free_and_sees_no_base_fee() {
    let view = view(&[], &[(AT, returns(&[op::BASEFEE]))]);
    assert_eq!(
        output(ask(&view, &request(somebody(1), AT, &[]))),
        U256::ZERO
    );
    // The same with a price needs the money for it, and sees the base fee.
    let mut priced = request(sender(1), AT, &[]);
    priced.gas_price = Some(u128::from(BASE_FEE));
    assert!(matches!(
        ask(&view, &priced),
        Err(CallError::Invalid(Invalid::Funds { .. }))
    ));
    let rich = super::view(&[1], &[(AT, returns(&[op::BASEFEE]))]);
    assert_eq!(output(ask(&rich, &priced)), U256::from(BASE_FEE));
    priced.gas_price = Some(1);
    assert!(matches!(
        ask(&rich, &priced),
        Err(CallError::Invalid(Invalid::FeeBelowBase { .. }))
    ));
}

#[test]
fn a_contract_may_ask_and_value_must_be_covered() {
    let view = view(&[1], &[(AT, returns(&[op::CALLER]))]);
    assert_eq!(output(ask(&view, &request(AT, AT, &[]))), word(AT));
    let mut paying = request(somebody(1), AT, &[]);
    paying.value = Some(U256::from(1));
    assert!(matches!(
        ask(&view, &paying),
        Err(CallError::Invalid(Invalid::Funds { .. }))
    ));
}

#[test]
fn reverts_and_halts_are_outcomes_of_a_call() {
    let loops = vec![op::JUMPDEST, op::PUSH1, 0, op::JUMP];
    let view = view(&[], &[(AT, regretter()), (somebody(2), loops)]);
    assert!(matches!(
        ask(&view, &request(somebody(1), AT, &[])),
        Ok(CallOutcome::Revert { .. })
    ));
    let mut endless = request(somebody(1), somebody(2), &[]);
    endless.gas = Some(100_000);
    assert_eq!(
        ask(&view, &endless),
        Ok(CallOutcome::Halt {
            reason: "out of gas".to_owned(),
            gas: 100_000
        })
    );
}

#[test]
fn a_contradictory_request_is_refused() {
    let view = view(&[], &[]);
    let mut both = request(somebody(1), AT, &[]);
    both.gas_price = Some(1);
    both.max_fee_per_gas = Some(1);
    assert!(matches!(ask(&view, &both), Err(CallError::Request(_))));
    let mut blobs = request(somebody(1), AT, &[]);
    blobs.blob_versioned_hashes = Some(vec![B256::ZERO]);
    assert_eq!(ask(&view, &blobs), Err(CallError::Invalid(Invalid::Blob)));
    let mut foreign = request(somebody(1), AT, &[]);
    foreign.chain_id = Some(1);
    assert!(matches!(
        ask(&view, &foreign),
        Err(CallError::Invalid(Invalid::ChainId { .. }))
    ));
}

#[test]
fn overrides_put_other_things_in_an_accounts_place() {
    let view = view(&[], &[(AT, returns(&[op::PUSH1, 3, op::SLOAD]))]);
    let with = |change: AccountOverride, what: &TransactionRequest| {
        let overrides = StateOverride::from_iter([(AT, change)]);
        output(call(
            &rules(),
            &environment(),
            what,
            Some(&overrides),
            &view,
        ))
    };
    let slots = [(B256::with_last_byte(3), B256::with_last_byte(9))];
    let change = AccountOverride {
        state_diff: Some(slots.into_iter().collect()),
        ..AccountOverride::default()
    };
    let plain = request(somebody(1), AT, &[]);
    assert_eq!(with(change, &plain), U256::from(9));
    let change = AccountOverride {
        code: Some(returns(&[op::SELFBALANCE]).into()),
        balance: Some(U256::from(4)),
        ..AccountOverride::default()
    };
    assert_eq!(with(change, &plain), U256::from(4));
    assert_eq!(output(ask(&view, &plain)), U256::ZERO);
}

#[test]
fn an_estimate_is_enough_and_hardly_more() {
    let holder = {
        let mut token = contract(&token());
        token.storage.insert(word(sender(1)), U256::from(100));
        token
    };
    let view = view_of(BTreeMap::from([(sender(1), funded(10)), (AT, holder)]));
    let transfer = request(sender(1), somebody(9), &[]);
    assert_eq!(estimate(&view, &transfer), Ok(21_000));
    let words = [word(somebody(8)), U256::from(30)];
    let send = request(sender(1), AT, &words);
    let gas = estimate(&view, &send).expect("an estimate");
    let Ok(CallOutcome::Success { gas: used, .. }) = ask(&view, &send) else {
        panic!("fails")
    };
    assert!(gas >= used && gas < used + used / 20, "{gas} for {used}");
    let mut tx = plain(
        0,
        TxKind::Call(AT),
        0,
        send.input.input().cloned().unwrap_or_default().to_vec(),
    );
    tx.gas_limit = gas;
    let mut builder = Builder::new(rules(), environment(), &view);
    include(&mut builder, &sign(1, tx), true);
}

#[test]
fn an_estimate_leaves_room_for_the_64th_that_stays_behind() {
    // Calls the spender with all gas; it needs 200,000, so the caller needs more than it uses.
    let spender = vec![
        op::PUSH3,
        3,
        0x0d,
        0x40,
        op::GAS,
        op::LT,
        op::PUSH1,
        10,
        op::JUMPI,
        op::STOP,
        op::JUMPDEST,
        op::INVALID,
    ];
    let mut caller = vec![
        op::PUSH1,
        0,
        op::PUSH1,
        0,
        op::PUSH1,
        0,
        op::PUSH1,
        0,
        op::PUSH1,
        0,
    ];
    caller.push(op::PUSH20);
    caller.extend_from_slice(somebody(2).as_slice());
    caller.extend([
        op::GAS,
        op::CALL,
        op::PUSH1,
        41,
        op::JUMPI,
        op::PUSH1,
        0,
        op::PUSH1,
        0,
        op::REVERT,
        op::JUMPDEST,
    ]);
    assert_eq!(caller[41], op::JUMPDEST);
    let view = view(&[], &[(AT, caller), (somebody(2), spender)]);
    let asked = request(somebody(1), AT, &[]);
    let gas = estimate(&view, &asked).expect("an estimate");
    assert!(gas > 220_000, "{gas}");
    let mut tight = asked;
    tight.gas = Some(gas);
    assert!(matches!(
        ask(&view, &tight),
        Ok(CallOutcome::Success { .. })
    ));
    tight.gas = Some(gas - gas / 40);
    assert!(matches!(ask(&view, &tight), Ok(CallOutcome::Revert { .. })));
}

#[test]
fn what_fails_with_any_gas_has_no_estimate() {
    let burns = vec![op::JUMPDEST, op::PUSH1, 0, op::JUMP];
    let view = view(
        &[1],
        &[
            (AT, regretter()),
            (somebody(2), burns),
            (somebody(3), vec![op::INVALID]),
        ],
    );
    let of = |to| estimate(&view, &request(sender(1), to, &[]));
    assert_eq!(of(AT), Err(CallError::Reverted(Bytes::new())));
    assert_eq!(of(somebody(2)), Err(CallError::Allowance(1 << 24)));
    assert_eq!(
        of(somebody(3)),
        Err(CallError::Failed("invalid opcode".to_owned()))
    );
    // A sender that can pay for a little gas only gets no more than that.
    let mut poor = request(sender(1), somebody(2), &[]);
    poor.gas_price = Some(u128::from(ETHER) / 100);
    assert_eq!(estimate(&view, &poor), Err(CallError::Allowance(100_000)));
}

#[test]
fn an_access_list_names_what_the_call_touches() {
    let view = view(&[1], &[(AT, setter())]);
    let words = [U256::from(4), U256::from(5)];
    let asked = request(sender(1), AT, &words);
    let listed = create_access_list(&rules(), &environment(), &asked, None, &view);
    let listed = listed.expect("a list");
    assert_eq!(listed.error, None);
    let items = &listed.access_list.0;
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].address, AT);
    assert_eq!(items[0].storage_keys, [B256::with_last_byte(4)]);
    assert!(listed.gas > 21_000);
}

fn unbounded() -> TraceBudget {
    TraceBudget::new(Some(usize::MAX))
}

#[test]
fn a_trace_of_single_steps_is_bounded_in_what_it_records() {
    let view = view(&[1], &[(AT, setter())]);
    let shard = [invoke(1, 0, AT, &[U256::from(1), U256::from(7)])];
    let run = |options: serde_json::Value, bytes: usize| {
        let options: GethDebugTracingOptions = serde_json::from_value(options).expect("options");
        let budget = TraceBudget::new(Some(bytes));
        let (rules, environment, place) = (rules(), environment(), Place::default());
        let options = (&options, &budget);
        let traced = trace(&rules, &environment, &shard, 0, place, options, &view);
        traced.map(|_| bytes - budget.get().expect("enough"))
    };
    let plain = run(serde_json::json!({}), 1 << 20).expect("a trace");
    let less = run(serde_json::json!({ "disableStack": true }), 1 << 20).expect("a trace");
    assert!(0 < less && less < plain, "{less} {plain}");
    assert_eq!(run(serde_json::json!({}), plain), Ok(plain));
    assert_eq!(
        run(serde_json::json!({}), plain - 1),
        Err(TraceError::TooLarge)
    );
    // What records no steps needs none of it.
    assert_eq!(run(serde_json::json!({ "tracer": "callTracer" }), 1), Ok(0));
}

fn trace_with(name: &str, config: serde_json::Value) -> serde_json::Value {
    let view = view(&[1, 2], &[(AT, setter())]);
    let set = |n, nonce, value: u64| invoke(n, nonce, AT, &[U256::from(1), U256::from(value)]);
    let shard = [set(1, 0, 7), set(2, 0, 8)];
    let options: GethDebugTracingOptions =
        serde_json::from_value(serde_json::json!({ "tracer": name, "tracerConfig": config }))
            .expect("options");
    let place = Place::default();
    let (rules, environment, budget) = (rules(), environment(), unbounded());
    let options = (&options, &budget);
    let one = trace(&rules, &environment, &shard, 1, place, options, &view).expect("a trace");
    let all = trace_shard(&rules, &environment, &shard, place, options, &view);
    assert_eq!(all.expect("traces")[1], one);
    serde_json::to_value(one).expect("JSON")
}

#[test]
fn a_call_trace_shows_the_call() {
    let trace = trace_with("callTracer", serde_json::json!({}));
    assert_eq!(trace["type"], "CALL");
    assert_eq!(trace["from"], serde_json::json!(sender(2)));
    assert_eq!(trace["to"], serde_json::json!(AT));
    assert!(trace.get("error").is_none());
}

#[test]
fn a_prestate_trace_sees_the_earlier_transactions_of_the_shard() {
    let trace = trace_with("prestateTracer", serde_json::json!({}));
    let contract = &trace[AT.to_string().to_lowercase()];
    let slot = &contract["storage"][B256::with_last_byte(1).to_string()];
    assert_eq!(*slot, serde_json::json!(B256::with_last_byte(7)), "{trace}");
    let diff = trace_with("prestateTracer", serde_json::json!({ "diffMode": true }));
    let after = &diff["post"][AT.to_string().to_lowercase()]["storage"];
    assert_eq!(
        after[B256::with_last_byte(1).to_string()],
        serde_json::json!(B256::with_last_byte(8))
    );
    // The beneficiary's fee is no part of it.
    assert!(
        diff["post"]
            .get(BENEFICIARY.to_string().to_lowercase())
            .is_none()
    );
}

#[test]
fn an_unknown_tracer_and_a_shard_that_does_not_execute_are_refused() {
    let view = view(&[1], &[]);
    let shard = [
        transfer(1, 3, somebody(9), 1),
        transfer(1, 4, somebody(9), 1),
    ];
    let run = |name: &str| {
        let options = serde_json::from_value(serde_json::json!({ "tracer": name }));
        let options: GethDebugTracingOptions = options.expect("options");
        let (place, budget) = (Place::default(), unbounded());
        let options = (&options, &budget);
        trace(&rules(), &environment(), &shard, 1, place, options, &view)
    };
    assert!(matches!(run("{ fault() {} }"), Err(TraceError::Options(_))));
    assert!(matches!(
        run("callTracer"),
        Err(TraceError::Transaction { index: 0, .. })
    ));
}

#[test]
fn point_evaluations_are_checked() {
    let precompiles = Precompiles::new(PrecompileSpecId::OSAKA);
    let address = revm::precompile::u64_to_address(0x0a);
    let evaluation = precompiles.get(&address).expect("a precompile");
    // Versioned hash, point, value, commitment, proof: EIP-4844's own example.
    let mut input = hex::decode(
        "01e798154708fe7789429634053cbf9f99b619f9f084048927333fce637f549b\
         73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000000\
         1522a4a7f34e1ea350ae07c29c96c7e79655aa926122e95fe69fcbd932ca49e9\
         8f59a8d2a1a625a17f3fea0fe5eb8c896db3764f3185481bc22f91b4aaffcca2\
         5f26936857bc3a7c2539ea8ec3a952b7\
         a62ad71d14c5719385c0686f1871430475bf3a00f0aa3f7b8dd99a9abc216074\
         4faf0070725e00b60ad9a026a15b1a8c",
    )
    .expect("hex");
    let accepts = |input: &[u8]| {
        let answer = evaluation.execute(&Bytes::copy_from_slice(input), 100_000, 0);
        answer.is_ok_and(|output| output.status == PrecompileStatus::Success)
    };
    assert!(accepts(&input));
    // Another value at that point.
    input[95] ^= 1;
    assert!(!accepts(&input));
}

#[test]
fn reads_name_what_another_run_will_ask_for() {
    let view = view(&[1], &[(AT, setter())]);
    let mut builder = Builder::new(rules(), environment(), &view);
    include(
        &mut builder,
        &invoke(1, 0, AT, &[U256::from(4), U256::from(5)]),
        true,
    );
    let reads = builder.reads();
    for key in [
        LockKey::account(sender(1)),
        LockKey::account(AT),
        LockKey::slot(AT, U256::from(4)),
    ] {
        assert!(reads.contains(&key), "{key}");
    }
}
