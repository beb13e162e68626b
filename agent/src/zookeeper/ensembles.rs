//! The ensembles that ClickHouse's own configuration names: places, and the credentials that no plan ever holds.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rekeeper_shared::domain::place::Place;
use roxmltree::{Document, Node};

use super::keeper;
use super::tls::TlsFiles;
use super::xml::{child, child_text, truth};

/// What ClickHouse uses where `session_timeout_ms` is not set.
const DEFAULT_SESSION_TIMEOUT: Duration = Duration::from_secs(30);
/// The room that the handshake has for a password.
const PASSWORD_BYTES: usize = 16;
/// Attributes of a value that ClickHouse has yet to fetch from somewhere else.
const UNRESOLVED: [&str; 4] = ["incl", "from_zk", "from_env", "encrypted_by"];

/// A configuration from which the ensembles cannot be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum BadEnsembles {
    /// The file cannot be read.
    #[error(
        "cannot read {}: set clickhouse.config of agent.yaml to the preprocessed configuration of the server, and let \
         the agent's user read it",
        .file.display()
    )]
    Read {
        /// `clickhouse.config` of agent.yaml.
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// It is no XML.
    #[error("{} is no well-formed XML", .file.display())]
    Xml {
        /// `clickhouse.config` of agent.yaml.
        file: PathBuf,
        #[source]
        source: roxmltree::Error,
    },
    /// A part of it cannot be used.
    #[error("{}: <{section}>: {problem}", .file.display())]
    Section {
        /// `clickhouse.config` of agent.yaml.
        file: PathBuf,
        /// The XML element that cannot be used.
        section: String,
        problem: String,
    },
}

/// How a place is entered.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    /// `user:password` of the digest scheme.
    pub identity: Option<String>,
    /// What ClickHouse Keeper may demand in the handshake, filled up with zeros; all zeros when there is none.
    pub password: [u8; PASSWORD_BYTES],
    /// The session timeout to ask for.
    pub session_timeout: Duration,
    /// The files for nodes that are `<secure>`.
    pub tls: TlsFiles,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            identity: None,
            password: [0; PASSWORD_BYTES],
            session_timeout: DEFAULT_SESSION_TIMEOUT,
            tls: TlsFiles::default(),
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("identity", &self.identity.as_ref().map(|_| "(hidden)"))
            .field("password", &"(hidden)")
            .field("session_timeout", &self.session_timeout)
            .field("tls", &self.tls)
            .finish()
    }
}

/// The ensembles of one server's configuration, by name.
#[derive(Debug, Clone, Default)]
pub struct Ensembles {
    by_name: BTreeMap<String, (Place, Access)>,
    own_keeper: Option<Result<(Place, Access), String>>,
}

impl Ensembles {
    /// Reads a configuration file of ClickHouse, best the preprocessed one, in which everything is merged.
    ///
    /// `default` is `<zookeeper>`, or else `<keeper>`, or else the embedded `<keeper_server>`, in ClickHouse's own
    /// order; the others are the children of `<auxiliary_zookeepers>`.
    ///
    /// # Errors
    /// [`BadEnsembles`] when the file cannot be read, or an ensemble is not completely in it.
    pub fn read(config_xml: &Path) -> Result<Self, BadEnsembles> {
        let file = config_xml.to_owned();
        let text = match std::fs::read_to_string(config_xml) {
            Ok(text) => text,
            Err(source) => return Err(BadEnsembles::Read { file, source }),
        };
        Self::parse(config_xml, &text)
    }

    fn parse(file: &Path, text: &str) -> Result<Self, BadEnsembles> {
        let options = roxmltree::ParsingOptions {
            allow_dtd: true,
            ..Default::default()
        };
        let document = Document::parse_with_options(text, options).map_err(|source| BadEnsembles::Xml {
            file: file.to_owned(),
            source,
        })?;
        let root = document.root_element();
        let bad = |section: &str, problem: String| BadEnsembles::Section {
            file: file.to_owned(),
            section: section.to_owned(),
            problem,
        };
        let mut by_name = BTreeMap::new();
        let own_keeper = keeper::section(root);
        if let Some(section) = child(root, "zookeeper").or_else(|| child(root, "keeper")) {
            let name = section.tag_name().name();
            let found = ensemble("default", section).map_err(|problem| bad(name, problem))?;
            by_name.insert("default".to_owned(), found);
        } else if let Some(section) = own_keeper.filter(|section| keeper::is_used(*section)) {
            let found = keeper::embedded(section).map_err(|problem| bad("keeper_server", problem))?;
            by_name.insert("default".to_owned(), found);
        }
        if let Some(auxiliary) = child(root, "auxiliary_zookeepers") {
            unresolved(auxiliary).map_err(|problem| bad("auxiliary_zookeepers", problem))?;
            for section in auxiliary.children().filter(Node::is_element) {
                let name = section.tag_name().name();
                let found = ensemble(name, section)
                    .map_err(|problem| bad(&format!("auxiliary_zookeepers><{name}"), problem))?;
                by_name.insert(name.to_owned(), found);
            }
        }
        let mut own_keeper = own_keeper.map(keeper::own);
        let tls = TlsFiles::parse(root);
        let own = own_keeper.iter_mut().flatten();
        for (_, access) in by_name.values_mut().chain(own) {
            access.tls.clone_from(&tls);
        }
        Ok(Self { by_name, own_keeper })
    }

    /// The place that the configuration calls `name`.
    #[must_use]
    pub fn place(&self, name: &str) -> Option<Place> {
        self.by_name.get(name).map(|(place, _)| place.clone())
    }

    /// The node of ClickHouse Keeper that the server runs itself, or why it cannot be told where that takes clients.
    #[must_use]
    pub fn own_keeper(&self) -> Option<&Result<(Place, Access), String>> {
        self.own_keeper.as_ref()
    }

    /// The names, `default` among them if it is configured.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// How to enter a place of a plan: the credentials of the ensemble with the same nodes, since a hook may have
    /// given the plan's name to another one meanwhile; failing that, those of the same name.
    #[must_use]
    pub fn access(&self, place: &Place) -> Access {
        let entries = || self.by_name.values();
        entries()
            .find(|(known, _)| known == place)
            .or_else(|| entries().find(|(known, _)| known.nodes == place.nodes))
            .or_else(|| self.by_name.get(&place.ensemble))
            .map(|(_, access)| access.clone())
            .unwrap_or_default()
    }
}

fn ensemble(name: &str, section: Node<'_, '_>) -> Result<(Place, Access), String> {
    unresolved(section)?;
    let mut nodes = Vec::new();
    let mut secure = Vec::new();
    // ClickHouse takes every element whose name begins with "node".
    for node in section.children().filter(|n| n.tag_name().name().starts_with("node")) {
        let host = child_text(node, "host").filter(|host| !host.is_empty());
        let host = host.ok_or("a <node> has no <host>")?;
        let port = child_text(node, "port").unwrap_or_else(|| "2181".to_owned());
        let port: u16 = port
            .parse()
            .map_err(|_| format!("<port>{port}</port> is no port number"))?;
        nodes.push(format!("{host}:{port}"));
        secure.push(child_text(node, "secure").is_some_and(|text| truth(&text)));
    }
    let chroot = child_text(section, "root").unwrap_or_default();
    let chroot = chroot.strip_suffix('/').unwrap_or(&chroot).to_owned();
    let access = Access {
        identity: child_text(section, "identity").filter(|text| !text.is_empty()),
        password: password(section)?,
        session_timeout: milliseconds(section, "session_timeout_ms")?,
        ..Access::default()
    };
    Ok((place(name, nodes, &secure, chroot)?, access))
}

pub(super) fn place(name: &str, mut nodes: Vec<String>, secure: &[bool], chroot: String) -> Result<Place, String> {
    if nodes.is_empty() {
        return Err(
            "it names no <node>: the file is not the merged configuration; set clickhouse.config of \
                    agent.yaml to the preprocessed one"
                .to_owned(),
        );
    }
    if secure.iter().any(|s| *s) && !secure.iter().all(|s| *s) {
        return Err("some of its nodes are <secure> and some are not: make them the same".to_owned());
    }
    if !(chroot.is_empty() || rekeeper_shared::domain::place::ZkPath::parse(&chroot).is_ok()) {
        return Err(format!("<root>{chroot}</root> is no absolute path"));
    }
    nodes.sort();
    nodes.dedup();
    Ok(Place {
        ensemble: name.to_owned(),
        nodes,
        secure: secure.first().copied().unwrap_or(false),
        chroot,
    })
}

pub(super) fn password(section: Node<'_, '_>) -> Result<[u8; PASSWORD_BYTES], String> {
    let text = child_text(section, "password").unwrap_or_default();
    let mut password = [0; PASSWORD_BYTES];
    let room = password.get_mut(..text.len());
    let room =
        room.ok_or_else(|| format!("its <password> is longer than the {PASSWORD_BYTES} bytes that ClickHouse takes"))?;
    room.copy_from_slice(text.as_bytes());
    Ok(password)
}

pub(super) fn milliseconds(section: Node<'_, '_>, name: &str) -> Result<Duration, String> {
    let Some(text) = child_text(section, name) else {
        return Ok(DEFAULT_SESSION_TIMEOUT);
    };
    let number = text
        .parse()
        .map_err(|_| format!("<{name}>{text}</{name}> is no number"))?;
    Ok(Duration::from_millis(number))
}

pub(super) fn unresolved(section: Node<'_, '_>) -> Result<(), String> {
    let found = section.descendants().filter(Node::is_element).find_map(|element| {
        let attribute = element.attributes().find(|a| UNRESOLVED.contains(&a.name()))?;
        Some((element.tag_name().name().to_owned(), attribute))
    });
    match found {
        None => Ok(()),
        Some((element, attribute)) => Err(format!(
            "<{element} {}=\"{}\"> is taken from elsewhere, and only the server resolves that: set clickhouse.config of \
             agent.yaml to the preprocessed configuration, in which it is resolved",
            attribute.name(),
            attribute.value()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Ensembles, BadEnsembles> {
        Ensembles::parse(Path::new("config.xml"), text)
    }

    #[test]
    fn default_and_auxiliary_ensembles_are_read() {
        let ensembles = parse(
            "<yandex><zookeeper><node index=\"1\"><host>zk2</host></node><node><host>zk1</host><port>2182</port></node>
             <root>/ch/</root><identity>user:secret</identity><session_timeout_ms>4000</session_timeout_ms>
             <password>secret2</password></zookeeper>
             <auxiliary_zookeepers><second><node_a><host>x</host><secure>1</secure></node_a></second>
             </auxiliary_zookeepers></yandex>",
        )
        .unwrap();
        let place = ensembles.place("default").unwrap();
        assert_eq!(place.nodes, ["zk1:2182", "zk2:2181"]);
        assert_eq!((place.chroot.as_str(), place.secure), ("/ch", false));
        assert!(ensembles.place("second").unwrap().secure);
        assert_eq!(ensembles.place("third"), None);
        let access = ensembles.access(&place);
        assert_eq!(access.identity.as_deref(), Some("user:secret"));
        assert_eq!(&access.password, b"secret2\0\0\0\0\0\0\0\0\0");
        let second = ensembles.access(&ensembles.place("second").unwrap());
        assert_eq!(second.password, [0; PASSWORD_BYTES]);
        assert_eq!(access.session_timeout, Duration::from_secs(4));
        let shown = format!("{ensembles:?}");
        assert!(!shown.contains("secret") && !shown.contains("115, 101"), "{shown}");
    }

    #[test]
    fn keeper_is_another_name_for_it_and_the_embedded_one_comes_last() {
        let keeper = parse("<clickhouse><keeper><node><host>k</host></node></keeper></clickhouse>").unwrap();
        assert_eq!(keeper.place("default").unwrap().nodes, ["k:2181"]);
        let embedded = parse(
            "<clickhouse><keeper_server><tcp_port>9181</tcp_port><raft_configuration><server><hostname>k</hostname>
             </server></raft_configuration></keeper_server></clickhouse>",
        )
        .unwrap();
        assert_eq!(embedded.place("default").unwrap().nodes, ["k:9181"]);
        assert!(keeper.own_keeper().is_none() && embedded.own_keeper().is_some());
        assert_eq!(parse("<clickhouse/>").unwrap().names().count(), 0);
    }

    #[test]
    fn the_servers_own_node_of_keeper_is_found_by_its_id() {
        let own = |inner: &str| {
            let text = format!(
                "<c><zookeeper><node><host>a</host></node></zookeeper><keeper_server><server_id>2</server_id>{inner}
                 <raft_configuration><server><id>1</id><hostname>a</hostname></server>
                 <server><id>2</id><hostname>b</hostname></server></raft_configuration></keeper_server></c>"
            );
            parse(&text).unwrap().own_keeper().unwrap().clone()
        };
        let (place, access) = own("<tcp_port>9181</tcp_port><password>p</password>").unwrap();
        assert_eq!(
            (place.nodes, place.secure),
            (vec!["127.0.0.1:9181".into(), "b:9181".into()], false)
        );
        assert_eq!(access.password[0], b'p');
        assert!(own("<tcp_port_secure>9281</tcp_port_secure>").unwrap().0.secure);
        // One that nobody can ask is a node all the same, and keeps the ensembles from nothing.
        assert!(own("").unwrap_err().contains("tcp_port"));
    }

    #[test]
    fn what_is_not_in_the_file_is_said() {
        for (text, says) in [
            (
                "<c><zookeeper incl=\"zookeeper-servers\" optional=\"true\"/></c>",
                "incl",
            ),
            ("<c><zookeeper><node from_zk=\"/n\"/></zookeeper></c>", "from_zk"),
            (
                "<c><zookeeper><node><host>a</host></node><identity from_env=\"X\"/></zookeeper></c>",
                "from_env",
            ),
            ("<c><zookeeper/></c>", "names no <node>"),
            (
                "<c><zookeeper><node><host>a</host></node><password>seventeen letters</password></zookeeper></c>",
                "longer than the 16 bytes",
            ),
            (
                "<c><zookeeper><node><host>a</host><port>x</port></node></zookeeper></c>",
                "port number",
            ),
            (
                "<c><zookeeper><node><host>a</host></node><root>ch</root></zookeeper></c>",
                "absolute",
            ),
            (
                "<c><auxiliary_zookeepers><b/></auxiliary_zookeepers></c>",
                "auxiliary_zookeepers><b>",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(parse("<c>").unwrap_err().to_string().contains("XML"));
    }
}
