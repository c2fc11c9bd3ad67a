//! Whether the service can take calls and serve its subscribers now, and if not, why.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use serde::Serialize;

use crate::http::problem::chain;
use crate::storage::Storage;
use crate::storage::blob::Blobs;

/// A check that takes longer has failed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

type Check = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Collects what is checked when somebody asks ([`Readiness::of_storage`]) and what others report
/// on their own ([`Readiness::report`]). Cheap to clone.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Inner>);

#[derive(Default)]
struct Inner {
    checks: Vec<(&'static str, Check)>,
    reported: Mutex<BTreeMap<&'static str, Result<(), String>>>,
}

/// What is known at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether every check passed.
    pub ready: bool,
    /// The checks, one by one.
    pub checks: Vec<CheckResult>,
}

/// How one check went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// What was checked: `database`.
    pub name: &'static str,
    /// Whether it passed.
    pub ok: bool,
    /// What is wrong, in plain words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Readiness {
    /// Ready, as long as the database and the store of recordings can be written.
    pub fn of_storage(storage: Arc<dyn Storage>, blobs: Arc<Blobs>) -> Self {
        let mut inner = Inner::default();
        inner.checks.push((
            "database",
            Box::new(move || {
                let storage = Arc::clone(&storage);
                Box::pin(async move { storage.ping().await.map_err(|error| chain(&error)) })
            }),
        ));
        inner.checks.push((
            "recordings",
            Box::new(move || {
                let blobs = Arc::clone(&blobs);
                Box::pin(async move { blobs.ping().await.map_err(|error| chain(&error)) })
            }),
        ));
        Self(Arc::new(inner))
    }

    /// Asks `check` as well. To be added before the first clone is made.
    #[must_use]
    pub fn and(
        mut self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        let inner = Arc::get_mut(&mut self.0).expect("nobody shares it yet");
        inner.checks.push((
            name,
            Box::new(move || Box::pin(std::future::ready(check()))),
        ));
        self
    }

    /// Keeps what is known of `name` until the next report: `Ok`, or what is wrong in plain words.
    pub fn report(&self, name: &'static str, state: Result<(), impl Display>) {
        let state = state.map_err(|error| error.to_string());
        self.lock().insert(name, state);
    }

    /// Not ready from now on: running calls are finished, new ones go elsewhere.
    pub fn set_draining(&self) {
        self.report(
            "drain",
            Err("the service is stopping and takes no new calls"),
        );
    }

    /// Asks every check, all at once.
    pub async fn ask(&self) -> Report {
        let asked = self.0.checks.iter().map(|(name, check)| async move {
            let answer = tokio::time::timeout(CHECK_TIMEOUT, check()).await;
            let too_late = || {
                Err(format!(
                    "no answer within {} seconds",
                    CHECK_TIMEOUT.as_secs()
                ))
            };
            CheckResult::new(name, answer.unwrap_or_else(|_| too_late()))
        });
        let mut checks = join_all(asked).await;
        let reported = self.lock().clone();
        checks.extend(
            reported
                .into_iter()
                .map(|(name, state)| CheckResult::new(name, state)),
        );
        Report {
            ready: checks.iter().all(|check| check.ok),
            checks,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Result<(), String>>> {
        let reported = self.0.reported.lock();
        reported.unwrap_or_else(PoisonError::into_inner)
    }
}

impl CheckResult {
    fn new(name: &'static str, state: Result<(), String>) -> Self {
        Self {
            name,
            ok: state.is_ok(),
            error: state.err(),
        }
    }
}
