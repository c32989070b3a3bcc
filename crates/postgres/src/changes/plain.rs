//! A plain connection beside the stream: not of the pool, which others may have used up.

use std::{future::Future, time::Duration};

use sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgConnection},
};
use tokio::time::timeout;

use crate::fault;

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Opens plain connections.
#[derive(Clone)]
pub(crate) struct Plain {
    connect: PgConnectOptions,
}

impl Plain {
    /// By the same URL as the pool.
    pub(crate) fn new(connect: &PgConnectOptions) -> Self {
        let connect = connect.clone().options([
            // On our disk, and not on a standby's: the server may count our own stream as a standby, and would wait for us.
            ("synchronous_commit", "local"),
            ("default_transaction_isolation", "read committed"),
            ("idle_session_timeout", "0"),
        ]);
        Self { connect }
    }

    /// One connection.
    pub(crate) async fn connect(&self) -> sqlx::Result<PgConnection> {
        bounded(CONNECT_LIMIT, self.connect.connect()).await
    }
}

/// `call` within `limit`.
pub(crate) async fn bounded<T>(
    limit: Duration,
    call: impl Future<Output = sqlx::Result<T>>,
) -> sqlx::Result<T> {
    timeout(limit, call).await.unwrap_or_else(|_elapsed| Err(fault::no_answer()))
}
