//! One simulated phone: registered as long as its behaviour wants calls, and doing with them what it says.

use std::future::pending;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::caller::talk::{answer_offer, update};
use crate::media::audio::Prompt;
use crate::media::sdp::{Exchange, IceMode, OfferKeying, Opening, Preferences};
use crate::media::{self, Engine, MediaEvent, Session};
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
    /// What it offers where a caller leaves the offer to it.
    pub(crate) offer: OfferKeying,
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
        if let Some(talk) = Talk::begin(call, &self.parts).await
            && !hangs_up
        {
            talk.listen().await;
        }
    }
}

fn wants_calls(behaviour: Behaviour) -> bool {
    !matches!(behaviour, Behaviour::Off | Behaviour::Phone)
}

/// A phone takes whatever it is offered.
fn preferences(offer: OfferKeying) -> Preferences {
    Preferences {
        ice: IceMode::Full,
        sdes: true,
        offer,
        ..Preferences::default()
    }
}

/// An answered call. Dropping it hangs up.
struct Talk {
    dialog: Dialog,
    session: Session,
    exchange: Exchange,
    saying: Arc<Prompt>,
}

impl Talk {
    /// Answers; `None` where there is nothing to agree on, or the caller has gone.
    async fn begin(call: IncomingCall, parts: &Parts) -> Option<Self> {
        let Parts { engine, saying, .. } = parts;
        let (preferences, identity) = (preferences(parts.offer), engine.identity());
        let opening = match call.offer() {
            Some(offer) => match Opening::answering(offer, preferences, identity) {
                Ok(opening) => opening,
                Err(_) => {
                    call.reject(StatusCode::NOT_ACCEPTABLE_HERE, Vec::new());
                    return None;
                }
            },
            None => Opening::offering(preferences, identity),
        };
        let session = match engine.open(opening.media()).await {
            Ok(session) => session,
            Err(error) => {
                warn!(%error, "A simulated phone has no media");
                call.reject(StatusCode::SERVICE_UNAVAILABLE, Vec::new());
                return None;
            }
        };
        media::prepare(slice::from_ref(saying), opening.media().codec).await;
        let local = session.local_addr();
        let (exchange, description) = opening.at(local, u64::from(local.port()));
        let dialog = call.answer(description).await.ok()?;
        Some(Self {
            dialog,
            session,
            exchange,
            saying: saying.clone(),
        })
    }

    /// Speaks, and stays until the caller hangs up.
    async fn listen(mut self) {
        let hang_up_at = Instant::now() + LONGEST;
        self.session.play(self.saying.clone());
        loop {
            tokio::select! {
                event = self.dialog.next_event() => match event {
                    DialogEvent::Ended(_) => return,
                    DialogEvent::Offer { offer, reply } => {
                        let say = slice::from_ref(&self.saying);
                        answer_offer(&mut self.session, &mut self.exchange, say, offer, reply).await;
                    }
                    DialogEvent::Confirmed { answer } => self.agree(answer.as_deref()).await,
                    DialogEvent::Info { .. } => {}
                },
                // What it hears, and whether it hears anything, is of no interest to a simulated phone.
                event = self.session.next_event() => match event {
                    MediaEvent::Failed | MediaEvent::LinkFailed { .. } => return,
                    _ => {}
                },
                () = sleep_until(hang_up_at) => return,
            }
        }
    }

    /// The answer to our offer.
    async fn agree(&mut self, answer: Option<&[u8]>) {
        let agreed = answer.map(|answer| self.exchange.on_answer(answer));
        if let Some(Ok(Some(params))) = agreed {
            let say = slice::from_ref(&self.saying);
            update(&mut self.session, say, &params).await;
        }
    }
}
