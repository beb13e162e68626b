//! `status --watch`: the status again and again, until nothing runs any more.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use console::Term;
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::people::view::{MigrationLine, State, StatusView};
use serde::Serialize;

use crate::cli::Format;
use crate::client::Client;
use crate::failure::Failure;
use crate::follow::patiently;
use crate::output::{self, notice, status, text};
use crate::patience::Patience;
use crate::signals::Signals;

const EACH: Duration = Duration::from_secs(1);
/// A snapshot that is like the last one is printed only after this.
const QUIET: Duration = Duration::from_secs(10);
/// Lines of a snapshot where no terminal says how many there are.
const LINES: usize = 48;

/// Watches one migration; the last status, or none if the person left.
pub(crate) async fn one(
    client: &mut Client,
    name: &MigrationName,
    format: Format,
) -> Result<Option<StatusView>, Failure> {
    let running = |view: &StatusView| view.state == State::Running;
    watch(async || client.status(name).await, running, status::screen, format).await
}

/// Watches all migrations; their last lines, or none if the person left.
pub(crate) async fn all(client: &mut Client, format: Format) -> Result<Option<Vec<MigrationLine>>, Failure> {
    let running = |lines: &Vec<MigrationLine>| lines.iter().any(|line| line.state == State::Running);
    let draw = |migrations: &Vec<MigrationLine>, columns: usize, lines: usize| {
        text::fit(&status::list(migrations), columns, lines)
    };
    watch(async || client.migrations().await, running, draw, format).await
}

async fn watch<T: Serialize>(
    mut ask: impl AsyncFnMut() -> Result<T, Failure>,
    running: impl Fn(&T) -> bool,
    draw: impl Fn(&T, usize, usize) -> String,
    format: Format,
) -> Result<Option<T>, Failure> {
    let mut signals = Signals::new()?;
    let mut patience = Patience::default();
    let mut screen = Screen::new(format);
    loop {
        let document = tokio::select! {
            () = signals.received() => return Ok(None),
            document = patiently(&mut ask, &mut patience, notice) => document?,
        };
        screen.show(&document, &draw)?;
        if !running(&document) {
            return Ok(Some(document));
        }
        tokio::select! {
            () = signals.received() => return Ok(None),
            () = tokio::time::sleep(EACH) => {}
        }
    }
}

/// Where snapshots go.
struct Screen {
    format: Format,
    terminal: Option<Term>,
    last: Option<(Instant, String)>,
}

impl Screen {
    fn new(format: Format) -> Self {
        let drawn = format == Format::Table && std::io::stdout().is_terminal() && !console::is_dumb();
        Self {
            format,
            terminal: drawn.then(Term::buffered_stdout),
            last: None,
        }
    }

    fn show<T: Serialize>(&mut self, document: &T, draw: impl Fn(&T, usize, usize) -> String) -> Result<(), Failure> {
        if let Some(terminal) = &mut self.terminal {
            let (lines, columns) = terminal.size();
            // One line is left for the cursor.
            let text = draw(document, usize::from(columns), usize::from(lines).saturating_sub(1));
            let drawn = terminal
                .clear_screen()
                .and_then(|()| terminal.write_all(text.as_bytes()));
            return drawn.and_then(|()| terminal.flush()).map_err(Failure::Stdout);
        }
        let snapshot = match self.format {
            Format::Table => draw(document, text::WIDTH, LINES),
            Format::Json => output::render(self.format, document, |_| String::new())?,
            Format::Yaml => format!("---\n{}", output::yaml(document)?),
        };
        if let Some((when, last)) = &self.last
            && *last == snapshot
            && when.elapsed() < QUIET
        {
            return Ok(());
        }
        let separator = if self.format == Format::Table && self.last.is_some() {
            "\n"
        } else {
            ""
        };
        output::print(&format!("{separator}{snapshot}"))?;
        self.last = Some((Instant::now(), snapshot));
        Ok(())
    }
}
