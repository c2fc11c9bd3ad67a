//! Keeps every registration alive.
//!
//! `schedule` decides when the core is asked for which registration, `attempt` is the script of
//! asking once, and `run` is the one task that owns the schedule, runs the attempts and notes how
//! they ended. `Keeper` is how others speak to it.

mod attempt;
mod run;
pub mod schedule;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time;

use crate::domain::{Registration, SubscriberId};
use crate::storage::{Storage, StorageError};

pub(crate) use crate::enrolment::keeper::attempt::Attempts;
pub(crate) use crate::enrolment::keeper::run::Run;

/// Who gave a command waits for its place; the keeper takes them as they come.
const COMMANDS: usize = 256;
/// How long a person waits for a first registration.
const PATIENCE: Duration = Duration::from_secs(4);
/// Longer than any attempt: after this there is none to wait for.
const SETTLED: Duration = Duration::from_secs(90);

/// What the keeper is told.
pub(crate) enum Command {
    /// Asks the core for this registration now. Tells when that has ended, well or not, and is noted.
    Register {
        registration: Registration,
        done: Option<oneshot::Sender<()>>,
    },
    /// Keeps this registration no more: its row is gone.
    Forget { seq: i64 },
    /// Tells when nothing is under way for this subscriber.
    Settle {
        subscriber: SubscriberId,
        done: oneshot::Sender<()>,
    },
}

/// How others speak to the keeper. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Keeper {
    storage: Arc<dyn Storage>,
    commands: mpsc::Sender<Command>,
}

impl Keeper {
    /// A keeper, and where its commands arrive. Where nobody takes them (no core is configured),
    /// they do nothing.
    pub(crate) fn new(storage: Arc<dyn Storage>) -> (Self, mpsc::Receiver<Command>) {
        let (commands, received) = mpsc::channel(COMMANDS);
        (Self { storage, commands }, received)
    }

    /// Asks the core at once, before all others, since a person waits. The registration as it is then,
    /// at the latest after four seconds; `None` where it is gone.
    pub(crate) async fn register_now(
        &self,
        registration: Registration,
    ) -> Result<Option<Registration>, StorageError> {
        let subscriber = registration.subscriber;
        let (done, is_done) = oneshot::channel();
        let command = Command::Register {
            registration,
            done: Some(done),
        };
        // Whether it is done, or takes too long, or nobody does it: the storage tells.
        drop(time::timeout(PATIENCE, self.ask(command, is_done)).await);
        self.storage.registration(subscriber).await
    }

    /// Lets the core be asked now: something has changed that may make it succeed.
    pub(crate) async fn try_now(&self, registration: Registration) {
        let command = Command::Register {
            registration,
            done: None,
        };
        // Where nobody takes it, there is no core to ask.
        drop(self.commands.send(command).await);
    }

    /// Says that a registration is gone from the storage. One that nobody tells of is noticed when
    /// its time comes, and counted until then.
    pub(crate) async fn forget(&self, seq: i64) {
        // Where nobody takes it, nothing is kept.
        drop(self.commands.send(Command::Forget { seq }).await);
    }

    /// Waits until nothing is under way for this subscriber. When his registration has been removed
    /// from the storage before, nothing will be.
    pub(crate) async fn settle(&self, subscriber: SubscriberId) {
        let (done, is_done) = oneshot::channel();
        let command = Command::Settle { subscriber, done };
        drop(time::timeout(SETTLED, self.ask(command, is_done)).await);
    }

    async fn ask(&self, command: Command, is_done: oneshot::Receiver<()>) {
        if self.commands.send(command).await.is_ok() {
            // An error says that the keeper has ended.
            drop(is_done.await);
        }
    }
}
