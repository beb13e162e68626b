//! A proxy in front of ZooKeeper that stops at a chosen multi.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

const MULTI: i32 = 14;

/// What happens to the n-th multi, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server never sees it; the connection is cut, and no other is accepted.
    CrashBefore(usize),
    /// The server applies it; the connection is cut before the answer, and no other is accepted.
    CrashAfter(usize),
    /// The same, but the client may connect again.
    LoseAnswer(usize),
    /// It and all that follows waits for [`Proxy::resume`].
    Hold(usize),
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<State>,
}

struct State {
    fault: Fault,
    multis: AtomicUsize,
    swallow: AtomicI32,
    closed: AtomicBool,
    reached: Notify,
    resume: Notify,
}

impl Proxy {
    pub(crate) async fn start(server: u16, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            fault,
            multis: AtomicUsize::new(0),
            swallow: AtomicI32::new(0),
            closed: AtomicBool::new(false),
            reached: Notify::new(),
            resume: Notify::new(),
        });
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if shared.closed.load(Ordering::SeqCst) {
                    continue;
                }
                let state = shared.clone();
                tokio::spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                    let (client_in, client_out) = client.into_split();
                    let (server_in, server_out) = server.into_split();
                    // The first of the two to end drops both, and so cuts both connections.
                    tokio::select! {
                        _ = requests(client_in, server_out, &state) => {}
                        _ = answers(server_in, client_out, &state) => {}
                    }
                });
            }
        });
        Self { port, state }
    }

    /// Waits until the chosen multi has come.
    pub(crate) async fn reached(&self) {
        self.state.reached.notified().await;
    }

    /// Lets a held multi go on.
    pub(crate) fn resume(&self) {
        self.state.resume.notify_one();
    }

    /// How many multis have come.
    pub(crate) fn multis(&self) -> usize {
        self.state.multis.load(Ordering::SeqCst)
    }
}

async fn frame(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let length = from.read_i32().await.ok()?;
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    from.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}

async fn send(to: &mut OwnedWriteHalf, bytes: &[u8]) -> Option<()> {
    let mut whole = i32::try_from(bytes.len()).ok()?.to_be_bytes().to_vec();
    whole.extend(bytes);
    to.write_all(&whole).await.ok()
}

fn number(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State) -> Option<()> {
    let handshake = frame(&mut from).await?;
    send(&mut to, &handshake).await?;
    loop {
        let request = frame(&mut from).await?;
        if number(&request, 4) == MULTI {
            let n = state.multis.fetch_add(1, Ordering::SeqCst) + 1;
            match state.fault {
                Fault::CrashBefore(at) if at == n => {
                    state.closed.store(true, Ordering::SeqCst);
                    state.reached.notify_one();
                    return None;
                }
                Fault::CrashAfter(at) | Fault::LoseAnswer(at) if at == n => {
                    state.swallow.store(number(&request, 0), Ordering::SeqCst);
                }
                Fault::Hold(at) if at == n => {
                    state.reached.notify_one();
                    state.resume.notified().await;
                }
                _ => {}
            }
        }
        send(&mut to, &request).await?;
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State) -> Option<()> {
    loop {
        let answer = frame(&mut from).await?;
        let swallow = state.swallow.load(Ordering::SeqCst);
        if swallow != 0 && number(&answer, 0) == swallow {
            state.swallow.store(0, Ordering::SeqCst);
            state
                .closed
                .store(matches!(state.fault, Fault::CrashAfter(_)), Ordering::SeqCst);
            state.reached.notify_one();
            return None;
        }
        send(&mut to, &answer).await?;
    }
}
