//! One simulated phone: registered as long as its behaviour wants calls, and doing with them what it says.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::caller::talk::answer_offer;
use crate::media::audio::Prompt;
use crate::media::sdp::{self, MediaParams, Offer, Preferences, SessionVersion};
use crate::media::{Engine, MediaEvent, Session};
use crate::sandbox::StartError;
use crate::sandbox::config::Behaviour;
use crate::sandbox::phones::CoreAddress;
use crate::sandbox::world::{Number, World};
use crate::sip::digest::Credentials;
use crate::sip::message::StatusCode;
use crate::sip::registration::{Account, RegistrationState};
use crate::sip::{self, Dialog, DialogEvent, IncomingCall, ListenAddr, Sip};

/// How long a phone rings before its owner has it in his hand.
const PICKED_UP_AFTER: Duration = Duration::from_millis(700);
/// A simulated phone hangs up after this.
const LONGEST: Duration = Duration::from_secs(120);
/// The life that a phone asks for, in seconds.
const EXPIRES_SECS: u32 = 3600;
/// Calls of one phone at the same time; above it 503.
const CALLS: usize = 20;

/// What a phone works with.
pub(crate) struct Parts {
    pub(crate) core: CoreAddress,
    pub(crate) engine: Engine,
    pub(crate) world: Arc<World>,
    /// What it says when it answers.
    pub(crate) saying: Arc<Prompt>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// A phone that is switched on.
#[derive(Clone)]
pub(crate) struct Handset {
    number: Arc<Number>,
    sip: Sip,
    parts: Arc<Parts>,
}

impl Handset {
    /// Opens its socket and lets it live, until the stop.
    pub(crate) async fn switch_on(number: Number, parts: Parts) -> Result<Self, StartError> {
        let core = parts.core;
        let config = sip::Config {
            listen: vec![ListenAddr {
                transport: core.transport,
                addr: core.own_end(),
            }],
            uri: core.uri(Some(&number.number)).to_string(),
            trusted_peers: vec![IpNet::from(core.addr.ip())],
            max_calls: CALLS,
            ..sip::Config::default()
        };
        let seed = parts.world.chance.bytes();
        let (sip, calls) = Sip::start(&config, &parts.tasks, parts.stop.clone(), seed)
            .await
            .map_err(|error| StartError::part("a simulated phone has no SIP", error))?;
        let handset = Self {
            number: Arc::new(number),
            sip,
            parts: Arc::new(parts),
        };
        let living = handset.clone().live(calls);
        handset.parts.tasks.spawn(living);
        Ok(handset)
    }

    /// Its SIP, to place calls with.
    pub(crate) fn sip(&self) -> &Sip {
        &self.sip
    }

    /// With which it proves to be this number.
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials {
            username: self.number.number.e164().to_owned(),
            password: self.number.password.expose().to_owned(),
        }
    }

    async fn live(self, calls: mpsc::Receiver<IncomingCall>) {
        let stop = self.parts.stop.clone();
        let living = async { tokio::join!(self.register(), self.take_calls(calls)) };
        stop.run_until_cancelled(living).await;
    }

    /// Is registered whenever its behaviour wants calls.
    async fn register(&self) {
        let core = self.parts.core;
        let account = Account {
            registrar: core.uri(None),
            address: core.uri(Some(&self.number.number)),
            credentials: Some(self.credentials()),
            expires_secs: EXPIRES_SECS,
        };
        loop {
            self.until(wants_calls).await;
            let (state, mut states) = watch::channel(RegistrationState::Trying);
            let over = CancellationToken::new();
            let seed = self.parts.world.chance.bytes();
            let registered = self
                .sip
                .stay_registered(account.clone(), state, &over, seed);
            let until_unwanted = async {
                self.until(|behaviour| !wants_calls(behaviour)).await;
                over.cancel();
            };
            let watching = async {
                while states.changed().await.is_ok() {
                    if let RegistrationState::Refused { status } = *states.borrow_and_update() {
                        let number = &self.number.number;
                        warn!(%number, status = status.code(), "A simulated phone is not registered");
                    }
                }
            };
            tokio::join!(registered, until_unwanted, watching);
        }
    }

    /// Waits until its behaviour is one of these.
    async fn until(&self, wanted: impl Fn(Behaviour) -> bool) {
        let mut changes = self.parts.world.changes.subscribe();
        while !wanted(self.behaviour()) {
            // The world outlives its phones.
            if changes.changed().await.is_err() {
                return pending().await;
            }
        }
    }

    fn behaviour(&self) -> Behaviour {
        let now = self.parts.world.numbers.of(&self.number.number);
        now.map_or(Behaviour::Off, |number| number.behaviour)
    }

    async fn take_calls(&self, mut calls: mpsc::Receiver<IncomingCall>) {
        while let Some(call) = calls.recv().await {
            let (phone, behaviour) = (self.clone(), self.behaviour());
            let stop = self.parts.stop.clone();
            let taking = async move {
                stop.run_until_cancelled(phone.take(call, behaviour)).await;
            };
            self.parts.tasks.spawn(taking);
        }
    }

    /// Does with a call what the behaviour says.
    async fn take(self, mut call: IncomingCall, behaviour: Behaviour) {
        let rings_for = match behaviour {
            Behaviour::Busy => return call.reject(StatusCode::BUSY_HERE, Vec::new()),
            Behaviour::Off | Behaviour::Phone => {
                return call.reject(StatusCode::TEMPORARILY_UNAVAILABLE, Vec::new());
            }
            Behaviour::NoAnswer => None,
            Behaviour::AnswerLate { after_ms } => Some(Duration::from_millis(after_ms)),
            Behaviour::Answer | Behaviour::HangUpAtOnce | Behaviour::Decline => {
                Some(PICKED_UP_AFTER)
            }
        };
        call.ring().await;
        let picked_up = async {
            match rings_for {
                Some(time) => sleep(time).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = call.cancelled() => return,
            () = picked_up => {}
        }
        if behaviour == Behaviour::Decline {
            return call.reject(StatusCode::DECLINE, Vec::new());
        }
        let hangs_up = behaviour == Behaviour::HangUpAtOnce;
        if let Some(talk) = Talk::begin(call, &self.parts.engine).await
            && !hangs_up
        {
            talk.listen(self.parts.saying.clone()).await;
        }
    }
}

fn wants_calls(behaviour: Behaviour) -> bool {
    !matches!(behaviour, Behaviour::Off | Behaviour::Phone)
}

/// An answered call. Dropping it hangs up.
struct Talk {
    dialog: Dialog,
    session: Session,
    version: SessionVersion,
    preferences: Preferences,
    /// Our offer, where the caller wanted one.
    offered: Option<bytes::Bytes>,
}

impl Talk {
    /// Answers; `None` where there is nothing to agree on, or the caller has gone.
    async fn begin(call: IncomingCall, engine: &Engine) -> Option<Self> {
        let mut preferences = Preferences::default();
        let negotiated = match call.offer() {
            Some(offer) => match Offer::parse(offer).map(|it| it.negotiate(&preferences)) {
                Ok(Ok(negotiated)) => Some(negotiated),
                _ => {
                    call.reject(StatusCode::NOT_ACCEPTABLE_HERE, Vec::new());
                    return None;
                }
            },
            None => None,
        };
        let params = match &negotiated {
            Some(negotiated) => negotiated.media,
            None => MediaParams::of_offer(&preferences),
        };
        let session = match engine.open(&params).await {
            Ok(session) => session,
            Err(error) => {
                warn!(%error, "A simulated phone has no media");
                call.reject(StatusCode::SERVICE_UNAVAILABLE, Vec::new());
                return None;
            }
        };
        let local = session.local_addr();
        let version = SessionVersion::first(u64::from(local.port()));
        let (description, offered) = match &negotiated {
            Some(negotiated) => {
                preferences.keep = Some(params.codec);
                (negotiated.answer(local, version), None)
            }
            None => {
                let offer = sdp::offer(local, version, &preferences);
                (offer.clone(), Some(offer))
            }
        };
        let dialog = call.answer(description).await.ok()?;
        Some(Self {
            dialog,
            session,
            version,
            preferences,
            offered,
        })
    }

    /// Speaks, and stays until the caller hangs up.
    async fn listen(mut self, saying: Arc<Prompt>) {
        let hang_up_at = Instant::now() + LONGEST;
        self.session.play(saying);
        loop {
            tokio::select! {
                event = self.dialog.next_event() => match event {
                    DialogEvent::Ended(_) => return,
                    DialogEvent::Offer { offer, reply } => {
                        self.version.increment();
                        let Self { session, version, preferences, .. } = &mut self;
                        answer_offer(session, *version, preferences, offer, reply);
                    }
                    DialogEvent::Confirmed { answer } => self.agree(answer.as_deref()),
                    DialogEvent::Info { .. } => {}
                },
                // What it hears, and whether it hears anything, is of no interest to a simulated phone.
                event = self.session.next_event() => if event == MediaEvent::Failed {
                    return;
                },
                () = sleep_until(hang_up_at) => return,
            }
        }
    }

    /// The answer to our offer.
    fn agree(&mut self, answer: Option<&[u8]>) {
        let agreed = self
            .offered
            .take()
            .zip(answer)
            .and_then(|(offer, answer)| sdp::read_answer(&offer, answer).ok());
        if let Some(params) = agreed {
            self.session.update(&params);
        }
    }
}
