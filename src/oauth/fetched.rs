//! A value from the identity server that is kept for a while and fetched by one caller at a time.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use crate::oauth::error::Error;

/// The cache of one value. Whoever comes while it is being fetched waits and shares the outcome,
/// also a failure: a server in trouble gets one request, not one for each who waits.
#[derive(Debug)]
pub(crate) struct Fetched<T> {
    slot: Mutex<Slot<T>>,
    /// Fetches that have ended.
    rounds: AtomicU64,
}

#[derive(Debug)]
struct Slot<T> {
    value: Option<T>,
    failure: Option<Error>,
}

impl<T: Clone> Fetched<T> {
    pub(crate) const fn new() -> Self {
        Self {
            slot: Mutex::const_new(Slot {
                value: None,
                failure: None,
            }),
            rounds: AtomicU64::new(0),
        }
    }

    /// The value that is there if it is `fresh`, else a fetched one. Where fetching fails, the old
    /// value serves as long as it is `usable`.
    pub(crate) async fn get<F>(
        &self,
        fresh: impl Fn(&T) -> bool,
        usable: impl Fn(&T) -> bool,
        fetch: impl FnOnce() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let round = self.rounds.load(Ordering::Acquire);
        let mut slot = self.slot.lock().await;
        if let Some(value) = slot.value.as_ref().filter(|value| fresh(value)) {
            return Ok(value.clone());
        }
        if self.rounds.load(Ordering::Acquire) != round {
            // Somebody else's fetch ended while this caller waited.
            match (&slot.failure, &slot.value) {
                (None, Some(value)) => return Ok(value.clone()),
                (Some(_), Some(value)) if usable(value) => return Ok(value.clone()),
                (Some(error), _) => return Err(error.clone()),
                (None, None) => {}
            }
        }
        let fetched = fetch().await;
        self.rounds.fetch_add(1, Ordering::Release);
        match fetched {
            Ok(value) => {
                slot.failure = None;
                slot.value = Some(value.clone());
                Ok(value)
            }
            Err(error) => {
                slot.failure = Some(error.clone());
                let old = slot.value.as_ref().filter(|value| usable(value));
                old.cloned().ok_or(error)
            }
        }
    }

    /// Forgets the value where `is_it` says so.
    pub(crate) async fn forget(&self, is_it: impl Fn(&T) -> bool) {
        let mut slot = self.slot.lock().await;
        if slot.value.as_ref().is_some_and(is_it) {
            slot.value = None;
        }
    }
}
