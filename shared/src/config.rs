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
    let (raw, mut problems): (Option<C>, Vec<String>) = parse(&text);
    let Some(raw) = raw else {
        return Err(bad(problems));
    };
    let folder = file
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut found = Vec::new();
    let valid = raw.validate(folder, &mut found);
    if !problems.is_empty() {
        // Fields on lines that could not be read are missing for that reason alone.
        found.retain(|problem| !problem.contains(": missing"));
    }
    problems.extend(found.into_iter().map(|problem| with_line(&text, problem)));
    match valid {
        Some(valid) if problems.is_empty() => Ok(valid),
        _ => Err(bad(problems)),
    }
}

/// Problems that are told at once of a file that is no YAML of this form.
const AT_ONCE: usize = 50;

/// Reads as much of the text as can be: a line with a problem is left out, and the rest read again, so that all problems
/// are told and not only the first. Nothing, when what is left is still no such configuration.
fn parse<C: DeserializeOwned>(text: &str) -> (Option<C>, Vec<String>) {
    let mut lines: Vec<&str> = text.lines().collect();
    let mut problems: Vec<String> = Vec::new();
    while problems.len() < AT_ONCE {
        let error = match serde_saphyr::from_str(&lines.join("\n")) {
            Ok(raw) => return (Some(raw), problems),
            Err(error) => error,
        };
        let what = error.without_snippet().to_string();
        // A field that is missing stands nowhere: it is told if nothing was left out that may have had it.
        let ix = error
            .location()
            .and_then(|at| usize::try_from(at.line()).ok()?.checked_sub(1));
        let left_out = ix.and_then(|ix| lines.get_mut(ix)).filter(|line| !line.is_empty());
        match left_out {
            Some(line) if !what.contains("missing field") => {
                problems.push(line_and(ix.unwrap_or(0) + 1, line, &what));
                *line = "";
            }
            _ if problems.is_empty() => return (None, vec![what]),
            _ => return (None, problems),
        }
    }
    (None, problems)
}

/// What the parser found on a line, without the place in its own words, and with the field.
fn line_and(number: usize, line: &str, what: &str) -> String {
    let what = what.rsplit_once(" at line ").map_or(what, |(what, _)| what);
    match line.trim().split_once(':') {
        Some((field, _)) if !what.contains(field) => format!("line {number}: {field}: {what}"),
        _ => format!("line {number}: {what}"),
    }
}

/// The problem of a field, with the line on which it stands, if it stands on one of its own.
fn with_line(text: &str, problem: String) -> String {
    let Some((path, _)) = problem.split_once(": ") else {
        return problem;
    };
    match line_of(text, path) {
        Some(line) => format!("line {line}: {problem}"),
        None => problem,
    }
}

/// The line of a field such as `tls.key`: below its parent, indented further; or the parent's, where it is written in
/// one line.
fn line_of(text: &str, path: &str) -> Option<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let (mut found, mut from, mut deeper_than) = (None, 0, None);
    for name in path.split('.') {
        let is_it = |line: &&str| {
            let inside = deeper_than.is_none_or(|parent| indent(line) > parent);
            inside
                && line
                    .trim_start()
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.trim_start().starts_with(':'))
        };
        let block = lines[from..]
            .iter()
            .take_while(|line| line.trim().is_empty() || deeper_than.is_none_or(|parent| indent(line) > parent));
        let Some((at, line)) = block.enumerate().find(|(_, line)| is_it(line)) else {
            break;
        };
        found = Some(from + at + 1);
        deeper_than = Some(indent(line));
        from += at + 1;
    }
    found
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
