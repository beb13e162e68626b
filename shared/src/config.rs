//! Configuration files: YAML, unknown fields refused, relative paths against the file's folder, all problems at once.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de::DeserializeOwned};

/// A configuration that cannot be used: every problem that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadConfig {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it, one line each.
    pub problems: Vec<String>,
}

impl fmt::Display for BadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be used:", self.file.display())?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for BadConfig {}

/// Raw configuration that becomes validated configuration.
pub trait Validate: DeserializeOwned {
    /// What the program works with.
    type Valid;

    /// Checks everything, and says everything that is wrong into `problems`; `folder` is what relative paths are
    /// against.
    fn validate(self, folder: &Path, problems: &mut Vec<String>) -> Option<Self::Valid>;
}

/// Reads and checks a configuration file.
///
/// # Errors
/// [`BadConfig`] with every problem.
pub fn load<C: Validate>(file: &Path) -> Result<C::Valid, BadConfig> {
    let bad = |problems| BadConfig {
        file: file.to_owned(),
        problems,
    };
    let text = std::fs::read_to_string(file).map_err(|e| bad(vec![format!("cannot be read: {e}")]))?;
    let raw: C = serde_saphyr::from_str(&text).map_err(|e| bad(vec![e.to_string()]))?;
    let folder = file
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut problems = Vec::new();
    match raw.validate(folder, &mut problems) {
        Some(valid) if problems.is_empty() => Ok(valid),
        _ => Err(bad(problems)),
    }
}

/// Reads a duration as people write it: `30m`, `5s`, `1h 30m`.
///
/// # Errors
/// When the text is no duration.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text)
        .map_err(|e| serde::de::Error::custom(format!("{text:?} is no duration ({e}); write it as 30m")))
}

/// Checks that the file says either how TLS is spoken (`files` names what that takes) or that it is not.
pub fn check_insecure(insecure: bool, tls: bool, files: &str, problems: &mut Vec<String>) {
    match (insecure, tls) {
        (true, true) => problems.push("insecure: it contradicts `tls`; take one of them out".to_owned()),
        (false, false) => problems.push(format!(
            "tls: missing; name the files as `tls: {{{files}}}`, or, on loopback only, write `insecure: true` instead"
        )),
        (true, false) | (false, true) => {}
    }
}

/// A file that has to be named, against the folder of the configuration.
pub fn named_file(field: &str, file: Option<PathBuf>, folder: &Path, problems: &mut Vec<String>) -> Option<PathBuf> {
    let Some(file) = file.filter(|file| !file.as_os_str().is_empty()) else {
        problems.push(format!("{field}: missing; name the file"));
        return None;
    };
    Some(folder.join(file))
}

/// Whether a host name or address is of this machine alone.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
