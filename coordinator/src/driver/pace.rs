//! How long the waves of a migration take, and what that says of the ones to come. For people only: nothing is decided
//! by it.

use std::time::{Duration, SystemTime};

use rekeeper_shared::domain::plan::Plan;

use crate::progress::Progress;

/// Between two looks at all tables.
const EACH: Duration = Duration::from_millis(250);

/// For how long tables of each wave were unavailable while something was done for them. The time in which a migration
/// is paused, or stands at a barrier or with a problem, says nothing about the next wave, and is left out.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waves: Vec<Wave>,
    looked: Option<SystemTime>,
    was_resting: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Wave {
    took: Duration,
    is_moving: bool,
}

impl Pace {
    /// Looks at what a record has made of the migration.
    pub(super) fn look(&mut self, plan: &Plan, progress: &Progress, now: SystemTime) {
        let since = self.looked.and_then(|looked| now.duration_since(looked).ok());
        // Steps that were under way when it was paused end in that time.
        let rests = progress.paused || progress.in_flight.is_empty();
        if since.is_some_and(|since| since < EACH) && rests == self.was_resting {
            return;
        }
        self.was_resting = rests;
        self.waves.resize(plan.waves.len(), Wave::default());
        for (ix, wave) in self.waves.iter_mut().enumerate() {
            if wave.is_moving {
                wave.took += since.unwrap_or_default();
            }
            wave.is_moving = !rests && progress.wave_is_busy(plan, ix) && progress.wave_is_unavailable(plan, ix);
        }
        self.looked = Some(now);
    }

    /// Goes on from here, without the time that has passed: the coordinator was down.
    pub(super) fn skip_to(&mut self, now: SystemTime) {
        self.looked = Some(now);
    }

    /// How long the wave took so far; none before it moved.
    pub(super) fn measured(&self, wave: usize, now: SystemTime) -> Option<Duration> {
        let wave = self.waves.get(wave)?;
        let since = self.looked.and_then(|looked| now.duration_since(looked).ok());
        let under_way = if wave.is_moving {
            since.unwrap_or_default()
        } else {
            Duration::ZERO
        };
        let took = wave.took + under_way;
        (wave.is_moving || took > Duration::ZERO).then_some(took)
    }

    /// How long the wave is expected to take, in seconds: the plan's forecast, times what the waves before it took of
    /// theirs. None where the plan has no forecast.
    pub(super) fn expected(&self, plan: &Plan, progress: &Progress, wave: usize, now: SystemTime) -> Option<u64> {
        let forecast = plan.forecasts.get(wave)?.unavailable_seconds;
        let (mut forecasts, mut measured) = (0, Duration::ZERO);
        for before in (0..wave).filter(|&before| progress.wave_is_over(plan, before)) {
            if let Some(took) = self.measured(before, now) {
                forecasts += plan.forecasts[before].unavailable_seconds;
                measured += took;
            }
        }
        if forecasts == 0 {
            return Some(forecast);
        }
        let millis = u128::from(forecast) * measured.as_millis() / u128::from(forecasts);
        u64::try_from(millis.div_ceil(1_000)).ok()
    }
}

#[cfg(test)]
mod tests {
    use rekeeper_shared::domain::plan::{Plan, PlanRequest, PlannedHost, PlannedSet, PlannedTable, WaveForecast};
    use rekeeper_shared::domain::step::{StepKind, Target};

    use super::*;
    use crate::progress::{Intent, TableAt};

    /// Two waves of one table each, expected to take 10 and 20 s.
    fn plan() -> Plan {
        let forecast = |unavailable_seconds| WaveForecast {
            tied_by: vec![],
            shared_tables: 0,
            shared_example: None,
            fetch_bytes: 0,
            unavailable_seconds,
            assumed_seconds: unavailable_seconds,
            measured_in: None,
        };
        let host = |name: &str| PlannedHost {
            name: name.parse().unwrap(),
            clickhouse_version: String::new(),
            has_hook: false,
            runs_keeper: false,
        };
        let table = |ix: usize| PlannedTable {
            host: ix,
            name: rekeeper_shared::domain::ids::TableName::new("d", "t"),
            uuid: String::new(),
            engine: "ReplicatedMergeTree".into(),
            set: ix,
            replica_name: "r".into(),
        };
        let set = |ix: usize| PlannedSet {
            place: rekeeper_shared::domain::place::Place {
                ensemble: "default".into(),
                nodes: vec![],
                secure: false,
                chroot: String::new(),
            },
            path: rekeeper_shared::domain::place::ZkPath::parse("/t/t").unwrap(),
            tables: vec![ix],
            wave: ix,
        };
        Plan {
            name: "m".parse().unwrap(),
            created: String::new(),
            created_by: String::new(),
            request: PlanRequest::default(),
            hosts: vec![host("a"), host("b")],
            tables: vec![table(0), table(1)],
            sets: vec![set(0), set(1)],
            waves: vec![vec![0], vec![1]],
            warnings: vec![],
            forecasts: vec![forecast(10), forecast(20)],
            attested: true,
        }
    }

    #[test]
    fn the_time_in_which_nothing_is_done_is_left_out_and_the_rest_corrects_what_is_expected() {
        let plan = plan();
        let (mut pace, mut progress) = (Pace::default(), Progress::new(&plan));
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + seconds);
        let step = |step| Intent {
            attempt: 1,
            host: 0,
            step,
            target: Target::Table(0),
        };
        let expected = |pace: &Pace, progress: &Progress| pace.expected(&plan, progress, 1, at(500));
        assert_eq!(pace.measured(0, at(0)), None);
        progress.in_flight.insert(1, step(StepKind::Detach));
        progress.tables[0].at = TableAt::Detaching;
        pace.look(&plan, &progress, at(0));
        assert_eq!(pace.measured(0, at(3)), Some(Duration::from_secs(3)));
        progress.in_flight.clear();
        pace.look(&plan, &progress, at(4));
        // The next step follows at once.
        progress.in_flight.insert(1, step(StepKind::Restart));
        pace.look(&plan, &progress, at(4));
        progress.in_flight.clear();
        pace.look(&plan, &progress, at(5));
        // It is paused while a step is under way, which ends meanwhile; then it goes on.
        progress.in_flight.insert(1, step(StepKind::Attach));
        pace.look(&plan, &progress, at(5));
        progress.paused = true;
        pace.look(&plan, &progress, at(5));
        assert_eq!(pace.measured(0, at(30)), Some(Duration::from_secs(5)));
        progress.in_flight.clear();
        pace.look(&plan, &progress, at(40));
        progress.paused = false;
        pace.look(&plan, &progress, at(50));
        assert_eq!(pace.measured(0, at(60)), Some(Duration::from_secs(5)));
        // It stands at a barrier for a while.
        progress.in_flight.insert(1, step(StepKind::Restore));
        pace.look(&plan, &progress, at(100));
        assert_eq!(expected(&pace, &progress), Some(20));
        (progress.tables[0].at, progress.in_flight) = (TableAt::Finished, [].into());
        pace.look(&plan, &progress, at(125));
        assert_eq!(pace.measured(0, at(500)), Some(Duration::from_secs(30)));
        // Three times as long as it was expected to.
        assert_eq!(expected(&pace, &progress), Some(60));
        assert_eq!(pace.expected(&plan, &progress, 0, at(500)), Some(10));
        assert_eq!(pace.measured(1, at(500)), None);
    }
}
