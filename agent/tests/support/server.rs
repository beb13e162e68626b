//! One real ZooKeeper for all tests of a file.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

struct Server {
    port: u16,
    // The shell below stops ZooKeeper and removes its folder when this pipe is closed: also when the tests are killed.
    _shell: Child,
}

static SERVER: OnceLock<Server> = OnceLock::new();

const SHELL: &str = r#"
java -Xmx256m -cp "/etc/zookeeper/conf:/usr/share/java/*" org.apache.zookeeper.server.quorum.QuorumPeerMain "$1/zoo.cfg" \
    >"$1/log" 2>&1 </dev/null &
read -r _
kill -9 $!
rm -rf "$1"
"#;

/// The port of the server, which is started by the first who asks.
pub(crate) fn port() -> u16 {
    SERVER.get_or_init(start).port
}

fn start() -> Server {
    let dir = tempfile::Builder::new()
        .prefix("rekeeper-zookeeper-")
        .tempdir()
        .unwrap()
        .keep();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "tickTime=500\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nmaxClientCnxns=0\n\
         admin.enableServer=false\nmaxSessionTimeout=60000\n",
        dir.display()
    );
    std::fs::write(dir.join("zoo.cfg"), config).unwrap();
    let shell = Command::new("sh")
        .args(["-c", SHELL, "zookeeper"])
        .arg(&dir)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "ZooKeeper does not start, see {}",
            dir.display()
        );
        sleep(Duration::from_millis(50));
    }
    Server { port, _shell: shell }
}
