//! The calls that have an owner: what the endpoint says of each is brought to its owner, and what the owner says
//! last to the endpoint.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tracing::warn;

use crate::sip::call::{CALL_EVENTS, CallEvent, LastWord, Line};
use crate::sip::call::{CallError, IncomingCall, OfferError, OutgoingCall};
use crate::sip::call::{DialogEvent, OfferReply, Verdict};
use crate::sip::endpoint::{
    CallHandle, DialogEnd, Endpoint, Event, Flow, OfferId, OutgoingRequest,
};
use crate::sip::endpoint::{CommandError, LoneReply, LoneRequest, RequestHandle};
use crate::sip::header::Reason;
use crate::sip::message::{HeaderName, HeaderValue, Request, StatusCode};
use crate::sip::transport::{Awaited, Command};
use crate::telemetry;

/// Lines about strangers in a minute of the log.
const STRANGERS_PER_MINUTE: u32 = 20;

/// A call, and what its owner said last; `None` when it was just dropped.
pub(crate) type LastWordOf = (CallHandle, Option<LastWord>);

/// The driver's side of all calls.
pub(crate) struct Calls {
    pub(crate) last_words: FuturesUnordered<Awaited<CallHandle, LastWord>>,
    pub(crate) verdicts: FuturesUnordered<Awaited<(CallHandle, OfferId), Verdict>>,
    owned: HashMap<CallHandle, Owned>,
    asked: HashMap<RequestHandle, oneshot::Sender<LoneReply>>,
    incoming: mpsc::Sender<IncomingCall>,
    commands: mpsc::Sender<Command>,
    permits: Arc<Semaphore>,
    retry_after_secs: u32,
    strangers: StrangerLog,
}

/// The driver's side of one call.
struct Owned {
    events: mpsc::Sender<Box<CallEvent>>,
    end: Arc<OnceLock<DialogEnd>>,
    accepted: Option<oneshot::Sender<()>>,
    answered: Option<oneshot::Sender<Result<Option<Bytes>, OfferError>>>,
}

impl Calls {
    /// No calls yet, and at most `max_calls` at any time.
    pub(crate) fn new(
        max_calls: usize,
        retry_after_secs: u32,
        incoming: mpsc::Sender<IncomingCall>,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        Self {
            last_words: FuturesUnordered::new(),
            verdicts: FuturesUnordered::new(),
            owned: HashMap::new(),
            asked: HashMap::new(),
            incoming,
            commands,
            permits: Arc::new(Semaphore::new(max_calls.min(Semaphore::MAX_PERMITS))),
            retry_after_secs,
            strangers: StrangerLog::default(),
        }
    }

    /// The calls that have not ended.
    pub(crate) fn handles(&self) -> Vec<CallHandle> {
        self.owned.keys().copied().collect()
    }

    /// Places a call.
    pub(crate) fn place(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        request: OutgoingRequest,
    ) -> Result<OutgoingCall, CallError> {
        let permit = self.permit().ok_or(CallError::TooManyCalls)?;
        let call = endpoint
            .call(now, request)
            .map_err(|_| CallError::TooManyCalls)?;
        Ok(OutgoingCall {
            line: Some(self.line(call, permit)),
        })
    }

    /// Sends a request outside of any call; where there are too many, `replied` is dropped.
    pub(crate) fn ask(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        request: LoneRequest,
        replied: oneshot::Sender<LoneReply>,
    ) {
        if let Ok(handle) = endpoint.ask(now, request) {
            self.asked.insert(handle, replied);
        }
    }

    /// Does what the owner said last. Without a word the call is hung up too.
    pub(crate) fn last_word(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        call: CallHandle,
        word: Option<LastWord>,
    ) {
        // An error says that the call has ended already.
        let said = match word {
            Some(LastWord::Reject(status, headers)) => endpoint.reject(now, call, status, headers),
            Some(LastWord::Bye(reason)) => endpoint.bye(now, call, reason),
            None => endpoint.bye(now, call, None),
        };
        said.ok();
    }

    /// `done` is told when the call's 200 is out, or waits only for a decision on one more offer.
    pub(crate) fn will_be_accepted(&mut self, call: CallHandle, done: oneshot::Sender<()>) {
        if let Some(owned) = self.owned.get_mut(&call) {
            owned.accepted = Some(done);
        }
    }

    /// `done` is told the answer to our offer.
    pub(crate) fn will_be_answered(
        &mut self,
        call: CallHandle,
        done: oneshot::Sender<Result<Option<Bytes>, OfferError>>,
    ) {
        if let Some(owned) = self.owned.get_mut(&call) {
            owned.answered = Some(done);
        }
    }

    /// Brings an event to whom it concerns.
    pub(crate) fn tell(&mut self, endpoint: &mut Endpoint, now: Instant, event: Event) {
        let (call, news) = match event {
            Event::Incoming {
                call,
                request,
                flow,
                offer,
            } => {
                return self.admit(endpoint, now, call, request, flow, offer);
            }
            Event::Accepted { call } => return self.accepted(call),
            Event::OfferAnswered { call, answer } => return self.answered(call, answer),
            Event::Ended { call, end } => return self.ended(call, end),
            Event::Replied { request, reply } => {
                if let Some(replied) = self.asked.remove(&request) {
                    // Whoever asked may have lost interest.
                    replied.send(reply).ok();
                }
                return;
            }
            Event::Untrusted { peer, refused } => return self.strangers.log(now, peer, refused),
            Event::Counted(what) => {
                metrics::counter!(telemetry::SIP_EVENTS, "event" => what).increment(1);
                return;
            }
            Event::Confirmed { call, answer } => {
                (call, CallEvent::Dialog(DialogEvent::Confirmed { answer }))
            }
            Event::Offer { call, id, offer } => {
                // Before the 200 it can only stand in the PRACK, and the 200 waits until its owner decides.
                self.accepted(call);
                let reply = self.reply(call, id);
                (call, CallEvent::Dialog(DialogEvent::Offer { offer, reply }))
            }
            Event::Info {
                call,
                content_type,
                body,
            } => (
                call,
                CallEvent::Dialog(DialogEvent::Info { content_type, body }),
            ),
            Event::Progress {
                call,
                status,
                description,
            } => (
                call,
                CallEvent::Progress {
                    status,
                    description,
                },
            ),
            Event::Answered {
                call,
                description,
                offer_made,
                response,
            } => (
                call,
                CallEvent::Answered {
                    description,
                    offer_made,
                    response,
                },
            ),
        };
        self.bring(endpoint, now, call, news);
    }

    /// Hands a new call to the application, or refuses it at once where there are enough.
    fn admit(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        call: CallHandle,
        request: Box<Request>,
        flow: Flow,
        offer: Option<Bytes>,
    ) {
        let Some(permit) = self.permit() else {
            return self.refuse(endpoint, now, call);
        };
        let line = self.line(call, permit);
        let incoming = IncomingCall {
            line,
            request,
            flow,
            offer,
            received: now,
        };
        if self.incoming.try_send(incoming).is_err() {
            self.refuse(endpoint, now, call);
        }
    }

    fn refuse(&mut self, endpoint: &mut Endpoint, now: Instant, call: CallHandle) {
        metrics::counter!(telemetry::SIP_CALLS_REFUSED).increment(1);
        let retry_after = HeaderValue::from(self.retry_after_secs.to_string());
        let headers = vec![(HeaderName::RetryAfter, retry_after)];
        // The caller may have cancelled in the same turn.
        endpoint
            .reject(now, call, StatusCode::SERVICE_UNAVAILABLE, headers)
            .ok();
    }

    /// Puts news into the owner's queue. Where it is full, the owner is stuck and the call is ended.
    fn bring(&mut self, endpoint: &mut Endpoint, now: Instant, call: CallHandle, news: CallEvent) {
        let Some(owned) = self.owned.get(&call) else {
            return;
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = owned.events.try_send(Box::new(news)) {
            metrics::counter!(telemetry::SIP_CALLS_STUCK).increment(1);
            warn!("The owner of a call takes no events, the call is ended");
            let reason = Reason::sip(StatusCode::SERVER_INTERNAL_ERROR.code(), "call is stuck");
            endpoint.bye(now, call, Some(reason)).ok();
        }
    }

    fn accepted(&mut self, call: CallHandle) {
        let done = self
            .owned
            .get_mut(&call)
            .and_then(|owned| owned.accepted.take());
        if let Some(done) = done {
            // Whoever stopped waiting for it has dropped the call, too.
            done.send(()).ok();
        }
    }

    fn answered(&mut self, call: CallHandle, answer: Result<Option<Bytes>, StatusCode>) {
        let done = self
            .owned
            .get_mut(&call)
            .and_then(|owned| owned.answered.take());
        if let Some(done) = done {
            done.send(answer.map_err(OfferError::Refused)).ok();
        }
    }

    fn ended(&mut self, call: CallHandle, end: DialogEnd) {
        if let Some(owned) = self.owned.remove(&call) {
            // The end comes once, and before the channel closes, so that the owner finds it there.
            owned.end.set(end).ok();
        }
    }

    fn reply(&mut self, call: CallHandle, id: OfferId) -> OfferReply {
        let (verdict, receiver) = oneshot::channel();
        self.verdicts.push(Awaited {
            key: (call, id),
            receiver,
        });
        OfferReply { verdict }
    }

    fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    fn line(&mut self, call: CallHandle, permit: OwnedSemaphorePermit) -> Line {
        let (events, taken) = mpsc::channel(CALL_EVENTS);
        let (last_word, receiver) = oneshot::channel();
        let end = Arc::new(OnceLock::new());
        self.last_words.push(Awaited {
            key: call,
            receiver,
        });
        let owned = Owned {
            events,
            end: end.clone(),
            accepted: None,
            answered: None,
        };
        self.owned.insert(call, owned);
        Line {
            call,
            events: taken,
            end,
            last_word: Some(last_word),
            commands: self.commands.clone(),
            _permit: permit,
        }
    }
}

/// Logs strangers. Each comes here once a minute at most; that they be many must not fill the log either, since a
/// datagram may bear any address.
#[derive(Debug, Default)]
struct StrangerLog {
    minute: Option<Instant>,
    lines: u32,
}

impl StrangerLog {
    fn log(&mut self, now: Instant, peer: IpAddr, refused: u32) {
        if self.has_room(now) {
            warn!(%peer, refused, "A peer outside sip.trusted_peers sends requests");
        }
    }

    fn has_room(&mut self, now: Instant) -> bool {
        let is_over = |begin: &Instant| now.duration_since(*begin) >= Duration::from_secs(60);
        if self.minute.as_ref().is_none_or(is_over) {
            *self = Self {
                minute: Some(now),
                lines: 0,
            };
        }
        self.lines += 1;
        self.lines <= STRANGERS_PER_MINUTE
    }
}

impl From<CommandError> for OfferError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::OfferPending | CommandError::WrongState => Self::Pending,
            CommandError::NoSuchCall | CommandError::Full => Self::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_strangers_get_so_many_lines_a_minute_and_no_more() {
        let begin = tokio::time::Instant::now().into_std();
        let mut log = StrangerLog::default();
        let mut lines = |second| {
            let now = begin + Duration::from_secs(second);
            (0..100).filter(|_| log.has_room(now)).count()
        };
        assert_eq!(lines(0), STRANGERS_PER_MINUTE as usize);
        assert_eq!(lines(59), 0);
        assert_eq!(lines(60), STRANGERS_PER_MINUTE as usize);
    }
}
