//! Orders of people. What comes of one is decided by the driver; here the words for a table become a table of the plan.

use rekeeper_shared::domain::ids::{HostName, MigrationName, TableName};

use super::{AskAgents, Error, Operations};
use crate::driver::OperatorError;
use crate::plan::Pattern;
use crate::progress::OperatorOrder;

/// What is left out for good, in people's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftOut {
    /// A table, on all hosts.
    Table(String),
    /// A host, with all its tables.
    Host(HostName),
    /// A table on one host.
    Replica(String, HostName),
}

impl<S, A: AskAgents> Operations<S, A> {
    /// Gives an order; answers a notice for people, empty when there is nothing to say.
    ///
    /// # Errors
    /// It is refused; nothing has changed then.
    pub async fn order(&self, name: &MigrationName, by: String, order: OperatorOrder) -> Result<String, Error> {
        Ok(self.driver.order(name, by, order).await?)
    }

    /// Tries again what has failed: of one table or all, on one host or all.
    ///
    /// # Errors
    /// The words mean no table of the plan, or several; or it is refused. Nothing has changed then.
    pub async fn retry(
        &self,
        name: &MigrationName,
        by: String,
        table: Option<&str>,
        host: Option<HostName>,
    ) -> Result<String, Error> {
        let table = match table {
            Some(text) => Some(self.planned_table(name, text).await?),
            None => None,
        };
        self.order(name, by, OperatorOrder::Retry { table, host }).await
    }

    /// Leaves out a table, a host, or a table on a host.
    ///
    /// # Errors
    /// As [`Operations::retry`].
    pub async fn skip(&self, name: &MigrationName, by: String, what: LeftOut) -> Result<String, Error> {
        let order = match what {
            LeftOut::Table(text) => OperatorOrder::Skip {
                table: self.planned_table(name, &text).await?,
            },
            LeftOut::Host(host) => OperatorOrder::Leave { host },
            LeftOut::Replica(text, host) => OperatorOrder::LeaveTable {
                table: self.planned_table(name, &text).await?,
                host,
            },
        };
        self.order(name, by, order).await
    }

    /// The one table of the plan that a person means by `db.table`.
    async fn planned_table(&self, name: &MigrationName, text: &str) -> Result<TableName, Error> {
        let (plan, _) = (self.driver.plan(name).await?).ok_or_else(|| OperatorError::Unknown(name.clone()))?;
        let pattern = Pattern::parse(text).map_err(|e| Error::NotOneTable(e.to_string()))?;
        let names = plan.tables.iter().map(|table| &table.name);
        let mut found: Vec<&TableName> = names.filter(|table| pattern.matches(table)).collect();
        found.dedup();
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(Error::NotOneTable(format!("the plan has no table {text}"))),
            [one, other, ..] => Err(Error::NotOneTable(format!(
                "{text} is not one table of the plan (it means {one} and {other}); name one, or leave --table away"
            ))),
        }
    }
}
