//! A connection that was taken, with TLS or without, and who is at the other end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::certificate::{Identity, Unfit};
use crate::crowd::{Connected as Open, Place};

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Nobody knows: there is no TLS.
    Anyone,
    /// The bearer of a certificate.
    Bearer(Identity),
    /// The bearer of a genuine certificate that says too little; to be told so with the answer to a call.
    Unfit(Unfit),
}

/// The other end of a connection; among the extensions of each of its requests.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it calls from.
    pub address: Option<SocketAddr>,
    /// The role and the name that its certificate gives.
    pub who: Arc<Who>,
}

/// A connection that was taken.
#[derive(Debug)]
pub struct Connection {
    pub(crate) peer: Peer,
    pub(crate) stream: Stream,
    /// Among those of its certificate.
    pub(crate) place: Option<Place>,
}

impl Connection {
    /// Whether it is one of so many of its certificate; the bearers of certificates that say too little are those of one.
    pub(crate) fn enter(&mut self, connected: &Open, most: usize) -> Result<(), String> {
        let name = match self.peer.who.as_ref() {
            Who::Bearer(identity) => identity.to_string(),
            Who::Unfit(_) | Who::Anyone => String::new(),
        };
        self.place = connected.enter(name.clone(), most);
        if self.place.is_some() {
            return Ok(());
        }
        let who = if name.is_empty() {
            "callers without a role"
        } else {
            &name
        };
        Err(format!(
            "{who} has {most} connections open already, as many as one certificate may have (limits.caller_connections in \
             coordinator.yaml)"
        ))
    }

    /// Ends it in the words of HTTP/2: its settings, then GOAWAY for ENHANCE_YOUR_CALM.
    pub(crate) async fn farewell(&mut self, why: &str) -> io::Result<()> {
        const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        const NO_STREAM: [u8; 4] = [0; 4];
        const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 0xb];
        let length = u32::try_from(8 + why.len()).map_err(io::Error::other)?.to_be_bytes();
        let head = [length[1], length[2], length[3], 7, 0];
        let goaway: [&[u8]; 6] = [
            &SETTINGS,
            &head,
            &NO_STREAM,
            &NO_STREAM,
            &ENHANCE_YOUR_CALM,
            why.as_bytes(),
        ];
        self.write_all(&goaway.concat()).await?;
        self.shutdown().await?;
        let mut rest = [0; 1024];
        while self.read(&mut rest).await? > 0 {}
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
