//! Questions that are asked together, of a server that answers when it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;

/// A server whose queries wait for a permit before they answer, with what was true when they began.
#[derive(Clone)]
struct Server {
    gather: Arc<Gather<&'static str, u32>>,
    truth: Arc<AtomicU32>,
    permits: Arc<Semaphore>,
    queries: Arc<Mutex<Vec<Vec<&'static str>>>>,
}

/// About this, nothing is ever answered.
const HANGS: &str = "hangs";
/// About this, a query fails.
const FAILS: &str = "fails";

impl Server {
    fn new(permits: usize) -> Self {
        Self {
            gather: Arc::default(),
            truth: Arc::new(AtomicU32::new(1)),
            permits: Arc::new(Semaphore::new(permits)),
            queries: Arc::default(),
        }
    }

    fn ask(&self, key: &'static str) -> JoinHandle<Result<Vec<u32>, Error>> {
        let server = self.clone();
        tokio::spawn(async move { server.gather.ask(key, |keys| server.query(keys)).await })
    }

    fn query(&self, mut keys: Vec<&'static str>) -> BoxFuture<'_, Result<Vec<(&'static str, u32)>, Error>> {
        Box::pin(async move {
            keys.sort_unstable();
            self.queries.lock().unwrap().push(keys.clone());
            let now = self.truth.load(Ordering::SeqCst);
            self.permits.acquire().await.unwrap().forget();
            if keys.contains(&HANGS) {
                std::future::pending::<()>().await;
            }
            if keys.contains(&FAILS) {
                return Err(Error::Answer {
                    statement: "SELECT",
                    source: "none".into(),
                });
            }
            Ok(keys.into_iter().map(|key| (key, now)).collect())
        })
    }

    /// Until so many queries have begun.
    async fn begun(&self, queries: usize) {
        while self.queries.lock().unwrap().len() < queries {
            tokio::task::yield_now().await;
        }
        // Those that were asked since wait by then.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    fn queries(&self) -> Vec<Vec<&'static str>> {
        self.queries.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn an_answer_is_never_older_than_its_question() {
    let server = Server::new(0);
    let first = server.ask("a");
    server.begun(1).await;
    server.truth.store(2, Ordering::SeqCst);
    // The first query runs, and could answer this as well: with what was true before it was asked.
    let later = server.ask("a");
    server.begun(1).await;
    server.permits.add_permits(10);
    assert_eq!(first.await.unwrap().unwrap(), [1]);
    assert_eq!(later.await.unwrap().unwrap(), [2]);
}

#[tokio::test]
async fn those_who_wait_share_the_next_query() {
    let server = Server::new(0);
    let first = server.ask("a");
    server.begun(1).await;
    let others = [server.ask("b"), server.ask("c"), server.ask("b")];
    server.begun(1).await;
    server.permits.add_permits(10);
    assert_eq!(first.await.unwrap().unwrap(), [1]);
    for other in others {
        assert_eq!(other.await.unwrap().unwrap(), [1]);
    }
    assert_eq!(server.queries(), [vec!["a"], vec!["b", "c"]]);
}

#[tokio::test]
async fn where_a_query_for_several_fails_each_is_asked_about_alone() {
    let server = Server::new(0);
    let first = server.ask("a");
    server.begun(1).await;
    let (good, bad) = (server.ask("b"), server.ask(FAILS));
    server.begun(1).await;
    server.permits.add_permits(10);
    assert_eq!(first.await.unwrap().unwrap(), [1]);
    assert_eq!(good.await.unwrap().unwrap(), [1]);
    assert!(bad.await.unwrap().is_err());
}

#[tokio::test]
async fn one_that_hangs_holds_up_the_others_for_a_short_while_only() {
    let server = Server::new(10);
    let hangs = server.ask(HANGS);
    server.begun(1).await;
    let began = tokio::time::Instant::now();
    assert_eq!(server.ask("a").await.unwrap().unwrap(), [1]);
    assert!(began.elapsed() < PATIENCE * 2);
    assert!(!hangs.is_finished());
    hangs.abort();
}

#[tokio::test]
async fn a_question_outlives_those_who_asked_with_it() {
    let server = Server::new(0);
    let first = server.ask("a");
    server.begun(1).await;
    let (gone, stays) = (server.ask("b"), server.ask("c"));
    server.begun(1).await;
    server.permits.add_permits(1);
    first.await.unwrap().unwrap();
    // Now the second query runs, for both.
    server.begun(2).await;
    gone.abort();
    server.permits.add_permits(10);
    assert_eq!(stays.await.unwrap().unwrap(), [1]);
}

#[tokio::test]
async fn a_query_is_never_longer_than_it_may_be() {
    let server = Server::new(0);
    let first = server.ask("a");
    server.begun(1).await;
    let keys: Vec<&'static str> = (0..AT_A_TIME + 10).map(|n| &*n.to_string().leak()).collect();
    let others: Vec<_> = keys.iter().map(|key| server.ask(key)).collect();
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    server.permits.add_permits(100);
    first.await.unwrap().unwrap();
    for other in others {
        assert_eq!(other.await.unwrap().unwrap(), [1]);
    }
    assert!(server.queries().iter().all(|keys| keys.len() <= AT_A_TIME));
}
