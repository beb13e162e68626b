//! The coordinator's side: takes connections, with TLS or, on loopback, without, and knows who is at the other end.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::sign::SingleCertAndKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use crate::certificate::{Facts, Identity, Unfit};
use crate::connection::{Connection, Peer, Stream, Who};
use crate::crowd::{Admission, Connected as Open, Handshakes};
use crate::files::ServerFiles;
use crate::refusals::Refusals;
use crate::{PROTOCOL, provider, words};

/// How long a caller that was refused has to read why.
const FAREWELL: Duration = Duration::from_secs(1);
/// Callers try again and again: the same refusal is logged once in this time.
const LOG_AGAIN: Duration = Duration::from_secs(60);
const LOG_MEMORY: usize = 1_024;

/// How connections are taken.
#[derive(Debug, Clone)]
pub enum Security {
    /// Without TLS; whoever can connect may do everything, so only on loopback.
    Loopback,
    /// With TLS on both sides.
    Tls(ServerFiles),
}

/// Connections as they come, as many as are admitted. One that does not get through its handshake is refused with a line in
/// the log, and is among `refusals`.
#[must_use]
pub fn incoming(
    listener: TcpListener,
    security: Security,
    admission: Admission,
    refusals: Refusals,
) -> ReceiverStream<io::Result<Connection>> {
    let (taken, connections) = mpsc::channel(16);
    tokio::spawn(async move {
        let gone = taken.clone();
        tokio::select! {
            () = take(listener, security, admission, refusals, taken) => {}
            () = gone.closed() => {}
        }
    });
    ReceiverStream::new(connections)
}

async fn take(
    listener: TcpListener,
    security: Security,
    admission: Admission,
    refusals: Refusals,
    taken: mpsc::Sender<io::Result<Connection>>,
) {
    let handshakes = Handshakes::new(admission);
    let connected = Open::default();
    let refused = Refused {
        seldom: Arc::default(),
        refusals,
    };
    loop {
        let (tcp, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Such as too many open files: it passes, and nobody is served better by an end of the program.
                tracing::warn!(%error, "cannot take a connection");
                sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        // Small messages that wait for an answer: none may wait for the one before to be confirmed.
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%address, %error, "connection is gone already");
            continue;
        }
        match &security {
            Security::Loopback => {
                let connection = Connection {
                    peer: Peer {
                        address: Some(address),
                        who: Arc::new(Who::Anyone),
                    },
                    stream: Stream::Plain(tcp),
                    place: None,
                };
                if taken.send(Ok(connection)).await.is_err() {
                    return;
                }
            }
            Security::Tls(files) => {
                let (turn, crowded) = handshakes.begin(address.ip());
                if let Some(crowded) = crowded {
                    refused.crowd(crowded);
                }
                let number = turn.number();
                let (files, refused, taken) = (files.clone(), refused.clone(), taken.clone());
                let connected = connected.clone();
                let task = tokio::spawn(async move {
                    let shaken = handshake(tcp, address, &files, admission.within, &refused).await;
                    drop(turn);
                    let Some(mut connection) = shaken else { return };
                    match connection.enter(&connected, admission.connections) {
                        Ok(()) => drop(taken.send(Ok(connection)).await),
                        Err(why) => {
                            refused.note(address, &why);
                            drop(timeout(FAREWELL, connection.farewell(&why)).await);
                        }
                    }
                });
                handshakes.is_done_by(number, task.abort_handle());
            }
        }
    }
}

/// What is done about a caller that is refused.
#[derive(Clone)]
struct Refused {
    seldom: Arc<Seldom>,
    refusals: Refusals,
}

impl Refused {
    /// Too many handshakes are under way, most of them of this address: the oldest of them gave way.
    fn crowd(&self, of: IpAddr) {
        self.note(
            SocketAddr::new(of, 0),
            "the oldest of its many TLS handshakes that do not end gave way to another one (limits.handshakes and \
             limits.address_handshakes in coordinator.yaml)",
        );
    }

    fn note(&self, address: SocketAddr, reason: &str) {
        self.refusals.note(address.ip(), reason, SystemTime::now());
        if self.seldom.is_due(address.ip(), reason) {
            tracing::warn!(%address, reason, "caller refused");
        }
    }
}

async fn handshake(
    tcp: TcpStream,
    address: SocketAddr,
    files: &ServerFiles,
    within: Duration,
    refused: &Refused,
) -> Option<Connection> {
    let presented = Arc::new(Mutex::new(None));
    let config = match config(files, Arc::clone(&presented)) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "TLS cannot be used");
            return None;
        }
    };
    let accept = TlsAcceptor::from(Arc::new(config)).accept(tcp).into_fallible();
    let Ok(accepted) = timeout(within, accept).await else {
        tracing::debug!(%address, "a caller did not finish its TLS handshake in time");
        return None;
    };
    match accepted {
        Ok(stream) => {
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let who = match certificate.map_or(Err(Unfit::Unreadable), |der| Identity::of(der)) {
                Ok(identity) => Who::Bearer(identity),
                Err(unfit) => Who::Unfit(unfit),
            };
            Some(Connection {
                peer: Peer {
                    address: Some(address),
                    who: Arc::new(who),
                },
                stream: Stream::Tls(Box::new(stream)),
                place: None,
            })
        }
        Err((error, mut tcp)) => {
            match words::tls_error(&error) {
                Some(tls) => {
                    let facts = presented.lock().unwrap_or_else(PoisonError::into_inner).take();
                    refused.note(address, &words::caller_refused(tls, facts.as_ref()));
                }
                None => tracing::debug!(%address, %error, "a caller went away in its TLS handshake"),
            }
            // What it has sent is read, so that the reason is not overtaken by a reset of the connection.
            let farewell = async {
                tcp.shutdown().await?;
                let mut rest = [0; 1024];
                while tcp.read(&mut rest).await? > 0 {}
                io::Result::Ok(())
            };
            drop(timeout(FAREWELL, farewell).await);
            None
        }
    }
}

/// One for each connection, because it notes what the caller presented.
fn config(files: &ServerFiles, presented: Arc<Mutex<Option<Facts>>>) -> Result<ServerConfig, Error> {
    let verifier = Noting {
        verifier: Arc::clone(&files.callers),
        presented,
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&files.own.key))));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Notes the certificate that was presented, so that a refusal can say whose it was; all else is the verifier's.
#[derive(Debug)]
struct Noting {
    verifier: Arc<dyn ClientCertVerifier>,
    presented: Arc<Mutex<Option<Facts>>>,
}

impl ClientCertVerifier for Noting {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        *self.presented.lock().unwrap_or_else(PoisonError::into_inner) = Facts::of(end_entity);
        self.verifier.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }

    fn offer_client_auth(&self) -> bool {
        self.verifier.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }
}

/// Remembers what was logged of whom, so that one who tries every few seconds does not fill the log.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<HashMap<(IpAddr, String), Instant>>);

impl Seldom {
    /// Whether this is to be logged now.
    #[must_use]
    pub fn is_due(&self, from: IpAddr, reason: &str) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let key = (from, reason.to_owned());
        if said.get(&key).is_some_and(|at| now.duration_since(*at) < LOG_AGAIN) {
            return false;
        }
        if said.len() >= LOG_MEMORY {
            said.clear();
        }
        said.insert(key, now);
        true
    }
}
