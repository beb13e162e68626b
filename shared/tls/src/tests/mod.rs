//! Both ends of a connection, with certificates made for the purpose; what each says when it does not come about.

mod pki;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt as _;
use tonic::codegen::Service as _;
use tonic::transport::server::Connected as _;
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use pki::{Authority, Make};

const FIELDS: [&str; 3] = ["ca", "cert", "key"];

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Log {
    async fn until_it_says(&self, words: &str) {
        let said = async {
            while !String::from_utf8_lossy(&self.0.lock().unwrap()).contains(words) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(20), said).await.is_err() {
            panic!(
                "{words:?} is not in {}",
                String::from_utf8_lossy(&self.0.lock().unwrap())
            );
        }
    }
}

/// A coordinator that greets those whom it takes, and says who they are.
struct Coordinator {
    port: u16,
    taken: tokio::sync::mpsc::Receiver<Who>,
    log: Log,
    refusals: Refusals,
    _logging: tracing::subscriber::DefaultGuard,
}

impl Coordinator {
    async fn start(security: Security) -> Self {
        Self::admitting(security, Admission::default()).await
    }

    async fn admitting(security: Security, admission: Admission) -> Self {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(log.clone())
            .with_ansi(false)
            .finish();
        let logging = tracing::subscriber::set_default(subscriber);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, taken) = tokio::sync::mpsc::channel(1);
        let refusals = Refusals::default();
        let noted = refusals.clone();
        tokio::spawn(async move {
            let mut connections = incoming(listener, security, admission, noted);
            let mut open = Vec::new();
            while let Some(Ok(mut connection)) = connections.next().await {
                drop(tell.send(connection.connect_info().who.as_ref().clone()).await);
                connection.write_all(b"hi").await.unwrap();
                connection.flush().await.unwrap();
                open.push(connection);
            }
        });
        Self {
            port,
            taken,
            log,
            refusals,
            _logging: logging,
        }
    }

    /// Dials it by this name; what it said, or why not.
    async fn dialed(&self, name: &str, files: &ClientFiles) -> Result<[u8; 2], String> {
        let uri = format!("https://{name}:{}", self.port).parse().unwrap();
        let mut stream = Dialer::new(files.clone(), FIELDS)
            .call(uri)
            .await
            .map_err(|e| e.to_string())?
            .into_inner();
        let mut said = [0; 2];
        stream.read_exact(&mut said).await.unwrap();
        Ok(said)
    }
}

fn server(folder: &Authority, make: Make) -> Security {
    let (cert, key) = folder.write(make);
    let mut problems = Vec::new();
    let files = ServerFiles::read(&cert, &key, &folder.ca, &mut problems);
    assert_eq!(problems, [""; 0]);
    Security::Tls(files.unwrap())
}

fn caller(folder: &Authority, ca: &Authority, make: Make) -> ClientFiles {
    ClientFiles {
        ca: ca.ca.clone(),
        own: Some(folder.write(make)),
    }
}

#[tokio::test]
async fn the_bearer_of_a_good_certificate_is_known() {
    let folder = Authority::new();
    let mut coordinator = Coordinator::start(server(&folder, Make::server())).await;
    for (make, role, hosts) in [
        (Make::person("anna", "rekeeper-operator"), Role::Operator, vec![]),
        (Make::agent("ch-1"), Role::Agent, vec!["ch-1".to_owned()]),
    ] {
        let name = make.common_name.to_owned();
        let files = caller(&folder, &folder, make);
        for address in ["127.0.0.1", "localhost"] {
            assert_eq!(coordinator.dialed(address, &files).await.as_ref(), Ok(b"hi"));
            let (name, hosts) = (name.clone(), hosts.clone());
            let who = Who::Bearer(Identity { name, role, hosts });
            assert_eq!(coordinator.taken.recv().await, Some(who));
        }
    }
    let files = caller(&folder, &folder, Make::person("anna", "people"));
    assert!(coordinator.dialed("localhost", &files).await.is_ok());
    let who = coordinator.taken.recv().await;
    assert!(matches!(who, Some(Who::Unfit(Unfit::NoRole { .. }))), "{who:?}");
}

#[tokio::test]
async fn a_refused_caller_and_the_log_say_why() {
    let (folder, again, foreign) = (Authority::new(), Authority::new(), Authority::named("another CA"));
    let mut coordinator = Coordinator::start(server(&folder, Make::server())).await;
    let anna = || Make::person("anna", "rekeeper-operator");
    let without = ClientFiles {
        ca: folder.ca.clone(),
        own: None,
    };
    for (files, told, logged) in [
        (
            without,
            "none was given: name yours and its key",
            "the caller showed no certificate",
        ),
        (
            caller(&again, &folder, anna()),
            "it is not signed by the CA that the coordinator trusts",
            "to 2099-01-01T00:00:00Z) is not signed by a CA",
        ),
        (
            caller(&foreign, &folder, anna()),
            "it is not signed by the CA that the coordinator trusts",
            "CN=anna, OU=rekeeper-operator; valid from 2020-01-01T00:00:00Z to 2099-01-01T00:00:00Z) is not signed by",
        ),
        (
            caller(&folder, &folder, anna().expired()),
            "valid from 2020-01-01T00:00:00Z to 2021-01-01T00:00:00Z; make a new one",
            "to 2021-01-01T00:00:00Z): it expired",
        ),
        (
            caller(
                &folder,
                &folder,
                anna().purpose(rcgen::ExtendedKeyUsagePurpose::ServerAuth),
            ),
            "has to contain clientAuth",
            "does not contain clientAuth",
        ),
    ] {
        let error = coordinator.dialed("localhost", &files).await.unwrap_err();
        assert!(error.contains(told), "{error}");
        coordinator.log.until_it_says(logged).await;
        // And so do those who look, of the one that came last first.
        let refusals = coordinator.refusals.list(SystemTime::now());
        assert!(
            refusals[0].reason.contains(logged) && refusals[0].address.is_loopback(),
            "{refusals:?}"
        );
    }
    // Two of them for the same reason.
    let refusals = coordinator.refusals.list(SystemTime::now());
    assert_eq!((refusals.len(), refusals.iter().map(|r| r.count).sum::<u64>()), (4, 5));
    assert!(coordinator.taken.try_recv().is_err(), "nobody of them was taken");
}

#[tokio::test]
async fn a_coordinator_that_cannot_be_trusted_is_not_called() {
    let (folder, again, foreign) = (Authority::new(), Authority::new(), Authority::named("another CA"));
    let anna = |ca| caller(&folder, ca, Make::person("anna", "rekeeper-operator"));
    let coordinator = Coordinator::start(server(&folder, Make::server())).await;
    for ca in [&again, &foreign] {
        let error = coordinator.dialed("localhost", &anna(ca)).await.unwrap_err();
        assert!(
            error.contains("not signed by the CA in") && error.contains("ca.crt"),
            "{error}"
        );
    }
    coordinator.log.until_it_says("it trusts another CA").await;
    drop(coordinator);

    let coordinator = Coordinator::start(server(&folder, Make::server().called("coordinator.example"))).await;
    let error = coordinator.dialed("localhost", &anna(&folder)).await.unwrap_err();
    assert!(
        error.contains("is not for localhost, it is for coordinator.example"),
        "{error}"
    );
    coordinator.log.until_it_says("by a name that is not among").await;
    drop(coordinator);

    let agent = Make::agent("localhost");
    let coordinator = Coordinator::start(server(&folder, agent)).await;
    let error = coordinator.dialed("localhost", &anna(&folder)).await.unwrap_err();
    assert!(
        error.contains("does not contain serverAuth"),
        "an agent is no coordinator: {error}"
    );
}

#[tokio::test]
async fn with_and_without_tls_do_not_meet() {
    let folder = Authority::new();
    let files = caller(&folder, &folder, Make::person("anna", "rekeeper-operator"));
    let mut plain = Coordinator::start(Security::Loopback).await;
    let error = plain.dialed("localhost", &files).await.unwrap_err();
    assert!(error.contains("does not speak TLS"), "{error}");
    assert_eq!(plain.taken.recv().await, Some(Who::Anyone));
    let gone = ClientFiles {
        ca: PathBuf::from("/none"),
        ..files
    };
    let error = plain.dialed("localhost", &gone).await.unwrap_err();
    assert!(error.contains("ca: /none cannot be read"), "{error}");
    drop(plain);

    let coordinator = Coordinator::start(server(&folder, Make::server())).await;
    let mut stream = TcpStream::connect(("127.0.0.1", coordinator.port)).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    coordinator
        .log
        .until_it_says("does not speak TLS: it has to use https://")
        .await;
}

#[test]
#[expect(clippy::too_many_lines, reason = "a list of mistakes")]
fn what_is_wrong_with_files_is_said_with_their_names() {
    let folder = Authority::new();
    let file = |name: &str, text: &str| {
        let file = folder.folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        file
    };
    let (_, open_key) = folder.write(Make::server());
    std::fs::set_permissions(&open_key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (good, key) = folder.write(Make::server());
    let (other, _) = folder.write(Make::person("anna", "rekeeper-operator"));
    let (old, old_key) = folder.write(Make::server().expired());
    let none = PathBuf::from("/none");
    let text = file("text", "no PEM");
    let encrypted = file(
        "encrypted",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let broken = file("broken", "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n");
    let hollow = file(
        "hollow",
        "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
    );
    let ca = &folder.ca;
    for (cert, key, ca, words) in [
        (
            &none,
            &none,
            &none,
            vec![
                "tls.cert: /none cannot",
                "tls.key: /none cannot",
                "tls.client_ca: /none cannot",
            ],
        ),
        (
            &text,
            &text,
            &text,
            vec![
                "text has no certificate",
                "text has no private key",
                "text has no certificate",
            ],
        ),
        (
            &broken,
            &encrypted,
            ca,
            vec!["broken is broken PEM", "encrypted is encrypted"],
        ),
        (&hollow, &key, ca, vec!["hollow is no X.509"]),
        (
            &hollow,
            &open_key,
            ca,
            vec!["can be read by every user", "hollow is no X.509"],
        ),
        (&other, &key, ca, vec!["is not the key of the certificate"]),
        (&old, &old_key, ca, vec!["expired on 2021-01-01T00:00:00Z"]),
        (&good, &key, &good, vec![]),
        (&good, &key, ca, vec![]),
    ] {
        let mut problems = Vec::new();
        let files = ServerFiles::read(cert, key, ca, &mut problems);
        assert_eq!(problems.len(), words.len(), "{problems:?}");
        for (problem, words) in problems.iter().zip(&words) {
            assert!(problem.contains(words), "{words}: {problems:?}");
        }
        assert!(files.is_some() || !words.is_empty());
    }
}

#[test]
fn a_certificate_gives_exactly_one_role_and_what_the_role_needs() {
    let folder = Authority::new();
    let identity = |make: Make| {
        let mut problems = Vec::new();
        let (cert, key) = folder.write(make);
        let own = Own::read(("cert", "key"), &cert, &key, &mut problems).unwrap();
        assert!(own.facts.out_of_date(SystemTime::now()).is_none());
        Identity::try_from(own.facts)
    };
    let anna = identity(Make::person("an\nna", "rekeeper-viewer")).unwrap();
    assert_eq!(anna.to_string(), "an?na (viewer)");
    for (unit, words) in [
        ("people", "gives no role"),
        ("rekeeper-admin", "gives rekeeper-admin: it has to give exactly one"),
        ("REKEEPER-OPERATOR", "gives no role"),
    ] {
        let unfit = identity(Make::person("anna", unit)).unwrap_err().to_string();
        assert!(unfit.contains(words) && unfit.contains("docs/tls.md"), "{unfit}");
    }
    for unit in ["rekeeper-operator ", " rekeeper-operator", "rekeeper-operator\n"] {
        let unfit = identity(Make::person("anna", unit)).unwrap_err().to_string();
        assert!(unfit.contains("exactly one role"), "{unit:?}: {unfit}");
    }
    let padded = identity(Make::agent("x").called("ch-1 ")).unwrap();
    assert!(padded.hosts.iter().all(|host| host != "ch-1"), "{:?}", padded.hosts);
    let unfit = identity(Make::person("anna", "rekeeper-operator").for_anything()).unwrap_err();
    assert!(unfit.to_string().contains("extendedKeyUsage=clientAuth"), "{unfit}");
    let no_host = identity(Make::person("x", "rekeeper-agent")).unwrap_err().to_string();
    assert!(no_host.contains("names no host"), "{no_host}");
    let no_name = identity(Make::person("", "rekeeper-operator")).unwrap_err().to_string();
    assert!(no_name.contains("no common name"), "{no_name}");
}

#[test]
fn two_roles_are_no_role() {
    let facts = Facts {
        subject: "CN=anna".into(),
        common_name: Some("anna".into()),
        units: vec!["rekeeper-agent".into(), "staff".into(), "rekeeper-operator".into()],
        dns_names: vec!["ch-1".into()],
        is_for_callers: true,
        not_before: SystemTime::UNIX_EPOCH,
        not_after: SystemTime::UNIX_EPOCH,
    };
    let unfit = Identity::try_from(facts).unwrap_err().to_string();
    assert!(unfit.contains("gives rekeeper-agent and rekeeper-operator"), "{unfit}");
}

#[test]
fn the_same_refusal_is_logged_once_in_a_while() {
    let seldom = Seldom::default();
    let [here, there] = [1, 2].map(|last| std::net::IpAddr::from([127, 0, 0, last]));
    assert!(seldom.is_due(here, "a") && seldom.is_due(here, "b") && seldom.is_due(there, "a"));
    assert!(!seldom.is_due(here, "a"));
}

#[tokio::test]
async fn who_never_ends_a_handshake_keeps_nobody_out() {
    let folder = Authority::new();
    let mut coordinator = Coordinator::start(server(&folder, Make::server())).await;
    let files = caller(&folder, &folder, Make::agent("ch-1"));
    let mut silent = Vec::new();
    for _ in 0..600 {
        silent.push(TcpStream::connect(("127.0.0.1", coordinator.port)).await.unwrap());
    }
    // Long before the first of them is out of time.
    let dialed = coordinator.dialed("127.0.0.1", &files);
    let said = tokio::time::timeout(Duration::from_secs(5), dialed).await;
    said.expect("an honest agent is kept out").unwrap();
    coordinator.taken.recv().await.unwrap();
    coordinator.log.until_it_says("limits.address_handshakes").await;
    let told = coordinator.refusals.list(SystemTime::now());
    assert!(told.len() == 1 && told[0].count >= 500, "{told:?}");
}

#[tokio::test]
async fn who_does_not_end_its_handshake_in_time_is_given_up() {
    let folder = Authority::new();
    let admission = Admission {
        within: Duration::from_millis(100),
        ..Admission::default()
    };
    let coordinator = Coordinator::admitting(server(&folder, Make::server()), admission).await;
    let mut silent = TcpStream::connect(("127.0.0.1", coordinator.port)).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), silent.read(&mut [0; 1])).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
}

#[tokio::test]
async fn a_certificate_has_so_many_connections_and_no_more() {
    let folder = Authority::new();
    let admission = Admission {
        connections: 2,
        ..Admission::default()
    };
    let mut coordinator = Coordinator::admitting(server(&folder, Make::server()), admission).await;
    let files = caller(&folder, &folder, Make::person("anna", "rekeeper-viewer"));
    let uri: tonic::codegen::http::Uri = format!("https://127.0.0.1:{}", coordinator.port).parse().unwrap();
    let mut open = Vec::new();
    for number in 0..3 {
        let call = Dialer::new(files.clone(), FIELDS).call(uri.clone()).await;
        open.push(call.unwrap().into_inner());
        if number < 2 {
            coordinator.taken.recv().await.unwrap();
        }
    }
    let mut told = Vec::new();
    let mut third = open.pop().unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), third.read_to_end(&mut told)).await;
    ended.expect("the third connection stays").unwrap();
    let told = String::from_utf8_lossy(&told);
    assert!(
        told.contains("anna (viewer) has 2 connections open already"),
        "{told:?}"
    );
    coordinator.log.until_it_says("limits.caller_connections").await;
    let others = caller(&folder, &folder, Make::person("bert", "rekeeper-viewer"));
    coordinator.dialed("127.0.0.1", &others).await.unwrap();
}
