//! `coordinator.yaml`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rekeeper_shared::tools::config::{self, Validate, check_insecure, check_parent, is_loopback, named_file};
use rekeeper_tls::{Security, ServerFiles};
use serde::Deserialize;

use crate::limits::Limits;

/// What the coordinator is told by its configuration file.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where its store is.
    pub data_dir: PathBuf,
    /// Whom it takes connections from.
    pub security: Security,
    /// How much it takes of them.
    pub limits: Limits,
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`config::BadConfig`] with every problem.
    pub fn load(file: &Path) -> Result<Self, config::BadConfig> {
        config::load::<Raw>(file)
    }
}

/// The file as written. Everything is optional, so that all that is missing is told at once.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    listen: Option<String>,
    data_dir: Option<PathBuf>,
    tls: Option<RawTls>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    limits: Limits,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
}

impl RawTls {
    fn read(self, folder: &Path, problems: &mut Vec<String>) -> Option<ServerFiles> {
        let mut named = |field, file| named_file(field, file, folder, problems);
        let cert = named("tls.cert", self.cert);
        let key = named("tls.key", self.key);
        let client_ca = named("tls.client_ca", self.client_ca);
        ServerFiles::read(&cert?, &key?, &client_ca?, problems)
    }
}

impl Validate for Raw {
    type Valid = Config;

    fn validate(self, folder: &Path, problems: &mut Vec<String>) -> Option<Config> {
        check_insecure(self.insecure, self.tls.is_some(), "cert, key, client_ca", problems);
        let listen = self.listen(problems);
        if self.data_dir.is_none() {
            problems.push("data_dir: missing; the folder where plans and their status are kept".to_owned());
        }
        let data_dir = self.data_dir.as_ref().map(|data_dir| folder.join(data_dir));
        if let Some(data_dir) = &data_dir {
            check_parent("data_dir", data_dir, problems);
        }
        self.limits.check(problems);
        let limits = self.limits;
        let security = match self.tls {
            Some(tls) => tls.read(folder, problems).map(Security::Tls),
            None => Some(Security::Loopback),
        };
        Some(Config {
            listen: listen?,
            data_dir: data_dir?,
            security: security?,
            limits,
        })
    }
}

impl Raw {
    fn listen(&self, problems: &mut Vec<String>) -> Option<SocketAddr> {
        let Some(text) = &self.listen else {
            problems.push("listen: missing; the address to listen on, as 127.0.0.1:7443".to_owned());
            return None;
        };
        let Ok(listen) = text.parse::<SocketAddr>() else {
            problems.push(format!(
                "listen: {text:?} is no address and port; write it as 127.0.0.1:7443"
            ));
            return None;
        };
        if self.insecure && !is_loopback(&listen.ip().to_string()) {
            problems.push(format!(
                "listen: {listen} can be reached from other machines; without TLS (`insecure: true`) only a loopback \
                 address such as 127.0.0.1:7443 is allowed"
            ));
        }
        Some(listen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        match read(text) {
            Ok(config) => panic!("accepted: {config:?}"),
            // Without their lines, which are those of the text.
            Err(bad) => bad
                .problems
                .iter()
                .map(|problem| without_line(problem).to_owned())
                .collect(),
        }
    }

    fn without_line(problem: &str) -> &str {
        let line = problem.split_once(": ").filter(|(line, _)| line.starts_with("line "));
        line.map_or(problem, |(_, rest)| rest)
    }

    fn read(text: &str) -> Result<Config, config::BadConfig> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("coordinator.yaml");
        std::fs::write(&file, text).unwrap();
        Config::load(&file).map(|mut config| {
            if let Ok(relative) = config.data_dir.strip_prefix(folder.path()) {
                config.data_dir = Path::new("<folder>").join(relative);
            }
            config
        })
    }

    #[test]
    fn a_relative_data_dir_is_against_the_files_folder() {
        let config = read("listen: 127.0.0.1:0\ndata_dir: data\ninsecure: true\n").unwrap();
        assert_eq!(config.listen, "127.0.0.1:0".parse().unwrap());
        assert_eq!(config.data_dir, Path::new("<folder>/data"));
        let config = read("listen: '[::1]:7443'\ndata_dir: /tmp/rekeeper\ninsecure: true\n").unwrap();
        assert_eq!(config.data_dir, Path::new("/tmp/rekeeper"));
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let found = problems("tls: {cert: a.crt, key: b.key, client_ca: c.crt}\n");
        let fields = ["listen:", "data_dir:", "tls.cert:", "tls.key:", "tls.client_ca:"];
        assert_eq!(found.len(), fields.len(), "{found:?}");
        for (problem, field) in found.iter().zip(fields) {
            assert!(problem.starts_with(field), "{found:?}");
        }
        assert!(found[2].contains("/a.crt cannot be read"), "{found:?}");
        let found = problems("listen: 127.0.0.1:7443\ndata_dir: d\ninsecure: true\ntls: {key: k}\n");
        let fields = ["insecure:", "tls.cert:", "tls.client_ca:"];
        assert_eq!(found.len(), fields.len(), "{found:?}");
        for (problem, field) in found.iter().zip(fields) {
            assert!(problem.starts_with(field), "{found:?}");
        }
        let found = problems("listen: 0.0.0.0:7443\ninsecure: true\n");
        assert!(
            found[0].contains("loopback") && found[1].starts_with("data_dir"),
            "{found:?}"
        );
        let found = problems("listen: 127.0.0.1:7443\ndata_dir: d\n");
        assert!(found.len() == 1 && found[0].starts_with("tls:"), "{found:?}");
        assert!(problems("listen: here\ndata_dir: d\ninsecure: true\n")[0].contains("127.0.0.1:7443"));
    }

    #[test]
    fn the_folder_above_the_data_dir_has_to_be_there() {
        let found = problems("listen: 127.0.0.1:1\ndata_dir: nope/deep/coord\ninsecure: true\n");
        assert!(found.len() == 1 && found[0].starts_with("data_dir:") && found[0].contains("/nope/deep is not there"));
    }

    #[test]
    fn limits_are_read_and_checked() {
        let with = |limits: &str| format!("listen: 127.0.0.1:1\ndata_dir: d\ninsecure: true\n{limits}");
        assert_eq!(read(&with("")).unwrap().limits, Limits::default());
        let read = read(&with("limits: {call_bytes: 2048, caller_calls: 2}\n"))
            .unwrap()
            .limits;
        assert_eq!((read.call_bytes, read.caller_calls, read.hello_bytes), (2048, 2, 65536));
        for (limits, field) in [
            ("limits: {call_bytes: 5}\n", "limits.call_bytes:"),
            ("limits: {message_bytes: 600000000}\n", "limits.message_bytes:"),
            ("limits: {caller_bytes: 70000}\n", "limits.caller_bytes:"),
            ("limits: {total_bytes: 70000}\n", "limits.total_bytes:"),
            ("limits: {caller_calls: 0}\n", "limits.caller_calls:"),
            ("limits: {caller_connections: 0}\n", "limits.caller_connections:"),
            ("limits: {address_handshakes: 600}\n", "limits.handshakes:"),
            ("limits: {address_handshakes: 0}\n", "limits.address_handshakes:"),
            ("limits: {handshake_seconds: 0}\n", "limits.handshake_seconds:"),
        ] {
            let found = problems(&with(limits));
            assert!(found.iter().any(|problem| problem.starts_with(field)), "{found:?}");
        }
        assert!(problems(&with("limits: {bytes: 5}\n"))[0].contains("bytes"));
    }

    #[test]
    fn unknown_fields_are_refused() {
        let found = problems("listen: 127.0.0.1:1\ndata_dir: d\ninsecure: true\nlisen: x\n");
        assert!(found[0].contains("lisen"), "{found:?}");
    }
}
