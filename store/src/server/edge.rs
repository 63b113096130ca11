//! What every call meets before it reaches a service: who may make it, and one word of tonic's put into ours.
//!
//! Who calls is known by the certificate that the connection was made with ([`Subject`]); what that allows stands in
//! [`access`]. On the members' listener the certificate must be a member's, and which one goes along with the call, so
//! that nobody speaks for another ([`CertifiedMember`]). Without TLS nothing is known of a caller, and whoever reaches the
//! listener may do everything: that is why plain text is for loopback.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{Either, MapOk, Ready, ready};
use futures::{FutureExt, TryFutureExt};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tower::{Layer, Service};

use super::certificate::Subject;
use crate::raft::tonic_network::CertifiedMember;
use crate::service::access::{self, Role};
use crate::service::status::over_limit;

/// Who may come in through a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Everybody who reaches it: plain text.
    Everybody,
    /// Clients by their certificates' roles; those without a certificate have the role named, if any.
    Clients(Option<Role>),
    /// Members by their certificates.
    Members,
}

/// Puts the edge around a listener's services.
#[derive(Clone, Copy, Debug)]
pub struct Edge(pub Admission);

impl<S> Layer<S> for Edge {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            admission: self.0,
        }
    }
}

/// Services behind the edge.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    admission: Admission,
}

type Answer = Result<Response<Body>, Infallible>;
type Worded<F> = MapOk<F, fn(Response<Body>) -> Response<Body>>;

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Answer>, Worded<S::Future>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.admission.admit(&mut request) {
            Ok(()) => {
                let worded: fn(Response<Body>) -> Response<Body> = name_the_limit;
                self.inner.call(request).map_ok(worded).right_future()
            }
            Err(status) => ready(Ok(status.into_http())).left_future(),
        }
    }
}

impl Admission {
    fn admit(self, request: &mut Request<Body>) -> Result<(), Status> {
        match self {
            Self::Everybody => Ok(()),
            Self::Clients(without) => {
                let path = request.uri().path();
                match access::needed(path) {
                    Some(needed) => admit_client(subject(request).as_ref(), without, needed, path),
                    None => Ok(()),
                }
            }
            Self::Members => {
                let subject = subject(request).unwrap_or_default();
                let Some(id) = subject.member() else {
                    let message = format!(
                        "the certificate of {:?} (roles: {}) is no member's: its subject must have OU=member and CN=member-ID",
                        subject.name,
                        subject.roles_text()
                    );
                    return Err(denied(&subject.name, request.uri().path(), message));
                };
                request.extensions_mut().insert(CertifiedMember(id));
                Ok(())
            }
        }
    }
}

fn admit_client(
    subject: Option<&Subject>,
    without: Option<Role>,
    needed: Role,
    path: &str,
) -> Result<(), Status> {
    let method = path.trim_start_matches('/');
    match (subject, without) {
        (Some(subject), _) if subject.may(needed) => Ok(()),
        (Some(subject), _) => {
            let message = format!(
                "{method} takes the role {}, and the certificate of {:?} gives the roles: {}",
                needed.name(),
                subject.name,
                subject.roles_text()
            );
            Err(denied(&subject.name, method, message))
        }
        (None, Some(role)) if role.covers(needed) => Ok(()),
        (None, _) => {
            let message = format!(
                "{method} takes a client certificate with the role {}",
                needed.name()
            );
            denied("", method, message.clone());
            Err(Status::unauthenticated(message))
        }
    }
}

/// Refuses a call and writes it down.
fn denied(name: &str, method: &str, message: String) -> Status {
    tracing::warn!(client = name, method, reason = %message, "call denied");
    metrics::counter!("troika_calls_denied_total").increment(1);
    Status::permission_denied(message)
}

/// Who the certificate of this call's connection belongs to; None without a certificate. One that cannot be read is
/// nobody's.
fn subject(request: &Request<Body>) -> Option<Subject> {
    let info = request
        .extensions()
        .get::<TlsConnectInfo<TcpConnectInfo>>()?;
    let certificates: Arc<_> = info.peer_certs()?;
    let certificate = certificates.first()?;
    Some(Subject::of(certificate).unwrap_or_default())
}

/// tonic refuses a message above its service's limit with a code that means "pruned" here: says it with ours.
fn name_the_limit(response: Response<Body>) -> Response<Body> {
    match response.extensions().get::<Status>() {
        Some(status) => match over_limit(status) {
            Some(status) => status.into_http(),
            None => response,
        },
        None => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn subject(roles: &[Role]) -> Subject {
        Subject {
            name: "x".to_owned(),
            roles: roles.to_vec(),
        }
    }

    #[test]
    fn a_client_may_do_what_its_roles_cover() {
        let may = |roles: &[Role], needed| {
            admit_client(Some(&subject(roles)), Some(Role::Admin), needed, "/a/B").is_ok()
        };
        assert!(may(&[Role::Executor], Role::Reader));
        assert!(!may(&[Role::Executor], Role::Admin));
        assert!(may(&[Role::Reader, Role::Admin], Role::Admin));
        // A certificate without a role is not the same as none.
        assert!(!may(&[], Role::Reader));
        assert!(!may(&[Role::Member], Role::Reader));
    }

    #[test]
    fn without_a_certificate_there_is_the_role_that_was_given_to_everybody_or_none() {
        let refusal = |without, needed| {
            let admitted = admit_client(None, without, needed, "/a/B");
            admitted.err().map(|status| status.code())
        };
        assert_eq!(refusal(None, Role::Reader), Some(Code::Unauthenticated));
        assert_eq!(refusal(Some(Role::Reader), Role::Reader), None);
        let submit = refusal(Some(Role::Reader), Role::Executor);
        assert_eq!(submit, Some(Code::Unauthenticated));
    }
}
