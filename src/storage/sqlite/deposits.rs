//! Deposits that come at the same time share one transaction, and with it one wait for the disk.
//!
//! Whoever has the writer's turn does the deposits of all who wait, and tells them when the commit has
//! succeeded. If anything fails, all of it is undone, and each is done again in a transaction of its
//! own, so that nobody's deposit fails by another's.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::sqlite::SqliteConnection;
use tokio::sync::oneshot;

use crate::domain::{MissedCall, NewMessage};
use crate::storage::Deposited;
use crate::storage::sqlite::mailbox;
use crate::storage::sqlite::record::Failure;
use crate::storage::sqlite::writer::{Transaction, Writer};

/// Deposits in one transaction; more wait for the next, so that other writers have their turn.
const TOGETHER: usize = 256;

/// What is deposited.
#[derive(Debug, Clone)]
pub(super) enum Deposit {
    Message(NewMessage),
    MissedCall(MissedCall),
}

/// The deposits that wait for the writer. There are no more of them than calls.
#[derive(Debug, Default)]
pub(super) struct Deposits {
    waiting: Mutex<Vec<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    deposit: Deposit,
    done: oneshot::Sender<Option<Deposited>>,
}

impl Deposit {
    /// `None` where the subscriber is gone.
    async fn store(&self, db: &mut SqliteConnection) -> Result<Option<Deposited>, Failure> {
        match self {
            Self::Message(message) => mailbox::deposit(db, message).await,
            Self::MissedCall(call) => {
                let subscriber_there = mailbox::deposit_missed_call(db, call).await?;
                Ok(subscriber_there.then_some(Deposited::Stored))
            }
        }
    }
}

impl Deposits {
    /// Stores the deposit durably, with others that wait; `None` where the subscriber is gone.
    pub(super) async fn store(
        &self,
        writer: &Writer,
        deposit: Deposit,
    ) -> Result<Option<Deposited>, Failure> {
        let (done, mut stored) = oneshot::channel();
        self.lock().push(Waiting {
            deposit: deposit.clone(),
            done,
        });
        // Nobody is told without holding the turn, so nothing is told to who has just got it.
        let told = tokio::select! {
            biased;
            told = &mut stored => told.ok(),
            served = self.serve(writer) => {
                served?;
                stored.try_recv().ok()
            }
        };
        match told {
            Some(deposited) => Ok(deposited),
            None => alone(writer, &deposit).await,
        }
    }

    /// Waits for the turn and does what waits then: the caller's own deposit and perhaps others. Fails
    /// where nothing could be begun, or where there were no others.
    async fn serve(&self, writer: &Writer) -> Result<(), Failure> {
        let mut turn = writer.turn().await?;
        turn.start().await?;
        let together = self.take();
        match store_all(&mut turn, &together).await {
            Ok(stored) => {
                for (waiting, deposited) in together.into_iter().zip(stored) {
                    // Who has stopped waiting finds it stored when he tries again.
                    waiting.done.send(deposited).ok();
                }
                turn.end();
            }
            Err(failure) if together.len() == 1 => return Err(failure),
            Err(failure) => {
                let deposits = together.len();
                tracing::debug!(?failure, deposits, "deposits not stored together");
            }
        }
        Ok(())
    }

    fn take(&self) -> Vec<Waiting> {
        let mut waiting = self.lock();
        waiting.retain(|waiting| !waiting.done.is_closed());
        let together = waiting.len().min(TOGETHER);
        waiting.drain(..together).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn store_all(
    turn: &mut Transaction<'_>,
    together: &[Waiting],
) -> Result<Vec<Option<Deposited>>, Failure> {
    let mut stored = Vec::with_capacity(together.len());
    for waiting in together {
        stored.push(waiting.deposit.store(&mut turn.connection).await?);
    }
    turn.commit_and_stay().await?;
    Ok(stored)
}

async fn alone(writer: &Writer, deposit: &Deposit) -> Result<Option<Deposited>, Failure> {
    let mut turn = writer.begin().await?;
    let stored = deposit.store(&mut turn.connection).await?;
    turn.commit().await?;
    Ok(stored)
}
