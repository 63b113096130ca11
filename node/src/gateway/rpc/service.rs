//! What stands between a connection and the methods: batches, and the count of what is asked.
//!
//! jsonrpsee works through a batch one request after the other. Here the transactions of a batch are taken in together
//! (their senders are recovered side by side, their accounts read in one go, and the pool is locked once), and then the
//! other requests run beside each other. Answers stand in the order of the requests.

use super::error;
use crate::gateway::Gateway;
use crate::gateway::limits::{BATCH_CONCURRENCY, MAX_RESPONSE_BYTES};
use alloy_primitives::{B256, Bytes};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use jsonrpsee::core::server::{BatchResponseBuilder, ResponsePayload};
use jsonrpsee::server::middleware::rpc::{
    Batch, BatchEntry, BatchEntryErr, MethodResponse, Notification, RpcServiceT,
};
use jsonrpsee::types::{ErrorObjectOwned, Request};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

/// The method whose requests are taken together.
const SEND_RAW: &str = "eth_sendRawTransaction";

/// The names under which requests are counted: a client's inventions must not become labels.
pub(super) type Names = Arc<[&'static str]>;

/// The service around the methods.
#[derive(Clone)]
pub(super) struct Requests<S> {
    inner: S,
    gateway: Arc<Gateway>,
    names: Names,
}

impl<S> Requests<S> {
    pub(super) fn new(inner: S, gateway: Arc<Gateway>, names: Names) -> Self {
        Self {
            inner,
            gateway,
            names,
        }
    }

    fn label(&self, method: &str) -> &'static str {
        match self.names.binary_search(&method) {
            Ok(at) => self.names[at],
            Err(_) => "unknown",
        }
    }
}

fn count(method: &'static str, started: Instant, good: bool) {
    let outcome = if good { "ok" } else { "error" };
    metrics::counter!("troika_gateway_requests_total", "method" => method, "outcome" => outcome)
        .increment(1);
    metrics::histogram!("troika_gateway_request_seconds", "method" => method)
        .record(started.elapsed().as_secs_f64());
}

impl<S> RpcServiceT for Requests<S>
where
    S: RpcServiceT<
            MethodResponse = MethodResponse,
            NotificationResponse = MethodResponse,
            BatchResponse = MethodResponse,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    type MethodResponse = MethodResponse;
    type NotificationResponse = MethodResponse;
    type BatchResponse = MethodResponse;

    fn call<'a>(&self, request: Request<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let label = self.label(request.method_name());
        let answer = self.inner.call(request);
        async move {
            let started = Instant::now();
            let answer = answer.await;
            count(label, started, answer.is_success());
            answer
        }
    }

    fn batch<'a>(&self, batch: Batch<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let service = self.clone();
        async move {
            let entries: Vec<Entry<'a>> = batch.into_iter().collect();
            let mut sent = service.send_together(&entries).await;
            let mut built = BatchResponseBuilder::new_with_limit(MAX_RESPONSE_BYTES as usize);
            let mut notified = false;
            let mut entries = entries.into_iter().enumerate();
            let mut running: FuturesOrdered<Running<'a>> = FuturesOrdered::new();
            loop {
                while running.len() < BATCH_CONCURRENCY
                    && let Some((at, entry)) = entries.next()
                {
                    let known = sent.remove(&at);
                    running.push_back(Box::pin(service.clone().answer(entry, known)));
                }
                match running.next().await {
                    Some(Some(answer)) => {
                        if let Err(too_large) = built.append(answer) {
                            return too_large;
                        }
                    }
                    Some(None) => notified = true,
                    None => break,
                }
            }
            // Notifications alone are not answered; an empty batch is, as invalid.
            if built.is_empty() && notified {
                return MethodResponse::notification();
            }
            MethodResponse::from_batch(built.finish())
        }
    }

    fn notification<'a>(
        &self,
        notification: Notification<'a>,
    ) -> impl Future<Output = MethodResponse> + Send + 'a {
        self.inner.notification(notification)
    }
}

impl<S> Requests<S>
where
    Self: RpcServiceT<MethodResponse = MethodResponse, NotificationResponse = MethodResponse>,
{
    /// Answers one request of a batch, with what is `known` of it; `None` for a notification.
    async fn answer(
        self,
        entry: Entry<'_>,
        known: Option<Result<B256, ErrorObjectOwned>>,
    ) -> Option<MethodResponse> {
        match (entry, known) {
            (Ok(BatchEntry::Call(request)), Some(known)) => Some(taken(&request, known)),
            (Ok(BatchEntry::Call(request)), None) => Some(self.call(request).await),
            (Ok(BatchEntry::Notification(notification)), _) => {
                self.notification(notification).await;
                None
            }
            (Err(problem), _) => {
                let (problem, id) = problem.into_parts();
                Some(MethodResponse::error(id, problem))
            }
        }
    }
}

/// A request of a batch, or why it is none.
type Entry<'a> = Result<BatchEntry<'a>, BatchEntryErr<'a>>;
type Running<'a> = Pin<Box<dyn Future<Output = Option<MethodResponse>> + Send + 'a>>;
/// By place in the batch.
type Sent = HashMap<usize, Result<B256, ErrorObjectOwned>>;

impl<S> Requests<S> {
    /// Takes in the transactions of a batch. What is no transaction at all is left to the method, which says so.
    async fn send_together(&self, entries: &[Entry<'_>]) -> Sent {
        let mut places = Vec::new();
        let mut raws: Vec<Bytes> = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            if let Ok(BatchEntry::Call(request)) = entry
                && request.method_name() == SEND_RAW
                && let Ok(raw) = request.params().one::<Bytes>()
            {
                places.push(at);
                raws.push(raw);
            }
        }
        // One alone is as well off with its method.
        if raws.len() < 2 {
            return Sent::new();
        }
        let started = Instant::now();
        let answers = self.gateway.submit(raws).await;
        for answer in &answers {
            count(SEND_RAW, started, answer.is_ok());
        }
        let answers = answers
            .into_iter()
            .map(|answer| answer.map_err(error::submit));
        places.into_iter().zip(answers).collect()
    }
}

fn taken(request: &Request<'_>, answer: Result<B256, ErrorObjectOwned>) -> MethodResponse {
    let id = request.id();
    match answer {
        Ok(hash) => {
            let payload = ResponsePayload::success(hash);
            MethodResponse::response(id, payload, MAX_RESPONSE_BYTES as usize)
        }
        Err(problem) => MethodResponse::error(id, problem),
    }
}
