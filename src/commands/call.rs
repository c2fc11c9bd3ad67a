//! `aftertone call`: places a call, plays a WAV, saves what it heard.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aftertone::caller::{CallPlan, Happened, Phone, PhoneConfig, Report, Step};
use aftertone::domain::Msisdn;
use aftertone::media::audio::{Prompt, SAMPLE_RATE, Tone, write_wav};
use aftertone::sip::Transport;
use aftertone::sip::digest::Credentials;
use aftertone::sip::message::{HeaderName, HeaderValue, Scheme, Uri};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

/// What is said where nothing else is.
const TONE_HZ: f64 = 1_000.0;
const TONE_AMPLITUDE: f64 = 0.3;
const TONE_MS: usize = 3_000;

#[derive(Args)]
#[command(after_help = "Examples:
  aftertone call sip:+4799990001@127.0.0.1
  aftertone call sip:voicemail@127.0.0.1 --to-user +4799990001 --from +4721000000 --say hello.wav
  aftertone call sips:+4799990001@voicemail.example.com --tls-ca ca.pem --hear heard.wav --json
  aftertone call sip:+4799990001@127.0.0.1 --header 'Diversion: <sip:+4799990001@a>;reason=user-busy'

The call waits for the beep, says its part, presses its digits and hangs up. Exit status: 0 where it
was answered and ended in order, 1 where it was not.")]
pub(crate) struct Call {
    /// Where to call: sip:user@host, sips:user@host
    #[arg(value_name = "SIP-URI", value_parser = sip_uri)]
    uri: Uri,
    /// Who calls: a number or a SIP URI
    #[arg(long, value_name = "URI")]
    from: Option<String>,
    /// Puts this number in the place of the URI's user
    #[arg(long, value_name = "NUMBER")]
    to_user: Option<String>,
    /// A WAV file to say after the beep [default: a tone of three seconds, or nothing with --digits]
    #[arg(long, value_name = "FILE.wav")]
    say: Option<PathBuf>,
    /// Saves what was heard
    #[arg(long, value_name = "FILE.wav")]
    hear: Option<PathBuf>,
    /// Hangs up after so many seconds at the latest
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How the media travels
    #[arg(long, value_enum, default_value_t = Media::Rtp)]
    media: Media,
    /// How SIP travels [default: tls for sips:, else what the URI says, else udp]
    #[arg(long, value_enum)]
    transport: Option<TransportName>,
    /// Keys to press after that: 0 to 9, * and #
    #[arg(long, value_name = "STR", default_value = "", value_parser = digits)]
    digits: String,
    /// One more header of the INVITE: 'Name: value'
    #[arg(long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The name that a PBX knows the caller by, where it wants a password
    #[arg(long, value_name = "NAME", requires = "password")]
    user: Option<String>,
    /// The password to that name
    #[arg(
        long,
        value_name = "PASSWORD",
        env = "AFTERTONE_CALL_PASSWORD",
        hide_env_values = true
    )]
    password: Option<String>,
    /// Certificates that sign the other side's, in PEM [default: the system's]
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Takes any certificate of the other side
    #[arg(long)]
    tls_insecure: bool,
    /// Reports as one JSON object at the end
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Media {
    /// RTP in clear
    Rtp,
}

#[derive(Clone, Copy, ValueEnum)]
enum TransportName {
    Udp,
    Tcp,
    Tls,
    /// WebSocket, inside TLS for sips:
    Ws,
}

impl TransportName {
    const fn transport(self) -> Transport {
        match self {
            Self::Udp => Transport::Udp,
            Self::Tcp => Transport::Tcp,
            Self::Tls => Transport::Tls,
            Self::Ws => Transport::Ws,
        }
    }
}

pub(crate) async fn run(call: Call, out: &mut impl Write) -> anyhow::Result<()> {
    let Media::Rtp = call.media;
    let config = PhoneConfig {
        transport: transport(&call)?,
        tls_ca: call.tls_ca.clone(),
        tls_insecure: call.tls_insecure,
    };
    let plan = plan(&call)?;
    let phone = Phone::start(&config, &plan.target, crate::commands::random()?).await?;
    let mut told = Ok(());
    let report = phone
        .call(&plan, |step| {
            if !call.json && told.is_ok() {
                told = writeln!(out, "{:>7} ms  {}", step.ms, sentence(&step.happened));
            }
        })
        .await;
    phone.stop().await;
    let report = report?;
    told?;
    if let Some(path) = &call.hear {
        std::fs::write(path, write_wav(&report.heard))
            .with_context(|| format!("\"{}\" cannot be written", path.display()))?;
    }
    if call.json {
        writeln!(out, "{:#}", as_json(&report))?;
    }
    if !report.is_completed() {
        let last = report.steps.last();
        let last = last.map_or("nothing happened".into(), |step| sentence(&step.happened));
        bail!("the call was not completed; {last}");
    }
    Ok(())
}

fn plan(call: &Call) -> anyhow::Result<CallPlan> {
    let mut target = call.uri.clone();
    if let Some(user) = &call.to_user {
        target.user = Some(user.as_str().into());
    }
    let say = match &call.say {
        Some(path) => Some(read_prompt(path)?),
        None if call.digits.is_empty() => Some(Prompt::from_samples(
            Tone::new(TONE_HZ, TONE_AMPLITUDE).take_ms(TONE_MS),
        )),
        None => None,
    };
    Ok(CallPlan {
        from: call
            .from
            .as_deref()
            .map(|from| caller(from, &target))
            .transpose()?,
        headers: call.headers.clone(),
        credentials: call
            .user
            .clone()
            .zip(call.password.clone())
            .map(|(username, password)| Credentials { username, password }),
        say: say.map(Arc::new),
        digits: call.digits.clone(),
        longest: Duration::from_secs(call.seconds),
        ..CallPlan::to(target)
    })
}

fn read_prompt(path: &Path) -> anyhow::Result<Prompt> {
    let file = std::fs::read(path)
        .with_context(|| format!("--say: \"{}\" cannot be read", path.display()))?;
    Prompt::from_wav(&file)
        .with_context(|| format!("--say: \"{}\" is no usable WAV", path.display()))
}

/// A number calls from the host that it calls.
fn caller(from: &str, target: &Uri) -> anyhow::Result<Uri> {
    if let Ok(number) = Msisdn::parse(from) {
        return Ok(Uri::sip(Some(number.e164()), target.host.clone(), None));
    }
    match Uri::parse(from) {
        Ok(uri) if !matches!(uri.scheme, Scheme::Other(_)) => Ok(uri),
        _ => bail!("--from: \"{from}\" is neither a number such as +4721000000 nor a SIP URI"),
    }
}

fn transport(call: &Call) -> anyhow::Result<Transport> {
    let named = match (call.transport, call.uri.params.value("transport")) {
        (Some(name), _) => Some(name.transport()),
        (None, Some(name)) => Some(Transport::from_name(name).with_context(|| {
            format!("the transport {name} of the URI is not known; use udp, tcp, tls or ws")
        })?),
        (None, None) => None,
    };
    match (named, &call.uri.scheme) {
        (Some(Transport::Udp), Scheme::Sips) => {
            bail!("a sips: URI is never called over UDP; leave --transport out")
        }
        (Some(Transport::Ws | Transport::Wss), Scheme::Sips) => Ok(Transport::Wss),
        (_, Scheme::Sips) => Ok(Transport::Tls),
        (named, _) => Ok(named.unwrap_or(Transport::Udp)),
    }
}

fn sentence(happened: &Happened) -> String {
    match happened {
        Happened::Inviting => "calling".into(),
        Happened::Trying => "100, the other side works on it".into(),
        Happened::Ringing { status } => format!("{status}, ringing"),
        Happened::Answered { codec } => format!("answered, {codec}"),
        Happened::FirstAudio => "first audio heard".into(),
        Happened::Cue => "our turn to speak".into(),
        Happened::Said => "everything said".into(),
        Happened::Pressed => "digits pressed".into(),
        Happened::Reoffered { accepted: true } => "the media was offered anew and taken".into(),
        Happened::Reoffered { accepted: false } => "the media was offered anew and refused".into(),
        Happened::HungUp => "hung up".into(),
        Happened::PeerHungUp => "the other side hung up".into(),
        Happened::Refused { status, reason } => format!("refused: {status} {reason}"),
        Happened::Failed { why } => format!("failed: {why}"),
    }
}

fn as_json(report: &Report) -> serde_json::Value {
    let steps: &[Step] = &report.steps;
    serde_json::json!({
        "completed": report.is_completed(),
        "heard_ms": report.heard.len() as u64 * 1000 / u64::from(SAMPLE_RATE),
        "steps": steps,
    })
}

fn sip_uri(text: &str) -> Result<Uri, &'static str> {
    match Uri::parse(text) {
        Ok(uri) if matches!(uri.scheme, Scheme::Sip | Scheme::Sips) => Ok(uri),
        _ => Err("write a SIP URI such as sip:+4799990001@127.0.0.1"),
    }
}

fn digits(text: &str) -> Result<String, &'static str> {
    let is_key = |c: char| c.is_ascii_digit() || matches!(c, '*' | '#' | 'A'..='D');
    if text.chars().all(is_key) {
        Ok(text.to_owned())
    } else {
        Err("only 0 to 9, *, # and A to D are keys")
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let (name, value) = text.split_once(':').ok_or("write it as 'Name: value'")?;
    let name = name.trim();
    if name.is_empty()
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        return Err("the name of a header is letters, digits and hyphens");
    }
    Ok((HeaderName::from(name), HeaderValue::from(value.trim())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        call: Call,
    }

    fn call(arguments: &[&str]) -> Call {
        let arguments = ["call"].iter().chain(arguments);
        Arguments::try_parse_from(arguments).unwrap().call
    }

    #[test]
    fn the_number_to_call_goes_into_the_uri() {
        let plan = plan(&call(&[
            "sip:voicemail@127.0.0.1:5070",
            "--to-user",
            "+4799990001",
        ]))
        .unwrap();
        assert_eq!(plan.target.to_string(), "sip:+4799990001@127.0.0.1:5070");
    }

    #[test]
    fn a_caller_is_a_number_or_a_uri() {
        let from = |from| {
            let plan = plan(&call(&["sip:+4799990001@192.0.2.1", "--from", from]));
            plan.map(|plan| plan.from.unwrap().to_string())
        };
        assert_eq!(
            from("+47 21 00 00 00").unwrap(),
            "sip:+4721000000@192.0.2.1"
        );
        assert_eq!(
            from("sip:alice@example.com").unwrap(),
            "sip:alice@example.com"
        );
        assert!(from("alice").unwrap_err().to_string().contains("--from"));
    }

    #[test]
    fn the_transport_follows_option_then_uri_then_scheme() {
        let of = |arguments: &[&str]| transport(&call(arguments)).ok();
        assert_eq!(of(&["sip:a@b"]), Some(Transport::Udp));
        assert_eq!(of(&["sip:a@b;transport=TCP"]), Some(Transport::Tcp));
        assert_eq!(
            of(&["sip:a@b;transport=tcp", "--transport", "tls"]),
            Some(Transport::Tls)
        );
        assert_eq!(of(&["sips:a@b"]), Some(Transport::Tls));
        assert_eq!(of(&["sips:a@b;transport=tcp"]), Some(Transport::Tls));
        assert_eq!(of(&["sip:a@b", "--transport", "ws"]), Some(Transport::Ws));
        assert_eq!(of(&["sips:a@b;transport=ws"]), Some(Transport::Wss));
        assert_eq!(of(&["sips:a@b", "--transport", "udp"]), None);
        assert_eq!(of(&["sip:a@b;transport=sctp"]), None);
    }

    #[test]
    fn without_a_file_or_digits_a_tone_is_said() {
        let tone = plan(&call(&["sip:a@b"])).unwrap().say.unwrap();
        assert_eq!(tone.duration(), Duration::from_secs(3));
        assert!(
            plan(&call(&["sip:a@b", "--digits", "1#"]))
                .unwrap()
                .say
                .is_none()
        );
    }

    #[test]
    fn what_is_no_uri_key_or_header_is_wrong_usage() {
        for arguments in [
            vec!["tel:+4799990001"],
            vec!["sip:a@b", "--digits", "12x"],
            vec!["sip:a@b", "--header", "no value"],
            vec!["sip:a@b", "--header", "Bad Name: x"],
            vec!["sip:a@b", "--media", "webrtc"],
            vec!["sip:a@b", "--seconds", "0"],
        ] {
            let all = ["call"].iter().chain(&arguments);
            assert!(Arguments::try_parse_from(all).is_err(), "{arguments:?}");
        }
        let (name, value) = header("Diversion: <sip:a@b>;reason=user-busy").unwrap();
        assert_eq!(name, HeaderName::Diversion);
        assert_eq!(value.as_str(), Some("<sip:a@b>;reason=user-busy"));
    }
}
