//! Every code has its section in docs/checks.md or docs/runbook.md, with cause and remedy as `rekeeper explain` has them,
//! and no section is of a code that does not exist.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;

use rekeeper_shared::domain::problem::Code;

const FILES: [(&str, bool); 2] = [("checks.md", true), ("runbook.md", false)];

/// The sections of a file: title and text.
fn sections(file: &str) -> Vec<(String, String)> {
    let path = format!("{}/../docs/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let mut found: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("### "), found.last_mut()) {
            (Some(title), _) => found.push((title.to_owned(), String::new())),
            (None, Some((_, section))) => {
                section.push_str(line);
                section.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

/// A text without line breaks and marks of code.
fn plain(text: &str) -> String {
    text.replace('`', "").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn as_sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().unwrap().to_uppercase();
    format!("{first}{}.", letters.as_str())
}

#[test]
fn each_code_is_documented_once_and_nothing_else_is() {
    for (file, is_check) in FILES {
        let found: Vec<String> = sections(file).into_iter().map(|(title, _)| title).collect();
        let expected: BTreeSet<String> = Code::ALL
            .iter()
            .filter(|code| code.is_check() == is_check)
            .map(ToString::to_string)
            .collect();
        assert_eq!(found.iter().cloned().collect::<BTreeSet<_>>(), expected, "docs/{file}");
        assert_eq!(found.len(), expected.len(), "docs/{file} has a section twice");
    }
}

#[test]
fn cause_and_remedy_are_those_of_explain() {
    for (file, _) in FILES {
        for (title, section) in sections(file) {
            let code: Code = title.parse().unwrap();
            let paragraphs: Vec<String> = section.trim().split("\n\n").map(plain).collect();
            let cause = plain(&as_sentence(code.cause()));
            assert_eq!(
                paragraphs[0], cause,
                "docs/{file}, {code}: the first paragraph is the cause"
            );
            let remedy = plain(&format!("**Remedy:** {}.", code.fix()));
            let told = paragraphs
                .iter()
                .filter(|p| p.starts_with("**Remedy:**"))
                .collect::<Vec<_>>();
            assert_eq!(told, [&remedy], "docs/{file}, {code}");
            for (words, allowed) in [("May be allowed.", true), ("Cannot be allowed.", false)] {
                let wrong = paragraphs.iter().any(|p| p == words) && code.may_be_allowed() != allowed;
                assert!(!wrong, "docs/{file}, {code}: {words}");
            }
        }
    }
}
