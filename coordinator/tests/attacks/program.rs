//! The real program, on loopback without TLS.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rekeeper_proto::MAX_MESSAGE_BYTES;
use rekeeper_proto::v1::operator_client::OperatorClient;
use rekeeper_proto::v1::{HostsRequest, PlanRequest, StatusRequest};
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::Channel;

pub(crate) const MIB: u64 = 1 << 20;

/// A coordinator of its own, killed at the end.
pub(crate) struct Program {
    child: Child,
    pub(crate) url: String,
    _folder: TempDir,
}

impl Program {
    pub(crate) async fn start() -> Self {
        Self::with("").await
    }

    /// With more lines in its configuration.
    pub(crate) async fn with(lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("coordinator.yaml");
        let text = format!("listen: 127.0.0.1:0\ndata_dir: data\ninsecure: true\n{lines}");
        std::fs::write(&config, text).unwrap();
        // Another build can be named, to see what it does about the attacks.
        let program = std::env::var_os("REKEEPER_ATTACKED");
        let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_rekeeper-coordinator").into());
        let mut child = Command::new(program)
            .arg("--config")
            .arg(&config)
            .env("REKEEPER_LOG", "info")
            // Whoever keeps a thread of the runtime busy keeps everybody waiting.
            .env("TOKIO_WORKER_THREADS", "1")
            .env("REKEEPER_LOG_FORMAT", "json")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let shown: String = line.chars().take(300).collect();
                println!("{shown}");
                let of_start = line
                    .split_once("\"listen\":\"")
                    .and_then(|(_, rest)| rest.split_once('"'));
                if let Some((address, _)) = of_start {
                    drop(tell.send(address.to_owned()));
                }
            }
        });
        let address = told.recv_timeout(Duration::from_secs(30)).unwrap();
        Self {
            child,
            url: format!("http://{address}"),
            _folder: folder,
        }
    }

    pub(crate) async fn channel(&self) -> Channel {
        let url = self.url.clone();
        Channel::from_shared(url).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn operator(channel: Channel) -> OperatorClient<Channel> {
        OperatorClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) async fn status(&self, name: String) -> Result<String, Status> {
        let mut operator = Self::operator(self.channel().await).await;
        let answer = operator.status(StatusRequest { name }).await?;
        Ok(answer.into_inner().json)
    }

    /// Asks who is there, and how long the answer takes.
    pub(crate) async fn hosts(&self, operator: &mut OperatorClient<Channel>) -> Duration {
        let asked = std::time::Instant::now();
        operator.hosts(HostsRequest {}).await.unwrap();
        asked.elapsed()
    }

    /// Plans everything of everybody who is connected.
    pub(crate) fn plan(&self, name: &str) -> impl Future<Output = Result<String, Status>> + Send + 'static {
        let (url, name) = (self.url.clone(), name.to_owned());
        async move {
            let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
            let mut operator = Self::operator(channel).await;
            let request = PlanRequest {
                name,
                ..PlanRequest::default()
            };
            Ok(operator.plan(request).await?.into_inner().json)
        }
    }

    /// Waits until it has done what it was given: its memory is the same for a while, and it answers.
    pub(crate) async fn settles(&mut self) {
        let mut last = (0, 0);
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(self.child.try_wait().unwrap().is_none(), "the coordinator has ended");
            let now = (self.peak(), self.ticks());
            // Used next to no time since the last look.
            if now.0 == last.0 && now.1 < last.1 + 3 {
                break;
            }
            last = now;
        }
        let mut operator = Self::operator(self.channel().await).await;
        operator.hosts(HostsRequest {}).await.unwrap();
    }

    pub(crate) fn has_had_at_most(&self, limit: u64) {
        let peak = self.peak();
        println!("VmHWM {} MiB", peak / MIB);
        assert!(
            peak <= limit,
            "the coordinator had {} MiB resident, and {} are allowed",
            peak / MIB,
            limit / MIB
        );
    }

    /// VmHWM in bytes.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// The time that it has used, in ticks of 10 ms.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields = stat.rsplit_once(')').unwrap().1;
        let mut fields = fields.split_whitespace().skip(11);
        let mut next = || fields.next().unwrap().parse::<u64>().unwrap();
        next() + next()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
