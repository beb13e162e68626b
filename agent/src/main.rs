//! `rekeeper-agent`: the daemon on each ClickHouse host.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use rekeeper_agent::app;
use rekeeper_agent::config::{Config, RawConfig};
use rekeeper_agent::znodes::{self, Refused};
use rekeeper_shared::tools::{config, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Wrong usage or configuration; clap uses the same.
const BAD_CONFIGURATION: u8 = 2;
const FAILED: u8 = 1;

/// Does the work of Rekeeper's migrations on one ClickHouse host.
///
/// Logs to stderr; REKEEPER_LOG filters (debug, info, warn), REKEEPER_LOG_FORMAT=json writes JSON lines.
/// Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failed, 2 wrong usage or configuration.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    /// The configuration, agent.yaml
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,

    /// Check the configuration, say what is wrong with it, and exit
    #[arg(long)]
    check_config: bool,

    #[command(subcommand)]
    instead: Option<Instead>,
}

/// What it does when it is not to run.
#[derive(Debug, Subcommand)]
enum Instead {
    /// Looks into the file that has all ZooKeeper nodes of a table from before they were deleted
    ///
    /// Without an option it lists the nodes. The file is in the state_dir of the agent, in the folder of the migration;
    /// `rekeeper events NAME` says where. Exit codes: 0 done, 1 the file is damaged or the nodes could not be created, 2
    /// wrong usage, configuration or path; nothing was changed then.
    Znodes(znodes::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Instead::Znodes(arguments)) = &arguments.instead {
        return look_into(arguments);
    }
    // clap demands it where nothing else is asked for.
    let file = arguments.config.unwrap_or_default();
    let config = match config::load::<RawConfig>(&file) {
        Ok(config) => config,
        Err(bad) => return ended(&bad.to_string(), BAD_CONFIGURATION),
    };
    if arguments.check_config {
        let _ = writeln!(std::io::stdout(), "{}: ok", file.display());
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

fn look_into(arguments: &znodes::Arguments) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return ended(&format!("the runtime cannot be started: {error}"), FAILED),
    };
    match runtime.block_on(znodes::run(arguments)) {
        // Whoever read it has seen enough.
        Ok(()) | Err(Refused::Unread) => ExitCode::SUCCESS,
        Err(Refused::Failed(why)) => ended(&why, FAILED),
        Err(Refused::Usage(why)) => ended(&why, BAD_CONFIGURATION),
    }
}

fn ended(why: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "rekeeper-agent: {why}");
    ExitCode::from(code)
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
