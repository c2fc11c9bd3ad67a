//! `aftertone call`: a caller on the same SIP and media cores as the service, and the phone of its
//! tests. It meets the service over sockets only.

mod cue;
pub(crate) mod talk;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::net::lookup_host;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::caller::cue::CueListener;
use crate::caller::talk::Talk;

use crate::media::audio::Prompt;
use crate::media::sdp::{self, MediaParams, Preferences, SessionVersion};
use crate::media::{self, Engine, RecordLimits};
use crate::sip::digest::Credentials;
use crate::sip::message::{HeaderName, HeaderValue, Host, Scheme, Uri};
use crate::sip::transport::udp::route_to;
use crate::sip::{
    self, CallError, Dialog, DialogEnd, ListenAddr, OutgoingCall, OutgoingEvent, OutgoingRequest,
    Sip, Transport,
};

/// What is heard is listened to in pieces of this length, so that the cue is not missed for long.
const HEARD_EVERY: Duration = Duration::from_millis(100);
/// How long a call that is given up before its answer may take to end.
const CANCEL_PATIENCE: Duration = Duration::from_secs(2);
/// How long the phone waits for its own BYE to be sent when it is put away.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// How the phone reaches the other side.
#[derive(Debug, Clone)]
pub struct PhoneConfig {
    /// The transport of its calls.
    pub transport: Transport,
    /// Certificates that sign the peer's, in PEM; without them the system's count.
    pub tls_ca: Option<PathBuf>,
    /// Whether any certificate of the peer will do.
    pub tls_insecure: bool,
}

/// A call to place.
#[derive(Debug, Clone)]
pub struct CallPlan {
    /// Who is called.
    pub target: Uri,
    /// Who calls, where it is not the phone itself.
    pub from: Option<Uri>,
    /// More headers of the INVITE.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// With which a proxy's challenge is answered.
    pub credentials: Option<Credentials>,
    /// What is said after the beep.
    pub say: Option<Arc<Prompt>>,
    /// What is pressed after that.
    pub digits: String,
    /// The call is hung up after this, at the latest.
    pub longest: Duration,
    /// The call is given up where it was not answered after this; else it is as `longest` says.
    pub patience: Option<Duration>,
    /// The proxy to which the call goes, where that is not at the target.
    pub route: Option<Uri>,
    /// Its Call-ID, for who must know it beforehand.
    pub call_id: Option<String>,
    /// So long after the answer the same media is offered anew.
    pub reoffer_after: Option<Duration>,
}

impl CallPlan {
    /// Calls `target` and says nothing, for a minute at the most.
    pub fn to(target: Uri) -> Self {
        Self {
            target,
            from: None,
            headers: Vec::new(),
            credentials: None,
            say: None,
            digits: String::new(),
            longest: Duration::from_secs(60),
            patience: None,
            route: None,
            call_id: None,
            reoffer_after: None,
        }
    }
}

/// Something that happened in the call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Happened {
    /// The INVITE is on its way.
    Inviting,
    /// 100 came.
    Trying,
    /// Another provisional response came.
    Ringing {
        /// Which.
        status: u16,
    },
    /// The call was answered.
    Answered {
        /// The codec agreed on.
        codec: &'static str,
    },
    /// The first packet of audio came.
    FirstAudio,
    /// The beep, or a silence that invites to speak, is over.
    Cue,
    /// Everything was said.
    Said,
    /// Every digit was pressed.
    Pressed,
    /// We offered the media anew.
    Reoffered {
        /// Whether it was taken.
        accepted: bool,
    },
    /// We hung up.
    HungUp,
    /// The other side hung up.
    PeerHungUp,
    /// The call was refused.
    Refused {
        /// With this status.
        status: u16,
        /// And this reason.
        reason: String,
    },
    /// The call failed.
    Failed {
        /// Why.
        why: String,
    },
}

/// What happened, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Milliseconds since the INVITE.
    pub ms: u64,
    /// What.
    #[serde(flatten)]
    pub happened: Happened,
}

/// The whole call.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What happened, in order.
    pub steps: Vec<Step>,
    /// What the caller heard, at 8 kHz.
    pub heard: Vec<i16>,
}

impl Report {
    /// Whether the call was answered and ended in order.
    pub fn is_completed(&self) -> bool {
        self.was(|step| matches!(step, Happened::Answered { .. }))
            && self.was(|step| matches!(step, Happened::HungUp | Happened::PeerHungUp))
    }

    /// When the first step of this kind came.
    pub fn when(&self, kind: impl Fn(&Happened) -> bool) -> Option<Duration> {
        let step = self.steps.iter().find(|step| kind(&step.happened))?;
        Some(Duration::from_millis(step.ms))
    }

    fn was(&self, kind: impl Fn(&Happened) -> bool) -> bool {
        self.steps.iter().any(|step| kind(&step.happened))
    }
}

/// Why no call could be placed.
#[derive(Debug, thiserror::Error)]
pub enum PhoneError {
    /// The name of the target has no address.
    #[error("{host} has no address: check the SIP URI")]
    NoAddress {
        /// The host of the URI.
        host: String,
    },
    /// This machine has no way there.
    #[error("there is no route to {address}")]
    NoRoute {
        /// Where to.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// SIP could not start.
    #[error("the phone's SIP side could not start")]
    Sip(#[from] sip::StartError),
    /// Media could not start.
    #[error("the phone's media side could not start")]
    Media(#[from] media::StartError),
    /// No media session could be opened.
    #[error("the phone has no media session left")]
    NoSession(#[from] media::OpenError),
    /// The call could not be placed.
    #[error("the call could not be placed")]
    Call(#[from] CallError),
}

/// A telephone.
pub struct Phone {
    sip: Sip,
    engine: Engine,
    transport: Transport,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Phone {
    /// A phone that can call `target`.
    pub async fn start(
        config: &PhoneConfig,
        target: &Uri,
        seed: [u8; 32],
    ) -> Result<Self, PhoneError> {
        let own = own_address_towards(target).await?;
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let listens_on = if config.transport == Transport::Udp {
            Transport::Udp
        } else {
            Transport::Tcp
        };
        let sip_config = sip::Config {
            listen: vec![ListenAddr {
                transport: listens_on,
                addr: SocketAddr::new(own, 0),
            }],
            uri: format!("sip:caller@{}", Host::Ip(own)),
            trusted_peers: vec![
                IpAddr::from(Ipv4Addr::UNSPECIFIED),
                Ipv6Addr::UNSPECIFIED.into(),
            ]
            .into_iter()
            .map(|any| ipnet::IpNet::new_assert(any, 0))
            .collect(),
            tls_ca: config.tls_ca.clone(),
            tls_insecure: config.tls_insecure,
            ..sip::Config::default()
        };
        // Nobody takes calls here: whoever calls this phone is refused.
        let (sip, _incoming) = Sip::start(&sip_config, &tasks, stop.clone(), seed).await?;
        let media_config = media::Config {
            listen: SocketAddr::new(own, 0),
            workers: 1,
            ..media::Config::default()
        };
        let engine = Engine::start(&media_config, seed)?;
        Ok(Self {
            sip,
            engine,
            transport: config.transport,
            tasks,
            stop,
        })
    }

    /// Places a call and follows it to its end. `on_step` hears of each step as it happens.
    pub async fn call(
        &self,
        plan: &CallPlan,
        on_step: impl FnMut(&Step),
    ) -> Result<Report, PhoneError> {
        let mut plan = plan.clone();
        let is_told_by_scheme =
            plan.target.scheme == Scheme::Sips && !self.transport.is_websocket();
        if plan.target.params.get("transport").is_none() && !is_told_by_scheme {
            let name = self.transport.uri_name();
            plan.target.params.set("transport", Some(name));
        }
        follow_call(&self.sip, &self.engine, &plan, on_step).await
    }

    /// Puts the phone away.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        // What has not ended by then dies with the process.
        drop(tokio::time::timeout(STOP_DEADLINE, self.tasks.wait()).await);
        self.engine.shutdown().await;
    }
}

/// Places a call with the SIP and media of somebody's phone, and follows it to its end. `on_step` hears of each step as
/// it happens.
pub async fn follow_call(
    sip: &Sip,
    engine: &Engine,
    plan: &CallPlan,
    on_step: impl FnMut(&Step),
) -> Result<Report, PhoneError> {
    let mut preferences = Preferences::default();
    let mut session = engine.open(&MediaParams::of_offer(&preferences)).await?;
    let version = SessionVersion::first(u64::from(session.local_addr().port()));
    let offer = sdp::offer(session.local_addr(), version, &preferences);
    let mut request = OutgoingRequest::new(plan.target.clone(), Some(offer.clone()));
    request.from.clone_from(&plan.from);
    request.headers.clone_from(&plan.headers);
    request.credentials.clone_from(&plan.credentials);
    request.route.clone_from(&plan.route);
    request.call_id.clone_from(&plan.call_id);
    let mut log = Log {
        started: Instant::now(),
        report: Report::default(),
        on_step,
    };
    let placed = sip.call(request).await?;
    log.note(Happened::Inviting);

    let Some((dialog, answer)) =
        until_answered(placed, plan.patience.unwrap_or(plan.longest), &mut log).await
    else {
        return Ok(log.report);
    };
    let params = match answer
        .as_deref()
        .map(|answer| sdp::read_answer(&offer, answer))
    {
        Some(Ok(params)) => params,
        unusable => {
            let why = match unusable {
                Some(Err(error)) => error.to_string(),
                _ => "the call was answered without a session description".to_owned(),
            };
            dialog.bye(None);
            log.note(Happened::Failed { why });
            return Ok(log.report);
        }
    };
    preferences.keep = Some(params.codec);
    session.update(&params);
    log.note(Happened::Answered {
        codec: params.codec.encoding_name(),
    });
    let heard = session.record(RecordLimits {
        max: plan.longest,
        silence: None,
        end_digit: None,
        preroll: Duration::ZERO,
        chunk: HEARD_EVERY,
    });
    let call = Talk {
        dialog,
        session,
        heard,
        version,
        preferences,
        cue: CueListener::default(),
    };
    call.follow(plan, &mut log).await;
    Ok(log.report)
}

/// Notes steps with their time.
struct Log<F> {
    started: Instant,
    report: Report,
    on_step: F,
}

impl<F: FnMut(&Step)> Log<F> {
    fn note(&mut self, happened: Happened) {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let step = Step { ms, happened };
        (self.on_step)(&step);
        self.report.steps.push(step);
    }
}

/// Follows a placed call until its answer; `None` when it was not answered.
async fn until_answered(
    mut placed: OutgoingCall,
    longest: Duration,
    log: &mut Log<impl FnMut(&Step)>,
) -> Option<(Dialog, Option<Bytes>)> {
    let mut give_up_at = Instant::now() + longest;
    let mut gave_up = false;
    loop {
        let event = tokio::select! {
            event = placed.next_event() => event,
            () = tokio::time::sleep_until(give_up_at), if !gave_up => {
                gave_up = true;
                give_up_at += CANCEL_PATIENCE;
                placed.cancel();
                continue;
            }
            // A CANCEL waits for a sign of life, which may never come.
            () = tokio::time::sleep_until(give_up_at) => OutgoingEvent::Ended(DialogEnd::Cancelled),
        };
        match event {
            OutgoingEvent::Trying => log.note(Happened::Trying),
            OutgoingEvent::Ringing { status, .. } => {
                log.note(Happened::Ringing {
                    status: status.code(),
                });
            }
            OutgoingEvent::Answered {
                dialog,
                description,
                ..
            } => {
                return Some((dialog, description));
            }
            OutgoingEvent::Rejected(response) => {
                let (status, reason) = (response.status.code(), response.reason.to_string());
                log.note(Happened::Refused { status, reason });
                return None;
            }
            OutgoingEvent::Ended(end) => {
                log.note(Happened::Failed { why: why(&end) });
                return None;
            }
        }
    }
}

/// Why a call ended that nobody hung up.
fn why(end: &DialogEnd) -> String {
    match end {
        DialogEnd::Cancelled => "nobody answered in time".into(),
        DialogEnd::Timeout => {
            "no response came; see that the address and the transport are right".into()
        }
        DialogEnd::TransportFailed => {
            "the other side cannot be reached; see that it listens there, and its certificate"
                .into()
        }
        DialogEnd::PeerGone => "the other side has lost the call".into(),
        DialogEnd::SessionExpired => "the session was not refreshed in time".into(),
        other => format!("the call broke off ({other:?})"),
    }
}

/// The address of ours from which `target` is reached.
async fn own_address_towards(target: &Uri) -> Result<IpAddr, PhoneError> {
    let port = target.port.unwrap_or(5060);
    let address = match &target.host {
        Host::Ip(ip) => SocketAddr::new(*ip, port),
        Host::Name(name) => {
            let no_address = || PhoneError::NoAddress {
                host: name.to_string(),
            };
            let mut found = lookup_host((&**name, port))
                .await
                .map_err(|_| no_address())?;
            found.next().ok_or_else(no_address)?
        }
    };
    route_to(address).map_err(|source| PhoneError::NoRoute { address, source })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_nobody_hears_is_given_up_in_time() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        let target = Uri::parse(&format!("sip:+4799990001@{address}")).unwrap();
        let config = PhoneConfig {
            transport: Transport::Udp,
            tls_ca: None,
            tls_insecure: false,
        };
        let phone = Phone::start(&config, &target, [7; 32]).await.unwrap();
        let plan = CallPlan {
            longest: Duration::from_secs(3),
            ..CallPlan::to(target)
        };
        let report = phone.call(&plan, |_| {}).await.unwrap();
        let failed = report.when(|step| matches!(step, Happened::Failed { .. }));
        let failed = failed.expect("the call fails");
        assert!(failed >= plan.longest, "{failed:?}");
        assert!(failed <= plan.longest + CANCEL_PATIENCE * 2, "{failed:?}");
        assert!(!report.is_completed());
        phone.stop().await;
    }
}
