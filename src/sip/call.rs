//! The handles by which the rest of the program takes part in calls. They hold channels to the driver, nothing else:
//! dropping one is always safe, and ends its call.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::sip::endpoint::{CallHandle, DialogEnd, Flow, Transport};
use crate::sip::header::Reason;
use crate::sip::message::{HeaderName, HeaderValue, Request, Response, StatusCode};
use crate::sip::transport::Command;

/// News of one call that its owner has not taken yet. An owner that lets them pile up is stuck: its call is ended.
pub(crate) const CALL_EVENTS: usize = 16;

/// A call that waits for our answer. Dropping it rejects the call with 480.
#[derive(Debug)]
pub struct IncomingCall {
    pub(crate) line: Line,
    pub(crate) request: Box<Request>,
    pub(crate) flow: Flow,
    pub(crate) offer: Option<Bytes>,
    pub(crate) received: Instant,
}

impl IncomingCall {
    /// The INVITE.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// When the INVITE came.
    pub fn received(&self) -> Instant {
        self.received
    }

    /// The address that the INVITE came from.
    pub fn peer(&self) -> SocketAddr {
        self.flow.remote
    }

    /// The transport that the INVITE came over.
    pub fn transport(&self) -> Transport {
        self.flow.transport
    }

    /// The caller's session description; without one the answer is our offer.
    pub fn offer(&self) -> Option<&Bytes> {
        self.offer.as_ref()
    }

    /// Refuses the call with a final status of 300 or above.
    pub fn reject(mut self, status: StatusCode, headers: Vec<(HeaderName, HeaderValue)>) {
        self.line.say(LastWord::Reject(status, headers));
    }

    /// Tells the caller that it rings: 180.
    pub async fn ring(&self) {
        let call = self.line.call;
        // Where the driver has stopped, the call is over.
        self.line.commands.send(Command::Ring { call }).await.ok();
    }

    /// Accepts the call with a 200 that bears our answer, or our offer where the INVITE had none. Where the caller
    /// requires it, a reliable 183 and its PRACK go first (RFC 3262).
    pub async fn answer(self, description: Bytes) -> Result<Dialog, AnswerError> {
        let (done, accepted) = oneshot::channel();
        let answer = Command::Answer {
            call: self.line.call,
            description,
            done,
        };
        if self.line.commands.send(answer).await.is_err() || accepted.await.is_err() {
            let cancelled = self.line.end.get() == Some(&DialogEnd::Cancelled);
            return Err(if cancelled {
                AnswerError::Cancelled
            } else {
                AnswerError::Gone
            });
        }
        Ok(Dialog { line: self.line })
    }

    /// Completes when the caller gives up, or the call ends otherwise. Cancel-safe.
    pub async fn cancelled(&mut self) {
        while self.line.events.recv().await.is_some() {}
    }
}

/// Why an incoming call could not be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The caller gave up first.
    #[error("the caller cancelled the call")]
    Cancelled,
    /// The call has ended otherwise: its time ran out, or the driver has stopped.
    #[error("the call is gone")]
    Gone,
}

/// An established call. Dropping it sends BYE.
#[derive(Debug)]
pub struct Dialog {
    pub(crate) line: Line,
}

impl Dialog {
    /// The next news of the call. After [`DialogEvent::Ended`] it is that again. Cancel-safe.
    pub async fn next_event(&mut self) -> DialogEvent {
        loop {
            match self.line.next().await {
                Ok(CallEvent::Dialog(event)) => return event,
                // Provisional responses that the 200 has overtaken.
                Ok(CallEvent::Progress { .. } | CallEvent::Answered { .. }) => {}
                Err(end) => return DialogEvent::Ended(end),
            }
        }
    }

    /// Hangs up.
    pub fn bye(mut self, reason: Option<Reason>) {
        self.send_bye(reason);
    }

    /// Hangs up; the end is still told by [`Self::next_event`].
    pub fn send_bye(&mut self, reason: Option<Reason>) {
        self.line.say(LastWord::Bye(reason));
    }

    /// Makes a new offer by re-INVITE and waits for the peer's description.
    pub async fn offer(&mut self, description: Bytes) -> Result<Option<Bytes>, OfferError> {
        let (done, answered) = oneshot::channel();
        let offer = Command::Offer {
            call: self.line.call,
            description,
            done,
        };
        self.line
            .commands
            .send(offer)
            .await
            .map_err(|_| OfferError::Gone)?;
        answered.await.map_err(|_| OfferError::Gone)?
    }

    /// Sends the ACK with our answer to the offer that came in the 2xx to a call of ours without offer.
    pub async fn acknowledge(&mut self, answer: Bytes) {
        let acknowledge = Command::Acknowledge {
            call: self.line.call,
            answer,
        };
        // A driver that has stopped also ends the call, which the next event tells.
        self.line.commands.send(acknowledge).await.ok();
    }
}

/// Why an offer of ours has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Another offer is pending, of either side.
    #[error("another offer is pending")]
    Pending,
    /// The peer refused it; the session stays as it was.
    #[error("the peer refused the offer with {}", .0.code())]
    Refused(StatusCode),
    /// The call has ended.
    #[error("the call is gone")]
    Gone,
}

/// News of an established call.
#[derive(Debug)]
pub enum DialogEvent {
    /// The peer has our 200 (its ACK or PRACK arrived).
    Confirmed {
        /// The peer's answer, where the offer was ours.
        answer: Option<Bytes>,
    },
    /// A re-INVITE or UPDATE wants a session description.
    Offer {
        /// What the peer offers; none asks for an offer of ours.
        offer: Option<Bytes>,
        /// To be decided.
        reply: OfferReply,
    },
    /// An INFO request; it has been answered 200.
    Info {
        /// As written; empty when there was none.
        content_type: String,
        /// The body.
        body: Bytes,
    },
    /// The call is over.
    Ended(DialogEnd),
}

/// The decision on an offer of the peer. Dropping it refuses the offer with 500.
#[derive(Debug)]
pub struct OfferReply {
    pub(crate) verdict: oneshot::Sender<Verdict>,
}

impl OfferReply {
    /// Accepts with our answer, or with our offer where the peer asked for one.
    pub fn accept(self, description: Bytes) {
        // Should the call have ended meanwhile, the dialog's next event tells it.
        self.verdict.send(Verdict::Accept(description)).ok();
    }

    /// Refuses with a final status of 300 or above (488, as a rule); the session stays as it was.
    pub fn reject(self, status: StatusCode) {
        self.verdict.send(Verdict::Reject(status)).ok();
    }
}

/// What becomes of an offer.
#[derive(Debug)]
pub(crate) enum Verdict {
    Accept(Bytes),
    Reject(StatusCode),
}

/// A call that we have placed. Dropping it cancels the call, or hangs up.
#[derive(Debug)]
pub struct OutgoingCall {
    pub(crate) line: Option<Line>,
}

impl OutgoingCall {
    /// The next news of the call; after the last one (answered or ended) it is [`OutgoingEvent::Ended`]. Cancel-safe.
    pub async fn next_event(&mut self) -> OutgoingEvent {
        let Some(line) = &mut self.line else {
            return OutgoingEvent::Ended(DialogEnd::ByeSent);
        };
        loop {
            match line.next().await {
                Ok(CallEvent::Progress { status, .. }) if status == StatusCode::TRYING => {
                    return OutgoingEvent::Trying;
                }
                Ok(CallEvent::Progress {
                    status,
                    description,
                }) => {
                    return OutgoingEvent::Ringing {
                        status,
                        description,
                    };
                }
                Ok(CallEvent::Answered {
                    description,
                    offer_made,
                    response,
                }) => {
                    let Some(line) = self.line.take() else {
                        return OutgoingEvent::Ended(DialogEnd::ByeSent);
                    };
                    let dialog = Dialog { line };
                    return OutgoingEvent::Answered {
                        dialog,
                        description,
                        offer_made,
                        response,
                    };
                }
                // An offer before the 200 (UPDATE in an early dialog) is refused by its reply being dropped.
                Ok(CallEvent::Dialog(_)) => {}
                Err(DialogEnd::Refused(response)) => return OutgoingEvent::Rejected(response),
                Err(end) => return OutgoingEvent::Ended(end),
            }
        }
    }

    /// Gives up: CANCEL, as soon as the peer has shown that it has the call. Its last word is awaited, after which
    /// [`Self::next_event`] tells [`DialogEnd::Cancelled`].
    pub fn cancel(&mut self) {
        if let Some(line) = &mut self.line {
            line.say(LastWord::Bye(None));
        }
    }
}

/// News of a call that we have placed.
#[derive(Debug)]
pub enum OutgoingEvent {
    /// 100: the next hop has the request.
    Trying,
    /// Another provisional response: 180, 183, …
    Ringing {
        /// Which.
        status: StatusCode,
        /// A session description of early media.
        description: Option<Bytes>,
    },
    /// The call was answered and goes on as a dialog.
    Answered {
        /// The call from here on.
        dialog: Dialog,
        /// The peer's session description.
        description: Option<Bytes>,
        /// Whether our INVITE bore an offer. If not, `description` is the peer's offer and
        /// [`Dialog::acknowledge`] must bear our answer.
        offer_made: bool,
        /// The 200.
        response: Box<Response>,
    },
    /// The call was refused, with this response.
    Rejected(Box<Response>),
    /// The call is over for another reason.
    Ended(DialogEnd),
}

/// Why a call could not be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There are as many calls as there may be.
    #[error("there are too many calls")]
    TooManyCalls,
    /// The SIP driver has stopped.
    #[error("SIP has stopped")]
    Stopped,
}

/// What a call's owner says last. The channel for it is the call's own, so that it is never full; saying nothing
/// before it is dropped hangs up too.
#[derive(Debug)]
pub(crate) enum LastWord {
    Reject(StatusCode, Vec<(HeaderName, HeaderValue)>),
    Bye(Option<Reason>),
}

/// What the driver tells a call's owner.
#[derive(Debug)]
pub(crate) enum CallEvent {
    Dialog(DialogEvent),
    Progress {
        status: StatusCode,
        description: Option<Bytes>,
    },
    Answered {
        description: Option<Bytes>,
        offer_made: bool,
        response: Box<Response>,
    },
}

/// The owner's side of a call.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) call: CallHandle,
    /// Boxed, since a channel has room for many from the beginning, and a call has few.
    pub(crate) events: mpsc::Receiver<Box<CallEvent>>,
    pub(crate) end: Arc<OnceLock<DialogEnd>>,
    pub(crate) last_word: Option<oneshot::Sender<LastWord>>,
    pub(crate) commands: mpsc::Sender<Command>,
    /// The call's share of `max_calls`, held as long as its owner works for it.
    pub(crate) _permit: OwnedSemaphorePermit,
}

impl Line {
    /// The next event, or why there is none any more.
    async fn next(&mut self) -> Result<CallEvent, DialogEnd> {
        match self.events.recv().await {
            Some(event) => Ok(*event),
            None => Err(self
                .end
                .get()
                .cloned()
                .unwrap_or(DialogEnd::TransportFailed)),
        }
    }

    fn say(&mut self, word: LastWord) {
        if let Some(last_word) = self.last_word.take() {
            // Nobody hears it only when the driver has stopped, and the call with it.
            last_word.send(word).ok();
        }
    }
}
