//! The script of one call: greet, beep, record, deposit. Read `take_call` from the top.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Span, warn};

use crate::domain::{Mailbox, MessageId, RecordingEnd};
use crate::media::Chunk;
use crate::media::audio::{Prompt, TICK_RATE};
use crate::media::sdp::NegotiationError;
use crate::sip::message::{HeaderName, HeaderValue, StatusCode};
use crate::sip::{AnswerError, IncomingCall};
use crate::storage::StorageError;
use crate::telemetry;
use crate::voicemail::Service;
use crate::voicemail::SpoolError;
use crate::voicemail::conversation::{Conversation, Refused, Step, Unanswered};
use crate::voicemail::deposit::{Kept, Taking};
use crate::voicemail::facts::{CallFacts, Rule};
use crate::voicemail::policy::{self, Limits, Plan};
use crate::voicemail::spool::{MissedCause, SpoolEnd, SpoolFacts};
use crate::voicemail::stages::Stages;

/// A mailbox is looked up within this, or the call is refused: the core then serves the caller.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(3);
/// A caller whom we cannot serve now may come back so soon.
const RETRY_AFTER_SECS: u32 = 5;

/// How a call ended. Every call has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// A message is in the mailbox.
    Deposited(RecordingEnd),
    /// A message is in the spool and will be deposited when the disk or database works again.
    Spooled(RecordingEnd),
    /// The caller left no message, for this reason.
    Missed(&'static str),
    /// The caller cancelled before the answer.
    Cancelled,
    /// We refused, for this reason.
    Refused(&'static str),
    /// It broke, for this reason.
    Failed(&'static str),
}

impl CallOutcome {
    /// The outcome as the labels of a metric: class and reason.
    pub fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Deposited(end) => ("deposited", end.as_str()),
            Self::Spooled(end) => ("spooled", end.as_str()),
            Self::Missed(cause) => ("missed", cause),
            Self::Cancelled => ("cancelled", "by-caller"),
            Self::Refused(reason) => ("refused", reason),
            Self::Failed(reason) => ("failed", reason),
        }
    }
}

impl CallOutcome {
    /// Whether something of ours is to be mended.
    pub fn is_fault(self) -> bool {
        match self {
            Self::Spooled(_) | Self::Failed(_) => true,
            Self::Refused(reason) => matches!(reason, DATABASE | DISK | NO_SESSION),
            Self::Deposited(_) | Self::Missed(_) | Self::Cancelled => false,
        }
    }
}

/// Reasons of refusals that are faults.
const DATABASE: &str = "database";
const DISK: &str = "disk";
const NO_SESSION: &str = "no-media-session";

/// Why a call is not answered.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("none of the {0} numbers in the INVITE has a mailbox")]
    NoMailbox(usize),
    #[error("no mailbox can be looked up")]
    Storage(#[source] StorageError),
    #[error("the database did not answer within {LOOKUP_DEADLINE:?}")]
    StorageTooSlow,
    #[error("no message could be kept")]
    Spool(#[source] SpoolError),
    #[error(transparent)]
    Media(Refused),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoMailbox(_) => StatusCode::NOT_FOUND,
            Self::Storage(_) | Self::StorageTooSlow | Self::Spool(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Media(refused) => refused.status(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NoMailbox(_) => "no-mailbox",
            Self::Storage(_) | Self::StorageTooSlow => DATABASE,
            Self::Spool(_) => DISK,
            Self::Media(Refused::NotAcceptable(NegotiationError::Unreadable(_))) => "bad-offer",
            Self::Media(Refused::NotAcceptable(_)) => "no-common-media",
            Self::Media(Refused::NoSession(_)) => NO_SESSION,
        }
    }

    /// Why is told in the line that the log has of the call.
    fn reject(&self, incoming: IncomingCall) -> CallOutcome {
        let status = self.status();
        let mut headers = Vec::new();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.push((
                HeaderName::RetryAfter,
                HeaderValue::from(RETRY_AFTER_SECS.to_string()),
            ));
        }
        if let Self::Media(refused) = self
            && let Some(warning) = refused.warning()
        {
            headers.push((HeaderName::Warning, warning.into()));
        }
        incoming.reject(status, headers);
        Span::current().record("error", self as &(dyn std::error::Error + 'static));
        CallOutcome::Refused(self.reason())
    }
}

/// A call that can be answered: everything that may refuse it has agreed.
struct Admitted {
    plan: Plan,
    language: String,
    conversation: Unanswered,
    taking: Taking,
    greeting: Arc<Prompt>,
}

/// A call that has been answered, and hears the greeting.
struct Answered {
    plan: Plan,
    language: String,
    talk: Conversation,
    taking: Taking,
}

/// Takes one call from its INVITE to its outcome. `stop` ends the call at once and keeps what was
/// said.
///
/// Each part is boxed: of thousands of calls each holds no more than what it does just now.
pub(crate) async fn take_call(
    incoming: IncomingCall,
    service: Arc<Service>,
    stop: CancellationToken,
) -> CallOutcome {
    let mut call = match Box::pin(answer(&service, incoming, stop)).await {
        Ok(call) => call,
        Err(outcome) => return outcome,
    };
    if let Some(cause) = Box::pin(greet(&mut call.talk)).await {
        let cause = call.talk.stages().cause(cause, now());
        return Box::pin(leave(call, cause)).await;
    }
    match call.plan {
        Plan::TakeMessage { limits, .. } => Box::pin(take_message(call, limits, &service)).await,
        _ => Box::pin(leave(call, MissedCause::MailboxFull)).await,
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Answers the call, where nothing refuses it, and begins to greet.
async fn answer(
    service: &Arc<Service>,
    incoming: IncomingCall,
    stop: CancellationToken,
) -> Result<Box<Answered>, CallOutcome> {
    let mut stages = Stages::new(incoming.received());
    let Admitted {
        plan,
        language,
        conversation,
        taking,
        greeting,
    } = match admit(service, &incoming).await {
        Ok(admitted) => admitted,
        Err(refusal) => return Err(refusal.reject(incoming)),
    };
    let dialog = match incoming.answer(conversation.local_description()).await {
        Ok(dialog) => dialog,
        Err(AnswerError::Cancelled) => {
            missed(taking, MissedCause::Abandoned, &stages).await;
            return Err(CallOutcome::Cancelled);
        }
        Err(AnswerError::Gone) => {
            return Err(missed(taking, MissedCause::Interrupted, &stages).await);
        }
    };
    stages.answered(now());
    let mut talk = conversation.answered(dialog, stages, stop);
    talk.play(greeting).await;
    Ok(Box::new(Answered {
        plan,
        language,
        talk,
        taking,
    }))
}

/// Everything that can refuse the call happens here, before it is answered.
async fn admit(service: &Arc<Service>, incoming: &IncomingCall) -> Result<Admitted, Refusal> {
    let facts = &CallFacts::read(incoming.request(), &service.numbering);
    let (offer, peer) = (incoming.offer(), incoming.peer().ip());
    let numbers = facts.numbers();
    let lookup = service.storage.mailbox_of_first(&numbers);
    let lookup = tokio::time::timeout(LOOKUP_DEADLINE, lookup);
    // Each waits for a thread of its own: they do so together.
    let (found, negotiated) = tokio::join!(lookup, Conversation::negotiate(offer, peer, service));
    let mailbox = match found {
        Ok(found) => found.map_err(Refusal::Storage)?,
        Err(_) => return Err(Refusal::StorageTooSlow),
    };
    let plan = policy::plan(mailbox.as_ref(), facts.reason, &service.recording);
    let rule = mailbox
        .as_ref()
        .and_then(|mailbox| facts.rule_for(&mailbox.number));
    let rule = rule.map_or("none", Rule::as_str);
    metrics::counter!(telemetry::MAILBOX_RULES, "rule" => rule).increment(1);
    Span::current().record("rule", rule);
    let mailbox = mailbox.ok_or(Refusal::NoMailbox(numbers.len()))?;
    let conversation = negotiated.map_err(Refusal::Media)?;
    let greeting = match &plan {
        Plan::TakeMessage { greeting, .. } => {
            service
                .prompts
                .greeting(greeting, &mailbox.language, &service.blobs)
                .await
        }
        _ => service.prompts.mailbox_full(&mailbox.language),
    };
    let taking = begin(service, facts, &mailbox)
        .await
        .map_err(Refusal::Spool)?;
    Ok(Admitted {
        plan,
        language: mailbox.language,
        conversation,
        taking,
        greeting,
    })
}

/// Opens the spool file, and so proves before the answer that a message could be kept.
async fn begin(
    service: &Arc<Service>,
    facts: &CallFacts,
    mailbox: &Mailbox,
) -> Result<Taking, SpoolError> {
    let received_at = service.clock.now();
    let id = MessageId::new(received_at, service.random());
    Span::current().record("message.id", tracing::field::display(id));
    let spool = SpoolFacts {
        id,
        subscriber: mailbox.subscriber,
        to: mailbox.number.clone(),
        caller: facts.caller.clone(),
        reason: facts.reason,
        received_at,
    };
    service.deposits.begin(spool).await
}

/// Until the greeting is over or skipped; otherwise why the caller never got to the beep.
async fn greet(talk: &mut Conversation) -> Option<MissedCause> {
    loop {
        match talk.next().await {
            Step::Played => return None,
            Step::Digit('#' | '1') => {
                talk.stop_playing();
                return None;
            }
            Step::MediaLost => return Some(MissedCause::NoMedia),
            Step::HungUp => return Some(MissedCause::Abandoned),
            Step::Interrupted => return Some(MissedCause::Interrupted),
            Step::Digit(_) | Step::RecordingEnded(_) => {}
        }
    }
}

/// Hangs up without a message.
async fn leave(call: Box<Answered>, cause: MissedCause) -> CallOutcome {
    let Answered { talk, taking, .. } = *call;
    let stages = *talk.stages();
    talk.bye(cause.as_str());
    missed(taking, cause, &stages).await
}

/// Beep, record, deposit. The deposit does not wait for the goodbye.
async fn take_message(call: Box<Answered>, limits: Limits, service: &Service) -> CallOutcome {
    let Answered {
        language,
        mut talk,
        taking,
        ..
    } = *call;
    // The recording starts with the beep, so that a caller who does not wait for it is heard.
    let chunks = talk.record(&limits);
    talk.play(service.prompts.beep()).await;
    let write = write(chunks, taking, Span::current());
    let writer = service.tasks.spawn_on(write, service.deposits.disk());
    let ended_by = until_it_ends(&mut talk).await;
    let summary = talk.stop_recording().await;
    let Ok(taking) = writer.await else {
        return CallOutcome::Failed("recording-task");
    };

    let ticks = summary.keep_ticks.min(taking.ticks());
    let stages = *talk.stages();
    let missed = if limits.is_message(Duration::from_millis(summary.speech_ms)) {
        None
    } else if ended_by == RecordingEnd::MediaTimeout && ticks == 0 {
        Some(MissedCause::NoMedia)
    } else {
        Some(stages.cause(MissedCause::TooShort, now()))
    };
    metrics::histogram!(telemetry::RECORDING, "ended_by" => ended_by.as_str())
        .record(ticks as f64 / f64::from(TICK_RATE));
    let end = SpoolEnd {
        ended_by,
        ticks,
        missed,
        failed_stage: missed.and_then(|cause| stages.blame(cause)),
        setup: stages.times(),
    };
    let goodbye = talk.say_goodbye(ended_by, service.prompts.thank_you(&language));
    let deposited = async { tokio::join!(taking.deposit(end), goodbye).0 };
    match Box::pin(deposited).await {
        Ok(Kept::Message) => CallOutcome::Deposited(ended_by),
        Ok(Kept::MissedCall) => {
            CallOutcome::Missed(missed.unwrap_or(MissedCause::TooShort).as_str())
        }
        Ok(Kept::Nothing) => CallOutcome::Failed("subscriber-gone"),
        Err(_) => CallOutcome::Spooled(ended_by),
    }
}

/// Writes what is recorded into the spool, on the thread that may wait for the disk. Chunks that are not taken end
/// the recording. `call` is entered where there is something to tell, not for each chunk.
async fn write(mut chunks: mpsc::Receiver<Box<Chunk>>, mut taking: Taking, call: Span) -> Taking {
    while let Some(chunk) = chunks.recv().await {
        if let Err(error) = taking.append(&chunk) {
            let error = &error as &dyn std::error::Error;
            call.in_scope(|| warn!(error, "The recording ends: the disk takes no more"));
            break;
        }
    }
    taking
}

/// Until something ends the recording.
async fn until_it_ends(talk: &mut Conversation) -> RecordingEnd {
    loop {
        match talk.next().await {
            Step::RecordingEnded(end) => return end,
            Step::HungUp => return RecordingEnd::HangUp,
            Step::MediaLost => return RecordingEnd::MediaTimeout,
            Step::Interrupted => return RecordingEnd::Interrupted,
            Step::Played | Step::Digit(_) => {}
        }
    }
}

/// The call left no message; the subscriber will see that somebody called.
async fn missed(taking: Taking, cause: MissedCause, stages: &Stages) -> CallOutcome {
    let end = SpoolEnd {
        ended_by: RecordingEnd::HangUp,
        ticks: 0,
        missed: Some(cause),
        failed_stage: stages.blame(cause),
        setup: stages.times(),
    };
    // A failure has been logged, and the recovery tries again.
    let _kept = taking.deposit(end).await;
    CallOutcome::Missed(cause.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_task<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_task_of_a_call_is_small() {
        let size = size_of_task(take_call);
        assert!(size <= 512, "{size} bytes");
    }
}
