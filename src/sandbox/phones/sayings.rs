//! What the simulated phones and callers say.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;

use crate::media::audio::{Prompt, Tone};

const PHONE: &[u8] = include_bytes!("../../../assets/sandbox/phone.wav");
const CALLER: &[u8] = include_bytes!("../../../assets/sandbox/caller.wav");

const TONE_HZ: f64 = 1_000.0;
const TONE_AMPLITUDE: f64 = 0.3;
const TONE_MS: usize = 3_000;

/// What a simulated caller says when it is his turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Say {
    /// A few words.
    #[default]
    Words,
    /// A tone of three seconds, which is measured easily.
    Tone,
    /// Nothing: he listens until the other side hangs up.
    Nothing,
}

impl Say {
    /// All of them, for forms.
    pub(crate) const ALL: [Self; 3] = [Self::Words, Self::Tone, Self::Nothing];

    /// Its name in forms and in the control API.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Words => "words",
            Self::Tone => "tone",
            Self::Nothing => "nothing",
        }
    }

    /// What it is, for the page.
    pub(crate) const fn explained(self) -> &'static str {
        match self {
            Self::Words => "asks to be called back",
            Self::Tone => "whistles for three seconds",
            Self::Nothing => "says nothing and listens",
        }
    }
}

impl fmt::Display for Say {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no [`Say`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a caller says words, tone or nothing")]
pub(crate) struct UnknownSay;

impl FromStr for Say {
    type Err = UnknownSay;

    fn from_str(name: &str) -> Result<Self, UnknownSay> {
        let mut all = Self::ALL.into_iter();
        all.find(|say| say.as_str() == name).ok_or(UnknownSay)
    }
}

/// The recordings, ready to be played.
pub(crate) struct Sayings {
    phone: Arc<Prompt>,
    words: Arc<Prompt>,
    tone: Arc<Prompt>,
}

impl Sayings {
    pub(crate) fn read() -> Self {
        let recording = |file| Prompt::from_wav(file).expect("the recording is a WAV of ours");
        let tone = Tone::new(TONE_HZ, TONE_AMPLITUDE).take_ms(TONE_MS);
        Self {
            phone: Arc::new(recording(PHONE)),
            words: Arc::new(recording(CALLER)),
            tone: Arc::new(Prompt::from_samples(tone)),
        }
    }

    /// What a phone says that answers.
    pub(crate) fn of_phone(&self) -> Arc<Prompt> {
        self.phone.clone()
    }

    pub(crate) fn of_caller(&self, say: Say) -> Option<Arc<Prompt>> {
        match say {
            Say::Words => Some(self.words.clone()),
            Say::Tone => Some(self.tone.clone()),
            Say::Nothing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recordings_are_there_and_every_name_is_found() {
        let sayings = Sayings::read();
        assert!(sayings.of_phone().duration().as_secs() >= 2);
        for say in Say::ALL {
            assert_eq!(say.to_string().parse(), Ok(say));
            assert_eq!(sayings.of_caller(say).is_none(), say == Say::Nothing);
        }
        assert_eq!("poem".parse::<Say>(), Err(UnknownSay));
    }
}
