//! Certificates: read once at the start, used for both listeners and for calls to other members.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

use super::ServeError;
use super::certificate::Subject;
use super::edge::Admission;
use crate::raft::network::MemberId;
use crate::service::access::Role;

/// A member's certificate and whom it trusts; or plain text.
#[derive(Clone, Debug, Default)]
pub struct Tls(Option<Material>);

#[derive(Clone, Debug)]
struct Material {
    identity: Identity,
    authority: Certificate,
    subject: Subject,
    without: Option<Role>,
}

impl Tls {
    /// Plain text.
    pub fn off() -> Self {
        Self(None)
    }

    /// TLS: the certificate is shown to clients and members, and theirs must be signed by the authority. Clients without a
    /// certificate are let in with the role `without`, and not at all where that is None. Blocks while it reads the files.
    ///
    /// # Errors
    /// [`ServeError::Tls`] naming the file.
    pub fn load(
        cert: &Path,
        key: &Path,
        authority: &Path,
        without: Option<Role>,
    ) -> Result<Self, ServeError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| {
                ServeError::Tls(format!("cannot read {}: {error}", path.display()))
            })
        };
        let pem = read(cert)?;
        let der = CertificateDer::from_pem_slice(&pem).map_err(|error| {
            ServeError::Tls(format!("{} is no certificate: {error}", cert.display()))
        })?;
        Ok(Self(Some(Material {
            subject: Subject::of(&der).unwrap_or_default(),
            identity: Identity::from_pem(pem, read(key)?),
            authority: Certificate::from_pem(read(authority)?),
            without,
        })))
    }

    /// True unless plain text.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Refuses a certificate that no other member would take for this one's.
    ///
    /// # Errors
    /// [`ServeError::Tls`], saying what the certificate must name.
    pub fn check_member(&self, id: MemberId) -> Result<(), ServeError> {
        let Some(material) = &self.0 else {
            return Ok(());
        };
        if material.subject.member() == Some(id) {
            return Ok(());
        }
        Err(ServeError::Tls(format!(
            "--cert is of {:?} with the roles: {}; member {id} needs one with the subject CN=member-{id}, OU=member, and \
             the DNS name member-{id} among its names (`troikactl certs` makes such)",
            material.subject.name,
            material.subject.roles_text()
        )))
    }

    /// Who may come in where clients call.
    pub fn clients(&self) -> Admission {
        let material = self.0.as_ref();
        material.map_or(Admission::Everybody, |m| Admission::Clients(m.without))
    }

    /// Who may come in where members call.
    pub fn members(&self) -> Admission {
        match self.is_on() {
            true => Admission::Members,
            false => Admission::Everybody,
        }
    }

    pub(super) fn server(&self, admission: Admission) -> Option<ServerTlsConfig> {
        let material = self.0.as_ref()?;
        let optional = matches!(admission, Admission::Clients(Some(_)));
        let config = ServerTlsConfig::new()
            .identity(material.identity.clone())
            .client_ca_root(material.authority.clone())
            .client_auth_optional(optional)
            .timeout(super::HANDSHAKE);
        Some(config)
    }

    pub(super) fn client(&self) -> Option<ClientTlsConfig> {
        let material = self.0.as_ref()?;
        let config = ClientTlsConfig::new().identity(material.identity.clone());
        Some(config.ca_certificate(material.authority.clone()))
    }
}
