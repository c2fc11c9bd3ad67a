//! The settings of the sandbox.

use std::collections::HashSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};
use url::Url;

use crate::domain::{Msisdn, Secret};
use crate::media::sdp::OfferKeying;
use crate::sip::digest::Algorithm;
use crate::sip::{ListenAddr, Transport};

/// What a simulated phone waits before it answers, where `answer-late` names no time.
const ANSWER_LATE_MS: u64 = 5_000;
/// With which every number that is configured without one registers.
const PASSWORD: &str = "sandbox";

/// Settings of the sandbox. Every key has a default, with which it runs on loopback.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the identity server and the sandbox's own pages listen (HTTP without TLS).
    pub http: SocketAddr,
    /// Where the registration API listens (gRPC without TLS).
    pub grpc: SocketAddr,
    /// Where the SIP core listens. Port 0 is any free one.
    pub sip: Vec<ListenAddr>,
    /// Origins of pages (`https://phone.example.com`) that may sign on over WebSocket. Programs that
    /// are no browsers name no origin, and always may.
    pub websocket_origins: Vec<String>,
    /// The issuer, where browsers and clients reach the identity server by another name than the
    /// address it listens on: a URL without path.
    pub issuer: Option<String>,
    /// What the operator is called on the pages.
    pub operator: String,
    /// The numbers that exist.
    pub numbers: Vec<NumberConfig>,
    /// The OAuth clients that are known.
    pub clients: Vec<ClientConfig>,
    /// How long a phone rings until the call counts as not answered, in milliseconds.
    pub ring_timeout_ms: u64,
    /// The hash functions that phones are asked for, `MD5` and `SHA-256`, the preferred one first. MD5 alone unless
    /// set: phones of today give up where anything else stands beside it.
    pub digest: Vec<Algorithm>,
    /// What simulated phones offer: `webrtc`, as mobile cores do, `sdes` or `rtp`.
    pub media: OfferKeying,
    /// How an endpoint is told why a call comes to it: `history-info`, `diversion`, `both` or `request-uri`.
    pub retargeting: Retargeting,
    /// Life of a virtual registration, in seconds.
    pub registration_secs: u64,
    /// Whether `sip:` endpoints, without TLS, may be registered beside `sips:` ones.
    pub plain_sip: bool,
    /// How long a consent event may wait for its acknowledgement, in seconds.
    pub consent_ack_secs: u64,
    /// After this a stream of consent events is ended, so that clients connect anew, in seconds.
    pub consent_stream_secs: u64,
    /// Life of an access token, in seconds.
    pub access_token_secs: u64,
    /// Life of a refresh token, in seconds; every use gives a new one.
    pub refresh_token_secs: u64,
    /// Where grants, consents and registrations outlive a restart; without it they do not.
    pub state_file: Option<PathBuf>,
    /// Certificate chain in PEM form for `tls://`; without it the sandbox makes one for localhost.
    pub tls_certificate: Option<PathBuf>,
    /// Private key of the certificate in PEM form.
    pub tls_private_key: Option<PathBuf>,
    /// Authorities in PEM form by which `sips:` endpoints are verified; the system's without it.
    pub tls_ca: Option<PathBuf>,
    /// The DNS server that is asked for `sips:` endpoints without port; the system's without it.
    pub resolver: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listen = |transport, port| ListenAddr {
            transport,
            addr: local(port),
        };
        Self {
            http: local(8070),
            grpc: local(8071),
            sip: vec![
                listen(Transport::Udp, 5070),
                listen(Transport::Tcp, 5070),
                listen(Transport::Tls, 5071),
                listen(Transport::Ws, 5072),
            ],
            websocket_origins: Vec::new(),
            issuer: None,
            operator: "Sandbox Mobile".into(),
            numbers: default_numbers(),
            clients: vec![ClientConfig::default()],
            ring_timeout_ms: 30_000,
            digest: vec![Algorithm::Md5],
            media: OfferKeying::Dtls,
            retargeting: Retargeting::default(),
            registration_secs: 3600,
            plain_sip: false,
            consent_ack_secs: 30,
            consent_stream_secs: 3600,
            access_token_secs: 3600,
            refresh_token_secs: 30 * 24 * 3600,
            state_file: None,
            tls_certificate: None,
            tls_private_key: None,
            tls_ca: None,
            resolver: None,
        }
    }
}

impl Config {
    /// What is set against sense, as a sentence with the way out.
    pub fn problem(&self) -> Option<String> {
        let mut seen = HashSet::new();
        if let Some(twice) = self.numbers.iter().find(|one| !seen.insert(&one.number)) {
            let number = twice.number.e164();
            return Some(format!("numbers: {number} is there twice; leave one out"));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = self.clients.iter().find(|one| !seen.insert(&one.id)) {
            let id = &twice.id;
            return Some(format!("clients: \"{id}\" is there twice; leave one out"));
        }
        let is_plain = |issuer: &String| {
            !issuer.ends_with('/')
                && Url::parse(issuer).is_ok_and(|url| {
                    matches!(url.scheme(), "http" | "https")
                        && url.path() == "/"
                        && url.query().is_none()
                        && url.fragment().is_none()
                })
        };
        if !self.issuer.as_ref().is_none_or(is_plain) {
            return Some(
                "issuer: must be http:// or https:// and a host, without a path or a slash at its end"
                    .into(),
            );
        }
        if self.digest.is_empty() {
            return Some(
                "digest: is empty, so that no phone could register; write [\"MD5\"]".into(),
            );
        }
        if self.registration_secs == 0 || self.access_token_secs == 0 {
            return Some(
                "registration_secs and access_token_secs: must be 1 or more, or nothing would live"
                    .into(),
            );
        }
        None
    }
}

/// How an endpoint is told why a call comes to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retargeting {
    /// History-Info, as IMS cores write it.
    #[default]
    HistoryInfo,
    /// Diversion, as gateways to older networks write it.
    Diversion,
    /// Both.
    Both,
    /// `cause` and `target` in the Request-URI.
    RequestUri,
}

/// A number that exists.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberConfig {
    /// The number, in international form.
    #[serde(deserialize_with = "msisdn")]
    pub number: Msisdn,
    /// What to call it on the pages.
    #[serde(default)]
    pub name: String,
    /// With which a phone registers as this number.
    #[serde(default = "default_password")]
    pub password: Secret,
    /// What its phone does when it is called.
    pub behaviour: Behaviour,
}

/// An OAuth client.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// `client_id`.
    pub id: String,
    /// `client_secret`, sent by HTTP Basic authentication.
    pub secret: Secret,
    /// What it is called on the consent page.
    pub name: String,
    /// Where it may ask to be sent back to. Compared letter by letter.
    pub redirect_uris: Vec<String>,
    /// Where it may ask to be sent to after a sign-out. Compared letter by letter.
    pub post_logout_redirect_uris: Vec<String>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            id: "aftertone".into(),
            secret: Secret::new("sandbox-secret"),
            name: "Aftertone voicemail".into(),
            redirect_uris: vec!["http://127.0.0.1:8080/auth/callback".into()],
            post_logout_redirect_uris: vec!["http://127.0.0.1:8080/".into()],
        }
    }
}

/// What a phone does when it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Rings, answers and speaks.
    Answer,
    /// Is in another call: 486.
    Busy,
    /// Rings and rings.
    NoAnswer,
    /// Is switched off: nothing is registered.
    Off,
    /// Rings for so long before it answers.
    AnswerLate {
        /// Milliseconds.
        after_ms: u64,
    },
    /// Answers and hangs up in the same second.
    HangUpAtOnce,
    /// Rings and is declined by its owner: 603.
    Decline,
    /// A real phone, which registers with the number and its password.
    Phone,
}

impl Behaviour {
    /// One of each, for forms.
    pub const ALL: [Self; 8] = [
        Self::Answer,
        Self::Busy,
        Self::NoAnswer,
        Self::Off,
        Self::AnswerLate {
            after_ms: ANSWER_LATE_MS,
        },
        Self::HangUpAtOnce,
        Self::Decline,
        Self::Phone,
    ];

    /// Its name, without the time of `answer-late`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Busy => "busy",
            Self::NoAnswer => "no-answer",
            Self::Off => "off",
            Self::AnswerLate { .. } => "answer-late",
            Self::HangUpAtOnce => "hang-up-at-once",
            Self::Decline => "decline",
            Self::Phone => "phone",
        }
    }

    /// What it means, for people.
    pub const fn explained(self) -> &'static str {
        match self {
            Self::Answer => "rings, answers and speaks",
            Self::Busy => "is in another call",
            Self::NoAnswer => "rings and nobody answers",
            Self::Off => "is switched off",
            Self::AnswerLate { .. } => "rings long, then answers",
            Self::HangUpAtOnce => "answers, then hangs up",
            Self::Decline => "is declined",
            Self::Phone => "is a real phone",
        }
    }
}

/// `answer-late:8000` names the milliseconds.
impl fmt::Display for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnswerLate { after_ms } => write!(f, "answer-late:{after_ms}"),
            other => f.write_str(other.as_str()),
        }
    }
}

/// A text is no [`Behaviour`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no behaviour \"{0}\"; write answer, busy, no-answer, off, answer-late, answer-late:<ms>, hang-up-at-once, decline or phone"
)]
pub struct UnknownBehaviour(String);

impl FromStr for Behaviour {
    type Err = UnknownBehaviour;

    fn from_str(text: &str) -> Result<Self, UnknownBehaviour> {
        if let Some(ms) = text.strip_prefix("answer-late:") {
            let after_ms = ms.parse().ok().filter(|ms| *ms <= 120_000);
            let after_ms = after_ms.ok_or_else(|| UnknownBehaviour(text.into()))?;
            return Ok(Self::AnswerLate { after_ms });
        }
        let mut all = Self::ALL.into_iter();
        let found = all.find(|behaviour| behaviour.as_str() == text);
        found.ok_or_else(|| UnknownBehaviour(text.into()))
    }
}

impl<'de> Deserialize<'de> for Behaviour {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

fn msisdn<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Msisdn, D::Error> {
    let text = String::deserialize(deserializer)?;
    Msisdn::parse(&text).map_err(|error| de::Error::custom(format!("\"{text}\" is {error}")))
}

fn default_password() -> Secret {
    Secret::new(PASSWORD)
}

fn default_numbers() -> Vec<NumberConfig> {
    let number = |last: u8, name: &str, behaviour| NumberConfig {
        number: Msisdn::parse(&format!("+47999900{last:02}"))
            .expect("a number written here is well-formed"),
        name: name.into(),
        password: default_password(),
        behaviour,
    };
    let late = Behaviour::AnswerLate {
        after_ms: ANSWER_LATE_MS,
    };
    vec![
        number(1, "Anna", Behaviour::Answer),
        number(2, "Bjarne", Behaviour::Busy),
        number(3, "Cecilie", Behaviour::NoAnswer),
        number(4, "David", Behaviour::Off),
        number(5, "Eva", late),
        number(6, "Fredrik", Behaviour::HangUpAtOnce),
        number(7, "Grete", Behaviour::Decline),
        number(10, "Helge", Behaviour::Phone),
        number(11, "Ingrid", Behaviour::Phone),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_against_sense_is_told() {
        assert_eq!(Config::default().problem(), None);
        for (text, setting) in [
            ("digest = []", "digest"),
            ("registration_secs = 0", "registration_secs"),
            ("issuer = \"localhost\"", "issuer"),
            ("issuer = \"http://localhost:1/path\"", "issuer"),
            ("issuer = \"http://localhost:1/\"", "issuer"),
            (
                "[[clients]]\nid = \"a\"\n[[clients]]\nid = \"a\"",
                "clients",
            ),
            (
                "[[numbers]]\nnumber = \"+471234\"\nbehaviour = \"busy\"\n\
                 [[numbers]]\nnumber = \"+471234\"\nbehaviour = \"off\"",
                "numbers",
            ),
        ] {
            let config: Config = toml::from_str(text).unwrap();
            let problem = config.problem().unwrap_or_default();
            assert!(problem.starts_with(setting), "{text}: {problem}");
        }
        let named: Config = toml::from_str("issuer = \"http://localhost:8770\"").unwrap();
        assert_eq!(named.problem(), None);
    }

    #[test]
    fn an_empty_section_is_complete_and_an_unknown_key_is_refused() {
        let config: Config = toml::from_str("").unwrap();
        let behaviours: Vec<_> = config.numbers.iter().map(|one| one.behaviour).collect();
        assert!(Behaviour::ALL.iter().all(|one| behaviours.contains(one)));
        assert!(toml::from_str::<Config>("grcp = \"127.0.0.1:1\"").is_err());
    }

    #[test]
    fn a_number_is_read_with_what_its_phone_does() {
        let config: Config = toml::from_str(
            "[[numbers]]\nnumber = \"+47 1234\"\nbehaviour = \"answer-late:100\"\npassword = \"x\"",
        )
        .unwrap();
        let [number] = &config.numbers[..] else {
            panic!("{config:?}")
        };
        assert_eq!(number.number.e164(), "+471234");
        assert_eq!(number.behaviour, Behaviour::AnswerLate { after_ms: 100 });
        for wrong in [
            "number = \"1234\"\nbehaviour = \"busy\"",
            "number = \"+471234\"\nbehaviour = \"bussy\"",
            "number = \"+471234\"\nbehaviour = \"answer-late:x\"",
            "number = \"+471234\"",
        ] {
            let text = format!("[[numbers]]\n{wrong}");
            assert!(toml::from_str::<Config>(&text).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_behaviour_reads_as_it_is_written() {
        for behaviour in Behaviour::ALL {
            assert_eq!(behaviour.to_string().parse(), Ok(behaviour));
        }
    }
}
