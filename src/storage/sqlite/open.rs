//! Opens the file: creates it for this user only, and brings its schema up to date.

use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqlSafeStr};
use tokio::time;

use crate::storage::sqlite::record;

/// After a burst of writes the write-ahead log is cut back to this many bytes.
const WAL_SIZE_LIMIT: &str = "67108864";

/// The steps of the schema: version, name, statements.
pub(super) const MIGRATIONS: &[(i64, &str, &str)] = &[
    (
        1,
        "initial",
        include_str!("../../../migrations/0001_initial.sql"),
    ),
    (
        2,
        "enrolment",
        include_str!("../../../migrations/0002_enrolment.sql"),
    ),
    (
        3,
        "audio",
        include_str!("../../../migrations/0003_audio.sql"),
    ),
];

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

/// Opens the file that `url` names, and how to connect to it again; waits for locks up to `lock_deadline`.
pub(super) async fn open(
    url: &str,
    lock_deadline: Duration,
) -> Result<(SqliteConnectOptions, SqliteConnection), OpenError> {
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
    Ok((options, connection))
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
