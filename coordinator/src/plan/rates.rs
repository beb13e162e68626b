//! What a wave will cost: how long its tables are unavailable, and what is fetched again. The rates and where they come
//! from stand here and nowhere else.

use rekeeper_shared::domain::inventory::{PartsGroup, TableInventory};

/// Waiting for the replicas to catch up, and for what is written down between the steps, in milliseconds. Seen on the
/// rig with 10 tables and nothing to catch up with: 1 to 3 s.
const FIXED_MS: u64 = 2_000;
/// Detach, clean, attach, restore and account for a table of few parts: the same statements by four bare connections
/// took (20.1 - 4.2) s for 500 tables and (6.7 - 2.1) s for 100, ZooKeeper on the same machine.
const TABLE_MS: u64 = 40;
/// Each part of it: a table of 202 parts took 1.3 s on the reference, which is bound by round trips to ZooKeeper.
const PART_MS: u64 = 6;
/// A restart of a server without tables: 1.6 s with 10 tables, 2.1 s with 100, 4.2 s with 500. That is the engine of the
/// test rig: what a host's own restart command takes is known once it was run.
const RESTART_MS: u64 = 1_500;
/// Each table that the server starts with; from the same numbers.
const RESTART_TABLE_MS: u64 = 5;
/// What a follower fetches: a network of 1 Gbit/s. Not measured, since hosts of the rig share a machine.
const FETCH_BYTES_PER_MS: u64 = 100_000;

/// Replicas of a table that are looked at as the one to be restored first.
const REFERENCES: usize = 64;

/// What one host of a wave has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct HostLoad {
    /// Its table replicas in the wave.
    pub(super) tables: u64,
    /// Active parts of the tables that were measured.
    pub(super) parts: u64,
    /// Bytes that its followers fetch.
    pub(super) fetch_bytes: u64,
    /// Tables that its server starts with.
    pub(super) all_tables: u64,
    /// Whether it is restarted.
    pub(super) restart: bool,
    /// Whether its server runs a node of ClickHouse Keeper: those of a wave are restarted one after another.
    pub(super) runs_keeper: bool,
}

impl HostLoad {
    fn restart_ms(&self) -> u64 {
        if self.restart {
            RESTART_MS + RESTART_TABLE_MS * self.all_tables
        } else {
            0
        }
    }
}

/// How long the tables of a wave are unavailable, in whole seconds: as long as its slowest host needs.
#[must_use]
pub(super) fn unavailable_seconds(hosts: &[HostLoad]) -> u64 {
    seconds_at_pace(hosts, Pace::default())
}

/// How much slower than assumed hosts were: what they took, and what they were to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// In milliseconds.
    pub(super) took_ms: u64,
    /// In milliseconds.
    pub(super) assumed_ms: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            took_ms: 1,
            assumed_ms: 1,
        }
    }
}

/// The same for hosts whose pace was measured. The rate of fetches is the assumed one: nobody has measured it.
#[must_use]
pub(super) fn seconds_at_pace(hosts: &[HostLoad], pace: Pace) -> u64 {
    let keepers = hosts.iter().filter(|host| host.runs_keeper);
    let keepers_ms: u64 = keepers.map(HostLoad::restart_ms).sum();
    let of = |host: &HostLoad| {
        let restart = if host.runs_keeper {
            keepers_ms
        } else {
            host.restart_ms()
        };
        let own = FIXED_MS + TABLE_MS * host.tables + PART_MS * host.parts + restart;
        let own = u128::from(own) * u128::from(pace.took_ms) / u128::from(pace.assumed_ms.max(1));
        u64::try_from(own)
            .unwrap_or(u64::MAX)
            .saturating_add(host.fetch_bytes / FETCH_BYTES_PER_MS)
    };
    hosts.iter().map(of).max().unwrap_or(0).div_ceil(1_000)
}

/// Bytes that each replica fetches, since it has no part of that content: at most, when the replica that makes the most
/// work of it is restored first. In the order of `replicas`.
#[must_use]
pub(super) fn fetched(replicas: &[&TableInventory]) -> Vec<u64> {
    let with_reference = |reference: &TableInventory| -> Vec<u64> {
        let of = |replica: &&TableInventory| missing(&reference.contents, &replica.contents);
        replicas.iter().map(of).collect()
    };
    // No table has so many; a host that says so is not to cost the square of it.
    let candidates = replicas.iter().take(REFERENCES);
    let candidates = candidates.map(|reference| with_reference(reference));
    candidates
        .max_by_key(|bytes| bytes.iter().sum::<u64>())
        .unwrap_or_default()
}

/// Bytes of the groups that are not the same on the other side.
fn missing(wanted: &[PartsGroup], there: &[PartsGroup]) -> u64 {
    let same = |group: &&PartsGroup| {
        let found = there.binary_search_by_key(&group.number, |other| other.number);
        found.is_ok_and(|ix| there[ix].hash == group.hash)
    };
    wanted
        .iter()
        .filter(|group| !same(group))
        .map(|group| group.bytes)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(number: u16, hash: u64, bytes: u64) -> PartsGroup {
        PartsGroup { number, hash, bytes }
    }

    #[test]
    fn only_what_the_other_lacks_is_fetched() {
        let (one, two) = (group(1, 10, 100), group(2, 20, 200));
        let merged = group(7, 30, 290);
        assert_eq!(missing(&[one, two], &[one, two]), 0);
        assert_eq!(missing(&[one, two], &[one]), 200);
        assert_eq!(missing(&[merged], &[one, two]), 290);
        assert_eq!(missing(&[one, two], &[group(1, 11, 100), two]), 100);
        assert_eq!(missing(&[], &[one]), 0);
    }

    #[test]
    fn the_slowest_host_of_a_wave_says_how_long() {
        let quick = HostLoad {
            tables: 1,
            parts: 3,
            ..HostLoad::default()
        };
        let slow = HostLoad {
            tables: 500,
            parts: 2_000,
            all_tables: 500,
            restart: true,
            ..quick
        };
        assert_eq!(unavailable_seconds(&[]), 0);
        assert_eq!(unavailable_seconds(&[quick]), 3);
        assert_eq!(unavailable_seconds(&[quick, slow]), 38);
        let fetches = HostLoad {
            fetch_bytes: 60_000_000_000,
            ..quick
        };
        assert_eq!(unavailable_seconds(&[fetches]), 603);
        let pace = Pace {
            took_ms: 30_000,
            assumed_ms: 10_000,
        };
        // 1.5 s and 2.5 s for the tables of each.
        let keeper = HostLoad {
            runs_keeper: true,
            ..slow
        };
        assert_eq!(unavailable_seconds(&[keeper]), 38);
        assert_eq!(unavailable_seconds(&[keeper, slow, keeper]), 42);
        // What is fetched is fetched no slower for that.
        assert_eq!(seconds_at_pace(&[slow], pace), 114);
        assert_eq!(seconds_at_pace(&[fetches], pace), 607);
    }
}
