//! `aftertone call`: a caller on the same SIP and media cores as the service, and the phone of its
//! tests. It meets the service over sockets only.

mod cue;
mod report;
pub(crate) mod talk;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::lookup_host;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::caller::report::Log;
use crate::caller::talk::Talk;
use crate::media::audio::Prompt;
use crate::media::sdp::{IceMode, OfferKeying, Opening, Preferences};
use crate::media::{self, Engine};
use crate::sip::digest::Credentials;
use crate::sip::message::{HeaderName, HeaderValue, Host, Response, Scheme, Uri};
use crate::sip::transport::udp::route_to;
use crate::sip::{
    self, CallError, Dialog, DialogEnd, ListenAddr, OutgoingCall, OutgoingEvent, OutgoingRequest,
    Sip, Transport,
};

pub use crate::caller::report::{Happened, PeerIce, Report, Step};

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
    /// Which media are offered, and taken where the other side offers anew.
    pub preferences: Preferences,
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
            preferences: offering(OfferKeying::Plain),
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

/// What a caller wants who offers this kind of media, and takes no other.
pub fn offering(offer: OfferKeying) -> Preferences {
    Preferences {
        ice: IceMode::Full,
        sdes: offer == OfferKeying::Sdes,
        plain_rtp: offer == OfferKeying::Plain,
        offer,
        ..Preferences::default()
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
    if let (Some(say), Some(codec)) = (&plan.say, plan.preferences.codecs.first()) {
        // What is liked best is what is mostly agreed on, and then nobody waits for it.
        media::prepare(slice::from_ref(say), *codec).await;
    }
    let opening = Opening::offering(plan.preferences.clone(), engine.identity());
    let session = engine.open(opening.media()).await?;
    let local = session.local_addr();
    let (mut exchange, offer) = opening.at(local, u64::from(local.port()));
    let mut request = OutgoingRequest::new(plan.target.clone(), Some(offer));
    request.from.clone_from(&plan.from);
    request.headers.clone_from(&plan.headers);
    request.credentials.clone_from(&plan.credentials);
    request.route.clone_from(&plan.route);
    request.call_id.clone_from(&plan.call_id);
    let mut log = Log::begin(on_step);
    let placed = sip.call(request).await?;
    log.note(Happened::Inviting);

    let Some((dialog, answer)) =
        until_answered(placed, plan.patience.unwrap_or(plan.longest), &mut log).await
    else {
        return Ok(log.finish());
    };
    match answer.as_deref().map(|answer| exchange.on_answer(answer)) {
        Some(Ok(Some(params))) => {
            let talk = Talk::begin(dialog, session, exchange, &params, plan, &mut log);
            talk.await.follow().await;
        }
        unusable => {
            dialog.bye(None);
            log.note(Happened::Failed {
                why: match unusable {
                    Some(Err(error)) => format!("the answer cannot be taken: {error}"),
                    _ => "the call was answered without a session description".to_owned(),
                },
            });
        }
    }
    Ok(log.finish())
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
                log.note(Happened::Refused {
                    status: response.status.code(),
                    reason: response.reason.to_string(),
                    warning: warning_of(&response),
                });
                return None;
            }
            OutgoingEvent::Ended(end) => {
                log.note(Happened::Failed { why: why(&end) });
                return None;
            }
        }
    }
}

/// What the other side says beside a refusal: the text of `399 host "text"`.
fn warning_of(response: &Response) -> Option<String> {
    let warning = response.headers.get(&HeaderName::Warning)?.to_str_lossy();
    let (_, text) = warning.split_once('"')?;
    let (text, _) = text.rsplit_once('"')?;
    Some(text.to_owned())
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
