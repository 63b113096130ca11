//! Connections to members, with failover.
//!
//! Every call of the store may be sent again (decisions are write-once), so a call that finds a member unavailable is
//! sent to the next one until the command's time is over.

use super::args::Global;
use super::exit::CtlError;
use bytes::Bytes;
use std::future::Future;
use std::time::{Duration, Instant};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use troika_proto::limits::MAX_MESSAGE_BYTES;
use troika_proto::v1;
use troika_proto::v1::cluster_client::ClusterClient;
use troika_proto::v1::rounds_client::RoundsClient;
use troika_proto::v1::state_client::StateClient;
use troika_proto::whole::Whole;

/// First and longest pause between two rounds over all endpoints.
const RETRY_PAUSE: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];
/// How long connecting to one member may take before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one member may take where there are others to ask and the call only reads.
const LEAST_SHARE: Duration = Duration::from_millis(500);

/// A member to talk to.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) url: String,
    pub(super) channel: Channel,
}

/// All members that were named, and how long a command may take.
#[derive(Clone, Debug)]
pub(super) struct Client {
    members: Vec<Member>,
    timeout: Duration,
    /// When the command began: all its calls together have the timeout.
    started: Instant,
    meta: v1::RequestMeta,
}

/// One attempt of a call: a channel and what is left of the time.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    channel: Channel,
    left: Option<Duration>,
}

impl Attempt {
    pub(super) fn rounds(&self) -> RoundsClient<Whole<Channel>> {
        RoundsClient::new(Whole(self.channel.clone())).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(super) fn state(&self) -> StateClient<Whole<Channel>> {
        StateClient::new(Whole(self.channel.clone())).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(super) fn cluster(&self) -> ClusterClient<Whole<Channel>> {
        ClusterClient::new(Whole(self.channel.clone())).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(super) fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
    }

    /// A request with the deadline of this attempt.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(left) = self.left {
            request.set_timeout(left);
        }
        request
    }
}

impl Client {
    pub(super) fn new(global: &Global) -> Result<Self, CtlError> {
        let mut members = Vec::new();
        for endpoint in endpoints(global)? {
            members.push(Member {
                url: endpoint.uri().to_string(),
                channel: endpoint.connect_lazy(),
            });
        }
        Ok(Self {
            members,
            timeout: global.timeout,
            started: Instant::now(),
            meta: v1::RequestMeta {
                cluster_id: global.cluster.clone().map_or_else(Bytes::new, Into::into),
                min_revision: global.min_revision,
            },
        })
    }

    /// The same with all of its time ahead: for a command that makes calls for as long as it runs, as a benchmark does.
    pub(super) fn afresh(&self) -> Self {
        Self {
            started: Instant::now(),
            ..self.clone()
        }
    }

    /// What goes with every request of this command.
    pub(super) fn meta(&self) -> Option<v1::RequestMeta> {
        Some(self.meta.clone())
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What is left of the command's time.
    pub(super) fn left(&self) -> Duration {
        self.timeout.saturating_sub(self.started.elapsed())
    }

    /// Calls one member, without a second attempt.
    pub(super) async fn call_member<T, Fut>(
        &self,
        member: &Member,
        call: impl FnOnce(Attempt) -> Fut,
    ) -> Result<T, Status>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let left = self.left();
        let attempt = Attempt {
            channel: member.channel.clone(),
            left: Some(left),
        };
        within(left, call(attempt)).await.map(Response::into_inner)
    }

    /// Opens a stream that may last, however long ago the command began: on the first member that takes it.
    pub(super) async fn open_stream<T, Fut>(
        &self,
        call: impl Fn(Attempt) -> Fut,
    ) -> Result<T, CtlError>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.attempts(Asked::Stream, call).await
    }

    /// Calls members in turn until one answers or the time is over.
    pub(super) async fn call<T, Fut>(&self, call: impl Fn(Attempt) -> Fut) -> Result<T, CtlError>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.attempts(Asked::InTurn, call).await
    }

    /// The same for what takes its time, as a change of the members does: whoever takes it has all of the time.
    pub(super) async fn call_patiently<T, Fut>(
        &self,
        call: impl Fn(Attempt) -> Fut,
    ) -> Result<T, CtlError>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.attempts(Asked::Patiently, call).await
    }

    async fn attempts<T, Fut>(
        &self,
        asked: Asked,
        call: impl Fn(Attempt) -> Fut,
    ) -> Result<T, CtlError>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let started = match asked {
            Asked::Stream => Instant::now(),
            Asked::InTurn | Asked::Patiently => self.started,
        };
        let mut pause = RETRY_PAUSE[0];
        let mut last: Option<Failed> = None;
        loop {
            for (i, member) in self.members.iter().enumerate() {
                let Some(left) = self.timeout.checked_sub(started.elapsed()) else {
                    return Err(out_of_time(last, self.timeout));
                };
                // A member that hangs must leave time for the others.
                let others = (self.members.len() - i - 1) as u32;
                let share = match asked {
                    Asked::Patiently => left,
                    Asked::Stream | Asked::InTurn => left / (others + 1),
                };
                let share = share.max(LEAST_SHARE.min(left));
                let attempt = Attempt {
                    channel: member.channel.clone(),
                    left: (asked != Asked::Stream).then_some(share),
                };
                match within(share, call(attempt)).await {
                    Ok(response) => return Ok(response.into_inner()),
                    Err(status) if worth_another_member(&status) => {
                        let failed = Failed::of(&member.url, &status);
                        let known = last.as_ref().map(|last| last.outcome);
                        if known.is_none_or(|known| known <= failed.outcome) {
                            last = Some(failed);
                        }
                    }
                    Err(status) => return Err(status.into()),
                }
            }
            tokio::time::sleep(pause.min(self.timeout.saturating_sub(started.elapsed()))).await;
            pause = (pause * 2).min(RETRY_PAUSE[1]);
        }
    }
}

fn worth_another_member(status: &Status) -> bool {
    // What answers there does not speak plain HTTP/2: TLS perhaps, or something else altogether.
    let not_ours = status.message().starts_with("h2 protocol error");
    not_ours
        || matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::DeadlineExceeded | Code::Cancelled
        )
}

/// How a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// A member that hangs leaves time for the others.
    InTurn,
    /// The first member that is reached has all of the time.
    Patiently,
    /// As in turn, without a deadline for what comes afterwards.
    Stream,
}

/// How an attempt failed.
#[derive(Debug)]
struct Failed {
    text: String,
    outcome: Fate,
}

/// What is known of a request that failed; what says more comes later. That another member was not reached afterwards does
/// not make an unknown outcome known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Nobody was reached, or whoever was has done nothing.
    NotDone,
    /// The time ran out without a word of the member.
    Silence,
    /// The member said that it is late, or that it does not know.
    Unknown,
}

impl Failed {
    fn of(url: &str, status: &Status) -> Self {
        // The second is tonic's own word where it counts the time itself.
        let is_silence = [TIMED_OUT, "Timeout expired"].contains(&status.message());
        let late = status.code() == Code::DeadlineExceeded;
        // Members say so where they are not late: the leader changed, or the member fails.
        let unsure = ["outcome is unknown", "this member has failed"];
        let unsure = unsure.iter().any(|words| status.message().contains(words));
        Self {
            text: format!("{url}: {}", reason(status)),
            outcome: match (is_silence, late || unsure) {
                (true, _) => Fate::Silence,
                (false, true) => Fate::Unknown,
                (false, false) => Fate::NotDone,
            },
        }
    }
}

fn out_of_time(last: Option<Failed>, timeout: Duration) -> CtlError {
    match last {
        Some(last) if last.outcome != Fate::NotDone => {
            CtlError::Deadline(format!("no answer within {timeout:?} ({})", last.text))
        }
        Some(last) => CtlError::Unavailable(format!("no member answered in time ({})", last.text)),
        None => CtlError::Deadline(format!("no answer within {timeout:?}")),
    }
}

const TIMED_OUT: &str = "timed out";

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(Status::deadline_exceeded(TIMED_OUT)),
    }
}

/// A status in words, with what lies under a transport error.
pub(super) fn reason(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        source = error.source();
    }
    text
}

/// The endpoints that were named, with TLS where it was asked for.
pub(super) fn endpoints(global: &Global) -> Result<Vec<Endpoint>, CtlError> {
    let tls = tls(global)?;
    let mut endpoints = Vec::new();
    for name in global.endpoints.iter().filter(|name| !name.is_empty()) {
        let url = match name.split_once("://") {
            Some(_) => name.clone(),
            None if tls.is_some() => format!("https://{name}"),
            None => format!("http://{name}"),
        };
        let not_a_url = |why: &dyn std::fmt::Display| {
            CtlError::Usage(format!("--endpoints: {name:?} is not a URL: {why}"))
        };
        let mut endpoint = Endpoint::from_shared(url).map_err(|e| not_a_url(&e))?;
        let authority = endpoint.uri().authority().map_or("", |a| a.as_str());
        let after_host = authority
            .rsplit_once(']')
            .map_or(authority, |(_, port)| port);
        if after_host.contains(':') && endpoint.uri().port_u16().is_none() {
            return Err(not_a_url(&"its port is no number up to 65535"));
        }
        endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_adaptive_window(true);
        let secure = endpoint.uri().scheme_str() == Some("https");
        if secure != tls.is_some() {
            let problem = match secure {
                true => "is https: give --cacert (and --cert, --key)",
                false => "is plain http, and --cacert is given: write https://",
            };
            return Err(CtlError::Usage(format!("--endpoints: {name:?} {problem}")));
        }
        if secure {
            endpoint = endpoint
                .tls_config(tls.clone().unwrap_or_default())
                .map_err(|e| CtlError::Usage(format!("TLS for {name}: {e}")))?;
        }
        endpoints.push(endpoint);
    }
    if endpoints.is_empty() {
        return Err(CtlError::Usage("--endpoints: names no member".to_owned()));
    }
    Ok(endpoints)
}

fn tls(global: &Global) -> Result<Option<ClientTlsConfig>, CtlError> {
    let read = |path: &std::path::Path| {
        std::fs::read(path)
            .map_err(|e| CtlError::Usage(format!("cannot read {}: {e}", path.display())))
    };
    let Some(cacert) = &global.cacert else {
        if global.cert.is_some() {
            let problem = "--cert and --key need --cacert: whom to trust";
            return Err(CtlError::Usage(problem.to_owned()));
        }
        return Ok(None);
    };
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(cacert)?));
    if let (Some(cert), Some(key)) = (&global.cert, &global.key) {
        config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(Some(config))
}

#[cfg(test)]
mod tests {
    use super::super::args::Cli;
    use super::*;
    use clap::Parser;

    fn named(arguments: &[&str]) -> Result<Vec<Endpoint>, CtlError> {
        let line = ["troikactl"].iter().chain(arguments).chain(&["status"]);
        endpoints(&Cli::try_parse_from(line).unwrap().global)
    }

    #[test]
    fn an_endpoint_that_cannot_be_is_refused_before_anything_is_sent() {
        assert_eq!(
            named(&["--endpoints", "a:1,http://b:2,[::1]:3"])
                .unwrap()
                .len(),
            3
        );
        for (endpoint, why) in [
            ("a:xx", "port"),
            ("a:70000", "port"),
            ("http://[broken", "not a URL"),
            ("https://a:1", "--cacert"),
            (",", "names no member"),
        ] {
            let error = named(&["--endpoints", endpoint]).unwrap_err();
            assert!(
                matches!(&error, CtlError::Usage(text) if text.contains(why)),
                "{endpoint}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn a_command_that_runs_for_long_has_all_of_its_time_for_every_call() {
        let line = ["troikactl", "--timeout", "60m", "status"];
        let mut client = Client::new(&Cli::try_parse_from(line).unwrap().global).unwrap();
        client.started -= Duration::from_secs(2 * 60 * 60);
        assert_eq!(client.left(), Duration::ZERO);
        assert!(client.afresh().left() > Duration::ZERO);
    }

    #[test]
    fn an_unknown_outcome_is_told_as_one_whatever_failed_before_and_after() {
        use crate::raft::ProposeError;
        let fate = |status: Status| Failed::of("", &status).outcome;
        let said = |error: ProposeError| fate(Status::unavailable(error.to_string()));
        assert_eq!(said(ProposeError::Unknown), Fate::Unknown);
        assert_eq!(said(ProposeError::Failed("disk".to_owned())), Fate::Unknown);
        assert_eq!(said(ProposeError::NoLeader), Fate::NotDone);
        assert_eq!(said(ProposeError::Stopping), Fate::NotDone);
        assert_eq!(fate(Status::deadline_exceeded(TIMED_OUT)), Fate::Silence);
        assert!(Fate::NotDone < Fate::Silence && Fate::Silence < Fate::Unknown);
    }

    #[test]
    fn running_out_of_time_is_told_from_reaching_nobody() {
        let late =
            Status::deadline_exceeded("meta.min_revision: is 9, but this member has applied 3");
        let late = out_of_time(Some(Failed::of("http://a/", &late)), Duration::from_secs(1));
        assert_eq!(late.code(), 4);
        assert!(late.to_string().contains("has applied 3"), "{late}");
        let silent = Status::cancelled("Timeout expired");
        assert_eq!(
            out_of_time(Some(Failed::of("", &silent)), Duration::ZERO).code(),
            4
        );
        // The second is how a member that does not take the certificate shows.
        let nobody = Status::unavailable("tcp connect error");
        let closed = Status::cancelled("operation was canceled");
        for nobody in [nobody, closed] {
            let failed = Failed::of("", &nobody);
            assert_eq!(out_of_time(Some(failed), Duration::ZERO).code(), 3);
        }
    }
}
