//! Every code has its section in docs/checks.md or docs/runbook.md, and no section is of a code that does not exist.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;

use rekeeper_shared::problem::Code;

fn sections(file: &str) -> Vec<String> {
    let path = format!("{}/../docs/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("### ").map(str::to_owned))
        .collect()
}

#[test]
fn each_code_is_documented_once_and_nothing_else_is() {
    for (file, is_check) in [("checks.md", true), ("runbook.md", false)] {
        let found = sections(file);
        let expected: BTreeSet<String> = Code::ALL
            .iter()
            .filter(|code| code.is_check() == is_check)
            .map(ToString::to_string)
            .collect();
        assert_eq!(found.iter().cloned().collect::<BTreeSet<_>>(), expected, "docs/{file}");
        assert_eq!(found.len(), expected.len(), "docs/{file} has a section twice");
    }
}
