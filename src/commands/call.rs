//! `aftertone call`: places a call, plays a WAV, saves what it heard.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aftertone::caller::{CallPlan, Happened, PeerIce, Phone, PhoneConfig, Report, offering};
use aftertone::domain::{MediaStage, Msisdn};
use aftertone::media::audio::{Codec, Prompt, SAMPLE_RATE, Tone, read_audio, write_wav_at};
use aftertone::media::sdp::{OfferKeying, Preferences};
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
  aftertone call sip:+4799990001@127.0.0.1 --media webrtc --codec opus,pcma
  aftertone call sips:+4799990001@voicemail.example.com:5066 --transport ws --media webrtc
  aftertone call sip:+4799990001@127.0.0.1 --header 'Diversion: <sip:+4799990001@a>;reason=user-busy'

The call waits for the beep, says its part, presses its digits and hangs up. Exit status: 0 where it
was answered, had its media and ended in order, 1 where it was not.

What is said goes at its own rate through the codec that is agreed on, and what is heard is saved at
the codec's rate: 48 kHz with Opus, 16 kHz with G.722, 8 kHz with PCMA and PCMU.")]
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
    /// A WAV or Ogg Opus file to say after the beep [default: a tone of three seconds, or nothing with --digits]
    #[arg(long, value_name = "FILE.wav")]
    say: Option<PathBuf>,
    /// Saves what was heard
    #[arg(long, value_name = "FILE.wav")]
    hear: Option<PathBuf>,
    /// Hangs up after so many seconds at the latest
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How the media travels; nothing else is taken
    #[arg(long, value_enum, default_value_t = Media::Rtp)]
    media: Media,
    /// Offers these codecs only, the first is liked best [default: all of them]
    #[arg(long, value_enum, value_name = "CODEC", value_delimiter = ',')]
    codec: Vec<CodecName>,
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
    /// SRTP, its keys in the SDP (RFC 4568), which wants --transport tls
    Sdes,
    /// What browsers and mobile cores send: ICE, DTLS-SRTP, RTP and RTCP on one port
    Webrtc,
}

impl Media {
    const fn offer(self) -> OfferKeying {
        match self {
            Self::Rtp => OfferKeying::Plain,
            Self::Sdes => OfferKeying::Sdes,
            Self::Webrtc => OfferKeying::Dtls,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum CodecName {
    Opus,
    G722,
    Pcma,
    Pcmu,
}

impl CodecName {
    const fn codec(self) -> Codec {
        match self {
            Self::Opus => Codec::Opus,
            Self::G722 => Codec::G722,
            Self::Pcma => Codec::Pcma,
            Self::Pcmu => Codec::Pcmu,
        }
    }
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
    let (heard, rate) = report.audio();
    if let Some(path) = &call.hear {
        std::fs::write(path, write_wav_at(&heard, rate))
            .with_context(|| format!("--hear: \"{}\" cannot be written", path.display()))?;
    }
    if call.json {
        writeln!(out, "{:#}", as_json(&report, rate))?;
    }
    if report.is_completed() {
        return Ok(());
    }
    let last = report.steps.last().map(|step| &step.happened);
    let what = report.failure().or(last);
    let what = what.map_or("nothing happened".into(), sentence);
    let way_out = report.failure().and_then(way_out).unwrap_or_default();
    bail!("the call was not completed; {what}{way_out}")
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
        preferences: preferences(call),
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

fn preferences(call: &Call) -> Preferences {
    let mut preferences = offering(call.media.offer());
    let mut wanted: Vec<Codec> = Vec::new();
    for codec in call.codec.iter().map(|name| name.codec()) {
        if !wanted.contains(&codec) {
            wanted.push(codec);
        }
    }
    if !wanted.is_empty() {
        preferences.codecs = wanted;
    }
    preferences
}

/// Whatever the service takes as a greeting.
fn read_prompt(path: &Path) -> anyhow::Result<Prompt> {
    let file = std::fs::read(path)
        .with_context(|| format!("--say: \"{}\" cannot be read", path.display()))?;
    let (samples, rate) = read_audio(&file)
        .with_context(|| format!("--say: \"{}\" is no usable WAV or Ogg Opus", path.display()))?;
    Ok(Prompt::at_rate(samples, rate))
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
        Happened::Answered { codec, media, ice } => {
            let media = match media {
                OfferKeying::Plain => "RTP in clear",
                OfferKeying::Sdes => "SRTP with keys of the SDP",
                OfferKeying::Dtls => "DTLS-SRTP",
            };
            let ice = match ice {
                Some(PeerIce::Lite) => ", ICE (the other side is lite)",
                Some(PeerIce::Full) => ", ICE",
                None => "",
            };
            format!("answered, {codec}, {media}{ice}")
        }
        Happened::Connected => "ICE has found a way for the media".into(),
        Happened::Secured => "the DTLS handshake is done".into(),
        Happened::NoAudio => "no audio comes any more".into(),
        Happened::FirstAudio => "first audio heard".into(),
        Happened::Cue => "our turn to speak".into(),
        Happened::Said => "everything said".into(),
        Happened::Pressed => "digits pressed".into(),
        Happened::Reoffered { accepted: true } => "the media was offered anew and taken".into(),
        Happened::Reoffered { accepted: false } => "the media was offered anew and refused".into(),
        Happened::MediaFailed { stage, why } => format!("no media ({}): {why}", stage.protocol()),
        Happened::HungUp => "hung up".into(),
        Happened::PeerHungUp => "the other side hung up".into(),
        Happened::Refused {
            status,
            reason,
            warning,
        } => {
            let said = Happened::refusal(*status, reason, warning.as_deref());
            format!("refused: {said}")
        }
        Happened::Failed { why } => format!("failed: {why}"),
    }
}

/// What to do about a failure, where that can be told.
const fn way_out(failure: &Happened) -> Option<&'static str> {
    match failure {
        Happened::Refused { status: 488, .. } => Some(
            "; it takes nothing of what was offered: try another --media or --codec, or allow it there",
        ),
        Happened::MediaFailed {
            stage: MediaStage::Ice,
            ..
        } => Some(
            "; see that UDP gets through both ways between here and the address in the other side's SDP",
        ),
        Happened::MediaFailed {
            stage: MediaStage::Dtls,
            ..
        } => Some("; see that nothing on the way holds back large UDP packets or changes the SDP"),
        Happened::MediaFailed {
            stage: MediaStage::Rtp,
            ..
        } => Some("; see that the other side sends, and that UDP gets through to this machine"),
        _ => None,
    }
}

/// `rate` is that of what was heard.
fn as_json(report: &Report, rate: u32) -> serde_json::Value {
    let answered = report.steps.iter().find_map(|step| match &step.happened {
        Happened::Answered { codec, media, .. } => Some((codec, media)),
        _ => None,
    });
    serde_json::json!({
        "completed": report.is_completed(),
        "codec": answered.map(|(codec, _)| codec),
        "media": answered.map(|(_, media)| media),
        "heard_ms": report.heard.len() as u64 * 1000 / u64::from(SAMPLE_RATE),
        "heard_rate": rate,
        "steps": report.steps,
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
    fn the_media_and_codecs_that_are_named_are_offered_and_no_others_taken() {
        let of = |arguments: &[&str]| plan(&call(arguments)).unwrap().preferences;
        let usual = of(&["sip:a@b"]);
        assert_eq!((usual.offer, usual.plain_rtp), (OfferKeying::Plain, true));
        assert_eq!(usual.codecs.first(), Some(&Codec::Opus));
        let keyed = of(&["sip:a@b", "--media", "sdes", "--codec", "pcma"]);
        assert_eq!((keyed.offer, keyed.plain_rtp), (OfferKeying::Sdes, false));
        assert_eq!((keyed.sdes, keyed.codecs), (true, vec![Codec::Pcma]));
        let several = ["--media", "webrtc", "--codec", "g722,opus,g722"];
        let several = of(&[&["sip:a@b"], &several[..]].concat());
        assert_eq!((several.offer, several.sdes), (OfferKeying::Dtls, false));
        assert_eq!(several.codecs, [Codec::G722, Codec::Opus]);
    }

    #[test]
    fn a_refusal_of_what_was_offered_tells_the_way_out() {
        let refused = |status| Happened::Refused {
            status,
            reason: "Not Acceptable Here".into(),
            warning: Some("No keys for this transport protocol".into()),
        };
        assert_eq!(
            sentence(&refused(488)),
            "refused: 488 Not Acceptable Here (No keys for this transport protocol)"
        );
        assert!(way_out(&refused(488)).unwrap().contains("--media"));
        assert_eq!(way_out(&refused(486)), None);
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
            vec!["sip:a@b", "--media", "zrtp"],
            vec!["sip:a@b", "--codec", "opus,g729"],
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
