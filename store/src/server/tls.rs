//! Certificates: read once at the start, used for both listeners and for calls to other members.

use std::path::Path;

use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

use super::ServeError;

/// A member's certificate and whom it trusts; or plain text.
#[derive(Clone, Debug, Default)]
pub struct Tls(Option<Material>);

#[derive(Clone, Debug)]
struct Material {
    identity: Identity,
    authority: Certificate,
}

impl Tls {
    /// Plain text.
    pub fn off() -> Self {
        Self(None)
    }

    /// Mutual TLS: the certificate is shown to clients and members, and theirs must be signed by the authority. Blocks
    /// while it reads the files.
    ///
    /// # Errors
    /// [`ServeError::Tls`] naming the file.
    pub fn load(cert: &Path, key: &Path, authority: &Path) -> Result<Self, ServeError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| {
                ServeError::Tls(format!("cannot read {}: {error}", path.display()))
            })
        };
        Ok(Self(Some(Material {
            identity: Identity::from_pem(read(cert)?, read(key)?),
            authority: Certificate::from_pem(read(authority)?),
        })))
    }

    /// True unless plain text.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn server(&self) -> Option<ServerTlsConfig> {
        let material = self.0.as_ref()?;
        let config = ServerTlsConfig::new().identity(material.identity.clone());
        Some(config.client_ca_root(material.authority.clone()))
    }

    pub(super) fn client(&self) -> Option<ClientTlsConfig> {
        let material = self.0.as_ref()?;
        let config = ClientTlsConfig::new().identity(material.identity.clone());
        Some(config.ca_certificate(material.authority.clone()))
    }
}
