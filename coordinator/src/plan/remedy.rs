//! Remedies by what ClickHouse answered, where the code of a problem does not tell enough.

/// What to do when an agent could not read its server, by the words of the failure: ClickHouse names its errors, as
/// `(AUTHENTICATION_FAILED)` at the end of `Code: 516. DB::Exception: ...` (ClickHouse: src/Common/ErrorCodes.cpp).
#[must_use]
pub fn of_inspection(message: &str) -> Option<&'static str> {
    let is = |name: &&str| message.contains(&format!("({name})"));
    REMEDIES
        .iter()
        .find(|(errors, _)| errors.iter().any(is))
        .map(|(_, remedy)| *remedy)
}

const REMEDIES: [(&[&str], &str); 5] = [
    (
        &[
            "AUTHENTICATION_FAILED",
            "WRONG_PASSWORD",
            "REQUIRED_PASSWORD",
            "UNKNOWN_USER",
        ],
        "the server does not take the user: check clickhouse.user and clickhouse.password_file of agent.yaml",
    ),
    (
        &["ACCESS_DENIED"],
        "grant what the message names to the user of agent.yaml (docs/configuration.md, `An agent on each ClickHouse host`)",
    ),
    (
        &["QUOTA_EXCEEDED"],
        "give the user of agent.yaml a quota without limits",
    ),
    (
        &[
            "TOO_MANY_ROWS_OR_BYTES",
            "TOO_MANY_ROWS",
            "TOO_MANY_BYTES",
            "TIMEOUT_EXCEEDED",
            "TOO_SLOW",
            "MEMORY_LIMIT_EXCEEDED",
            "TOO_MANY_SIMULTANEOUS_QUERIES",
            "READONLY",
            "SETTING_CONSTRAINT_VIOLATION",
            "QUERY_IS_PROHIBITED",
        ],
        "a limit of the server stops the agent's statements: give the user of agent.yaml a settings profile without limits \
         and without constraints",
    ),
    (
        &["NETWORK_ERROR", "KEEPER_EXCEPTION"],
        "the server does not reach what it needs: see the message, mend that, and give the command again",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_that_of_the_error() {
        let of = |error: &str| {
            of_inspection(&format!(
                "SELECT: Code: 1. DB::Exception: x. ({error}) (version 26.9.2.1)"
            ))
        };
        assert!(of("AUTHENTICATION_FAILED").is_some_and(|fix| fix.contains("password_file")));
        let limit = of("TOO_MANY_ROWS_OR_BYTES").unwrap();
        assert!(limit.contains("profile") && !limit.contains("password"), "{limit}");
        assert!(of("ACCESS_DENIED").is_some_and(|fix| fix.contains("grant")));
        assert_eq!(of("LOGICAL_ERROR"), None);
        // Only the error's own name counts, not what is quoted in it.
        assert_eq!(of_inspection("connection refused, ACCESS_DENIED"), None);
    }
}
