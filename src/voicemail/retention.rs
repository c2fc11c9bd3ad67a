//! Deletes what is past its time: messages older than `recording.keep_days`, and recordings whose
//! rows are gone or never were.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::clock::Clock;
use crate::domain::Timestamp;
use crate::storage::blob::{BlobError, Blobs};
use crate::storage::{Storage, StorageError};
use crate::telemetry;

/// Between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Rows per transaction, so that a sweep never keeps a deposit waiting.
const BATCH: u32 = 500;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Why a sweep stopped; the next one goes on.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The recordings' store.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// What a sweep deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Messages, missed calls and other rows.
    pub rows: u64,
    /// Recordings and greetings.
    pub blobs: u64,
}

/// Keeps the retention rule.
pub struct Retention {
    storage: Arc<dyn Storage>,
    blobs: Arc<Blobs>,
    clock: Arc<dyn Clock>,
    keep_days: u32,
}

impl Retention {
    /// Messages are kept `keep_days` days; 0 keeps them for ever.
    pub fn new(
        storage: Arc<dyn Storage>,
        blobs: Arc<Blobs>,
        clock: Arc<dyn Clock>,
        keep_days: u32,
    ) -> Self {
        Self {
            storage,
            blobs,
            clock,
            keep_days,
        }
    }

    /// Sweeps now and then, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            match self.sweep().await {
                Ok(swept) if swept != Swept::default() => {
                    metrics::counter!(telemetry::EXPIRED).increment(swept.rows);
                    info!(
                        rows = swept.rows,
                        blobs = swept.blobs,
                        "Deleted what was past its time"
                    );
                }
                Ok(_) => {}
                Err(error) => error!(
                    error = &error as &dyn std::error::Error,
                    "What is past its time could not be deleted; the next sweep tries again"
                ),
            }
            if stop
                .run_until_cancelled(tokio::time::sleep(SWEEP_EVERY))
                .await
                .is_none()
            {
                return;
            }
        }
    }

    /// Deletes everything that is past its time now.
    pub async fn sweep(&self) -> Result<Swept, SweepError> {
        let now = self.clock.now();
        // Tokens have an end of their own, also where messages have none.
        let before = match self.keep_days {
            0 => Timestamp::from_millis(0),
            days => now.plus_millis(-i64::from(days) * DAY_MS),
        };
        let mut swept = Swept::default();
        loop {
            let rows = self.storage.expire(before, now, BATCH).await?;
            swept.rows += rows;
            if rows < u64::from(BATCH) {
                break;
            }
        }
        swept.blobs = self.delete_blobs(now).await?;
        if self.keep_days > 0 {
            swept.blobs += self.delete_strays(before).await?;
        }
        Ok(swept)
    }

    /// Deletes what is left of days whose messages are all gone. A loss of power between a blob and its
    /// row leaves a recording that no row will ever name.
    async fn delete_strays(&self, before: Timestamp) -> Result<u64, SweepError> {
        let strays = self.blobs.of_days_before(before, BATCH as usize).await?;
        for key in &strays {
            self.blobs.delete(key).await?;
        }
        Ok(strays.len() as u64)
    }

    /// Deletes the recordings and greetings that no row names. One that cannot be deleted does not keep
    /// the others.
    async fn delete_blobs(&self, now: Timestamp) -> Result<u64, SweepError> {
        let mut deleted = 0;
        loop {
            let mut failed = None;
            let before = deleted;
            for key in self.storage.blobs_to_delete(now, BATCH).await? {
                if let Err(error) = self.blobs.delete(&key).await {
                    failed.get_or_insert(error);
                    continue;
                }
                self.storage.blob_deleted(&key).await?;
                deleted += 1;
            }
            match failed {
                Some(error) if deleted == before => return Err(error.into()),
                None if deleted == before => return Ok(deleted),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
