//! What the service tells about itself: the log, and every metric in one list.
//!
//! A metric is used by its constant (`metrics::counter!(telemetry::CALLS, …)`), so that its name,
//! help text and labels stand here and nowhere else. Label values are `&'static str`, numbers of
//! workers or status codes: the number of series is bounded by construction.

use std::io::IsTerminal;
use std::sync::OnceLock;

use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

/// The `[log]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How a line looks.
    pub format: LogFormat,
    /// Which lines are written, in the notation of `RUST_LOG`, which comes before this setting.
    pub filter: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            filter: "info".into(),
        }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// The filter is not in the notation of `RUST_LOG`.
#[derive(Debug, thiserror::Error)]
#[error(
    "the log filter \"{filter}\" cannot be read; write a level such as `info`, or `info,aftertone::sip=debug`"
)]
pub struct InvalidFilter {
    filter: String,
    #[source]
    source: tracing_subscriber::filter::ParseError,
}

/// Starts the log on standard error. `RUST_LOG` comes before the configured filter. A second call
/// in one process changes nothing.
pub fn init_log(config: &Config) -> Result<(), InvalidFilter> {
    let filter = std::env::var("RUST_LOG")
        .ok()
        .filter(|filter| !filter.trim().is_empty())
        .unwrap_or_else(|| config.filter.clone());
    let filter = read_filter(filter)?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        // What cannot be written it would say on standard error, and panic where that is gone.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    // An error says that a log is running already, which is then the one to use.
    match config.format {
        LogFormat::Text => drop(log.try_init()),
        LogFormat::Json => drop(log.json().flatten_event(true).try_init()),
    }
    Ok(())
}

/// Reads a filter in the notation of `RUST_LOG`.
pub fn read_filter(filter: String) -> Result<EnvFilter, InvalidFilter> {
    EnvFilter::try_new(&filter).map_err(|source| InvalidFilter { filter, source })
}

/// The metrics of this process in the Prometheus text format, by [`PrometheusHandle::render`].
/// The first call starts collecting. Whoever holds the handle runs its upkeep every few seconds.
pub fn prometheus() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let mut builder = PrometheusBuilder::new();
            for metric in METRICS {
                if let Kind::Histogram(buckets) = metric.kind {
                    builder = builder
                        .set_buckets_for_metric(Matcher::Full(metric.name.into()), buckets)
                        .expect("every histogram of the list has buckets");
                }
            }
            let recorder = builder.build_recorder();
            let handle = recorder.handle();
            // An error says that the process has another recorder: it collects, this one stays empty.
            drop(metrics::set_global_recorder(recorder));
            describe_all();
            handle
        })
        .clone()
}

fn describe_all() {
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => {
                metrics::describe_counter!(metric.name, metric.unit, metric.help);
                // What has not happened yet is shown as 0, so that its first time is seen as a rise.
                if metric.labels.is_empty() {
                    metrics::counter!(metric.name).increment(0);
                }
            }
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram(_) => {
                metrics::describe_histogram!(metric.name, metric.unit, metric.help);
            }
        }
    }
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// One metric of the list.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name in the Prometheus text format.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it counts in.
    pub unit: Unit,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says, in one line.
    pub help: &'static str,
}

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Goes up only.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution, with the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

/// A short time inside the machine.
const QUICK: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
];
/// The length of something a person does.
const PERSON: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 300.0];

macro_rules! metrics_list {
    ($($(#[doc = $help:literal])+ $name:ident = $text:literal, $kind:expr, $unit:ident, [$($label:literal),*];)+) => {
        $($(#[doc = $help])+ pub const $name: &str = $text;)+

        /// Every metric of the service.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $name,
            kind: $kind,
            unit: Unit::$unit,
            labels: &[$($label),*],
            help: trimmed(concat!($($help),+)),
        }),+];

        #[cfg(test)]
        const CONSTANTS: &[(&str, &str)] = &[$((stringify!($name), $name)),+];
    };
}

/// A doc comment begins with a space.
const fn trimmed(help: &'static str) -> &'static str {
    help.trim_ascii_start()
}

metrics_list! {
    /// Always 1; the label tells which version runs.
    BUILD_INFO = "aftertone_build_info", Kind::Gauge, Count, ["version"];

    /// Calls that ended, by how they ended and the reason of that.
    CALLS = "aftertone_calls_total", Kind::Counter, Count, ["outcome", "reason"];
    /// Calls under way.
    CALLS_NOW = "aftertone_calls", Kind::Gauge, Count, [];
    /// Time from the INVITE until a stage of the call: answered, ice, dtls, first-rtp-in, first-rtp-out.
    CALL_SETUP = "aftertone_call_setup_seconds", Kind::Histogram(QUICK), Seconds, ["stage"];
    /// Calls that left no message because the caller's media never came, by what did not come about: ice, dtls, rtp.
    CALLS_WITHOUT_MEDIA = "aftertone_calls_without_media_total", Kind::Counter, Count, ["stage"];
    /// Calls by the rule that found their mailbox: request-uri, target, p-called-party-id, history-info, diversion, to, none.
    MAILBOX_RULES = "aftertone_mailbox_rule_total", Kind::Counter, Count, ["rule"];
    /// Length of the recordings that were taken.
    RECORDING = "aftertone_recording_seconds", Kind::Histogram(PERSON), Seconds, ["ended_by"];
    /// Recordings that ended, by what became of them; `waiting` is kept in the spool and tried again.
    DEPOSITS = "aftertone_deposits_total", Kind::Counter, Count, ["result"];
    /// Time from the end of a recording until it was durable and listed.
    DEPOSIT_TIME = "aftertone_deposit_seconds", Kind::Histogram(QUICK), Seconds, [];
    /// Recordings that wait in the spool for the disk or the database.
    SPOOL_WAITING = "aftertone_spool_waiting", Kind::Gauge, Count, [];

    /// What happens in the SIP core: retransmissions, timeouts, malformed input, strangers, by event.
    SIP_EVENTS = "aftertone_sip_events_total", Kind::Counter, Count, ["event"];
    /// SIP messages that could not be sent.
    SIP_UNSENT = "aftertone_sip_messages_unsent_total", Kind::Counter, Count, [];
    /// Calls refused because the service could not take them over from SIP fast enough.
    SIP_CALLS_REFUSED = "aftertone_sip_calls_refused_total", Kind::Counter, Count, [];
    /// Calls ended because their task did not take its events any more.
    SIP_CALLS_STUCK = "aftertone_sip_calls_stuck_total", Kind::Counter, Count, [];
    /// Connections of peers refused because there were too many.
    SIP_CONNECTIONS_REFUSED = "aftertone_sip_connections_refused_total", Kind::Counter, Count, [];
    /// Connections of ours that could not be opened.
    SIP_CONNECTS_FAILED = "aftertone_sip_connects_failed_total", Kind::Counter, Count, [];
    /// TLS handshakes that failed or took too long.
    SIP_TLS_FAILED = "aftertone_sip_tls_handshakes_failed_total", Kind::Counter, Count, [];
    /// WebSocket handshakes that failed, were refused or took too long.
    SIP_WEBSOCKETS_FAILED = "aftertone_sip_websocket_handshakes_failed_total", Kind::Counter, Count, [];
    /// Connections closed because a message did not end in time.
    SIP_SLOW_MESSAGES = "aftertone_sip_slow_messages_total", Kind::Counter, Count, [];
    /// Connections closed because the peer did not read.
    SIP_STALLED_WRITES = "aftertone_sip_stalled_writes_total", Kind::Counter, Count, [];
    /// Connections closed because no message could be found in what came.
    SIP_UNFRAMEABLE = "aftertone_sip_unframeable_streams_total", Kind::Counter, Count, [];
    /// Open SIP connections, by transport.
    SIP_CONNECTIONS = "aftertone_sip_connections", Kind::Gauge, Count, ["transport"];
    /// Seconds until the TLS certificate in use ends; negative when it has.
    CERTIFICATE_EXPIRY = "aftertone_certificate_expiry_seconds", Kind::Gauge, Seconds, [];

    /// Open media sessions.
    MEDIA_SESSIONS = "aftertone_media_sessions", Kind::Gauge, Count, [];
    /// Media packets received, by what became of them: taken, or the reason they were dropped.
    MEDIA_PACKETS = "aftertone_media_packets_total", Kind::Counter, Count, ["outcome"];
    /// Media packets sent.
    MEDIA_SENT = "aftertone_media_packets_sent_total", Kind::Counter, Count, [];
    /// What went wrong in the media workers: packets not sent or received, frames left out because they were late, calls ended by a defect.
    MEDIA_FAULTS = "aftertone_media_faults_total", Kind::Counter, Count, ["kind"];
    /// Frames sent, by the upper bound of how late they were (ms).
    MEDIA_LATENESS = "aftertone_media_frames_total", Kind::Counter, Count, ["late_ms"];

    /// Messages and missed calls removed because their time was over.
    EXPIRED = "aftertone_expired_total", Kind::Counter, Count, [];

    /// Requests to the identity server, by what was asked for and the result.
    OAUTH_REQUESTS = "aftertone_oauth_requests_total", Kind::Counter, Count, ["step", "result"];
    /// Sign-ins that ended, by result.
    SIGN_INS = "aftertone_sign_ins_total", Kind::Counter, Count, ["result"];

    /// Requests to the mobile core, by method (upsert, delete, consent-stream, consent-ack) and result.
    CORE_REQUESTS = "aftertone_core_requests_total", Kind::Counter, Count, ["method", "result"];
    /// Time until the mobile core answered, by method.
    CORE_TIME = "aftertone_core_request_seconds", Kind::Histogram(QUICK), Seconds, ["method"];
    /// Consent events that arrived, by what changed: added, updated, revoked, or nonsense.
    CONSENT_EVENTS = "aftertone_consent_events_total", Kind::Counter, Count, ["change"];
    /// 1 while consent events can arrive.
    CONSENT_STREAM = "aftertone_consent_stream", Kind::Gauge, Count, [];

    /// Registrations, by how they stand: live, missing (new or lapsed), refused.
    REGISTRATIONS = "aftertone_registrations", Kind::Gauge, Count, ["state"];
    /// Share of registrations that live, from 0 to 1.
    REGISTRATIONS_LIVE = "aftertone_registrations_live_ratio", Kind::Gauge, Count, [];
    /// How long the registration still lives that ends first.
    REGISTRATION_LIFE = "aftertone_registration_smallest_life_seconds", Kind::Gauge, Seconds, [];
    /// Attempts to make or renew a registration, by result.
    REGISTRATION_ATTEMPTS = "aftertone_registration_attempts_total", Kind::Counter, Count, ["result"];
    /// 1 while the core does not answer and is only asked now and then whether it is back.
    CORE_DOWN = "aftertone_core_down", Kind::Gauge, Count, [];

    /// Subscribers who left, by cause.
    DEPARTURES = "aftertone_departures_total", Kind::Counter, Count, ["cause"];
    /// Attempts at what is to be done for one who left, by step (withdraw, revoke) and result (done, failed, given-up).
    DEPARTURE_STEPS = "aftertone_departure_steps_total", Kind::Counter, Count, ["step", "result"];

    /// HTTP requests, by route template and status code.
    HTTP_REQUESTS = "aftertone_http_requests_total", Kind::Counter, Count, ["route", "status"];
    /// Time to answer an HTTP request, by route template.
    HTTP_TIME = "aftertone_http_request_seconds", Kind::Histogram(QUICK), Seconds, ["route"];
    /// Time to make a WAV of an Opus recording, or the other way round, for who asked for it.
    CONVERSION_TIME = "aftertone_conversion_seconds", Kind::Histogram(QUICK), Seconds, [];
    /// Event streams that are open.
    EVENT_STREAMS = "aftertone_event_streams", Kind::Gauge, Count, [];
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_metric_has_one_name_of_the_service_and_its_kinds_suffix() {
        let mut names = BTreeSet::new();
        for metric in METRICS {
            assert!(names.insert(metric.name), "{} twice", metric.name);
            assert!(metric.name.starts_with("aftertone_"), "{}", metric.name);
            let is_total = metric.name.ends_with("_total");
            assert_eq!(is_total, metric.kind == Kind::Counter, "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            assert!(!metric.help.starts_with(' '), "{}", metric.name);
        }
    }

    #[test]
    fn the_operations_page_lists_every_metric_and_no_other() {
        let page = include_str!("../docs/operations.md");
        let listed: BTreeSet<_> = page
            .split('`')
            .filter(|word| {
                word.starts_with("aftertone_")
                    && word.chars().all(|c| c.is_alphanumeric() || c == '_')
            })
            .collect();
        let ours: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(listed, ours);
    }

    #[test]
    fn every_metric_of_the_list_is_counted_somewhere() {
        fn sources(dir: &std::path::Path, all: &mut String) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    sources(&path, all);
                } else if !path.ends_with("telemetry.rs") {
                    all.push_str(&std::fs::read_to_string(&path).unwrap());
                }
            }
        }
        let mut all = String::new();
        sources(std::path::Path::new("src"), &mut all);
        let used: BTreeSet<_> = all
            .split("telemetry::")
            .skip(1)
            .map(|rest| {
                rest.split(|c: char| !c.is_ascii_uppercase() && c != '_')
                    .next()
                    .unwrap()
            })
            .collect();
        for (constant, name) in CONSTANTS {
            assert!(
                *constant == "BUILD_INFO" || used.contains(constant),
                "{name} is never counted"
            );
        }
    }

    #[test]
    fn what_is_counted_is_rendered_with_its_help_and_its_own_buckets() {
        let handle = prometheus();
        metrics::counter!(CALLS, "outcome" => "deposited", "reason" => "busy").increment(1);
        metrics::histogram!(RECORDING, "ended_by" => "hang-up").record(7.0);
        let text = handle.render();
        assert!(
            text.contains("# HELP aftertone_calls_total Calls that ended"),
            "{text}"
        );
        assert!(
            text.contains(r#"aftertone_calls_total{outcome="deposited",reason="busy"} 1"#),
            "{text}"
        );
        assert!(text.contains(r#"le="180""#), "{text}");
        assert!(text.contains("aftertone_build_info"), "{text}");
        assert!(text.contains("\naftertone_expired_total "), "{text}");
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_an_error_that_names_it() {
        let error = read_filter("info,sip=lots".into()).unwrap_err();
        assert!(error.to_string().contains("info,sip=lots"), "{error}");
        read_filter("info,aftertone::sip=debug".into()).unwrap();
    }
}
