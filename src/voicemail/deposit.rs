//! From the spool to the mailbox: blob, then message and outbox row in one transaction, then the
//! spool file is released. Each step may be repeated, so a crash after any of them loses and doubles
//! nothing; what could not be deposited is made durable in the spool, stays there and is tried again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use crate::domain::{MissedCall, NewMessage, StoredAudio};
use crate::media::Chunk;
use crate::storage::blob::{BlobError, Blobs};
use crate::storage::{DepositError, Storage};
use crate::telemetry;
use crate::voicemail::disk::Disk;
use crate::voicemail::spool::{
    self, FinishedSpool, MissedCause, Spool, SpoolDir, SpoolEnd, SpoolError, SpoolFacts,
};

/// Files that are written at once; more wait. No processor is faster with more.
const WRITERS: usize = 4;
/// Files that are written or wait for the disk at once. What waits together shares its syncs.
const STORED_TOGETHER: usize = 32;
/// Between two tries to deposit what is left in the spool.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What became of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It is a message in the mailbox.
    Message,
    /// It held too little speech, and is remembered as a missed call.
    MissedCall,
    /// The subscriber is gone, and the recording with him.
    Nothing,
}

/// Why a recording stays in the spool for now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DepositFailed {
    /// The spool file.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The call's task broke off.
    #[error("its call broke off")]
    BrokenOff,
    /// The recordings' store.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The database.
    #[error(transparent)]
    Storage(#[from] DepositError),
}

impl DepositFailed {
    /// Whether every other recording would fail for the same reason.
    fn concerns_all(&self) -> bool {
        match self {
            Self::Storage(DepositError::Storage(error)) => error.is_transient(),
            Self::Blob(error) => error.is_disk_full(),
            _ => false,
        }
    }
}

/// Takes recordings in and deposits them.
pub(crate) struct Deposits {
    storage: Arc<dyn Storage>,
    blobs: Arc<Blobs>,
    dir: Arc<SpoolDir>,
    least_recording: Duration,
    writers: Arc<Semaphore>,
    stored_together: Semaphore,
    disk: Disk,
    /// Spool files to be tried again, and whether the log has told why.
    waiting: Mutex<BTreeMap<PathBuf, bool>>,
    retry: Notify,
    retry_after: Duration,
}

/// A recording being taken by a running call.
pub(crate) struct Taking {
    spool: Option<Spool>,
    ticks: u64,
    deposits: Arc<Deposits>,
}

impl Deposits {
    /// What an earlier run left in the spool waits for [`Deposits::keep_trying`]; of that, a recording
    /// that a crash cut off before `least_recording` becomes a missed call.
    pub(crate) fn open(
        dir: SpoolDir,
        least_recording: Duration,
        storage: Arc<dyn Storage>,
        blobs: Arc<Blobs>,
    ) -> Result<Arc<Self>, SpoolError> {
        let left: BTreeMap<_, _> = dir.list()?.into_iter().map(|path| (path, false)).collect();
        if !left.is_empty() {
            info!(
                recordings = left.len(),
                "An earlier run left recordings; they are deposited"
            );
        }
        Ok(Arc::new(Self {
            storage,
            blobs,
            dir: Arc::new(dir),
            least_recording,
            writers: Arc::new(Semaphore::new(WRITERS)),
            stored_together: Semaphore::new(STORED_TOGETHER),
            disk: Disk::start().map_err(SpoolError::Thread)?,
            waiting: Mutex::new(left),
            retry: Notify::new(),
            retry_after: RETRY_AFTER,
        }))
    }

    /// Opens a spool file for a message. After this the disk has room for a recording.
    pub(crate) async fn begin(self: &Arc<Self>, facts: SpoolFacts) -> Result<Taking, SpoolError> {
        let deposits = Arc::clone(self);
        // The caller is waiting: not where others write. Made where the file is, so that no file is
        // forgotten when nobody waits for it any more.
        let create = move || {
            let spool = deposits.dir.create(&facts)?;
            Ok(Taking {
                spool: Some(spool),
                ticks: 0,
                deposits,
            })
        };
        blocking(create).await
    }

    /// Where recordings are written.
    pub(crate) fn disk(&self) -> &Handle {
        self.disk.handle()
    }

    /// Whether the disk has room for recordings.
    pub(crate) fn check_room(&self) -> Result<(), SpoolError> {
        self.dir.check_room()
    }

    /// Recordings that wait in the spool for the disk or the database.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().len()
    }

    /// Deposits what waits in the spool, again and again where it fails, until `stop`.
    pub(crate) async fn keep_trying(self: Arc<Self>, stop: CancellationToken) {
        loop {
            // Giving up in the middle is as good as a crash: nothing is lost.
            if stop.run_until_cancelled(self.try_all()).await.is_none() {
                return;
            }
            let pause = async {
                if self.waiting() == 0 {
                    self.retry.notified().await;
                }
                tokio::time::sleep(self.retry_after).await;
            };
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// Tries everything that waits once.
    pub(crate) async fn try_all(&self) {
        let paths: Vec<_> = self.lock().keys().cloned().collect();
        for path in paths {
            let opened = {
                let path = path.clone();
                blocking(move || FinishedSpool::open(&path)).await
            };
            let failed = match opened {
                Ok(finished) => self.deposit(finished).await.err(),
                Err(failed) => self.cannot_open(&path, failed),
            };
            if failed.is_some_and(|failed| failed.concerns_all()) {
                return;
            }
        }
    }

    fn cannot_open(&self, path: &Path, failed: SpoolError) -> Option<DepositFailed> {
        match failed {
            // Trying again would not make it one.
            SpoolError::NotASpoolFile { .. } => {
                error!("{failed}");
                self.is_done(path);
                None
            }
            SpoolError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                error!(
                    "The recording {} has been taken away from the spool",
                    path.display()
                );
                self.is_done(path);
                None
            }
            failed => {
                let failed = failed.into();
                self.waits(path, &failed);
                Some(failed)
            }
        }
    }

    /// Makes a message of a finished recording. On an error it stays in the spool, durably, and the
    /// error has been logged, once; [`Deposits::keep_trying`] tries again.
    pub(crate) async fn deposit(&self, finished: FinishedSpool) -> Result<Kept, DepositFailed> {
        let path = finished.path.clone();
        let began = Instant::now();
        match self.try_deposit(finished).await {
            Ok(kept) => {
                metrics::histogram!(telemetry::DEPOSIT_TIME).record(began.elapsed());
                metrics::counter!(telemetry::DEPOSITS, "result" => kept.as_str()).increment(1);
                self.is_done(&path);
                Ok(kept)
            }
            Err(failed) => {
                self.stays(&path, &failed).await;
                Err(failed)
            }
        }
    }

    async fn try_deposit(&self, finished: FinishedSpool) -> Result<Kept, DepositFailed> {
        let kept = match self.missed(&finished) {
            _ if finished.was_found && self.is_message(&finished.facts).await? => Kept::Message,
            Some(cause) => self.keep_missed_call(&finished, cause).await?,
            None => self.keep_message(&finished).await?,
        };
        let dir = Arc::clone(&self.dir);
        self.disk.run(move || dir.release(&finished)).await?;
        Ok(kept)
    }

    /// Whether the message is there already. Then its recording is not made again: the spool is not
    /// synced, and a loss of power may have left less of it there than was kept.
    async fn is_message(&self, facts: &SpoolFacts) -> Result<bool, DepositError> {
        let message = self.storage.message(facts.subscriber, facts.id).await?;
        Ok(message.is_some())
    }

    /// A call that ended in order has decided; after a crash the length of the file decides.
    fn missed(&self, finished: &FinishedSpool) -> Option<MissedCause> {
        let too_short = finished.duration() < self.least_recording;
        match finished.end.ticks {
            _ if finished.end.missed.is_some() => finished.end.missed,
            0 if finished.was_finished => Some(MissedCause::TooShort),
            0 => Some(MissedCause::Interrupted),
            _ => (!finished.was_finished && too_short).then_some(MissedCause::TooShort),
        }
    }

    async fn keep_message(&self, finished: &FinishedSpool) -> Result<Kept, DepositFailed> {
        let facts = finished.facts.clone();
        let audio = self.put_recording(finished).await?;
        let message = NewMessage {
            id: facts.id,
            subscriber: facts.subscriber,
            to: facts.to,
            caller: facts.caller,
            reason: facts.reason,
            received_at: facts.received_at,
            audio,
            ended_by: finished.end.ended_by,
            setup: finished.end.setup,
        };
        match self.storage.deposit(&message).await {
            Ok(_) => Ok(Kept::Message),
            Err(DepositError::NoSubscriber(_)) => Ok(Kept::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a durable file of the recording.
    async fn put_recording(&self, finished: &FinishedSpool) -> Result<StoredAudio, DepositFailed> {
        const NEVER_CLOSED: &str = "the semaphore is never closed";
        let _stored = self.stored_together.acquire().await.expect(NEVER_CLOSED);
        let writers = Arc::clone(&self.writers);
        let writer = writers.acquire_owned().await.expect(NEVER_CLOSED);
        let (recording, blobs) = (finished.clone(), Arc::clone(&self.blobs));
        let put = move || {
            let id = recording.facts.id;
            let mut staged = blobs.stage(id)?;
            let audio = recording.write_original(&mut staged)?;
            drop(writer);
            blobs.keep(staged, id, audio.format)?;
            Ok(audio)
        };
        blocking(put).await
    }

    async fn keep_missed_call(
        &self,
        finished: &FinishedSpool,
        cause: MissedCause,
    ) -> Result<Kept, DepositFailed> {
        let facts = finished.facts.clone();
        let call = MissedCall {
            id: facts.id,
            subscriber: facts.subscriber,
            caller: facts.caller,
            reason: facts.reason,
            received_at: facts.received_at,
            cause: cause.as_str().to_owned(),
            failed_stage: finished.end.failed_stage,
        };
        match self.storage.deposit_missed_call(&call).await {
            Ok(()) => Ok(Kept::MissedCall),
            Err(DepositError::NoSubscriber(_)) => Ok(Kept::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// The recording has to be tried again, and to outlive a loss of power until then.
    async fn stays(&self, path: &Path, failed: &DepositFailed) {
        self.waits(path, failed);
        let spooled = path.to_owned();
        if let Err(error) = blocking(move || spool::sync(&spooled)).await {
            let error = &error as &dyn std::error::Error;
            debug!(error, "The recording {} cannot be synced", path.display());
        }
    }

    /// The recording has to be tried again. The log tells why the first time only.
    fn waits(&self, path: &Path, failed: &DepositFailed) {
        let mut waiting = self.lock();
        let told = waiting.insert(path.to_owned(), true).unwrap_or(false);
        metrics::gauge!(telemetry::SPOOL_WAITING).set(waiting.len() as f64);
        drop(waiting);
        self.retry.notify_one();
        let recording = path.display();
        let error = failed as &dyn std::error::Error;
        if told {
            debug!(error, "The recording {recording} still waits");
        } else {
            metrics::counter!(telemetry::DEPOSITS, "result" => "waiting").increment(1);
            error!(
                error,
                "The recording {recording} waits in the spool until the cause is gone"
            );
        }
    }

    /// The recording is out of the spool.
    fn is_done(&self, path: &Path) {
        let mut waiting = self.lock();
        if waiting.remove(path).is_some() {
            metrics::gauge!(telemetry::SPOOL_WAITING).set(waiting.len() as f64);
            if waiting.is_empty() {
                info!("No recording waits in the spool any more");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, bool>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::MissedCall => "missed-call",
            Self::Nothing => "subscriber-gone",
        }
    }
}

impl Taking {
    /// Appends a piece of the recording; it may wait for the disk.
    pub(crate) fn append(&mut self, chunk: &Chunk) -> Result<(), SpoolError> {
        if let Some(spool) = &mut self.spool {
            spool.append(&chunk.bytes)?;
            self.ticks = chunk.ticks;
        }
        Ok(())
    }

    /// How long what has been appended is, in ticks.
    pub(crate) fn ticks(&self) -> u64 {
        self.ticks
    }

    /// Ends the recording and deposits it.
    pub(crate) async fn deposit(mut self, end: SpoolEnd) -> Result<Kept, DepositFailed> {
        let Some(spool) = self.spool.take() else {
            return Ok(Kept::Nothing);
        };
        let path = spool.path().to_owned();
        match self.deposits.disk.run(move || spool.finish(end)).await {
            Ok(finished) => self.deposits.deposit(finished).await,
            Err(failed) => {
                let failed = failed.into();
                self.deposits.stays(&path, &failed).await;
                Err(failed)
            }
        }
    }
}

impl Drop for Taking {
    /// A call that ends in any other way leaves its recording as a crash does.
    fn drop(&mut self) {
        if let Some(spool) = self.spool.take() {
            self.deposits.waits(spool.path(), &DepositFailed::BrokenOff);
        }
    }
}

/// Runs `work` where it may wait for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going away, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests;
