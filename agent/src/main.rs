//! `rekeeper-agent`: the daemon on each ClickHouse host.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use rekeeper_agent::app;
use rekeeper_agent::config::{Config, RawConfig};
use rekeeper_shared::{config, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Wrong usage or configuration; clap uses the same.
const BAD_CONFIGURATION: u8 = 2;

/// Does the work of Rekeeper's migrations on one ClickHouse host.
///
/// Logs to stderr; REKEEPER_LOG filters (debug, info, warn), REKEEPER_LOG_FORMAT=json writes JSON lines.
/// Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failed, 2 wrong usage or configuration.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration, agent.yaml
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Check the configuration, say what is wrong with it, and exit
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match config::load::<RawConfig>(&arguments.config) {
        Ok(config) => config,
        Err(bad) => {
            let _ = writeln!(std::io::stderr(), "rekeeper-agent: {bad}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    if arguments.check_config {
        let _ = writeln!(std::io::stdout(), "{}: ok", arguments.config.display());
        return ExitCode::SUCCESS;
    }
    telemetry::init();
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "rekeeper-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
    let ran = runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM"),
                _ = interrupt.recv() => tracing::info!("SIGINT"),
            }
            // What the server is executing goes on there; the next agent waits for it.
            stop.send_replace(true);
            // Kept, so that nobody takes its end for an order.
            std::future::pending::<()>().await;
        });
        Ok(app::run(config, stopped).await?)
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    ran
}
