//! The configuration: the sum of the modules' own, read from one TOML file and the environment.

mod source;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use url::Url;

use crate::domain::choice;
use crate::enrolment;
use crate::http;
use crate::http::admin;
use crate::media;
use crate::mobile_core;
use crate::oauth;
use crate::sip;
use crate::sip::message::{Host, Scheme, Uri};
use crate::telemetry;
use crate::voicemail::GreetingConfig;
use crate::voicemail::facts::Numbering;
use crate::voicemail::policy::RecordingConfig;

pub use crate::config::source::SettingError;
use crate::config::source::{PREFIX, Setting};

/// Names the configuration file where `--config` does not.
pub const FILE_VARIABLE: &str = "AFTERTONE_CONFIG";

/// The file that is read where nothing names another; it need not exist.
pub const DEFAULT_FILE: &str = "aftertone.toml";

/// Everything that can be set. An empty configuration is a service on loopback with SQLite.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The file it was read from, if any.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// Recordings and the database live here. Relative paths start at the working directory.
    pub data_dir: PathBuf,
    /// `sqlite://<path>`; by default `aftertone.db` in the data directory.
    pub database_url: Option<String>,
    /// How subscribers reach the HTTP listener from outside, for links.
    pub public_url: Option<String>,
    /// `[sip]`
    pub sip: sip::Config,
    /// `[media]`
    pub media: media::Config,
    /// `[recording]`
    pub recording: RecordingConfig,
    /// `[greeting]`
    pub greeting: GreetingConfig,
    /// `[http]`
    pub http: http::Config,
    /// `[admin]`
    pub admin: admin::Config,
    /// `[core]`
    pub core: mobile_core::Config,
    /// `[oauth]`; without it nobody signs in on the web.
    pub oauth: Option<oauth::Config>,
    /// `[enrolment]`
    pub enrolment: enrolment::Config,
    /// `[log]`
    pub log: telemetry::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file: None,
            data_dir: "data".into(),
            database_url: None,
            public_url: None,
            sip: sip::Config::default(),
            media: media::Config::default(),
            recording: RecordingConfig::default(),
            greeting: GreetingConfig::default(),
            http: http::Config::default(),
            admin: admin::Config::default(),
            core: mobile_core::Config::default(),
            oauth: None,
            enrolment: enrolment::Config::default(),
            log: telemetry::Config::default(),
        }
    }
}

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is named but cannot be read.
    #[error("the configuration file \"{}\" cannot be read; name another with --config", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A setting is unknown or of the wrong kind.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// Settings are readable, but make no sense.
    #[error("{}", .0.join("\n"))]
    Senseless(Vec<String>),
}

/// Reads other settings than the service's from a TOML file, with the same complaints: each names
/// the key, the file and the line.
#[cfg(feature = "sandbox")]
pub fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_path_buf(),
        source,
    })?;
    Ok(T::deserialize(Setting::from_toml(path, &text)?)?)
}

impl Config {
    /// Reads the file (`named`, else what `AFTERTONE_CONFIG` names, else `./aftertone.toml` if it
    /// is there) and then the environment, which wins.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let variables: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self::read(named, &variables)
    }

    fn read(named: Option<&Path>, variables: &[(String, String)]) -> Result<Self, ConfigError> {
        let from_environment = variables
            .iter()
            .find(|(name, value)| name == FILE_VARIABLE && !value.is_empty())
            .map(|(_, value)| PathBuf::from(value));
        let named = named.map(Path::to_path_buf).or(from_environment);
        let is_named = named.is_some();
        let path = named.unwrap_or_else(|| DEFAULT_FILE.into());

        let (mut settings, file) = match std::fs::read_to_string(&path) {
            Ok(text) => (Setting::from_toml(&path, &text)?, Some(path)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named => {
                (Setting::empty(), None)
            }
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        };
        let ours = variables
            .iter()
            .filter(|(name, value)| is_ours(name, value));
        settings.set_from_environment(ours.cloned())?;
        for (section, key) in SECRETS {
            settings.read_secret_file(section, key)?;
        }
        let config = Self {
            file,
            ..Self::deserialize(settings)?
        };
        let problems = config.problems();
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Senseless(problems))
        }
    }

    /// Where the database is.
    pub fn database_url(&self) -> String {
        match &self.database_url {
            Some(url) => url.clone(),
            None => format!("sqlite://{}", self.data_dir.join("aftertone.db").display()),
        }
    }

    /// How subscribers reach the HTTP listener from outside.
    pub fn public_url(&self) -> String {
        match &self.public_url {
            Some(url) => url.clone(),
            None => format!("http://{}", self.http.listen),
        }
    }

    /// The address of one of our pages, as a browser reaches it.
    pub fn page(&self, path: &str) -> Result<Url, url::ParseError> {
        Url::parse(&self.public_url())?.join(path)
    }

    /// How called and calling numbers are read. What the core is told to put before them is taken
    /// off again.
    pub fn numbering(&self) -> Numbering {
        let mut strip_prefixes = self.sip.strip_prefixes.clone();
        let core = &self.core;
        for prefix in [
            &core.mobile_originating_prefix,
            &core.mobile_terminating_prefix,
        ] {
            let mut known = strip_prefixes.iter();
            if !prefix.is_empty() && !known.any(|one| one.trim_start_matches('+') == *prefix) {
                strip_prefixes.push(prefix.clone());
            }
        }
        Numbering {
            strip_prefixes,
            default_country_code: self.sip.default_country_code.clone(),
        }
    }

    /// What is set against sense, each as a sentence with the way out.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(self.problems_of_places());
        problems.extend(problems_of_sip(&self.sip));
        problems.extend(self.media.check().err().map(|error| error.to_string()));
        problems.extend(problems_of_recording(&self.recording));
        let of_oauth = self.oauth.iter().flat_map(oauth::Config::problems);
        problems.extend(of_oauth.map(|problem| format!("oauth.{problem}")));
        problems.extend(self.core.problems());
        problems.extend(self.enrolment.problems());
        if let Err(error) = choice::language(&self.greeting.language) {
            problems.push(format!("greeting.language: {error}"));
        }
        if let Err(error) = telemetry::read_filter(self.log.filter.clone()) {
            problems.push(format!("log.filter: {error}"));
        }
        problems
    }

    fn problems_of_places(&self) -> Vec<String> {
        let is_sqlite = self
            .database_url
            .as_ref()
            .is_none_or(|url| url.starts_with("sqlite:"));
        let is_web = self
            .public_url
            .as_ref()
            .is_none_or(|url| is_web_address(url));
        let is_one = self.http.listen == self.admin.listen && self.http.listen.port() != 0;
        complaints([
            (
                self.data_dir.as_os_str().is_empty(),
                "data_dir: is empty; name the folder for recordings and the database",
            ),
            (
                !is_sqlite,
                "database_url: only SQLite is supported; write sqlite://<path of the file>",
            ),
            (
                !is_web,
                "public_url: must begin with https:// or http:// and name a host",
            ),
            (
                is_one,
                "admin.listen: is the address of http.listen; metrics are not for the public, so give it another port",
            ),
        ])
    }
}

/// The sentences whose complaint is true.
fn complaints<const N: usize>(sentences: [(bool, &str); N]) -> Vec<String> {
    let wrong = sentences.iter().filter(|(is_wrong, _)| *is_wrong);
    wrong.map(|(_, sentence)| (*sentence).to_owned()).collect()
}

fn problems_of_sip(sip: &sip::Config) -> Vec<String> {
    let is_sip_uri =
        Uri::parse(&sip.uri).is_ok_and(|uri| matches!(uri.scheme, Scheme::Sip | Scheme::Sips));
    let listens_tls = sip.listen.iter().any(|listen| listen.transport.is_secure());
    let (certificate, key) = (sip.tls_certificate.is_some(), sip.tls_private_key.is_some());
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_prefix = |text: &String| is_digits(text.strip_prefix('+').unwrap_or(text));
    let is_country = |code: &String| {
        let code = code.strip_prefix('+').unwrap_or(code);
        is_digits(code) && code.len() <= 3 && !code.starts_with('0')
    };
    let is_host = |host: &String| Host::parse(host).is_some();
    complaints([
        (
            sip.listen.is_empty(),
            "sip.listen: is empty; write where calls arrive, such as [\"udp://0.0.0.0:5060\"]",
        ),
        (
            !is_sip_uri,
            "sip.uri: must be a SIP URI such as \"sips:voicemail.example.com\"",
        ),
        (
            listens_tls && !(certificate && key),
            "sip.listen: tls:// needs sip.tls_certificate and sip.tls_private_key; set both, or leave tls:// out",
        ),
        (
            certificate != key,
            "sip.tls_certificate and sip.tls_private_key: only one of the two is set; set both or neither",
        ),
        (
            sip.trusted_peers.is_empty(),
            "sip.trusted_peers: is empty, so that nobody could call; write the networks of your core or PBX",
        ),
        (
            !sip.strip_prefixes.iter().all(is_prefix),
            "sip.strip_prefixes: must be digits, such as [\"00\"]",
        ),
        (
            !sip.default_country_code.as_ref().is_none_or(is_country),
            "sip.default_country_code: must be one to three digits, such as \"47\"",
        ),
        (
            !sip.advertised_address.as_ref().is_none_or(is_host),
            "sip.advertised_address: must be a host name or an IP address, without a port",
        ),
        (
            sip.max_calls == 0,
            "sip.max_calls: must be 1 or more, or every call would be refused",
        ),
        (
            sip.min_se_secs < 90,
            "sip.min_se_secs: must be 90 or more (RFC 4028 section 4)",
        ),
        (
            sip.session_expires_secs < sip.min_se_secs,
            "sip.session_expires_secs: must be sip.min_se_secs or more",
        ),
        (
            sip.max_message_bytes < 4096,
            "sip.max_message_bytes: must be 4096 or more; the INVITE of a mobile core is that long",
        ),
    ])
}

fn problems_of_recording(recording: &RecordingConfig) -> Vec<String> {
    complaints([
        (
            !(1..=3600).contains(&recording.max_seconds),
            "recording.max_seconds: must be from 1 to 3600 (one hour)",
        ),
        (
            recording.min_seconds >= recording.max_seconds.max(1),
            "recording.min_seconds: must be less than recording.max_seconds",
        ),
        (
            recording.silence_seconds == 1,
            "recording.silence_seconds: must be 2 or more, so that a pause does not end a message; 0 is never",
        ),
        (
            recording.keep_days > 36_500,
            "recording.keep_days: must be 36500 or less; 0 keeps messages for ever",
        ),
        (
            recording.max_messages == 0,
            "recording.max_messages: must be 1 or more, or no message could be left",
        ),
        (
            recording.max_bytes < 100_000,
            "recording.max_bytes: must be 100000 or more, or hardly a message could be left",
        ),
    ])
}

/// Settings that may also stand in a file of their own, named by `<key>_file`.
const SECRETS: &[(&[&str], &str)] = &[
    (&[], "database_url"),
    (&["oauth"], "client_secret"),
    (&["enrolment"], "token_key"),
];

fn is_web_address(url: &str) -> bool {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':']))
}

/// Whether an environment variable is meant as a setting. Kubernetes describes every service to
/// every container; a service called `aftertone` must not keep the server from starting.
fn is_ours(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let is_address = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| value.starts_with(scheme));
    let is_service_link = rest.ends_with("SERVICE_HOST")
        || rest.contains("SERVICE_PORT")
        || (rest.ends_with("PORT") && is_address)
        || rest
            .split_once("PORT_")
            .is_some_and(|(_, port)| port.starts_with(|c: char| c.is_ascii_digit()));
    name != FILE_VARIABLE && !is_service_link
}
