//! What callers hear: the service's prompts by language, and the subscribers' own greetings.

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tracing::warn;

use crate::domain::DivertReason;
use crate::media::audio::{Prompt, WavError, beep, write_wav_at};
use crate::storage::blob::Blobs;
use crate::voicemail::policy::Greeting;

/// Own greetings kept ready to play. At thirty seconds of 48 kHz each they hold about 50 MB.
const OWN_GREETINGS_KEPT: usize = 16;

/// An own greeting is read within this.
const READ_DEADLINE: Duration = Duration::from_secs(1);

/// The `[greeting]` section: what callers hear. The binary holds prompts of its own, which are
/// used for whatever is not set here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GreetingConfig {
    /// A WAV file that replaces the standard greeting, for every reason and language.
    pub file: Option<PathBuf>,
    /// A folder of prompts by language (`en/greeting.wav`, …) that are used instead of the built-in
    /// ones, each where it exists.
    pub prompts: Option<PathBuf>,
    /// Language of a new subscriber's prompts: an IETF tag such as `en` or `nb`.
    pub language: String,
}

impl Default for GreetingConfig {
    fn default() -> Self {
        Self {
            file: None,
            prompts: None,
            language: "en".into(),
        }
    }
}

/// Why the prompts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// A file cannot be read.
    #[error(
        "{setting}: {path} cannot be read: name a WAV file that exists, or leave the setting out"
    )]
    Unreadable {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is no usable WAV.
    #[error("{setting}: {path} is no usable WAV")]
    NotUsable {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: WavError,
    },
}

/// The files of a language, in the order of [`Voice`]'s prompts.
const NAMES: [&str; 6] = [
    "greeting",
    "greeting-busy",
    "greeting-no-answer",
    "greeting-unreachable",
    "mailbox-full",
    "thank-you",
];

/// A language and its files as shipped.
type Shipped = (&'static str, [&'static [u8]; 6]);

macro_rules! shipped {
    ($language:literal) => {
        (
            $language,
            [
                include_bytes!(concat!("../../prompts/", $language, "/greeting.wav")),
                include_bytes!(concat!("../../prompts/", $language, "/greeting-busy.wav")),
                include_bytes!(concat!(
                    "../../prompts/",
                    $language,
                    "/greeting-no-answer.wav"
                )),
                include_bytes!(concat!(
                    "../../prompts/",
                    $language,
                    "/greeting-unreachable.wav"
                )),
                include_bytes!(concat!("../../prompts/", $language, "/mailbox-full.wav")),
                include_bytes!(concat!("../../prompts/", $language, "/thank-you.wav")),
            ],
        )
    };
}

/// The first one speaks for languages that are not here.
const SHIPPED: [Shipped; 4] = [
    shipped!("en"),
    shipped!("nb"),
    shipped!("sv"),
    shipped!("de"),
];

/// The prompts of one language, ready to play.
struct Voice {
    language: &'static str,
    greeting: Arc<Prompt>,
    busy: Arc<Prompt>,
    no_answer: Arc<Prompt>,
    unreachable: Arc<Prompt>,
    mailbox_full: Arc<Prompt>,
    thank_you: Arc<Prompt>,
}

/// Every prompt of the service, encoded once for all calls.
pub struct Prompts {
    voices: Vec<Voice>,
    beep: Arc<Prompt>,
    /// The operator's greeting in place of the shipped ones.
    greeting: Option<Arc<Prompt>>,
    own_greetings: Mutex<VecDeque<(String, Arc<Prompt>)>>,
}

impl Prompts {
    /// The shipped prompts, with what the configuration puts in their place.
    pub fn load(config: &GreetingConfig) -> Result<Self, PromptError> {
        let greeting = match &config.file {
            None => None,
            Some(path) => {
                let file = read("greeting.file", path)?;
                Some(Arc::new(prepare("greeting.file", path, &file)?))
            }
        };
        let voices = SHIPPED
            .iter()
            .map(|shipped| Voice::load(shipped, config.prompts.as_deref()));
        Ok(Self {
            voices: voices.collect::<Result<_, _>>()?,
            beep: Arc::new(beep()),
            greeting,
            own_greetings: Mutex::new(VecDeque::new()),
        })
    }

    /// As a WAV: what callers of a subscriber without an own greeting hear when nothing is known of
    /// the reason.
    pub fn default_greeting_wav(&self, language: &str) -> Bytes {
        let greeting = self.standard_greeting(DivertReason::Unknown, language);
        write_wav_at(greeting.samples(), greeting.rate()).into()
    }

    pub(crate) fn beep(&self) -> Arc<Prompt> {
        Arc::clone(&self.beep)
    }

    pub(crate) fn mailbox_full(&self, language: &str) -> Arc<Prompt> {
        Arc::clone(&self.voice(language).mailbox_full)
    }

    pub(crate) fn thank_you(&self, language: &str) -> Arc<Prompt> {
        Arc::clone(&self.voice(language).thank_you)
    }

    /// What the plan asks for. Where a subscriber's own greeting cannot be read, the standard one
    /// that claims nothing stands in.
    pub(crate) async fn greeting(
        &self,
        greeting: &Greeting,
        language: &str,
        blobs: &Blobs,
    ) -> Arc<Prompt> {
        match greeting {
            Greeting::Standard(reason) => self.standard_greeting(*reason, language),
            Greeting::Own(key) => match self.own_greeting(key, blobs).await {
                Some(own) => own,
                None => self.standard_greeting(DivertReason::Unknown, language),
            },
        }
    }

    /// The operator's greeting, else the shipped one for the reason.
    fn standard_greeting(&self, reason: DivertReason, language: &str) -> Arc<Prompt> {
        if let Some(greeting) = &self.greeting {
            return Arc::clone(greeting);
        }
        let voice = self.voice(language);
        Arc::clone(match reason {
            DivertReason::Busy => &voice.busy,
            DivertReason::NoAnswer => &voice.no_answer,
            DivertReason::Unreachable => &voice.unreachable,
            DivertReason::Unconditional | DivertReason::Unknown => &voice.greeting,
        })
    }

    /// A blob's key never changes its content, so what was prepared once is right for ever.
    async fn own_greeting(&self, key: &str, blobs: &Blobs) -> Option<Arc<Prompt>> {
        if let Some(kept) = self.kept(key) {
            return Some(kept);
        }
        let read = async {
            let file = blobs.get(key).await?;
            let prepare = move || Prompt::from_wav(&file);
            let prompt = tokio::task::spawn_blocking(prepare)
                .await
                .map_err(io::Error::from)??;
            Ok::<_, Box<dyn Error + Send + Sync>>(Arc::new(prompt))
        };
        // The caller is waiting: a disk that is slow gives him the standard greeting.
        let read = tokio::time::timeout(READ_DEADLINE, read).await;
        match read.unwrap_or_else(|too_late| Err(too_late.into())) {
            Ok(prompt) => {
                self.keep(key, &prompt);
                Some(prompt)
            }
            Err(error) => {
                let error = &*error as &(dyn Error + 'static);
                warn!(error, "The standard greeting stands in for {key}");
                None
            }
        }
    }

    fn kept(&self, key: &str) -> Option<Arc<Prompt>> {
        let kept = self
            .own_greetings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        kept.iter()
            .find(|(k, _)| k == key)
            .map(|(_, prompt)| Arc::clone(prompt))
    }

    fn keep(&self, key: &str, prompt: &Arc<Prompt>) {
        let mut kept = self
            .own_greetings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if kept.iter().any(|(there, _)| there == key) {
            return;
        }
        if kept.len() == OWN_GREETINGS_KEPT {
            kept.pop_front();
        }
        kept.push_back((key.to_owned(), Arc::clone(prompt)));
    }

    /// By the primary subtag of an IETF tag: `nb-NO` is `nb`, and so is `no`.
    fn voice(&self, language: &str) -> &Voice {
        let primary = language
            .split(['-', '_'])
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        let primary = if matches!(primary.as_str(), "no" | "nn") {
            "nb"
        } else {
            &primary
        };
        self.voices
            .iter()
            .find(|voice| voice.language == primary)
            .unwrap_or(&self.voices[0])
    }
}

impl Voice {
    /// The files of `folder/<language>/` where they are, the shipped ones where not.
    fn load((language, files): &Shipped, folder: Option<&Path>) -> Result<Self, PromptError> {
        let load = |at: usize| {
            let own =
                folder.map(|folder| folder.join(language).join(NAMES[at]).with_extension("wav"));
            match own.filter(|path| path.exists()) {
                None => Ok(Arc::new(
                    Prompt::from_wav(files[at]).expect("a test reads every shipped file"),
                )),
                Some(path) => {
                    let file = read("greeting.prompts", &path)?;
                    Ok(Arc::new(prepare("greeting.prompts", &path, &file)?))
                }
            }
        };
        Ok(Self {
            language,
            greeting: load(0)?,
            busy: load(1)?,
            no_answer: load(2)?,
            unreachable: load(3)?,
            mailbox_full: load(4)?,
            thank_you: load(5)?,
        })
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, PromptError> {
    std::fs::read(path).map_err(|source| PromptError::Unreadable {
        setting,
        path: path.to_owned(),
        source,
    })
}

fn prepare(setting: &'static str, path: &Path, file: &[u8]) -> Result<Prompt, PromptError> {
    Prompt::from_wav(file).map_err(|source| PromptError::NotUsable {
        setting,
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_is_found_by_its_primary_tag_and_english_speaks_for_the_rest() {
        let prompts = Prompts::load(&GreetingConfig::default()).unwrap();
        for (asked, found) in [
            ("nb-NO", "nb"),
            ("no", "nb"),
            ("SV", "sv"),
            ("de_AT", "de"),
            ("fi", "en"),
            ("", "en"),
        ] {
            assert_eq!(prompts.voice(asked).language, found, "{asked}");
        }
    }

    #[test]
    fn a_greeting_file_that_is_missing_or_no_wav_is_named() {
        let with = |file: &Path| {
            let config = GreetingConfig {
                file: Some(file.to_owned()),
                ..GreetingConfig::default()
            };
            Prompts::load(&config).err().unwrap()
        };
        assert!(
            with(Path::new("/nowhere/hello.wav"))
                .to_string()
                .contains("/nowhere/hello.wav")
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(with(file.path()), PromptError::NotUsable { .. }));
    }

    #[tokio::test]
    async fn an_own_greeting_is_read_once_and_the_standard_one_stands_in_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(
            &dir.path().join("recordings"),
            &dir.path().join("conversions"),
            0,
        )
        .unwrap();
        let prompts = Prompts::load(&GreetingConfig::default()).unwrap();
        let wav = crate::media::audio::write_wav(&[100; 800]);
        blobs.put("greetings/good.wav", wav.into()).await.unwrap();
        blobs
            .put("greetings/bad.wav", Bytes::from_static(b"RIFF"))
            .await
            .unwrap();
        let heard = async |key: &str| {
            let greeting = Greeting::Own(key.to_owned());
            prompts
                .greeting(&greeting, "de", &blobs)
                .await
                .samples()
                .len()
        };
        assert_eq!(heard("greetings/good.wav").await, 800);
        blobs.delete("greetings/good.wav").await.unwrap();
        assert_eq!(heard("greetings/good.wav").await, 800);
        let standard = prompts
            .standard_greeting(DivertReason::Unknown, "de")
            .samples()
            .len();
        assert_eq!(heard("greetings/bad.wav").await, standard);
        assert_eq!(heard("greetings/missing.wav").await, standard);
    }

    #[test]
    fn the_standard_greeting_is_given_out_as_callers_hear_it() {
        let prompts = Prompts::load(&GreetingConfig::default()).unwrap();
        for language in ["en", "de"] {
            let wav = crate::media::audio::read_wav(&prompts.default_greeting_wav(language));
            let played = prompts.standard_greeting(DivertReason::Unknown, language);
            assert_eq!(wav.unwrap(), played.samples());
        }
    }

    #[test]
    fn a_folder_of_prompts_replaces_those_it_holds_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("de")).unwrap();
        let wav = crate::media::audio::write_wav(&[100; 800]);
        std::fs::write(folder.path().join("de/thank-you.wav"), wav).unwrap();
        let config = GreetingConfig {
            prompts: Some(folder.path().to_owned()),
            ..GreetingConfig::default()
        };
        let prompts = Prompts::load(&config).unwrap();
        assert_eq!(prompts.thank_you("de").samples().len(), 800);
        assert!(prompts.thank_you("en").samples().len() > 800);
        assert!(prompts.mailbox_full("de").samples().len() > 800);
    }
}
