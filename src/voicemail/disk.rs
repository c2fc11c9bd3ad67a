//! The thread on which recordings are written: what runs there may wait for the disk, and holds up no call by it.
//!
//! One thread for all of them: a piece of a recording costs its write and nothing else, while handing each to a pool
//! costs several times as much. A disk that stands still stops all recordings in any case.
//!
//! It works in rounds. When everything is done it sleeps a little before it looks again, whatever comes: what comes
//! meanwhile waits for it, and nobody has to wake a thread for each piece.

use std::io;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(20);

/// The thread, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    handle: Handle,
    _stop: DropGuard,
}

impl Disk {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let mut runtime = Builder::new_current_thread();
        // Who wakes the runtime before it is parked makes no system call.
        let runtime = runtime.on_thread_park(|| thread::sleep(PAUSE)).build()?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        thread::Builder::new()
            .name("spool".into())
            .spawn(move || runtime.block_on(stopped.cancelled()))?;
        Ok(Self {
            handle,
            _stop: stop.drop_guard(),
        })
    }

    /// Where tasks are to be spawned that write.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs `work` there, in the next round.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        match self.handle.spawn(async move { work() }).await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The thread is going away, and this task with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}
