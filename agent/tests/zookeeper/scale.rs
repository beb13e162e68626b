//! Deletions of many requests that are cut anywhere.

use crate::delete::make_rich;
use crate::support::proxy::{Fault, Proxy};
use crate::support::server;
use crate::support::table::client;
use crate::{delete, exists, fence, through};

/// Several requests are under way at a time, so that what is left is no prefix of anything.
#[tokio::test]
async fn a_deletion_of_many_requests_is_resumed_wherever_it_was_cut() {
    let port = server::port();
    let direct = client().await;
    let mut left = Vec::new();
    for n in (1..).step_by(6) {
        let path = format!("/cut/t{n}");
        make_rich(&direct, &path).await;
        let zookeeper = through(port).await;
        fence(&zookeeper, &path, 1).await.unwrap();
        let proxy = Proxy::start(port, Fault::CrashBefore(n)).await;
        let crashing = through(proxy.port).await;
        let crashed = tokio::select! {
            done = delete(&crashing, &path, 2) => { done.unwrap(); false }
            () = proxy.reached() => true,
        };
        drop(crashing);
        if !crashed {
            break;
        }
        left.push(direct.count_descendants_number(&path).await.unwrap());
        delete(&zookeeper, &path, 3).await.unwrap();
        assert!(!exists(&direct, &path).await, "{n}");
    }
    println!("nodes that were left: {left:?}");
    let between = left.iter().filter(|&&nodes| nodes > 10 && nodes < left[0] - 10).count();
    assert!(between > 2, "{left:?}");
}
