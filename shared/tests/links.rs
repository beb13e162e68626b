//! Every link in the documents leads to a file, and to a heading of it; and every document is found from README.md.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs::read_to_string;
use std::path::{Component, Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The documents of the top level, of docs/, and those beside the code.
fn documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["deploy/README.md", "tests/rig/README.md", "tests/benches/README.md"]
        .map(PathBuf::from)
        .into();
    for folder in ["", "docs"] {
        for entry in Path::new(ROOT).join(folder).read_dir().unwrap() {
            let name = PathBuf::from(entry.unwrap().file_name());
            if name.extension().is_some_and(|extension| extension == "md") {
                found.push(Path::new(folder).join(name));
            }
        }
    }
    found
}

/// The targets of a document's links, but for those to other sites.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets
        .map(|(target, _)| target)
        .filter(|t| !t.contains("://"))
        .collect()
}

/// The file that a link of a document names, below the root.
fn file_of(document: &Path, target: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in document.parent().unwrap().join(target).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{}: {target}", document.display()),
            other => path.push(other),
        }
    }
    path
}

/// What GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading
        .trim()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_link_leads_somewhere() {
    for document in documents() {
        for link in links(&read_to_string(Path::new(ROOT).join(&document)).unwrap()) {
            let (target, heading) = link.split_once('#').unwrap_or((link, ""));
            let file = if target.is_empty() {
                document.clone()
            } else {
                file_of(&document, target)
            };
            let there = Path::new(ROOT).join(&file);
            assert!(there.exists(), "{}: {link} leads nowhere", document.display());
            if !heading.is_empty() {
                let text = read_to_string(there).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.any(|line| anchor(line.trim_start_matches('#')) == heading);
                assert!(found, "{}: {link} is no heading", document.display());
            }
        }
    }
}

#[test]
fn every_document_is_found_from_the_readme() {
    let (mut reached, mut next) = (BTreeSet::new(), vec![PathBuf::from("README.md")]);
    while let Some(document) = next.pop() {
        if !reached.insert(document.clone()) || document.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = read_to_string(Path::new(ROOT).join(&document)).unwrap();
        let targets = links(&text).into_iter().map(|link| link.split('#').next().unwrap());
        next.extend(
            targets
                .filter(|t| !t.is_empty())
                .map(|target| file_of(&document, target)),
        );
    }
    let missed: Vec<PathBuf> = documents()
        .into_iter()
        .filter(|document| !reached.contains(document))
        .collect();
    assert!(missed.is_empty(), "not found from README.md: {missed:?}");
}
