//! What an agent tells when it connects.

use rekeeper_shared::domain::step::{Hello, SeenToken};

use super::{BadMessage, parse};
use crate::v1;

/// Most bytes of a text: versions and ids have a few dozen.
const TEXT_BYTES: usize = 256;

impl From<Hello> for v1::Hello {
    fn from(hello: Hello) -> Self {
        Self {
            protocol: hello.protocol,
            agent_version: hello.agent_version,
            host: hello.host.into(),
            server_id: hello.server_id,
            clickhouse_version: hello.clickhouse_version,
            seen_token: hello.seen.token,
            seen_run: hello.seen.run,
            attempts: hello
                .attempts
                .into_iter()
                .map(|(migration, attempt)| v1::SeenAttempt {
                    migration: migration.into(),
                    attempt,
                })
                .collect(),
            parallel_detach: u32::try_from(hello.parallel_detach).unwrap_or(u32::MAX),
            parallel_restore: u32::try_from(hello.parallel_restore).unwrap_or(u32::MAX),
        }
    }
}

impl TryFrom<v1::Hello> for Hello {
    type Error = BadMessage;

    fn try_from(hello: v1::Hello) -> Result<Self, BadMessage> {
        for (field, text) in [
            ("agent_version", &hello.agent_version),
            ("server_id", &hello.server_id),
            ("clickhouse_version", &hello.clickhouse_version),
            ("seen_run", &hello.seen_run),
        ] {
            if text.len() > TEXT_BYTES {
                let what = format!("{} bytes long, and {TEXT_BYTES} are allowed", text.len());
                return Err(BadMessage { field, what });
            }
        }
        let attempts = hello
            .attempts
            .into_iter()
            .map(|seen| Ok((parse("attempts.migration", &seen.migration)?, seen.attempt)))
            .collect::<Result<_, BadMessage>>()?;
        Ok(Self {
            protocol: hello.protocol,
            agent_version: hello.agent_version,
            host: parse("host", &hello.host)?,
            server_id: hello.server_id,
            clickhouse_version: hello.clickhouse_version,
            seen: SeenToken {
                token: hello.seen_token,
                run: hello.seen_run,
            },
            attempts,
            parallel_detach: hello.parallel_detach.max(1) as usize,
            parallel_restore: hello.parallel_restore.max(1) as usize,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_refused_and_its_field_named() {
        let hello = |long: usize| v1::Hello {
            host: "h1".into(),
            clickhouse_version: "2".repeat(long),
            ..v1::Hello::default()
        };
        assert!(Hello::try_from(hello(TEXT_BYTES)).is_ok());
        let refused = Hello::try_from(hello(TEXT_BYTES + 1)).unwrap_err();
        assert_eq!(refused.field, "clickhouse_version");
    }
}
