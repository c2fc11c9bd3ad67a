//! [`Storage`] in one SQLite file: one connection that writes, several that read.
//!
//! Everything that writes goes through one transaction of the one writer, so that within the process
//! nobody waits for a lock but in a fair queue. Other processes (the command line beside a running
//! service) are waited for up to five seconds. What is deleted is overwritten, and leaves the
//! write-ahead log with the next sweep. Here stand the transactions; the statements stand in
//! the modules beside this one, each for its tables.

mod deposits;
mod mailbox;
mod outbox;
mod record;
mod subscribers;
mod tokens;
mod writer;

use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, SqlSafeStr};
use tokio::time;

use crate::domain::{
    ApiToken, Mailbox, Message, MessageId, MissedCall, Msisdn, NewMessage, Subscriber,
    SubscriberId, Timestamp, TokenId,
};
use crate::storage::{
    Added, Changed, Counts, DepositError, Deposited, MessageFilter, NewSubscriber, NewToken,
    Notification, SettingsChange, Storage, StorageError,
};

use deposits::{Deposit, Deposits};
use record::Failure;
use writer::Writer;

/// How long a call waits for a lock that somebody else holds.
const LOCK_DEADLINE: Duration = Duration::from_secs(5);
/// Reading connections; each is a thread while it is open.
const READERS: u32 = 8;
/// After a burst of writes the write-ahead log is cut back to this many bytes.
const WAL_SIZE_LIMIT: &str = "67108864";

/// The steps of the schema: version, name, statements.
const MIGRATIONS: &[(i64, &str, &str)] = &[(
    1,
    "initial",
    include_str!("../../../migrations/0001_initial.sql"),
)];

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL names no SQLite file.
    #[error("database_url {0:?} names no SQLite file: write it as sqlite://path/to/aftertone.db")]
    NotAFile(String),
    /// The file, or the folder it lies in, cannot be created or opened.
    #[error("could not create or open {}: check that its folder may be written", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// SQLite cannot use the file.
    #[error(
        "could not open the database {}: if it is damaged, restore a backup, or move it away to begin anew",
        path.display()
    )]
    Database {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// The file has been used by a later version of the program.
    #[error(
        "the database {} was used by a newer version (its schema has step {step}): \
         install that version again, or restore a backup", path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The step of the schema that is not known here.
        step: i64,
    },
    /// The schema cannot be brought up to date.
    #[error("could not bring the schema of the database {} up to date", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: MigrateError,
    },
}

/// The database of the service in one SQLite file.
#[derive(Debug)]
pub struct SqliteStorage {
    writer: Writer,
    deposits: Deposits,
    readers: SqlitePool,
}

impl SqliteStorage {
    /// Opens the file that `url` names (`sqlite://path`), creates it with its folder where it is not
    /// there (for this user only), and brings its schema up to date.
    pub async fn open(url: &str) -> Result<Self, OpenError> {
        Self::open_waiting(url, LOCK_DEADLINE).await
    }

    /// As [`SqliteStorage::open`], but waits for locks up to `lock_deadline`.
    async fn open_waiting(url: &str, lock_deadline: Duration) -> Result<Self, OpenError> {
        let options = options_of(url).ok_or_else(|| OpenError::NotAFile(url.into()))?;
        let options = options.busy_timeout(lock_deadline);
        let path = options.get_filename().to_path_buf();
        create_file(&path)?;

        let mut connection = connect_first(&options, lock_deadline)
            .await
            .map_err(|source| OpenError::Database {
                path: path.clone(),
                source,
            })?;
        migrate(&mut connection)
            .await
            .map_err(|source| match source {
                MigrateError::VersionMissing(step) => OpenError::Newer { path, step },
                source => OpenError::Schema { path, source },
            })?;

        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(lock_deadline)
            .test_before_acquire(false)
            .connect_lazy_with(options.clone().pragma("query_only", "ON"));
        Ok(Self {
            writer: Writer::new(options, connection, lock_deadline),
            deposits: Deposits::default(),
            readers,
        })
    }

    /// Reads with one of the reading connections.
    async fn read<T>(
        &self,
        attempted: &str,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, Failure>,
    ) -> Result<T, StorageError> {
        let result = async {
            let mut connection = self.readers.acquire().await?;
            work(&mut connection).await
        };
        result
            .await
            .map_err(|failure: Failure| failure.while_trying_to(attempted))
    }

    /// Does `work` in one transaction: all of it or nothing.
    async fn write<T>(
        &self,
        attempted: &str,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, Failure>,
    ) -> Result<T, StorageError> {
        let result = async {
            let mut transaction = self.writer.begin().await?;
            let done = work(&mut transaction.connection).await?;
            transaction.commit().await?;
            Ok(done)
        };
        result
            .await
            .map_err(|failure: Failure| failure.while_trying_to(attempted))
    }

    /// Deposits together with others; `None` where the subscriber is gone.
    async fn store(
        &self,
        attempted: &str,
        deposit: Deposit,
    ) -> Result<Option<Deposited>, StorageError> {
        let stored = self.deposits.store(&self.writer, deposit).await;
        stored.map_err(|failure| failure.while_trying_to(attempted))
    }
}

fn options_of(url: &str) -> Option<SqliteConnectOptions> {
    let name = url.strip_prefix("sqlite:")?;
    let name = name.strip_prefix("//").unwrap_or(name);
    if name.is_empty() || name.starts_with(":memory:") || name.contains("mode=memory") {
        return None;
    }
    let options: SqliteConnectOptions = url.parse().ok()?;
    Some(
        options
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .pragma("journal_size_limit", WAL_SIZE_LIMIT)
            .pragma("secure_delete", "ON")
            .thread_name(|n| format!("sqlite-{n}"))
            .disable_statement_logging(),
    )
}

/// Creates the file, so that only this user may read it: it holds who called whom. SQLite gives the
/// files it puts beside it the same permissions.
fn create_file(path: &Path) -> Result<(), OpenError> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        move |source| OpenError::File { path, source }
    };
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        let mut builder = std::fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(at(folder))?;
    }
    let mut file = std::fs::OpenOptions::new();
    file.read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    file.open(path).map_err(at(path))?;
    let folder = folder.unwrap_or(Path::new("."));
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(at(folder))
}

/// Connects, and waits where another process is doing the same to a new file: for the switch to
/// write-ahead logging SQLite itself does not wait.
async fn connect_first(
    options: &SqliteConnectOptions,
    wait: Duration,
) -> Result<SqliteConnection, sqlx::Error> {
    let deadline = time::Instant::now() + wait;
    loop {
        match options.connect().await {
            Err(error) if record::is_busy(&error) && time::Instant::now() < deadline => {
                time::sleep(Duration::from_millis(10)).await;
            }
            result => return result,
        }
    }
}

/// Applies the steps that are due, in one transaction, so that two processes do not both try.
async fn migrate(connection: &mut SqliteConnection) -> Result<(), MigrateError> {
    let steps = MIGRATIONS.iter().map(|&(version, name, sql)| {
        let sql = sql.into_sql_str();
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    });
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    Migrator::with_migrations(steps.collect())
        .run(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

#[async_trait]
impl Storage for SqliteStorage {
    async fn mailbox_of_first(&self, numbers: &[Msisdn]) -> Result<Option<Mailbox>, StorageError> {
        self.read("find a mailbox", async |db| {
            subscribers::mailbox_of_first(db, numbers).await
        })
        .await
    }

    async fn deposit(&self, message: &NewMessage) -> Result<Deposited, DepositError> {
        let attempted = format!("store message {}", message.id);
        self.store(&attempted, Deposit::Message(message.clone()))
            .await?
            .ok_or(DepositError::NoSubscriber(message.id))
    }

    async fn deposit_missed_call(&self, call: &MissedCall) -> Result<(), DepositError> {
        let attempted = format!("store missed call {}", call.id);
        self.store(&attempted, Deposit::MissedCall(call.clone()))
            .await?
            .map(|_| ())
            .ok_or(DepositError::NoSubscriber(call.id))
    }

    async fn add_subscribers(
        &self,
        subscribers: &[NewSubscriber],
        now: Timestamp,
    ) -> Result<Added, StorageError> {
        self.write("add subscribers", async |db| {
            subscribers::add(db, subscribers, now).await
        })
        .await
    }

    async fn subscriber_by_number(
        &self,
        number: &Msisdn,
    ) -> Result<Option<Subscriber>, StorageError> {
        self.read("find a subscriber", async |db| {
            subscribers::by_number(db, number).await
        })
        .await
    }

    async fn subscriber(&self, id: SubscriberId) -> Result<Option<Subscriber>, StorageError> {
        self.read("find a subscriber", async |db| {
            subscribers::by_id(db, id).await
        })
        .await
    }

    async fn subscribers(
        &self,
        after: Option<&Msisdn>,
        limit: u32,
    ) -> Result<Vec<Subscriber>, StorageError> {
        self.read("list subscribers", async |db| {
            subscribers::list(db, after, limit).await
        })
        .await
    }

    async fn remove_subscriber(
        &self,
        id: SubscriberId,
        now: Timestamp,
    ) -> Result<bool, StorageError> {
        self.write("remove a subscriber", async |db| {
            subscribers::remove(db, id, now).await
        })
        .await
    }

    async fn change_settings(
        &self,
        id: SubscriberId,
        change: &SettingsChange,
    ) -> Result<Option<Subscriber>, StorageError> {
        self.write("change settings", async |db| {
            subscribers::change(db, id, change).await
        })
        .await
    }

    async fn set_greeting(
        &self,
        id: SubscriberId,
        key: Option<&str>,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        self.write("set a greeting", async |db| {
            subscribers::set_greeting(db, id, key, now).await
        })
        .await
    }

    async fn messages(
        &self,
        subscriber: SubscriberId,
        filter: MessageFilter,
    ) -> Result<Vec<Message>, StorageError> {
        self.read("list messages", async |db| {
            mailbox::messages(db, subscriber, filter).await
        })
        .await
    }

    async fn message(
        &self,
        subscriber: SubscriberId,
        id: MessageId,
    ) -> Result<Option<Message>, StorageError> {
        self.read("find a message", async |db| {
            mailbox::message(db, subscriber, id).await
        })
        .await
    }

    async fn mark_read(
        &self,
        subscriber: SubscriberId,
        id: MessageId,
        read: bool,
        if_version: Option<i64>,
    ) -> Result<Changed, StorageError> {
        let attempted = format!("mark message {id}");
        self.write(&attempted, async |db| {
            mailbox::mark_read(db, subscriber, id, read, if_version).await
        })
        .await
    }

    async fn delete_message(
        &self,
        subscriber: SubscriberId,
        id: MessageId,
        now: Timestamp,
    ) -> Result<bool, StorageError> {
        let attempted = format!("delete message {id}");
        self.write(&attempted, async |db| {
            mailbox::delete(db, subscriber, id, now).await
        })
        .await
    }

    async fn counts(&self, subscriber: SubscriberId) -> Result<Counts, StorageError> {
        self.read("count messages", async |db| {
            mailbox::counts(db, subscriber).await
        })
        .await
    }

    async fn missed_calls(
        &self,
        subscriber: SubscriberId,
        after: Option<MessageId>,
        limit: u32,
    ) -> Result<Vec<MissedCall>, StorageError> {
        self.read("list missed calls", async |db| {
            mailbox::missed_calls(db, subscriber, after, limit).await
        })
        .await
    }

    async fn add_token(&self, token: &NewToken) -> Result<(), StorageError> {
        self.write("store a token", async |db| tokens::add(db, token).await)
            .await
    }

    async fn tokens(&self, subscriber: SubscriberId) -> Result<Vec<ApiToken>, StorageError> {
        self.read("list tokens", async |db| tokens::of(db, subscriber).await)
            .await
    }

    async fn revoke_token(
        &self,
        id: TokenId,
        of: Option<SubscriberId>,
    ) -> Result<bool, StorageError> {
        self.write("revoke a token", async |db| {
            tokens::revoke(db, id, of).await
        })
        .await
    }

    async fn subscriber_by_token(
        &self,
        hash: &[u8; 32],
        now: Timestamp,
    ) -> Result<Option<Subscriber>, StorageError> {
        let holder = self
            .read("find the holder of a token", async |db| {
                tokens::holder(db, hash, now).await
            })
            .await?;
        let Some(holder) = holder else {
            return Ok(None);
        };
        if holder.use_to_be_noted {
            let noted = self
                .write("note the use of a token", async |db| {
                    tokens::note_use(db, hash, now).await
                })
                .await;
            if let Err(error) = noted {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "token used, not noted"
                );
            }
        }
        Ok(Some(holder.subscriber))
    }

    async fn notifications_due(&self, limit: u32) -> Result<Vec<Notification>, StorageError> {
        self.read("list notifications", async |db| {
            outbox::due(db, limit).await
        })
        .await
    }

    async fn notification_done(&self, id: i64) -> Result<(), StorageError> {
        self.write("remove a notification", async |db| {
            outbox::done(db, id).await
        })
        .await
    }

    async fn expire(
        &self,
        before: Timestamp,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, StorageError> {
        let expired = self
            .write("delete what is too old", async |db| {
                outbox::expire(db, before, now, limit).await
            })
            .await?;
        if expired < u64::from(limit)
            && let Err(error) = self.writer.empty_log().await
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "write-ahead log not emptied; the next sweep tries again"
            );
        }
        Ok(expired)
    }

    async fn announce_blob(&self, key: &str, due_at: Timestamp) -> Result<(), StorageError> {
        self.write("announce a file", async |db| {
            outbox::queue_blob_deletion(db, key, due_at).await
        })
        .await
    }

    async fn blobs_to_delete(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<String>, StorageError> {
        self.read("list files to delete", async |db| {
            outbox::blobs_to_delete(db, now, limit).await
        })
        .await
    }

    async fn blob_deleted(&self, key: &str) -> Result<(), StorageError> {
        self.write("note a deleted file", async |db| {
            outbox::blob_deleted(db, key).await
        })
        .await
    }

    async fn ping(&self) -> Result<(), StorageError> {
        self.write("write", async |db| outbox::probe_write(db).await)
            .await?;
        self.read("read", async |db| outbox::probe_read(db).await)
            .await
    }

    async fn close(&self) {
        self.readers.close().await;
        if let Err(error) = self.writer.close().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "database not closed cleanly"
            );
        }
    }
}

#[cfg(test)]
mod tests;
