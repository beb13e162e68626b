//! Waves: hosts that share replica sets, and so must move together.

use std::collections::BTreeMap;

use rekeeper_shared::domain::plan::HostIx;

/// Groups `hosts` hosts by the sets that tie them together; sorted, so that the same cluster has the same waves.
#[must_use]
pub(super) fn waves(hosts: usize, sets: impl IntoIterator<Item = Vec<HostIx>>) -> Vec<Vec<HostIx>> {
    let mut leader: Vec<HostIx> = (0..hosts).collect();
    for set in sets {
        for pair in set.windows(2) {
            let (one, other) = (find(&mut leader, pair[0]), find(&mut leader, pair[1]));
            leader[one.max(other)] = one.min(other);
        }
    }
    let mut waves: BTreeMap<HostIx, Vec<HostIx>> = BTreeMap::new();
    for host in 0..hosts {
        waves.entry(find(&mut leader, host)).or_default().push(host);
    }
    waves.into_values().collect()
}

fn find(leader: &mut [HostIx], host: HostIx) -> HostIx {
    let mut at = host;
    while leader[at] != at {
        leader[at] = leader[leader[at]];
        at = leader[at];
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_sets_tie_hosts_together() {
        assert_eq!(
            waves(5, [vec![3, 0], vec![1, 2], vec![4]]),
            [vec![0, 3], vec![1, 2], vec![4]]
        );
        assert_eq!(waves(4, [vec![0, 1], vec![2, 3], vec![1, 2]]), [vec![0, 1, 2, 3]]);
    }
}
