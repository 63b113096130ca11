//! The member network over gRPC: the service `troika.member.v1.Member`, one HTTP/2 connection per peer and lane.
//!
//! Knows addresses and bytes. A connection is made when it is first needed, and again after it broke; a peer that does
//! not answer HTTP/2 pings is given up quickly, so that a dead connection is never waited for.
//!
//! With TLS each side makes sure of the other: whoever answers for member N must have a certificate with the DNS name
//! `member-N` (so addresses need not stand in certificates), and whoever speaks as member N must have come with the
//! certificate of member N ([`CertifiedMember`]).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use troika_proto::limits::MAX_MESSAGE_BYTES;
use troika_proto::member::v1::member_client::MemberClient;
use troika_proto::member::v1::member_server::{Member, MemberServer};

use super::door::Door;
use super::network::{Envelope, Incoming, Lane, MemberId, Network, NetworkError, Outgoing};
use super::pending::lock;
use crate::runtime::Runtime;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(1);
/// Pause between two HTTP/2 pings, and how long one may stay unanswered.
const PING: Duration = Duration::from_secs(1);
/// Bytes in flight of one stream: the largest burst that does not wait for the receiver.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes in flight of one connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// The member that a connection's certificate names: goes along with every call that comes in over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertifiedMember(pub MemberId);

/// The member network over gRPC.
pub struct TonicNetwork {
    tls: Option<ClientTlsConfig>,
    channels: Mutex<BTreeMap<(MemberId, String, u8), Channel>>,
}

impl TonicNetwork {
    /// A network in plain text, or with TLS and this member's certificate.
    pub fn new(tls: Option<ClientTlsConfig>) -> Arc<Self> {
        Arc::new(Self {
            tls,
            channels: Mutex::default(),
        })
    }

    fn client(
        &self,
        to: MemberId,
        address: &str,
        lane: Lane,
    ) -> Result<MemberClient<Channel>, NetworkError> {
        let key = (to, address.to_owned(), lane as u8);
        let mut channels = lock(&self.channels);
        let channel = match channels.get(&key) {
            Some(channel) => channel.clone(),
            None => {
                let channel = self
                    .connect(to, address)
                    .map_err(|error| unreachable(address, Status::from_error(error.into())))?;
                channels.insert(key, channel.clone());
                channel
            }
        };
        Ok(MemberClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    }

    /// A channel that connects when it is first used.
    fn connect(&self, to: MemberId, address: &str) -> Result<Channel, tonic::transport::Error> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(tls.clone().domain_name(format!("member-{to}")))?;
        }
        Ok(endpoint.connect_lazy())
    }
}

/// A stream of a named type: of a boxed one in an async block the compiler cannot prove that it may cross threads.
struct Messages(Outgoing);

impl Stream for Messages {
    type Item = Envelope;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Envelope>> {
        self.0.poll_next_unpin(context)
    }
}

fn unreachable(address: &str, reason: impl Into<Status>) -> NetworkError {
    // The cause stands behind some general words, which repeat themselves.
    let status: Status = reason.into();
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(&status);
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    NetworkError::Unreachable {
        address: address.into(),
        reason: text,
    }
}

impl Network for TonicNetwork {
    fn call(
        &self,
        address: &str,
        lane: Lane,
        message: Envelope,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Envelope, NetworkError>> {
        let client = self.client(message.to, address, lane);
        let address = address.to_owned();
        async move {
            let mut client = client?;
            match Runtime::timeout(timeout, client.call(message)).await {
                Ok(Ok(answer)) => Ok(answer.into_inner()),
                Ok(Err(status)) => Err(unreachable(&address, status)),
                Err(_) => Err(NetworkError::Timeout { address, timeout }),
            }
        }
        .boxed()
    }

    fn stream(
        &self,
        to: MemberId,
        address: &str,
        lane: Lane,
        outgoing: Outgoing,
    ) -> BoxFuture<'static, Result<Incoming, NetworkError>> {
        let client = self.client(to, address, lane);
        let address = address.to_owned();
        async move {
            let opened = client?.stream(Messages(outgoing)).await;
            let incoming = opened
                .map_err(|status| unreachable(&address, status))?
                .into_inner();
            let incoming =
                incoming.map(move |answer| answer.map_err(|status| unreachable(&address, status)));
            Ok(incoming.boxed())
        }
        .boxed()
    }
}

/// The service that hands what comes in to the door.
pub struct DoorService {
    door: Door,
}

/// The gRPC service of a member's door.
pub fn service(door: Door) -> MemberServer<DoorService> {
    MemberServer::new(DoorService { door })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// Refuses a message of another member than the certificate's. Without TLS there is nothing to compare with.
fn speaks_for_itself(certified: Option<CertifiedMember>, message: &Envelope) -> Result<(), Status> {
    match certified {
        Some(CertifiedMember(id)) if id != message.from => {
            let from = message.from;
            tracing::warn!(
                member = id,
                from,
                "message denied: it claims to be of another member"
            );
            metrics::counter!("troika_calls_denied_total").increment(1);
            Err(Status::permission_denied(format!(
                "the certificate is of member {id}, and the message says that it is from member {from}"
            )))
        }
        _ => Ok(()),
    }
}

#[tonic::async_trait]
impl Member for DoorService {
    async fn call(&self, request: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        let certified = request.extensions().get().copied();
        let message = request.into_inner();
        speaks_for_itself(certified, &message)?;
        Ok(Response::new(self.door.call(message).await))
    }

    type StreamStream = BoxStream<'static, Result<Envelope, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<Envelope>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let certified = request.extensions().get().copied();
        // A broken stream ends: what was sent on it and is not answered is the sender's to repeat. The door sees to it that
        // all messages of a stream are from one sender, and the first one tells which.
        let incoming = request
            .into_inner()
            .map(move |message| {
                let message = message?;
                speaks_for_itself(certified, &message).map(|()| message)
            })
            .take_while(|message| std::future::ready(message.is_ok()))
            .filter_map(|message| std::future::ready(message.ok()));
        let answers = self.door.stream(incoming.boxed());
        Ok(Response::new(answers.map(Ok).boxed()))
    }
}
