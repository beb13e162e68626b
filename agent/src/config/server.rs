//! The part `clickhouse` of agent.yaml.

use std::path::{Path, PathBuf};

use rekeeper_shared::tools::config::check_secret;
use rekeeper_tls::authorities;
use serde::Deserialize;
use tonic::transport::Uri;

use crate::clickhouse::{Access, Trust};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawClickhouse {
    url: Option<String>,
    #[serde(default = "default_user")]
    user: String,
    password_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    config: Option<PathBuf>,
}

fn default_user() -> String {
    "default".to_owned()
}

/// How the server is asked, and the file with its ensembles.
pub(super) fn server(
    given: Option<RawClickhouse>,
    folder: &Path,
    problems: &mut Vec<String>,
) -> Option<(Access, PathBuf)> {
    let Some(given) = given else {
        problems.push(
            "clickhouse: missing; write it as `clickhouse: {url: http://127.0.0.1:8123, config: ...}`".to_owned(),
        );
        return None;
    };
    let ca = given.ca.map(|file| folder.join(file));
    let trust = match &given.url {
        Some(url) => trust(url, ca.as_deref(), problems),
        None => {
            problems.push("clickhouse.url: missing; the server of this host, as http://127.0.0.1:8123".to_owned());
            None
        }
    };
    let password = password(folder, given.password_file.as_deref(), problems);
    let config = match given.config {
        Some(file) => {
            let file = folder.join(file);
            if let Err(e) = std::fs::File::open(&file) {
                problems.push(format!("clickhouse.config: {} cannot be read: {e}", file.display()));
            }
            Some(file)
        }
        None => {
            problems.push("clickhouse.config: missing; the server's preprocessed_configs/config.xml".to_owned());
            None
        }
    };
    let access = Access {
        url: given.url?,
        trust,
        user: given.user,
        password,
    };
    Some((access, config?))
}

/// By whom ClickHouse is believed to be the right server; `ca` goes with `https://`, and with nothing else.
fn trust(url: &str, ca: Option<&Path>, problems: &mut Vec<String>) -> Option<Trust> {
    // The URL stands in the log and in problems, which the coordinator has as well: no secret may be in it, or be said here.
    if url.contains(['@', '?', '#']) {
        problems.push(
            "clickhouse.url: it is scheme, host and port, and nothing else; user and password are clickhouse.user and \
             clickhouse.password_file"
                .to_owned(),
        );
        return None;
    }
    let uri = url.parse::<Uri>().ok().filter(|uri| uri.host().is_some());
    match (uri.as_ref().and_then(Uri::scheme_str), ca) {
        (Some("http"), None) => None,
        (Some("https"), Some(file)) => {
            let roots = authorities("clickhouse.ca", file, problems)?;
            Trust::new(roots)
                .map_err(|e| problems.push(format!("clickhouse.ca: {} cannot be used: {e}", file.display())))
                .ok()
        }
        (Some("http"), Some(_)) => {
            problems.push(format!(
                "clickhouse.ca: it goes with an https:// URL, and clickhouse.url is {url:?}"
            ));
            None
        }
        (Some("https"), None) => {
            problems.push(format!(
                "clickhouse.url: {url:?} needs clickhouse.ca, the file with the CA that has signed the server's certificate"
            ));
            None
        }
        _ => {
            problems.push(format!(
                "clickhouse.url: {url:?} is no URL of a server; write it as http://127.0.0.1:8123, or as https:// with \
                 clickhouse.ca"
            ));
            None
        }
    }
}

fn password(folder: &Path, file: Option<&Path>, problems: &mut Vec<String>) -> Option<String> {
    let file = folder.join(file?);
    check_secret("clickhouse.password_file", &file, problems);
    match std::fs::read_to_string(&file) {
        // Editors end a file with a newline; no password does.
        Ok(text) => Some(text.trim_end_matches(['\n', '\r']).to_owned()),
        Err(e) => {
            problems.push(format!(
                "clickhouse.password_file: {} cannot be read: {e}",
                file.display()
            ));
            None
        }
    }
}
