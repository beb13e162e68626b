//! The operator's PKI files, read and checked; every problem is said with the field and the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rekeeper_shared::tools::config;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ConfigBuilder, Error, RootCertStore, WantsVerifier};

use crate::certificate::Facts;
use crate::{PROTOCOL, provider};

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Own {
    /// The file of the certificate.
    pub file: PathBuf,
    /// What it says.
    pub facts: Facts,
    pub(super) key: Arc<CertifiedKey>,
}

impl Own {
    /// Reads a certificate (with the chain to its CA, if there is one between) and its key. `fields` are their names
    /// for people, such as `tls.cert` and `tls.key`.
    pub fn read(fields: (&str, &str), cert: &Path, key: &Path, problems: &mut Vec<String>) -> Option<Self> {
        let chain = certificates(fields.0, cert, problems);
        let private = private_key(fields.1, key, problems);
        let chain = chain?;
        let facts = chain.first().and_then(|first| Facts::of(first));
        let Some(facts) = facts else {
            problems.push(format!("{}: {} is no X.509 certificate", fields.0, cert.display()));
            return None;
        };
        match CertifiedKey::from_der(chain, private?, &provider()) {
            Ok(key) => Some(Self {
                file: cert.to_owned(),
                facts,
                key: Arc::new(key),
            }),
            Err(Error::InconsistentKeys(_)) => {
                let (cert, key) = (cert.display(), key.display());
                problems.push(format!("{}: {key} is not the key of the certificate {cert}", fields.1));
                None
            }
            Err(error) => {
                problems.push(format!("{}: {} cannot be used: {error}", fields.1, key.display()));
                None
            }
        }
    }

    /// Says that the certificate is not valid now, if so.
    pub fn check_dates(&self, field: &str, problems: &mut Vec<String>) {
        if let Some(why) = self.facts.out_of_date(SystemTime::now()) {
            problems.push(format!("{field}: {} {why}; make a new one", self.file.display()));
        }
    }
}

/// What the coordinator takes connections with.
#[derive(Debug, Clone)]
pub struct ServerFiles {
    pub(super) own: Own,
    pub(super) callers: Arc<dyn ClientCertVerifier>,
}

impl ServerFiles {
    /// Reads and checks `tls: {cert, key, client_ca}`; the paths are whole.
    pub fn read(cert: &Path, key: &Path, client_ca: &Path, problems: &mut Vec<String>) -> Option<Self> {
        config::check_secret("tls.key", key, problems);
        let own = Own::read(("tls.cert", "tls.key"), cert, key, problems);
        if let Some(own) = &own {
            own.check_dates("tls.cert", problems);
        }
        let roots = Arc::new(authorities("tls.client_ca", client_ca, problems)?);
        match WebPkiClientVerifier::builder_with_provider(roots, provider()).build() {
            Ok(callers) => Some(Self { own: own?, callers }),
            Err(error) => {
                let file = client_ca.display();
                problems.push(format!("tls.client_ca: {file} cannot be used: {error}"));
                None
            }
        }
    }
}

/// Where a caller's files are. They are read anew for each connection, so that a new certificate needs no restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// Certificates of the CAs that the coordinator's certificate may be signed by.
    pub ca: PathBuf,
    /// Own certificate and key; a caller without is refused by the coordinator.
    pub own: Option<(PathBuf, PathBuf)>,
}

impl ClientFiles {
    /// Reads them. `fields` are their names for people: CA, certificate, key. Whether the certificate is valid now is
    /// left to the coordinator to say, or to [`Own::check_dates`].
    pub fn read(&self, fields: [&str; 3], problems: &mut Vec<String>) -> (Option<RootCertStore>, Option<Own>) {
        let [ca, cert, key] = fields;
        let roots = authorities(ca, &self.ca, problems);
        if let Some((_, file)) = &self.own {
            config::check_secret(key, file, problems);
        }
        let own = self
            .own
            .as_ref()
            .and_then(|(cert_file, key_file)| Own::read((cert, key), cert_file, key_file, problems));
        (roots, own)
    }

    pub(super) fn config(roots: RootCertStore, own: Option<&Own>) -> Result<ClientConfig, Error> {
        let config = ClientConfig::builder_with_provider(provider());
        let config = config.with_protocol_versions(&[&rustls::version::TLS13])?;
        let mut config = finished(config, roots, own);
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }
}

/// What a server that is no coordinator is called with; its certificate has to be of one of these CAs. TLS 1.2 is taken as
/// well: it is not Rekeeper's to say what ClickHouse and ZooKeeper speak.
///
/// # Errors
/// When the crypto provider knows none of the versions.
pub fn client_config(roots: RootCertStore, own: Option<&Own>) -> Result<ClientConfig, Error> {
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(finished(config, roots, own))
}

fn finished(
    config: ConfigBuilder<ClientConfig, WantsVerifier>,
    roots: RootCertStore,
    own: Option<&Own>,
) -> ClientConfig {
    let config = config.with_root_certificates(roots);
    match own {
        Some(own) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&own.key)))),
        None => config.with_no_client_auth(),
    }
}

fn read(field: &str, file: &Path, problems: &mut Vec<String>) -> Option<Vec<u8>> {
    std::fs::read(file)
        .map_err(|e| problems.push(format!("{field}: {} cannot be read: {e}", file.display())))
        .ok()
}

fn certificates(field: &str, file: &Path, problems: &mut Vec<String>) -> Option<Vec<CertificateDer<'static>>> {
    let text = read(field, file, problems)?;
    let shown = file.display();
    match CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Some(found),
        Ok(_) => {
            problems.push(format!(
                "{field}: {shown} has no certificate in PEM form (-----BEGIN CERTIFICATE-----); openssl x509 -inform \
                 DER makes PEM of DER"
            ));
            None
        }
        Err(error) => {
            problems.push(format!("{field}: {shown} is broken PEM: {error}"));
            None
        }
    }
}

fn private_key(field: &str, file: &Path, problems: &mut Vec<String>) -> Option<PrivateKeyDer<'static>> {
    let text = read(field, file, problems)?;
    let shown = file.display();
    let why = match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => return Some(key),
        Err(pem::Error::NoItemsFound) if contains(&text, "ENCRYPTED PRIVATE KEY") => {
            "is encrypted, and nobody is there to be asked for its passphrase; openssl pkey writes it without one"
                .to_owned()
        }
        Err(pem::Error::NoItemsFound) => "has no private key in PEM form (-----BEGIN PRIVATE KEY-----)".to_owned(),
        Err(error) => format!("is broken PEM: {error}"),
    };
    problems.push(format!("{field}: {shown} {why}"));
    None
}

fn contains(text: &[u8], words: &str) -> bool {
    text.windows(words.len()).any(|window| window == words.as_bytes())
}

/// The CAs of a file. Their dates are not checked by TLS itself: a file is refused when none of them is valid any more.
/// `field` is its name for people.
pub fn authorities(field: &str, file: &Path, problems: &mut Vec<String>) -> Option<RootCertStore> {
    let found = certificates(field, file, problems)?;
    let shown = file.display();
    let now = SystemTime::now();
    let dates: Vec<Option<String>> = found
        .iter()
        .map(|ca| Facts::of(ca).and_then(|facts| facts.out_of_date(now)))
        .collect();
    if let Some(Some(why)) = dates.first()
        && dates.iter().all(Option::is_some)
    {
        problems.push(format!("{field}: {shown} {why}; make a new CA, and new certificates"));
    }
    let mut roots = RootCertStore::empty();
    for ca in found {
        if let Err(error) = roots.add(ca) {
            problems.push(format!(
                "{field}: {shown} has a certificate that is of no use as a CA: {error}"
            ));
            return None;
        }
    }
    Some(roots)
}
