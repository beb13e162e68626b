//! What an operator allows with `--allow CODE[:db.table]`: parsed once, and written down as it was given.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::problem::Code;

/// Allowances that a plan may have.
const ALLOWANCES: usize = 10_000;

/// What was given with `--allow`, and what it allows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct Allowances {
    given: Vec<String>,
    codes: BTreeMap<Code, AllowedFor>,
}

/// What a code is allowed for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct AllowedFor {
    all: bool,
    /// `db.table`.
    tables: BTreeSet<String>,
}

impl Allowances {
    /// Parses what was given with `--allow`.
    ///
    /// # Errors
    /// What is wrong with the first bad one, for people.
    pub fn parse(given: Vec<String>) -> Result<Self, String> {
        let codes = parse(&given)?;
        Ok(Self { given, codes })
    }

    /// Whether the code is allowed for the table (`db.table`).
    #[must_use]
    pub fn allows(&self, code: Code, table: Option<&str>) -> bool {
        let allowed = self.codes.get(&code);
        allowed.is_some_and(|allowed| allowed.all || table.is_some_and(|table| allowed.tables.contains(table)))
    }
}

/// Of a plan that was written down, whose allowances were checked when it was made. With one that this release does not
/// know nothing is allowed.
impl From<Vec<String>> for Allowances {
    fn from(given: Vec<String>) -> Self {
        let codes = parse(&given).unwrap_or_default();
        Self { given, codes }
    }
}

impl From<Allowances> for Vec<String> {
    fn from(allowances: Allowances) -> Self {
        allowances.given
    }
}

fn parse(given: &[String]) -> Result<BTreeMap<Code, AllowedFor>, String> {
    if given.len() > ALLOWANCES {
        return Err(format!("{} times --allow, and {ALLOWANCES} are possible", given.len()));
    }
    let mut codes: BTreeMap<Code, AllowedFor> = BTreeMap::new();
    for text in given {
        let (code, table) = match text.split_once(':') {
            Some((code, table)) => (code, Some(table.to_owned())),
            None => (text.as_str(), None),
        };
        let code: Code = code.parse().map_err(|e| format!("--allow {text}: {e}"))?;
        if !code.may_be_allowed() {
            return Err(format!("--allow {text}: {code} cannot be allowed; {}", code.fix()));
        }
        let allowed = codes.entry(code).or_default();
        match table {
            Some(table) => drop(allowed.tables.insert(table)),
            None => allowed.all = true,
        }
    }
    Ok(codes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_what_was_given() {
        let given = r#"["LOST_PARTS:d.t","DIVERGED"]"#;
        let allowances: Allowances = serde_json::from_str(given).unwrap();
        assert!(allowances.allows(Code::LostParts, Some("d.t")) && !allowances.allows(Code::LostParts, Some("d.u")));
        assert!(allowances.allows(Code::Diverged, None));
        assert_eq!(serde_json::to_string(&allowances).unwrap(), given);
    }

    #[test]
    fn with_one_that_is_not_known_nothing_is_allowed_and_all_are_kept() {
        let given = r#"["DIVERGED","NO_SUCH"]"#;
        let allowances: Allowances = serde_json::from_str(given).unwrap();
        assert!(!allowances.allows(Code::Diverged, None));
        assert_eq!(serde_json::to_string(&allowances).unwrap(), given);
        assert!(Allowances::parse(allowances.into()).is_err());
    }
}
