//! TLS to ZooKeeper with the files of ClickHouse's `<openSSL><client>`. A node has to prove who it is, whatever
//! `<verificationMode>` lets ClickHouse itself take.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rekeeper_tls::{Own, client_config, distrusted, provider};
use roxmltree::Node;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zookeeper_client::TlsOptions;

use super::xml::{child, child_text, truth};

/// Where systems keep the CAs that everybody trusts: Debian, Red Hat.
const SYSTEM_CAS: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];
/// What the CAs are called where people name them.
const CA: &str = "<openSSL><client><caConfig> of ClickHouse's configuration";
/// How long one node may take in a probe, and how long it has to refuse this side's certificate: with TLS 1.3 that comes
/// after the handshake.
const PROBE: Duration = Duration::from_secs(5);
const REFUSAL: Duration = Duration::from_millis(500);

/// The files of `<openSSL><client>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// `<caConfig>`: a file with CAs, or a folder of such files.
    pub ca: Option<PathBuf>,
    /// `<loadDefaultCAFile>`: the CAs of the system, too.
    pub system_cas: bool,
    /// `<certificateFile>` and `<privateKeyFile>`; each may hold both.
    pub own: Option<(PathBuf, PathBuf)>,
}

impl Default for TlsFiles {
    fn default() -> Self {
        Self {
            ca: None,
            system_cas: true,
            own: None,
        }
    }
}

/// What a session with TLS is made with.
pub(super) struct Tls {
    pub(super) options: TlsOptions,
    config: Arc<ClientConfig>,
}

impl TlsFiles {
    /// What a configuration has below its root element.
    pub(super) fn parse(root: Node<'_, '_>) -> Self {
        let Some(client) = child(root, "openSSL").and_then(|section| child(section, "client")) else {
            return Self::default();
        };
        let file = |name: &str| {
            let text = child_text(client, name).filter(|text| !text.is_empty());
            text.map(PathBuf::from)
        };
        let (cert, key) = (file("certificateFile"), file("privateKeyFile"));
        Self {
            ca: file("caConfig"),
            // Poco, SSLManager.h: VAL_ENABLE_DEFAULT_CA is true.
            system_cas: child_text(client, "loadDefaultCAFile").is_none_or(|text| truth(&text)),
            own: cert.clone().or_else(|| key.clone()).zip(key.or(cert)),
        }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with them, for people.
    pub(super) fn read(&self) -> Result<Tls, String> {
        let mut pem = String::new();
        for file in self.ca_files()? {
            let text = std::fs::read_to_string(&file);
            pem += &text.map_err(|e| format!("{CA}: {} cannot be read: {e}", file.display()))?;
            pem.push('\n');
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem.as_bytes()).flatten());
        if roots.is_empty() {
            return Err(format!(
                "there is no CA to believe its nodes by: name the one that has signed their certificates in {CA}"
            ));
        }
        let mut problems = Vec::new();
        let fields = ("<certificateFile>", "<privateKeyFile>");
        let own = self
            .own
            .as_ref()
            .and_then(|(cert, key)| Own::read(fields, cert, key, &mut problems));
        if !problems.is_empty() {
            return Err(format!(
                "<openSSL><client> of ClickHouse's configuration: {}",
                problems.join("; ")
            ));
        }
        let unusable = |e: &dyn std::error::Error| format!("the files of <openSSL><client> cannot be used: {e}");
        // The client asks for the process's default, of which there is none while the program has two.
        let _ = CryptoProvider::install_default(CryptoProvider::clone(&provider()));
        let mut options = TlsOptions::new().with_pem_ca(&pem).map_err(|e| unusable(&e))?;
        if let Some((cert, key)) = &self.own {
            let text = |file: &Path| std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()));
            options = options
                .with_pem_identity(&text(cert)?, &text(key)?)
                .map_err(|e| unusable(&e))?;
        }
        let config = client_config(roots, own.as_ref()).map_err(|e| unusable(&e))?;
        Ok(Tls {
            options,
            config: Arc::new(config),
        })
    }

    fn ca_files(&self) -> Result<Vec<PathBuf>, String> {
        let mut files = Vec::new();
        match &self.ca {
            Some(folder) if folder.is_dir() => {
                let unreadable = |e| format!("{CA}: {} cannot be read: {e}", folder.display());
                for entry in std::fs::read_dir(folder).map_err(unreadable)? {
                    files.push(entry.map_err(unreadable)?.path());
                }
                files.retain(|file| file.is_file());
                files.sort();
            }
            Some(file) => files.push(file.clone()),
            None => {}
        }
        if self.system_cas {
            files.extend(SYSTEM_CAS.iter().map(PathBuf::from).find(|file| file.is_file()));
        }
        Ok(files)
    }
}

impl Tls {
    /// Why the nodes of an ensemble, each `host:port`, do not get as far as a session; none when it is not for TLS. The
    /// client does not tell.
    pub(super) async fn trouble(&self, nodes: &[String]) -> Option<String> {
        for node in nodes {
            let Err(error) = self.handshake(node).await else {
                continue;
            };
            let closed = matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset);
            let closed = closed.then(|| "it ends the TLS handshake; is this its port for TLS?".to_owned());
            if let Some(why) = distrusted(&error, CA).or(closed) {
                return Some(format!("{node}: {why}"));
            }
        }
        None
    }

    async fn handshake(&self, node: &str) -> io::Result<()> {
        let name = server_name(node).map_err(io::Error::other)?;
        let config = Arc::clone(&self.config);
        let shake = async {
            let tcp = TcpStream::connect(node).await?;
            let mut stream = TlsConnector::from(config).connect(name, tcp).await?;
            match timeout(REFUSAL, stream.read(&mut [0; 1])).await {
                Ok(Err(error)) => Err(error),
                Ok(Ok(_)) | Err(_) => Ok(()),
            }
        };
        timeout(PROBE, shake).await?
    }
}

/// The name that the certificate of a node, `host:port`, has to be for.
///
/// # Errors
/// When no certificate can be for it.
pub(super) fn server_name(node: &str) -> Result<ServerName<'static>, String> {
    let host = node.rsplit_once(':').map_or(node, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned())
        .map_err(|_| format!("{host:?} is no host name or address that a certificate can be for"))
}

#[cfg(test)]
mod tests {
    use roxmltree::Document;

    use super::*;

    fn files(client: &str) -> TlsFiles {
        let text = format!("<c><openSSL><server/><client>{client}</client></openSSL></c>");
        TlsFiles::parse(Document::parse(&text).unwrap().root_element())
    }

    #[test]
    fn the_files_are_those_of_the_client() {
        assert_eq!(files(""), TlsFiles::default());
        assert_eq!(
            files(
                "<caConfig>/ca.pem</caConfig><loadDefaultCAFile>false</loadDefaultCAFile>
                 <certificateFile>/c.pem</certificateFile><privateKeyFile>/k.pem</privateKeyFile>"
            ),
            TlsFiles {
                ca: Some("/ca.pem".into()),
                system_cas: false,
                own: Some(("/c.pem".into(), "/k.pem".into())),
            }
        );
        let both = Some((PathBuf::from("/both.pem"), PathBuf::from("/both.pem")));
        assert_eq!(files("<privateKeyFile>/both.pem</privateKeyFile>").own, both);
        assert_eq!(files("<certificateFile>/both.pem</certificateFile>").own, both);
    }

    #[test]
    fn without_a_ca_nobody_is_believed() {
        let none = TlsFiles {
            system_cas: false,
            ..TlsFiles::default()
        };
        assert!(none.read().err().unwrap().contains("<caConfig>"));
        let folder = tempfile::tempdir().unwrap();
        for ca in [folder.path().to_owned(), folder.path().join("none.pem")] {
            let files = TlsFiles {
                ca: Some(ca),
                ..none.clone()
            };
            assert!(files.read().err().unwrap().contains("<caConfig>"));
        }
    }

    #[test]
    fn a_node_is_called_by_its_host() {
        assert_eq!(server_name("zk1:2281").unwrap().to_str(), "zk1");
        assert_eq!(server_name("[::1]:2281").unwrap().to_str(), "::1");
        assert!(server_name("a b:2281").is_err());
    }
}
