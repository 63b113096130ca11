//! The limits of JSON-RPC: what exceeds one is refused, and the refusal names it.

use super::super::limits::{CALL_TIMEOUT, MAX_BATCH, MAX_CALLS, MAX_REQUEST_BYTES};
use super::*;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends an HTTP request as it stands; answers all that comes back.
async fn http(setup: &Setup, method: &str, headers: &str, body: &[u8]) -> String {
    let address = setup.gateway.rpc_addr();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // What is too long is refused before all of it is sent.
    stream.write_all(body).await.ok();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    timeout(PATIENCE, reading).await.expect("in time").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_origin_may_call() {
    let setup = Setup::new().await;
    let body =
        json!({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}).to_string();
    let origin = "Origin: https://wallet.example\r\n";
    let answer = http(&setup, "POST", origin, body.as_bytes()).await;
    let lower = answer.to_lowercase();
    assert!(lower.contains("access-control-allow-origin: *"), "{answer}");
    assert!(answer.contains("0x79b"), "{answer}");
    // As browsers ask before.
    let asks = format!(
        "{origin}Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n"
    );
    let lower = http(&setup, "OPTIONS", &asks, b"").await.to_lowercase();
    assert!(lower.starts_with("http/1.1 200"), "{lower}");
    assert!(lower.contains("access-control-allow-methods"), "{lower}");
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_more_requests_than_the_limit_is_refused() {
    let setup = Setup::new().await;
    let batch = |count: u32| {
        let one = |id| json!({"jsonrpc": "2.0", "id": id, "method": "eth_chainId", "params": []});
        Value::Array((0..count).map(one).collect()).to_string()
    };
    let taken = http(&setup, "POST", "", batch(MAX_BATCH).as_bytes()).await;
    assert_eq!(taken.matches("0x79b").count() as u32, MAX_BATCH);
    let refused = http(&setup, "POST", "", batch(MAX_BATCH + 1).as_bytes()).await;
    assert!(refused.contains("-32010"), "{refused}");
    assert!(
        refused.contains(&format!("limit of {MAX_BATCH}")),
        "{refused}"
    );
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_more_bytes_than_the_limit_is_refused() {
    let setup = Setup::new().await;
    let body = vec![b' '; MAX_REQUEST_BYTES as usize + 1];
    let refused = http(&setup, "POST", "", &body).await;
    assert!(refused.starts_with("HTTP/1.1 413"), "{refused}");
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_logs_than_the_limit_are_refused() {
    let setup = Setup::new().await;
    let many = TxEip1559 {
        gas_limit: 15_000_000,
        to: TxKind::Call(fake::LOGGER),
        value: U256::ZERO,
        ..transfer(0)
    };
    setup.seal(&[vec![sign(1, many)]]).await;
    let (code, message) = setup
        .refusal("eth_getLogs", json!([{"fromBlock": "0x0"}]))
        .await;
    assert_eq!(code, -32_005, "{message}");
    assert!(message.contains("MAX_LOGS"), "{message}");
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_finds_no_room_in_time_is_refused() {
    let setup = Setup::new().await;
    let calls = setup.gateway.gateway().calls.clone();
    let room = calls.acquire_many_owned(MAX_CALLS as u32).await.unwrap();
    let asked = std::time::Instant::now();
    let to = json!({"to": fake::CONTRACT});
    let (code, message) = setup.refusal("eth_call", json!([to])).await;
    assert!(asked.elapsed() >= CALL_TIMEOUT);
    assert_eq!(code, -32_000, "{message}");
    assert!(message.contains("CALL_TIMEOUT"), "{message}");
    drop(room);
    assert_eq!(setup.ask("eth_call", json!([to])).await, "0x");
    setup.gateway.shutdown().await;
}
