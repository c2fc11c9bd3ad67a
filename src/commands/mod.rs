//! What the commands do.

pub(crate) mod call;
pub(crate) mod check;
#[cfg(feature = "sandbox")]
pub(crate) mod demo;
#[cfg(feature = "sandbox")]
pub(crate) mod sandbox;
pub(crate) mod subscribers;
pub(crate) mod tokens;

use std::fmt::Display;
use std::io;
use std::io::Write;
#[cfg(feature = "sandbox")]
use std::time::Duration;

use aftertone::config::Config;
use aftertone::domain::{InvalidMsisdn, Msisdn, Subscriber};
use aftertone::storage::Storage;
use aftertone::storage::sqlite::{OpenError, SqliteStorage};
use anyhow::Context;
use rand::TryRng;
use rand::rngs::SysRng;

/// Reads a number from the command line.
fn number(text: &str) -> Result<Msisdn, InvalidMsisdn> {
    Msisdn::parse(text)
}

/// Opens the database, beside a running service or not.
async fn open_storage(config: &Config) -> Result<SqliteStorage, OpenError> {
    SqliteStorage::open(&config.database_url()).await
}

/// The subscriber of a number, or a sentence that there is none.
async fn subscriber_of(storage: &dyn Storage, number: &Msisdn) -> anyhow::Result<Subscriber> {
    storage
        .subscriber_by_number(number)
        .await?
        .with_context(|| {
            let number = number.e164();
            format!("{number} is no subscriber; `aftertone subscribers add {number}` makes it one")
        })
}

/// Says something to whoever reads standard error, if anybody does.
pub(crate) fn say(text: impl Display) {
    drop(write!(io::stderr(), "{text}"));
}

/// How long what runs beside a command has to end when it is asked to.
#[cfg(feature = "sandbox")]
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Bytes of the operating system's generator.
fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    SysRng
        .try_fill_bytes(&mut bytes)
        .context("the operating system gives no random numbers")?;
    Ok(bytes)
}
