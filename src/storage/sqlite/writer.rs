//! Everything that writes, one transaction after the other.

use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time;

/// The one connection that writes. It is used again only after a commit that succeeded: whatever else
/// happens (an error that made SQLite roll back by itself, a caller who went away in mid-statement),
/// it is closed, which rolls back, and the next transaction opens another.
#[derive(Debug)]
pub(super) struct Writer {
    lock_deadline: Duration,
    options: SqliteConnectOptions,
    idle: Mutex<Idle>,
}

#[derive(Debug)]
enum Idle {
    Connected(SqliteConnection),
    Disconnected,
    Closed,
}

/// A turn at the connection. Everything done on it is done by [`Transaction::commit`], or else not at
/// all.
pub(super) struct Transaction<'w> {
    writer: MutexGuard<'w, Idle>,
    pub(super) connection: SqliteConnection,
}

impl Writer {
    pub(super) fn new(
        options: SqliteConnectOptions,
        connection: SqliteConnection,
        lock_deadline: Duration,
    ) -> Self {
        Self {
            lock_deadline,
            options,
            idle: Mutex::new(Idle::Connected(connection)),
        }
    }

    /// Waits for its turn, then for the database's write lock, each up to the deadline.
    pub(super) async fn begin(&self) -> Result<Transaction<'_>, sqlx::Error> {
        let mut turn = self.turn().await?;
        turn.start().await?;
        Ok(turn)
    }

    /// Moves the write-ahead log into the database file and empties it. Where somebody is reading
    /// from it, it stays; nobody is waited for.
    pub(super) async fn empty_log(&self) -> Result<(), sqlx::Error> {
        let mut turn = self.turn().await?;
        sqlx::raw_sql("PRAGMA busy_timeout = 0; PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&mut turn.connection)
            .await?;
        let wait = format!("PRAGMA busy_timeout = {}", self.lock_deadline.as_millis());
        sqlx::raw_sql(AssertSqlSafe(wait))
            .execute(&mut turn.connection)
            .await?;
        turn.end();
        Ok(())
    }

    /// Waits for its turn up to the deadline. No transaction is begun yet.
    pub(super) async fn turn(&self) -> Result<Transaction<'_>, sqlx::Error> {
        let turn = time::timeout(self.lock_deadline, self.idle.lock());
        let mut writer = turn.await.map_err(|_| sqlx::Error::PoolTimedOut)?;
        let connection = match std::mem::replace(&mut *writer, Idle::Disconnected) {
            Idle::Connected(connection) => connection,
            Idle::Disconnected => self.options.connect().await?,
            Idle::Closed => {
                *writer = Idle::Closed;
                return Err(sqlx::Error::PoolClosed);
            }
        };
        Ok(Transaction { writer, connection })
    }

    /// Closes after what is under way; nothing begins after it.
    pub(super) async fn close(&self) -> Result<(), sqlx::Error> {
        match std::mem::replace(&mut *self.idle.lock().await, Idle::Closed) {
            Idle::Connected(connection) => connection.close().await,
            Idle::Disconnected | Idle::Closed => Ok(()),
        }
    }
}

impl Transaction<'_> {
    /// Waits for the database's write lock up to the deadline.
    pub(super) async fn start(&mut self) -> Result<(), sqlx::Error> {
        sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.commit_and_stay().await?;
        self.end();
        Ok(())
    }

    /// Commits and keeps its turn, until it ends it.
    pub(super) async fn commit_and_stay(&mut self) -> Result<(), sqlx::Error> {
        sqlx::query("COMMIT").execute(&mut self.connection).await?;
        Ok(())
    }

    /// Gives the connection back, with no transaction on it.
    pub(super) fn end(mut self) {
        *self.writer = Idle::Connected(self.connection);
    }
}
