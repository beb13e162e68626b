//! What is different where a person sits: the question, the bars, the screen that is drawn again.

use rekeeper_shared::people::view::{Phase, State, StatusView, TableStatus};
use rustix::process::Signal;

use crate::documents;
use crate::fake::{Canned, Fake};
use crate::run::{OnTerminal, rekeeper, snapshot};

fn terminal(first: StatusView, arguments: &[&str]) -> (Fake, OnTerminal) {
    let statuses = [first, documents::running(), documents::completed()].into();
    let fake = Fake::new(Canned {
        statuses,
        notice: "migration m1 is started".into(),
        ..Canned::default()
    });
    let run = OnTerminal::new(rekeeper(&fake.url(), arguments));
    (fake, run)
}

fn calls(fake: &Fake) -> usize {
    fake.with(|canned| canned.calls.len())
}

#[test]
fn start_asks_before_the_first_delete_and_takes_anything_but_yes_for_a_no() {
    for answer in ["\n", "n\n", "maybe\n", "\u{4}"] {
        let (fake, mut run) = terminal(documents::planned(), &["start", "m1"]);
        run.until_shown("Go on? [y/N]");
        run.types(answer);
        let (code, screen) = run.wait();
        assert_eq!(code, Some(0));
        assert!(screen.contains("nothing was started"), "{screen}");
        assert!(screen.contains("2 tables on 2 hosts"), "{screen}");
        assert!(screen.contains("CANNOT BE UNDONE"), "{screen}");
        assert_eq!(calls(&fake), 0);
    }
}

#[test]
fn a_signal_while_asked_is_a_no() {
    let (fake, run) = terminal(documents::planned(), &["start", "m1"]);
    run.until_shown("Go on? [y/N]");
    run.signal(Signal::INT);
    let (code, screen) = run.wait();
    assert_eq!(code, Some(0));
    assert!(screen.contains("nothing was started"), "{screen}");
    assert_eq!(calls(&fake), 0);
}

#[test]
fn start_goes_on_after_a_yes_and_draws_bars() {
    let (fake, mut run) = terminal(documents::planned(), &["start", "m1"]);
    run.until_shown("Go on? [y/N]");
    run.types("y\n");
    let (code, screen) = run.wait();
    assert_eq!(code, Some(0), "{screen}");
    assert!(screen.contains("detached  ["), "{screen}");
    assert!(screen.contains("waiting for: SYSTEM SYNC REPLICA"), "{screen}");
    // The summary stands alone at the end: the bars are gone and are not drawn again.
    let (_, after) = screen.rsplit_once("Migration m1: ").unwrap();
    let after = console::strip_ansi_codes(after);
    assert!(after.starts_with("COMPLETED"), "{screen}");
    assert!(
        after.trim_end().ends_with("2026-01-31T01:02:03Z") && !after.contains('['),
        "{screen}"
    );
    assert_eq!(calls(&fake), 1);
}

#[test]
fn start_does_not_ask_where_nothing_is_to_be_said_yes_to() {
    let cleaned = documents::even(State::Paused, Phase::Restart, TableStatus::ZkCleaned);
    for (first, arguments) in [
        (documents::planned(), &["start", "m1", "--yes"][..]),
        (documents::planned(), &["start", "m1", "--until", "detached"]),
        (documents::running(), &["start", "m1"]),
        (cleaned, &["start", "m1"]),
    ] {
        // PAUSED would end the following at once, so it is not asked for twice.
        let (fake, run) = terminal(first, arguments);
        let (code, screen) = run.wait();
        assert_eq!(code, Some(0), "{screen}");
        assert!(!screen.contains("[y/N]"), "{screen}");
        assert_eq!(calls(&fake), 1);
    }
}

#[test]
fn resume_asks_at_the_barrier_before_the_first_delete() {
    let (fake, mut run) = terminal(documents::paused_at_detached(), &["resume", "m1"]);
    run.until_shown("Go on? [y/N]");
    run.types("n\n");
    assert_eq!(run.wait().0, Some(0));
    assert_eq!(calls(&fake), 0);

    for arguments in [&["resume", "m1", "--yes"][..], &["pause", "m1"]] {
        let (fake, run) = terminal(documents::paused_at_detached(), arguments);
        assert_eq!(run.wait().0, Some(0));
        assert_eq!(calls(&fake), 1);
    }
}

/// Each screen that was drawn.
fn screens(drawn: &str) -> Vec<&str> {
    drawn.split("\u{1b}[2J").skip(1).collect()
}

#[test]
fn watch_fits_every_terminal() {
    for (columns, lines) in [(80, 24), (40, 12), (132, 50), (20, 6)] {
        let mut view = documents::many(10_000);
        view.waiting_for = Some("x".repeat(300));
        view.hosts[2].host = format!("h{}", "o".repeat(120)).parse().unwrap();
        let statuses = [view, documents::unicode(), documents::completed()].into();
        let fake = Fake::new(Canned {
            statuses,
            ..Canned::default()
        });
        let mut command = rekeeper(&fake.url(), &["status", "m1", "--watch"]);
        command.env_remove("COLUMNS");
        let (code, drawn) = OnTerminal::of_size(command, columns, lines).wait();
        assert_eq!(code, Some(0));
        let screens: Vec<&str> = screens(&drawn)
            .iter()
            .map(|one| one.trim_start_matches("\r\u{1b}[H"))
            .collect();
        assert_eq!(screens.len(), 3, "{drawn}");
        for one in &screens {
            let shown: Vec<&str> = one.trim_end().lines().collect();
            // The last line is the cursor's.
            assert!(shown.len() < usize::from(lines), "{columns} x {lines}:\n{one}");
            for line in shown {
                let width = console::measure_text_width(line);
                assert!(width <= usize::from(columns), "{columns} x {lines}: {width}\n{line}");
            }
        }
        assert!(columns < 40 || screens[2].contains("COMPLETED"));
    }
}

#[test]
fn watch_shows_problems_and_what_is_under_way_before_anything_else() {
    let (_fake, run) = terminal(documents::many(10_000), &["status", "m1", "--watch"]);
    let (_, drawn) = run.wait();
    let screen = console::strip_ansi_codes(screens(&drawn)[0]).replace('\r', "");
    snapshot("watch-terminal", &screen);
    assert!(
        screen.contains("SYNC_FAILED  100 tables on 1 host: no answer") && screen.contains("detach of shop.t"),
        "{screen}"
    );
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    for (variable, value, coloured) in [
        ("REKEEPER_X", "", true),
        ("NO_COLOR", "1", false),
        ("TERM", "dumb", false),
    ] {
        let fake = Fake::new(Canned {
            statuses: [documents::failed()].into(),
            ..Canned::default()
        });
        let mut command = rekeeper(&fake.url(), &["status", "m1"]);
        command.env(variable, value);
        let (_, screen) = OnTerminal::new(command).wait();
        assert_eq!(screen.contains("\u{1b}["), coloured, "{variable} {screen:?}");
        assert!(
            console::strip_ansi_codes(&screen).contains("Migration m1: FAILED"),
            "{screen}"
        );
    }
}
