//! The service itself: takes calls, keeps messages.
//!
//! [`Voicemail::run`] spawns one task per incoming call; `call::take_call` is its script.

pub use crate::voicemail::prompts::GreetingConfig;
pub use crate::voicemail::spool::{SpoolDir, SpoolError};

pub mod call;
pub(crate) mod conversation;
pub(crate) mod deposit;
pub(crate) mod disk;
pub mod facts;
pub mod policy;
pub mod prompts;
pub mod retention;
pub(crate) mod spool;
pub(crate) mod stages;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use rand::distr::{Distribution, StandardUniform};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info, info_span, warn};

use crate::clock::Clock;
use crate::media::Engine;
use crate::media::sdp::Preferences;
use crate::sip::IncomingCall;
use crate::sip::message::HeaderValue;
use crate::storage::Storage;
use crate::storage::blob::Blobs;
use crate::telemetry;
use crate::voicemail::call::{CallOutcome, take_call};
use crate::voicemail::deposit::Deposits;
use crate::voicemail::facts::Numbering;
use crate::voicemail::policy::RecordingConfig;
use crate::voicemail::prompts::Prompts;

/// What every call shares.
pub(crate) struct Service {
    pub(crate) recording: RecordingConfig,
    pub(crate) numbering: Numbering,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) engine: Engine,
    pub(crate) preferences: Preferences,
    pub(crate) prompts: Arc<Prompts>,
    pub(crate) deposits: Arc<Deposits>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: TaskTracker,
    chance: Mutex<StdRng>,
}

impl Service {
    /// A random value.
    pub(crate) fn random<T>(&self) -> T
    where
        StandardUniform: Distribution<T>,
    {
        self.chance
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .random()
    }
}

/// What the service is made of.
pub struct Parts {
    /// Rules of a recording.
    pub recording: RecordingConfig,
    /// How called and calling numbers are read.
    pub numbering: Numbering,
    /// Where recordings are taken before they are deposited.
    pub spool: SpoolDir,
    /// The database.
    pub storage: Arc<dyn Storage>,
    /// The recordings.
    pub blobs: Arc<Blobs>,
    /// The media workers.
    pub engine: Engine,
    /// What media are agreed on with callers.
    pub preferences: Preferences,
    /// What callers hear.
    pub prompts: Arc<Prompts>,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// Owner of the calls.
    pub tasks: TaskTracker,
    /// Seed of message ids.
    pub seed: [u8; 32],
}

/// The voicemail service: a handle to what its calls share.
#[derive(Clone)]
pub struct Voicemail {
    service: Arc<Service>,
}

impl Voicemail {
    /// Puts the parts together, and begins to deposit what an earlier run left in the spool.
    /// What goes on beside the calls runs in `tasks` until `stop`.
    pub fn start(
        parts: Parts,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, SpoolError> {
        let least = Duration::from_secs(parts.recording.min_seconds.into());
        let deposits = Deposits::open(
            parts.spool,
            least,
            Arc::clone(&parts.storage),
            Arc::clone(&parts.blobs),
        )?;
        tasks.spawn(Arc::clone(&deposits).keep_trying(stop.clone()));
        let service = Arc::new(Service {
            recording: parts.recording,
            numbering: parts.numbering,
            storage: parts.storage,
            blobs: parts.blobs,
            engine: parts.engine,
            preferences: parts.preferences,
            prompts: parts.prompts,
            deposits,
            clock: parts.clock,
            tasks: parts.tasks,
            chance: Mutex::new(StdRng::from_seed(parts.seed)),
        });
        Ok(Self { service })
    }

    /// Takes calls until `calls` ends. Each call runs in its own task; `hard_stop` ends them.
    pub async fn run(self, mut calls: mpsc::Receiver<IncomingCall>, hard_stop: CancellationToken) {
        while let Some(incoming) = calls.recv().await {
            let span = info_span!(
                "call",
                sip.call_id = %incoming.request().headers.call_id().map(HeaderValue::to_str_lossy).unwrap_or_default(),
                message.id = tracing::field::Empty,
                rule = tracing::field::Empty,
                error = tracing::field::Empty,
                answered_ms = tracing::field::Empty,
                ice_ms = tracing::field::Empty,
                dtls_ms = tracing::field::Empty,
                first_rtp_in_ms = tracing::field::Empty,
                first_rtp_out_ms = tracing::field::Empty,
                failed_stage = tracing::field::Empty,
            );
            let service = Arc::clone(&self.service);
            let stop = hard_stop.child_token();
            // Boxed, since a task that waits for another holds what that was made of twice.
            let call = Box::pin(take_call(incoming, service, stop));
            self.service.tasks.spawn(report(call).instrument(span));
        }
    }

    /// Whether messages can be kept and deposited now; else why not, in plain words.
    pub fn check(&self) -> Result<(), String> {
        let deposits = &self.service.deposits;
        let room = deposits.check_room().err().map(|error| error.to_string());
        let waiting = match deposits.waiting() {
            0 => None,
            1 => Some("1 recording waits for the disk or the database, and is tried again".into()),
            n => Some(format!(
                "{n} recordings wait for the disk or the database, and are tried again"
            )),
        };
        match room.into_iter().chain(waiting).collect::<Vec<_>>() {
            wrong if wrong.is_empty() => Ok(()),
            wrong => Err(wrong.join("; ")),
        }
    }
}

/// The one place where a call's outcome is logged and counted.
async fn report(call: impl Future<Output = CallOutcome> + Unpin) {
    let started = Instant::now();
    metrics::gauge!(telemetry::CALLS_NOW).increment(1);
    let outcome = AssertUnwindSafe(call).catch_unwind().await;
    metrics::gauge!(telemetry::CALLS_NOW).decrement(1);
    // The panic hook has told where it was.
    let outcome = outcome.unwrap_or(CallOutcome::Failed("defect"));
    let (class, reason) = outcome.labels();
    metrics::counter!(telemetry::CALLS, "outcome" => class, "reason" => reason).increment(1);
    let seconds = started.elapsed().as_secs();
    if outcome.is_fault() {
        warn!(outcome = class, reason, seconds, "The call ended");
    } else {
        info!(outcome = class, reason, seconds, "The call ended");
    }
}
