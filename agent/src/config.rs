//! `agent.yaml`: read, checked, and everything that is wrong with it said at once.

mod server;

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rekeeper_shared::domain::ids::HostName;
use rekeeper_shared::tools::config::{Validate, check_insecure, check_parent, duration, is_loopback, named_file};
use rekeeper_tls::{ClientFiles, Facts, Identity, Role};
use serde::Deserialize;
use tonic::transport::Uri;

use self::server::{RawClickhouse, server};
use crate::clickhouse::Access;

/// What the files of TLS are called where people name them.
pub const TLS_FIELDS: [&str; 3] = ["tls.ca", "tls.cert", "tls.key"];

/// What the agent works with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the coordinator listens.
    pub coordinator: Uri,
    /// What it is called with; none: without TLS, on loopback.
    pub tls: Option<ClientFiles>,
    /// The name of this host, as in plans.
    pub host: HostName,
    /// What the agent keeps over its restarts.
    pub state_dir: PathBuf,
    /// Address, user and password for the server of this host.
    pub clickhouse: Access,
    /// Where the ZooKeeper ensembles are read from.
    pub clickhouse_config: PathBuf,
    /// How the server is restarted; none: never by this agent.
    pub restart: Option<Run>,
    /// A program that moves the server to its new place, run when it is stopped or about to be.
    pub before_restart: Option<Run>,
    /// How many statements at a time may burden the server.
    pub parallel: Parallel,
    /// How many bytes the export of the nodes of one table may take in the state folder.
    pub znodes_export_limit_bytes: NonZeroU64,
}

/// A command of the operator's own configuration file; nothing else is ever run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Program and arguments.
    pub command: Vec<String>,
    /// When to give up.
    pub timeout: Duration,
}

/// How many steps run at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parallel {
    /// Tables that are synced, detached or attached.
    pub detach: NonZeroUsize,
    /// Tables that are restored.
    pub restore: NonZeroUsize,
}

impl Default for Parallel {
    fn default() -> Self {
        Self {
            detach: NonZeroUsize::new(8).unwrap_or(NonZeroUsize::MIN),
            restore: NonZeroUsize::new(16).unwrap_or(NonZeroUsize::MIN),
        }
    }
}

/// The file as it is written. Everything is optional, so that all that is missing is told at once.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    coordinator: Option<String>,
    host: Option<String>,
    state_dir: Option<PathBuf>,
    #[serde(default)]
    insecure: bool,
    tls: Option<RawTls>,
    clickhouse: Option<RawClickhouse>,
    restart: Option<RawRestart>,
    hooks: Option<RawHooks>,
    #[serde(default)]
    parallel: Parallel,
    #[serde(default = "export_limit")]
    znodes_export_limit_bytes: NonZeroU64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRestart {
    command: Option<Vec<String>>,
    #[serde(default = "restart_timeout", deserialize_with = "duration")]
    timeout: Duration,
}

fn restart_timeout() -> Duration {
    Duration::from_secs(30 * 60)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHooks {
    before_restart: Option<Vec<String>>,
    #[serde(default = "hook_timeout", deserialize_with = "duration")]
    timeout: Duration,
}

/// 1 GiB: some ten million nodes.
fn export_limit() -> NonZeroU64 {
    NonZeroU64::new(1 << 30).unwrap_or(NonZeroU64::MIN)
}

fn hook_timeout() -> Duration {
    Duration::from_secs(5 * 60)
}

impl Validate for RawConfig {
    type Valid = Config;

    fn validate(self, folder: &Path, problems: &mut Vec<String>) -> Option<Config> {
        check_insecure(self.insecure, self.tls.is_some(), "ca, cert, key", problems);
        // Neither: whether it is called with TLS is not known, and that is the problem that is told.
        let secure = (self.tls.is_some() || self.insecure).then_some(self.tls.is_some());
        let coordinator = coordinator(self.coordinator, secure, problems);
        let host = host(self.host, problems);
        let with_tls = self.tls.is_some();
        let tls = self.tls.and_then(|raw| tls(raw, folder, host.as_ref(), problems));
        let state_dir = state_dir(self.state_dir, folder, problems);
        let server = server(self.clickhouse, folder, problems);
        let restart = self.restart.and_then(|raw| {
            let Some(command) = raw.command else {
                problems.push("restart.command: missing; write program and arguments as a list".to_owned());
                return None;
            };
            run(
                "restart.command",
                command,
                "restart.timeout",
                raw.timeout,
                folder,
                problems,
            )
        });
        let before_restart = self.hooks.and_then(|raw| {
            let command = raw.before_restart?;
            run(
                "hooks.before_restart",
                command,
                "hooks.timeout",
                raw.timeout,
                folder,
                problems,
            )
        });
        let (clickhouse, clickhouse_config) = server?;
        Some(Config {
            coordinator: coordinator?,
            // Without files where TLS is asked for there is a problem, and no configuration at all.
            tls: if with_tls { Some(tls?) } else { None },
            host: host?,
            state_dir: state_dir?,
            clickhouse,
            clickhouse_config,
            restart,
            before_restart,
            parallel: self.parallel,
            znodes_export_limit_bytes: self.znodes_export_limit_bytes,
        })
    }
}

fn state_dir(given: Option<PathBuf>, folder: &Path, problems: &mut Vec<String>) -> Option<PathBuf> {
    let Some(given) = given else {
        problems.push("state_dir: missing; the folder of what the agent keeps over its restarts".to_owned());
        return None;
    };
    let state_dir = folder.join(given);
    if state_dir.exists() && !state_dir.is_dir() {
        problems.push(format!("state_dir: {} is no folder", state_dir.display()));
    }
    check_parent("state_dir", &state_dir, problems);
    Some(state_dir)
}

/// `secure`: whether it is called with TLS, if that is known.
fn coordinator(given: Option<String>, secure: Option<bool>, problems: &mut Vec<String>) -> Option<Uri> {
    let example = match secure {
        Some(false) => "write it as http://127.0.0.1:7443",
        Some(true) | None => "write it as https://coordinator.example:7443",
    };
    let Some(text) = given else {
        problems.push(format!("coordinator: missing; {example}"));
        return None;
    };
    let uri: Uri = match text.parse() {
        Ok(uri) => uri,
        Err(e) => {
            problems.push(format!("coordinator: {text:?} is no URL ({e}); {example}"));
            return None;
        }
    };
    let (Some(scheme), Some(name)) = (uri.scheme_str(), uri.host()) else {
        problems.push(format!("coordinator: {text:?} lacks a scheme or a host; {example}"));
        return None;
    };
    if uri.port().is_none() {
        problems.push(format!("coordinator: {text:?} lacks a port; {example}"));
    }
    if secure == Some(true) && scheme != "https" {
        problems.push(format!(
            "coordinator: with `tls` it must be an https:// URL, and {text:?} is not"
        ));
    }
    if secure == Some(false) && (scheme != "http" || !is_loopback(name)) {
        problems.push(format!(
            "coordinator: without TLS it must be an http:// URL of this machine (localhost, 127.0.0.1 or [::1]), \
             and {text:?} is not"
        ));
    }
    Some(uri)
}

/// The files of TLS, and whether the certificate makes this the agent of its host: better said here than when the
/// coordinator refuses it.
fn tls(raw: RawTls, folder: &Path, host: Option<&HostName>, problems: &mut Vec<String>) -> Option<ClientFiles> {
    let mut named = |field, file| named_file(field, file, folder, problems);
    let ca = named("tls.ca", raw.ca);
    let cert = named("tls.cert", raw.cert);
    let key = named("tls.key", raw.key);
    let files = ClientFiles {
        ca: ca?,
        own: Some((cert?, key?)),
    };
    let (_, own) = files.read(TLS_FIELDS, problems);
    if let Some(own) = own {
        own.check_dates("tls.cert", problems);
        let file = own.file.display();
        if let Some(why) = unfit(own.facts, host) {
            problems.push(format!("tls.cert: {file}: {why}"));
        }
    }
    Some(files)
}

fn unfit(facts: Facts, host: Option<&HostName>) -> Option<String> {
    match Identity::try_from(facts) {
        Err(unfit) => Some(unfit.to_string()),
        Ok(identity) if identity.role != Role::Agent => Some(format!(
            "it is the certificate of {identity}; an agent's has OU=rekeeper-agent in its subject"
        )),
        Ok(identity) => {
            let host = host?;
            let is_named = identity.hosts.iter().any(|name| name == host.as_str());
            (!is_named).then(|| {
                let names = identity.hosts.join(", ");
                format!("it is for {names}, and this is the agent of {host}: it needs {host} as a DNS name")
            })
        }
    }
}

fn host(given: Option<String>, problems: &mut Vec<String>) -> Option<HostName> {
    let (name, from) = match given {
        Some(name) => (name, "host"),
        None => match system_host_name() {
            Some(name) => (name, "host (the system's, since none is given)"),
            None => {
                problems.push("host: the system has no host name; write one".to_owned());
                return None;
            }
        },
    };
    HostName::try_from(name)
        .map_err(|e| problems.push(format!("{from}: {e}")))
        .ok()
}

/// The name that the kernel has for this machine.
pub(crate) fn system_host_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = text.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

fn run(
    command_field: &str,
    mut command: Vec<String>,
    timeout_field: &str,
    timeout: Duration,
    folder: &Path,
    problems: &mut Vec<String>,
) -> Option<Run> {
    if timeout.is_zero() {
        problems.push(format!("{timeout_field}: it is zero"));
    }
    let Some(program) = command.first_mut().filter(|program| !program.is_empty()) else {
        problems.push(format!(
            "{command_field}: it is empty; write program and arguments as a list"
        ));
        return None;
    };
    // A bare name is looked up in PATH; a path is against the file's folder, as all paths are.
    if program.contains('/') {
        let path = folder.join(&*program);
        match (path.is_file(), path.to_str()) {
            (true, Some(text)) => *program = text.to_owned(),
            _ => problems.push(format!("{command_field}: {} is no file", path.display())),
        }
    }
    Some(Run { command, timeout })
}

#[cfg(test)]
mod tests;
