//! What lies in a box: messages, with what is known of their audio and of their calls, and calls that
//! left none.

use serde::{Deserialize, Serialize};

use crate::domain::{
    Caller, DivertReason, MessageId, Msisdn, RecordingEnd, SubscriberId, Timestamp,
};

/// How a recording lies in the store: as it was received, where that is smaller or better than PCM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AudioFormat {
    /// A WAV file of linear samples, 16 bit.
    WavPcm,
    /// A WAV file of G.711 µ-law bytes.
    WavPcmu,
    /// A WAV file of G.711 A-law bytes.
    WavPcma,
    /// Opus packets as they came, in Ogg (RFC 7845).
    OggOpus,
}

impl AudioFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::WavPcm, Self::WavPcmu, Self::WavPcma, Self::OggOpus];

    /// The name used in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WavPcm => "wav-pcm",
            Self::WavPcmu => "wav-pcmu",
            Self::WavPcma => "wav-pcma",
            Self::OggOpus => "ogg-opus",
        }
    }

    /// The reverse of [`AudioFormat::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == name)
    }

    /// How the name of such a file ends.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::WavPcm | Self::WavPcmu | Self::WavPcma => "wav",
            Self::OggOpus => "ogg",
        }
    }
}

/// A finished recording as it lies in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAudio {
    /// What kind of file.
    pub format: AudioFormat,
    /// What the caller sent: `opus`, `G722`, `PCMA` or `PCMU`; several, in the order in which they came
    /// first, with commas between. `None` where that was not noted.
    pub codec: Option<String>,
    /// Samples a second of the WAV that is made of it.
    pub sample_rate: u32,
    /// Samples of the WAV that is made of it: the exact length.
    pub samples: u64,
    /// Size of the file.
    pub stored_bytes: u64,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// What of it never arrived.
    pub losses: Losses,
}

impl StoredAudio {
    /// Before the samples of a WAV of linear samples.
    const WAV_HEAD_BYTES: u64 = 44;

    /// Size of it as a WAV of linear samples, 16 bit.
    pub const fn wav_bytes(&self) -> u64 {
        match self.format {
            AudioFormat::WavPcm => self.stored_bytes,
            AudioFormat::WavPcmu | AudioFormat::WavPcma | AudioFormat::OggOpus => {
                Self::WAV_HEAD_BYTES.saturating_add(self.samples.saturating_mul(2))
            }
        }
    }

    /// Samples in such a WAV of `bytes`.
    pub const fn samples_of_wav(bytes: u64) -> u64 {
        bytes.saturating_sub(Self::WAV_HEAD_BYTES) / 2
    }

    /// Length in milliseconds.
    pub fn duration_ms(&self) -> u32 {
        let ms = self.samples.saturating_mul(1000) / u64::from(self.sample_rate.max(1));
        u32::try_from(ms).unwrap_or(u32::MAX)
    }
}

/// A piece of a recording that never arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Where it begins, from the beginning of the recording.
    pub at_ms: u32,
    /// How long it is.
    pub duration_ms: u32,
}

/// What of a recording never arrived; a caller's silence is no loss.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Losses {
    /// All of it together, also what is not listed.
    pub lost_ms: u32,
    /// Where, in the order of time; at most [`Losses::MOST_GAPS`], the first.
    pub gaps: Vec<Gap>,
}

impl Losses {
    /// So many gaps are kept; who lost more knows enough by the sum.
    pub const MOST_GAPS: usize = 200;

    /// Of gaps in the order of time.
    pub fn new(gaps: impl IntoIterator<Item = Gap>) -> Self {
        let mut losses = Self::default();
        for gap in gaps {
            losses.lost_ms = losses.lost_ms.saturating_add(gap.duration_ms);
            if losses.gaps.len() < Self::MOST_GAPS {
                losses.gaps.push(gap);
            }
        }
        losses
    }
}

/// When the stages of a call were reached, in milliseconds from its INVITE. `None`: not reached, or no
/// part of this call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SetupTimes {
    /// The call was answered.
    pub answered_ms: Option<u32>,
    /// ICE found a way to the caller (RFC 8445).
    pub ice_ms: Option<u32>,
    /// The keys of the media were agreed on (RFC 5764).
    pub dtls_ms: Option<u32>,
    /// The caller's first media packet arrived.
    pub first_rtp_in_ms: Option<u32>,
    /// Our first media packet was sent.
    pub first_rtp_out_ms: Option<u32>,
}

/// What has to come about, one after the other, before the other side can be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MediaStage {
    /// A way to it (ICE).
    Ice,
    /// Keys (DTLS).
    Dtls,
    /// Media packets from it (RTP).
    Rtp,
}

impl MediaStage {
    /// The name used in the database, the API and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ice => "ice",
            Self::Dtls => "dtls",
            Self::Rtp => "rtp",
        }
    }

    /// The protocol by which it comes about, as people write it.
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::Ice => "ICE",
            Self::Dtls => "DTLS",
            Self::Rtp => "RTP",
        }
    }

    /// The reverse of [`MediaStage::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Ice, Self::Dtls, Self::Rtp]
            .into_iter()
            .find(|stage| stage.as_str() == name)
    }
}

/// What is deposited: the facts of a finished recording whose audio is already durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// Chosen when the recording began.
    pub id: MessageId,
    /// Whose message it is.
    pub subscriber: SubscriberId,
    /// The called number, as resolved.
    pub to: Msisdn,
    /// The caller.
    pub caller: Caller,
    /// Why the call came to us.
    pub reason: DivertReason,
    /// When the recording began.
    pub received_at: Timestamp,
    /// The recording.
    pub audio: StoredAudio,
    /// What ended it.
    pub ended_by: RecordingEnd,
    /// How the call came about.
    pub setup: SetupTimes,
}

/// A message as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What was deposited.
    pub facts: NewMessage,
    /// Whether the subscriber has heard it.
    pub read: bool,
    /// Counts every change of the row; the base of `ETag` and `If-Match`.
    pub version: i64,
}

/// A call that reached us and left no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissedCall {
    /// Same id space as messages: a recording that was too short keeps its id.
    pub id: MessageId,
    /// Whose mailbox was called.
    pub subscriber: SubscriberId,
    /// The caller.
    pub caller: Caller,
    /// Why the call came to us.
    pub reason: DivertReason,
    /// When.
    pub received_at: Timestamp,
    /// Why there is no message: `too-short`, `abandoned`, `mailbox-full`, `no-media`,
    /// `interrupted`.
    pub cause: String,
    /// Where the caller's media never came: what did not come about.
    pub failed_stage: Option<MediaStage>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_as_what_it_names() {
        for format in AudioFormat::ALL {
            assert_eq!(AudioFormat::from_name(format.as_str()), Some(format));
        }
        for stage in [MediaStage::Ice, MediaStage::Dtls, MediaStage::Rtp] {
            assert_eq!(MediaStage::from_name(stage.as_str()), Some(stage));
            let written = serde_json::to_value(stage).unwrap();
            assert_eq!(written, stage.as_str());
        }
        assert_eq!(AudioFormat::from_name("mp3"), None);
        assert_eq!(MediaStage::from_name("sip"), None);
    }

    #[test]
    fn losses_are_summed_beyond_what_is_listed() {
        let gap = |n: u32| Gap {
            at_ms: 100 * n,
            duration_ms: 20,
        };
        let losses = Losses::new((0..250).map(gap));
        assert_eq!(losses.lost_ms, 250 * 20);
        assert_eq!(losses.gaps.len(), Losses::MOST_GAPS);
        assert_eq!(losses.gaps.last(), Some(&gap(199)));
        assert_eq!(Losses::new([]), Losses::default());
    }
}
