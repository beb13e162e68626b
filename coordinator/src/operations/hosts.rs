//! The hosts, as people see them.

use rekeeper_shared::people::view::HostView;

use super::{AskAgents, Error, Operations};

impl<S, A: AskAgents> Operations<S, A> {
    /// Every host that has been seen, and those whose agents were refused.
    ///
    /// # Errors
    /// The coordinator is stopping.
    pub async fn hosts(&self) -> Result<Vec<HostView>, Error> {
        let mut hosts = self.driver.hosts().await?;
        for refused in self.agents.refused() {
            match hosts.iter_mut().find(|host| host.host == refused.host) {
                Some(host) => host.refused = Some(refused.message),
                None => hosts.push(HostView {
                    host: refused.host,
                    connected: false,
                    agent_version: String::new(),
                    clickhouse_version: String::new(),
                    doing: None,
                    refused: Some(refused.message),
                }),
            }
        }
        hosts.sort_by(|one, other| one.host.cmp(&other.host));
        Ok(hosts)
    }
}
