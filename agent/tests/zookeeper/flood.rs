//! A ZooKeeper that announces more than anybody can take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rekeeper_agent::zookeeper::{Access, ZooKeeper};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_two_gib_is_refused_when_it_is_announced() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    tokio::spawn(async move {
        while let Ok((mut caller, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let _ = caller.read(&mut [0; 1024]).await?;
                caller.write_all(&i32::MAX.to_be_bytes()).await?;
                let some = vec![0; 1 << 20];
                // Not the last bytes: then it could be read.
                for _ in 0..2_000 {
                    caller.write_all(&some).await?;
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                caller.read(&mut [0; 1]).await
            });
        }
    });
    let connected = ZooKeeper::connect(&crate::place(port), &Access::default()).await;
    let (sent, peak) = (sent.load(Ordering::Relaxed), peak_mib());
    println!("{sent} MiB were sent, VmHWM {peak} MiB: {:?}", connected.err());
    assert!(peak < 512, "{peak} MiB resident");
}
