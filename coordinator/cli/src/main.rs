//! The operator's command line. Arguments in, calls to the coordinator, documents out; it decides nothing about a
//! migration and keeps nothing.

mod cli;
mod client;
mod commands;
mod confirm;
mod dry_run;
mod events;
mod failure;
mod follow;
mod generate;
mod output;
mod patience;
mod progress;
mod signals;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::Cli;
use crate::failure::Failure;

fn main() -> ExitCode {
    // Wrong usage ends here, with 2.
    let cli = Cli::parse();
    let outcome = runtime().and_then(|runtime| {
        let outcome = runtime.block_on(commands::run(cli));
        // A call that nobody waits for any more does not hold the program up.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output::notice(&failure.describe().unwrap_or_default());
            failure.exit().into()
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::System {
            what: "to start",
            source,
        })
}
