//! The caller's side: dials the coordinator over TLS, and says in words for people why that did not work.
//!
//! With TLS 1.3 a caller is done before the coordinator has looked at its certificate, so a refusal would come in the
//! middle of the first call, as a broken pipe. An HTTP/2 server speaks first; so the dialer waits for its first byte,
//! and gets the refusal instead, as long as nothing was sent that could be lost.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, Error};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::{Service, http::Uri};

use crate::files::{ClientFiles, Own};
use crate::words;

/// How long the network may take, and how long the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The own files cannot be used.
    #[error("{0}")]
    Files(String),
    /// The coordinator's address is none that a certificate could name.
    #[error("{0:?} is no host name or address that a certificate can be for")]
    Name(String),
    /// Nobody listens there, or the network is broken.
    #[error("{0}")]
    Network(io::Error),
    /// Nothing came.
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// The two do not trust each other; in words for people.
    #[error("{0}")]
    Trust(String),
}

impl DialError {
    /// The error of a dialer somewhere in the causes of another one.
    #[must_use]
    pub fn within<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }

    /// Whether it will be the same again until somebody changes files or clocks.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Files(_) | Self::Name(_) | Self::Trust(_) => true,
            Self::Network(_) | Self::Silent(_) => false,
        }
    }
}

/// Connects by TLS with these files, each time reading them anew.
#[derive(Debug, Clone)]
pub struct Dialer {
    files: Arc<ClientFiles>,
    /// What the files are called where people name them.
    fields: [&'static str; 3],
}

impl Dialer {
    /// A dialer; `fields` are the names of CA, certificate and key for people.
    #[must_use]
    pub fn new(files: ClientFiles, fields: [&'static str; 3]) -> Self {
        Self {
            files: Arc::new(files),
            fields,
        }
    }

    async fn dial(self, uri: Uri) -> Result<TokioIo<Dialed>, DialError> {
        let mut problems = Vec::new();
        let (Some(roots), own) = self.files.read(self.fields, &mut problems) else {
            return Err(DialError::Files(problems.join("; ")));
        };
        if !problems.is_empty() {
            return Err(DialError::Files(problems.join("; ")));
        }
        let config = ClientFiles::config(roots, own.as_ref()).map_err(|e| DialError::Files(e.to_string()))?;
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| DialError::Name(host.clone()))?;
        let port = uri.port_u16().unwrap_or(443);
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect((host.as_str(), port))).await;
        let tcp = connected
            .map_err(|_| DialError::Silent(CONNECT_TIMEOUT))?
            .map_err(DialError::Network)?;
        tcp.set_nodelay(true).map_err(DialError::Network)?;
        let handshake = async {
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
            let mut first = [0; 1];
            match stream.read(&mut first).await? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(Dialed {
                    first: Some(first[0]),
                    stream,
                }),
            }
        };
        match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(dialed)) => Ok(TokioIo::new(dialed)),
            Ok(Err(error)) => Err(failed(error, &host, &self.files.ca, own.as_ref())),
            Err(_) => Err(DialError::Silent(HANDSHAKE_TIMEOUT)),
        }
    }
}

fn failed(error: io::Error, host: &str, ca: &Path, own: Option<&Own>) -> DialError {
    let Some(tls) = words::tls_error(&error) else {
        return DialError::Network(error);
    };
    DialError::Trust(match tls {
        Error::AlertReceived(AlertDescription::InternalError | AlertDescription::UserCanceled) => {
            return DialError::Network(error);
        }
        Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "the other end does not speak TLS 1.3: this is no coordinator of Rekeeper".to_owned()
        }
        Error::AlertReceived(alert) => {
            words::refused_by_coordinator(*alert, own.map(|own| (own.file.as_path(), &own.facts)))
        }
        Error::InvalidCertificate(why) => words::coordinator_not_trusted(why, host, ca),
        tls if words::speaks_no_tls(tls) => {
            "the coordinator does not speak TLS: its file says `insecure: true`, or something else listens there"
                .to_owned()
        }
        tls => format!("the TLS handshake failed: {tls}"),
    })
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Dialed>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}

/// A connection whose first byte was read already.
#[derive(Debug)]
pub struct Dialed {
    first: Option<u8>,
    stream: TlsStream<TcpStream>,
}

impl AsyncRead for Dialed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.remaining() > 0
            && let Some(first) = self.first.take()
        {
            buffer.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Dialed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
