//! Answers have an end: in bytes, whatever the server says, and in time.
//!
//! The client reads all rows of an answer, and all bytes of a row, before it gives them; so what comes is counted below it, on
//! its connection.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::codegen::{Service, http::Uri};

use super::Error;

/// Most bytes of an answer: the parts of a table of a million parts have about 100 MB.
pub(super) const MOST: u64 = 256 << 20;
/// How long a question may take; statements that change something may take as long as they need.
pub(super) const WITHIN: Duration = Duration::from_secs(600);

/// A connector whose connections give no answer of more than so many bytes.
#[derive(Debug, Clone)]
pub(super) struct Bounded<C> {
    pub(super) connector: C,
    pub(super) most: u64,
}

impl<C> Service<Uri> for Bounded<C>
where
    C: Service<Uri>,
    C::Future: Send + 'static,
    C::Error: Send,
{
    type Response = TokioIo<Counted<TokioIo<C::Response>>>;
    type Error = C::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, most) = (self.connector.call(uri), self.most);
        Box::pin(async move {
            let stream = TokioIo::new(connecting.await?);
            let answered = 0;
            Ok(TokioIo::new(Counted { stream, most, answered }))
        })
    }
}

/// A connection on which the bytes of an answer are counted: those that came since something was asked.
#[derive(Debug)]
pub(super) struct Counted<S> {
    stream: S,
    most: u64,
    answered: u64,
}

impl<S: Connection> Connection for Counted<TokioIo<S>> {
    fn connected(&self) -> Connected {
        self.stream.inner().connected()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let came = buffer.filled().len().saturating_sub(before) as u64;
        self.answered = self.answered.saturating_add(came);
        if self.answered > self.most {
            return Poll::Ready(Err(io::Error::other(format!(
                "the server's answer has more than {} bytes",
                self.most
            ))));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.answered = 0;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The answer, unless it does not come to its end in time.
pub(super) async fn in_time<T>(
    statement: &'static str,
    within: Duration,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(within, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::Unknown {
            statement,
            source: format!("the answer did not come to its end within {} s", within.as_secs()).into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::{Access, ClickHouse};
    use super::*;

    fn peak_mib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    /// A server whose answers do not end, but after 3 GiB, so that this test does.
    async fn endless() -> Access {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut caller, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = caller.read(&mut [0; 4096]).await?;
                    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                    caller.write_all(head).await?;
                    let chunk = [b"100000\r\n".as_slice(), &vec![b'x'; 1 << 20], b"\r\n"].concat();
                    for _ in 0..3 << 10 {
                        caller.write_all(&chunk).await?;
                    }
                    io::Result::Ok(())
                });
            }
        });
        Access {
            url,
            trust: None,
            user: "default".into(),
            password: None,
        }
    }

    #[tokio::test]
    async fn an_answer_without_an_end_takes_a_bounded_memory() {
        let clickhouse = ClickHouse::new(&endless().await);
        let error = clickhouse.text("SELECT version()").await.unwrap_err().in_full();
        println!("VmHWM {} MiB: {error}", peak_mib());
        assert!(error.contains("more than 268435456 bytes"), "{error}");
        assert!(peak_mib() < 1_024, "{} MiB", peak_mib());
    }

    #[tokio::test]
    async fn an_answer_has_its_time() {
        let never = std::future::pending::<Result<(), Error>>();
        let late = in_time("SELECT", Duration::from_millis(20), never);
        let late = tokio::time::timeout(Duration::from_secs(5), late).await;
        let late = late.expect("it is waited for").unwrap_err();
        assert!(late.in_full().contains("did not come to its end"), "{}", late.in_full());
    }
}
