//! The caches of the server, which know parts by their names.

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Failure;

use crate::clickhouse::Cache;
use crate::clickhouse::code::SYNTAX_ERROR;
use crate::steps::{Context, failed};

/// Drops these caches, whatever tables they are of.
pub(in crate::steps) async fn drop_caches(context: &Context, caches: &[Cache], code: Code) -> Result<(), Failure> {
    for cache in caches {
        match context.clickhouse.drop_cache(*cache).await {
            Ok(()) => {}
            // An older server, which does not have this cache.
            Err(error) if matches!(error.code(), Some(SYNTAX_ERROR)) => {}
            Err(error) => return Err(failed(code)(error)),
        }
    }
    Ok(())
}
