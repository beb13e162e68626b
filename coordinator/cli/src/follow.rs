//! Looking on while a migration goes on, until it stops or the person leaves.

use std::time::{Duration, Instant};

use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::people::view::{State, StatusView};

use crate::client::Client;
use crate::failure::{Failure, root_cause};
use crate::patience::{PAUSE, Patience, Verdict};
use crate::progress::Progress;
use crate::signals::Signals;

/// At first people watch closely, and short migrations end.
const FIRST: Duration = Duration::from_millis(200);
const FIRST_FOR: Duration = Duration::from_secs(5);
const LATER: Duration = Duration::from_secs(1);

/// How the looking on ended.
pub(crate) enum Followed {
    /// The migration stopped.
    Stopped(Box<StatusView>),
    /// The person left; the migration goes on.
    Left,
}

/// Asks for the status again and again.
pub(crate) async fn follow(
    client: &mut Client,
    name: &MigrationName,
    progress: &mut Progress,
    signals: &mut Signals,
) -> Result<Followed, Failure> {
    let begin = Instant::now();
    let mut patience = Patience::default();
    loop {
        let asked = Instant::now();
        let status = tokio::select! {
            () = signals.received() => return Ok(Followed::Left),
            status = patiently(async || client.status(name).await, &mut patience, |line| progress.notice(line)) => status?,
        };
        let took = asked.elapsed();
        progress.show(&status);
        if stopped(status.state) {
            return Ok(Followed::Stopped(Box::new(status)));
        }
        let pause = if begin.elapsed() < FIRST_FOR { FIRST } else { LATER };
        tokio::select! {
            () = signals.received() => return Ok(Followed::Left),
            // A status of very many tables is not asked for all the time.
            () = tokio::time::sleep(pause.max(took * 3)) => {}
        }
    }
}

/// Makes the call until it gets through, also if the coordinator is lost for a while.
pub(crate) async fn patiently<T>(
    mut call: impl AsyncFnMut() -> Result<T, Failure>,
    patience: &mut Patience,
    mut notice: impl FnMut(&str),
) -> Result<T, Failure> {
    loop {
        match call().await {
            Ok(answer) => {
                if let Some(line) = patience.succeeded(Instant::now()) {
                    notice(&line);
                }
                return Ok(answer);
            }
            Err(failure) => lost_once(failure, patience, &mut notice)?,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Judges a failed call: returns if it is to be tried again.
pub(crate) fn lost_once(
    failure: Failure,
    patience: &mut Patience,
    mut notice: impl FnMut(&str),
) -> Result<(), Failure> {
    let Failure::Lost { status, .. } = &failure else {
        return Err(failure);
    };
    match patience.failed(Instant::now(), &root_cause(status)) {
        Verdict::Again(line) => {
            if let Some(line) = line {
                notice(&line);
            }
            Ok(())
        }
        Verdict::GiveUp => Err(failure),
    }
}

fn stopped(state: State) -> bool {
    match state {
        State::Planned | State::Running => false,
        State::Paused | State::Completed | State::Failed | State::Aborted => true,
    }
}
