//! An answered call: its caller waits for his turn, speaks, and hangs up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::caller::cue::{Cue, CueListener};
use crate::caller::{CallPlan, Happened, Log, Step, why};
use crate::media::sdp::{self, Offer, Preferences, SessionVersion};
use crate::media::{Chunk, MediaEvent, Session};
use crate::sip::message::StatusCode;
use crate::sip::{Dialog, DialogEnd, DialogEvent, OfferReply};

/// Without a cue in what it hears, the caller speaks after this.
const CUE_PATIENCE: Duration = Duration::from_secs(30);
/// A beep after which nothing comes for so long is over: who listens may well send nothing.
const BEEP_PATIENCE: Duration = Duration::from_millis(200);

/// An answered call.
pub(super) struct Talk {
    pub(super) dialog: Dialog,
    pub(super) session: Session,
    pub(super) heard: mpsc::Receiver<Chunk>,
    pub(super) version: SessionVersion,
    pub(super) preferences: Preferences,
    pub(super) cue: CueListener,
}

impl Talk {
    /// Waits for the beep, speaks, presses the digits, hangs up.
    pub(super) async fn follow(mut self, plan: &CallPlan, log: &mut Log<impl FnMut(&Step)>) {
        let hang_up_at = Instant::now() + plan.longest;
        let mut speak_at = Some(Instant::now() + CUE_PATIENCE);
        let mut reoffer_at = plan.reoffer_after.map(|after| Instant::now() + after);
        let ended = loop {
            let speak = speak_at;
            tokio::select! {
                event = self.dialog.next_event() => match event {
                    DialogEvent::Ended(end) => break Some(end),
                    DialogEvent::Offer { offer, reply } => self.on_offer(offer, reply),
                    DialogEvent::Confirmed { .. } | DialogEvent::Info { .. } => {}
                },
                event = self.session.next_event() => match event {
                    MediaEvent::Failed => break None,
                    MediaEvent::FirstPacket => log.note(Happened::FirstAudio),
                    MediaEvent::Played if speak_at.is_none() => {
                        if plan.say.is_some() {
                            log.note(Happened::Said);
                        }
                        if plan.digits.is_empty() {
                            break None;
                        }
                        self.press(&plan.digits, log);
                    }
                    _ => {}
                },
                Some(chunk) = self.heard.recv() => {
                    let cue = self.cue.hear(&chunk.samples);
                    log.report.heard.extend_from_slice(&chunk.samples);
                    if cue == Some(Cue::Speak) && speak_at.take().is_some() {
                        log.note(Happened::Cue);
                        self.speak(plan, log);
                    }
                    if speak_at.is_some() && self.cue.is_in_beep() {
                        speak_at = Some(Instant::now() + BEEP_PATIENCE);
                    }
                },
                () = tokio::time::sleep_until(speak.unwrap_or(hang_up_at)), if speak.is_some() => {
                    speak_at = None;
                    if self.cue.is_in_beep() {
                        log.note(Happened::Cue);
                    }
                    self.speak(plan, log);
                }
                () = tokio::time::sleep_until(reoffer_at.unwrap_or(hang_up_at)), if reoffer_at.is_some() => {
                    reoffer_at = None;
                    self.reoffer(log).await;
                }
                () = tokio::time::sleep_until(hang_up_at) => break None,
            }
        };
        self.finish(ended, log).await;
    }

    fn speak(&mut self, plan: &CallPlan, log: &mut Log<impl FnMut(&Step)>) {
        match &plan.say {
            Some(say) => self.session.play(Arc::clone(say)),
            None if plan.digits.is_empty() => {}
            None => self.press(&plan.digits, log),
        }
    }

    /// Presses keys. The call goes on until the other side hangs up, or its time is over.
    fn press(&mut self, digits: &str, log: &mut Log<impl FnMut(&Step)>) {
        log.note(match self.session.send_digits(digits) {
            Ok(()) => Happened::Pressed,
            Err(error) => Happened::Failed {
                why: error.to_string(),
            },
        });
    }

    fn on_offer(&mut self, offer: Option<Bytes>, reply: OfferReply) {
        self.version.increment();
        answer_offer(
            &mut self.session,
            self.version,
            &self.preferences,
            offer,
            reply,
        );
    }

    /// Offers anew what there is already, as peers do to refresh a session or to come back from hold.
    async fn reoffer(&mut self, log: &mut Log<impl FnMut(&Step)>) {
        self.version.increment();
        let offer = sdp::offer(self.session.local_addr(), self.version, &self.preferences);
        let answer = self.dialog.offer(offer.clone()).await;
        let params = answer
            .ok()
            .flatten()
            .map(|answer| sdp::read_answer(&offer, &answer));
        let accepted = match params {
            Some(Ok(params)) => {
                self.session.update(&params);
                true
            }
            _ => false,
        };
        log.note(Happened::Reoffered { accepted });
    }

    /// Hangs up where the other side has not, and keeps what was heard to the last.
    async fn finish(mut self, ended: Option<DialogEnd>, log: &mut Log<impl FnMut(&Step)>) {
        match ended {
            None => {
                self.dialog.send_bye(None);
                log.note(Happened::HungUp);
            }
            Some(DialogEnd::ByeReceived) => log.note(Happened::PeerHungUp),
            Some(end) => log.note(Happened::Failed { why: why(&end) }),
        }
        self.session.flush().await;
        while let Some(chunk) = self.heard.recv().await {
            log.report.heard.extend_from_slice(&chunk.samples);
        }
    }
}

/// Answers an offer that comes in an established call, and puts the session to it.
pub(crate) fn answer_offer(
    session: &mut Session,
    version: SessionVersion,
    preferences: &Preferences,
    offer: Option<Bytes>,
    reply: OfferReply,
) {
    let local = session.local_addr();
    let Some(offer) = offer else {
        reply.accept(sdp::offer(local, version, preferences));
        return;
    };
    let negotiated = Offer::parse(&offer)
        .ok()
        .and_then(|offer| offer.negotiate(preferences).ok());
    match negotiated {
        Some(negotiated) => {
            session.update(&negotiated.media);
            reply.accept(negotiated.answer(local, version));
        }
        None => reply.reject(StatusCode::NOT_ACCEPTABLE_HERE),
    }
}
