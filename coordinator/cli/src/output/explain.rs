//! What each code means; known here, asked of nobody.

use std::fmt::Write as _;

use rekeeper_shared::domain::problem::Code;
use serde::Serialize;

use super::hosts::yes;
use super::text::{self, WIDTH};

/// A code and what is known of it.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    code: Code,
    stage: &'static str,
    cause: &'static str,
    fix: &'static str,
    may_be_allowed: bool,
}

pub(crate) fn explain(code: Code) -> Explanation {
    Explanation {
        code,
        stage: if code.is_check() { "check" } else { "problem" },
        cause: code.cause(),
        fix: code.fix(),
        may_be_allowed: code.may_be_allowed(),
    }
}

/// One code.
pub(crate) fn one(explanation: &Explanation) -> String {
    let mut out = format!("{}\n", explanation.code);
    out.push_str(&text::wrap(&format!("cause: {}", explanation.cause), "  ", WIDTH));
    out.push_str(&text::wrap(&format!("fix: {}", explanation.fix), "  ", WIDTH));
    let allowed = yes(explanation.may_be_allowed);
    let _ = writeln!(out, "  may be allowed (plan --allow {}): {allowed}", explanation.code);
    out
}

/// All codes.
pub(crate) fn list(explanations: &[Explanation]) -> String {
    let mut out = String::new();
    for explanation in explanations {
        let allowed = if explanation.may_be_allowed {
            "  (may be allowed)"
        } else {
            ""
        };
        let _ = writeln!(out, "{}{allowed}", explanation.code);
        out.push_str(&text::wrap(explanation.cause, "    ", WIDTH));
    }
    out
}
