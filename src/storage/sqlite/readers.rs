//! Everything that reads, several at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Semaphore;
use tokio::time;

use crate::storage::sqlite::record::Failure;

/// Connections at most; each is a thread while it is open.
const READERS: u32 = 8;

/// Connections that read. The one that was used last is used next: its pages and statements are at hand. One that was
/// left in the middle, or on which something failed, is not used again.
///
/// A pool of sqlx uses them in turn, and sends each a ping when it is given back: as much to do for its thread, and for
/// ours, as a call's look-up itself.
#[derive(Debug)]
pub(super) struct Readers {
    wait: Duration,
    options: SqliteConnectOptions,
    turns: Semaphore,
    idle: Mutex<Vec<SqliteConnection>>,
}

impl Readers {
    /// Opens one connection, so that the first call does not wait for it. Others wait for a turn up to `wait`.
    pub(super) async fn open(
        options: SqliteConnectOptions,
        wait: Duration,
    ) -> Result<Self, sqlx::Error> {
        let options = options.pragma("query_only", "ON");
        let first = options.connect().await?;
        Ok(Self {
            wait,
            options,
            turns: Semaphore::new(READERS as usize),
            idle: Mutex::new(vec![first]),
        })
    }

    /// Reads with a connection of its own.
    pub(super) async fn read<T>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let turn = time::timeout(self.wait, self.turns.acquire()).await;
        let _turn = turn
            .map_err(|_| sqlx::Error::PoolTimedOut)?
            .map_err(|_| sqlx::Error::PoolClosed)?;
        let idle = self.idle().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        let read = work(&mut connection).await?;
        self.idle().push(connection);
        Ok(read)
    }

    /// Closes after what is under way; nothing begins after it.
    pub(super) async fn close(&self) {
        let turns = self.turns.acquire_many(READERS).await;
        self.turns.close();
        drop(turns);
        let idle = std::mem::take(&mut *self.idle());
        for connection in idle {
            // Nothing was written on it.
            connection.close().await.ok();
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<SqliteConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    async fn cache_size(readers: &Readers) -> i64 {
        let read = readers.read(async |db| {
            let size = sqlx::query_scalar("PRAGMA cache_size");
            Ok(size.fetch_one(db).await?)
        });
        read.await.unwrap()
    }

    async fn opened() -> (tempfile::TempDir, Readers) {
        let dir = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new()
            .filename(dir.path().join("some.db"))
            .create_if_missing(true);
        let wait = Duration::from_millis(200);
        (dir, Readers::open(options, wait).await.unwrap())
    }

    #[tokio::test]
    async fn a_connection_that_was_left_in_the_middle_is_not_used_again() {
        let (_dir, readers) = opened().await;
        let mark = readers.read(async |db| {
            sqlx::raw_sql("PRAGMA cache_size = 77").execute(db).await?;
            Ok(())
        });
        mark.await.unwrap();
        assert_eq!(cache_size(&readers).await, 77);
        let left = readers.read(async |_| std::future::pending::<Result<(), Failure>>().await);
        assert!(left.now_or_never().is_none());
        assert_ne!(cache_size(&readers).await, 77);
    }

    #[tokio::test]
    async fn what_is_under_way_ends_before_the_close_and_nothing_begins_after_it() {
        let (_dir, readers) = opened().await;
        let (end, ended) = tokio::sync::oneshot::channel();
        let under_way = readers.read(async |_| Ok(ended.await.unwrap()));
        let close = async {
            let mut close = std::pin::pin!(readers.close());
            assert!(close.as_mut().now_or_never().is_none());
            end.send(7).unwrap();
            close.await;
        };
        let (read, ()) = tokio::join!(under_way, close);
        assert_eq!(read.unwrap(), 7);
        let late = readers.read(async |_| Ok(())).await;
        assert!(matches!(
            late,
            Err(Failure::Database(sqlx::Error::PoolClosed))
        ));
    }
}
