//! How a call comes about: which stages it reached and when, and what did not come.

use std::time::{Duration, Instant};

use tracing::Span;

use crate::domain::{MediaStage, SetupTimes};
use crate::media::Stage;
use crate::media::sdp::{Keying, MediaParams};
use crate::telemetry;
use crate::voicemail::spool::MissedCause;

/// A phone whose media come at all sends them within this from the answer.
const FIRST_PACKET_SOON: Duration = Duration::from_secs(2);

/// The stages of one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stages {
    invited: Instant,
    expects_ice: bool,
    expects_dtls: bool,
    times: SetupTimes,
}

impl Stages {
    /// Of a call whose INVITE came at `invited`.
    pub(crate) fn new(invited: Instant) -> Self {
        Self {
            invited,
            expects_ice: false,
            expects_dtls: false,
            times: SetupTimes::default(),
        }
    }

    /// What was agreed on: it tells whether ICE and DTLS are part of this call.
    pub(crate) fn agreed(&mut self, params: &MediaParams) {
        self.expects_ice = params.ice.is_some();
        self.expects_dtls = matches!(params.keying, Keying::Dtls { .. });
    }

    /// The call was answered.
    pub(crate) fn answered(&mut self, at: Instant) {
        let took = at.saturating_duration_since(self.invited);
        note(&mut self.times.answered_ms, took, "answered", "answered_ms");
    }

    /// The media reached a stage. Only the first time counts: they come about anew when they move.
    pub(crate) fn reached(&mut self, stage: Stage, at: Instant) {
        let times = &mut self.times;
        let (time, label, field) = match stage {
            Stage::IceConnected => (&mut times.ice_ms, "ice", "ice_ms"),
            Stage::DtlsDone => (&mut times.dtls_ms, "dtls", "dtls_ms"),
            Stage::FirstPacket => (
                &mut times.first_rtp_in_ms,
                "first-rtp-in",
                "first_rtp_in_ms",
            ),
            Stage::FirstSent => (
                &mut times.first_rtp_out_ms,
                "first-rtp-out",
                "first_rtp_out_ms",
            ),
        };
        note(
            time,
            at.saturating_duration_since(self.invited),
            label,
            field,
        );
    }

    /// When each stage was reached.
    pub(crate) fn times(&self) -> SetupTimes {
        self.times
    }

    /// The first of what has to come about, before a caller can be heard, that did not. A call that was
    /// never answered had no time for any of it.
    pub(crate) fn missing(&self) -> Option<MediaStage> {
        let times = &self.times;
        times.answered_ms?;
        if self.expects_ice && times.ice_ms.is_none() {
            Some(MediaStage::Ice)
        } else if self.expects_dtls && times.dtls_ms.is_none() {
            Some(MediaStage::Dtls)
        } else if times.first_rtp_in_ms.is_none() {
            Some(MediaStage::Rtp)
        } else {
            None
        }
    }

    /// Why there is no message, where a call ended by `cause` at `now`. Who hangs up because nothing of
    /// ours reaches him, or is cut off because nothing of his reached us, has not chosen to leave none.
    pub(crate) fn cause(&self, cause: MissedCause, now: Instant) -> MissedCause {
        let is_late = || {
            let since_invite = now.saturating_duration_since(self.invited);
            let answered = Duration::from_millis(self.times.answered_ms.unwrap_or(0).into());
            since_invite > answered + FIRST_PACKET_SOON
        };
        let is_no_choice = match self.missing() {
            Some(MediaStage::Ice | MediaStage::Dtls) => true,
            Some(MediaStage::Rtp) => is_late(),
            None => false,
        };
        match cause {
            MissedCause::Abandoned | MissedCause::TooShort if is_no_choice => MissedCause::NoMedia,
            cause => cause,
        }
    }

    /// Which stage is to blame where there is no message by `cause`; counts it, and tells the line that
    /// the log has of the call.
    pub(crate) fn blame(&self, cause: MissedCause) -> Option<MediaStage> {
        let failed = self.missing().filter(|_| cause == MissedCause::NoMedia)?;
        metrics::counter!(telemetry::CALLS_WITHOUT_MEDIA, "stage" => failed.as_str()).increment(1);
        Span::current().record("failed_stage", failed.as_str());
        Some(failed)
    }
}

/// What the metric (`label`) and the one line of the log (`field`) tell of a stage is written here.
fn note(time: &mut Option<u32>, took: Duration, label: &'static str, field: &'static str) {
    if time.is_none() {
        let ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        *time = Some(ms);
        metrics::histogram!(telemetry::CALL_SETUP, "stage" => label).record(took);
        Span::current().record(field, ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call that was answered after 10 ms, and then reached these stages, 10 ms after each other.
    fn call(ice: bool, dtls: bool, reached: &[Stage]) -> Stages {
        let invited = some_moment();
        let mut stages = Stages::new(invited);
        (stages.expects_ice, stages.expects_dtls) = (ice, dtls);
        stages.answered(invited + Duration::from_millis(10));
        for (n, stage) in (2..).zip(reached) {
            stages.reached(*stage, invited + n * Duration::from_millis(10));
        }
        stages
    }

    #[expect(clippy::disallowed_methods, reason = "some moment to count from")]
    fn some_moment() -> Instant {
        Instant::now()
    }

    #[test]
    fn what_is_missing_is_the_first_that_did_not_come() {
        use Stage::{DtlsDone, FirstPacket, FirstSent, IceConnected};
        for (ice, dtls, reached, missing) in [
            (true, true, &[][..], Some(MediaStage::Ice)),
            (false, true, &[], Some(MediaStage::Dtls)),
            (true, true, &[IceConnected], Some(MediaStage::Dtls)),
            (
                true,
                true,
                &[IceConnected, DtlsDone, FirstSent],
                Some(MediaStage::Rtp),
            ),
            (true, false, &[IceConnected], Some(MediaStage::Rtp)),
            (false, false, &[FirstSent], Some(MediaStage::Rtp)),
            (false, false, &[FirstPacket], None),
            (true, true, &[IceConnected, DtlsDone, FirstPacket], None),
        ] {
            assert_eq!(call(ice, dtls, reached).missing(), missing, "{reached:?}");
        }
        let unanswered = Stages::new(some_moment());
        assert_eq!(unanswered.missing(), None);
    }

    #[test]
    fn who_hangs_up_before_anything_could_reach_him_has_not_abandoned_the_call() {
        use MissedCause::{Abandoned, Interrupted, MailboxFull, NoMedia, TooShort};
        let deaf = call(true, true, &[Stage::IceConnected]);
        let at_once = deaf.invited + Duration::from_millis(50);
        assert_eq!(deaf.cause(Abandoned, at_once), NoMedia);
        assert_eq!(deaf.cause(Interrupted, at_once), Interrupted);
        assert_eq!(deaf.blame(NoMedia), Some(MediaStage::Dtls));
        assert_eq!(deaf.blame(MailboxFull), None);

        let mute = call(true, true, &[Stage::IceConnected, Stage::DtlsDone]);
        let later = mute.invited + Duration::from_millis(10) + FIRST_PACKET_SOON;
        assert_eq!(mute.cause(Abandoned, later), Abandoned);
        let later = later + Duration::from_millis(1);
        assert_eq!(mute.cause(Abandoned, later), NoMedia);
        assert_eq!(mute.cause(TooShort, later), NoMedia);
        assert_eq!(mute.blame(NoMedia), Some(MediaStage::Rtp));

        let heard = call(false, false, &[Stage::FirstPacket]);
        assert_eq!(heard.cause(TooShort, later), TooShort);
        assert_eq!(heard.blame(NoMedia), None);
    }

    #[test]
    fn times_count_from_the_invite_and_the_first_time_stays() {
        let stages = call(true, false, &[Stage::IceConnected, Stage::IceConnected]);
        let times = stages.times();
        assert_eq!(times.answered_ms, Some(10));
        assert_eq!(times.ice_ms, Some(20));
        assert_eq!(times.first_rtp_in_ms, None);
    }
}
