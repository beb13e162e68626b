//! One real ZooKeeper for all tests of a file.

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

struct Server {
    direct: u16,
    port: u16,
    // The shell below stops ZooKeeper and removes its folder when this pipe is closed: also when the tests are killed.
    _shell: Child,
    _keeper: Option<Child>,
}

/// With this in the environment, a version, ZooKeeper is reached through the rig's stand-in for ClickHouse Keeper.
const KEEPER: &str = "REKEEPER_TEST_KEEPER";

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

/// The port of ZooKeeper itself.
pub(crate) fn direct() -> u16 {
    SERVER.get_or_init(start).direct
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
    let direct = port;
    let (port, keeper) = std::env::var(KEEPER).map_or((direct, None), |version| keeper(direct, &version));
    Server {
        direct,
        port,
        _shell: shell,
        _keeper: keeper,
    }
}

/// Whether ZooKeeper is reached as a Keeper, of which a test cannot demand what it does of ZooKeeper; and why not.
pub(crate) fn is_keeper(why: &str) -> bool {
    let keeper = std::env::var(KEEPER).is_ok();
    if keeper {
        println!("not of a Keeper: {why}");
    }
    keeper
}

/// A stand-in in front of the ZooKeeper at that port; it ends when its standard input is closed.
fn keeper(port: u16, version: &str) -> (u16, Option<Child>) {
    let mut child = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/rig/keeper.py"))
        .args([&port.to_string(), version])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut ready)
        .unwrap();
    (ready.trim().parse().unwrap(), Some(child))
}
