//! A migration in the driver's hands: plan, progress, and the times that only matter to people and to retries.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rekeeper_shared::domain::plan::{HostIx, MeasuredWave, Plan};
use rekeeper_shared::domain::problem::Problem;
use rekeeper_shared::domain::step::{Outcome, StepKind, Target};
use rekeeper_shared::people::view::WaveStatus;
use rekeeper_shared::tools::backoff::jittered;
use tokio::time::Instant;

use super::pace::Pace;
use crate::progress::{Intent, MAX_FAILURES, Progress, Record};
use crate::store::{Store, Stored};

/// How many records are read at once.
const PAGE: usize = 10_000;
/// How long a step that failed waits before it is tried again, by how often it has failed in a row: together longer than
/// ZooKeeper takes to elect a leader and the servers to have sessions with it again. Half of it is jitter.
const RETRY_AFTER: [Duration; MAX_FAILURES as usize - 1] = [
    Duration::from_millis(500),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

pub(super) struct Migration {
    pub(super) plan: Arc<Plan>,
    pub(super) progress: Progress,
    /// When each intent under way was ordered, or read back.
    since: HashMap<u64, Instant>,
    /// Targets whose last step has failed.
    retries: HashMap<Target, Retry>,
    pub(super) pace: Pace,
}

/// A step that failed, and is tried again unless it is a problem by now.
#[derive(Debug)]
pub(super) struct Retry {
    /// How often in a row it has failed since a person ordered something: so long it waits.
    failures: usize,
    /// When it may be tried again.
    pub(super) next: Instant,
    /// The step that failed.
    pub(super) step: StepKind,
    /// The host whose agent told the failure.
    pub(super) host: HostIx,
    /// What people are told meanwhile.
    pub(super) problem: Problem,
}

impl Migration {
    pub(super) fn new(plan: Plan) -> Self {
        let progress = Progress::new(&plan);
        Self {
            plan: Arc::new(plan),
            progress,
            since: HashMap::new(),
            retries: HashMap::new(),
            pace: Pace::default(),
        }
    }

    /// Reads a migration's log back.
    pub(super) async fn load(plan: Plan, store: &impl Store) -> anyhow::Result<Self> {
        let mut migration = Self::new(plan);
        let mut after = 0;
        loop {
            let page = store.records(&migration.plan.name, after, PAGE).await?;
            let Some(last) = page.last().map(|stored| stored.seq) else {
                break;
            };
            for Stored { seq, time, record } in page {
                let ended = migration.intent_of(&record);
                migration
                    .progress
                    .apply(&migration.plan, &record)
                    .with_context(|| format!("record {seq} of migration {} cannot be", migration.plan.name))?;
                if let (Some(intent), Record::Event { outcome, .. }) = (ended, &record) {
                    migration.ended(intent, outcome);
                }
                if let Ok(then) = humantime::parse_rfc3339(&time) {
                    migration.pace.look(&migration.plan, &migration.progress, then);
                }
            }
            after = last;
        }
        migration.pace.skip_to(SystemTime::now());
        migration.wait_no_longer();
        let now = Instant::now();
        migration.since = migration
            .progress
            .in_flight
            .keys()
            .map(|&attempt| (attempt, now))
            .collect();
        Ok(migration)
    }

    /// Looks how long the waves take, after a record was applied.
    pub(super) fn look(&mut self) {
        self.pace.look(&self.plan, &self.progress, SystemTime::now());
    }

    /// The waves, in their order.
    pub(super) fn waves(&self) -> Vec<WaveStatus> {
        let (plan, now) = (&self.plan, SystemTime::now());
        let of = |(wave, hosts): (usize, &Vec<HostIx>)| WaveStatus {
            hosts: hosts.iter().map(|&host| plan.hosts[host].name.clone()).collect(),
            counts: self.progress.counts_of_wave(plan, wave),
            expected_seconds: self.pace.expected(plan, &self.progress, wave, now),
            measured_seconds: self.pace.measured(wave, now).map(|took| took.as_secs()),
            fetch_bytes: plan.forecasts.get(wave).map_or(0, |forecast| forecast.fetch_bytes),
        };
        plan.waves.iter().enumerate().map(of).collect()
    }

    /// What the waves took of which every table is restored.
    pub(super) fn measured(&self) -> Vec<MeasuredWave> {
        let (plan, now) = (&self.plan, SystemTime::now());
        let of = |(wave, hosts): (usize, &Vec<HostIx>)| {
            let counts = self.progress.counts_of_wave(plan, wave);
            let is_restored = (counts.init, counts.detached, counts.zk_cleaned, counts.failed) == (0, 0, 0, 0);
            let forecast = plan.forecasts.get(wave).filter(|_| is_restored)?;
            let took = self.pace.measured(wave, now)?;
            Some(MeasuredWave {
                migration: plan.name.clone(),
                created: plan.created.clone(),
                restart: plan.request.restart,
                hosts: hosts.iter().map(|&host| plan.hosts[host].name.clone()).collect(),
                assumed_seconds: match forecast.assumed_seconds {
                    0 => forecast.unavailable_seconds,
                    assumed => assumed,
                },
                took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            })
        };
        plan.waves.iter().enumerate().filter_map(of).collect()
    }

    /// Nothing will be ordered however long one waits.
    pub(super) fn is_at_rest(&self) -> bool {
        !self.progress.started || self.progress.paused
    }

    pub(super) fn ordered(&mut self, attempt: u64, now: Instant) {
        self.since.insert(attempt, now);
    }

    /// The intent that the record ends.
    fn intent_of(&self, record: &Record) -> Option<Intent> {
        match record {
            Record::Event { attempt, .. } => self.progress.in_flight.get(attempt).copied(),
            Record::Ordered { .. } | Record::Intent(_) => None,
        }
    }

    pub(super) fn ended(&mut self, intent: Intent, outcome: &Outcome) {
        let in_flight = &self.progress.in_flight;
        // Mostly one has ended; to look at all of them for each event is too much where thousands are under way.
        self.since.remove(&intent.attempt);
        if self.since.len() > in_flight.len() {
            self.since.retain(|attempt, _| in_flight.contains_key(attempt));
        }
        match outcome {
            Outcome::Done(_) => {
                self.retries.remove(&intent.target);
            }
            Outcome::Failed(failure) => {
                let before = self.retries.get(&intent.target).map_or(0, |retry| retry.failures);
                let delay = RETRY_AFTER.get(before).or(RETRY_AFTER.last());
                let retry = Retry {
                    failures: before + 1,
                    next: Instant::now() + delay.map_or(Duration::ZERO, |delay| jittered(*delay)),
                    step: intent.step,
                    host: intent.host,
                    problem: failure.problem.clone(),
                };
                self.retries.insert(intent.target, retry);
                tracing::debug!(step = %intent.step, "tried again later");
            }
        }
    }

    /// What failed is tried again at once: a person has ordered something, or the coordinator was started.
    pub(super) fn wait_no_longer(&mut self) {
        let now = Instant::now();
        for retry in self.retries.values_mut() {
            (retry.failures, retry.next) = (0, now);
        }
    }

    /// When the target may be tried again, if that is later than now.
    pub(super) fn not_before(&self, target: Target, now: Instant) -> Option<Instant> {
        self.retries
            .get(&target)
            .map(|retry| retry.next)
            .filter(|next| *next > now)
    }

    /// Why the target's step has failed, as long as it is tried again.
    pub(super) fn retry_of(&self, target: Target) -> Option<&Retry> {
        self.retries
            .get(&target)
            .filter(|_| self.progress.failures_of(target) > 0)
    }

    /// Every target whose step has failed and is tried again.
    pub(super) fn retries(&self) -> impl Iterator<Item = (Target, &Retry)> {
        let tried_again = |target: &Target| Some((*target, self.retry_of(*target)?));
        self.retries.keys().filter_map(tried_again)
    }

    /// The intent that is under way longest, and since when.
    pub(super) fn longest(&self) -> Option<(u64, Instant)> {
        self.since
            .iter()
            .map(|(attempt, since)| (*attempt, *since))
            .min_by_key(|(attempt, since)| (*since, *attempt))
    }

    pub(super) fn since(&self, attempt: u64) -> Option<Instant> {
        self.since.get(&attempt).copied()
    }

    /// What people call a target.
    pub(super) fn name_of(&self, target: Target) -> String {
        name_of(&self.plan, target)
    }
}

/// What people call a target: `db.table`, the path of a set, the name of a host.
#[must_use]
pub fn name_of(plan: &Plan, target: Target) -> String {
    match target {
        Target::Table(table) => plan.tables[table].name.to_string(),
        Target::Set(set) => plan.sets[set].path.to_string(),
        Target::Host(host) => plan.hosts[host].name.to_string(),
    }
}
