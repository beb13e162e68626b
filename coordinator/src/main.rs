//! `rekeeper-coordinator`: the daemon that holds the plan and its status.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use rekeeper_coordinator::app;
use rekeeper_coordinator::config::Config;
use rekeeper_shared::tools::telemetry;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Holds the plans of migrations and their status, and tells the agents what to do.
#[derive(Debug, Parser)]
#[command(name = "rekeeper-coordinator", version)]
struct Arguments {
    /// The configuration file (YAML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration file and exit: 0 when it can be used, 2 when not.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(e) => {
            eprintln!("rekeeper-coordinator: {e}");
            return ExitCode::from(2);
        }
    };
    if arguments.check_config {
        println!("{} can be used", arguments.config.display());
        return ExitCode::SUCCESS;
    }
    telemetry::init();
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("rekeeper-coordinator: {e:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|e| anyhow::anyhow!("cannot listen on {}: {e}", config.listen))?;
    app::run(config, listener, async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    })
    .await
}
