//! Where SIP and media meet: one answered call, as its script sees it.
//!
//! Offers and answers go between the dialog and the media session here, and whatever happens on
//! either side becomes one [`Step`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug};

use crate::domain::RecordingEnd;
use crate::media::audio::Prompt;
use crate::media::sdp::{Exchange, MediaParams, NegotiationError, Opening};
use crate::media::{self, Chunk, MediaEvent, OpenError, RecordLimits, RecordingSummary, Session};
use crate::sip::message::StatusCode;
use crate::sip::{Dialog, DialogEnd, DialogEvent, OfferReply, Reason};
use crate::voicemail::Service;
use crate::voicemail::policy::Limits;
use crate::voicemail::stages::Stages;

/// What the caller said so long before the beep is kept, where he was still speaking at the beep.
const PREROLL: Duration = Duration::from_secs(2);
/// Recordings go to the spool in pieces of this length; a crash loses the last one.
const CHUNK: Duration = Duration::from_millis(500);
/// Ends the recording.
const END_KEY: char = '#';
/// Greeting and goodbye together are never longer than this; a call that is, is stuck.
const PROMPTS_LONGEST: Duration = Duration::from_secs(300);
/// The caller may leave before our goodbye is over; it is not waited for longer than this.
const GOODBYE_LONGEST: Duration = Duration::from_secs(10);

/// Why no media was agreed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// It cannot be read, or there is nothing in it that we can take.
    #[error("nothing in the offer can be taken")]
    NotAcceptable(#[source] NegotiationError),
    /// No media session could be opened.
    #[error("no media session can be opened")]
    NoSession(#[source] OpenError),
}

/// What the script hears of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Everything queued has been played.
    Played,
    /// The caller pressed a key.
    Digit(char),
    /// The recording ended by its own limits.
    RecordingEnded(RecordingEnd),
    /// No media came in time.
    MediaLost,
    /// The caller hung up.
    HungUp,
    /// The call is over, and the caller did not end it: the service stops, or something broke.
    Interrupted,
}

/// Media agreed on, the call not yet answered.
pub(crate) struct Unanswered {
    session: Box<Session>,
    exchange: Box<Exchange>,
    local: Bytes,
}

/// An answered call.
pub(crate) struct Conversation {
    dialog: Dialog,
    session: Box<Session>,
    exchange: Box<Exchange>,
    stages: Stages,
    /// What was queued so far. It may still be playing when the codec changes.
    prompts: Vec<Arc<Prompt>>,
    stop: CancellationToken,
    give_up_at: Instant,
}

impl Conversation {
    /// Reads the offer and opens media for it; without one the offer will be ours. `peer` is where
    /// the signalling comes from.
    pub(crate) async fn negotiate(
        offer: Option<&Bytes>,
        peer: IpAddr,
        service: &Service,
    ) -> Result<Unanswered, Refused> {
        let engine = &service.engine;
        let (preferences, identity) = (service.preferences.clone(), engine.identity());
        let opening = match offer {
            Some(offer) => {
                Opening::answering(offer, preferences, identity).map_err(Refused::NotAcceptable)?
            }
            None => Opening::offering(preferences, identity),
        };
        let session = engine
            .open_from(opening.media(), Some(peer))
            .await
            .map_err(Refused::NoSession)?;
        let (exchange, local) = opening.at(session.local_addr(), service.random());
        Ok(Unanswered {
            session: Box::new(session),
            exchange: Box::new(exchange),
            local,
        })
    }

    /// What happens next in the call. New offers are answered on the way. When the call is over it
    /// tells that again.
    pub(crate) async fn next(&mut self) -> Step {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Step::Interrupted,
                event = self.dialog.next_event() => {
                    // Rare, and larger than what a call is most of the time.
                    if let Some(step) = Box::pin(self.on_dialog(event)).await {
                        return step;
                    }
                }
                event = self.session.next_event() => {
                    if let Some(step) = self.on_media(event) {
                        return step;
                    }
                }
                () = tokio::time::sleep_until(self.give_up_at) => return Step::Interrupted,
            }
        }
    }

    async fn on_dialog(&mut self, event: DialogEvent) -> Option<Step> {
        match event {
            DialogEvent::Ended(DialogEnd::ByeReceived) => return Some(Step::HungUp),
            DialogEvent::Ended(end) => {
                debug!(?end, "The call broke");
                return Some(Step::Interrupted);
            }
            DialogEvent::Offer { offer, reply } => {
                self.on_offer(offer.as_deref(), reply).await;
            }
            DialogEvent::Confirmed {
                answer: Some(answer),
            } => {
                self.on_answer(&answer).await;
            }
            DialogEvent::Info { content_type, body } => {
                if let Some(key) = key_of_info(&content_type, &body) {
                    self.session.signalled_digit(key);
                }
            }
            DialogEvent::Confirmed { answer: None } => {}
        }
        None
    }

    /// A re-INVITE or UPDATE: hold, resume, a new address, or no description at all.
    async fn on_offer(&mut self, offer: Option<&[u8]>, reply: OfferReply) {
        let Some(offer) = offer else {
            return reply.accept(self.exchange.offer());
        };
        match self.exchange.on_offer(offer) {
            Ok((params, answer)) => {
                self.update(&params).await;
                reply.accept(answer);
            }
            Err(error) => {
                let refused = Refused::NotAcceptable(error);
                debug!(
                    error = &refused as &dyn std::error::Error,
                    "A new offer is refused"
                );
                reply.reject(refused.status());
            }
        }
    }

    /// The answer to an offer of ours.
    async fn on_answer(&mut self, answer: &[u8]) {
        match self.exchange.on_answer(answer) {
            Ok(Some(params)) => self.update(&params).await,
            Ok(None) => {}
            Err(error) => {
                debug!(%error, "The call ends: the caller's answer cannot be taken");
                self.dialog
                    .send_bye(Some(Reason::sip(488, "Not Acceptable Here")));
            }
        }
    }

    /// Puts the media to what was agreed on. What plays goes on in the new codec.
    async fn update(&mut self, params: &MediaParams) {
        media::prepare(&self.prompts, params.codec).await;
        self.session.update(params);
        self.stages.agreed(params);
    }

    fn on_media(&mut self, event: MediaEvent) -> Option<Step> {
        match event {
            MediaEvent::Played => Some(Step::Played),
            MediaEvent::Digit(digit) => Some(Step::Digit(digit)),
            MediaEvent::RecordingEnded(end) => Some(Step::RecordingEnded(ended_by(end))),
            MediaEvent::MediaTimeout { .. } => Some(Step::MediaLost),
            MediaEvent::LinkFailed { reason, .. } => {
                Span::current().record("error", reason);
                Some(Step::MediaLost)
            }
            MediaEvent::Failed => Some(Step::Interrupted),
            MediaEvent::Stage { stage, at } => {
                self.stages.reached(stage, at);
                None
            }
        }
    }

    /// How the call came about so far.
    pub(crate) fn stages(&self) -> &Stages {
        &self.stages
    }

    /// Queues a prompt; [`Step::Played`] comes when everything queued has been played.
    pub(crate) async fn play(&mut self, prompt: Arc<Prompt>) {
        self.prompts.push(Arc::clone(&prompt));
        if let Some(agreed) = self.exchange.agreed() {
            Box::pin(media::prepare(&self.prompts, agreed.codec)).await;
        }
        self.session.play(prompt);
    }

    /// Drops what is still queued.
    pub(crate) fn stop_playing(&mut self) {
        self.session.stop_playing();
    }

    /// Starts the recording.
    pub(crate) fn record(&mut self, limits: &Limits) -> mpsc::Receiver<Box<Chunk>> {
        self.give_up_at += limits.longest;
        self.session.record(RecordLimits {
            max: limits.longest,
            silence: limits.silence,
            end_digit: Some(END_KEY),
            preroll: PREROLL,
            chunk: CHUNK,
        })
    }

    /// Ends the recording at the last packet that came; all its chunks are on their way.
    pub(crate) async fn stop_recording(&mut self) -> RecordingSummary {
        self.session.flush().await
    }

    /// Says thank you where the caller still listens, and hangs up.
    pub(crate) async fn say_goodbye(mut self, ended_by: RecordingEnd, thank_you: Arc<Prompt>) {
        let listens = matches!(
            ended_by,
            RecordingEnd::Digit
                | RecordingEnd::Silence
                | RecordingEnd::Limit
                | RecordingEnd::DiskTooSlow
        );
        if listens {
            self.session.stop_playing();
            self.play(thank_you).await;
            self.give_up_at = self.give_up_at.min(Instant::now() + GOODBYE_LONGEST);
            while matches!(self.next().await, Step::Digit(_) | Step::RecordingEnded(_)) {}
        }
        self.bye(ended_by.as_str());
    }

    /// Hangs up, where the caller has not, and tells why (RFC 3326).
    pub(crate) fn bye(self, why: &str) {
        self.dialog.bye(Some(normal_clearing(why)));
    }
}

impl Unanswered {
    /// What goes into the answer to the INVITE: our answer, or our offer.
    pub(crate) fn local_description(&self) -> Bytes {
        self.local.clone()
    }

    /// The call was answered. `stop` ends it.
    pub(crate) fn answered(
        self,
        dialog: Dialog,
        mut stages: Stages,
        stop: CancellationToken,
    ) -> Conversation {
        stages.agreed(self.session.params());
        Conversation {
            dialog,
            session: self.session,
            exchange: self.exchange,
            stages,
            prompts: Vec::new(),
            stop,
            give_up_at: Instant::now() + PROMPTS_LONGEST,
        }
    }
}

impl Refused {
    /// The response that says so.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NotAcceptable(NegotiationError::Unreadable(_)) => StatusCode::BAD_REQUEST,
            Self::NotAcceptable(_) | Self::NoSession(OpenError::Unreachable(_)) => {
                StatusCode::NOT_ACCEPTABLE_HERE
            }
            Self::NoSession(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The Warning that a 488 should bear (RFC 3261 sections 20.43 and 21.4.26).
    pub(crate) const fn warning(&self) -> Option<&'static str> {
        let Self::NotAcceptable(why) = self else {
            return None;
        };
        Some(match why {
            NegotiationError::NoAddress(_) => {
                "301 aftertone \"Incompatible network address formats\""
            }
            NegotiationError::Transport(_) => "302 aftertone \"Incompatible transport protocol\"",
            NegotiationError::Keys(_) => "302 aftertone \"No keys for this transport protocol\"",
            NegotiationError::NoAudio => "304 aftertone \"Media type not available\"",
            NegotiationError::NoCommonCodec => "305 aftertone \"Incompatible media format\"",
            NegotiationError::Unreadable(_) => "399 aftertone \"Not a session description\"",
            NegotiationError::WrongAnswer(_) => "399 aftertone \"Not an answer to the offer\"",
        })
    }
}

fn ended_by(end: media::RecordingEnd) -> RecordingEnd {
    match end {
        media::RecordingEnd::Silence => RecordingEnd::Silence,
        media::RecordingEnd::Limit => RecordingEnd::Limit,
        media::RecordingEnd::Digit => RecordingEnd::Digit,
        media::RecordingEnd::MediaTimeout => RecordingEnd::MediaTimeout,
        media::RecordingEnd::DiskTooSlow => RecordingEnd::DiskTooSlow,
    }
}

/// Q.850 cause 16; the text tells an operator's trace why we hung up.
fn normal_clearing(why: &str) -> Reason {
    Reason {
        protocol: "Q.850".into(),
        cause: Some(16),
        text: Some(why.into()),
    }
}

/// The key in an INFO, from phones that do not send keys with the media: `Signal=5` among the lines of
/// application/dtmf-relay, or `5` alone as application/dtmf.
fn key_of_info(content_type: &str, body: &[u8]) -> Option<char> {
    let text = std::str::from_utf8(body).ok()?;
    let signal = match content_type.split(';').next()?.trim() {
        kind if kind.eq_ignore_ascii_case("application/dtmf") => text,
        kind if kind.eq_ignore_ascii_case("application/dtmf-relay") => {
            let fields = text.lines().filter_map(|line| line.split_once('='));
            let mut signals = fields.filter(|(name, _)| name.trim().eq_ignore_ascii_case("signal"));
            signals.next()?.1
        }
        _ => return None,
    };
    // Some write the number of the telephone-event (RFC 4733).
    match signal.trim() {
        "10" => Some('*'),
        "11" => Some('#'),
        signal => signal
            .parse()
            .ok()
            .filter(|key| matches!(key, '0'..='9' | '*' | '#' | 'A'..='D')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_the_infos_of_phones() {
        let relay = |body: &str| key_of_info("application/dtmf-relay", body.as_bytes());
        assert_eq!(relay("Signal=5\r\nDuration=160\r\n"), Some('5'));
        assert_eq!(relay("Duration=160\nsignal = #\n"), Some('#'));
        assert_eq!(relay("Signal= 11\r\n"), Some('#'));
        assert_eq!(relay("Signal=10"), Some('*'));
        assert_eq!(relay("Signal=hook\r\n"), None);
        assert_eq!(relay("Duration=160\r\n"), None);
        assert_eq!(key_of_info("Application/DTMF ;x=y", b"1"), Some('1'));
        assert_eq!(key_of_info("application/dtmf", b"\xff"), None);
        assert_eq!(key_of_info("text/plain", b"Signal=5"), None);
        assert_eq!(key_of_info("", b""), None);
    }
}
