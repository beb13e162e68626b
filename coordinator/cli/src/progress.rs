//! What is shown on stderr while a migration is followed: bars on a terminal, lines elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant, SystemTime};

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use rekeeper_shared::domain::ids::HostName;
use rekeeper_shared::people::view::{Counts, HostStatus, Phase, State, StatusView};

use crate::output::{self, status, text};

/// Without a terminal, silence is never longer than this.
const QUIET: Duration = Duration::from_secs(10);
/// Bars for more hosts would not fit on a screen.
const HOST_BARS: usize = 20;

const PHASE: &str = "{prefix:<9} [{bar:24}] {pos:>6}/{len:<6} {wide_msg} {left:>10}";
const RESTARTS: &str = "{prefix:<9} [{bar:24}] {pos:>6}/{len:<6} {wide_msg}";
const HOST: &str = "{prefix:<20!} [{bar:12}] {wide_msg}";
const REST: &str = "{wide_msg}";

/// Either form.
pub(crate) enum Progress {
    Bars(Box<Bars>),
    Lines(Lines),
}

impl Progress {
    /// Bars if stderr is a terminal that can draw them.
    pub(crate) fn new() -> Self {
        if std::io::stderr().is_terminal() && !console::is_dumb() {
            Self::Bars(Box::new(Bars::new()))
        } else {
            Self::Lines(Lines::default())
        }
    }

    pub(crate) fn show(&mut self, status: &StatusView) {
        match self {
            Self::Bars(bars) => bars.show(status),
            Self::Lines(lines) => lines.show(status),
        }
    }

    /// Something to say beside the progress.
    pub(crate) fn notice(&self, line: &str) {
        match self {
            Self::Bars(bars) => {
                let _ = bars.all.println(text::escape(line));
            }
            Self::Lines(_) => output::notice(&format!("{}  {line}", now())),
        }
    }

    /// Takes the bars away, so that what follows stands alone.
    pub(crate) fn end(self) {
        if let Self::Bars(bars) = self {
            let _ = bars.all.clear();
            // Or the bars would be drawn once more when they are dropped.
            bars.all.set_draw_target(ProgressDrawTarget::hidden());
        }
    }
}

fn now() -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(SystemTime::now())
}

fn waiting_for(status: &StatusView) -> &str {
    status.waiting_for.as_deref().unwrap_or("the steps under way")
}

/// A line whenever phase or counts change, and after a while without a change.
#[derive(Default)]
pub(crate) struct Lines {
    last: Option<(Instant, State, Phase, Counts)>,
}

impl Lines {
    fn show(&mut self, status: &StatusView) {
        let here = (status.state, status.phase, status.counts);
        if let Some((when, state, phase, counts)) = self.last
            && (state, phase, counts) == here
            && when.elapsed() < QUIET
        {
            return;
        }
        self.last = Some((Instant::now(), here.0, here.1, here.2));
        output::notice(&line(status));
    }
}

fn line(status: &StatusView) -> String {
    let (state, phase) = (status.state.as_str(), status::phase(status.phase));
    let mut line = format!("{}  {state} {phase}: {}", now(), status::counts(&status.counts));
    if status.state == State::Running {
        line.push_str("; waiting for: ");
        line.push_str(waiting_for(status));
    }
    text::escape(&line)
}

/// A bar for each phase and each host, and a line that says what is being waited for.
pub(crate) struct Bars {
    all: MultiProgress,
    waiting: ProgressBar,
    detached: ProgressBar,
    cleaned: ProgressBar,
    restarted: Option<ProgressBar>,
    restored: ProgressBar,
    hosts: HashMap<HostName, ProgressBar>,
    rest: Option<ProgressBar>,
    begun: bool,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let waiting = all.add(ProgressBar::new_spinner().with_style(style("{msg}")));
        let phase = |name: &'static str| {
            let style = style(PHASE);
            all.add(ProgressBar::new(0).with_style(style).with_prefix(name))
        };
        let (detached, cleaned, restored) = (phase("detached"), phase("cleaned"), phase("restored"));
        Self {
            all,
            waiting,
            detached,
            cleaned,
            restarted: None,
            restored,
            hosts: HashMap::new(),
            rest: None,
            begun: false,
        }
    }

    fn show(&mut self, status: &StatusView) {
        let Counts {
            init: _,
            detached,
            zk_cleaned,
            restored,
            failed,
        } = status.counts;
        let total = status.counts.total().saturating_sub(status::skipped(status));
        let state = if failed > 0 {
            format!("{failed} with a problem; ")
        } else {
            String::new()
        };
        let columns = usize::from(console::Term::stderr().size().1).saturating_sub(1);
        let waiting = format!(
            "{}: {state}waiting for: {}",
            status::phase(status.phase),
            waiting_for(status)
        );
        self.waiting
            .set_message(text::hanging(&waiting, "", columns).trim_end().to_owned());
        self.restarts(status);
        let bars = [
            (&self.detached, detached + zk_cleaned + restored),
            (&self.cleaned, zk_cleaned + restored),
            (&self.restored, restored),
        ];
        for (bar, position) in bars {
            bar.set_length(total);
            bar.set_position(position);
            if !self.begun {
                // What was done before this program looked on says nothing about the speed.
                bar.reset_eta();
            }
        }
        self.begun = true;
        for host in status.hosts.iter().take(HOST_BARS) {
            self.host(host);
        }
        if status.hosts.len() > HOST_BARS {
            let rest = self
                .rest
                .get_or_insert_with(|| self.all.add(ProgressBar::new_spinner().with_style(style(REST))));
            rest.set_message(format!(
                "and {} more hosts: rekeeper status {}",
                status.hosts.len() - HOST_BARS,
                status.name
            ));
        }
    }

    /// A bar only where servers are restarted: with `--restart never` none ever is.
    fn restarts(&mut self, status: &StatusView) {
        let done = status.hosts.iter().filter(|host| host.restarted_at.is_some()).count();
        if done == 0 && status.phase != Phase::Restart {
            return;
        }
        let bar = self.restarted.get_or_insert_with(|| {
            let style = style(RESTARTS);
            let bar = ProgressBar::new(0)
                .with_style(style)
                .with_prefix("restarted")
                .with_message("hosts");
            self.all.insert_after(&self.cleaned, bar)
        });
        bar.set_length(status.hosts.len() as u64);
        bar.set_position(done as u64);
    }

    fn host(&mut self, host: &HostStatus) {
        let bar = self.hosts.entry(host.host.clone()).or_insert_with(|| {
            let style = style(HOST);
            self.all
                .add(ProgressBar::new(0).with_style(style).with_prefix(host.host.to_string()))
        });
        let Counts {
            init,
            detached,
            zk_cleaned,
            restored,
            failed,
        } = host.counts;
        // Three steps of each table.
        bar.set_length(host.counts.total() * 3);
        bar.set_position(detached + 2 * zk_cleaned + 3 * restored);
        let mut parts: Vec<String> = Vec::new();
        for (count, what) in [
            (init, "INIT"),
            (detached, "DETACHED"),
            (zk_cleaned, "ZK_CLEANED"),
            (restored, "RESTORED"),
            (failed, "with a problem"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        if !host.connected {
            parts.push("not connected".to_owned());
        }
        bar.set_message(parts.join(", "));
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("left", time_left)
        .progress_chars("=> ")
}

/// The time left, where there is something to tell it from.
fn time_left(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    if state.pos() > 0 && state.len().is_some_and(|length| state.pos() < length) && !state.eta().is_zero() {
        let _ = write!(out, "ETA {:#}", HumanDuration(state.eta()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_understood() {
        for template in [PHASE, RESTARTS, HOST, REST] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
