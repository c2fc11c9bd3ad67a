//! What an operator may set about media.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;

use crate::media::audio::Codec;
#[cfg(feature = "amr")]
use crate::media::audio::amr::Packing;
use crate::media::sdp::IceMode;
use crate::media::sdp::OfferKeying;
use crate::media::sdp::Preferences;
use crate::media::session::Settings;

/// The `[media]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The UDP port of the first worker; worker `i` has the port `i` above. Port 0: any.
    pub listen: SocketAddr,
    /// The address that session descriptions name, where it is another than the socket's.
    pub public_address: Option<IpAddr>,
    /// Media threads; 0: half as many as there are cores.
    pub workers: usize,
    /// At most so many ports above the workers', shared out among them, for calls that their address
    /// cannot tell apart. They are bound when they are needed; those that other programs use are
    /// left out.
    pub spare_ports: u16,
    /// A call without a first packet, RTP or RTCP, after so long is reported.
    pub first_packet_timeout_ms: u64,
    /// A call without a packet for so long is reported.
    pub running_timeout_ms: u64,
    /// Whether silence is sent all the time, for peers that take a pause for a dead line.
    pub continuous_silence: bool,
    /// How late a packet may be and still be put in its place.
    pub jitter_window_ms: u64,
    /// Whether digits are heard in the audio of peers that do not send them as telephone-events.
    pub in_band_digits: bool,
    /// The codecs we take. Their order is that of our offers; in an answer the offer's order rules.
    #[serde(deserialize_with = "codecs")]
    pub codecs: Vec<Codec>,
    /// How we take part in ICE, where the peer does.
    pub ice: IceMode,
    /// Whether keys are taken out of session descriptions (RFC 4568).
    pub sdes: bool,
    /// Whether packets are protected where the peer offers that without asking for it (RFC 8643).
    pub opportunistic_srtp: bool,
    /// Whether packets in the clear are taken.
    pub plain_rtp: bool,
    /// So old a certificate for DTLS becomes before new calls get another.
    pub certificate_days: u32,
    /// What we offer to callers that leave the offer to us.
    pub offer: OfferKeying,
}

impl Default for Config {
    fn default() -> Self {
        let preferences = Preferences::default();
        Self {
            listen: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 40_000),
            public_address: None,
            workers: 0,
            spare_ports: 4096,
            first_packet_timeout_ms: 20_000,
            running_timeout_ms: 20_000,
            continuous_silence: false,
            jitter_window_ms: 200,
            in_band_digits: false,
            codecs: preferences.codecs,
            ice: preferences.ice,
            sdes: preferences.sdes,
            opportunistic_srtp: preferences.opportunistic_srtp,
            plain_rtp: preferences.plain_rtp,
            certificate_days: 7,
            offer: preferences.offer,
        }
    }
}

/// Why [`Config`] cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// More ports than there are.
    #[error(
        "media.listen: {ports} ports from {first} on (media.workers) go beyond 65535; choose a lower port or fewer"
    )]
    Ports {
        /// The first.
        first: u16,
        /// How many.
        ports: usize,
    },
    /// More workers than is sensible.
    #[error(
        "media.workers: {0} are too many; at most {MAX_WORKERS}, 0 chooses by the number of cores"
    )]
    Workers(usize),
    /// A timeout of nothing.
    #[error("media.{0}: 0 would end every call; set at least 1")]
    Timeout(&'static str),
    /// A window larger than what is kept.
    #[error("media.jitter_window_ms: {0} is too long; at most {MAX_JITTER_WINDOW_MS}")]
    JitterWindow(u64),
    /// Nothing to agree on.
    #[error("media.codecs: there are none; name some of {}", names())]
    NoCodecs,
    /// An offer that could not be answered.
    #[error(
        "media.offer: \"rtp\" cannot be with media.plain_rtp = false; set \"webrtc\" or \"sdes\""
    )]
    OfferInTheClear,
    /// The same.
    #[error("media.offer: \"sdes\" cannot be without media.sdes = true")]
    OfferOfSdes,
}

/// More threads than this have no use.
const MAX_WORKERS: usize = 256;
/// Longer than this, the reorder window would take room from the recording.
const MAX_JITTER_WINDOW_MS: u64 = 500;

impl Config {
    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), ConfigError> {
        let workers = self.worker_count();
        if workers > MAX_WORKERS {
            return Err(ConfigError::Workers(workers));
        }
        let first = self.listen.port();
        if first != 0 && usize::from(first) + workers > 1 << 16 {
            return Err(ConfigError::Ports {
                first,
                ports: workers,
            });
        }
        if self.first_packet_timeout_ms == 0 {
            return Err(ConfigError::Timeout("first_packet_timeout_ms"));
        }
        if self.running_timeout_ms == 0 {
            return Err(ConfigError::Timeout("running_timeout_ms"));
        }
        if self.jitter_window_ms > MAX_JITTER_WINDOW_MS {
            return Err(ConfigError::JitterWindow(self.jitter_window_ms));
        }
        if self.codecs.is_empty() {
            return Err(ConfigError::NoCodecs);
        }
        match self.offer {
            OfferKeying::Plain if !self.plain_rtp => Err(ConfigError::OfferInTheClear),
            OfferKeying::Sdes if !self.sdes => Err(ConfigError::OfferOfSdes),
            _ => Ok(()),
        }
    }

    /// What we are willing to agree on with a caller.
    pub fn preferences(&self) -> Preferences {
        Preferences {
            codecs: self.codecs.clone(),
            ice: self.ice,
            sdes: self.sdes,
            opportunistic_srtp: self.opportunistic_srtp,
            plain_rtp: self.plain_rtp,
            offer: self.offer,
        }
    }

    /// The number of workers, chosen if it was left open.
    pub fn worker_count(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        match self.workers {
            0 => (cores / 2).clamp(1, MAX_WORKERS),
            workers => workers,
        }
    }

    /// The first spare port of worker `index`, or 0 for any, and how many there are.
    pub(super) fn spare_ports_of(&self, index: usize) -> (u16, u16) {
        let (spare, workers) = (usize::from(self.spare_ports), self.worker_count());
        let count = spare / workers + usize::from(index < spare % workers);
        if self.listen.port() == 0 {
            return (0, count as u16);
        }
        let before = workers + index * (spare / workers) + index.min(spare % workers);
        let first = usize::from(self.listen.port()) + before;
        let count = count.min((1_usize << 16).saturating_sub(first));
        (first as u16, count as u16)
    }

    pub(super) fn settings(&self) -> Settings {
        Settings {
            first_packet_timeout: Duration::from_millis(self.first_packet_timeout_ms),
            running_timeout: Duration::from_millis(self.running_timeout_ms),
            continuous_silence: self.continuous_silence,
            jitter_window: Duration::from_millis(self.jitter_window_ms),
            in_band_digits: self.in_band_digits,
        }
    }
}

/// The codecs by the names that the configuration has for them.
const CODECS: &[(&str, &[Codec])] = &[
    ("opus", &[Codec::Opus]),
    ("g722", &[Codec::G722]),
    ("pcma", &[Codec::Pcma]),
    ("pcmu", &[Codec::Pcmu]),
    #[cfg(feature = "amr")]
    (
        "amr",
        &[
            Codec::Amr(Packing::OctetAligned),
            Codec::Amr(Packing::BandwidthEfficient),
        ],
    ),
    #[cfg(feature = "amr")]
    (
        "amr-wb",
        &[
            Codec::AmrWb(Packing::OctetAligned),
            Codec::AmrWb(Packing::BandwidthEfficient),
        ],
    ),
];

fn names() -> String {
    let names: Vec<_> = CODECS.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

/// Reads a list of names.
fn codecs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Codec>, D::Error> {
    let mut codecs: Vec<Codec> = Vec::new();
    for wanted in Vec::<String>::deserialize(deserializer)? {
        let known = CODECS.iter().find(|(name, _)| *name == wanted);
        let Some((_, known)) = known else {
            let all = names();
            let message = format!("media.codecs: {wanted:?} is not among {all}");
            return Err(D::Error::custom(message));
        };
        let new = known.iter().filter(|codec| !codecs.contains(codec));
        let new: Vec<_> = new.copied().collect();
        codecs.extend(new);
    }
    Ok(codecs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_section_is_the_default_and_unknown_keys_are_refused() {
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
        let error = toml::from_str::<Config>("jitter_ms = 3").unwrap_err();
        assert!(error.to_string().contains("jitter_ms"), "{error}");
    }

    #[test]
    fn errors_name_the_setting() {
        let check = |text: &str| toml::from_str::<Config>(text).unwrap().check();
        let message = |text: &str| check(text).unwrap_err().to_string();
        assert_eq!(check("listen = '0.0.0.0:0'\nspare_ports = 60000"), Ok(()));
        assert!(message("listen = '127.0.0.1:65535'\nworkers = 2").starts_with("media.listen:"));
        assert!(message("workers = 5000").starts_with("media.workers:"));
        assert!(message("running_timeout_ms = 0").starts_with("media.running_timeout_ms:"));
        assert!(message("first_packet_timeout_ms = 0").contains("first_packet_timeout_ms"));
        assert!(message("jitter_window_ms = 5000").starts_with("media.jitter_window_ms:"));
        assert!(message("codecs = []").starts_with("media.codecs:"));
        assert!(message("plain_rtp = false").starts_with("media.offer:"));
        assert!(message("offer = 'sdes'").starts_with("media.offer:"));
        assert_eq!(check("plain_rtp = false\noffer = 'webrtc'"), Ok(()));
        assert_eq!(check("offer = 'sdes'\nsdes = true"), Ok(()));
        let unknown = toml::from_str::<Config>("codecs = ['g729']").unwrap_err();
        assert!(
            unknown
                .to_string()
                .contains("\"g729\" is not among opus, g722")
        );
    }

    #[test]
    fn what_is_set_is_what_is_negotiated() {
        assert_eq!(Config::default().preferences(), Preferences::default());
        let text = "codecs = ['pcmu', 'opus', 'pcmu']\nice = 'full'\nsdes = true\n\
                    opportunistic_srtp = true\nplain_rtp = false\noffer = 'webrtc'";
        let config: Config = toml::from_str(text).unwrap();
        let expected = Preferences {
            codecs: vec![Codec::Pcmu, Codec::Opus],
            ice: IceMode::Full,
            sdes: true,
            opportunistic_srtp: true,
            plain_rtp: false,
            offer: OfferKeying::Dtls,
        };
        assert_eq!(config.preferences(), expected);
    }

    #[test]
    fn spare_ports_are_shared_out_without_a_rest() {
        let config = Config {
            workers: 3,
            spare_ports: 16,
            ..Config::default()
        };
        assert_eq!(
            [0, 1, 2].map(|worker| config.spare_ports_of(worker)),
            [(40_003, 6), (40_009, 5), (40_014, 5)]
        );
        let high = Config {
            listen: "127.0.0.1:65530".parse().unwrap(),
            ..config
        };
        assert_eq!(high.check(), Ok(()));
        assert_eq!([0, 1].map(|worker| high.spare_ports_of(worker).1), [3, 0]);
    }
}
