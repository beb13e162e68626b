//! The coordinator's program: store, agents, driver and services put together.

use std::future::Future;
use std::sync::Arc;

use anyhow::Context as _;
use rekeeper_shared::domain::step::SeenToken;
use rekeeper_tls::{Refusals, Security};
use tokio::net::TcpListener;

use crate::agents;
use crate::config::Config;
use crate::driver::Driver;
use crate::grpc::{Guarded, OperatorService};
use crate::limits::{Budget, Calls, Measured};
use crate::operations::Operations;
use crate::store::{SqliteStore, Store as _};

/// Serves on a bound listener until `shutdown` resolves.
///
/// # Errors
/// When the store cannot be opened or read, and when it fails later: the program must end then.
pub async fn run(config: Config, listener: TcpListener, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let data_dir = config.data_dir.clone();
    let (store, opened) = tokio::task::spawn_blocking(move || SqliteStore::open(&data_dir))
        .await
        .context("opening the store")??;
    let store = Arc::new(store);
    let own = SeenToken {
        token: opened.token,
        run: opened.run,
    };
    let with_tls = matches!(config.security, Security::Tls(_));
    tracing::info!(listen = %listener.local_addr()?, token = own.token, data_dir = %config.data_dir.display(), tls = with_tls, "coordinator started");
    let (service, handle, heard) = agents::new(own, opened.past, Budget::new(config.limits));
    let driver = Driver::load(Arc::clone(&store), handle.clone()).await?;
    let (operator, requests) = driver.handle();
    let driver = driver.run(heard, requests);
    let refusals = Refusals::default();
    let service_of_people = OperatorService::new(Operations::new(operator, handle.clone(), store), refusals.clone());
    let budget = service.budget();
    let server = agents::server_builder()
        .add_service(service.into_server())
        .add_service(Guarded::new(Measured::new(service_of_people, Calls::OfPeople, budget)))
        .serve_with_incoming(rekeeper_tls::incoming(
            listener,
            config.security,
            config.limits.admission(),
            refusals,
        ));
    tokio::select! {
        ended = driver => ended.context("the store failed: what cannot be written down is not done")?,
        served = server => served.context("serving")?,
        () = shutdown => {
            tracing::info!("coordinator stops");
            handle.close_all();
        }
    }
    Ok(())
}
