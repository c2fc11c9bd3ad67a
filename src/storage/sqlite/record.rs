//! Rows to domain words, with an error that says which column of which row cannot be read.

use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::domain::{Caller, DivertReason, Msisdn, Private, Timestamp};
use crate::storage::StorageError;

/// Why statements failed; it becomes a [`StorageError`] where it is known what they were for.
#[derive(Debug)]
pub(super) enum Failure {
    Database(sqlx::Error),
    Corrupt(String),
}

impl Failure {
    pub(super) fn while_trying_to(self, attempted: &str) -> StorageError {
        match self {
            Self::Database(source) => StorageError::Database {
                attempted: attempted.into(),
                transient: is_transient(&source),
                source,
            },
            Self::Corrupt(what) => StorageError::Corrupt { what },
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// Whether another connection holds the lock.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    result_code(error) == Some(SQLITE_BUSY)
}

/// Whether the same statement may succeed later: the database is locked, full, or out of reach.
fn is_transient(error: &sqlx::Error) -> bool {
    const OUT_OF_REACH: [i32; 9] = [
        SQLITE_BUSY,
        6,  // SQLITE_LOCKED
        7,  // SQLITE_NOMEM
        8,  // SQLITE_READONLY: the disk was mounted so after a fault
        9,  // SQLITE_INTERRUPT
        10, // SQLITE_IOERR
        13, // SQLITE_FULL
        14, // SQLITE_CANTOPEN
        15, // SQLITE_PROTOCOL: a race for the write-ahead log's locks
    ];
    match error {
        sqlx::Error::Database(_) => {
            result_code(error).is_some_and(|code| OUT_OF_REACH.contains(&code))
        }
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

const SQLITE_BUSY: i32 = 5;

/// SQLite's primary result code: the low byte of the extended one that sqlx gives.
fn result_code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<i32>().ok().map(|code| code & 0xff)
}

/// A row of what is called `kind`, read column by column.
pub(super) struct Record<'r> {
    kind: &'static str,
    row: &'r SqliteRow,
}

impl<'r> Record<'r> {
    pub(super) const fn new(kind: &'static str, row: &'r SqliteRow) -> Self {
        Self { kind, row }
    }

    /// What is said of a column that cannot be read; the row is named by its id, never by its contents.
    pub(super) fn corrupt(&self, column: &str) -> Failure {
        let id = match self.row.try_get::<Vec<u8>, _>("id") {
            Ok(id) => id.iter().map(|byte| format!("{byte:02x}")).collect(),
            Err(_) => match self.number_of_row() {
                Some(number) => number.to_string(),
                None => String::from("of unknown id"),
            },
        };
        Failure::Corrupt(format!("{column} of {} {id}", self.kind))
    }

    fn number_of_row(&self) -> Option<i64> {
        let number = self.row.try_get("id").or_else(|_| self.row.try_get("seq"));
        number.ok()
    }

    fn get<T>(&self, column: &str) -> Result<T, Failure>
    where
        T: sqlx::Type<sqlx::Sqlite> + sqlx::Decode<'r, sqlx::Sqlite>,
    {
        self.row.try_get(column).map_err(|_| self.corrupt(column))
    }

    pub(super) fn bytes<const N: usize>(&self, column: &str) -> Result<[u8; N], Failure> {
        let bytes: &[u8] = self.get(column)?;
        bytes.try_into().map_err(|_| self.corrupt(column))
    }

    pub(super) fn blob(&self, column: &str) -> Result<Vec<u8>, Failure> {
        self.get(column)
    }

    pub(super) fn optional_blob(&self, column: &str) -> Result<Option<Vec<u8>>, Failure> {
        self.get(column)
    }

    pub(super) fn text(&self, column: &str) -> Result<String, Failure> {
        self.get(column)
    }

    pub(super) fn optional_text(&self, column: &str) -> Result<Option<String>, Failure> {
        self.get(column)
    }

    pub(super) fn integer<T: TryFrom<i64>>(&self, column: &str) -> Result<T, Failure> {
        T::try_from(self.get(column)?).map_err(|_| self.corrupt(column))
    }

    pub(super) fn optional_integer<T: TryFrom<i64>>(
        &self,
        column: &str,
    ) -> Result<Option<T>, Failure> {
        let value: Option<i64> = self.get(column)?;
        value
            .map(T::try_from)
            .transpose()
            .map_err(|_| self.corrupt(column))
    }

    /// A column that holds JSON.
    pub(super) fn json<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>, Failure> {
        let text: Option<&str> = self.get(column)?;
        text.map(serde_json::from_str)
            .transpose()
            .map_err(|_| self.corrupt(column))
    }

    pub(super) fn flag(&self, column: &str) -> Result<bool, Failure> {
        self.get(column)
    }

    pub(super) fn time(&self, column: &str) -> Result<Timestamp, Failure> {
        self.get(column).map(Timestamp::from_millis)
    }

    pub(super) fn optional_time(&self, column: &str) -> Result<Option<Timestamp>, Failure> {
        let ms: Option<i64> = self.get(column)?;
        Ok(ms.map(Timestamp::from_millis))
    }

    pub(super) fn number(&self, column: &str) -> Result<Msisdn, Failure> {
        Msisdn::parse(self.get(column)?).map_err(|_| self.corrupt(column))
    }

    /// The columns `caller_number` and `caller_name`.
    pub(super) fn caller(&self) -> Result<Caller, Failure> {
        let number: Option<&str> = self.get("caller_number")?;
        let number = number.map(Msisdn::parse).transpose();
        Ok(Caller {
            number: number.map_err(|_| self.corrupt("caller_number"))?,
            name: self.optional_text("caller_name")?.map(Private),
        })
    }

    /// The column `reason`.
    pub(super) fn reason(&self) -> Result<DivertReason, Failure> {
        DivertReason::from_name(self.get("reason")?).ok_or_else(|| self.corrupt("reason"))
    }
}
