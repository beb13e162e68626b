//! `events`: what was ordered and done, and with `--follow` what comes.

use std::time::Instant;

use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::people::view::EventView;

use crate::cli::Format;
use crate::client::{Client, decode};
use crate::failure::Failure;
use crate::follow::lost_once;
use crate::output::{self, notice};
use crate::patience::{PAUSE, Patience};
use crate::signals::Signals;

/// Prints events, each once.
pub(crate) async fn events(
    client: &mut Client,
    name: &MigrationName,
    follow: bool,
    format: Format,
) -> Result<(), Failure> {
    let mut printed = 0;
    if !follow {
        return stream(client, name, &mut printed, false, format, &mut Patience::default()).await;
    }
    let mut signals = Signals::new()?;
    tokio::select! {
        () = signals.received() => Ok(()),
        done = until_ended(client, name, &mut printed, format) => done,
    }
}

/// A stream that breaks is opened again after the last event that was printed. One that ends in a migration that has
/// not ended was closed by a coordinator that shuts down.
async fn until_ended(
    client: &mut Client,
    name: &MigrationName,
    printed: &mut u64,
    format: Format,
) -> Result<(), Failure> {
    let mut patience = Patience::default();
    loop {
        let ended = match stream(client, name, printed, true, format, &mut patience).await {
            Ok(()) => client.status(name).await.map(|status| status.state.is_final()),
            Err(failure) => Err(failure),
        };
        match ended {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(failure) => lost_once(failure, &mut patience, notice)?,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn stream(
    client: &mut Client,
    name: &MigrationName,
    printed: &mut u64,
    follow: bool,
    format: Format,
    patience: &mut Patience,
) -> Result<(), Failure> {
    let mut stream = client.events(name, *printed, follow).await?;
    if let Some(line) = patience.succeeded(Instant::now()) {
        notice(&line);
    }
    while let Some(view) = stream.message().await.map_err(|status| client.failed(status))? {
        let event: EventView = decode("an event", &view)?;
        // Sent twice or not, an event is printed once.
        if event.seq > *printed {
            output::print(&output::events::render(format, &event)?)?;
            *printed = event.seq;
        }
    }
    Ok(())
}
