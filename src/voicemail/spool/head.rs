//! The head of a spool file: the call's facts, and how its recording ended.

use serde::{Deserialize, Serialize};

use crate::domain::{
    Caller, DivertReason, MediaStage, Msisdn, Private, RecordingEnd, SetupTimes, Timestamp,
};
use crate::voicemail::spool::{Body, HEAD_BYTES, MissedCause, SpoolEnd, SpoolFacts};

/// The head as it stands in the file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) aftertone_spool: u8,
    id: String,
    subscriber: String,
    to: String,
    from: Option<String>,
    from_name: Option<String>,
    reason: DivertReason,
    received_at_ms: i64,
    pub(super) end: Option<End>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct End {
    ended_by: RecordingEnd,
    /// In ticks; in the former version, in samples.
    #[serde(alias = "samples")]
    ticks: u64,
    missed: Option<MissedCause>,
    #[serde(default)]
    failed_stage: Option<MediaStage>,
    #[serde(default)]
    setup: SetupTimes,
}

impl From<SpoolEnd> for End {
    fn from(end: SpoolEnd) -> Self {
        let SpoolEnd {
            ended_by,
            ticks,
            missed,
            failed_stage,
            setup,
        } = end;
        Self {
            ended_by,
            ticks,
            missed,
            failed_stage,
            setup,
        }
    }
}

impl End {
    pub(super) fn into_spool_end(self, body: Body) -> SpoolEnd {
        SpoolEnd {
            ended_by: self.ended_by,
            ticks: self.ticks.saturating_mul(body.unit()),
            missed: self.missed,
            failed_stage: self.failed_stage,
            setup: self.setup,
        }
    }
}

impl Head {
    /// What follows the head is a log since version 2.
    pub(super) const VERSION: u8 = 2;
    /// A display name longer than this is cut, so that the head always fits its block.
    const NAME_CHARS_MAX: usize = 200;

    pub(super) fn new(facts: &SpoolFacts) -> Self {
        let name = facts.caller.name.as_ref();
        Self {
            aftertone_spool: Self::VERSION,
            id: facts.id.to_string(),
            subscriber: facts.subscriber.to_string(),
            to: facts.to.e164().to_owned(),
            from: facts
                .caller
                .number
                .as_ref()
                .map(|number| number.e164().to_owned()),
            from_name: name.map(|name| name.0.chars().take(Self::NAME_CHARS_MAX).collect()),
            reason: facts.reason,
            received_at_ms: facts.received_at.as_millis(),
            end: None,
        }
    }

    pub(super) fn facts(&self) -> Option<SpoolFacts> {
        let number = match &self.from {
            Some(from) => Some(Msisdn::parse(from).ok()?),
            None => None,
        };
        Some(SpoolFacts {
            id: self.id.parse().ok()?,
            subscriber: self.subscriber.parse().ok()?,
            to: Msisdn::parse(&self.to).ok()?,
            caller: Caller {
                number,
                name: self.from_name.clone().map(Private),
            },
            reason: self.reason,
            received_at: Timestamp::from_millis(self.received_at_ms),
        })
    }

    pub(super) fn to_block(&self) -> Vec<u8> {
        let mut block = serde_json::to_vec(self).expect("a head of texts and numbers is JSON");
        assert!(
            block.len() < HEAD_BYTES,
            "names are cut so that a head fits its block"
        );
        block.resize(HEAD_BYTES - 1, b' ');
        block.push(b'\n');
        block
    }
}
