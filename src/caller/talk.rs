//! An answered call: its caller waits for his turn, speaks, and hangs up.

use std::ops::ControlFlow;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::caller::cue::{Cue, CueListener};
use crate::caller::report::{Happened, Log, Step};
use crate::caller::{CallPlan, why};
use crate::media::audio::Prompt;
use crate::media::sdp::{Exchange, Keying, MediaParams};
use crate::media::{self, Chunk, MediaEvent, RecordLimits, RecordingEnd, Session, Stage};
use crate::sip::message::StatusCode;
use crate::sip::{Dialog, DialogEnd, DialogEvent, OfferReply};

/// What is heard is listened to in pieces of this length, so that the cue is not missed for long.
const HEARD_EVERY: Duration = Duration::from_millis(100);
/// Without a cue in what it hears, the caller speaks after this.
const CUE_PATIENCE: Duration = Duration::from_secs(30);
/// A beep after which nothing comes for so long is over: who listens may well send nothing.
const BEEP_PATIENCE: Duration = Duration::from_millis(200);
/// What has not come about so long after the answer, when the call ends, is what was wrong with it.
const MEDIA_SOON: Duration = Duration::from_secs(5);

/// An answered call.
pub(super) struct Talk<'a, F> {
    dialog: Dialog,
    session: Session,
    exchange: Exchange,
    plan: &'a CallPlan,
    log: &'a mut Log<F>,
    heard: mpsc::Receiver<Box<Chunk>>,
    cue: CueListener,
    answered_at: Instant,
    /// `None` once the caller has spoken.
    speak_at: Option<Instant>,
    reached: Vec<Stage>,
}

/// What follows from something that happened; the end of the dialog where the other side, or nobody, hung up.
type Next = ControlFlow<Option<DialogEnd>>;

impl<'a, F: FnMut(&Step)> Talk<'a, F> {
    /// The call was answered, and `params` agreed on.
    pub(super) async fn begin(
        dialog: Dialog,
        mut session: Session,
        exchange: Exchange,
        params: &MediaParams,
        plan: &'a CallPlan,
        log: &'a mut Log<F>,
    ) -> Self {
        session.update(params);
        log.note(Happened::answered(params));
        let heard = session.record(RecordLimits {
            max: plan.longest,
            silence: None,
            end_digit: None,
            preroll: Duration::ZERO,
            chunk: HEARD_EVERY,
        });
        let answered_at = Instant::now();
        if let Some(say) = &plan.say {
            media::prepare(slice::from_ref(say), params.codec).await;
        }
        Self {
            dialog,
            session,
            exchange,
            plan,
            log,
            heard,
            cue: CueListener::default(),
            answered_at,
            speak_at: Some(answered_at + CUE_PATIENCE),
            reached: Vec::new(),
        }
    }

    /// Waits for the beep, speaks, presses the digits, hangs up.
    pub(super) async fn follow(mut self) {
        let hang_up_at = self.answered_at + self.plan.longest;
        let reoffer_after = self.plan.reoffer_after;
        let mut reoffer_at = reoffer_after.map(|after| self.answered_at + after);
        let ended = loop {
            let speak = self.speak_at;
            let next = tokio::select! {
                event = self.dialog.next_event() => self.on_dialog(event).await,
                event = self.session.next_event() => self.on_media(event),
                Some(chunk) = self.heard.recv() => self.on_heard(&chunk),
                () = sleep_until(speak.unwrap_or(hang_up_at)), if speak.is_some() => {
                    if self.cue.is_in_beep() {
                        self.log.note(Happened::Cue);
                    }
                    self.speak()
                }
                () = sleep_until(reoffer_at.unwrap_or(hang_up_at)), if reoffer_at.is_some() => {
                    reoffer_at = None;
                    self.reoffer().await
                }
                () = sleep_until(hang_up_at) => Next::Break(None),
            };
            if let Next::Break(ended) = next {
                break ended;
            }
        };
        self.finish(ended).await;
    }

    async fn on_dialog(&mut self, event: DialogEvent) -> Next {
        match event {
            DialogEvent::Ended(end) => return Next::Break(Some(end)),
            DialogEvent::Offer { offer, reply } => {
                let say = self.plan.say.as_slice();
                answer_offer(&mut self.session, &mut self.exchange, say, offer, reply).await;
            }
            DialogEvent::Confirmed { .. } | DialogEvent::Info { .. } => {}
        }
        Next::Continue(())
    }

    fn on_media(&mut self, event: MediaEvent) -> Next {
        match event {
            MediaEvent::Failed => return Next::Break(None),
            MediaEvent::LinkFailed { stage, reason } => {
                self.log.note(Happened::media_failed(stage, reason));
                return Next::Break(None);
            }
            MediaEvent::Stage { stage, .. } => self.on_stage(stage),
            MediaEvent::Played if self.speak_at.is_none() => {
                if self.plan.say.is_some() {
                    self.log.note(Happened::Said);
                }
                if self.plan.digits.is_empty() {
                    return Next::Break(None);
                }
                self.press();
            }
            MediaEvent::RecordingEnded(RecordingEnd::MediaTimeout)
            | MediaEvent::MediaTimeout { .. } => self.on_silence(),
            MediaEvent::RecordingEnded(_) | MediaEvent::Played | MediaEvent::Digit(_) => {}
        }
        Next::Continue(())
    }

    /// Only the first time counts: stages come about anew when media move.
    fn on_stage(&mut self, stage: Stage) {
        if self.reached.contains(&stage) {
            return;
        }
        self.reached.push(stage);
        match stage {
            Stage::IceConnected => self.log.note(Happened::Connected),
            Stage::DtlsDone => self.log.note(Happened::Secured),
            Stage::FirstPacket => self.log.note(Happened::FirstAudio),
            Stage::FirstSent => {}
        }
    }

    /// Nothing came for long. Who has spoken before may have fallen silent; who never has cannot be heard.
    fn on_silence(&mut self) {
        let was_heard = self.reached.contains(&Stage::FirstPacket);
        self.log.note(match was_heard {
            true => Happened::NoAudio,
            false => Happened::media_failed(Stage::FirstPacket, "no packet has come"),
        });
    }

    fn on_heard(&mut self, chunk: &Chunk) -> Next {
        let cue = self.cue.hear(self.log.hear(chunk));
        if self.speak_at.is_none() {
            return Next::Continue(());
        }
        if cue == Some(Cue::Speak) {
            self.log.note(Happened::Cue);
            return self.speak();
        }
        if self.cue.is_in_beep() {
            self.speak_at = Some(Instant::now() + BEEP_PATIENCE);
        }
        Next::Continue(())
    }

    fn speak(&mut self) -> Next {
        self.speak_at = None;
        match &self.plan.say {
            Some(say) => self.session.play(Arc::clone(say)),
            None if self.plan.digits.is_empty() => {}
            None => self.press(),
        }
        Next::Continue(())
    }

    /// Presses keys. The call goes on until the other side hangs up, or its time is over.
    fn press(&mut self) {
        self.log
            .note(match self.session.send_digits(&self.plan.digits) {
                Ok(()) => Happened::Pressed,
                Err(error) => Happened::Failed {
                    why: error.to_string(),
                },
            });
    }

    /// Offers anew what there is already, as peers do to refresh a session or to come back from hold.
    async fn reoffer(&mut self) -> Next {
        let answer = self.dialog.offer(self.exchange.offer()).await;
        let params = answer
            .ok()
            .flatten()
            .map(|answer| self.exchange.on_answer(&answer));
        let accepted = match params {
            Some(Ok(Some(params))) => {
                update(&mut self.session, self.plan.say.as_slice(), &params).await;
                true
            }
            _ => false,
        };
        self.log.note(Happened::Reoffered { accepted });
        Next::Continue(())
    }

    /// Hangs up where the other side has not, and keeps what was heard to the last.
    async fn finish(mut self, ended: Option<DialogEnd>) {
        if let Some(stage) = self.missing()
            && !self.log.has_failed()
            && self.answered_at.elapsed() >= MEDIA_SOON
        {
            let why = "it had not come about when the call ended";
            self.log.note(Happened::media_failed(stage, why));
        }
        match ended {
            None => {
                self.dialog.send_bye(None);
                self.log.note(Happened::HungUp);
            }
            Some(DialogEnd::ByeReceived) => self.log.note(Happened::PeerHungUp),
            Some(end) => self.log.note(Happened::Failed { why: why(&end) }),
        }
        self.session.flush().await;
        while let Some(chunk) = self.heard.recv().await {
            self.log.hear(&chunk);
        }
    }

    /// What was agreed on and has not come about.
    fn missing(&self) -> Option<Stage> {
        let agreed = self.exchange.agreed()?;
        let with_ice = agreed.ice.is_some().then_some(Stage::IceConnected);
        let is_dtls = matches!(agreed.keying, Keying::Dtls { .. });
        let with_dtls = is_dtls.then_some(Stage::DtlsDone);
        let mut expected = with_ice.into_iter().chain(with_dtls);
        expected.find(|stage| !self.reached.contains(stage))
    }
}

/// Answers an offer that comes in an established call, and puts the session to it. What is said goes on in the codec
/// that is agreed on.
pub(crate) async fn answer_offer(
    session: &mut Session,
    exchange: &mut Exchange,
    say: &[Arc<Prompt>],
    offer: Option<Bytes>,
    reply: OfferReply,
) {
    let Some(offer) = offer else {
        return reply.accept(exchange.offer());
    };
    match exchange.on_offer(&offer) {
        Ok((params, answer)) => {
            update(session, say, &params).await;
            reply.accept(answer);
        }
        Err(_) => reply.reject(StatusCode::NOT_ACCEPTABLE_HERE),
    }
}

/// Puts the session to what was agreed on.
pub(crate) async fn update(session: &mut Session, say: &[Arc<Prompt>], params: &MediaParams) {
    media::prepare(say, params.codec).await;
    session.update(params);
}
