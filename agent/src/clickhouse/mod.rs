//! The host's own ClickHouse server: statements, what came of them, and what the system tables say.
//!
//! What is to be done with a table is decided in `steps`; here is only how it is asked and told.

mod bounded;
mod detached;
mod error;
mod gather;
mod holding;
pub(crate) mod names;
mod parts;
mod questions;
mod rows;
mod running;
mod server;
mod settings;
mod statement;
mod tables;
mod watched;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clickhouse::{RowOwned, RowRead};
use futures::future::BoxFuture;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rekeeper_shared::domain::ids::{MigrationName, TableName};
use rekeeper_tls::client_config;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use bounded::{Bounded, in_time};
pub(crate) use detached::Detached;
pub use error::{Class, Error, code};
use gather::Gather;
pub use rows::{DetachedPart, DetachedTable, Part, Replica};
pub use running::Running;
use settings::Setting;
pub use statement::{Cache, Statement, TableSetting};
pub(crate) use tables::is_zero_uuid;

/// How the server is reached.
#[derive(Clone)]
pub struct Access {
    /// `http://host:port` or `https://host:port`.
    pub url: String,
    /// By whom a server is believed to be the right one, with `https://`.
    pub trust: Option<Trust>,
    /// `clickhouse.user` of agent.yaml.
    pub user: String,
    /// Content of `clickhouse.password_file`.
    pub password: Option<String>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("url", &self.url)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// The CAs that the certificate of a server may be signed by.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Servers with a certificate of one of these.
    ///
    /// # Errors
    /// When the crypto provider knows no version of TLS.
    pub fn new(roots: RootCertStore) -> Result<Self, rustls::Error> {
        Ok(Self(Arc::new(client_config(roots, None)?)))
    }
}

/// For what statements are sent; their query ids begin with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag(String);

/// What all query ids of Rekeeper begin with.
pub const TAG_PREFIX: &str = "rekeeper-";

impl Tag {
    /// For an attempt of a migration.
    #[must_use]
    pub fn attempt(migration: &MigrationName, attempt: u64) -> Self {
        Self(format!("{TAG_PREFIX}{migration}-{attempt}"))
    }

    /// For looking around.
    #[must_use]
    pub fn inspection() -> Self {
        Self(format!("{TAG_PREFIX}inspection"))
    }
}

/// A handle to the server, cheap to clone.
#[derive(Clone)]
pub struct ClickHouse {
    client: clickhouse::Client,
    tag: Tag,
    number: Arc<AtomicU64>,
    shared: Arc<Shared>,
}

/// What is asked of the server by many at the same time, and how many may burden it.
struct Shared {
    url: String,
    own: settings::Own,
    questions: questions::Questions,
    processes: Gather<(), Running>,
    caches: Gather<Cache, ()>,
    flushes: Gather<(), ()>,
    buffers: Gather<(), (TableName, TableName)>,
    tables: Arc<Semaphore>,
    restores: Arc<Semaphore>,
}

/// The right to send statements that burden the server, as long as it is held.
#[derive(Debug)]
pub struct Turn {
    // None would be that of a semaphore that is closed, and none is.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Turn {
    async fn of(turns: &Arc<Semaphore>) -> Self {
        Self {
            _permit: Arc::clone(turns).acquire_owned().await.ok(),
        }
    }
}

impl fmt::Debug for ClickHouse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouse")
            .field("tag", &self.tag)
            .finish_non_exhaustive()
    }
}

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl ClickHouse {
    /// A handle without limits; no connection is made yet.
    #[must_use]
    pub fn new(access: &Access) -> Self {
        Self::limited(access, Semaphore::MAX_PERMITS, Semaphore::MAX_PERMITS)
    }

    /// A handle that lets so many tables at a time be synced, detached or attached, and so many be restored.
    #[must_use]
    pub fn limited(access: &Access, tables: usize, restores: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        // A statement may say nothing for hours: that the peer is alive is for TCP to find out.
        connector.set_keepalive(Some(Duration::from_secs(15)));
        connector.set_keepalive_interval(Some(Duration::from_secs(5)));
        connector.set_keepalive_retries(Some(3));
        connector.set_tcp_user_timeout(Some(Duration::from_secs(30)));
        let mut http = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
        // Servers close idle connections after 3 s, older and newer ones alike.
        http.pool_idle_timeout(Duration::from_secs(2));
        let client = match &access.trust {
            None => clickhouse::Client::with_http_client(http.build(Bounded {
                connector,
                most: bounded::MOST,
            })),
            Some(Trust(config)) => {
                connector.enforce_http(false);
                let connector = HttpsConnectorBuilder::new()
                    .with_tls_config(ClientConfig::clone(config))
                    .https_only()
                    .enable_http1()
                    .wrap_connector(connector);
                clickhouse::Client::with_http_client(http.build(Bounded {
                    connector,
                    most: bounded::MOST,
                }))
            }
        };
        let mut client = client
            .with_url(&access.url)
            .with_user(&access.user)
            .with_compression(clickhouse::Compression::None);
        if let Some(password) = &access.password {
            client = client.with_password(password);
        }
        Self {
            client,
            tag: Tag::inspection(),
            number: Arc::new(AtomicU64::new(1)),
            shared: Arc::new(Shared {
                url: access.url.clone(),
                own: settings::Own::default(),
                questions: questions::Questions::default(),
                processes: Gather::default(),
                caches: Gather::default(),
                flushes: Gather::default(),
                buffers: Gather::default(),
                tables: Arc::new(Semaphore::new(tables.min(Semaphore::MAX_PERMITS))),
                restores: Arc::new(Semaphore::new(restores.min(Semaphore::MAX_PERMITS))),
            }),
        }
    }

    /// The same server, for statements of another purpose.
    #[must_use]
    pub fn tagged(&self, tag: Tag) -> Self {
        Self { tag, ..self.clone() }
    }

    /// Waits for a turn to sync, detach or attach a table. What is looked at before that may not be so any more.
    pub async fn table_turn(&self) -> Turn {
        Turn::of(&self.shared.tables).await
    }

    /// Waits for a turn to restore a table.
    pub async fn restore_turn(&self) -> Turn {
        Turn::of(&self.shared.restores).await
    }

    /// Executes a statement, however long it takes, as long as the server lives and knows of it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(&self, statement: Statement<'_>) -> Result<(), Error> {
        self.execute_with(statement, &[]).await
    }

    /// The same with settings for this statement.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute_with(&self, statement: Statement<'_>, settings: &[(&str, &str)]) -> Result<(), Error> {
        let (sql, kind, query_id) = (statement.sql(), statement.kind(), self.next_query_id());
        tracing::info!(query_id, sql, "statement");
        let mut query = self.query(&sql, &query_id, &self.own_settings().await?);
        for (name, value) in settings {
            query = query.with_setting(*name, *value);
        }
        let run = async { query.execute().await.map_err(|e| self.error(kind, e)) };
        let outcome = self.watched(kind, &query_id, run).await;
        if let Err(error) = &outcome {
            tracing::info!(query_id, error = error.in_full(), "statement failed");
        }
        outcome
    }

    /// Empties a cache of the whole server. Those who ask for it while it is being emptied for others share the next
    /// time.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn drop_cache(&self, cache: Cache) -> Result<(), Error> {
        let drop = |caches: Vec<Cache>| -> BoxFuture<'_, Result<Vec<(Cache, ())>, Error>> {
            Box::pin(async move {
                for cache in caches {
                    self.execute(Statement::DropCache(cache)).await?;
                }
                Ok(Vec::new())
            })
        };
        self.shared.caches.ask(cache, drop).await.map(|_| ())
    }

    /// All rows of a query; `what` is its name in messages.
    pub(crate) async fn rows<T: RowOwned + RowRead>(&self, what: &'static str, sql: &str) -> Result<Vec<T>, Error> {
        let query_id = self.next_query_id();
        tracing::debug!(query_id, sql, "query");
        let query = self.query(sql, &query_id, &self.own_settings().await?);
        let run = async { query.fetch_all::<T>().await.map_err(|e| self.error(what, e)) };
        in_time(what, bounded::WITHIN, self.watched(what, &query_id, run)).await
    }

    /// The answer to a query of one value, as text.
    pub(crate) async fn text(&self, sql: &'static str) -> Result<String, Error> {
        let own = self.own_settings().await?;
        self.text_with(sql, sql, &own).await
    }

    async fn text_with(&self, what: &'static str, sql: &str, own: &[Setting]) -> Result<String, Error> {
        let query_id = self.next_query_id();
        let query = self.query(sql, &query_id, own);
        let run = async {
            let answer = match query.fetch_bytes("TabSeparatedRaw") {
                Ok(mut bytes) => bytes.collect().await,
                Err(error) => Err(error),
            };
            let bytes = answer.map_err(|e| self.error(what, e))?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        in_time(what, bounded::WITHIN, self.watched(what, &query_id, run)).await
    }

    fn query(&self, sql: &str, query_id: &str, own: &[Setting]) -> clickhouse::query::Query {
        let query = self.client.query_raw(sql).with_setting("query_id", query_id);
        own.iter()
            .fold(query, |query, (name, value)| query.with_setting(*name, *value))
    }

    /// What server there is may have changed, or what its user may do.
    pub(crate) fn ask_settings_anew(&self) {
        self.shared.own.learn(None);
    }

    /// The settings that every statement carries: asked once for each server that is there.
    async fn own_settings(&self) -> Result<Arc<Vec<Setting>>, Error> {
        if let Some(known) = self.shared.own.known() {
            return Ok(known);
        }
        let what = "SELECT FROM system.settings";
        let mut settings = settings::required();
        loop {
            match self.text_with(what, &settings::question(), &settings).await {
                Ok(answer) => {
                    settings.extend(settings::allowed(&answer));
                    break;
                }
                Err(error) if error.code() != Some(code::UNKNOWN_SETTING) => return Err(error),
                Err(error) if settings::without_unknown(&mut settings, &error.in_full()) => {}
                // It is too old for a migration, and for some that others all have.
                Err(_) => {
                    settings.clear();
                    break;
                }
            }
        }
        let settings = Arc::new(settings);
        self.shared.own.learn(Some(Arc::clone(&settings)));
        Ok(settings)
    }

    /// The only row of a query.
    pub(crate) async fn row<T: RowOwned + RowRead>(&self, what: &'static str, sql: &str) -> Result<T, Error> {
        let mut rows = self.rows::<T>(what, sql).await?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(row),
            _ => Err(Error::Answer {
                statement: what,
                source: "one row was expected".into(),
            }),
        }
    }

    fn error(&self, statement: &'static str, error: clickhouse::error::Error) -> Error {
        let error = Error::from_crate(statement, &self.shared.url, error);
        if matches!(error.code(), None | Some(code::UNKNOWN_SETTING)) {
            // The next server that answers may be of another release.
            self.shared.own.learn(None);
        }
        error
    }

    fn next_query_id(&self) -> String {
        format!("{}-{}", self.tag.0, self.number.fetch_add(1, Ordering::Relaxed))
    }
}
