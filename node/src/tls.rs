//! Certificates, as the command line names them: toward the store and the executors, and for whoever connects.

use crate::cli::TlsArgs;
use crate::store_client::Options;
use anyhow::{Context, bail};
use std::path::Path;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// Certificates, as they were read.
pub struct Tls {
    authority: Certificate,
    identity: Identity,
}

impl Tls {
    /// `None` where TLS is not asked for.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(args: &TlsArgs) -> anyhow::Result<Option<Self>> {
        let (Some(authority), Some(cert), Some(key)) = (&args.cacert, &args.cert, &args.key) else {
            return Ok(None);
        };
        Ok(Some(Self {
            authority: Certificate::from_pem(read(authority)?),
            identity: Identity::from_pem(read(cert)?, read(key)?),
        }))
    }

    /// For calls to others.
    pub fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(self.authority.clone())
            .identity(self.identity.clone())
    }

    /// For whoever calls: its certificate must be signed by the same authority.
    pub fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .client_ca_root(self.authority.clone())
            .identity(self.identity.clone())
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))
}

/// An address as a URL: without a scheme it gets the one that fits.
///
/// # Errors
/// A scheme that is not what the certificates, or their absence, ask for. It would fail with every call otherwise.
pub fn url(address: &str, tls: bool) -> anyhow::Result<String> {
    match (address.split_once("://"), tls) {
        (None, true) => Ok(format!("https://{address}")),
        (None, false) => Ok(format!("http://{address}")),
        (Some(("https", _)), true) | (Some(("http", _)), false) => Ok(address.to_owned()),
        (Some(_), true) => {
            bail!("{address} is not https, but --cacert, --cert and --key are given")
        }
        (Some(_), false) => {
            bail!("{address} is not http: give --cacert, --cert and --key to speak TLS")
        }
    }
}

/// Addresses as URLs, see [`url`].
///
/// # Errors
/// As [`url`].
pub fn urls(addresses: &[String], tls: Option<&Tls>) -> anyhow::Result<Vec<String>> {
    let urls = addresses.iter().map(|address| url(address, tls.is_some()));
    urls.collect()
}

/// How to reach a store whose members serve clients at these addresses.
///
/// # Errors
/// As [`url`].
pub fn store_options(members: &[String], tls: Option<&Tls>) -> anyhow::Result<Options> {
    let mut options = Options::new(urls(members, tls)?);
    options.tls = tls.map(Tls::client);
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::url;

    #[test]
    fn an_address_gets_the_scheme_that_fits_and_another_one_is_refused() {
        assert_eq!(url("a:1", true).unwrap(), "https://a:1");
        assert_eq!(url("a:1", false).unwrap(), "http://a:1");
        assert_eq!(url("https://a:1", true).unwrap(), "https://a:1");
        let plain = url("http://a:1", true).unwrap_err().to_string();
        assert!(plain.contains("--cacert"), "{plain}");
        let secret = url("https://a:1", false).unwrap_err().to_string();
        assert!(secret.contains("--cacert"), "{secret}");
    }
}
