//! `troikactl certs`: a working set of certificates for trials, from an authority of its own.
//!
//! What is there already is kept, so the same command with more members makes what is missing with the same authority.

use super::args::CertsArgs;
use super::exit::{CtlError, Outcome};
use super::output::Output;
use crate::service::access::Role;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Name of the authority. The same in every set: the authority is found again by its key alone.
const AUTHORITY: &str = "Troika trial authority";
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How far back a certificate is valid, for clocks that differ.
const BACKDATED: Duration = DAY;

/// Makes the set.
pub(super) fn make(out: &Output, args: &CertsArgs) -> Result<Outcome, CtlError> {
    std::fs::create_dir_all(&args.directory)
        .map_err(|e| CtlError::Usage(format!("cannot make {}: {e}", args.directory.display())))?;
    let authority = authority(&args.directory, args.days)?;
    let members = (1..=args.members).map(|id| (format!("member-{id}"), Role::Member));
    let clients = [Role::Admin, Role::Executor, Role::Reader];
    let clients = clients.map(|role| (role.name().to_owned(), role));
    let mut rows = vec![row(&args.directory, "ca", "authority", authority.made)];
    for (name, role) in members.chain(clients) {
        let made = issue(args, &authority.issuer, &name, role)?;
        rows.push(row(&args.directory, &name, role.name(), made));
    }
    out.rows(&rows, &["certificate", "key", "role", "made"]);
    Ok(Outcome::Yes)
}

fn row(directory: &Path, name: &str, role: &str, made: bool) -> Value {
    let file = |ending: &str| directory.join(format!("{name}.{ending}"));
    json!({
        "certificate": file("pem"),
        "key": file("key"),
        "role": role,
        "made": if made { "now" } else { "before" },
    })
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    made: bool,
}

/// The authority of this directory: the one that is there, or a new one.
fn authority(directory: &Path, days: u32) -> Result<Authority, CtlError> {
    let mut params = params(&[], days)?;
    params
        .distinguished_name
        .push(DnType::CommonName, AUTHORITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key_file = directory.join("ca.key");
    let made = !key_file.exists();
    let key = match made {
        false => {
            let text = std::fs::read_to_string(&key_file)
                .map_err(|e| CtlError::Usage(format!("cannot read {}: {e}", key_file.display())))?;
            KeyPair::from_pem(&text)
                .map_err(|e| CtlError::Usage(format!("{} is no key: {e}", key_file.display())))?
        }
        true => KeyPair::generate().map_err(cannot_make)?,
    };
    if made {
        let certificate = params.self_signed(&key).map_err(cannot_make)?;
        // The certificate first: a key without one would be taken for a whole authority.
        write(&directory.join("ca.pem"), &certificate.pem(), 0o644)?;
        write(&key_file, &key.serialize_pem(), 0o600)?;
    }
    let issuer = Issuer::new(params, key);
    Ok(Authority { issuer, made })
}

/// Makes one certificate and its key; false if they are there.
fn issue(
    args: &CertsArgs,
    issuer: &Issuer<'_, KeyPair>,
    name: &str,
    role: Role,
) -> Result<bool, CtlError> {
    let file = |ending: &str| args.directory.join(format!("{name}.{ending}"));
    if file("key").exists() {
        return Ok(false);
    }
    let mut names = args.hosts.clone();
    names.push(name.to_owned());
    let mut params = params(&names, args.days)?;
    let unit = (DnType::OrganizationalUnitName, role.name());
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(unit.0, unit.1);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Executors serve too: their feeds.
    params.extended_key_usages = match role {
        Role::Member | Role::Executor => vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ],
        Role::Admin | Role::Reader => vec![ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(cannot_make)?;
    let certificate = params.signed_by(&key, issuer).map_err(cannot_make)?;
    write(&file("pem"), &certificate.pem(), 0o644)?;
    write(&file("key"), &key.serialize_pem(), 0o600)?;
    Ok(true)
}

fn params(names: &[String], days: u32) -> Result<CertificateParams, CtlError> {
    let mut params = CertificateParams::new(names.to_vec()).map_err(|e| {
        CtlError::Usage(format!(
            "--hosts: {} cannot be certified: {e}",
            names.join(",")
        ))
    })?;
    params.distinguished_name = DistinguishedName::new();
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let now = date_time_ymd(1970, 1, 1) + since_epoch;
    params.not_before = now - BACKDATED;
    params.not_after = now + DAY * days;
    Ok(params)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), CtlError> {
    let mut options = std::fs::OpenOptions::new();
    let opened = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path);
    let written = opened.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|e| CtlError::Usage(format!("cannot write {}: {e}", path.display())))
}

fn cannot_make(error: rcgen::Error) -> CtlError {
    CtlError::Failed(format!("cannot make a certificate: {error}"))
}

#[cfg(test)]
mod tests {
    use super::super::args::Format;
    use super::*;
    use crate::server::certificate::Subject;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use std::os::unix::fs::PermissionsExt;

    fn args(directory: &Path, members: u64) -> CertsArgs {
        CertsArgs {
            directory: directory.to_owned(),
            members,
            hosts: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            days: 30,
        }
    }

    fn subject(file: &Path) -> Subject {
        let der = CertificateDer::from_pem_file(file).unwrap();
        Subject::of(&der).unwrap()
    }

    #[test]
    fn every_certificate_names_its_holder_and_role_and_a_second_run_keeps_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let out = Output::new(Format::Json);
        make(&out, &args(folder.path(), 3)).unwrap();
        let before = std::fs::read(folder.path().join("member-3.pem")).unwrap();
        make(&out, &args(folder.path(), 4)).unwrap();
        assert_eq!(
            std::fs::read(folder.path().join("member-3.pem")).unwrap(),
            before
        );
        for id in 1..=4 {
            let file = folder.path().join(format!("member-{id}.pem"));
            assert_eq!(subject(&file).member(), Some(id));
        }
        for role in [Role::Admin, Role::Executor, Role::Reader] {
            let file = folder.path().join(format!("{}.pem", role.name()));
            assert_eq!(subject(&file).roles, [role]);
            let key = file.with_extension("key");
            assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_host_that_cannot_be_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut args = args(folder.path(), 1);
        args.hosts = vec!["smörgås".to_owned()];
        let error = make(&Output::new(Format::Json), &args).unwrap_err();
        assert!(
            matches!(&error, CtlError::Usage(why) if why.contains("--hosts")),
            "{error}"
        );
    }
}
