//! What happened in a call, and what was heard in it.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::domain::MediaStage;
use crate::media::audio::SAMPLE_RATE;
use crate::media::recording::{Samples, What, records};
use crate::media::sdp::{Keying, MediaParams, OfferKeying};
use crate::media::{Chunk, Stage};

/// Something that happened in the call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Happened {
    /// The INVITE is on its way.
    Inviting,
    /// 100 came.
    Trying,
    /// Another provisional response came.
    Ringing {
        /// Which.
        status: u16,
    },
    /// The call was answered.
    Answered {
        /// The codec agreed on.
        codec: &'static str,
        /// How the packets travel.
        media: OfferKeying,
        /// How the other side does ICE, where both do.
        ice: Option<PeerIce>,
    },
    /// ICE has found a way for the media.
    Connected,
    /// The DTLS handshake is done, and the other side's certificate is the one that it told of.
    Secured,
    /// The first packet of audio came.
    FirstAudio,
    /// No audio came any more for long.
    NoAudio,
    /// The beep, or a silence that invites to speak, is over.
    Cue,
    /// Everything was said.
    Said,
    /// Every digit was pressed.
    Pressed,
    /// We offered the media anew.
    Reoffered {
        /// Whether it was taken.
        accepted: bool,
    },
    /// There will be no media, or no more.
    MediaFailed {
        /// What did not come about.
        stage: MediaStage,
        /// What was in the way.
        why: String,
    },
    /// We hung up.
    HungUp,
    /// The other side hung up.
    PeerHungUp,
    /// The call was refused.
    Refused {
        /// With this status.
        status: u16,
        /// And this reason.
        reason: String,
        /// What the other side says about it (RFC 3261 section 20.43).
        #[serde(skip_serializing_if = "Option::is_none")]
        warning: Option<String>,
    },
    /// The call failed.
    Failed {
        /// Why.
        why: String,
    },
}

/// How the other side does ICE (RFC 8445 section 2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerIce {
    /// It answers checks.
    Lite,
    /// It makes checks of its own.
    Full,
}

impl Happened {
    pub(super) fn answered(params: &MediaParams) -> Self {
        Self::Answered {
            codec: params.codec.encoding_name(),
            media: match params.keying {
                Keying::Plain | Keying::Awaited => OfferKeying::Plain,
                Keying::Sdes { .. } => OfferKeying::Sdes,
                Keying::Dtls { .. } => OfferKeying::Dtls,
            },
            ice: params.ice.as_ref().map(|ice| match ice.remote_is_lite {
                true => PeerIce::Lite,
                false => PeerIce::Full,
            }),
        }
    }

    pub(super) fn media_failed(stage: Stage, why: &str) -> Self {
        Self::MediaFailed {
            stage: match stage {
                Stage::IceConnected => MediaStage::Ice,
                Stage::DtlsDone => MediaStage::Dtls,
                Stage::FirstPacket | Stage::FirstSent => MediaStage::Rtp,
            },
            why: why.to_owned(),
        }
    }

    /// What the other side says when it refuses: status, reason, and in brackets its warning.
    pub fn refusal(status: u16, reason: &str, warning: Option<&str>) -> String {
        let warning = warning.map_or(String::new(), |text| format!(" ({text})"));
        format!("{status} {reason}{warning}")
    }

    const fn is_failure(&self) -> bool {
        matches!(
            self,
            Self::Failed { .. } | Self::Refused { .. } | Self::MediaFailed { .. }
        )
    }
}

/// What happened, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Milliseconds since the INVITE.
    pub ms: u64,
    /// What.
    #[serde(flatten)]
    pub happened: Happened,
}

/// The whole call.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What happened, in order.
    pub steps: Vec<Step>,
    /// What the caller heard, at 8 kHz.
    pub heard: Vec<i16>,
    /// The same as it was received: the log of a [recording](crate::media::recording).
    received: Vec<u8>,
}

impl Report {
    /// Whether the call was answered, had media as agreed, and ended in order.
    pub fn is_completed(&self) -> bool {
        self.was(|step| matches!(step, Happened::Answered { .. }))
            && self.was(|step| matches!(step, Happened::HungUp | Happened::PeerHungUp))
            && self.failure().is_none()
    }

    /// What went wrong first.
    pub fn failure(&self) -> Option<&Happened> {
        let mut steps = self.steps.iter().map(|step| &step.happened);
        steps.find(|step| step.is_failure())
    }

    /// When the first step of this kind came.
    pub fn when(&self, kind: impl Fn(&Happened) -> bool) -> Option<Duration> {
        let step = self.steps.iter().find(|step| kind(&step.happened))?;
        Some(Duration::from_millis(step.ms))
    }

    /// What the caller heard, and its samples per second: those of the best codec it came in.
    pub fn audio(&self) -> (Vec<i16>, u32) {
        let rates = records(&self.received).filter_map(|record| match record.what {
            What::Audio(codec, _) => Some(codec.sample_rate()),
            What::Noise(_) => None,
        });
        let rate = rates.max().unwrap_or(SAMPLE_RATE);
        let mut samples = Vec::new();
        Samples::new(rate).feed(&self.received, &mut samples);
        (samples, rate)
    }

    fn was(&self, kind: impl Fn(&Happened) -> bool) -> bool {
        self.steps.iter().any(|step| kind(&step.happened))
    }
}

/// Writes the report while the call goes on.
pub(super) struct Log<F> {
    started: Instant,
    report: Report,
    samples: Samples,
    on_step: F,
}

impl<F: FnMut(&Step)> Log<F> {
    /// Of a call that begins now.
    pub(super) fn begin(on_step: F) -> Self {
        Self {
            started: Instant::now(),
            report: Report::default(),
            samples: Samples::new(SAMPLE_RATE),
            on_step,
        }
    }

    pub(super) fn note(&mut self, happened: Happened) {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let step = Step { ms, happened };
        (self.on_step)(&step);
        self.report.steps.push(step);
    }

    /// Whether anything went wrong.
    pub(super) fn has_failed(&self) -> bool {
        self.report.failure().is_some()
    }

    /// Keeps what came, and gives the samples that are new, at 8 kHz.
    pub(super) fn hear(&mut self, chunk: &Chunk) -> &[i16] {
        let fresh = self.report.heard.len();
        self.samples.feed(&chunk.bytes, &mut self.report.heard);
        self.report.received.extend_from_slice(&chunk.bytes);
        self.report.heard.get(fresh..).unwrap_or_default()
    }

    pub(super) fn finish(self) -> Report {
        self.report
    }
}
