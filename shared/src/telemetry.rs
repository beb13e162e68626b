//! Logging of the daemons: to stderr, `REKEEPER_LOG` as filter, JSON lines with `REKEEPER_LOG_FORMAT=json`.

use tracing_subscriber::EnvFilter;

/// Starts logging. Call once, from `main`.
pub fn init() {
    let filter = EnvFilter::try_from_env("REKEEPER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::env::var("REKEEPER_LOG_FORMAT").is_ok_and(|format| format == "json") {
        builder.json().init();
    } else {
        builder.with_ansi(false).init();
    }
}
