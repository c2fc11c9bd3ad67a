//! The simulated phones: real user agents that register with the SIP core like any phone, do what their number's
//! behaviour says when they are called, and place calls for who has no phone at hand.

mod handset;
mod sayings;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::caller::{CallPlan, Happened, follow_call, offering};
use crate::domain::Msisdn;
use crate::media::audio::write_wav;
use crate::media::sdp::OfferKeying;
use crate::media::{self, Engine};
use crate::sandbox::StartError;
use crate::sandbox::config::{Behaviour, Config};
use crate::sandbox::phones::handset::Handset;
use crate::sandbox::phones::sayings::Sayings;
use crate::sandbox::sip_core::SipCore;
use crate::sandbox::world::lock;
use crate::sandbox::world::{Mode, World};
use crate::sip::Transport;
use crate::sip::message::{Host, Uri};

pub(crate) use crate::sandbox::phones::sayings::Say;

/// Calls that simulated callers have at the same time.
const CALLS: usize = 20;
/// Of so many calls it is kept what the caller heard; a minute is a megabyte.
const HEARD: usize = 20;
/// A simulated caller hangs up after this, however interesting it is.
const LONGEST: Duration = Duration::from_secs(60);
/// A simulated caller gives up so long after the core would have tried voicemail.
const PATIENCE: Duration = Duration::from_secs(5);
/// When a caller offers its media anew, where it is told to.
const REOFFER_AFTER: Duration = Duration::from_millis(1500);

/// The running phones; the pages place calls with them.
#[derive(Clone)]
pub(crate) struct Phones(Arc<Shared>);

struct Shared {
    world: Arc<World>,
    handsets: BTreeMap<Msisdn, Handset>,
    engine: Engine,
    core: CoreAddress,
    ring_timeout: Duration,
    media: OfferKeying,
    sayings: Sayings,
    /// What callers heard, as WAV, by call, oldest first.
    heard: Mutex<VecDeque<(u64, Bytes)>>,
    lines: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A call to place.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Whose phone calls.
    pub(crate) from: Msisdn,
    /// Whom, be there such a number or not.
    pub(crate) to: Msisdn,
    pub(crate) say: Say,
    /// What the caller offers; as it is usual where nothing is said.
    pub(crate) media: Option<OfferKeying>,
    /// On for the called number while the call lasts.
    pub(crate) modes: Vec<Mode>,
}

/// Why a call cannot be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlaceError {
    /// There is no phone with the caller's number.
    #[error("there is no number of the sandbox to call from by that name")]
    NoSuchCaller,
    /// There are enough calls.
    #[error("there are as many simulated calls as there may be; wait until one is over")]
    TooMany,
}

/// Where the phones find the core.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CoreAddress {
    transport: Transport,
    addr: SocketAddr,
}

impl CoreAddress {
    fn of(core: &SipCore) -> Option<Self> {
        let found = |transport| Some((transport, core.addr(transport)?));
        let (transport, mut addr) = found(Transport::Udp).or_else(|| found(Transport::Tcp))?;
        match addr.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        Some(Self { transport, addr })
    }

    /// The URI of a number at the core, or of the core itself.
    fn uri(self, number: Option<&Msisdn>) -> Uri {
        let host = Host::Ip(self.addr.ip());
        let user = number.map(Msisdn::e164);
        let mut uri = Uri::sip(user, host, Some(self.addr.port()));
        let transport = self.transport.uri_name();
        uri.params.set("transport", Some(transport));
        uri
    }

    /// Any free port at our end of the way there.
    fn own_end(self) -> SocketAddr {
        SocketAddr::new(self.addr.ip(), 0)
    }
}

/// Switches the phones on, until `stop`.
pub(crate) async fn start(
    config: &Config,
    world: &Arc<World>,
    core: &SipCore,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Phones, StartError> {
    let core = CoreAddress::of(core).ok_or_else(|| {
        let why = "sandbox.sip has neither udp:// nor tcp://";
        StartError::part("the simulated phones cannot register", why)
    })?;
    let failed = |error| StartError::part("the simulated phones have no media", error);
    let media = media::Config {
        listen: core.own_end(),
        workers: 1,
        // As telephones do; a caller waits for the silence that invites him to speak.
        continuous_silence: true,
        ..media::Config::default()
    };
    let engine = Engine::start(&media, world.chance.bytes()).map_err(failed)?;
    let sayings = Sayings::read();
    let mut handsets = BTreeMap::new();
    for number in world.numbers.all() {
        let parts = handset::Parts {
            core,
            engine: engine.clone(),
            world: world.clone(),
            saying: sayings.of_phone(),
            offer: config.media,
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let key = number.number.clone();
        let handset = Handset::switch_on(number, parts).await?;
        handsets.insert(key, handset);
    }
    Ok(Phones(Arc::new(Shared {
        world: world.clone(),
        handsets,
        engine,
        core,
        ring_timeout: Duration::from_millis(config.ring_timeout_ms),
        media: config.media,
        sayings,
        heard: Mutex::default(),
        lines: Arc::new(Semaphore::new(CALLS)),
        tasks: tasks.clone(),
        stop: stop.clone(),
    })))
}

impl Phones {
    /// Places a call. Its steps stand in the world's log under the id that this gives.
    pub(crate) fn place_call(&self, wanted: &Wanted) -> Result<u64, PlaceError> {
        let Wanted {
            from, to, modes, ..
        } = wanted;
        let shared = &self.0;
        let handset = shared
            .handsets
            .get(from)
            .ok_or(PlaceError::NoSuchCaller)?
            .clone();
        let line = shared.lines.clone().try_acquire_owned();
        let line = line.map_err(|_| PlaceError::TooMany)?;
        let world = &shared.world;
        let now = world.now();
        let is_on = |mode| {
            modes.contains(&mode)
                || world.modes.is_on(mode, Some(from), now)
                || world.modes.is_on(mode, Some(to), now)
        };
        let call_id = world.chance.secret("simulated-");
        let called = world.numbers.of(to).map(|number| number.behaviour);
        let media = wanted.media.unwrap_or(usual_media(shared.media, called));
        let plan = CallPlan {
            from: Some(shared.core.uri(Some(from))),
            credentials: Some(handset.credentials()),
            preferences: offering(media),
            say: shared.sayings.of_caller(wanted.say),
            longest: LONGEST,
            patience: Some(shared.ring_timeout + PATIENCE),
            reoffer_after: is_on(Mode::Reinvite).then_some(REOFFER_AFTER),
            call_id: Some(call_id.clone()),
            ..CallPlan::to(shared.core.uri(Some(to)))
        };
        let id = world.calls.place(&call_id, from, to, now);
        let modes = ModesOn::new(world, to, modes);
        let calling = self.clone().follow(id, handset, plan, (line, modes));
        let stop = shared.stop.clone();
        let calling = async move { stop.run_until_cancelled(calling).await };
        shared.tasks.spawn(calling);
        Ok(id)
    }

    /// What the caller of a call heard, as WAV, once it is over.
    pub(crate) fn heard(&self, call: u64) -> Option<Bytes> {
        let heard = lock(&self.0.heard);
        let found = heard.iter().find(|(id, _)| *id == call);
        found.map(|(_, wav)| wav.clone())
    }

    /// Follows a call to its end, and keeps what was heard.
    async fn follow(
        self,
        id: u64,
        handset: Handset,
        plan: CallPlan,
        _until_over: (OwnedSemaphorePermit, ModesOn),
    ) {
        let Shared { world, engine, .. } = &*self.0;
        let note = |what: &Happened| world.calls.note(id, world.now(), in_words(what));
        let called = follow_call(handset.sip(), engine, &plan, |step| note(&step.happened));
        match called.await {
            Ok(report) if report.heard.is_empty() => {}
            Ok(report) => self.keep(id, write_wav(&report.heard).into()),
            Err(error) => note(&Happened::Failed {
                why: error.to_string(),
            }),
        }
        world.calls.finish(id, world.now());
    }

    fn keep(&self, id: u64, wav: Bytes) {
        let mut heard = lock(&self.0.heard);
        if heard.len() == HEARD {
            heard.pop_front();
        }
        heard.push_back((id, wav));
    }
}

/// What is offered to a phone of this behaviour where `set` is offered to all others: a real phone may not know more
/// than plain RTP, and a mobile core would translate for it.
const fn usual_media(set: OfferKeying, called: Option<Behaviour>) -> OfferKeying {
    match called {
        Some(Behaviour::Phone) => OfferKeying::Plain,
        _ => set,
    }
}

/// Modes that are on for a number as long as this is kept; those that were on before stay on.
struct ModesOn {
    world: Arc<World>,
    number: Msisdn,
    modes: Vec<Mode>,
}

impl ModesOn {
    fn new(world: &Arc<World>, number: &Msisdn, modes: &[Mode]) -> Self {
        let before = world.modes.of(Some(number), world.now());
        let turned_on = modes.iter().filter(|mode| !before.contains(mode));
        let on = Self {
            world: world.clone(),
            number: number.clone(),
            modes: turned_on.copied().collect(),
        };
        for mode in &on.modes {
            let until = crate::domain::Timestamp::MAX;
            world.modes.set(Some(number), *mode, until);
        }
        on
    }
}

impl Drop for ModesOn {
    fn drop(&mut self) {
        for mode in &self.modes {
            self.world.modes.clear(Some(&self.number), *mode);
        }
    }
}

/// A step as the caller would tell it.
fn in_words(happened: &Happened) -> String {
    match happened {
        Happened::Inviting => "The caller dials".into(),
        Happened::Trying => "The caller waits: the core works on it".into(),
        Happened::Ringing { status: 180 } => "The caller hears it ring".into(),
        Happened::Ringing { status } => format!("The caller hears of progress ({status})"),
        Happened::Answered { codec, media, ice } => {
            let ice = ice.map_or("", |_| ", with ICE");
            format!("The caller is through ({codec}, {}{ice})", media.as_str())
        }
        Happened::Connected => "The caller's media have found a way (ICE)".into(),
        Happened::Secured => "The caller's media are secured (DTLS-SRTP)".into(),
        Happened::NoAudio => "The caller hears nothing any more".into(),
        Happened::FirstAudio => "The caller hears something".into(),
        Happened::Cue => "The caller notices that it is his turn".into(),
        Happened::Said => "The caller has said everything".into(),
        Happened::Pressed => "The caller has pressed his keys".into(),
        Happened::Reoffered { accepted: true } => {
            "The caller offered his media anew, and it was taken".into()
        }
        Happened::Reoffered { accepted: false } => {
            "The caller offered his media anew, and it was refused".into()
        }
        Happened::HungUp => "The caller hangs up".into(),
        Happened::PeerHungUp => "The other side hangs up".into(),
        Happened::MediaFailed { stage, why } => {
            format!("The caller's media fail ({}): {why}", stage.protocol())
        }
        Happened::Refused {
            status,
            reason,
            warning,
        } => {
            let said = Happened::refusal(*status, reason, warning.as_deref());
            format!("The caller is told: {said}")
        }
        Happened::Failed { why } => format!("The caller gives up: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_phone_is_offered_what_every_phone_takes() {
        let usual = |called| usual_media(OfferKeying::Dtls, called);
        assert_eq!(usual(Some(Behaviour::Phone)), OfferKeying::Plain);
        assert_eq!(usual(Some(Behaviour::Busy)), OfferKeying::Dtls);
        assert_eq!(usual(None), OfferKeying::Dtls);
    }
}
