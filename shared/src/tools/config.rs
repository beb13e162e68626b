//! Configuration files: YAML, unknown fields refused, relative paths against the file's folder, all problems at once.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use tree::{Refused, Tree};

mod tree;

/// A configuration that cannot be used: every problem that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadConfig {
    /// The configuration file, as it was named on the command line.
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
    let mut tree = Tree::read(&text).map_err(|(line, what)| bad(vec![on_line(line, what)]))?;
    let Parsed {
        raw,
        mut problems,
        left_out,
    } = parse::<C>(&mut tree);
    let Some(raw) = raw else {
        return Err(bad(problems));
    };
    let folder = file
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut found = Vec::new();
    let valid = raw.validate(folder, &mut found);
    for problem in found {
        let field = problem.split_once(": ").map_or("", |(field, _)| field);
        let path: Vec<&str> = field.split('.').collect();
        // What was left out, or may be what was meant by a name that is not known, is missing for that reason alone.
        let is_consequence =
            |left: &Vec<String>| left[..left.len() - 1] == path[..path.len() - 1] || path.starts_with(&borrowed(left));
        if problem[field.len()..].starts_with(": missing") && left_out.iter().any(is_consequence) {
            continue;
        }
        problems.push(on_line(tree.line_of(path), problem));
    }
    match valid {
        Some(valid) if problems.is_empty() => Ok(valid),
        _ => Err(bad(problems)),
    }
}

fn borrowed(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

fn on_line(line: Option<u64>, problem: String) -> String {
    match line {
        Some(line) => format!("line {line}: {problem}"),
        None => problem,
    }
}

/// Problems that are told at once of fields that cannot be read.
const AT_ONCE: usize = 50;

struct Parsed<C> {
    /// None: what is left is still no such configuration.
    raw: Option<C>,
    problems: Vec<String>,
    /// The fields that cannot be read.
    left_out: Vec<Vec<String>>,
}

/// Reads as much of the document as can be: a field that cannot be read is left out, and the rest read again, so that all
/// problems are told and not only the first.
fn parse<C: DeserializeOwned>(tree: &mut Tree<'_>) -> Parsed<C> {
    let (mut problems, mut left_out) = (Vec::new(), Vec::new());
    let raw = loop {
        let Refused { path, what } = match tree.parse() {
            Ok(raw) => break Some(raw),
            Err(refused) => refused,
        };
        let line = tree.line_of(borrowed(&path));
        let (field, parent) = (path.join("."), path.split_last().map_or(&[][..], |(_, above)| above));
        let what = match path.last() {
            Some(name) if !what.contains(name.as_str()) => format!("{field}: {what}"),
            // An unknown field, which serde names; what belongs there is told by its parent.
            Some(_) if !parent.is_empty() => format!("{}: {what}", parent.join(".")),
            Some(_) | None => what,
        };
        problems.push(on_line(line, what));
        if !tree.remove(&path) || problems.len() >= AT_ONCE {
            break None;
        }
        left_out.push(path);
    };
    Parsed {
        raw,
        problems,
        left_out,
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

/// Checks that the folder above that of `field` is there: it may be a volume that is not mounted, and what is written
/// below an empty mount point is gone when it is.
pub fn check_parent(field: &str, folder: &Path, problems: &mut Vec<String>) {
    if let Some(above) = folder
        .parent()
        .filter(|above| !above.as_os_str().is_empty() && !above.is_dir())
    {
        problems.push(format!(
            "{field}: {} is not there, in which {} would be made; make it, or mount its volume",
            above.display(),
            folder.display()
        ));
    }
}

/// Says that a file with a secret can be read by everybody, if so.
pub fn check_secret(field: &str, file: &Path, problems: &mut Vec<String>) {
    let mode = std::fs::metadata(file).map(|found| found.permissions().mode() & 0o777);
    // What cannot be looked at cannot be read either, and is said by whoever does.
    if let Ok(mode) = mode
        && mode & 0o007 != 0
    {
        let shown = file.display();
        problems.push(format!(
            "{field}: {shown} can be read by every user of this machine (mode {mode:04o}); chmod 600 {shown}"
        ));
    }
}

/// Whether a host name or address is of this machine alone.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Raw {
        listen: String,
        tls: Option<Tls>,
        #[serde(default)]
        parallel: Option<NonZeroUsize>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Tls {
        key: PathBuf,
    }

    impl Validate for Raw {
        type Valid = ();

        fn validate(self, folder: &Path, problems: &mut Vec<String>) -> Option<()> {
            if self.listen != "here" {
                problems.push(format!("listen: {:?} is not here", self.listen));
            }
            match self.tls {
                Some(tls) if !folder.join(&tls.key).exists() => problems.push("tls.key: cannot be read".to_owned()),
                Some(_) => {}
                None => problems.push("tls: missing".to_owned()),
            }
            let _ = self.parallel;
            Some(())
        }
    }

    fn problems(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.yaml");
        std::fs::write(&file, text).unwrap();
        load::<Raw>(&file).map_or_else(|bad| bad.problems, |()| Vec::new())
    }

    #[test]
    fn every_problem_is_told_with_its_line() {
        let found = problems("# a comment\nlisten: there\nlisen: x\nparallel: many\ntls:\n  key: none.key\n  kee: 1\n");
        assert_eq!(found.len(), 5, "{found:#?}");
        for (problem, (line, word)) in found.iter().zip([
            (3, "lisen"),
            (4, "parallel: invalid"),
            (7, "kee"),
            (2, "listen: \"there\" is not here"),
            (6, "tls.key: cannot be read"),
        ]) {
            assert!(
                problem.starts_with(&format!("line {line}: ")) && problem.contains(word),
                "{found:#?}"
            );
        }
        let found = problems("listen: here\ntls: {key: none.key}\n");
        assert_eq!(found, ["line 2: tls.key: cannot be read"]);
        assert_eq!(problems("listen: here\n"), ["tls: missing"]);
    }

    #[test]
    fn a_secret_that_everybody_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.key");
        std::fs::write(&file, "secret").unwrap();
        for (mode, may) in [
            (0o600, true),
            (0o640, true),
            (0o644, false),
            (0o602, false),
            (0o666, false),
        ] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let mut problems = Vec::new();
            check_secret("tls.key", &file, &mut problems);
            assert_eq!(problems.is_empty(), may, "{mode:o} {problems:?}");
            assert!(
                problems
                    .iter()
                    .all(|problem| problem.contains("chmod 600") && !problem.contains("secret"))
            );
        }
    }

    #[test]
    fn what_is_no_configuration_at_all_ends_too() {
        for text in [
            "",
            "- 1\n- 2\n",
            "listen: [\n",
            "\tx",
            "just words",
            "listen: here\nlisten: here\n",
        ] {
            assert!(!problems(text).is_empty(), "{text:?}");
        }
        assert!(problems("tls: {key: x}\n")[0].contains("listen"));
    }
}
