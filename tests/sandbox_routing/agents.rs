//! Phones and endpoints: user agents that do with a call what they were told to do.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use aftertone::sip::digest::Credentials;
use aftertone::sip::message::{HeaderName, Request, StatusCode, Uri};
use aftertone::sip::registration::{Account, RegistrationState};
use aftertone::sip::{
    Config, Dialog, DialogEvent, IncomingCall, OutgoingCall, OutgoingEvent, OutgoingRequest, Sip,
    Transport,
};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::support::SOON;
use crate::support::core::{Core, PASSWORD};

/// What an agent does with calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Answers.
    Answers,
    /// Refuses with this status.
    Refuses(u16),
    /// Rings and rings.
    Rings,
    /// Sends the call back to the core, and is with it whatever becomes of it there.
    SendsBack,
}

/// How a call came out for the caller.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Who answered.
    AnsweredBy(String),
    /// With which status it was refused.
    Refused(u16),
}

/// A user agent, and the INVITEs that it got.
pub struct Agent {
    pub sip: Sip,
    pub got: Arc<Mutex<Vec<Request>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop: DropGuard,
}

/// Each has chance of its own.
static AGENTS: AtomicU8 = AtomicU8::new(1);

fn seed() -> [u8; 32] {
    [AGENTS.fetch_add(1, Ordering::Relaxed); 32]
}

impl Agent {
    /// One that takes calls on this transport, and has a certificate `<name>.pem` of the folder when that is TLS.
    /// `core` is where it sends calls back to.
    pub async fn start(
        name: &'static str,
        manner: Manner,
        transport: Transport,
        dir: &Path,
        core: &Core,
    ) -> Self {
        let listen = format!("{}://127.0.0.1:0", transport.name());
        let is_tls = transport == Transport::Tls;
        let config = Config {
            listen: vec![listen.parse().unwrap()],
            uri: format!("sip:{name}@127.0.0.1"),
            tls_certificate: is_tls.then(|| dir.join(format!("{name}.pem"))),
            tls_private_key: is_tls.then(|| dir.join(format!("{name}.key"))),
            tls_insecure: true,
            ..Config::default()
        };
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let (sip, mut calls) = Sip::start(&config, &tasks, stop.clone(), seed())
            .await
            .unwrap();
        let got = Arc::new(Mutex::new(Vec::new()));
        let (log, back) = (got.clone(), Back::new(&sip, core, transport));
        let tracked = tasks.clone();
        tasks.spawn(async move {
            while let Some(call) = calls.recv().await {
                log.lock().unwrap().push(call.request().clone());
                tracked.spawn(take(name, manner, call, back.clone()));
            }
        });
        Self {
            sip,
            got,
            tasks,
            stop: stop.clone(),
            _stop: stop.drop_guard(),
        }
    }

    /// A phone that is registered as this number.
    pub async fn phone(core: &Core, number: &str, manner: Manner, transport: Transport) -> Self {
        let agent = Self::start("phone", manner, transport, core.dir.path(), core).await;
        let registrar: Uri = format!(
            "sip:{};transport={}",
            core.sip(transport),
            transport.uri_name()
        )
        .parse()
        .unwrap();
        let account = Account {
            registrar,
            address: format!("sip:{number}@127.0.0.1").parse().unwrap(),
            credentials: Some(credentials(number)),
            expires_secs: 600,
        };
        let (state, mut watched) = watch::channel(RegistrationState::Trying);
        let (sip, stop) = (agent.sip.clone(), agent.stop.clone());
        agent
            .tasks
            .spawn(async move { sip.stay_registered(account, state, &stop, seed()).await });
        let active = watched.wait_for(|state| matches!(state, RegistrationState::Active { .. }));
        drop(tokio::time::timeout(SOON, active).await.unwrap().unwrap());
        agent
    }

    pub fn port(&self) -> u16 {
        self.sip.local_addrs()[0].1.port()
    }

    /// The INVITEs that came so far.
    pub fn invites(&self) -> Vec<Request> {
        self.got.lock().unwrap().clone()
    }
}

pub fn credentials(number: &str) -> Credentials {
    Credentials {
        username: number.to_owned(),
        password: PASSWORD.to_owned(),
    }
}

/// Where calls are sent back to.
#[derive(Clone)]
struct Back {
    sip: Sip,
    host: String,
}

impl Back {
    fn new(sip: &Sip, core: &Core, transport: Transport) -> Self {
        let host = format!("{};transport={}", core.sip(transport), transport.uri_name());
        Self {
            sip: sip.clone(),
            host,
        }
    }

    /// Leg 3: to the same number, by the same caller.
    async fn send(&self, leg_2: &Request) -> OutgoingCall {
        let user = leg_2.uri.user.clone().unwrap();
        let target = format!("sip:{user}@{}", self.host).parse().unwrap();
        let mut request = OutgoingRequest::new(target, Some(leg_2.body.clone()));
        request.from = leg_2.headers.from().map(|from| from.uri);
        let identities = leg_2.headers.all(&HeaderName::PAssertedIdentity);
        request.headers = identities
            .map(|value| (HeaderName::PAssertedIdentity, value.clone()))
            .collect();
        self.sip.call(request).await.unwrap()
    }
}

async fn take(name: &'static str, manner: Manner, mut call: IncomingCall, back: Back) {
    match manner {
        Manner::Answers => {
            let answer = format!("v=0 {name}\r\n");
            // The caller may have given up meanwhile.
            if let Ok(dialog) = call.answer(answer.into()).await {
                until_end(dialog).await;
            }
        }
        Manner::Refuses(status) => call.reject(StatusCode::new(status).unwrap(), Vec::new()),
        Manner::Rings => call.cancelled().await,
        Manner::SendsBack => {
            let mut leg_3 = back.send(call.request()).await;
            match answered(&mut leg_3).await {
                Ok((leg_3, description)) => {
                    let Ok(leg_2) = call.answer(description).await else {
                        return;
                    };
                    until_end(leg_2).await;
                    leg_3.bye(None);
                }
                Err(status) => call.reject(StatusCode::new(status).unwrap(), Vec::new()),
            }
        }
    }
}

/// Waits until a call is over.
pub async fn until_end(mut dialog: Dialog) {
    while !matches!(dialog.next_event().await, DialogEvent::Ended(_)) {}
}

/// Waits for the answer to a call that was placed, or the status of its refusal.
async fn answered(call: &mut OutgoingCall) -> Result<(Dialog, bytes::Bytes), u16> {
    loop {
        match call.next_event().await {
            OutgoingEvent::Trying | OutgoingEvent::Ringing { .. } => {}
            OutgoingEvent::Answered {
                dialog,
                description,
                ..
            } => return Ok((dialog, description.unwrap_or_default())),
            OutgoingEvent::Rejected(response) => return Err(response.status.code()),
            OutgoingEvent::Ended(end) => panic!("the call ended without a final response: {end:?}"),
        }
    }
}

/// A phone of `from` calls `to`; gives the call.
pub async fn place(
    agent: &Agent,
    core: &Core,
    transport: Transport,
    from: &str,
    to: &str,
) -> OutgoingCall {
    let target = core.uri(to, transport).parse().unwrap();
    let mut request = OutgoingRequest::new(target, Some("v=0 offer\r\n".into()));
    request.from = Some(format!("sip:{from}@127.0.0.1").parse().unwrap());
    request.credentials = Some(credentials(from));
    agent.sip.call(request).await.unwrap()
}

/// A phone of `from` calls `to`, and hangs up when somebody has answered; gives who that was.
pub async fn call(
    agent: &Agent,
    core: &Core,
    transport: Transport,
    from: &str,
    to: &str,
) -> Outcome {
    let mut call = place(agent, core, transport, from, to).await;
    let answered = answered(&mut call);
    match tokio::time::timeout(SOON, answered).await.unwrap() {
        Ok((mut dialog, description)) => {
            dialog.send_bye(None);
            tokio::time::timeout(SOON, until_end(dialog)).await.unwrap();
            let description = String::from_utf8(description.to_vec()).unwrap();
            let name = description.trim().rsplit(' ').next().unwrap();
            Outcome::AnsweredBy(name.to_owned())
        }
        Err(status) => Outcome::Refused(status),
    }
}
